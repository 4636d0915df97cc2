"""How a module is measured: in eval mode, in a known precision, with autograd at hand; and left as it was found.

Inputs follow the dtype of the weights, and what comes back is at least float32. An attack takes a network of half
precision as it is (`call`). A measure of flatness compares values closer than half precision tells apart, so it takes
the same weights in float32 (`call_in_float32`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

HALF = (torch.float16, torch.bfloat16)
"""The dtypes of half precision."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Switch `model` to eval mode, and restore the flag of each submodule on the way out, also after an error."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in flags:
            module.training = training


def require_eval(model: nn.Module) -> None:
    """Raise RuntimeError if a layer whose output depends on the batch or on chance is in train mode.

    In train mode BatchNorm lets the samples of a batch see each other, and Dropout makes a measurement random.
    """
    for name, module in model.named_modules():
        batchwise = isinstance(module, _BatchNorm | _DropoutNd) or getattr(module, "depends_on_batch", False)
        if module.training and batchwise:
            raise RuntimeError(
                f"layer {name or 'model'!r} ({type(module).__name__}) is in train mode: call model.eval() first, "
                "or wrap the call in flatlab.modes.evaluating(model)"
            )


def require_gradients(like: Tensor) -> None:
    """Raise RuntimeError where gradients of tensors like this one would be missing, and seem zero, or be coarse."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "this measurement needs gradients, and torch.inference_mode() records none: leave it, or wrap the call in "
            "torch.inference_mode(False); torch.no_grad() does no harm"
        )
    if torch.is_autocast_enabled(device := like.device.type):
        raise RuntimeError(
            "this measurement needs gradients, which torch.autocast takes in half precision: leave it, or wrap the "
            f"call in torch.autocast({device!r}, enabled=False)"
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor of half precision in float32, any other one as it is."""
    return tensor.float() if tensor.dtype in HALF else tensor


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The dtype of a model's first floating-point parameter or buffer that is no single number, or None."""
    weights = chain(model.parameters(), model.buffers())
    return next((tensor.dtype for tensor in weights if tensor.is_floating_point() and tensor.ndim), None)


def call(model: nn.Module, x: Tensor) -> Tensor:
    """What a model returns for x (N, ...), which it is given in the dtype of its first weights; at least float32.

    Raises:
        TypeError: the model returns a tuple, a dictionary or another object that is no tensor.
    """
    return call_in(dtype_of(model), model, x)


def call_in(dtype: torch.dtype | None, model: nn.Module, x: Tensor) -> Tensor:
    """`call`, for a model whose `dtype_of` is known: to look for it costs a small network as much as a layer."""
    return at_least_float32(_tensor(model(x if dtype is None or not x.is_floating_point() else x.to(dtype))))


def call_in_float32(model: nn.Module, x: Tensor) -> Tensor:
    """`call` without autocast and with float32 copies of half-precision weights: smooth where rounding makes steps."""
    with in_float32(model) as copies, torch.autocast(device_type=x.device.type, enabled=False):
        return _tensor(functional_call(model, copies, (x.float(),))) if copies else call(model, x)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yields float32 copies, by name, of half-precision parameters and buffers, for `torch.func.functional_call`.

    If there are any, half-precision arguments of every layer arrive in float32 inside, too.
    """
    named = chain(model.named_parameters(), model.named_buffers())
    copies = {name: tensor.detach().float() for name, tensor in named if tensor.dtype in HALF}
    layers = model.modules() if copies else ()
    hooks = [layer.register_forward_pre_hook(_arguments_in_float32, with_kwargs=True) for layer in layers]
    try:
        yield copies
    finally:
        for hook in hooks:
            hook.remove()


def _arguments_in_float32(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    def cast(value: Any) -> Any:
        return at_least_float32(value) if isinstance(value, Tensor) else value

    return tuple(cast(value) for value in given), {name: cast(value) for name, value in named.items()}


def _tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    pick = "[0]" if isinstance(output, tuple | list) else "['logits']" if isinstance(output, dict) else ".logits"
    raise TypeError(
        f"the model must return a tensor of logits, got {type(output).__name__}: wrap it in a module whose forward "
        f"returns the tensor alone, such as model(x){pick}"
    )
