"""The potentials: derivatives against automatic ones, minima and basins against the flow, and who passes the dip."""

import pytest
import torch
from torch import Tensor

from flatlab.gan import Wells, adam_path, dip, equal_wells

BOTH = pytest.mark.parametrize("wells", [dip(), equal_wells(), dip(0.3, 0.2)], ids=["dip", "equal", "deep dip"])
LINE = torch.linspace(-3, 4, 57, dtype=torch.float64)


def momentum(wells: Wells, x0: Tensor, lr: float, beta1: float, n: int) -> Tensor:
    return adam_path(wells.gradient, x0, lr=lr, betas=(beta1, 1.0), n=n, v=1.0, bias_correction=False)[-1]


def test_the_dip_by_hand() -> None:
    x = torch.tensor([-3.0, -0.5, 1.5], dtype=torch.float64)
    torch.testing.assert_close(dip().value(x), torch.tensor([3.0375, 0.6 - 0.15, 0.0], dtype=torch.float64))
    assert dip().minima.tolist() == pytest.approx([-0.4571, 1.5], abs=1e-4)
    assert len(dip(depth=0.05).minima) == 1  # too shallow to hold a ball


@BOTH
def test_derivatives_are_those_of_the_value(wells: Wells) -> None:
    x = LINE.clone().requires_grad_()
    (first,) = torch.autograd.grad(wells.value(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(wells.gradient(LINE), first.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(wells.curvature(LINE), second, rtol=0, atol=1e-11)
    assert wells.value(LINE.float()[None]).dtype == torch.float32
    assert wells.value(LINE.float()[None]).shape == (1, 57)


@BOTH
def test_minima_and_ridges_take_turns(wells: Wells) -> None:
    flat = wells.stationary
    assert len(flat) == 3
    assert wells.gradient(flat).abs().max() < 1e-10
    assert (wells.curvature(flat) > 0).tolist() == [True, False, True]


@BOTH
def test_basins_are_where_the_gradient_flow_ends(wells: Wells) -> None:
    ridge = float(wells.stationary[1])
    x0 = torch.tensor([-3.0, ridge - 1e-3, ridge + 1e-3, 4.0], dtype=torch.float64)
    assert wells.basin(x0).tolist() == [0, 0, 1, 1]
    end = momentum(wells, x0, 0.02, 0.0, 3000)
    torch.testing.assert_close(end, wells.minima[wells.basin(x0)], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("sharp", "flat"), [(0.15, 0.9), (0.05, 0.5), (0.4, 1.0)])
def test_equal_wells_are_equally_deep_and_not_equally_sharp(sharp: float, flat: float) -> None:
    wells = equal_wells(sharp, flat)
    left, right = wells.value(wells.minima).tolist()
    assert left == pytest.approx(right, abs=1e-14)
    assert right == pytest.approx(0.01 * 1.5**2 - 0.5, abs=2e-3)
    curvature = wells.curvature(wells.minima).tolist()
    assert curvature == pytest.approx([0.5 / sharp**2, 0.5 / flat**2], rel=0.06)


def test_inertia_passes_the_dip_and_plain_descent_does_not() -> None:
    x0 = torch.linspace(-3.1, -2.9, 9, dtype=torch.float64)
    for beta1, place in ((0.0, 0), (0.5, 0), (0.9, 1), (0.99, 1)):
        assert dip().basin(momentum(dip(), x0, 0.05, beta1, 1500)).tolist() == [place] * 9
        adam = adam_path(dip().gradient, x0, lr=0.03, betas=(beta1, 0.999), n=1500)[-1]
        assert dip().basin(adam).tolist() == [place] * 9


def test_adam_ends_in_the_basin_it_starts_in() -> None:
    wells, generator = equal_wells(), torch.Generator().manual_seed(0)
    x0 = -3 + 7 * torch.rand(100, generator=generator, dtype=torch.float64)
    for beta1 in (0.0, 0.9):
        end = adam_path(wells.gradient, x0, lr=0.01, betas=(beta1, 0.999), n=800)[-1]
        assert torch.equal(wells.basin(end), wells.basin(x0))


@pytest.mark.parametrize("call", [lambda: dip(0.0), lambda: dip(0.1, -1.0)])
def test_a_dip_without_depth_or_width_is_refused(call) -> None:
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        call()


@pytest.mark.parametrize("widths", [(0.0, 0.5), (0.5, 0.5), (0.6, 0.5), (0.1, 1.1)])
def test_widths_out_of_bounds_are_refused(widths: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 < sharp < flat <= 1"):
        equal_wells(*widths)
