"""What losses refuse, and what they warn of: messages that name the value and the cure."""

import math
import random
import warnings

import pytest
import torch
from torch import Tensor

from flatlab.ebm import BoxNoise, CDLoss, DSMLoss, ExpNCELoss, GaussianNoise, MECOLoss, NCELoss, PCDLoss, SNLLoss

DOUBLE = torch.float64
Q = GaussianNoise.standard(2).double()
X = torch.randn(12, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def parabola(x: Tensor) -> Tensor:
    return -x.square().sum(1) / 2


class Given:
    """Noise from elsewhere, flat, that returns the points it was given."""

    def __init__(self, *points: float, columns: tuple[int, ...] = ()) -> None:
        self.points, self.columns = torch.tensor(points, dtype=DOUBLE)[:, None], columns

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.points

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), *self.columns, dtype=x.dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MECOLoss(Q, gamma=0), r"gamma must lie in \(0, 1\], got 0; 1 takes each batch alone"),
        (lambda: MECOLoss(Q, gamma=-1), r"gamma must lie in \(0, 1\], got -1"),
        (lambda: MECOLoss(Q, gamma=1.5), r"gamma must lie in \(0, 1\], got 1.5"),
        (lambda: MECOLoss(Q, gamma=math.nan), r"gamma must lie in \(0, 1\], got nan"),
        (lambda: MECOLoss(Q, gamma=lambda step: 2.0), r"gamma must lie in \(0, 1\], got 2.0"),
        (lambda: MECOLoss(Q, log_weight_clip=0), "log_weight_clip must be a finite number > 0, got 0"),
        (lambda: MECOLoss(Q, n_noise=0), "n_noise must be an integer >= 1, got 0"),
        (lambda: NCELoss(Q, nu=0), "nu must be a finite number > 0, got 0"),
        (lambda: NCELoss(Q, nu=-1.0), "nu must be a finite number > 0, got -1.0"),
        (lambda: ExpNCELoss(Q, nu=2.0), "eNCE weighs data and noise equally; it has no nu, got 2.0"),
        (lambda: ExpNCELoss(Q, limit=0), "limit must be a finite number > 0, got 0"),
        (lambda: SNLLoss(Q, limit=-1.0), "limit must be a finite number > 0, got -1.0"),
        (lambda: CDLoss(steps=0), "steps must be an integer >= 1, got 0"),
        (lambda: CDLoss(eps=0), "eps must be a finite number > 0, got 0"),
        (lambda: CDLoss(l2=-0.1), "l2 must be a finite number >= 0, got -0.1"),
        (lambda: PCDLoss(Q, eps=-1), "eps must be a finite number > 0, got -1"),
        (lambda: PCDLoss(Q, buffer_size=0), "size must be an integer >= 1, got 0"),
        (lambda: PCDLoss(Q, reinit=1.5), r"reinit is a probability .* \[0, 1\], got 1.5"),
        (lambda: PCDLoss(Q, buffer_size=8)(parabola, X), "buffer_size=8 is smaller than the batch of 12; enlarge it"),
        (lambda: DSMLoss(sigma=0), "sigma must be a finite number > 0, got 0"),
    ],
)
def test_settings_out_of_bounds(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_of_gamma_is_watched_at_every_step() -> None:
    loss = MECOLoss(Q, gamma=lambda step: 0.5 if step < 3 else 0.0)
    for _ in range(2):
        loss(parabola, X)
    with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\], got 0.0"):
        loss(parabola, X)


@pytest.mark.parametrize("kind", [MECOLoss, NCELoss, ExpNCELoss, SNLLoss, PCDLoss], ids=lambda kind: kind.__name__)
def test_what_is_no_noise(kind) -> None:
    for wrong, missing in ((object(), "no sample and no log_prob"), (random.Random(), "no log_prob")):
        with pytest.raises(TypeError, match=f"is no noise distribution, it has {missing}: derive it from"):
            kind(wrong)
    if kind is not PCDLoss:
        with pytest.raises(ValueError, match=r"log densities of shape \(2, 1\); they must be \(2, ...\) and \(2,\)"):
            kind(Given(0.0, 1.0, columns=(1,)), n_noise=2)(parabola, X[:, :1])
        with pytest.raises(ValueError, match=r"Given returned samples of shape \(2, 1\) .* must be \(3, ...\)"):
            kind(Given(0.0, 1.0), n_noise=3)(parabola, X[:, :1])


def test_noise_that_misses_the_data_is_refused_where_its_density_is_needed() -> None:
    noise, x = BoxNoise(-1.0, 1.0, 2), torch.tensor([[0.5, 0.5], [0.5, 1.5]])
    for kind in (NCELoss, ExpNCELoss):
        with pytest.raises(ValueError, match=f"zero density at data row 1, where {kind.__name__} needs it.*covers"):
            kind(noise)(parabola, x)
        assert kind(noise)(parabola, x[:1]).loss.isfinite()
    for loss in (MECOLoss(noise), SNLLoss(noise)):
        assert loss(parabola, x).nll.isfinite()


def told(loss: MECOLoss, steps: int, slope: float) -> list[str]:
    """The warnings of so many steps of the model exp(slope |x|)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            loss(lambda x: slope * x[:, 0].abs(), X[:, :1])
    return [str(warning.message) for warning in caught]


def test_a_noise_that_misses_the_model_is_told_once() -> None:
    loss = MECOLoss(Given(5.0, 0, 0, 0), n_noise=4)
    assert told(loss, 49, 4.0) == told(loss, 1, 0.0) == told(loss, 49, 4.0) == [], "a good step starts the count anew"
    (message,) = told(loss, 100, 4.0)
    assert "fewer than 2 effective of 4 draws for 50 steps: the noise does not cover the model" in message
    assert "widen it, cap the model, or draw more" in message
    loss.reset()
    assert len(told(loss, 50, 4.0)) == 1
    assert told(MECOLoss(Given(5.0, 0, 0), n_noise=3), 60, 4.0) == [], "of so few draws 2 are much to ask"


@pytest.mark.parametrize("kind", [NCELoss, ExpNCELoss, SNLLoss], ids=lambda kind: kind.__name__)
def test_states_of_other_losses(kind) -> None:
    loss, name = kind(Q), "b" if kind is SNLLoss else "c"
    with pytest.raises(ValueError, match=rf"{kind.__name__} has a {name} of shape \(1, 1\), the state none"):
        loss.load_state_dict(MECOLoss(Q).state_dict())
    with pytest.raises(ValueError, match=rf"a {name} of shape \(1, 1\), the state one of shape \(2, 1\)"):
        loss.load_state_dict(loss.fresh(2).state_dict())
    with pytest.raises(ValueError, match="the state has entries log_u, steps, which"):
        loss.load_state_dict({"log_u": torch.zeros(1), "steps": torch.ones(()), name: torch.zeros(1, 1)})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_energies_that_are_not_finite_are_named_by_row(bad: float) -> None:
    def f(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] == x[:, 0].max(), bad, x[:, 0])

    x = torch.tensor([[0.0], [9.0], [1.0]], dtype=DOUBLE)
    with pytest.raises(ValueError, match=rf"f returned {bad:g} at row 1 of 5, data first: .* lower the .* or cap"):
        MECOLoss(Given(0.0, 1.0), n_noise=2)(f, x)
