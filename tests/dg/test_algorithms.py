"""The baselines: each step against its formula, written another way."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import dg
from flatlab.dg.head import head_gradients

SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.featurizer, self.classifier = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 4, generator=g, dtype=torch.float64) + k, torch.randint(3, (n,), generator=g))
        for k, n in enumerate(sizes)
    ]


def risks(model: Net, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([F.cross_entropy(model(x), y) for x, y in data])


def stepped(objective: Tensor, model: Net) -> list[Tensor]:
    slopes = torch.autograd.grad(objective, list(model.parameters()))
    return [p.detach() - 0.1 * g for p, g in zip(model.parameters(), slopes, strict=True)]


def update(name: str, data: list[tuple[Tensor, Tensor]], **options: object) -> tuple[dg.Algorithm, dict[str, float]]:
    algorithm = dg.get_algorithm(name)(Net(), SGD, **options)
    return algorithm, algorithm.update(data)


def irm(model: Net, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    products = []
    for x, y in data:
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        halves = [F.cross_entropy(model(x[k::2]) * scale, y[k::2]) for k in (0, 1)]
        first, second = (torch.autograd.grad(h, scale, create_graph=True)[0] for h in halves)
        products.append(first * second)
    return sum(products) / len(products)


def vrex(model: Net, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    found = risks(model, data)
    return ((found - found.mean()) ** 2).mean()


def coral(model: Net, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    features = [model.featurizer(x) for x, _ in data]
    gaps = [
        ((a.mean(0) - b.mean(0)) ** 2).mean() + ((torch.cov(a.T) - torch.cov(b.T)) ** 2).mean()
        for a, b in itertools.combinations(features, 2)
    ]
    return sum(gaps) / len(gaps)


def mmd(model: Net, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = ((a[:, None] - b[None]) ** 2).sum(2)
        return sum(torch.exp(-g * squares).mean() for g in (1e-3, 1e-2, 1e-1, 1, 10, 100, 1000))

    features = [model.featurizer(x) for x, _ in data]
    gaps = [kernel(a, a) + kernel(b, b) - 2 * kernel(a, b) for a, b in itertools.combinations(features, 2)]
    return sum(gaps) / len(gaps)


def fishr(model: Net, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    v = []
    for x, y in data:
        h = model.featurizer(x)
        v.append(torch.cat(head_gradients(h, model.classifier(h), y), dim=1).var(0, correction=0))
    mean = sum(v) / len(v)
    return sum(((one - mean) ** 2).mean() for one in v) / len(v)


@pytest.mark.parametrize(
    ("name", "penalty"), [("IRM", irm), ("VREx", vrex), ("CORAL", coral), ("MMD", mmd), ("Fishr", fishr)]
)
@pytest.mark.parametrize("sizes", [(6, 6, 6), (4, 7)])
def test_a_step_of_a_penalty_is_that_of_its_formula(name: str, penalty, sizes: tuple[int, ...]) -> None:
    data = batches(*sizes)
    algorithm, found = update(name, data, lam=3.0, anneal=0)
    reference = Net()
    wanted = penalty(reference, data)
    assert found["penalty"] == pytest.approx(wanted.item(), abs=1e-12)
    after = stepped(risks(reference, data).mean() + 3.0 * wanted, reference)
    for p, q in zip(algorithm.model.parameters(), after, strict=True):
        torch.testing.assert_close(p.detach(), q, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["IRM", "VREx", "Fishr"])
def test_before_the_end_of_annealing_the_weight_is_at_most_one(name: str) -> None:
    data = batches(6, 6)
    one, _ = update(name, data, lam=1.0, anneal=0)
    for lam, same in ((50.0, True), (1.0, True), (0.5, False)):
        annealed, _ = update(name, data, lam=lam, anneal=5)
        assert torch.equal(annealed.model.classifier.weight, one.model.classifier.weight) == same


def test_the_optimizer_forgets_when_the_weight_jumps() -> None:
    data = batches(6, 6)

    def moments(lam: float) -> int:
        algorithm = dg.get_algorithm("VREx")(Net(), torch.optim.Adam, lam=lam, anneal=2)
        for _ in range(4):
            algorithm.update(data)
        return int(next(iter(algorithm.optimizer.state.values()))["step"])

    assert moments(10.0) == 2
    assert moments(0.5) == 4


def test_fishr_smooths_variances_over_steps() -> None:
    data, still = batches(6, 6), functools.partial(torch.optim.SGD, lr=0.0)
    algorithm = dg.get_algorithm("Fishr")(Net(), still, ema=0.5)
    first, second = (algorithm.update(data)["penalty"] for _ in range(2))
    # the weights stand still, so v goes from V to 1.5 V
    assert second == pytest.approx(2.25 * first, rel=1e-12)


def test_groupdro_weighs_the_harder_domain_more() -> None:
    data = batches(6, 6, 6)
    algorithm, found = update("GroupDRO", data, eta=0.7)
    reference = Net()
    losses = risks(reference, data)
    q = torch.exp(0.7 * losses.detach())
    q = q / q.sum()
    assert found["largest"] == pytest.approx(losses.max().item())
    assert found["loss"] == pytest.approx((q * losses).sum().item(), abs=1e-12)
    for p, wanted in zip(algorithm.model.parameters(), stepped((q * losses).sum(), reference), strict=True):
        torch.testing.assert_close(p.detach(), wanted, atol=1e-12, rtol=0)
    now = risks(algorithm.model, data).detach()
    algorithm.update(data)
    q = q * torch.exp(0.7 * now)
    torch.testing.assert_close(algorithm.weights, q / q.sum())
    with pytest.raises(ValueError, match="there were 3 minibatches in earlier steps, now 2"):
        algorithm.update(data[:2])


def test_mixup_is_the_risk_of_mixed_domains() -> None:
    data = batches(5, 7)
    algorithm, found = update("Mixup", data, alpha=0.4, seed=3)
    draws, reference, losses = np.random.default_rng([3, 0]), Net(), []
    order = draws.permutation(2).tolist()
    for e, f in ((order[0], order[1]), (order[1], order[0])):
        share = draws.beta(0.4, 0.4)
        rows = torch.from_numpy(draws.permutation(5))
        (x, y), (x2, y2) = data[e], data[f]
        logits = reference(share * x[:5] + (1 - share) * x2[rows])
        target = share * F.one_hot(y[:5], 3).double() + (1 - share) * F.one_hot(y2[rows], 3).double()
        losses.append(-(target * logits.log_softmax(1)).sum(1).mean())
    assert found["loss"] == pytest.approx(sum(losses).item() / 2, abs=1e-12)
    for p, wanted in zip(algorithm.model.parameters(), stepped(sum(losses) / 2, reference), strict=True):
        torch.testing.assert_close(p.detach(), wanted, atol=1e-12, rtol=0)


def test_swad_predicts_with_the_mean_of_the_weights_of_its_window() -> None:
    data = batches(6, 6)
    algorithm = dg.get_algorithm("SWAD")(Net(), SGD, start=0.5, total_steps=4)
    seen = []
    for step in range(4):
        algorithm.update(data)
        seen.append(algorithm.trained.classifier.weight.detach().clone())
        if step < 2:
            assert torch.equal(algorithm.model.classifier.weight, seen[-1])
    torch.testing.assert_close(algorithm.model.classifier.weight.detach(), (seen[2] + seen[3]) / 2)
    assert not torch.equal(algorithm.predict(data[0][0]), algorithm.trained(data[0][0]))


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("GroupDRO", {"eta": value}) for value in (-1.0, math.nan)),
        *(("Mixup", {"alpha": value}) for value in (-1.0, math.inf)),
        *(("Fishr", {"ema": value}) for value in (-0.1, 1.0, math.nan)),
        *(("SWAD", {"start": value}) for value in (-0.1, 1.5)),
        ("SWAD", {"total_steps": -1}),
        *((name, {"lam": -1.0}) for name in ("IRM", "VREx", "CORAL", "MMD", "Fishr")),
        ("IRM", {"anneal": -1}),
        *((name, {"rho": math.nan}) for name in ("SAM", "ASAM", "GSAM", "SAGM")),
        ("ASAM", {"eta": -1.0}),
        ("GSAM", {"alpha": -1.0}),
    ],
    ids=str,
)
def test_options_out_of_range_are_named(name: str, bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        dg.get_algorithm(name)(Net(), SGD, **bad)
