"""Annealed importance sampling: known normalization constants, weights by hand, and its limits."""

import math

import pytest
import torch
from torch import Tensor

from flatlab.samplers import Annealed, annealed, mala


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard(x: Tensor) -> Tensor:
    """log N(x; 0, I)."""
    return -x.square().sum(1) / 2 - x.shape[1] / 2 * math.log(math.tau)


def narrow(x: Tensor) -> Tensor:
    """Unnormalized: -|x - 1|^2 / (2 .49), with Z = (2 pi .49)^(D/2)."""
    return -(x - 1).square().sum(1) / 0.98


def draws(n: int, d: int, seed: int = 1) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=gen(seed))


def log_z(found: Annealed) -> tuple[float, float]:
    """log mean w, and its standard error by the delta method."""
    n, top = len(found.log_weights), found.log_weights.max()
    weights = (found.log_weights - top).exp()
    return float(weights.mean().log() + top), float(weights.std() / weights.mean()) / math.sqrt(n)


@pytest.mark.parametrize(("d", "parts", "steps"), [(1, 1, 1), (1, 10, 1), (1, 3, 4), (8, 40, 1), (8, 12, 3)])
def test_the_constant_of_a_normal_distribution(d: int, parts: int, steps: int) -> None:
    found = annealed(standard, narrow, draws(2000, d), betas=parts, steps=steps, eps=0.6, generator=gen())
    value, stderr = log_z(found)
    assert stderr < 0.08
    assert value == pytest.approx(d / 2 * math.log(math.tau * 0.49), abs=4 * stderr)
    assert parts == 1 or 0.5 < found.acceptance < 1


def test_steps_narrow_the_weights() -> None:
    spread = [
        float(annealed(standard, narrow, draws(2000, 8), betas=parts, eps=0.5, generator=gen()).log_weights.std())
        for parts in (1, 10, 100)
    ]
    assert spread[0] > 1.3 * spread[1] > 1.7 * spread[2]


def test_weighted_samples_represent_the_target() -> None:
    found = annealed(standard, narrow, draws(4000, 1), betas=10, eps=0.6, generator=gen())
    weights = found.log_weights.softmax(0)
    mean = float(weights @ found.x[:, 0])
    stderr = float((weights.square() @ (found.x[:, 0] - mean).square()).sqrt())
    assert mean == pytest.approx(1, abs=4 * stderr)
    assert stderr < 0.03


@pytest.mark.parametrize("betas", [1, 7, [0, 0.1, 1]], ids=str)
def test_a_constant_on_top_is_found_exactly(betas) -> None:
    found = annealed(standard, lambda x: standard(x) + 2.5, draws(50, 3), betas=betas, eps=0.4, generator=gen())
    torch.testing.assert_close(found.log_weights, torch.full((50,), 2.5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_two_betas_are_importance_sampling() -> None:
    x = draws(20, 2)
    found = annealed(standard, narrow, x, betas=[0.0, 1.0], steps=5, eps=0.4, generator=gen())
    torch.testing.assert_close(found.log_weights, narrow(x) - standard(x))
    assert torch.equal(found.x, x)
    assert found.acceptance == 1.0


def test_weights_and_steps_by_hand() -> None:
    """With chains of the mixed densities in between, and a step size that depends on beta."""
    x, same, path = draws(30, 2), gen(), [0, 0.25, 0.7, 1]
    found = annealed(standard, narrow, x, betas=path, steps=2, eps=lambda beta: 1.5 - beta, generator=gen())
    log_weights, accepted = 0.25 * (narrow(x) - standard(x)), []
    for beta, following in ((0.25, 0.7), (0.7, 1.0)):
        chains = mala(lambda p, b=beta: (1 - b) * standard(p) + b * narrow(p), x, 2, 1.5 - beta, generator=same)
        x = chains.x
        log_weights = log_weights + (following - beta) * (narrow(x) - standard(x))
        accepted.append(chains.acceptance)
    torch.testing.assert_close(found.x, x)
    torch.testing.assert_close(found.log_weights, log_weights)
    assert found.acceptance == pytest.approx(sum(accepted) / 2)


def test_equal_parts_and_their_betas_are_the_same() -> None:
    found = [
        annealed(standard, narrow, draws(9, 2), betas=betas, eps=0.4, generator=gen())
        for betas in (4, [0, 0.25, 0.5, 0.75, 1], torch.linspace(0, 1, 5))
    ]
    assert torch.equal(found[0].log_weights, found[1].log_weights)
    assert torch.equal(found[0].log_weights, found[2].log_weights)


def test_a_target_of_smaller_support() -> None:
    """Half of a normal distribution: draws outside have weight 0, and Z is 1/2."""

    def half(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, standard(x), -torch.inf)

    x = draws(4000, 1)
    found = annealed(standard, half, x, betas=5, eps=0.5, generator=gen())
    assert not found.log_weights.isnan().any()
    assert torch.equal(found.log_weights.exp() == 0, x[:, 0] <= 0)
    value, stderr = log_z(found)
    assert value == pytest.approx(math.log(0.5), abs=4 * stderr)


def test_weights_are_double_and_chains_keep_their_type() -> None:
    found = annealed(standard, narrow, draws(5, 2).float(), betas=3, eps=0.4, generator=gen())
    assert (found.log_weights.dtype, found.x.dtype) == (torch.float64, torch.float32)
    assert not found.x.requires_grad


@pytest.mark.parametrize(
    "betas",
    [0, True, -3, [0.0], [], [0.1, 1.0], [0.0, 0.9], [0.0, 0.5, 0.5, 1.0], [0.0, 0.6, 0.5, 1.0], [0.0, math.nan, 1.0]],
    ids=str,
)
def test_betas_out_of_order_are_refused(betas) -> None:
    with pytest.raises(ValueError, match="betas must"):
        annealed(standard, narrow, draws(5, 2), betas=betas, eps=0.4)


def test_bad_densities_and_sizes_are_refused() -> None:
    x = draws(5, 2)
    with pytest.raises(ValueError, match="f0 is not finite at x0, first in row 0"):
        annealed(lambda p: standard(p) - math.inf, narrow, x, betas=3, eps=0.4)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="f1 is not a number or -inf at x0"):
            annealed(standard, lambda p, b=bad: narrow(p) + b, x, betas=3, eps=0.4)
    with pytest.raises(ValueError, match="eps must be"):
        annealed(standard, narrow, x, betas=3, eps=0.0)
    with pytest.raises(ValueError, match="eps must be"):
        annealed(standard, narrow, x, betas=3, eps=lambda beta: beta - 0.5)
