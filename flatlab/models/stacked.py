"""S networks of one architecture as one module, so that S seeds train in one loop.

Small networks on a CPU spend their time on calls rather than on arithmetic: S matrix products in one batched product
cost far less than S calls. The parameters of the S networks are stacked along a new first dimension; a batch holds
S blocks of B rows, one block per network, and no network sees another's rows. Since the gradient of a sum of S losses
is the S gradients side by side, an optimizer that works element by element (SGD, Adam) trains each network exactly as
it would alone, up to the rounding of a batched product.

Only networks built from `nn.Sequential` and the layers below can be stacked; `stackable` tells.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.models.layers import FourierFeatures, Normalize

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Softplus, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Identity, Normalize)
_PER_SAMPLE = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


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
    models = []
    for index in range(stacked.count):
        model = copy.deepcopy(like).to(next(iter(state.values())).device)
        model.load_state_dict({name: value[index].clone() for name, value in state.items()})
        models.append(model.train(stacked.training))
    return models


def _unstackable(model: nn.Module) -> nn.Module | None:
    """The first layer that has no stacked form, if any."""
    if isinstance(model, nn.Sequential):
        return next((bad for child in model if (bad := _unstackable(child)) is not None), None)
    if isinstance(model, (*_ELEMENTWISE, *_PER_SAMPLE, nn.Linear, FourierFeatures)):
        return None
    if isinstance(model, nn.BatchNorm2d):
        return None if model.track_running_stats and model.momentum is not None else model
    if isinstance(model, nn.Conv2d):
        return None if model.padding_mode == "zeros" else model
    if isinstance(model, nn.Flatten):
        return None if (model.start_dim, model.end_dim) == (1, -1) else model
    return model


def _stack(models: Sequence[nn.Module]) -> nn.Module:
    first = models[0]
    if isinstance(first, nn.Sequential):
        parts: Sequence[Sequence[nn.Module]] = list(zip(*[list(model.children()) for model in models], strict=True))
        return nn.Sequential(*[_stack(layers) for layers in parts])
    if isinstance(first, nn.Flatten):
        return nn.Flatten(2)
    if isinstance(first, _PER_SAMPLE):
        return _PerSample(first)
    for kind, stacked in _FORMS.items():
        if isinstance(first, kind):
            return stacked(models)
    return copy.deepcopy(first)


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


class _StackedConv2d(nn.Module):
    """S convolutions as one grouped convolution over (B, S*C, H, W)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        first = models[0]
        assert isinstance(first, nn.Conv2d)
        self.weight = _stacked_parameter(models, "weight")
        self.bias = _stacked_parameter(models, "bias")
        self.stride, self.padding, self.dilation, self.groups = (
            first.stride,
            first.padding,
            first.dilation,
            first.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        count = x.shape[0]
        bias = None if self.bias is None else self.bias.flatten()
        out = F.conv2d(
            _channels(x), self.weight.flatten(0, 1), bias, self.stride, self.padding, self.dilation, self.groups * count
        )
        return out.unflatten(1, (count, -1)).transpose(0, 1)


class _StackedBatchNorm2d(nn.Module):
    """S batch normalisations: channels of different networks are different channels, so one call serves all."""

    depends_on_batch = True  # in train mode; see flatlab.modes.require_eval
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        first = models[0]
        assert isinstance(first, nn.BatchNorm2d)
        self.weight = _stacked_parameter(models, "weight")
        self.bias = _stacked_parameter(models, "bias")
        self.momentum, self.eps = float(first.momentum or 0), first.eps
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(model, name) for model in models]))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        flat = [None if p is None else p.flatten() for p in (self.weight, self.bias)]
        mean, var = self.running_mean.view(-1), self.running_var.view(-1)
        out = F.batch_norm(_channels(x), mean, var, flat[0], flat[1], self.training, self.momentum, self.eps)
        return out.unflatten(1, (x.shape[0], -1)).transpose(0, 1)


def _channels(x: Tensor) -> Tensor:
    """(S, B, C, H, W) -> (B, S*C, H, W)."""
    return x.transpose(0, 1).flatten(1, 2)


_FORMS: dict[type[nn.Module], Callable[[Sequence[nn.Module]], nn.Module]] = {
    nn.Linear: _StackedLinear,
    FourierFeatures: _stacked_fourier_features,
    nn.Conv2d: _StackedConv2d,
    nn.BatchNorm2d: _StackedBatchNorm2d,
}
