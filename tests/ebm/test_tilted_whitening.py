"""Models tilted from a base, whitening, and images as continuous data."""

import math

import pytest
import torch
from torch import Tensor, nn

from flatlab import ebm
from flatlab.ebm import FlowNoise, GaussianNoise, StudentNoise, TiltedModel, Whitening, dequantize
from flatlab.models import mlp, stack_models

DOUBLE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(8, 3, generator=seeded(), dtype=DOUBLE)
BASE = GaussianNoise.standard(3, 2.0)


class Column(nn.Module):
    """The first coordinate, or all that are asked for."""

    def __init__(self, columns: slice | int = 0) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.columns]


@pytest.mark.parametrize("net", [Column(), Column(slice(0, 1))], ids=["(N,)", "(N, 1)"])
def test_tilt_adds_the_network_to_the_base(net: nn.Module) -> None:
    model = TiltedModel(net, BASE)
    assert torch.equal(model.tilt(X), X[:, 0])
    torch.testing.assert_close(model(X), BASE.log_prob(X) + X[:, 0])
    assert model(X).dtype == DOUBLE


def test_a_zero_network_gives_the_base() -> None:
    net = mlp((3,), 1, widths=(4,)).double()
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    assert torch.equal(TiltedModel(net, BASE)(X), BASE.log_prob(X))


def test_cap_is_smooth_and_never_exceeded() -> None:
    g = torch.tensor([[-50.0], [3.0], [1e6]], dtype=DOUBLE, requires_grad=True)
    capped = TiltedModel(nn.Identity(), GaussianNoise.standard(1), cap=3.0).tilt(g)
    torch.testing.assert_close(capped.detach(), torch.tensor([-50.0, 3 - math.log(2), 3.0], dtype=DOUBLE))
    (slope,) = torch.autograd.grad(capped.sum(), g)
    torch.testing.assert_close(slope.flatten(), torch.tensor([1.0, 0.5, 0.0], dtype=DOUBLE))
    assert TiltedModel(nn.Identity(), GaussianNoise.standard(1)).tilt(g)[2] == 1e6


def test_log_z_of_a_linear_tilt_is_known() -> None:
    """E exp(x_1) under N(0, 4 I) is exp(2)."""
    model = TiltedModel(Column(), BASE)
    x, log_q = ebm.draw(GaussianNoise.standard(3, 4.0).double(), 40_000, seeded())
    weights = (model(x) - log_q).exp()
    assert abs(weights.mean() - math.exp(2)) < 5 * weights.std() / 200


def test_stacked_networks_tilt_block_by_block() -> None:
    nets = [mlp((3,), 1, widths=(5,)) for _ in range(2)]
    x = X.float()
    both = TiltedModel(stack_models(nets), BASE, cap=2.0).tilt(x)
    apart = [TiltedModel(net, BASE, cap=2.0).tilt(part) for net, part in zip(nets, x.chunk(2), strict=True)]
    torch.testing.assert_close(both, torch.cat(apart))


def test_the_base_is_not_trained() -> None:
    net, base = mlp((3,), 1, widths=(4,)), FlowNoise(3, layers=2, width=4)
    model = TiltedModel(net, base)
    model(X.float()).sum().backward()
    assert [p for p in model.parameters() if p.requires_grad] == list(net.parameters())
    assert all(p.grad is None for p in base.parameters())
    assert "base.loc" in model.state_dict()
    assert model.double()(X).dtype == DOUBLE


@pytest.mark.parametrize("cap", [0.0, -1.0, math.inf])
def test_a_cap_must_be_positive(cap: float) -> None:
    with pytest.raises(ValueError, match="cap must be a finite number > 0"):
        TiltedModel(Column(), BASE, cap=cap)


def test_misfits_of_a_tilt_are_named() -> None:
    with pytest.raises(ValueError, match=r"to \(8, 1\) or \(8,\), it returned \(8, 2\)"):
        TiltedModel(Column(slice(0, 2)), BASE)(X)
    with pytest.raises(TypeError, match="Identity is no noise distribution"):
        TiltedModel(Column(), nn.Identity())


IMAGES = (torch.randn(60, 12, generator=seeded(1), dtype=DOUBLE).cumsum(1) + 7).view(60, 1, 3, 4)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=["float64", "float32"])
def test_whitened_data_have_mean_zero_and_covariance_one(dtype: torch.dtype) -> None:
    x = IMAGES.to(dtype)
    whitening = Whitening.fit(x)
    z = whitening.transform(x)
    assert (z.shape, z.dtype, whitening.sd.dtype) == ((60, 12), dtype, dtype)
    small = 1e-9 if dtype == DOUBLE else 1e-3
    torch.testing.assert_close(z.mean(0), torch.zeros(12, dtype=dtype), rtol=0, atol=small)
    torch.testing.assert_close(z.mT.cov(correction=0), torch.eye(12, dtype=dtype), rtol=0, atol=small)
    torch.testing.assert_close(whitening.inverse(z), x, rtol=0, atol=small)
    assert whitening.float().transform(IMAGES).dtype == DOUBLE


def test_leading_components_are_kept() -> None:
    full, some = Whitening.fit(IMAGES), Whitening.fit(IMAGES, dims=5)
    assert (full.sd[1:] < full.sd[:-1]).all()
    torch.testing.assert_close(some.transform(IMAGES), full.transform(IMAGES)[:, :5])
    missing = (IMAGES - some.inverse(some.transform(IMAGES))).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(missing, full.sd[5:].square().sum())


def test_log_det_moves_densities_between_coordinates() -> None:
    flat = IMAGES.flatten(1)
    whitening = Whitening.fit(flat)
    jacobian = torch.autograd.functional.jacobian(lambda x: whitening.transform(x[None])[0], flat[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], whitening.log_det)
    in_z = GaussianNoise.standard(12).log_prob(whitening.transform(flat))
    torch.testing.assert_close(GaussianNoise.fit(flat).log_prob(flat), in_z + whitening.log_det)


def test_signs_do_not_depend_on_rounding() -> None:
    """Of two equal variances the components are (1, -1) and (1, 1), and a tie stays one if it is off by 1e-9."""
    corners = torch.tensor([[3.0, -3], [-3, 3], [1, 1], [-1, -1]], dtype=DOUBLE)
    expected = torch.tensor([[1.0, -1], [1, 1]], dtype=DOUBLE) / math.sqrt(2)
    for nearly in (1 - 1e-9, 1.0, 1 + 1e-9):
        scale = torch.tensor([1.0, nearly], dtype=DOUBLE)
        torch.testing.assert_close(Whitening.fit(corners * scale).components, expected)
    found = Whitening.fit(IMAGES).components
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_dimensions_without_variance_are_left_out_and_counted() -> None:
    flat = IMAGES.flatten(1)
    x = torch.cat([flat[:, :4], flat[:, :1] + flat[:, 1:2], torch.full((60, 1), 0.1)], 1)
    assert Whitening.fit(x).sd.shape == Whitening.fit(x.float()).sd.shape == (4,)
    with pytest.raises(ValueError, match="the data vary in 4 dimensions, got dims=5: lower dims"):
        Whitening.fit(x, dims=5)
    with pytest.raises(ValueError, match="vary in 0 dimensions"):
        Whitening.fit(torch.full((5, 2), 0.1))
    shrunk = Whitening.fit(x, shrink=0.1)
    variances = Whitening.fit(x).sd.square()
    torch.testing.assert_close(shrunk.sd[:4].square(), 0.9 * variances + 0.1 * variances.sum() / 6)
    torch.testing.assert_close(shrunk.inverse(shrunk.transform(x)), x)


def test_state_of_a_whitening() -> None:
    first, second = Whitening.fit(IMAGES, dims=3), Whitening.fit(IMAGES[:30] * 2, dims=3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.transform(IMAGES), first.transform(IMAGES))


def test_misfits_of_a_whitening_are_named() -> None:
    whitening = Whitening.fit(IMAGES, dims=3)
    with pytest.raises(ValueError, match=r"samples of shape \(1, 3, 4\), data of shape \(60, 12\)"):
        whitening.transform(IMAGES.flatten(1))
    with pytest.raises(ValueError, match=r"z must be \(N, 3\), got shape \(2, 4\)"):
        whitening.inverse(torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"uint8.*dequantize"):
        Whitening.fit(torch.zeros(5, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="do not match"):
        Whitening(torch.zeros(4), torch.eye(4)[:2], torch.ones(3), (4,))


@pytest.mark.parametrize("levels", [256, 17, 2])
def test_dequantized_values_stay_in_their_cell(levels: int) -> None:
    x = torch.arange(levels, dtype=torch.uint8).repeat_interleave(40_000 // levels)[:, None]
    y = dequantize(x, levels=levels, generator=seeded())
    assert (y.dtype, y.shape) == (torch.float32, x.shape)
    assert y.max() < 1
    assert torch.equal((y * levels).floor().to(torch.uint8), x)
    u = y.double() * levels - x
    assert u.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * len(x)))
    assert u.var() == pytest.approx(1 / 12, abs=5 / math.sqrt(180 * len(x)))
    assert torch.equal(dequantize(x, levels=levels, generator=seeded()), y)


def test_dequantized_values_are_never_at_the_edge_of_a_cell() -> None:
    """Among 2^20 numbers a uniform one in float32 would round 255 + u to 256 about 8 times."""
    x = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(2**20)
    low, high = dequantize(x, generator=seeded()).view(2, -1)
    assert low.min() > 0
    assert high.max() < 1


def test_dequantize_refuses_what_is_no_such_image() -> None:
    with pytest.raises(ValueError, match="x holds 17, which is not below levels=17"):
        dequantize(torch.tensor([[3, 17]], dtype=torch.uint8), levels=17)
    with pytest.raises(TypeError, match=r"uint8 images, got torch\.float32"):
        dequantize(torch.rand(2, 2))


def test_t_noise_fits_whitened_data_of_few_rows_after_shrinkage() -> None:
    noise = StudentNoise.fit(IMAGES[:5].flatten(1), shrink=0.2)
    assert noise.log_prob(IMAGES.flatten(1)).isfinite().all()
