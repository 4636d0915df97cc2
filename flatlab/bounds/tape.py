"""The list of operators that capturing writes, each evaluated on an example as it is written.

A sample is followed through every layout that a network gives it: values are (pre, B, post) in memory, and `pre` is 1
but inside an attention layer that works time first, say. It is found by evaluating copies of the example in which one
sample is spoilt: NaN goes wherever the sample goes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.nodes import Node, Ref

aten = torch.ops.aten


class Emitter:
    """What a composite's expansion writes new nodes with: emit.exp(x), emit.sum(x, [-1], True) ..."""

    def __init__(self, tape: "Tape", name: str, source: str) -> None:
        self._tape, self._name, self._source = tape, name, source

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._tape.add(self._name, getattr(aten, name), args, kwargs, self._source)

        return call

    def plain(self, name: str, *args: Any) -> Any:
        """An operator that is not expanded."""
        return self._tape.add(self._name, getattr(aten, name), args, {}, self._source, whole=True)

    def clean(self, x: Ref) -> Ref:
        """The value of `x` at the centre of the set, as a constant."""
        return self._tape.add(self._name, clean, (x,), {}, self._source)

    def moves(self, x: Ref) -> bool:
        """Whether a value depends on the inputs."""
        one, two = (store[x.index] for store in self._tape.values[:2])
        return isinstance(one, Tensor) and not torch.equal(one, two)

    def refusal(self, why: str) -> UnsupportedOperator:
        """The error that the operator cannot be expanded."""
        return UnsupportedOperator(f"{self._name} at {self._source} {why}")

    def node(self, x: Ref) -> Node:
        """The operator that made a value."""
        return self._tape.nodes[x.index]

    def value(self, x: Ref) -> Tensor:
        """A value on the example."""
        return self._tape.values[0][x.index]

    def dtype(self, x: Ref) -> torch.dtype:
        """The type of a value's numbers."""
        return self._tape.values[0][x.index].dtype

    def apply(self, function: Callable[..., Any], *args: Any) -> Ref:
        """A function that torch.ops.aten does not have; its rule is registered under its name."""
        return self._tape.add(self._name, function, args, {}, self._source)

    @property
    def training(self) -> bool:
        """Whether the module is in train mode."""
        return self._tape.model.training

    def hint(self, ref: Ref, interval: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], of: Ref) -> Ref:
        """Note that an interval of one node follows from that of another, and return the former.

        Args:
            ref: the node whose interval is tightened.
            interval: ends of the interval of `of` -> ends of one that holds `ref`.
            of: the other node.
        """
        self._tape.nodes[ref.index].hint = (interval, of)
        return ref


def clean(x: Tensor) -> Tensor:
    """Marks a value that the bounds take as a constant."""
    return x


class Tape:
    """Nodes, and their values on an example and on copies of it in which one sample is spoilt.

    Args:
        model: the module that is captured; its mode is that of the capture.
        batch: number of samples of the example.
        expansions: operators that are replaced by others, by name (`flatlab.bounds.expansions`).
    """

    def __init__(self, model: nn.Module, batch: int, expansions: Mapping[str, Callable[..., Any]]) -> None:
        self.model, self.batch, self.expansions = model, batch, expansions
        self.nodes: list[Node] = []
        self.spoilt = sorted({0, min(1, batch - 1), batch - 1})
        self.values: list[dict[int, Any]] = [{} for _ in (None, *self.spoilt)]

    def leaf(self, name: str, leaf: tuple[str, Any], value: Any, *spoilt: Any) -> Ref:
        """Write a leaf down, with its value on the example and, where they differ, on the spoilt copies."""
        self.nodes.append(Node(name, None, leaf=leaf))
        for store, one in zip(self.values, (value, *(spoilt or [value] * len(self.spoilt))), strict=True):
            store[len(self.nodes) - 1] = one
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        return Ref(len(self.nodes) - 1, shape)

    def add(self, name: str, op: Any, args: Any, kwargs: Any, source: str, *, whole: bool = False) -> Any:
        """Write a node down and evaluate it on all examples; or, unless `whole`, what it is expanded to."""
        key = getattr(getattr(op, "overloadpacket", op), "__name__", str(op))
        if op is not clean and not whole and key in self.expansions:
            made = self.expansions[key](Emitter(self, name, source), *args, **kwargs)
            if made is not NotImplemented:
                return made
        if key in ("view", "_unsafe_view"):  # what our operators give may lie in memory in another order
            op = aten.reshape.default
        args = [self.leaf(name, ("constant", a), a) if isinstance(a, Tensor) else a for a in args]
        node = Node(name, op, tuple(args), dict(kwargs), key="clean" if op is clean else key, source=source)
        index = len(self.nodes)
        self.nodes.append(node)
        with torch.no_grad():
            one = node.call(self.values[0])
            others = [one if op is clean else node.call(store) for store in self.values[1:]]
        for store, value in zip(self.values, (one, *others), strict=True):
            store[index] = value
        node.pre = samples_at(one, others, self.spoilt, self.batch) if isinstance(one, Tensor) else 1
        return Ref(index, tuple(one.shape) if isinstance(one, Tensor) else ())


def spoil(x: Tensor, sample: int) -> Tensor:
    """Like `x`, with NaN for one sample; or with other ones of the codes and truth values that occur."""
    other = x.clone()
    if x.is_floating_point():
        other[sample] = torch.nan
    else:
        other[sample] = ~x[sample] if x.dtype == torch.bool else x.max() + x.min() - x[sample]
    return other


def samples_at(one: Tensor, others: Sequence[Tensor], samples: Sequence[int], batch: int) -> int:
    """How many numbers lie before the samples in memory, from what changes with each of some samples; 0 if none fit."""
    if any(other.shape != one.shape for other in others):
        return 0
    changed = [(one != other) & ~(one.isnan() & other.isnan()) for other in others]
    if not any(bool(c.any()) for c in changed):
        return 1
    rest, odd = divmod(one.numel(), batch)
    for pre in (p for p in range(1, 0 if odd else rest + 1) if rest % p == 0):
        own = (c.reshape(pre, batch, rest // pre)[:, i] for c, i in zip(changed, samples, strict=True))
        if all(int(part.sum()) == int(c.sum()) for part, c in zip(own, changed, strict=True)):
            return pre
    return 0
