"""What is not a number says nothing: it neither proves anything nor spoils what is known."""

import math
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from flatlab.bounds import Ascent, Bounds, LpBall, Program, compute_bounds
from flatlab.bounds.backward_pass import BackwardPass, RowBounds


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, f) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("every", [False, True])
def test_a_step_of_an_ascent_that_is_not_a_number_keeps_the_best_bounds(joint: bool, every: bool) -> None:
    """Whether some rows of each step are broken, or all."""
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(*[f for _ in range(2) for f in (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))]),
        torch.rand(2, 6),
    )
    plain = BackwardPass.run

    def broken(self: BackwardPass, *args, **options) -> RowBounds:
        found = plain(self, *args, **options)
        if options.get("slopes") is None:
            return found
        spoilt = torch.ones_like(found.low)
        spoilt[slice(None) if every else slice(0, None, 2)] = math.nan
        return RowBounds(found.low * spoilt, found.spread, found.function)

    program, ball = Program(net, x), LpBall(x, 0.3)
    crown = compute_bounds(program, x, ball, "crown")
    with mock.patch.object(BackwardPass, "run", broken):
        low, high = Bounds(program, x, ball).compute("alpha-crown", ascent=Ascent(iters=4, joint=joint))
    assert bool((low >= crown[0] - 1e-6).all() & (high <= crown[1] + 1e-6).all())
    if every:
        torch.testing.assert_close((low, high), tuple(end.detach() for end in crown))


@pytest.mark.parametrize("mask", [torch.finfo(torch.float32).min, -1e30, -3000.0])
def test_logits_that_are_masked_by_huge_numbers_have_no_share(mask: float) -> None:
    """As if the others were all there are, by every method and with gradients that are numbers."""
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([0.0, mask, 0.0, mask])
    masked, others = (
        Function(lambda z: (3 * z + keep).softmax(1)[:, ::2]),
        Function(lambda z: (3 * z[:, ::2]).softmax(1)),
    )
    for method in ("ibp", "forward", "crown", "alpha-crown"):
        found = compute_bounds(masked, x, LpBall(x, 0.5), method, ascent=Ascent(iters=3))
        wanted = compute_bounds(others, x, LpBall(x, 0.5), method, ascent=Ascent(iters=3))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
