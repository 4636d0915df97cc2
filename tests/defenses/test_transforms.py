"""Input transforms and their gradients."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flatlab import defenses
from flatlab.defenses import BitDepth, Jpeg
from flatlab.defenses._inner import ascend

IDENTITY = nn.Identity()


def images(n: int = 3, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def wrappers(*, bpda: bool, model: nn.Module = IDENTITY) -> list[nn.Module]:
    return [BitDepth(model, bits=2, bpda=bpda), Jpeg(model, quality=30, bpda=bpda)]


def test_bit_depth_rounds_to_evenly_spaced_levels() -> None:
    x = torch.tensor([[0.0, 0.16, 0.17, 0.5, 0.51, 0.9, 1.0]])
    torch.testing.assert_close(BitDepth(IDENTITY, bits=2)(x) * 3, torch.tensor([[0.0, 0, 1, 2, 2, 3, 3]]))
    assert torch.equal(BitDepth(IDENTITY, bits=1)(x), torch.tensor([[0.0, 0, 0, 0, 1, 1, 1]]))


def test_eight_bits_leave_images_as_they_are() -> None:
    x = torch.arange(256).float()[:, None] / 255
    assert torch.equal(BitDepth(IDENTITY, bits=8)(x), x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 13, 28])
def test_jpeg_gives_the_pixels_of_one_file_per_image(channels: int, size: int) -> None:
    x = images(5, channels, size)
    found = Jpeg(IDENTITY, quality=60)(x)
    for image, decoded in zip(x, found, strict=True):
        array = np.rint(image.numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(array[..., 0] if channels == 1 else array).save(file, "JPEG", quality=60)
        expected = np.asarray(Image.open(file)).reshape(size, size, channels).transpose(2, 0, 1)
        assert np.array_equal(np.rint(decoded.numpy() * 255), expected)
    assert not torch.equal(found, x)


def test_more_grey_images_than_one_file_holds() -> None:
    x = images(1).expand(8200, -1, -1, -1)  # 8 * 8200 rows > 65500
    found = Jpeg(IDENTITY, quality=60)(x)
    assert torch.equal(found, found[:1].expand_as(found))


def test_jpeg_quality_orders_the_error() -> None:
    x = images(8, 3, 16)
    errors = [(Jpeg(IDENTITY, quality=q)(x) - x).abs().mean() for q in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("index", [0, 1])
def test_straight_through_gradient_is_the_identity(index: int) -> None:
    x, weight = images().requires_grad_(), torch.randn(3, 1, 8, 8)
    out = wrappers(bpda=True)[index](x)
    assert torch.equal(out, wrappers(bpda=False)[index](x)), "values do not depend on bpda"
    (gradient,) = torch.autograd.grad((weight * out).sum(), x)
    assert torch.equal(gradient, weight)


@pytest.mark.parametrize("index", [0, 1])
def test_true_gradient_is_exactly_zero(index: int) -> None:
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(wrappers(bpda=False)[index](x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("index", [0, 1])
def test_only_straight_through_gradients_let_an_attack_move(index: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x = images()
    for bpda in (True, False):
        wrapped = wrappers(bpda=bpda, model=model)[index]
        out = ascend(
            wrapped, x, lambda p, f=wrapped: f(p)[:, 0], eps=0.1, steps=2, alpha=2.0, start=torch.zeros_like(x)
        )
        assert torch.equal(out, x) != bpda


@pytest.mark.parametrize("name", ["bitdepth", "jpeg"])
def test_the_trained_objective_sees_what_the_wrapped_model_sees(name: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x, y = images(), torch.tensor([0, 1, 0])
    defense = defenses.make(name, eps=0.1, bpda=False)
    wrapped = defense.wrap(model)
    assert wrapped.bpda is False
    assert list(wrapped.parameters()) == list(model.parameters())
    torch.testing.assert_close(defense(model, x, y), nn.functional.cross_entropy(wrapped(x), y))


def test_other_defenses_evaluate_the_model_itself() -> None:
    model = nn.Linear(2, 2)
    assert defenses.make("pgd_at", eps=0.1).wrap(model) is model


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_keeps_the_mode(training: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1)).train(training)
    for wrapped in wrappers(bpda=True, model=model):
        assert all(module.training == training for module in wrapped.modules())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="bits"):
        BitDepth(IDENTITY, bits=17)
    with pytest.raises(ValueError, match="quality"):
        Jpeg(IDENTITY, quality=101)
    with pytest.raises(ValueError, match="C = 1 or 3"):
        Jpeg(IDENTITY, quality=50)(torch.rand(2, 4, 8, 8))
