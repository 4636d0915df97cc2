"""The networks: shapes, seeds, and stacks that behave as their parts."""

import pytest
import torch
from torch import nn

from flatlab.models import Normalize, available, build, preact_resnet18, small_cnn, stack_models, stackable, unstack
from flatlab.modes import require_eval


@pytest.mark.parametrize("name", available())
def test_every_network_maps_images_to_logits_and_is_reproducible(name: str) -> None:
    options = {"depth": 10, "widen": 1} if name == "wide_resnet" else {"width": 8} if "preact" in name else {}
    before = torch.get_rng_state()
    one, two = (build(name, (3, 32, 32), 7, seed=4, options=options) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(2, 3, 32, 32)
    assert one.eval()(x).shape == (2, 7)
    assert torch.equal(one(x), two.eval()(x))
    assert not torch.equal(one(x), build(name, (3, 32, 32), 7, seed=5, options=options).eval()(x))


def test_published_sizes() -> None:
    assert sum(p.numel() for p in preact_resnet18((3, 32, 32), 10).parameters()) == pytest.approx(11.17e6, rel=0.01)
    with torch.device("meta"):
        wrn = build("wide_resnet", (3, 32, 32), 10)
    assert sum(p.numel() for p in wrn.parameters()) == pytest.approx(36.5e6, rel=0.01)


def test_unknown_names_and_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'mlp'"):
        build("mlpp", (1, 8, 8), 10)
    with pytest.raises(ValueError, match="must divide by 4"):
        small_cnn((1, 30, 30), 10)
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        build("wide_resnet", (3, 32, 32), 10, options={"depth": 20})


def cnn_with_norm() -> nn.Module:
    return nn.Sequential(
        Normalize((0.5,), (0.2,)), nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


@pytest.mark.parametrize("make", [lambda: build("mlp", (1, 8, 8), 5, seed=int(torch.randint(99, ()))), cnn_with_norm])
def test_a_stack_is_its_networks_side_by_side(make) -> None:
    torch.manual_seed(0)
    models = [make().double() for _ in range(3)]
    stacked = stack_models(models)
    x = torch.rand(3, 4, 1, 8, 8, dtype=torch.double)
    for _ in range(2):  # twice, so that running statistics must agree too
        expected = torch.cat([model(block) for model, block in zip(models, x, strict=True)])
        torch.testing.assert_close(stacked(x.flatten(0, 1)), expected)
    stacked(x.flatten(0, 1)).square().sum().backward()
    for model, block in zip(models, x, strict=True):
        model(block).square().sum().backward()
    for index, parameters in enumerate(zip(*[m.parameters() for m in models], strict=True)):
        grad = list(stacked.parameters())[index].grad
        torch.testing.assert_close(grad, torch.stack([p.grad for p in parameters]))
    if any(isinstance(module, nn.BatchNorm2d) for module in models[0].modules()):
        with pytest.raises(RuntimeError, match="train mode"):
            require_eval(stacked)
    stacked.eval()
    back = unstack(stacked, models[0])
    for model, again, block in zip(models, back, x, strict=True):
        model.eval()
        assert not again.training
        torch.testing.assert_close(again(block), model(block), rtol=1e-6, atol=1e-8)


def test_what_cannot_be_stacked_says_so() -> None:
    assert not stackable(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert not stackable(preact_resnet18((3, 32, 32), 10, width=4))
    with pytest.raises(ValueError, match="Dropout cannot be stacked"):
        stack_models([nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout())])
    with pytest.raises(ValueError, match="differ in architecture"):
        stack_models([nn.Linear(2, 2), nn.Linear(2, 3)])
    with pytest.raises(ValueError, match="empty"):
        stack_models([])
    with pytest.raises(ValueError, match="does not divide into 2"):
        stack_models([build("mlp", (1, 2, 2), 2), build("mlp", (1, 2, 2), 2)])(torch.rand(3, 1, 2, 2))
