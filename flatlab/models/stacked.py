"""S networks of one architecture as one module, so that S seeds train in one loop.

Small networks on a CPU spend their time on calls rather than on arithmetic: S matrix products in one batched product
cost far less than S calls. The parameters of the S networks are stacked along a new first dimension; a batch holds
S blocks of B rows, one block per network, and no network sees another's rows. Since the gradient of a sum of S losses
is the S gradients side by side, an optimizer that works element by element (SGD, Adam) trains each network exactly as
it would alone, up to the rounding of a batched product.

Only networks built from `nn.Sequential`, `Residual` and the layers below can be stacked; `stackable` tells. S of their
convolutions become one grouped convolution, which saves calls, not arithmetic: it is faster than S of them on small
images, and slower where arithmetic rules, as with eight networks on images of 32x32.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.models.layers import FourierFeatures, Normalize, Residual


class Stacked(nn.Module):
    """S networks side by side: (S*B, ...) laid out network by network -> (S*B, classes)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(models)
        self.body = _stack(models)

    def forward(self, x: Tensor) -> Tensor:
        rows, count = x.shape[0], self.count
        if rows % count:
            raise ValueError(f"a batch of {rows} rows does not divide into {count} equal blocks, one per network")
        return self.body(x.reshape(count, rows // count, *x.shape[1:])).flatten(0, 1)


def stack_models(models: Sequence[nn.Module]) -> nn.Module:
    """One module that holds copies of `models`, all of one architecture; a single model comes back as a copy.

    Raises:
        ValueError: no model, different architectures, or a layer that cannot be stacked.
    """
    if not models:
        raise ValueError("models is empty: give at least one")
    if len(models) == 1:
        return copy.deepcopy(models[0])
    shapes = [[(name, value.shape) for name, value in model.state_dict().items()] for model in models]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ValueError("the models differ in architecture: only networks with equal parameter shapes can be stacked")
    if (layer := _unstackable(models[0])) is not None:
        raise ValueError(f"a layer of type {type(layer).__name__} cannot be stacked; train the seeds one after another")
    return Stacked(models).train(models[0].training)


def stackable(model: nn.Module) -> bool:
    """Whether `stack_models` takes networks of this architecture."""
    return _unstackable(model) is None


def unstack(stacked: nn.Module, like: nn.Module) -> list[nn.Module]:
    """The S networks of a stacked one as modules of their own, each a copy of `like` with its weights."""
    if not isinstance(stacked, Stacked):
        return [copy.deepcopy(stacked)]
    state = stacked.body.state_dict()
    device = next((value.device for value in state.values()), None)
    models = []
    for index in range(stacked.count):
        model = copy.deepcopy(like).to(device=device)
        model.load_state_dict({name: value[index].clone() for name, value in state.items()})
        models.append(model.train(stacked.training))
    return models


def _unstackable(model: nn.Module) -> nn.Module | None:
    """The first layer that has no stacked form, if any."""
    if isinstance(model, nn.Sequential):
        found = (bad for layer in model if (bad := _unstackable(layer)) is not None)
        return next(found, None) if _plain(model) else model
    if type(model) is Residual:
        return _unstackable(model.body)
    # Exact types: a class derived from a layer, as spectral_norm makes one, does something else.
    known = type(model) in (*_ELEMENTWISE, *_FORMS)
    return None if known and _RULES.get(type(model), lambda layer: True)(model) else model


def _plain(model: nn.Sequential) -> bool:
    """Whether it is its layers, one after another, and nothing else; layers may not share parameters."""
    own = [*model.parameters(recurse=False), *model.buffers(recurse=False)]
    named = list(model.named_parameters(remove_duplicate=False))
    return type(model).forward is nn.Sequential.forward and not own and len(named) == len(list(model.parameters()))


def _stack(models: Sequence[nn.Module]) -> nn.Module:
    first = models[0]
    if isinstance(first, nn.Sequential):
        stacked = nn.Sequential()
        for name in first._modules:  # named_children() leaves out a layer that comes again, such as a ReLU
            stacked.add_module(name, _stack([model.get_submodule(name) for model in models]))
        return stacked
    form = _FORMS.get(type(first))
    return copy.deepcopy(first) if form is None else form(models)


def _stacked_parameter(models: Sequence[nn.Module], name: str) -> nn.Parameter | None:
    values = [getattr(model, name) for model in models]
    if values[0] is None:
        return None
    return nn.Parameter(torch.stack([v.detach() for v in values]), requires_grad=values[0].requires_grad)


class _PerSample(nn.Module):
    """A layer without parameters, applied to all S*B samples at once."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class _StackedLinear(nn.Module):
    """S affine maps: (S, B, in) -> (S, B, out) in one batched product."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = _stacked_parameter(models, "weight")
        self.bias = _stacked_parameter(models, "bias")

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        weight = self.weight.transpose(1, 2)
        return torch.bmm(x, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), x, weight)


def _stacked_fourier_features(models: Sequence[nn.Module]) -> FourierFeatures:
    """The same layer with the frequencies of S networks (S, dim, features): its product is then a batched one."""
    layer = copy.deepcopy(models[0])
    assert isinstance(layer, FourierFeatures)
    layer.frequencies = torch.stack([value for model in models for value in model.buffers()])
    return layer


class _StackedConvolution(nn.Module):
    """S convolutions, transposed ones as well, as one grouped convolution over (B, S*C, ...)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        first: Any = models[0]
        self.weight = _stacked_parameter(models, "weight")
        self.bias = _stacked_parameter(models, "bias")
        names = ["stride", "padding", "dilation"] + (["output_padding"] if first.transposed else [])
        options = {name: getattr(first, name) for name in names}
        self.convolve = functools.partial(_CONVOLUTIONS[type(first)], groups=first.groups * len(models), **options)

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        bias = None if self.bias is None else self.bias.flatten()
        return _networks(self.convolve(_channels(x), self.weight.flatten(0, 1), bias), x.shape[0])


class _StackedLayerNorm(nn.Module):
    """S layer normalisations: the same statistics, then a weight and a bias for each network."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        first: Any = models[0]
        self.weight = _stacked_parameter(models, "weight")
        self.bias = _stacked_parameter(models, "bias")
        self.shape, self.eps = first.normalized_shape, first.eps

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x, self.shape, eps=self.eps)
        ones = [1] * (x.ndim - 1 - len(self.shape))
        if self.weight is not None:
            out = out * self.weight.view(-1, *ones, *self.shape)
        return out if self.bias is None else out + self.bias.view(-1, *ones, *self.shape)


class _StackedBatchNorm(nn.Module):
    """S batch normalisations: channels of different networks are different channels, so one call serves all."""

    depends_on_batch = True  # in train mode; see flatlab.modes.require_eval
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        first: Any = models[0]
        self.weight = _stacked_parameter(models, "weight")
        self.bias = _stacked_parameter(models, "bias")
        self.momentum, self.eps = first.momentum, first.eps
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(model, name) for model in models]))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        flat = [None if p is None else p.flatten() for p in (self.weight, self.bias)]
        mean, var = self.running_mean.view(-1), self.running_var.view(-1)
        out = F.batch_norm(_channels(x), mean, var, flat[0], flat[1], self.training, self.momentum, self.eps)
        return _networks(out, x.shape[0])


def _channels(x: Tensor) -> Tensor:
    """(S, B, C, ...) -> (B, S*C, ...)."""
    return x.transpose(0, 1).flatten(1, 2)


def _networks(x: Tensor, count: int) -> Tensor:
    """(B, S*C, ...) -> (S, B, C, ...)."""
    return x.unflatten(1, (count, -1)).transpose(0, 1)


def _shifted(models: Sequence[nn.Module], *names: str) -> nn.Module:
    """The layer with its dimensions `names` counted past that of the networks; negative ones stay as they are."""
    layer = copy.deepcopy(models[0])
    for name in names:
        dim = getattr(layer, name)
        setattr(layer, name, dim + 1 if dim > 0 else dim)
    return layer


def _stacked_residual(models: Sequence[nn.Module]) -> Residual:
    first: Any = models[0]
    return Residual(*_stack([model.get_submodule("body") for model in models]).children(), scale=first.scale)


_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Softplus, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Identity, Normalize)
_PER_SAMPLE = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# How several layers of one type become one; what is elementwise serves all networks as it is.
_FORMS: dict[type[nn.Module], Callable[[Sequence[nn.Module]], nn.Module]] = {
    nn.Linear: _StackedLinear,
    nn.LayerNorm: _StackedLayerNorm,
    nn.Flatten: lambda models: _shifted(models, "start_dim", "end_dim"),
    nn.Unflatten: lambda models: _shifted(models, "dim"),
    nn.Softmax: lambda models: _shifted(models, "dim"),
    FourierFeatures: _stacked_fourier_features,
    Residual: _stacked_residual,
    **dict.fromkeys(_PER_SAMPLE, lambda models: _PerSample(copy.deepcopy(models[0]))),
    **dict.fromkeys(_CONVOLUTIONS, _StackedConvolution),
    **dict.fromkeys(_BATCH_NORMS, _StackedBatchNorm),
}
# What a layer must be like, for types of which not all can be stacked: none may act across a batch in its own way.
_RULES: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.Flatten: lambda layer: 0 not in (layer.start_dim, layer.end_dim),
    nn.Unflatten: lambda layer: layer.dim != 0,
    nn.Softmax: lambda layer: layer.dim not in (None, 0),
    **dict.fromkeys(_CONVOLUTIONS, lambda layer: layer.padding_mode == "zeros"),
    **dict.fromkeys(_BATCH_NORMS, lambda layer: layer.track_running_stats and layer.momentum is not None),
}
