"""The networks: shapes, sizes and seeds."""

import pytest
import torch
from torch import nn

from flatlab.models import (
    available,
    build,
    cnn7,
    densenet,
    preact_resnet18,
    resnext,
    small_cnn,
)

SMALL = {
    "wide_resnet": {"depth": 10, "widen": 1},
    "preact_resnet18": {"width": 8},
    "cnn7": {"width": 4, "hidden": 16},
    "densenet": {"growth": 4, "hidden": 16},
    "resnext": {"width": 4, "hidden": 16},
}


@pytest.mark.parametrize("name", available())
def test_every_network_maps_images_to_logits_and_is_reproducible(name: str) -> None:
    options = SMALL.get(name, {})
    before = torch.get_rng_state()
    one, two = (build(name, (3, 32, 32), 7, seed=4, options=options) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(2, 3, 32, 32)
    assert one.eval()(x).shape == (2, 7)
    assert torch.equal(one(x), two.eval()(x))
    assert not torch.equal(one(x), build(name, (3, 32, 32), 7, seed=5, options=options).eval()(x))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_published_sizes() -> None:
    assert size(preact_resnet18((3, 32, 32), 10)) == pytest.approx(11.17e6, rel=0.01)
    with torch.device("meta"):
        assert size(build("wide_resnet", (3, 32, 32), 10)) == pytest.approx(36.5e6, rel=0.01)
        assert 17.0e6 < size(cnn7((3, 32, 32), 10)) < 17.4e6
        certified = {"depth": 10, "widen": 8, "pooling": False}
        assert size(build("wide_resnet", (3, 32, 32), 10, options=certified)) == pytest.approx(21.5e6, rel=0.01)
        for model, features in ((densenet((3, 32, 32), 10), 224 * 8 * 8), (resnext((3, 32, 32), 10), 512 * 8 * 8)):
            assert [m.in_features for m in model if isinstance(m, nn.Linear)] == [features, 512]


def test_architectures_of_certified_training() -> None:
    def convolutions(model: nn.Module) -> list[tuple[int, ...]]:
        found = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        return [(m.out_channels, m.kernel_size[0], m.stride[0], m.groups) for m in found]

    strides = ((4, 3, 1, 1), (4, 3, 1, 1), (8, 3, 2, 1), (8, 3, 1, 1), (8, 3, 1, 1))
    with_norm, without = (cnn7((3, 8, 8), 10, width=4, batch_norm=norm) for norm in (True, False))
    assert convolutions(with_norm) == convolutions(without) == list(strides)
    assert [sum(isinstance(m, nn.BatchNorm2d) for m in model) for model in (with_norm, without)] == [5, 0]
    small = small_cnn((1, 28, 28), 10, widths=(16, 32), kernel=3, strides=(1, 2))
    assert convolutions(small) == [(16, 3, 1, 1), (32, 3, 2, 1)]
    assert [m.in_features for m in small if isinstance(m, nn.Linear)] == [32 * 14 * 14, 100]
    assert [c for c in convolutions(resnext((1, 8, 8), 10)) if c[3] == 2] == [
        (64, 3, 1, 2), (128, 3, 2, 2), (256, 3, 2, 2)
    ]  # fmt: skip
    assert [c[0] for c in convolutions(densenet((1, 8, 8), 10)) if c[1] == 3] == [64] + 10 * [32]


@pytest.mark.parametrize("name", ["cnn7", "wide_resnet", "resnext"])
def test_odd_images_fit_without_pooling(name: str) -> None:
    options = SMALL[name] | ({"pooling": False} if name == "wide_resnet" else {})
    assert build(name, (1, 7, 9), 3, options=options).eval()(torch.rand(2, 1, 7, 9)).shape == (2, 3)


def test_a_small_cnn_normalises_after_each_convolution() -> None:
    for norm, kind in (("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)):
        layers = list(small_cnn((1, 8, 8), 10, widths=(4, 16), norm=norm))
        assert [type(layer) for layer in layers[:6]] == 2 * [nn.Conv2d, kind, nn.ReLU]
    assert [layer.num_groups for layer in layers if isinstance(layer, nn.GroupNorm)] == [4, 8]
    assert not any("Norm" in type(layer).__name__ for layer in small_cnn((1, 8, 8), 10))
    with pytest.raises(ValueError, match="unknown norm 'layer'.*none, batch, group"):
        small_cnn((1, 8, 8), 10, norm="layer")


def test_a_dense_layer_keeps_what_came_in() -> None:
    layer = next(m for m in densenet((1, 8, 8), 3, growth=4) if type(m).__name__ == "_DenseLayer").eval()
    x = torch.randn(2, 8, 8, 8)
    assert layer(x).shape == (2, 12, 8, 8)
    assert torch.equal(layer(x)[:, :8], x)


def test_unknown_names_and_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'mlp'"):
        build("mlpp", (1, 8, 8), 10)
    with pytest.raises(ValueError, match="must divide by 4"):
        small_cnn((1, 30, 30), 10)
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        build("wide_resnet", (3, 32, 32), 10, options={"depth": 20})
    with pytest.raises(ValueError, match="image size 30x32 must divide by 4; .* fewer blocks"):
        densenet((3, 30, 32), 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"widths": (8, 0)}, "widths must be an integer >= 1, got 0"),
        ("small_cnn", {"widths": (8, -1)}, "widths must be an integer >= 1, got -1"),
        ("small_cnn", {"kernel": 5}, "kernel must be 3 or 4, got 5"),
        ("small_cnn", {"strides": (1, 0)}, "strides must be an integer >= 1, got 0"),
        ("small_cnn", {"strides": (1,)}, r"strides=\(1,\) and widths=\(8, 16\)"),
        ("cnn7", {"width": 0}, "width must be an integer >= 1, got 0"),
        ("cnn7", {"hidden": 1.5}, "hidden must be an integer >= 1, got 1.5"),
        ("wide_resnet", {"widen": 0}, "widen must be an integer >= 1, got 0"),
        ("densenet", {"blocks": ()}, r"len\(blocks\) must be an integer >= 1, got 0"),
        ("densenet", {"blocks": (2, 0)}, "blocks must be an integer >= 1, got 0"),
        ("densenet", {"growth": -4}, "growth must be an integer >= 1, got -4"),
        ("resnext", {"blocks": ()}, r"len\(blocks\) must be an integer >= 1, got 0"),
        ("resnext", {"blocks": (1, 0)}, "blocks must be an integer >= 1, got 0"),
        ("resnext", {"cardinality": 0}, "cardinality must be an integer >= 1, got 0"),
        ("resnext", {"width": 0}, "width must be an integer >= 1, got 0"),
    ],
)
def test_bad_options_are_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, (3, 8, 8), 10, options=options)
