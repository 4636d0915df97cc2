"""A landscape: a scalar function over a space, and the point of that space around which it is studied.

The space is a tuple of tensors: images, the logits of a table, the weights of a network, or weights and images
together. Everything else in this package (slices, curvature, sharpness) sees only that, so it works for any loss,
reward or likelihood and for data of any structure: the function closes over its data.

    over_tensors(lambda x: log_density(model(x)).sum(), images)          # the space of inputs
    over_parameters(model, lambda m: cross_entropy(m(x), y))             # the space of weights
    over_parameters(model, lambda m, x: cross_entropy(m(x), y), joint=(x,))   # weights times inputs

Nothing is ever written into the model: a function of weights is evaluated with other tensors standing in for the
parameters (torch.func.functional_call), so weights, `.grad` and `requires_grad` are untouched, also after an exception.
"""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlab import modes

Point = tuple[Tensor, ...]
"""A point of a space, or a displacement in it: one tensor per coordinate block."""

Function = Callable[..., Tensor]
"""A function of the tensors of a point, returning a scalar tensor that autograd can differentiate."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """The mean of one or more scalar functions over a space, and the point that slices and curvatures start from.

    Build it with `over_tensors` or `over_parameters`. Several functions (one per mini-batch, say) bound the memory:
    values, gradients and Hessian-vector products then go through one function at a time.

    Attributes:
        functions: functions of `*point`; the landscape is their unweighted mean, and each must be deterministic.
        point: tensors that share the memory of the model's float weights, so the point follows a model that trains on.
        names: one name per tensor of `point`.
    """

    functions: tuple[Function, ...]
    point: Point
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of dimensions of the space."""
        return sum(tensor.numel() for tensor in self.point)

    def __call__(self, *point: Tensor) -> Tensor:
        """The value at `point` (default: the landscape's own) as a differentiable scalar tensor."""
        at = point or self.point
        total = self.evaluate(self.functions[0], at)
        for function in self.functions[1:]:
            total = total + self.evaluate(function, at)
        return total / len(self.functions)

    def at(self, *point: Tensor) -> "Landscape":
        """The same function around another point, for example `landscape.at(*landscape.displaced(direction))`."""
        return replace(self, point=tuple(tensor.detach() for tensor in self.direction(point)))

    def value(self, *point: Tensor) -> float:
        """The value at `point` (default: the landscape's own), without a graph; it may be infinite away from home."""
        with torch.no_grad():
            return float(self(*point))

    def home(self) -> float:
        """The value at the landscape's own point; ValueError if it is not finite."""
        return finite(self.value())

    def gradient(self) -> Point:
        """The gradient at the landscape's own point."""
        return self.value_and_gradient()[1]

    def value_and_gradient(self) -> tuple[float, Point]:
        """The value and the gradient at the landscape's own point, each function evaluated once."""
        value, total = 0.0, [torch.zeros_like(tensor) for tensor in self.point]
        for function in self.functions:
            leaves = tuple(tensor.detach().requires_grad_() for tensor in self.point)
            part, slopes = self.differentiate(function, leaves, create_graph=False)
            value += float(part.detach()) / len(self.functions)
            for sum_, slope in zip(total, slopes, strict=True):
                sum_.add_(slope, alpha=1 / len(self.functions))
        return value, tuple(total)

    def displaced(self, direction: Tensor | Sequence[Tensor], scale: float = 1.0) -> Point:
        """The point plus `scale` times `direction`."""
        return tuple(t + scale * d for t, d in zip(self.point, self.direction(direction), strict=True))

    def direction(self, direction: Tensor | Sequence[Tensor]) -> Point:
        """`direction` as tensors shaped like the point, or ValueError; one tensor will do in a one-tensor space."""
        tensors = (direction,) if isinstance(direction, Tensor) else tuple(direction)
        shapes, wanted = [tuple(t.shape) for t in tensors], [tuple(t.shape) for t in self.point]
        if shapes != wanted:
            raise ValueError(f"the direction has shapes {shapes}, the space has {wanted} ({', '.join(self.names)})")
        return tuple(t.to(device=p.device, dtype=p.dtype) for t, p in zip(tensors, self.point, strict=True))

    def evaluate(self, function: Function, point: Sequence[Tensor]) -> Tensor:
        """One of the functions at `point`, checked to be a scalar tensor."""
        # Also under autocast: differences of values are less than half precision tells apart.
        with torch.autocast(device_type=point[0].device.type, enabled=False):
            value = function(*point)
        if not isinstance(value, Tensor):
            raise TypeError(f"a landscape's function must return a tensor, got {type(value).__name__}; drop .item()")
        if value.numel() != 1:
            raise ValueError(f"a landscape's function must return a scalar, got shape {tuple(value.shape)}; reduce it")
        return value.reshape(())

    def differentiate(self, function: Function, leaves: Point, *, create_graph: bool) -> tuple[Tensor, Point]:
        """The value of one of the functions, and its gradient, at leaves that require it.

        Args:
            function: one of `functions`.
            leaves: shaped like the point.
            create_graph: let the gradient be differentiated, too.
        """
        modes.require_gradients(leaves[0])
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext():
            # The plain attention kernel where a second derivative may follow: the fused ones have none.
            value = self.evaluate(function, leaves)
        if not value.requires_grad:
            raise ValueError("the landscape does not depend on its point through autograd: is something detached?")
        return value, torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True)


def finite(value: float) -> float:
    """The value of a landscape at its own point; ValueError if it is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"the landscape is {value} at its own point: check weights and data for NaN or overflow")
    return value


def over_tensors(function: Function | Sequence[Function], *tensors: Tensor) -> Landscape:
    """The landscape of `function(*tensors)` around `tensors`.

    Args:
        function: maps the tensors to a scalar tensor; a sequence of functions stands for their mean.
        tensors: the point, floating tensors of one dtype and device.

    Raises:
        TypeError: tensors of integers or of half precision.
        RuntimeError: tensors made inside `torch.inference_mode`.
        ValueError: no tensor or no function.
    """
    if not tensors:
        raise ValueError("a landscape needs at least one tensor as its point")
    for index, tensor in enumerate(tensors):
        if not tensor.is_floating_point():
            raise TypeError(f"tensor {index} of the point is {tensor.dtype}; a landscape needs floating coordinates")
        if tensor.dtype in modes.HALF:
            raise TypeError(
                f"tensor {index} of the point is {tensor.dtype}, too coarse for differences and second derivatives: "
                "pass tensor.float(), and let the function compute in float32"
            )
        if tensor.is_inference():
            raise RuntimeError(
                f"tensor {index} of the point was made inside torch.inference_mode(), which autograd refuses: "
                "pass tensor.clone(), made outside of it"
            )
    functions = (function,) if callable(function) else tuple(function)
    if not functions:
        raise ValueError("a landscape needs at least one function")
    return Landscape(functions, tuple(t.detach() for t in tensors), tuple(f"tensor{i}" for i in range(len(tensors))))


def over_parameters(
    model: nn.Module,
    loss: Callable[..., Tensor] | Sequence[Callable[..., Tensor]],
    *,
    only: Collection[str] | None = None,
    joint: Sequence[Tensor] = (),
) -> Landscape:
    """The landscape of `loss(model)` over the parameters of `model`, around their present values.

    Args:
        model: any module; `loss` gets this very object, so attributes and methods besides forward work too. While
            `loss` runs, other tensors stand in for its parameters. A nn.ModuleList holds the players of a game.
            Of half-precision weights, float32 copies made now are the point; each layer then computes in float32.
        loss: maps the model to a scalar tensor; a sequence of losses (one per mini-batch) stands for their mean.
        only: names of the parameters that span the space. Default: all that require gradients, in the order of
            `model.named_parameters()`.
        joint: further tensors that are coordinates of the space too, handed to `loss` after the model.

    Raises:
        ValueError: for unknown or no parameters.
        RuntimeError: on evaluation, if BatchNorm or Dropout layers are in train mode.
    """
    named = dict(model.named_parameters())
    chosen = [name for name, p in named.items() if (p.requires_grad if only is None else name in only)]
    unknown = sorted(set(only or ()) - set(named))
    if unknown or not chosen:
        raise ValueError(f"no parameters {unknown or 'that require gradients'}: choose from {', '.join(named)}")
    losses = (loss,) if callable(loss) else tuple(loss)

    def function_of(one: Callable[..., Tensor]) -> Function:
        bound, keys = _Bound(model, one), [f"model.{name}" for name in chosen]
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())

        def function(*point: Tensor) -> Tensor:
            modes.require_eval(model)
            # cuDNN's recurrent layers have no gradient in eval mode, and no second derivative at all.
            with (
                torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext(),
                modes.in_float32(model) as rest,
            ):
                stand_in = {f"model.{name}": tensor for name, tensor in rest.items()}
                stand_in |= zip(keys, point[: len(keys)], strict=True)
                return functional_call(bound, stand_in, tuple(point[len(keys) :]))

        return function

    point = (modes.at_least_float32(tensor) for tensor in (*(named[name] for name in chosen), *joint))
    space = over_tensors([function_of(one) for one in losses], *point)
    return Landscape(space.functions, space.point, (*chosen, *(f"joint{i}" for i in range(len(joint)))))


class _Bound(nn.Module):
    """A model and its loss as one module, so that functional_call covers whatever the loss does with the model."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *joint: Tensor) -> Any:
        return self.loss(self.model, *joint)
