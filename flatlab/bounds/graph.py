"""A module as a list of operators: what torch.export sees, with composite operators expanded.

`Program` captures a module once, with a dynamic batch. Parameters and buffers are read from the module each time, so
that training moves them under the captured graph. Operators that the bounds have no rule for of their own (softmax,
layer norm, an LSTM ...) are replaced by those that they are made of (`flatlab.bounds.composites`).

A sample is followed through every layout that a network gives it: values are (pre, B, post) in memory, and `pre` is 1
but inside an attention layer that works time first, say. It is found at capture, by spoiling one sample of an example
after the other: NaN goes wherever a sample goes.
"""

import inspect
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from flatlab.bounds.errors import UnsupportedOperator

aten = torch.ops.aten


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


class Program:
    """A captured module.

    Args:
        model: the module; captured in the mode (train or eval) that it is in.
        inputs: example inputs; dimension 0 of each is the batch, and any batch size may be bounded later.

    Attributes:
        nodes: in topological order.
        inputs: the nodes of the inputs.
        output: the node of the output, a single tensor.

    Raises:
        UnsupportedOperator: the captured operators do not compute what the module computes.
        RuntimeError: torch.export cannot capture the module; its own message follows.
    """

    def __init__(self, model: nn.Module, *inputs: Tensor) -> None:
        from flatlab.bounds.rules import composites  # the rules need the classes above

        self.model, self.training = model, model.training
        if not inputs or len({x.shape[:1] for x in inputs}) > 1 or not all(x.ndim and x.shape[0] for x in inputs):
            shapes = [tuple(x.shape) for x in inputs]
            raise ValueError(f"dimension 0 of all inputs must be the same batch of one or more, got shapes {shapes}")
        examples = [_three(x) for x in inputs]
        own = [x.detach() * 1 for x in inputs]  # torch.export would take an input given twice for one
        exported, dynamic = _export(model, examples, own)
        values = examples if dynamic else own
        self.batch = None if dynamic else int(values[0].shape[0])
        build = _Builder(model, values, composites())
        self.output = build.run(exported)
        self.nodes, self.inputs = build.nodes, build.inputs
        _compare(model, values, build.values[0][self.output])
        self._prune()

    def leaves(self, inputs: Sequence[Tensor]) -> dict[int, Any]:
        """The present values of inputs, parameters, buffers and constants."""
        if self.batch is not None and int(inputs[0].shape[0]) != self.batch:
            raise ValueError(
                f"this module could only be captured with its batch fixed at {self.batch}, "
                f"got {int(inputs[0].shape[0])}; capture it anew with an example of that size"
            )
        found: dict[int, Any] = {}
        for index, node in enumerate(self.nodes):
            if node.leaf is None:
                continue
            kind, what = node.leaf
            if kind == "input":
                found[index] = inputs[what]
            elif kind == "batch":
                found[index] = int(inputs[0].shape[0])
            elif kind == "constant":
                found[index] = what.to(inputs[0].device) if isinstance(what, Tensor) else what
            else:
                found[index] = self.tensor(kind, what)
        return found

    def tensor(self, kind: str, name: str) -> Tensor:
        """A parameter or buffer of the module by its name."""
        return self.model.get_parameter(name) if kind == "parameter" else self.model.get_buffer(name)

    def evaluate(self, wanted: Iterable[int], values: dict[int, Any]) -> dict[int, Any]:
        """The values of the wanted nodes and of all they need, added to `values`."""
        needed, todo = set(), [index for index in wanted if index not in values]
        while todo:
            index = todo.pop()
            if index in needed or index in values:
                continue
            needed.add(index)
            todo += self.nodes[index].inputs
        for index in sorted(needed):
            values[index] = self.nodes[index].call(values)
        return values

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the module computes."""
        return self.evaluate([self.output], self.leaves(inputs))[self.output]

    def _prune(self) -> None:
        """Drop what the output does not need, and number the rest anew."""
        needed, todo = set(self.inputs), [self.output]
        while todo:
            index = todo.pop()
            if index not in needed or index in self.inputs:
                needed.add(index)
                node = self.nodes[index]
                todo += [i for i in (*node.inputs, *([node.hint[1].index] if node.hint else [])) if i not in needed]
        order = {old: new for new, old in enumerate(sorted(needed))}
        move = lambda leaf: Ref(order[leaf.index]) if isinstance(leaf, Ref) else leaf  # noqa: E731
        kept = [self.nodes[old] for old in sorted(needed)]
        for node in kept:
            node.args, node.kwargs = tree_map(move, (node.args, node.kwargs))
            node.inputs = tuple(order[i] for i in node.inputs)
            if node.hint is not None:
                node.hint = (node.hint[0], Ref(order[node.hint[1].index]))
        self.nodes, self.output = kept, order[self.output]
        self.inputs = [order[i] for i in self.inputs]


class Emitter:
    """What a composite's expansion writes new nodes with: emit.exp(x), emit.sum(x, [-1], True) ..."""

    def __init__(self, builder: "_Builder", node: Any, source: str) -> None:
        self._builder, self._name, self._source = builder, str(node.name), source

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._builder.add(self._name, getattr(aten, name), args, kwargs, self._source)

        return call

    def clean(self, x: Ref) -> Ref:
        """The value of `x` at the centre of the set, as a constant."""
        return self._builder.add(self._name, clean, (x,), {}, self._source)

    def moves(self, x: Ref) -> bool:
        """Whether a value depends on the inputs."""
        one, two = (store[x.index] for store in self._builder.values[:2])
        return isinstance(one, Tensor) and not torch.equal(one, two)

    def dtype(self, x: Ref) -> torch.dtype:
        """The type of a value's numbers."""
        return self._builder.values[0][x.index].dtype

    def apply(self, function: Callable[..., Any], *args: Any) -> Ref:
        """A function that torch.ops.aten does not have; its rule is registered under its name."""
        return self._builder.add(self._name, function, args, {}, self._source)

    @property
    def training(self) -> bool:
        """Whether the module is in train mode."""
        return self._builder.model.training

    def hint(self, ref: Ref, interval: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], of: Ref) -> Ref:
        """Note that the interval of `ref` is also bounded by interval(lower, upper) of the node `of`."""
        self._builder.nodes[ref.index].hint = (interval, of)
        return ref


def clean(x: Tensor) -> Tensor:
    """Marks a value that the bounds take as a constant."""
    return x


class _Builder:
    """Runs over an exported graph with an example, and with copies in which one sample is spoilt; writes down nodes."""

    def __init__(self, model: nn.Module, examples: list[Tensor], expansions: Mapping[str, Callable[..., Any]]) -> None:
        self.model, self.examples, self.expansions = model, examples, expansions
        self.batch = int(examples[0].shape[0])
        self.nodes: list[Node] = []
        self.inputs: list[int] = []
        self.spoilt = sorted({0, min(1, self.batch - 1), self.batch - 1})
        self.values: list[dict[int, Any]] = [{} for _ in (None, *self.spoilt)]
        self.sizes: dict[Any, Ref] = {}
        self.symbols: set[str] = set()
        self.order: dict[Any, int] = {}

    def run(self, exported: Any) -> int:
        signature = exported.graph_signature
        self.order = {fx: i for i, fx in enumerate(exported.graph.nodes)}
        live = {name for name, _ in self.model.named_buffers(remove_duplicate=False)}
        known: dict[str, tuple[str, Any]] = {
            name: ("parameter", t) for name, t in signature.inputs_to_parameters.items()
        }
        known |= {name: ("buffer", target) for name, target in signature.inputs_to_buffers.items()}
        constants = getattr(signature, "inputs_to_lifted_tensor_constants", {})
        env: dict[Any, Any] = {}
        position = 0
        for fx in exported.graph.nodes:
            if fx.op == "placeholder":
                name = constants.get(fx.name) or known.get(fx.name, ("", ""))[1]
                if name in exported.constants and name not in live:
                    env[fx] = self.leaf(fx.name, ("constant", exported.constants[name]), exported.constants[name])
                elif fx.name in known:
                    kind, name = known[fx.name]
                    value = self.model.get_parameter(name) if kind == "parameter" else self.model.get_buffer(name)
                    env[fx] = self.leaf(fx.name, (kind, name), value.detach())
                elif isinstance(fx.meta.get("val"), Tensor):
                    x = self.examples[position]
                    env[fx] = self.leaf(fx.name, ("input", position), x, *(_spoil(x, i) for i in self.spoilt))
                    self.symbols.add(str(fx.meta["val"].shape[0]))
                    self.inputs.append(env[fx].index)
                    position += 1
                else:
                    raise UnsupportedOperator(f"the module uses {fx.name}, which is neither input nor tensor")
            elif fx.op == "get_attr":
                value = getattr(exported.graph_module, fx.target)
                env[fx] = self.leaf(fx.name, ("constant", value), value)
            elif fx.op == "call_function":
                self.call(fx, env)
            elif fx.op == "output":
                outputs = tree_flatten(fx.args[0])[0]
                result = env.get(outputs[0]) if len(outputs) == 1 else None
                if not isinstance(result, Ref):
                    raise ValueError(f"the module must return one tensor, it returns {len(outputs)}")
                return result.index
        raise AssertionError("an exported graph has an output")

    def leaf(self, name: str, leaf: tuple[str, Any], value: Any, *spoilt: Any) -> Ref:
        self.nodes.append(Node(name, None, leaf=leaf))
        for store, one in zip(self.values, (value, *(spoilt or [value] * len(self.spoilt))), strict=True):
            store[len(self.nodes) - 1] = one
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        return Ref(len(self.nodes) - 1, shape)

    def call(self, fx: Any, env: dict[Any, Any]) -> None:
        """One node of the exported graph: fold sizes, undo in-place operators, expand composites."""
        args, kwargs = torch.fx.node.map_arg((fx.args, dict(fx.kwargs)), lambda n: env[n])
        source = _source(fx)
        if fx.target is operator.getitem:
            whole = args[0]
            env[fx] = self.add(fx.name, fx.target, args, kwargs, source) if isinstance(whole, Ref) else whole[args[1]]
            return
        packet = getattr(fx.target, "overloadpacket", None)
        name = packet.__name__ if packet is not None else getattr(fx.target, "__name__", str(fx.target))
        if packet is None or name == "sym_size":
            env[fx] = self.size(fx, args, kwargs)
            return
        if name.startswith("_assert") or name in ("sym_constrain_range_for_size", "_assert_scalar"):
            return
        target: Any = fx.target
        if name.endswith("_") and not name.endswith("__"):
            name, target = name[:-1], getattr(aten, name[:-1], fx.target)
            if isinstance(args[0], Ref) and self.seen(fx, args[0], env):
                raise UnsupportedOperator(
                    f"{fx.name} ({name}_) at {source} writes into memory that is read later under another name: use "
                    f"{name}() instead"
                )
        made = self.expand(name, target, args, kwargs, fx, source)
        env[fx] = made
        if str(fx.target).split(".")[1].endswith("_") and isinstance(fx.args[0], torch.fx.Node):
            for other, ref in list(env.items()):  # whoever reads the tensor from now on reads the new value
                if ref == args[0] and other is not fx:
                    env[other] = made

    def seen(self, fx: Any, changed: Ref, env: dict[Any, Any]) -> bool:
        """Whether what an in-place operator writes is read later through another view of the same memory."""
        memory = lambda ref: self.values[0][ref.index].untyped_storage().data_ptr()  # noqa: E731
        for other, made in env.items():
            if not any(self.order[user] > self.order[fx] for user in other.users):
                continue
            for ref in made if isinstance(made, list | tuple) else [made]:
                tensor = isinstance(ref, Ref) and isinstance(self.values[0][ref.index], Tensor)
                if tensor and (ref != changed or ref is not made) and memory(ref) == memory(changed):
                    return True
        return False

    def expand(self, name: str, target: Any, args: Any, kwargs: Any, fx: Any, source: str) -> Any:
        expansion = self.expansions.get(name)
        if expansion is not None:
            found = expansion(Emitter(self, fx, source), *args, **kwargs)
            if found is not NotImplemented:
                return found
        return self.add(str(fx.name), target, args, kwargs, source)

    def size(self, fx: Any, args: Any, kwargs: Any) -> Any:
        """A number made of sizes: constant, or computed from the batch size."""
        meta = fx.meta.get("val")
        if isinstance(meta, int) or not isinstance(meta, torch.SymInt):
            if not any(isinstance(a, Ref) for a in tree_flatten((args, kwargs))[0]):
                return fx.target(*args, **kwargs)
            if isinstance(meta, int | float | bool):
                return meta
        expression = str(getattr(meta, "node", meta))
        if "aten.sym_size" in str(fx.target) and expression in self.symbols:
            if expression not in self.sizes:
                self.sizes[expression] = self.leaf(fx.name, ("batch", None), self.batch)
            return self.sizes[expression]
        return self.add(str(fx.name), fx.target, args, kwargs, _source(fx))

    def add(self, name: str, op: Any, args: Any, kwargs: Any, source: str) -> Ref:
        """Write a node down and evaluate it on all examples."""
        key = getattr(getattr(op, "overloadpacket", op), "__name__", str(op))
        if op is not clean and key in self.expansions and not hasattr(op, "overloadpacket"):
            made = self.expansions[key](_Nested(self, name, source), *args, **kwargs)
            if made is not NotImplemented:
                return made
        args = [self.leaf(name, ("constant", a), a) if isinstance(a, Tensor) else a for a in args]
        node = Node(name, op, tuple(args), dict(kwargs), key="clean" if op is clean else key, source=source)
        index = len(self.nodes)
        self.nodes.append(node)
        with torch.no_grad():
            one = node.call(self.values[0])
            others = [one if op is clean else node.call(store) for store in self.values[1:]]
        for store, value in zip(self.values, (one, *others), strict=True):
            store[index] = value
        node.pre = _pre(one, others, self.spoilt, self.batch) if isinstance(one, Tensor) else 1
        return Ref(index, tuple(one.shape) if isinstance(one, Tensor) else ())


class _Nested(Emitter):
    """The emitter of a composite inside a composite."""

    def __init__(self, builder: _Builder, name: str, source: str) -> None:
        self._builder, self._name, self._source = builder, name, source


def _export(model: nn.Module, examples: list[Tensor], inputs: list[Tensor]) -> tuple[Any, bool]:
    """The exported module, with a dynamic batch if possible."""
    dynamic: list[Any] = [{0: torch.export.Dim.DYNAMIC} for _ in examples]
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # what *args takes counts as one argument
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        dynamic[named:] = [tuple(dynamic[named:])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that torch's recurrent layers assign
        try:
            return torch.export.export(model, tuple(examples), dynamic_shapes=tuple(dynamic), strict=False), True
        except Exception:
            try:
                return torch.export.export(model, tuple(inputs), strict=False), False
            except Exception as error:
                raise RuntimeError(
                    f"torch.export cannot capture {type(model).__name__}: {error}\nBounds need a module without "
                    "control flow that depends on data; see torch.export's documentation"
                ) from error


def _three(x: Tensor) -> Tensor:
    """Three samples: what a batch of one would let torch.export take for a constant stays a batch."""
    if not x.is_floating_point():
        return x.detach()[[0] * 3] if x.shape[0] < 3 else x.detach()[:3]
    rows = x.detach()[[i % x.shape[0] for i in range(3)]]
    ramp = torch.linspace(0.9, 1.1, rows[0].numel(), dtype=x.dtype, device=x.device).reshape(rows[0].shape)
    return torch.stack([row * ramp.roll(i) + 0.01 * (i + 1) for i, row in enumerate(rows)])


def _spoil(x: Tensor, sample: int) -> Tensor:
    """Like `x`, with NaN for one sample; or with other ones of the codes and truth values that occur."""
    other = x.clone()
    if x.is_floating_point():
        other[sample] = torch.nan
    else:
        other[sample] = ~x[sample] if x.dtype == torch.bool else x.max() + x.min() - x[sample]
    return other


def _pre(one: Tensor, others: Sequence[Tensor], samples: Sequence[int], batch: int) -> int:
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


def _compare(model: nn.Module, inputs: Sequence[Tensor], found: Tensor) -> None:
    """Raise UnsupportedOperator unless the captured operators compute what the module computes."""
    buffers = {name: b.clone() for name, b in model.named_buffers()}  # train mode writes to them
    with torch.no_grad():
        wanted = torch.func.functional_call(model, buffers, tuple(inputs))
        wanted = tree_flatten(wanted)[0][-1]
        size = 1 + float(wanted.nan_to_num().abs().max())
        same = wanted.shape == found.shape and torch.allclose(wanted, found, rtol=0, atol=1e-3 * size, equal_nan=True)
    if not same:
        raise UnsupportedOperator(
            f"the operators captured of {type(model).__name__} do not compute what it computes: bounds need modules "
            "that are deterministic (no dropout or noise in this mode), and that do not write into views"
        )


def _source(fx: Any) -> str:
    """The innermost line of the stack trace that is not torch's own, else the innermost."""
    lines = [line.strip() for line in (fx.meta.get("stack_trace") or "").splitlines() if "File " in line]
    own = [line for line in lines if "/torch/" not in line]
    return (own or lines or [""])[-1].removeprefix("File ").replace(", in forward", "").replace('"', "")
