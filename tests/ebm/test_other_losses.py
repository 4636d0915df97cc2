"""SNL, STORM, eNCE far out, contrastive divergence, denoising score matching, and float32 at its limits."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlab.ebm import (
    BoxNoise,
    CDLoss,
    DSMLoss,
    ExpNCELoss,
    GaussianNoise,
    MECOLoss,
    NCELoss,
    PCDLoss,
    SNLLoss,
)
from flatlab.samplers import langevin, normal_like

DOUBLE = torch.float64


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(12, 2, generator=seeded(1), dtype=DOUBLE) + 0.5
Q = GaussianNoise.standard(2, 1.3).double()


class Parabola(nn.Module):
    """f(x) = theta . x - |x|^2 / 2 + constant."""

    def __init__(self, constant: float = 0.0) -> None:
        super().__init__()
        self.theta, self.constant = nn.Parameter(tensor([0.4, -0.2])), constant

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta - x.square().sum(1) / 2 + self.constant


class Tilt(nn.Module):
    """f(x) = theta x with x = 0, 1, 2 or 3, all of which `sample` returns: Z = sum exp(theta x)."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(tensor(theta))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x[:, 0]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.arange(4, dtype=DOUBLE)[:n, None]

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -math.log(4), dtype=x.dtype)


def slope(loss: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(-4, 4))
def test_snl_is_an_upper_bound_that_is_tight_at_log_z(logs: list[float], b: float) -> None:
    weights, data = tensor([logs]), tensor([[0.0, 0.3]])
    exact = float(weights.logsumexp(1)) - math.log(len(logs))
    loss = SNLLoss(Q)
    first, log_z = loss.from_ratios(data, weights)
    assert float(log_z.detach()) == pytest.approx(exact, abs=1e-5), "it starts at the first batch"
    assert float(first.detach()) == pytest.approx(exact - 0.15, abs=1e-10), "and there its value is the minimum over b"
    loss.b.data.fill_(b)
    bound = float(loss.from_ratios(data, weights)[0].detach())
    at = float(loss.b.detach())
    assert bound == pytest.approx(at + float((weights - at).exp().mean()) - 1 - 0.15, abs=1e-10)
    assert bound >= exact - 0.15 - 1e-10


def test_snl_has_the_gradient_of_meco_at_its_log_z() -> None:
    model = Parabola()
    found, known = (kind(model, X, seeded(2)) for kind in (SNLLoss(Q, n_noise=40), MECOLoss(Q, n_noise=40)))
    torch.testing.assert_close(slope(found.loss, model), slope(known.loss, model), rtol=1e-6, atol=1e-7)
    loss = SNLLoss(Q, n_noise=40)
    (by_b,) = torch.autograd.grad(loss(model, X, seeded(2)).loss, loss.b)
    assert float(by_b) == 0, "and not the rounding of it, of which Adam would make a whole step"
    loss.b.data += 1
    (by_b,) = torch.autograd.grad(loss(model, X, seeded(2)).loss, loss.b)
    assert float(by_b) == pytest.approx(1 - math.exp(-1), abs=1e-6), "b moves to log Z"


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_storm_with_the_same_parameters_is_the_plain_average(gamma: float) -> None:
    model, a, b = Parabola(), seeded(), seeded()
    plain, storm = MECOLoss(Q, gamma=gamma, n_noise=9), MECOLoss(Q, gamma=gamma, n_noise=9, storm=True)
    for _ in range(6):
        torch.testing.assert_close(storm(model, X, a).log_z, plain(model, X, b).log_z)


def test_storm_follows_a_model_that_drifts() -> None:
    """Every draw is here, so that nothing is random and the lag is all that there is."""
    model, x = Tilt(0.0), tensor([[1.0]])
    plain, storm = MECOLoss(model, gamma=0.1, n_noise=4), MECOLoss(model, gamma=0.1, n_noise=4, storm=True)
    for _ in range(10):
        exact = float((model.theta.detach() * torch.arange(4)).logsumexp(0))
        assert float(storm(model, x).log_z) == pytest.approx(exact, abs=1e-12)
        late = exact - float(plain(model, x).log_z)
        with torch.no_grad():
            model.theta += 0.2
    assert late > 1


def test_storm_is_floored_at_a_tenth_of_the_batch() -> None:
    model, x = Tilt(-5.0), tensor([[1.0]])
    loss = MECOLoss(model, gamma=0.1, n_noise=4, storm=True)
    loss(model, x)
    loss.log_u -= 9.0  # as an average of luckier draws would be
    with torch.no_grad():
        model.theta -= 1
    now = float((model.theta.detach() * torch.arange(4)).logsumexp(0))
    assert float(loss(model, x).log_z) == pytest.approx(now + math.log(0.1), abs=1e-12)


def test_storm_needs_parameters() -> None:
    model = Parabola()
    with pytest.raises(TypeError, match=r"f must be a torch module, got function"):
        MECOLoss(Q, storm=True)(lambda x: model(x), X)


@pytest.mark.parametrize(("g", "slope_there"), [(60.0, math.exp(10) / 4), (-60.0, -math.exp(10) / 4)])
def test_ence_goes_on_straight_beyond_its_limit(g: float, slope_there: float) -> None:
    level = tensor(g).requires_grad_()
    out = ExpNCELoss(Q, log_z=False, n_noise=8)(lambda x: Q.log_prob(x) + level, X)
    expected = (math.exp(-30) + math.exp(10) * (1 + 30 - 10)) / 2
    assert float(out.loss.detach()) == pytest.approx(expected)
    assert float(torch.autograd.grad(out.loss, level)[0]) == pytest.approx(slope_there)
    narrow, wide = (ExpNCELoss(Q, log_z=False, n_noise=8, limit=limit) for limit in (20.0, 40.0))
    for inside in (19.9, -19.9, 3.0):
        for loss in (narrow, wide):
            value = loss(lambda x, to=inside: Q.log_prob(x) + to, X, seeded()).loss
            assert float(value) == pytest.approx(math.cosh(inside / 2))


@pytest.mark.parametrize("kind", [MECOLoss, NCELoss, ExpNCELoss, SNLLoss], ids=lambda kind: kind.__name__)
def test_float32_carries_log_weights_of_650(kind) -> None:
    model, q = Parabola(650.0).float(), GaussianNoise.standard(2, 1.3)
    loss, g = kind(q, n_noise=16), seeded()
    for _ in range(3):
        out = loss(model, X.float(), g)
        assert torch.stack([out.loss, out.nll, out.log_z, out.ess, out.max_weight]).isfinite().all()
        slopes = slope(out.loss, model)
        assert slopes.isfinite().all()
        assert slopes.abs().sum() > 0
    if kind in (MECOLoss, SNLLoss):
        assert float(out.log_z) == pytest.approx(650 + math.log(math.tau), abs=2)


def test_contrast_is_that_of_data_and_chains_held_fixed() -> None:
    model = Parabola()
    y = langevin(model, X, 3, 0.4, generator=seeded(2))
    out = CDLoss(steps=3, eps=0.4, l2=0.2)(model, X, seeded(2))
    plain = model(y).mean() - model(X).mean() + 0.2 * (model(y).square().mean() + model(X).square().mean())
    torch.testing.assert_close(out.loss, plain)
    torch.testing.assert_close(slope(out.loss, model), slope(plain, model))
    assert float(CDLoss(steps=1, eps=1e-9)(model, X).loss.detach()) == pytest.approx(0, abs=1e-7), (
        "chains start at the data"
    )
    loss = PCDLoss(Q, steps=3, eps=0.4, buffer_size=12, reinit=0.0)
    out = loss(model, X, seeded(2))
    assert loss.buffer is not None
    plain = model(loss.buffer).mean() - model(X).mean()
    torch.testing.assert_close(out.loss, plain, msg="as many chains as data: the buffer is all of them")
    torch.testing.assert_close(slope(out.loss, model), slope(plain, model))


def test_chains_persist_and_some_start_anew() -> None:
    far, model = BoxNoise(100.0, 101.0, 2), Parabola()
    loss = PCDLoss(far, steps=1, eps=1e-6, buffer_size=30, reinit=0.0)
    loss(model, X, seeded())
    assert loss.buffer is not None
    assert (loss.buffer > 99).all(), "they start in the noise"
    before = loss.buffer.clone().zero_()
    loss.buffer = before.clone()
    for calls in (1, 2):
        loss(model, X, seeded(calls))
        moved = (loss.buffer != 0).any(1)
        assert (int(moved.sum()) == 12) if calls == 1 else (12 < int(moved.sum()) <= 24)
        assert (loss.buffer.abs() < 1e-3).all()
    loss = PCDLoss(far, steps=1, eps=1e-6, buffer_size=3000, reinit=0.25)
    loss.buffer = torch.zeros(3000, 2, dtype=DOUBLE)
    loss(model, X.repeat(250, 1), seeded())
    fresh = float((loss.buffer > 99).all(1).double().mean())
    assert fresh == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 3000))
    assert not loss.buffer.requires_grad


@pytest.mark.parametrize("make", [CDLoss, lambda **o: PCDLoss(Q, buffer_size=20, **o)], ids=["cd", "pcd"])
def test_memory_does_not_grow_with_the_steps_of_the_chains(make) -> None:
    def held(steps: int) -> tuple[int, int]:
        """Most values of f that were alive at one time, and functions in the graph of the loss."""
        model, values, most = Parabola(), [], 0

        def f(x: Tensor) -> Tensor:
            nonlocal most
            most = max(most, sum(value() is not None for value in values))
            found = model(x)
            values.append(weakref.ref(found))
            return found

        todo, seen = [make(steps=steps, eps=0.1)(f, X).loss.grad_fn], set()
        while todo:
            if (node := todo.pop()) is not None and node not in seen:
                seen.add(node)
                todo += [parent for parent, _ in node.next_functions]
        assert len(values) == steps + 1
        return most, len(seen)

    assert held(40) == held(3)


def test_dsm_sums_over_coordinates() -> None:
    xi = normal_like(X, seeded())
    flat = DSMLoss(sigma=0.3)(lambda x: 0 * x.square().sum(1), X, seeded())
    torch.testing.assert_close(flat.loss, xi.square().sum(1).mean())
    score = -(X + 0.3 * xi)
    steep = DSMLoss(sigma=0.3)(lambda x: -x.square().sum(1) / 2, X, seeded())
    torch.testing.assert_close(steep.loss, (0.3 * score + xi).square().sum(1).mean())


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_dsm_finds_the_width_of_the_blurred_data(sigma: float) -> None:
    """N(0, 1) blurred is N(0, 1 + sigma^2)."""
    a, g = tensor(1 / (1 + sigma**2)).requires_grad_(), seeded()
    slopes = []
    for _ in range(40):
        x = torch.randn(5000, 1, generator=g, dtype=DOUBLE)
        loss = DSMLoss(sigma=sigma)(lambda x: -a * x.square().sum(1) / 2, x, g).loss
        first = torch.autograd.grad(loss, a, create_graph=True)[0]
        slopes.append(torch.stack([first, torch.autograd.grad(first, a)[0]]).detach())
    first, second = torch.stack(slopes).unbind(1)
    assert abs(float(first.mean())) < 4 * float(first.std()) / math.sqrt(40)
    expected = 2 * sigma**2 * (1 + sigma**2)
    assert float(second.mean()) == pytest.approx(expected, abs=4 * float(second.std()) / math.sqrt(40))
