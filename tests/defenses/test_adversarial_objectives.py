"""Objectives that search the ball: known answers on linear models, and identities."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlab import defenses
from flatlab.defenses._inner import ascend
from flatlab.defenses.trades import divergence
from flatlab.rng import SeedGenerators


class TwoClass(nn.Module):
    """Logits (w.x, -w.x): the cross-entropy is monotone in w.x, so the worst point of a ball is a corner."""

    def __init__(self, *w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        score = x.flatten(1) @ self.w
        return torch.stack([score, -score], 1)


def mlp(seed: int = 0, *, inputs: int = 9, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes)).double()


def data(n: int = 6, seed: int = 0, *, inputs: int = 9, classes: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, inputs, generator=g).double(), torch.randint(classes, (n,), generator=g)


X = torch.full((4, 3), 0.5, dtype=torch.float64)
Y = torch.tensor([0, 1, 0, 1])
SIGN = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)[:, None]  # of the direction in which w.x hurts


@settings(max_examples=20, deadline=None)
@given(eps=st.floats(0, 0.6), steps=st.integers(1, 5), seed=st.integers(0, 99))
def test_ascent_stays_in_the_ball_and_the_box(eps: float, steps: int, seed: int) -> None:
    model, (x, y) = mlp(), data()
    start = 2 * eps * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).double()
    out = ascend(
        model, x, lambda p: F.cross_entropy(model(p), y, reduction="none"), eps=eps, steps=steps, alpha=3.0, start=start
    )
    assert (out - x).abs().max() <= eps + 1e-12
    assert out.min() >= 0
    assert out.max() <= 1
    assert not out.requires_grad


def test_fgsm_takes_one_step_of_alpha_eps_from_a_uniform_start() -> None:
    model = TwoClass(1.0, -2.0, 3.0)
    defenses.make("fgsm_at", eps=0.1, alpha=0.5, seed=7)(model, X, Y)
    start, adversarial = model.seen
    draw = SeedGenerators(7).uniform(X.shape, -1, 1).double() * 0.1
    torch.testing.assert_close(start, X + draw)
    step = 0.05 * SIGN * torch.tensor([1.0, -1.0, 1.0]).double()
    torch.testing.assert_close(adversarial, (X + draw + step).clamp(X - 0.1, X + 0.1))


@pytest.mark.parametrize("name", ["pgd_at", "fgsm_at"])
def test_adversarial_training_of_a_linear_model_loses_eps_times_l1_norm(name: str) -> None:
    w = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    margin = torch.where(Y == 0, 1.0, -1.0) * 2 * (X @ w) - 2 * 0.1 * w.abs().sum()
    found = defenses.make(name, eps=0.1, alpha=2.5)(TwoClass(*w.tolist()), X, Y)
    torch.testing.assert_close(found, F.softplus(-margin).mean())


def test_pgd_takes_the_steps_it_says() -> None:
    model = TwoClass(1.0, -2.0, 3.0)
    defenses.make("pgd_at", eps=0.1, steps=4, alpha=0.8)(model, X, Y)
    assert len(model.seen) == 5
    moves = [(b - a).abs() for a, b in zip(model.seen, model.seen[1:], strict=False)]
    assert max(move.max() for move in moves) == pytest.approx(0.02)


def test_attacks_run_in_eval_mode_and_count_no_batch() -> None:
    model = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4)).double().train()
    x, y = data()
    defenses.make("pgd_at", eps=0.1)(model, x, y)
    assert model[1].num_batches_tracked == 1


def test_trades_is_cross_entropy_plus_aligned_energies() -> None:
    model, (x, y) = mlp(), data()
    passes: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, out: passes.append(args[0].detach()))
    loss = defenses.make("trades", eps=0.2, beta=2.5)(model, x, y)
    adversarial = passes[-1]
    clean, other = model(x), model(adversarial)
    joint, marginal = -clean, -clean.logsumexp(1)
    joint_adv, marginal_adv = -other, -other.logsumexp(1)
    aligned = (clean.softmax(1) * (joint_adv - joint)).sum(1) + marginal - marginal_adv
    torch.testing.assert_close(divergence(clean, other), aligned)
    assert aligned.min() > 0
    torch.testing.assert_close(loss, F.cross_entropy(clean, y) + 2.5 * aligned.mean())
    assert (adversarial - x).abs().max() == pytest.approx(0.2)


def test_trades_differentiates_both_arguments_of_the_divergence() -> None:
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(divergence, (a, b))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(divergence(a, b).sum(), (a, b)))


@pytest.mark.parametrize("at", ["natural", "adversarial"])
def test_weat_weighs_trades_by_detached_energy(at: str) -> None:
    model, (x, y) = mlp(), data()
    passes: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, out: passes.append(args[0].detach()))
    loss = defenses.make("weat", eps=0.2, beta=2.0, at=at)(model, x, y)
    other, clean = model(passes[-1]), model(x)
    weight = 1 / torch.log1p(clean.logsumexp(1).abs().exp()).detach()
    fit = F.cross_entropy(clean if at == "natural" else other, y, reduction="none")
    expected = (weight * (fit + 2 * divergence(clean, other))).mean()
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_weat_survives_energies_where_the_exponential_overflows() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias.fill_(200.0)
    loss = defenses.make("weat", eps=0.0, beta=0.0)(model, X.float(), Y)
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(model(X.float()), Y).detach()) / 200, rel=0.02)


def test_weat_with_power_zero_is_trades() -> None:
    model, (x, y) = mlp(), data()
    hyper = {"eps": 0.2, "seed": 3}
    assert torch.allclose(
        defenses.make("weat", power=0.0, **hyper)(model, x, y), defenses.make("trades", **hyper)(model, x, y)
    )


def replay(defense: defenses.Defense, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss = defense(model, x, y)
    loss.backward()
    model.zero_grad()
    return loss.detach()


def test_free_moves_the_perturbation_in_the_backward_pass_and_carries_it() -> None:
    model = TwoClass(1.0, -2.0, 3.0)
    free = defenses.make("free", eps=0.1, alpha=0.4, m=4)
    assert free.replays == 4
    for _ in range(5):
        replay(free, model, X, Y)
    step = 0.04 * SIGN * torch.tensor([1.0, -1.0, 1.0]).double()
    assert len(model.seen) == 5, "one forward pass per replay"
    for seen, moved in zip(model.seen, (0, 1, 2, 2.5, 2.5), strict=True):
        torch.testing.assert_close(seen, X + moved * step)


def test_free_moves_only_when_backward_runs() -> None:
    model, free = TwoClass(1.0, -2.0, 3.0), defenses.make("free", eps=0.1)
    for _ in range(3):
        free(model, X, Y)
    assert all(torch.equal(seen, X) for seen in model.seen)


def test_free_starts_from_zero_in_rows_that_show_another_input() -> None:
    model, free = TwoClass(1.0, -2.0, 3.0), defenses.make("free", eps=0.1)
    replay(free, model, X, Y)
    other = X.clone()
    other[1] = 0.25
    replay(free, model, other, Y)
    assert torch.equal(model.seen[1][1], other[1])
    assert ((model.seen[1] - other).abs().amax(1) > 0.09).tolist() == [True, False, True, True]
    replay(free, model, X[:2], Y[:2])
    assert torch.equal(model.seen[2], X[:2])


def test_free_notices_a_batch_written_into_the_same_tensor() -> None:
    model, free, x = TwoClass(1.0, -2.0, 3.0), defenses.make("free", eps=0.1), X.clone()
    replay(free, model, x, Y)
    x.fill_(0.25)
    replay(free, model, x, Y)
    assert torch.equal(model.seen[1], x)


def test_free_stays_in_the_box() -> None:
    model, free = TwoClass(1.0, -2.0, 3.0), defenses.make("free", eps=0.1)
    x = torch.tensor([[0.0, 0.0, 1.0]] * 4, dtype=torch.float64)
    for _ in range(3):
        replay(free, model, x, Y)
    assert model.seen[-1].min() >= 0
    assert model.seen[-1].max() <= 1
    assert not torch.equal(model.seen[-1], x)


def test_free_with_one_replay_is_plain_training() -> None:
    model, (x, y) = mlp(), data()
    assert torch.equal(defenses.make("free", eps=0.1, m=1)(model, x, y), F.cross_entropy(model(x), y))


class LinearLoss(nn.Module):
    """Logits (0, log(exp(a + w.x) - 1)): the cross-entropy of class 0 is a + w.x, linear in x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        loss = 2.0 + x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(loss), torch.log(torch.expm1(loss))], 1)


ZERO = torch.zeros(4, dtype=torch.long)


def test_llr_of_a_linear_loss_has_no_gap() -> None:
    model = LinearLoss()
    torch.testing.assert_close(F.cross_entropy(model(X), ZERO, reduction="none"), 2.0 + X @ model.w)
    gap_only = defenses.make("llr", eps=0.1, weight=1e6, mu=0.0)(model, X, ZERO)
    torch.testing.assert_close(gap_only, (2.0 + X @ model.w).mean(), rtol=0, atol=1e-7)


def test_llr_penalizes_the_slope_along_the_perturbation() -> None:
    model = LinearLoss()
    perturbed: list[Tensor] = []
    model.register_forward_hook(lambda module, args, out: perturbed.append(args[0].detach()))
    loss = defenses.make("llr", eps=0.1, weight=0.0, mu=3.0)(model, X, ZERO)
    slope = ((perturbed[-1] - X) @ model.w).abs()
    torch.testing.assert_close(loss, (2.0 + X @ model.w).mean() + 3.0 * slope.mean())
    assert slope.min() > 0


def test_llr_finds_a_larger_gap_than_a_random_point() -> None:
    model, (x, y) = mlp(), data(50)
    few, many = (defenses.make("llr", eps=0.4, mu=0.0, steps=s, alpha=a)(model, x, y) for s, a in ((1, 1e-9), (8, 2.5)))
    assert many > few


def test_llr_differentiates_through_the_gradient_at_x() -> None:
    """Against finite differences in the first weight, with the search for delta switched off."""
    model, (x, y) = mlp(), data()
    defense = defenses.make("llr", eps=0.3, steps=1, alpha=1e-12)
    weight = model[1].weight
    (found,) = torch.autograd.grad(defense.seeded(1)(model, x, y), weight)
    h = 1e-6
    with torch.no_grad():
        weight[0, 0] += h
        up = defense.seeded(1)(model, x, y)
        weight[0, 0] -= 2 * h
        down = defense.seeded(1)(model, x, y)
        weight[0, 0] += h
    assert math.isclose(float(found[0, 0]), float(up - down) / (2 * h), rel_tol=1e-5)
