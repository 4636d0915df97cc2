"""Inconsistency between domains, sharpness and accuracy of each, and the head's variance against its Hessian."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import dg
from flatlab.models import FeatureNet


class Net(nn.Module):
    def __init__(self, seed: int = 0, *, inputs: int = 4, hidden: int = 5, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.featurizer = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.Tanh())
        self.classifier = nn.Linear(hidden, classes)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def domain(seed: int, n: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g, dtype=torch.float64) * (1 + seed), torch.randint(3, (n,), generator=g)


def loss(model: Net, data: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
    return F.cross_entropy(model(data[0]) / temperature, data[1])


def moved(model: Net, way: list[Tensor], rho: float) -> Net:
    length = torch.cat([t.flatten() for t in way]).norm()
    with torch.no_grad():
        for p, t in zip(model.parameters(), way, strict=True):
            p.add_(t, alpha=float(rho / length))
    return model.eval()


def test_inconsistency_without_a_ball_is_the_gap_of_the_losses() -> None:
    model = Net().eval()
    gap = (loss(model, domain(1), 2.0) - loss(model, domain(0), 2.0)).abs().item()
    found = dg.domain_inconsistency(model, domain(0), domain(1), rho=0.0, temperature=2.0)
    assert found == pytest.approx(gap, abs=1e-14)
    assert dg.domain_inconsistency(model, domain(0), domain(0), rho=0.5) == 0


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_inconsistency_is_the_largest_gap_along_its_directions(rho: float) -> None:
    source, target, worst = domain(0), domain(1), set()
    for seed in range(8):
        home = Net(seed).eval()
        ways = [list(torch.autograd.grad(loss(home, data), list(home.parameters()))) for data in (source, target)]
        points = [moved(Net(seed), [sign * t for t in way], rho) for sign in (1, -1) for way in ways]
        gaps = [(loss(at, target) - loss(at, source)).abs().item() for at in [*points, home]]
        found = dg.domain_inconsistency(Net(seed), source, target, rho=rho, directions=0)
        assert found == pytest.approx(max(gaps), abs=1e-12)
        worst.add(gaps.index(max(gaps)))
        few, many = (dg.domain_inconsistency(Net(seed), source, target, rho=rho, directions=n) for n in (2, 40))
        assert found - 1e-12 <= few <= many
    assert worst & {0, 1}, "some are worst uphill"
    assert worst & {2, 3}, "some are worst downhill"


def test_measures_are_seeded_and_leave_the_model_as_it_was() -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    # along gradients alone the gap of a flat model is small: many random directions, so that the seed shows
    found = [dg.domain_inconsistency(model, domain(0), domain(1), rho=2.0, directions=30, seed=s) for s in (0, 0, 1)]
    assert found[0] == found[1]
    dg.domain_sharpness(model, {"a": domain(0)})
    dg.head_curvature(model, *domain(0))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_random_directions_can_be_the_worst_and_follow_the_seed() -> None:
    torch.manual_seed(0)
    flat = Net()
    with torch.no_grad():
        for p in flat.parameters():
            p.zero_()  # no gradient but that of the bias, no gap at home
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    source, target = (torch.randn(6, 4, dtype=torch.float64), y), (torch.randn(6, 4, dtype=torch.float64), y)
    args = (flat, source, target)
    assert dg.domain_inconsistency(*args, rho=3.0, directions=0) == pytest.approx(0, abs=1e-12)
    found = [dg.domain_inconsistency(*args, rho=3.0, directions=4, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert min(found) > 1e-6


def test_sharpness_of_each_domain() -> None:
    domains = {"near": domain(0), "far": domain(1)}
    found = dg.domain_sharpness(Net(), domains, rho=0.1)
    assert list(found) == ["near", "far"]
    for name, data in domains.items():
        home = Net().eval()
        way = list(torch.autograd.grad(loss(home, data), list(home.parameters())))
        rise = loss(moved(Net(), way, 0.1), data) - loss(home, data)
        assert found[name] == pytest.approx(rise.item(), abs=1e-12)


def test_the_diagonal_of_the_heads_hessian_is_exact() -> None:
    model, (x, y) = Net().eval(), domain(0)
    variance, diagonal = dg.head_curvature(model, x, y)
    features = model.featurizer(x).detach()
    weight, bias = model.classifier.weight.detach(), model.classifier.bias.detach()
    flat = torch.cat([weight.flatten(), bias])

    def risk(w: Tensor) -> Tensor:
        return F.cross_entropy(features @ w[:15].view(3, 5).T + w[15:], y)

    hessian = torch.autograd.functional.hessian(risk, flat)
    torch.testing.assert_close(diagonal, hessian.diag(), atol=1e-13, rtol=0)
    gradients = torch.cat(dg.head_gradients(features, model.classifier(features).detach(), y), dim=1)
    torch.testing.assert_close(variance, gradients.var(0, correction=0), atol=1e-13, rtol=0)


def test_gradient_variance_goes_with_curvature_on_digits(digits) -> None:
    x, y = digits.x[:600].double(), digits.y[:600]
    model = Net(inputs=64, hidden=32, classes=10)
    erm = dg.get_algorithm("ERM")(model, functools.partial(torch.optim.Adam, lr=1e-3))
    for step in range(150):
        rows = slice(32 * (step % 18), 32 * (step % 18) + 32)
        erm.update([(x[rows], y[rows])])
    correlation = torch.corrcoef(torch.stack(dg.head_curvature(model, x, y)))[0, 1]
    assert correlation > 0.7


def test_the_mean_over_domains_is_bounded_by_the_inconsistency_everywhere() -> None:
    """mean_e L_e - L_s <= (1 - 1/n) max_e |L_e - L_s| at every point, the term of s itself being zero."""
    domains = [domain(k) for k in range(4)]
    for seed in range(20):
        model = moved(Net(seed), [torch.randn_like(p) for p in Net(seed).parameters()], 0.3)
        losses = torch.stack([loss(model, data) for data in domains]).detach()
        gaps = [dg.domain_inconsistency(model, domains[0], data, rho=0.0) for data in domains]
        assert float(losses.mean() - losses[0]) <= 0.75 * max(gaps) + 1e-12
    same = domains[1:2] * 3  # equality, where all other domains have one larger loss
    losses = torch.stack([loss(model, data) for data in [domains[0], *same]]).detach()
    first, last = (0, 1) if losses[1] > losses[0] else (1, 0)
    spread = float((losses[first] + 3 * losses[last]) / 4 - losses[first])
    assert spread == pytest.approx(0.75 * dg.domain_inconsistency(model, domains[0], domains[1], rho=0.0), abs=1e-12)


def test_worst_losses_of_two_domains_differ_by_no_more_than_the_inconsistency() -> None:
    """max L_e <= max L_s + max |L_e - L_s| over any set of points, here those of SAM's steps."""
    source, target = domain(0), domain(1)
    home = Net().eval()
    ways = [list(torch.autograd.grad(loss(home, data), list(home.parameters()))) for data in (source, target)]
    points = [home] + [moved(Net(), [s * t for t in way], 0.2) for way in ways for s in (1, -1)]
    worst = [max(loss(model, data).item() for model in points) for data in (source, target)]
    bound = dg.domain_inconsistency(home, source, target, rho=0.2, directions=0)
    assert worst[1] <= worst[0] + bound + 1e-12
    assert worst[0] <= worst[1] + bound + 1e-12


def pictures(n: int, seed: int = 0) -> dg.Domain:
    g = torch.Generator().manual_seed(seed)
    return dg.Domain(torch.rand(n, 1, 2, 2, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g))


def settled(seed: int = 0) -> Net:
    """A network whose running statistics are far from those of `pictures`, and decide."""
    model = Net(seed)
    for _ in range(30):
        model(3 * torch.rand(50, 1, 2, 2, dtype=torch.float64) - 2)
    return model


def test_accuracy_is_the_share_of_hits_and_what_is_not_finite_is_no_hit() -> None:
    domain = dg.Domain(torch.tensor([0, 51, 102, 255]).byte().view(4, 1, 1, 1), torch.tensor([0, 0, 0, 1]))

    class Threshold(nn.Module):
        def __init__(self, bad: float = 0.0) -> None:
            super().__init__()
            self.at, self.bad = nn.Parameter(torch.tensor(0.3)), bad

        def forward(self, x: Tensor) -> Tensor:
            gap = x.flatten(1) - self.at  # of 0, .2, .4, 1
            return torch.cat([-gap, gap, torch.full_like(gap, self.bad - 9)], 1)

    assert dg.domain_accuracy(Threshold(), domain) == 0.75
    assert dg.domain_accuracy(Threshold(), domain, batch_size=3) == 0.75
    for bad in (math.nan, math.inf, -math.inf):
        assert dg.domain_accuracy(Threshold(bad), domain) == 0


def test_with_running_statistics_a_prediction_does_not_depend_on_its_batch() -> None:
    model, domain = settled(), pictures(60)
    alone = [dg.domain_accuracy(model, domain.subset(torch.tensor([k]))) for k in range(60)]
    for size in (None, 1, 7, 59):
        assert dg.domain_accuracy(model, domain, batch_size=size) == sum(alone) / 60
    predicted = model.eval()(domain.x).argmax(1)
    assert alone == (predicted == domain.y).double().tolist()


def test_with_statistics_of_the_batch_it_does_and_nothing_else_changes() -> None:
    model, x = settled(), pictures(200).x
    domain = dg.Domain(x, model.eval()(x).argmax(1))
    frozen = model.train().featurizer[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = {size: dg.domain_accuracy(model, domain, statistics="batch", batch_size=size) for size in (200, 5)}
    assert found[200] != found[5]
    assert max(found.values()) < 0.9 < dg.domain_accuracy(model, domain) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not frozen.training
    assert frozen.track_running_stats
    hits = model.train()(domain.x).argmax(1) == domain.y
    assert found[200] == hits.double().mean()


def test_batches_are_nearly_equal_so_that_no_image_is_left_alone() -> None:
    model, sizes = Net(), []
    model.featurizer.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    for size, statistics, expected in (
        (None, "batch", [51, 50]),
        (None, "running", [101]),
        (20, "batch", [17, 17, 17, 17, 17, 16]),
        (101, "batch", [101]),
    ):
        sizes.clear()
        dg.domain_accuracy(model, pictures(101), statistics=statistics, batch_size=size)
        assert sizes == expected
    sizes.clear()
    dg.domain_accuracy(model, pictures(1025))
    assert sizes == [513, 512]


def test_statistics_of_test_batches_alone_explain_a_gain_under_corruption() -> None:
    """The control: a network that was trained on clean digits gains without any method."""

    def network(seed: int) -> nn.Module:
        convolutions = [
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        ]
        return FeatureNet(nn.Sequential(*convolutions, nn.Linear(256, 10)))

    domains = dg.corrupted_digits(severity=5, disjoint=False)
    kinds = [name for name in domains if name != "clean"]
    settings = {"make_model": network, "steps": 60, "batch_size": 32, "eval_every": 60, "lr": 3e-3}
    model = dg.train_domains("ERM", domains, ["clean"], kinds, **settings).selected["last"].model
    running, batch = (
        [dg.domain_accuracy(model, domains[kind], statistics=statistics) for kind in kinds]
        for statistics in ("running", "batch")
    )
    assert dg.domain_accuracy(model, domains["clean"]) > 0.9
    assert sum(batch) / len(kinds) - sum(running) / len(kinds) > 0.15


def test_bad_input() -> None:
    data = domain(0)
    for bad in ({"rho": -1.0}, {"directions": -1}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            dg.domain_inconsistency(Net(), data, data, **bad)
    with pytest.raises(ValueError, match="rho"):
        dg.domain_sharpness(Net(), {"a": data}, rho=-1.0)
    with pytest.raises(ValueError, match="labels must have shape"):
        dg.domain_sharpness(Net(), {"a": (data[0], data[1][:3])})
    with pytest.raises(TypeError, match=r"^model must have a \.featurizer"):
        dg.head_curvature(nn.Linear(4, 3), *data)
    with pytest.raises(ValueError, match="unknown statistics 'bach': choose one of running, batch; .* 'batch'"):
        dg.domain_accuracy(Net(), pictures(5), statistics="bach")
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
        dg.domain_accuracy(Net(), pictures(5), batch_size=0)
