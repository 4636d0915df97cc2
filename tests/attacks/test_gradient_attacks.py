"""FGSM, PGD and targeted DLR: known answers on linear models, bounds, determinism, refusals."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatlab import attacks

EPS = 0.1


def linear(dimension: int = 6, classes: int = 2, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(dimension, classes)).to(dtype).eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wrong(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x).argmax(1) != y


@pytest.mark.parametrize("loss", ["ce", "margin", lambda logits, y: logits.gather(1, 1 - y[:, None])[:, 0]])
def test_one_step_on_a_linear_model_reaches_the_closed_form(loss):
    model = linear()
    x = torch.rand(20, 6, dtype=torch.float64, generator=seeded())
    y = torch.arange(20) % 2
    adv = attacks.pgd(model, x, y, EPS, steps=1, step_size=EPS, random_start=False, loss=loss, clip=None)
    with torch.no_grad():
        before, after = attacks.margin(model(x), y), attacks.margin(model(adv), y)
    if callable(loss):  # maximises one logit, not the difference of two
        assert (after > before).all()
    else:
        weight = model[1].weight
        assert torch.allclose(after, before + EPS * (weight[0] - weight[1]).abs().sum(), atol=1e-12)
        assert torch.equal(adv, attacks.fgsm(model, x, y, EPS, loss=loss, clip=None))


def test_many_steps_on_a_linear_model_reach_the_corner():
    model = linear()
    x = torch.rand(10, 6, dtype=torch.float64, generator=seeded())
    y = torch.zeros(10, dtype=torch.int64)
    weight = model[1].weight.detach()
    corner = x + EPS * (weight[1] - weight[0]).sign()
    for options in ({}, {"targets": y + 1}, {"loss": "margin"}, {"loss": "margin", "targets": y + 1}):
        adv = attacks.pgd(model, x, y, EPS, steps=40, generator=seeded(), clip=(-5.0, 5.0), **options)
        assert torch.allclose(adv, corner, atol=1e-12), options


@settings(deadline=None, max_examples=15)
@given(
    shape=st.sampled_from([(3,), (1, 5), (2, 3, 4), (3, 1, 1)]),
    n=st.integers(1, 5),
    classes=st.integers(4, 6),
    eps=st.sampled_from([1e-3, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_results_stay_in_ball_and_box(shape, n, classes, eps, seed):
    random = seeded(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))
    x = torch.rand(n, *shape, generator=random)
    y = torch.randint(classes, (n,), generator=random)
    found = {
        "fgsm": attacks.fgsm(model, x, y, eps),
        "pgd": attacks.pgd(model, x, y, eps, steps=3, step_size=eps, generator=random, loss="dlr"),
        "restarts": attacks.pgd(model, x, y, eps, steps=2, restarts=2, generator=random),
        "early": attacks.pgd(model, x, y, eps, steps=2, restarts=2, early_stop=True, generator=random),
        "targeted": attacks.dlr_targeted(model, x, y, eps, steps=2, classes=2, generator=random),
    }
    for name, adv in found.items():
        assert adv.shape == x.shape, name
        assert not adv.requires_grad, name
        assert (adv - x).abs().max() <= eps + 1e-7, name
        assert adv.min() >= 0, name
        assert adv.max() <= 1, name


def test_zero_eps_returns_x(std, digits):
    x, y = digits
    for adv in (
        attacks.fgsm(std, x, y, 0),
        attacks.pgd(std, x, y, 0.0, restarts=3),
        attacks.dlr_targeted(std, x, y, 0),
        attacks.square(std, x, y, 0),
    ):
        assert torch.equal(adv, x)
        assert adv is not x


def test_restarts_never_raise_accuracy(std, digits):
    x, y = digits
    fooled = [
        wrong(std, attacks.pgd(std, x, y, EPS, steps=5, restarts=restarts, generator=seeded()), y)
        for restarts in (1, 2, 4)
    ]
    assert (fooled[0] <= fooled[1]).all()
    assert (fooled[1] <= fooled[2]).all()
    assert fooled[2].sum() > fooled[0].sum()


def test_restarts_keep_the_highest_loss_among_equals(std, digits):
    x, y = digits
    random = seeded()
    singles = [attacks.pgd(std, x, y, EPS, steps=3, generator=random) for _ in range(3)]
    best = attacks.pgd(std, x, y, EPS, steps=3, restarts=3, generator=seeded())
    with torch.no_grad():
        values = torch.stack([attacks.cross_entropy(std(adv), y) for adv in singles])
        ranked = values + 100 * torch.stack([wrong(std, adv, y) for adv in singles])
        assert torch.equal(attacks.cross_entropy(std(best), y), values.gather(0, ranked.argmax(0)[None])[0])


def test_restarts_prefer_a_fooled_point_to_a_higher_loss(std, digits):
    x, y = digits
    options = {"steps": 1, "step_size": 1e-9, "loss": lambda logits, y: -attacks.cross_entropy(logits, y)}
    random = seeded()
    singles = torch.stack([wrong(std, attacks.pgd(std, x, y, 0.3, generator=random, **options), y) for _ in range(4)])
    best = wrong(std, attacks.pgd(std, x, y, 0.3, restarts=4, generator=seeded(), **options), y)
    assert torch.equal(best, singles.any(dim=0))
    assert (singles.any(dim=0) & ~singles.all(dim=0)).any()


def test_early_stop_is_at_least_as_strong(std, digits):
    x, y = digits
    full = wrong(std, attacks.pgd(std, x, y, EPS, generator=seeded()), y)
    stopped = attacks.pgd(std, x, y, EPS, early_stop=True, generator=seeded())
    assert (full <= wrong(std, stopped, y)).all()
    # A sample that is wrong at its start stays there.
    start = attacks.pgd(std, x, y, EPS, steps=1, step_size=1e-9, generator=seeded())
    at_start = wrong(std, start, y)
    assert at_start.any()
    assert torch.allclose(stopped[at_start], start[at_start], atol=1e-6)


def test_generator_decides_and_spares_the_global_one(std, digits):
    x, y = digits
    state = torch.get_rng_state()
    first = attacks.pgd(std, x, y, EPS, steps=3, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, attacks.pgd(std, x, y, EPS, steps=3, generator=seeded(5)))
    assert not torch.equal(first, attacks.pgd(std, x, y, EPS, steps=3, generator=seeded(6)))


def test_global_generator_gives_one_uniform_tensor_per_restart(std, digits):
    x, y = digits
    torch.manual_seed(0)
    attacks.pgd(std, x, y, EPS, steps=1, restarts=2)
    after = torch.rand(3)
    torch.manual_seed(0)
    start = torch.rand(x.shape) * (2 * EPS) - EPS
    torch.rand(x.shape)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(0)
    drawn = attacks.pgd(std, x, y, EPS, steps=4)
    assert torch.equal(drawn, attacks.pgd(std, x, y, EPS, steps=4, start=start))


def test_start_is_projected(std, digits):
    x, y = digits
    far = attacks.pgd(std, x, y, EPS, steps=2, start=torch.full_like(x, 9.0))
    assert torch.equal(far, attacks.pgd(std, x, y, EPS, steps=2, start=torch.full_like(x, EPS)))


def test_samples_do_not_see_each_other(std, digits):
    x, y = digits
    together = attacks.pgd(std, x, y, EPS, steps=3, random_start=False)
    parts = zip(x.split(50), y.split(50), strict=True)
    apart = torch.cat([attacks.pgd(std, a, b, EPS, steps=3, random_start=False) for a, b in parts])
    assert (together != apart).float().mean() < 1e-3  # only by rounding


def test_parameters_and_caller_modes_are_untouched(std, digits):
    x, y = digits
    std[1].weight.requires_grad_(False)
    try:
        with torch.no_grad():
            a = attacks.pgd(std, x, y, EPS, steps=2, random_start=False)
        with torch.inference_mode():
            b = attacks.pgd(std, x.clone(), y.clone(), EPS, steps=2, random_start=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            c = attacks.pgd(std, x, y, EPS, steps=2, random_start=False)
        d = attacks.pgd(std, x.clone().requires_grad_(), y.int(), EPS, steps=2, random_start=False)
        assert not std[1].weight.requires_grad
    finally:
        std[1].weight.requires_grad_(True)
    assert all(torch.equal(a, other) for other in (b, c, d))
    assert all(parameter.grad is None for parameter in std.parameters())


def test_targets_pull_towards_their_class(std, digits):
    x, y = digits
    targets = (y + 1) % 10
    for loss in ("ce", "margin", "dlr"):
        adv = attacks.pgd(std, x, y, 0.3, loss=loss, targets=targets, generator=seeded())
        with torch.no_grad():
            logits = std(adv)
        assert (logits.argmax(1) == targets).float().mean() > (0.75 if loss == "dlr" else 0.9), loss
    hit = attacks.pgd(std, x, y, 0.3, targets=targets, early_stop=True, restarts=2, generator=seeded())
    with torch.no_grad():
        assert (std(hit).argmax(1) == targets).float().mean() > 0.9


def test_targeted_dlr_beats_untargeted(std, digits, accuracy):
    x, y = digits
    untargeted = attacks.pgd(std, x, y, EPS, steps=50, loss="dlr", generator=seeded())
    targeted = attacks.dlr_targeted(std, x, y, EPS, steps=20, generator=seeded())
    assert accuracy(std, targeted, y) < accuracy(std, untargeted, y)
    assert torch.equal(targeted, attacks.dlr_targeted(std, x, y, EPS, steps=20, generator=seeded(), batch_size=1000))


def test_scale_blinds_cross_entropy_and_not_dlr(std, digits, accuracy, scaled):
    x, y = digits
    dlr = [
        accuracy(std, attacks.pgd(scaled(std, c), x, y, EPS, loss="dlr", generator=seeded()), y) for c in (0.1, 1, 30)
    ]
    assert dlr[0] == dlr[1] == dlr[2]
    assert torch.equal(  # a power of two changes no rounding
        attacks.pgd(scaled(std, 32.0), x, y, EPS, loss="dlr", generator=seeded()),
        attacks.pgd(std, x, y, EPS, loss="dlr", generator=seeded()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = accuracy(std, attacks.pgd(std, x, y, EPS, generator=seeded()), y)
    with pytest.warns(attacks.ZeroGradientWarning, match=r"exactly zero for \d+ of 300 samples.*loss='dlr'"):
        blind = attacks.pgd(scaled(std, 30.0), x, y, EPS, generator=seeded())
    assert accuracy(std, blind, y) > plain + 0.2


class Hard(nn.Module):
    """Passes no gradient: rounds its input, or leaves autograd altogether."""

    def __init__(self, model: nn.Module, detach: bool) -> None:
        super().__init__()
        self.model, self.detach = model, detach

    def forward(self, x):
        return self.model((x > 0.5).float() if self.detach else (x * 7).round() / 7)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_models_without_gradient_warn(std, digits, detach, frozen):
    x, y = digits
    model = Hard(std, detach)
    std.requires_grad_(not frozen)
    try:
        with pytest.warns(attacks.ZeroGradientWarning, match="BPDA"):
            assert torch.equal(attacks.fgsm(model, x, y, EPS), x)
        with pytest.warns(attacks.ZeroGradientWarning):
            attacks.pgd(model, x, y, EPS, early_stop=True, restarts=2)
    finally:
        std.requires_grad_(True)


def test_flat_dlr_of_fooled_samples_is_no_reason_to_warn():
    # Where the true class is third, (z_1 - z_y) / (z_1 - z_3) is 1 and its gradient zero.
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0, 0.0], [2.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
        model.bias.zero_()
    x, y = torch.full((4, 3), 0.5), torch.full((4,), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(attacks.fgsm(model, x, y, EPS, loss="dlr"), x)


def test_expanded_gradients_work():
    class Total(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1), -x.sum(1)], dim=1)

    x, y = torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64)
    assert torch.allclose(attacks.pgd(Total(), x, y, EPS, steps=5), torch.full((2, 3), 0.4))


ATTACKS = [
    pytest.param(attacks.fgsm, id="fgsm"),
    pytest.param(attacks.pgd, id="pgd"),
    pytest.param(attacks.square, id="square"),
    pytest.param(attacks.dlr_targeted, id="dlr_targeted"),
    pytest.param(attacks.evaluate_robustness, id="evaluate"),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_bad_arguments_are_refused(attack, std, digits):
    x, y = digits
    with pytest.raises(ValueError, match="eps must be a finite number >= 0"):
        attack(std, x, y, -0.1)
    with pytest.raises(TypeError, match=r"torch.uint8.*255"):
        attack(std, (x * 255).byte(), y, EPS)
    with pytest.raises(ValueError, match=r"\[0, 1\].*normalisation inside the model"):
        attack(std, x + 0.5, y, EPS)
    with pytest.raises(ValueError, match="non-empty batch"):
        attack(std, x[:0], y[:0], EPS)
    with pytest.raises(ValueError, match=r"shape \(300,\)"):
        attack(std, x, y[:-1], EPS)
    with pytest.raises(TypeError, match="int64"):
        attack(std, x, y.float(), EPS)
    with pytest.raises(ValueError, match=r"0\.\.9, got 1\.\.10"):
        attack(std, x, y + 1, EPS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_eps_in_8_bit_units_warns(attack, std, digits):
    x, y = digits
    with pytest.warns(UserWarning, match="write eps=8/255"):
        attack(std, x[:5], y[:5], 8)


@pytest.mark.parametrize("attack", ATTACKS)
def test_non_finite_logits_name_the_index(attack, digits):
    x, y = digits

    class BadRow(nn.Module):
        def forward(self, x):
            logits = x.flatten(1)[:, :10]
            return torch.where(x.flatten(1).sum(1, keepdim=True) == 0, torch.nan, logits)

    x = x.clone()
    x[7] = 0
    step = {"random_start": False} if attack is attacks.pgd else {}
    with pytest.raises(ValueError, match="non-finite logits, first at batch index 7"):
        attack(BadRow(), x, y, EPS, **step)


@pytest.mark.parametrize("attack", ATTACKS[:-1])
def test_train_mode_is_refused_where_it_matters(attack, digits):
    x, y = digits
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    with pytest.raises(RuntimeError, match=r"BatchNorm1d.*model\.eval\(\)"):
        attack(model, x, y, EPS)
    assert model.training


def test_bad_options_of_pgd(std, digits):
    x, y = digits
    bad = [
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"restarts": 0}, "restarts must be an integer >= 1"),
        ({"step_size": 0}, "step_size must be a finite number > 0"),
        ({"loss": "cw"}, "choose one of ce, dlr, margin"),
        ({"restarts": 2, "random_start": False}, "need random starts"),
        ({"restarts": 2, "start": torch.zeros_like(x)}, "need random starts"),
        ({"start": torch.zeros(3)}, "start must have the shape of x"),
        ({"targets": y}, "targets must differ from labels, first equal at batch index 0"),
        ({"targets": y + 100}, r"0\.\.9"),
        ({"clip": (1.0, 0.0)}, "low < high"),
        ({"clip": (0.0, 0.5)}, r"clip=\(0.0, 0.5\)"),
    ]
    for options, message in bad:
        with pytest.raises(ValueError, match=message):
            attacks.pgd(std, x, y, EPS, **options)
    with pytest.raises(ValueError, match="C = 2"):
        attacks.pgd(linear(64, 2, torch.float32), x, y % 2, EPS, loss="dlr")
    with pytest.raises(ValueError, match="C = 3"):
        attacks.dlr_targeted(linear(64, 3, torch.float32), x, y % 3, EPS)
