"""Bounds in one call."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.bounds.engine import Bounds
from flatlab.bounds.graph import Program
from flatlab.bounds.sets import Box
from flatlab.bounds.specs import Margins

METHODS = ("ibp", "crown-ibp", "crown", "forward", "forward+backward", "alpha-crown")


def compute_bounds(
    model: nn.Module | Program,
    x: Tensor | Sequence[Tensor],
    sets: Box | Mapping[int | str, Box],
    method: str = "crown",
    c: Tensor | Margins | None = None,
    *,
    iters: int = 20,
    joint: bool = False,
    relu: str = "adaptive",
    memory_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of a module's output over a perturbation set.

    Args:
        model: the module, or what `Program` captured of it (capturing takes a moment: keep it for repeated use).
        x: the inputs.
        sets: as in `Bounds`.
        method: ibp, crown-ibp, crown, forward, forward+backward or alpha-crown.
        c: C (B, S, K) to bound C times the output, `Margins`, or None.
        iters, joint: of alpha-crown.
        relu, memory_limit: as in `Bounds`.

    Returns:
        Two tensors of the output's shape, or (B, S).
    """
    checks.one_of("method", method, METHODS)
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    program = model if isinstance(model, Program) else Program(model, *inputs)
    bounds = Bounds(program, inputs, sets, relu=relu, memory_limit=memory_limit)
    if method == "ibp":
        return bounds.ibp(c, keep=False)
    if method == "forward":
        return bounds.forward(c)
    if method == "alpha-crown":
        with torch.no_grad():
            return bounds.alpha_crown(c, iters=iters, joint=joint)
    return bounds.crown(c, intermediate={"crown-ibp": "ibp", "crown": "crown", "forward+backward": "forward"}[method])
