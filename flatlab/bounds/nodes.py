"""Operators of a captured module, and where they are used: what capturing, rules and passes all speak about."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from flatlab.bounds.interval import Interval
from flatlab.bounds.relax import Lines
from flatlab.bounds.sets import LpBall


@dataclass(frozen=True)
class Ref:
    """The value of node `index`. In a composite's expansion it knows the shape that the example gave it."""

    index: int
    shape: tuple[int, ...] = field(default=(), compare=False)


@dataclass(eq=False)
class Node:
    """One operator, or a leaf.

    Attributes:
        name: as torch.export calls it, with a suffix for parts of a composite.
        op: what is called on `args` and `kwargs`, in which a `Ref` stands for a value; None for a leaf.
        leaf: ("input", position), ("parameter", name), ("buffer", name), ("constant", tensor) or ("batch", None).
        key: the operator's name in torch.ops.aten, under which its rule is registered.
        source: the line of the user's code.
        pre: numbers that lie before the samples in memory; 0 if no such layout fits, since samples are mixed.
        hint: a tighter interval of the value, from that of another node: (function, Ref).
    """

    name: str
    op: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    leaf: tuple[str, Any] | None = None
    key: str = ""
    source: str = ""
    pre: int = 1
    hint: tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Ref] | None = None
    inputs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        flat = tree_flatten((self.args, self.kwargs))[0]
        self.inputs = tuple(leaf.index for leaf in flat if isinstance(leaf, Ref))
        self._beyond: dict[int, tuple[int, ...]] = {}

    @property
    def uses(self) -> tuple[int, ...]:
        """The nodes that the value or its hint refer to."""
        return self.inputs if self.hint is None else (*self.inputs, self.hint[1].index)

    def beyond(self, slots: int) -> tuple[int, ...]:
        """The nodes that arguments after the first `slots` refer to."""
        if slots not in self._beyond:
            leaves = tree_flatten((self.args[slots:], self.kwargs))[0]
            self._beyond[slots] = tuple(leaf.index for leaf in leaves if isinstance(leaf, Ref))
        return self._beyond[slots]

    def call(self, values: dict[int, Any]) -> Any:
        """The operator's value, given those of the nodes it refers to."""
        assert self.op is not None
        args = [_fill(arg, values) for arg in self.args]
        return self.op(*args, **{k: _fill(v, values) for k, v in self.kwargs.items()} if self.kwargs else {})

    def __str__(self) -> str:
        return f"{self.name} ({self.key or (self.leaf or ('?',))[0]})" + (f" at {self.source}" if self.source else "")


def _fill(argument: Any, values: dict[int, Any]) -> Any:
    """An argument with its references replaced; quicker than torch's pytree, which small networks would notice."""
    if isinstance(argument, Ref):
        return values[argument.index]
    if isinstance(argument, list | tuple):
        return [_fill(one, values) for one in argument]
    return argument


@dataclass(eq=False)
class LinearBounds:
    """lw x + lb <= z <= uw x + ub: lw, uw (D, *shape of z), with D inputs of a sample; lb, ub (*shape)."""

    lw: Tensor
    lb: Tensor
    uw: Tensor
    ub: Tensor


@dataclass(eq=False)
class Site:
    """An operator where it is used.

    Attributes:
        node: the operator.
        values: what does not depend on the perturbation, by node.
        hot: the nodes among its inputs that do.
        batch: the number of samples.
        relu: name of the lower slope of ReLUs.
        weight, bias: balls around its perturbed parameters, of which there are none but for linear and conv2d.
        lines: those of a pointwise operator, with the interval that they were last computed for.
    """

    node: Node
    values: dict[int, Any]
    hot: tuple[int, ...]
    batch: int
    relu: str = "adaptive"
    weight: LpBall | None = None
    bias: LpBall | None = None
    lines: tuple[Interval, Lines] | None = None

    @property
    def parameters_move(self) -> bool:
        """Whether its weight or its bias is perturbed."""
        return self.weight is not None or self.bias is not None

    def apply(self, *hot: Tensor) -> Tensor:
        """The operator with its hot inputs replaced."""
        values = {i: self.values.get(i) for i in self.node.inputs}
        return self.node.call(values | dict(zip(self.hot, hot, strict=True)))

    def argument(self, position: int, name: str = "", default: Any = None) -> Any:
        """The value of a constant argument."""
        args = self.node.args
        found = args[position] if position < len(args) else self.node.kwargs.get(name, default)
        return self.values[found.index] if isinstance(found, Ref) else found

    def dot(self, a: Tensor, t: Tensor | None) -> Tensor | float:
        """sum over each sample of a t: (S, *shape), (*shape) -> (S, B)."""
        if t is None:
            return 0.0
        plain = self.node.pre == 1 and a.ndim > 2 and a.shape[1] == self.batch
        if plain and a.shape[1:] == t.shape and a.dtype == t.dtype:
            if a.ndim == 5 and not a.is_contiguous():
                a, t = a.permute(0, 1, 3, 4, 2), t.permute(0, 2, 3, 1)
            return torch.einsum("sbn,bn->sb", a.flatten(2), t.flatten(1))  # one pass over memory
        return self.total(a * t)

    def total(self, a: Tensor) -> Tensor:
        """Sum (S, *shape) over everything but rows and samples: (S, B)."""
        if self.node.pre == 1 and a.ndim > 2 and a.shape[1] == self.batch:
            return a.sum(tuple(range(2, a.ndim)))
        return samples_first(a, self.node.pre, self.batch).sum(2)


def reach(starts: Iterable[int], before: Callable[[int], Iterable[int]]) -> set[int]:
    """The nodes that are found from `starts` by going to those `before` each, again and again."""
    found, todo = set[int](), list(starts)
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo += before(index)
    return found


def samples_first(a: Tensor, pre: int, batch: int) -> Tensor:
    """(S, *shape of a node) -> (S, B, numbers of a sample).

    Args:
        a: S values or coefficients of a node.
        pre: how many numbers lie before the samples in memory (`Node.pre`).
        batch: the number of samples B.
    """
    if pre == 1:
        return a.reshape(a.shape[0], batch, -1)
    return a.reshape(a.shape[0], pre, batch, -1).transpose(1, 2).flatten(2)


def node_shaped(t: Tensor, shape: Sequence[int], pre: int) -> Tensor:
    """(S, B, numbers of a sample) -> (S, *shape of a node): the way back from `samples_first`.

    Args:
        t: S values or coefficients of a node, samples first.
        shape: of the node.
        pre: how many numbers lie before the samples in memory (`Node.pre`).
    """
    if pre != 1:
        t = t.unflatten(2, (pre, -1)).transpose(1, 2)
    return t.reshape(t.shape[0], *shape)
