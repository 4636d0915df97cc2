"""Windows: the part of each map that a number of a later map depends on, and the operators that windows pass.

The rows of a pass that begins at a map (B, C, H, W) are its numbers. Behind convolutions each of them depends on a
window of every map alone, whose place follows from the number's own: what lies outside has no coefficients.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import Node, Site
from flatlab.bounds.problem import Problem
from flatlab.bounds.transposes import pair

Pair = tuple[int, int]
Shape = tuple[int, ...]

WORTH = 1.5
"""What a number of a window costs, in numbers of whole maps."""

ALIKE = ("add", "mul", "div", "clone", "contiguous", "alias")
"""Operators, besides pointwise ones, that take each number from those of the same place, if all shapes agree."""


@dataclass(frozen=True)
class Window:
    """What the number at position p of the first map depends on: p step - lead and what follows, along both axes.

    Attributes:
        step: how far windows of neighbouring numbers are from each other.
        lead: where the first one begins, left of the map's first number.
        size: height and width.
    """

    step: Pair = (1, 1)
    lead: Pair = (0, 0)
    size: Pair = (1, 1)

    def behind(self, kernel: Pair, stride: Pair, padding: Pair) -> "Window":
        """The window of the input of an operator on kernels, from that of its output."""
        return Window(
            (self.step[0] * stride[0], self.step[1] * stride[1]),
            (self.lead[0] * stride[0] + padding[0], self.lead[1] * stride[1] + padding[1]),
            ((self.size[0] - 1) * stride[0] + kernel[0], (self.size[1] - 1) * stride[1] + kernel[1]),
        )

    def around(self, other: "Window") -> "Window | None":
        """The smallest window that holds both, if they move alike."""
        if self.step != other.step:
            return None
        lead = max(self.lead[0], other.lead[0]), max(self.lead[1], other.lead[1])
        ends = [max(self.size[i] - self.lead[i], other.size[i] - other.lead[i]) for i in range(2)]
        return Window(self.step, lead, (lead[0] + ends[0], lead[1] + ends[1]))


@dataclass(frozen=True)
class Plan:
    """How the rows of a map's numbers pass the operators behind it.

    Attributes:
        windows: node -> the window of its coefficients; those of other nodes are written out in full.
        sites: node -> the operator as it acts on windows, and the window of its inputs.
        shapes: node -> its shape.
    """

    windows: dict[int, Window]
    sites: dict[int, tuple[Node, Window]]
    shapes: dict[int, Shape]

    def largest(self) -> tuple[int, int]:
        """The node where a row has most coefficients, and how many those of all samples are."""
        sizes = {i: math.prod(shape) for i, shape in self.shapes.items()}
        sizes |= {i: math.prod(self.shapes[i][:2] + window.size) for i, window in self.windows.items()}
        return max(sizes.items(), key=lambda item: item[1])


def plan(problem: Problem, start: int, found: Mapping[int, Interval]) -> Plan | None:
    """How far windows go from a node; None if it is no map, or if they would not grow.

    Args:
        problem: what is asked.
        start: the node.
        found: intervals of the nodes behind it, for their shapes.
    """
    shape_of = lambda i: found[i].shape  # noqa: E731
    made, full = Plan({start: Window()}, {}, {start: shape_of(start)}), set[int]()
    if start not in problem.sites or not _is_map(problem, start, shape_of(start)):
        return None
    for index in reversed(problem.behind(start)):
        window, hot = made.windows.get(index), problem.sites[index].hot
        made.shapes.update({i: shape_of(i) for i in hot})
        passed = None if window is None else _pass(problem, index, window, made.shapes)
        if passed is None:
            made.windows.pop(index, None)
        else:
            made.sites[index] = passed
        for i in hot:
            inner = None if passed is None or i in full else passed[1]
            if inner is not None and i in made.windows:
                inner = inner.around(made.windows[i])
            shape = made.shapes[i]
            if (
                inner is not None
                and _is_map(problem, i, shape)
                and WORTH * math.prod(inner.size) < math.prod(shape[2:])
            ):
                made.windows[i] = inner
            else:
                made.windows.pop(i, None)
                full.add(i)
    return made if any(node.key in KERNELS for node, _ in made.sites.values()) else None


def _is_map(problem: Problem, index: int, shape: Shape) -> bool:
    return len(shape) == 4 and shape[0] == problem.batch and problem.pre(index) == 1


def _pass(problem: Problem, index: int, window: Window, shapes: Mapping[int, Shape]) -> tuple[Node, Window] | None:
    """The operator as it acts on windows, and the window of its inputs; None where windows do not pass it."""
    site = problem.sites[index]
    node, key = site.node, site.node.key
    if any(isinstance(arg, Tensor) and arg.ndim for arg in node.args):
        return None
    if key in KERNELS:
        return KERNELS[key](site, window)
    if key == "cat":
        parts = node.args[0]
        return (node, window) if len(parts) == len(site.hot) and node.args[1:] in ((1,), (-3,)) else None
    alike = key in ALIKE or problem.rule(index).kind == "pointwise"
    return (node, window) if alike and all(shapes[i] == shapes[index] for i in site.hot) else None


def _convolution(site: Site, window: Window) -> tuple[Node, Window] | None:
    node, padding = site.node, site.argument(4, "padding", 0)
    alone = site.hot == (node.args[0].index,) and not site.parameters_move and not node.kwargs
    if not alone or isinstance(padding, str):
        return None
    dilation, size = pair(site.argument(5, "dilation", 1)), site.argument(1).shape[2:]
    kernel = dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1
    return _unpadded(node, 4), window.behind(kernel, pair(site.argument(3, "stride", 1)), pair(padding))


def _average(site: Site, window: Window) -> tuple[Node, Window] | None:
    node = site.node
    kernel, padding = pair(node.args[1]), pair(site.argument(3, "padding", 0))
    stride = pair(site.argument(2, "stride") or kernel)
    ceil, whole = site.argument(4, "ceil_mode", False), site.argument(5, "count_include_pad", True)
    if node.kwargs or ceil or (padding != (0, 0) and not whole):
        return None
    return _unpadded(node, 3), window.behind(kernel, stride, padding)


def _unpadded(node: Node, position: int) -> Node:
    """The operator without padding, which windows hold already."""
    args = list(node.args)
    args[position : position + 1] = [0] if len(args) > position else []
    return replace(node, args=tuple(args))


KERNELS: dict[str, Callable[[Site, Window], tuple[Node, Window] | None]] = {
    "conv2d": _convolution,
    "avg_pool2d": _average,
}
"""Operators that take each number from a window of others."""
