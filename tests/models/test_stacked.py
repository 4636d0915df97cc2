"""Stacks behave as their networks do apart: outputs, gradients, gradients of gradients, and running statistics."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flatlab.models import (
    FourierFeatures,
    MapLogits,
    Normalize,
    Residual,
    build,
    cnn7,
    preact_resnet18,
    stack_models,
    stackable,
    unstack,
)
from flatlab.modes import require_eval

BATCH = 4


class Generator(nn.Sequential):
    """A network with something to say about itself."""

    def __init__(self, z_dim: int) -> None:
        super().__init__(nn.Linear(z_dim, 6), nn.ReLU(), nn.Linear(6, 2))
        self.z_dim = z_dim


def cnn_with_norm() -> nn.Module:
    return nn.Sequential(
        Normalize((0.5,), (0.2,)), nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def dcgan() -> nn.Module:
    """From (8,) to one channel of 8x8, as its publication shapes it."""
    return nn.Sequential(
        nn.Linear(8, 4 * 4), nn.Unflatten(1, (4, 2, 2)), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.ConvTranspose2d(3, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def text_critic() -> nn.Module:
    """Residual blocks over (5 symbols, 6 places)."""
    block = [nn.ReLU(), nn.Conv1d(3, 3, 5, padding=2), nn.ReLU(), nn.Conv1d(3, 3, 5, padding=2)]
    return nn.Sequential(nn.Conv1d(5, 3, 1), Residual(*block, scale=0.3), nn.Flatten(), nn.Linear(18, 1))


def again() -> nn.Module:
    """One ReLU at two places, and names of the layers."""
    relu = nn.ReLU()
    layers = {"first": nn.Linear(3, 4), "bend": relu, "middle": nn.Linear(4, 4), "again": relu, "last": nn.Linear(4, 2)}
    return nn.Sequential(OrderedDict(layers))


# name -> (maker of a network, shape of one of its inputs)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: build("mlp", (1, 8, 8), 5, options={"activation": "softplus"}), (1, 8, 8)),
    "waves": (lambda: build("mlp", (1, 8, 8), 5, options={"fourier": 6, "activation": "silu"}), (1, 8, 8)),
    "cnn with norm": (cnn_with_norm, (1, 8, 8)),
    "cnn7": (lambda: cnn7((1, 8, 8), 5, width=2, hidden=6), (1, 8, 8)),
    "dcgan": (dcgan, (8,)),
    "text critic": (text_critic, (5, 6)),
    "generator": (lambda: Generator(3), (3,)),
    "named, one layer twice": (again, (3,)),
    "empty": (nn.Sequential, (3,)),
    "linear": (lambda: nn.Linear(3, 2), (3,)),
    "linear without bias": (lambda: nn.Linear(3, 2, bias=False), (3,)),
    "fourier features": (lambda: FourierFeatures(3, 2), (3,)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (4, 5, 6)),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, 3, padding="same", bias=False), (2, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (2, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 4, 2, 1, bias=False), (2, 3, 3)),
    "transposed, all options": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2, dilation=(1, 2)),
        (4, 3, 2),
    ),
    "batch norm 1d": (lambda: nn.BatchNorm1d(3, momentum=0.3, eps=0.1), (3,)),
    "batch norm of series": (lambda: nn.BatchNorm1d(3, affine=False), (3, 5)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (3, 2, 2)),
    "layer norm": (lambda: nn.LayerNorm(5, eps=0.1), (5,)),
    "layer norm inside": (lambda: nn.LayerNorm(5), (2, 3, 5)),
    "layer norm of planes": (lambda: nn.LayerNorm((3, 5), bias=False), (2, 3, 5)),
    "layer norm, no weights": (lambda: nn.LayerNorm((3, 5), elementwise_affine=False), (3, 5)),
    "flatten a part": (lambda: nn.Flatten(2, -1), (2, 3, 4)),
    "flatten to a place": (lambda: nn.Flatten(1, 2), (2, 3, 4)),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6, 2)),
    "unflatten later": (lambda: nn.Unflatten(2, (2, 3)), (2, 6)),
    "unflatten the last": (lambda: nn.Unflatten(-1, (2, 3)), (2, 6)),
    "softmax": (lambda: nn.Softmax(dim=-1), (2, 3)),
    "softmax of channels": (lambda: nn.Softmax(dim=1), (2, 3)),
    "residual": (lambda: Residual(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3), scale=0.5), (3,)),
    "residual inside": (lambda: Residual(Residual(nn.Linear(3, 3)), nn.Tanh()), (3,)),
    "average pool": (lambda: nn.AvgPool2d(2), (2, 4, 4)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def networks(name: str, count: int = 3) -> tuple[list[nn.Module], Tensor]:
    """Networks with drawn weights, those of normalisations included, and a batch (count, BATCH, ...) for them."""
    make, shape = NETWORKS[name]
    g = torch.Generator().manual_seed(0)
    models = [make().double() for _ in range(count)]
    for model in models:
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=g)
                tensor.copy_(drawn.abs() + 0.5 if key.endswith("var") else drawn)
    return models, torch.rand(count, BATCH, *shape, generator=g, dtype=torch.double)


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs (N, ...), the gradient for the inputs, then for each parameter the gradient, and that of a penalty."""
    x = x.clone().requires_grad_()
    params = list(model.parameters())
    out = model(x)
    # a cubic, so that a linear layer has gradients of gradients as well
    slope, *grads = torch.autograd.grad((out**3).sum(), [x, *params], create_graph=True)
    penalty = torch.autograd.grad(slope.square().sum(), [x, *params], allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (out, slope, penalty[0], *grads, *penalty[1:])]


@every_network
def test_a_stack_is_its_networks_side_by_side(name: str) -> None:
    models, x = networks(name)
    stacked = stack_models(models)
    for training in (True, True, False):  # twice, so that running statistics must agree too
        stacked.train(training)
        found = answers(stacked, x.flatten(0, 1))
        apart = [answers(model.train(training), block) for model, block in zip(models, x, strict=True)]
        for index, (one, several) in enumerate(zip(found, zip(*apart, strict=True), strict=True)):
            torch.testing.assert_close(one, torch.cat(several) if index < 3 else torch.stack(several))
        states = [model.state_dict() for model in models]
        expected = {key: torch.stack([state[key] for state in states]) for key in states[0]}
        torch.testing.assert_close(
            dict(stacked.state_dict()), {f"body.{key}": value for key, value in expected.items()}
        )


@every_network
def test_networks_come_back_as_copies_of_one_of_theirs(name: str) -> None:
    models, x = networks(name)
    stacked = stack_models(models)
    stacked(x.flatten(0, 1))
    stacked.eval()
    back = unstack(stacked, models[0])
    for index, (model, other) in enumerate(zip(models, back, strict=True)):
        expected = model.train()(x[index])
        assert type(other) is type(model)
        assert not other.training
        assert getattr(other, "z_dim", None) == getattr(model, "z_dim", None)
        assert list(other.state_dict()) == list(model.state_dict())
        torch.testing.assert_close(other.state_dict(), model.state_dict())
        torch.testing.assert_close(other.train()(x[index]), expected)
    layers = [{id(layer) for layer in model.modules()} for model in (stacked, *models, *back)]
    assert sum(map(len, layers)) == len(set().union(*layers))
    for p in stacked.parameters():
        p.data.zero_()
    assert all(p.any() for model in (*models, *back) for p in model.parameters()), "nothing is shared"


@every_network
def test_networks_do_not_see_each_other(name: str) -> None:
    models, x = networks(name)
    stacked, one, other = stack_models(models), x.flatten(0, 1), x.clone()
    other[1] = other[1].square()
    before, after = (stack_models(models)(batch).unflatten(0, (3, -1)) for batch in (one, other.flatten(0, 1)))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])
    assert stackable(models[0])
    assert [p.requires_grad for p in stacked.parameters()] == [p.requires_grad for p in models[0].parameters()]


def test_a_stack_is_in_the_mode_of_its_networks() -> None:
    for training in (True, False):
        stacked = stack_models([dcgan().train(training) for _ in range(2)])
        assert {layer.training for layer in stacked.modules()} == {training}


def test_frozen_parameters_stay_frozen() -> None:
    models = [nn.Linear(2, 2) for _ in range(2)]
    for model in models:
        model.bias.requires_grad_(False)
    assert [p.requires_grad for p in stack_models(models).parameters()] == [True, False]


@pytest.mark.parametrize("name", ["cnn with norm", "dcgan", "batch norm 1d"])
def test_a_stack_that_depends_on_its_batch_says_so(name: str) -> None:
    stacked = stack_models(networks(name)[0])
    with pytest.raises(RuntimeError, match="train mode"):
        require_eval(stacked)
    require_eval(stacked.eval())


def test_a_single_network_is_a_copy_of_itself() -> None:
    model = Generator(3).eval()
    (back,) = unstack(stack_models([model]), model)
    assert (type(back), back.z_dim, back.training) == (Generator, 3, False)
    assert back is not model
    assert torch.equal(back[0].weight, model[0].weight)


class Doubled(nn.Sequential):
    """A chain in name: its forward is another one."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Scaled(nn.Sequential):
    """A chain with a weight beside its layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2))
        self.gain = nn.Parameter(torch.ones(()))


def tied() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "Dropout"),
        (lambda: preact_resnet18((3, 32, 32), 10, width=4), "PreActBlock"),
        (lambda: nn.Sequential(Residual(nn.ReLU(), nn.Dropout())), "Dropout"),
        (lambda: nn.Sequential(Doubled(nn.Linear(2, 2))), "Doubled"),
        (Scaled, "Scaled"),
        (tied, "Sequential"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), "ParametrizedLinear"),
        (lambda: MapLogits(nn.Linear(2, 2), torch.sin), "MapLogits"),
        (lambda: nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "Conv2d"),
        (lambda: nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
        (lambda: nn.BatchNorm1d(2, momentum=None), "BatchNorm1d"),
        (lambda: nn.Flatten(0), "Flatten"),
        (lambda: nn.Unflatten(0, (2, 2)), "Unflatten"),
        (lambda: nn.Softmax(dim=0), "Softmax"),
        (nn.Softmax, "Softmax"),
    ],
)
def test_what_cannot_be_stacked_says_so(make: Callable[[], nn.Module], kind: str) -> None:
    models = [make(), make()]
    assert not stackable(models[0])
    with pytest.raises(ValueError, match=f"type {kind}.* cannot be stacked"):
        stack_models(models)


def test_misfits_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in architecture"):
        stack_models([nn.Linear(2, 2), nn.Linear(2, 3)])
    with pytest.raises(ValueError, match="empty"):
        stack_models([])
    with pytest.raises(ValueError, match="does not divide into 2"):
        stack_models([build("mlp", (1, 2, 2), 2), build("mlp", (1, 2, 2), 2)])(torch.rand(3, 1, 2, 2))


def test_a_residual_adds_its_body_to_its_input() -> None:
    linear = nn.Linear(3, 3)
    x = torch.rand(2, 3)
    torch.testing.assert_close(Residual(linear)(x), x + linear(x))
    torch.testing.assert_close(Residual(linear, nn.Tanh(), scale=-0.5)(x), x - 0.5 * linear(x).tanh())
    with pytest.raises(ValueError, match=r"len\(layers\) must be an integer >= 1, got 0"):
        Residual()
    with pytest.raises(ValueError, match="scale must be a finite number, got nan"):
        Residual(linear, scale=float("nan"))
