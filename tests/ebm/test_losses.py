"""The losses one by one: known values, identities, extremes. Laws over all of them are in tests/laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlab import ebm
from flatlab.ebm import CachedNoise, Decay, ExpNCELoss, GaussianNoise, MECOLoss, NCELoss, SNLLoss, TiltedModel

DOUBLE = torch.float64


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Given:
    """Noise from elsewhere, N(0, I) by its density, that returns the sets of points it was given, one a call."""

    def __init__(self, *sets: object) -> None:
        self.sets, self.calls = [tensor(points).reshape(len(points), -1) for points in sets], 0

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        self.calls += 1
        return self.sets[(self.calls - 1) % len(self.sets)]

    def log_prob(self, x: Tensor) -> Tensor:
        return (-x.square() / 2 - math.log(2 * math.pi) / 2).sum(1)


class Atoms:
    """All K points 0..K-1 with probability 1/K each: expectations under it are sums."""

    def __init__(self, k: int) -> None:
        self.k = k

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.arange(self.k, dtype=DOUBLE)[:, None]

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -math.log(self.k), dtype=x.dtype)


class Lookup(nn.Module):
    """f(x) = theta[x]."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.theta[x[:, 0].long()]


X = torch.randn(40, 2, generator=seeded(1), dtype=DOUBLE) + 0.5
Q = GaussianNoise.standard(2, 1.3).double()


class Parabola(nn.Module):
    """f(x) = theta . x - |x|^2 / 2 + constant."""

    def __init__(self, constant: float = 0.0) -> None:
        super().__init__()
        self.theta, self.constant = nn.Parameter(tensor([0.4, -0.2])), constant

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta - x.square().sum(1) / 2 + self.constant


def slope(loss: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def test_two_steps_of_meco_by_hand() -> None:
    """The paper's average of gradients is the momentum of the optimizer."""
    theta = tensor(0.5).requires_grad_()
    loss = MECOLoss(Given([-1, 0, 2], [1, -2, 0.5]), gamma=0.25, n_noise=3)
    optimizer = torch.optim.SGD([theta], lr=0.1, momentum=0.5, dampening=0.5)
    known = [
        ([[1.0], [2.0]], 1.284695028645, -0.383180944743, -0.383180944743, 0.538318094474),
        ([[0.0], [1.0]], 1.227474375830, -0.087180433589, -0.235180689166, 0.561836163391),
    ]
    for data, log_z, gradient, momentum, after in known:
        out = loss(lambda x: theta * x[:, 0] - x[:, 0].square() / 2, tensor(data))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        assert theta.grad is not None
        found = [out.log_z, theta.grad, optimizer.state[theta]["momentum_buffer"], theta.detach()]
        torch.testing.assert_close(torch.stack(found), tensor([log_z, gradient, momentum, after]), rtol=0, atol=1e-11)
        torch.testing.assert_close(loss.log_u, out.log_z[None])


def test_one_batch_by_hand() -> None:
    def f(x: Tensor) -> Tensor:
        return -(x - 1).square().sum(1) / 2 - math.log(2 * math.pi)

    x, noise = tensor([[0.5, -1], [1, 2], [0, 0]]), Given([[0.2, 0.1], [-0.3, 0.4], [1.5, -0.5]])
    nce = NCELoss(noise, nu=1, log_z=False, n_noise=3)(f, x)
    assert float(nce.loss) == pytest.approx(1.5263633602404796, abs=1e-14)
    assert float(NCELoss(noise, log_z=False, n_noise=3)(f, x).loss) == float(nce.loss), "nu of three draws for three"
    assert float(ExpNCELoss(noise, log_z=False, n_noise=3)(f, x).loss) == pytest.approx(1.0793194949707885, abs=1e-14)
    meco = MECOLoss(noise, gamma=1, n_noise=3)(f, x)
    assert float(meco.nll) == pytest.approx(2.591111127251387, abs=1e-14)
    assert float(meco.loss) == pytest.approx(2.591111127251387, abs=1e-14)
    weights = (f(noise.sets[0]) - noise.log_prob(noise.sets[0])).exp()
    assert float(meco.ess) == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()))
    assert float(meco.max_weight) == pytest.approx(float(weights.max() / weights.sum()))
    assert float(nce.nll) == pytest.approx(-float(f(x).mean())), "c = 0"


@pytest.mark.parametrize("nu", [0.5, 3.0])
def test_nce_weighs_the_noise_by_nu_and_learns_a_constant(nu: float) -> None:
    loss, model, c = NCELoss(Q, nu=nu, n_noise=30), Parabola(), tensor(0.75).requires_grad_()
    assert loss.c is not None
    loss.c.data.fill_(0.75)
    y, log_q = ebm.draw(Q, 30, seeded())
    data, noise = (model(X) - c - Q.log_prob(X)).exp(), (model(y) - c - log_q).exp()
    by_hand = -(data / (data + nu)).log().mean() - nu * (nu / (noise + nu)).log().mean()
    out = loss(model, X, seeded())
    torch.testing.assert_close(out.loss, by_hand)
    same = [NCELoss(Q, nu=given, n_noise=30)(model, X, seeded()).loss for given in (None, 30 / len(X))]
    assert torch.equal(*same), "draws for each data point"
    assert (float(out.log_z), loss.parameters()) == (0.75, [loss.c])
    torch.testing.assert_close(out.nll, 0.75 - model(X).mean().detach())
    expected, (found,) = torch.autograd.grad(by_hand, c)[0], torch.autograd.grad(out.loss, loss.c)
    torch.testing.assert_close(found.double(), expected[None, None], rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(-1e3, 1e3))
def test_a_constant_in_f_moves_log_z_alone(k: float) -> None:
    runs, scores = [], []
    for model in (Parabola(), Parabola(k)):
        loss, g, found = MECOLoss(Q, gamma=0.3, n_noise=50), seeded(), []
        for _ in range(3):
            out = loss(model, X, g)
            found.append(torch.stack([out.nll, out.ess, out.max_weight, *slope(out.loss, model), out.log_z]))
        runs.append(torch.stack(found).detach())
        scores.append(ebm.ood_auroc(model, X, -2 * X))
    expected = runs[0].clone()
    expected[:, -1] += k
    torch.testing.assert_close(runs[1], expected, rtol=1e-9, atol=1e-9)
    assert scores[0] == scores[1]


def test_the_surrogate_has_the_gradient_of_the_likelihood() -> None:
    model, loss = Parabola(), MECOLoss(Q, gamma=1, n_noise=50)
    out = loss(model, X, seeded(3))
    y, log_q = ebm.draw(Q, 50, seeded(3))
    plain = -model(X).mean() + (model(y) - log_q).logsumexp(0) - math.log(50)
    torch.testing.assert_close(slope(out.loss, model), slope(plain, model), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(out.loss, plain)
    torch.testing.assert_close(out.nll, plain.detach())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=8), st.lists(st.integers(0, 7), min_size=1, max_size=20))
def test_on_a_finite_space_the_gradient_is_that_of_the_log_likelihood(theta: list[float], rows: list[int]) -> None:
    k, start = len(theta), tensor(theta)
    x = tensor([row % k for row in rows])[:, None]
    counts = torch.bincount(x[:, 0].long(), minlength=k).double() / len(x)
    for loss in (MECOLoss(Atoms(k), gamma=1, n_noise=k, log_weight_clip=1e3), MECOLoss(Atoms(k), n_noise=k)):
        model = Lookup(start)
        out = loss(model, x)
        torch.testing.assert_close(slope(out.loss, model), start.softmax(0) - counts, rtol=0, atol=1e-10)
        torch.testing.assert_close(out.nll, start.logsumexp(0) - (counts * start).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [0.0, -3.5, 200.0])
def test_the_noise_as_its_own_model_has_all_draws_effective(k: float) -> None:
    for loss in (MECOLoss(Q, n_noise=32), NCELoss(Q, n_noise=32), ExpNCELoss(Q, n_noise=32), SNLLoss(Q, n_noise=32)):
        out = loss(lambda x: Q.log_prob(x) + k, X, seeded())
        assert float(out.ess) == pytest.approx(32, abs=1e-9)
        assert float(out.max_weight) == pytest.approx(1 / 32, abs=1e-12)


def test_memory_of_the_log_z_fades_geometrically() -> None:
    noise, a, h, gamma = Given([0.3, -0.5]), 1.3, 2.0, 0.2
    loss = MECOLoss(noise, gamma=gamma, n_noise=2)
    for _ in range(5):
        assert float(loss(lambda x: noise.log_prob(x) + a, tensor([[0.0]])).log_z) == pytest.approx(a, abs=1e-12)
    gap = math.exp(a) - math.exp(a + h)
    for t in range(1, 20):
        u = loss(lambda x: noise.log_prob(x) + a + h, tensor([[0.0]])).log_z.exp()
        assert float(u) - math.exp(a + h) == pytest.approx((1 - gamma) ** t * gap, rel=1e-9)


def test_gamma_may_follow_the_step() -> None:
    assert [Decay(0.5, 1.0, 0.1)(t) for t in (1, 2, 4, 5, 100)] == [0.5, 0.25, 0.125, 0.1, 0.1]
    noise, seen, values = Given([0.0]), [], [0.0, 1.0, 3.0]

    def gamma(step: int) -> float:
        seen.append(step)
        return 1 / step

    loss = MECOLoss(noise, gamma=gamma, n_noise=1)
    for value in values:
        out = loss(lambda x, value=value: noise.log_prob(x) + math.log(1 + value), tensor([[0.0]]))
    assert seen == [1, 1, 2, 3], "at first to see that it is one"
    assert float(out.log_z.exp()) == pytest.approx(1 + sum(values) / 3), "1/t is the mean of all"


@pytest.mark.parametrize(("draws", "bias"), [(1, -0.5), (16, -0.0488), (64, -0.0134)])
def test_bias_of_a_small_batch(draws: int, bias: float) -> None:
    """E log mean w <= log Z = 0, of the model N(1, 1) under N(0, 1)."""
    noise, model, trials = GaussianNoise.standard(1).double(), GaussianNoise(tensor([1.0]), tensor([[1.0]])), 4000
    loss, g = MECOLoss(noise, gamma=1, n_noise=draws), seeded(draws)
    found = torch.stack([loss(model.log_prob, tensor([[1.0]]), g).log_z for _ in range(trials)])
    assert abs(float(found.mean()) - bias) < 4 * float(found.std()) / math.sqrt(trials)


def test_a_weight_enters_the_gradient_up_to_a_bound() -> None:
    noise, theta = Given([0.0], [1.0]), tensor(5.0).requires_grad_()
    for clip, expected in ((2.0, math.exp(2)), (10.0, math.exp(5) / (0.99 + 0.01 * math.exp(5)))):
        loss = MECOLoss(noise, gamma=0.01, n_noise=1, log_weight_clip=clip)
        for _ in range(2):
            out = loss(lambda x: theta * x[:, 0] + noise.log_prob(x), tensor([[0.0]]))
        assert float(torch.autograd.grad(out.loss, theta)[0]) == pytest.approx(expected)
        assert float(out.log_z) == pytest.approx(math.log(0.99 + 0.01 * math.exp(5))), "the average takes all of it"


@pytest.mark.parametrize("kind", [MECOLoss, NCELoss, ExpNCELoss, SNLLoss], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("noise", [Q, CachedNoise(Q, 100, generator=seeded(5))], ids=["noise", "cache"])
def test_a_tilt_of_the_noise_is_treated_as_any_model(kind, noise) -> None:
    for base in (Q, GaussianNoise.standard(2, 1.1).double()):
        model = TiltedModel(Parabola(), base, cap=2.0)
        short, long = (kind(noise, n_noise=64)(f, X, seeded()) for f in (model, lambda x, model=model: model(x)))
        for name in ("nll", "log_z", "ess", "max_weight"):
            torch.testing.assert_close(getattr(short, name), getattr(long, name))
        torch.testing.assert_close(slope(short.loss, model.net), slope(long.loss, model.net))
        apart = 0 if kind.compares or base is not Q else -Q.log_prob(X).mean()
        torch.testing.assert_close(short.loss + apart, long.loss, rtol=0, atol=1e-10)
