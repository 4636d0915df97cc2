"""FID extrapolated to infinitely many fakes: less bias than FID itself, the line by hand, draws, errors."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from flatlab.metrics import FIDInfinity, fid, fid_infinity

D = 6
SIZES = {"real": 4000, "fake": 480}


def sample(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in SIZES.values())
    return real, 1.2 * fake + 0.1


def test_less_bias_than_fid() -> None:
    truth = D * (0.2**2 + 0.1**2)
    pairs = [sample(seed) for seed in range(30)]
    plain = np.array([fid(*pair) for pair in pairs])
    found = [fid_infinity(*pair) for pair in pairs]
    values, slopes = (np.array([getattr(one, name) for one in found]) for name in ("value", "slope"))
    assert plain.mean() - truth > 4 * plain.std() / 30**0.5
    assert abs(values.mean() - truth) < 3 * values.std() / 30**0.5
    assert abs(values.mean() - truth) < 0.4 * (plain.mean() - truth)
    assert slopes.mean() == pytest.approx(1.2**2 * (D + D * (D + 1) / 4), rel=0.25)


def test_the_line_through_subsets_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole pool as its last subset, in the formula's own numbers and those of numpy's polynomials."""
    module = sys.modules["flatlab.metrics.fid_infinity"]  # the room's name of it is the function's
    sizes, values = [], []

    def remembering(a: object, b: object) -> float:
        values.append(between(a, b))
        return values[-1]

    def counting(name: str, rows: Tensor) -> object:
        sizes.append(len(rows))
        return of_sample(name, rows)

    between, of_sample = module.between, module.Moments.of_sample
    monkeypatch.setattr(module, "between", remembering)
    monkeypatch.setattr(module.Moments, "of_sample", counting)
    real, fake = sample(0)
    found = fid_infinity(real, fake, points=5)
    assert sizes == [len(real), 96, 192, 288, 384, 480]
    (slope, value), covariance = np.polyfit(1 / np.array(sizes[1:]), values, 1, cov=True)
    assert (found.value, found.slope) == pytest.approx((value, slope), rel=1e-8)
    assert found.se == pytest.approx(covariance[1, 1] ** 0.5, rel=1e-8)
    assert values[-1] == pytest.approx(fid(real, fake), rel=1e-10), "the last subset is the pool"
    sizes.clear()
    fid_infinity(real, fake[:50], points=5)
    assert sizes[1:] == [12, 22, 31, 40, 50], "no fewer than 2 D rows"


def test_draws_are_those_of_the_seed() -> None:
    real, fake = sample(0)
    state = torch.get_rng_state()
    one, same, other = (fid_infinity(real.numpy(), fake, seed=seed) for seed in (0, 0, 1))
    assert isinstance(one, FIDInfinity)
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(one.value - other.value) < 5 * (one.se + other.se)


def test_errors() -> None:
    real, fake = sample(0)
    with pytest.raises(ValueError, match="points must be an integer >= 3, got 2"):
        fid_infinity(real, fake, points=2)
    with pytest.raises(ValueError, match="the number of rows of fake must be an integer >= 40, got 39"):
        fid_infinity(real, fake[:39])
    with pytest.raises(ValueError, match="real and fake must have the same features"):
        fid_infinity(real, fake[:, 1:])
