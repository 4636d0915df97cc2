"""Modules that take derivatives of functions, or map them over a batch, by torch.func: they cannot be captured.

torch.export fails inside of a transform with an error of its own kind, and leaves the transform open, so that whatever
comes next runs inside of it. Hence such a module is refused before.
"""

import contextlib
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatlab.bounds.errors import UnsupportedOperator


class _Transforms(TorchFunctionMode):
    """Notes the first function that is called inside of a transform."""

    found = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = torch._C._functorch.peek_interpreter_stack()
        if inside is not None and not self.found:
            kind = {"Grad": "grad, vjp or jacrev", "Jvp": "jvp or jacfwd", "Vmap": "vmap"}.get(inside.key().name)
            own = [frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
            self.found = f"torch.func ({kind or inside.key().name}) at {own[-1].filename}, line {own[-1].lineno}"
        return func(*args, **(kwargs or {}))


def refuse_transforms(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Raise UnsupportedOperator if a module uses transforms of torch.func on these inputs.

    Args:
        model: the module; its buffers are left as they are.
        inputs: of the module.
    """
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    seen = _Transforms()
    with seen, torch.no_grad(), contextlib.suppress(Exception):  # what else fails is reported by torch.export
        torch.func.functional_call(model, buffers, tuple(inputs))
    if seen.found:
        raise UnsupportedOperator(
            f"{type(model).__name__} uses {seen.found}: derivatives of functions and maps over a batch inside of a "
            "module have no rule. Write the derivative out with operators of flatlab.bounds.supported()"
        )
