"""Penalties with closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import defenses
from flatlab.defenses._inner import rademacher_like
from flatlab.rng import SeedGenerators


def linear(seed: int = 0, *, inputs: int = 5, classes: int = 4) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inputs, classes).double()


def tanh_mlp() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def data(n: int = 7) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 5, generator=g).double(), torch.randint(4, (n,), generator=g)


def penalty(name: str, model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, eps: float = 0.1, **hyper) -> Tensor:
    """What the objective adds to the cross-entropy."""
    return defenses.make(name, eps=eps, seed=seed, **hyper)(model, x, y) - F.cross_entropy(model(x), y)


def test_jacreg_exact_is_half_the_squared_frobenius_norm() -> None:
    model, (x, y) = linear(), data()
    exact = 0.5 * model.weight.square().sum()
    torch.testing.assert_close(penalty("jacreg", model, x, y, weight=1.0, projections=None), exact)


def test_jacreg_exact_of_a_nonlinear_network() -> None:
    model, (x, y) = tanh_mlp(), data()
    jacobian = torch.func.vmap(torch.func.jacrev(model))(x)
    expected = 0.5 * jacobian.square().sum((1, 2)).mean()
    torch.testing.assert_close(penalty("jacreg", model, x, y, weight=1.0, projections=None), expected)


@pytest.mark.parametrize("projections", [1, 3])
def test_jacreg_is_unbiased(projections: int) -> None:
    model, (x, y) = linear(), data()
    many = x[:1].expand(20_000, -1)
    found = penalty("jacreg", model, many, y[:1].expand(20_000), weight=2.0, projections=projections)
    torch.testing.assert_close(found, model.weight.square().sum(), rtol=0.02, atol=0)


def test_jacreg_with_more_projections_varies_less() -> None:
    model, (x, y) = linear(), data(1)
    spread = [
        torch.stack([penalty("jacreg", model, x, y, weight=1.0, projections=k, seed=s) for s in range(30)]).std()
        for k in (1, 16)
    ]
    assert spread[1] < spread[0] / 2


def test_gradreg_of_a_linear_model() -> None:
    model, (x, y) = linear(), data()
    gradient = (model(x).softmax(1) - F.one_hot(y, 4)) @ model.weight
    expected = 3.0 * 0.2 * gradient.abs().sum(1).mean()
    torch.testing.assert_close(penalty("gradreg", model, x, y, eps=0.2, weight=3.0), expected)


def test_gradreg_is_adversarial_training_to_first_order() -> None:
    model, (x, y) = tanh_mlp(), data()
    x = 0.2 + 0.6 * x  # away from the edges of the box
    growth = [penalty(name, model, x, y, eps=1e-4) for name in ("gradreg", "pgd_at")]
    torch.testing.assert_close(growth[0], growth[1], rtol=1e-3, atol=0)


class QuadraticLoss(nn.Module):
    """The cross-entropy of class 0 is c + k |x|^2 / 2: its gradient changes by k along any unit of length."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        loss = 2.0 + x.sum(1) + self.k * x.square().sum(1) / 2
        return torch.stack([torch.zeros_like(loss), torch.log(torch.expm1(loss))], 1)


@pytest.mark.parametrize("h", [0.5, 2.0])
def test_cure_measures_curvature_along_the_sign_of_the_gradient(h: float) -> None:
    x, _ = data()
    y = torch.zeros(len(x), dtype=torch.long)
    expected = 4.0 * (3.0 * h * 0.1) ** 2 * 5  # weight (k h eps)^2 D
    found = penalty("cure", QuadraticLoss(3.0), x, y, weight=4.0, h=h)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert abs(penalty("cure", QuadraticLoss(0.0), x, y, weight=4.0, h=h).item()) < 1e-12


def test_flat_rand_of_a_linear_density() -> None:
    """One class: LSE f is the logit itself, so the change is a w.d."""
    model, (x, _) = linear(classes=1), data()
    y = torch.zeros(len(x), dtype=torch.long)
    rng = SeedGenerators(4)
    length = 0.3 * rng.uniform((len(x),)).double()
    change = length * (rademacher_like(x, rng) @ model.weight[0])
    torch.testing.assert_close(
        penalty("flat_rand", model, x, y, eps=0.3, seed=4, weight=2.0), 2 * change.square().mean()
    )


def test_flat_rand_per_squared_length_tends_to_flat_grad() -> None:
    """E a^2 = eps^2 / 3 for a uniform length, E (d.g)^2 = |g|^2 for random signs."""
    model, (x, y) = tanh_mlp(), data()
    many, labels = x.repeat(4000, 1), y.repeat(4000)
    eps = 1e-3
    random = penalty("flat_rand", model, many, labels, eps=eps, weight=3.0 / eps**2)
    torch.testing.assert_close(random, penalty("flat_grad", model, x, y, weight=1.0), rtol=0.03, atol=0)


def test_flat_grad_of_a_linear_model() -> None:
    model, (x, y) = linear(), data()
    expected = 2.0 * (model(x).softmax(1) @ model.weight).square().sum(1).mean()
    torch.testing.assert_close(penalty("flat_grad", model, x, y, weight=2.0), expected)


def test_flat_adv_of_a_linear_density_reaches_the_corner() -> None:
    model, (x, _) = linear(classes=1), data()
    x = 0.3 + 0.4 * x
    y = torch.zeros(len(x), dtype=torch.long)
    found = penalty("flat_adv", model, x, y, eps=0.2, weight=2.0, steps=5)
    torch.testing.assert_close(found, 2 * 0.2 * model.weight.abs().sum())


class Peak(nn.Module):
    """One logit, and so the log-density, -k |x - 1/2|^2: from its top it can only fall."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return -self.k * (x - 0.5).square().sum(1, keepdim=True)


def test_flat_adv_finds_falls_as_well_as_rises() -> None:
    x, y = torch.full((7, 5), 0.5, dtype=torch.float64), torch.zeros(7, dtype=torch.long)
    found = penalty("flat_adv", Peak(), x, y, eps=0.2, weight=1.0, steps=5)
    assert found.item() == pytest.approx(5 * 0.2**2)


def test_flat_joint_of_a_linear_model() -> None:
    model, (x, y) = linear(), data()
    direction = rademacher_like(x, SeedGenerators(6))
    expected = 3.0 * (0.1 * direction @ model.weight.T).square().sum(1).mean()
    torch.testing.assert_close(penalty("flat_joint", model, x, y, seed=6, weight=3.0), expected)


class Gauged(nn.Module):
    """The same classifier with log-density zero everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).log_softmax(1)


@pytest.mark.parametrize("name", ["flat_rand", "flat_grad", "flat_adv", "flat_joint"])
def test_only_flat_joint_sees_through_a_change_of_gauge(name: str) -> None:
    model, (x, y) = tanh_mlp(), data()
    assert penalty(name, model, x, y, weight=1.0) > 1e-5
    assert (penalty(name, Gauged(model), x, y, weight=1.0) > 1e-5) == (name == "flat_joint")


@pytest.mark.parametrize("name", ["flat_rand", "flat_adv", "flat_joint", "flat_grad", "cure", "gradreg", "jacreg"])
def test_gradients_of_penalties_agree_with_finite_differences(name: str) -> None:
    """Through both terms of a difference and through the inner gradient; the inner search is cut short."""
    model, (x, y) = tanh_mlp(), data()
    hyper = {"flat_adv": {"steps": 1, "alpha": 1e-12}}.get(name, {})
    defense = defenses.make(name, eps=0.1, weight=2.0, **hyper)
    weight = model[0].weight
    (found,) = torch.autograd.grad(defense.seeded(1)(model, x, y), weight)
    with torch.no_grad():
        weight[1, 2] += 1e-6
        up = defense.seeded(1)(model, x, y)
        weight[1, 2] -= 2e-6
        down = defense.seeded(1)(model, x, y)
        weight[1, 2] += 1e-6
    assert float(found[1, 2]) == pytest.approx(float(up - down) / 2e-6, rel=1e-4)


def test_label_smoothing_is_cross_entropy_against_softened_labels() -> None:
    model, (x, y) = linear(), data()
    soft = 0.7 * F.one_hot(y, 4) + 0.3 / 4
    found = defenses.make("label_smoothing", eps=0.1, smoothing=0.3)(model, x, y)
    torch.testing.assert_close(found, -(soft * model(x).log_softmax(1)).sum(1).mean())


def test_noise_moves_every_pixel_by_eps() -> None:
    model, (x, y) = linear(), data()
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    defenses.make("noise", eps=0.1)(model, x, y)
    torch.testing.assert_close((seen[0] - x).abs(), torch.full_like(x, 0.1))
    assert len((seen[0] - x).sign().unique(dim=0)) > 3
