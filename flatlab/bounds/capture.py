"""A module as a list of operators: what torch.export sees, with composite operators expanded.

`Program` captures a module once, with a dynamic batch. Parameters and buffers are read from the module each time, so
that training moves them under the captured graph. Operators that the bounds have no rule for of their own (layer norm,
attention, an LSTM ...) are replaced by those that they are made of (`flatlab.bounds.expansions`).
"""

import inspect
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from flatlab.bounds.decompositions import decompose, without_rule
from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.expansions import EXPANSIONS
from flatlab.bounds.nodes import Ref, reach
from flatlab.bounds.tape import Tape, aten, spoil
from flatlab.bounds.transforms import refuse_transforms


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
        self.model, self.training = model, model.training
        if not inputs or len({x.shape[:1] for x in inputs}) > 1 or not all(x.ndim and x.shape[0] for x in inputs):
            shapes = [tuple(x.shape) for x in inputs]
            raise ValueError(f"dimension 0 of all inputs must be the same batch of one or more, got shapes {shapes}")
        examples = [_three(x) for x in inputs]
        own = [x.detach() * 1 for x in inputs]  # torch.export would take an input given twice for one
        refuse_transforms(model, own)
        exported, dynamic = _export(model, examples, own)
        values = examples if dynamic else own
        self.batch = None if dynamic else int(values[0].shape[0])
        read = _read(model, values, exported)
        self.nodes, self.inputs, self.output = read.nodes, read.inputs, read.output
        _compare(model, values, read.values[0][self.output])
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
        missing = lambda some: [i for i in some if i not in values]  # noqa: E731
        for index in sorted(reach(missing(wanted), lambda i: missing(self.nodes[i].inputs))):
            values[index] = self.nodes[index].call(values)
        return values

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the module computes."""
        return self.evaluate([self.output], self.leaves(inputs))[self.output]

    def _prune(self) -> None:
        """Drop what the output does not need, and number the rest anew."""
        needed = sorted(reach([self.output, *self.inputs], lambda i: self.nodes[i].uses))
        order = {old: new for new, old in enumerate(needed)}
        move = lambda leaf: Ref(order[leaf.index]) if isinstance(leaf, Ref) else leaf  # noqa: E731
        kept = [self.nodes[old] for old in needed]
        for node in kept:
            node.args, node.kwargs = tree_map(move, (node.args, node.kwargs))
            node.inputs = tuple(order[i] for i in node.inputs)
            if node.hint is not None:
                node.hint = (node.hint[0], Ref(order[node.hint[1].index]))
        self.nodes, self.output = kept, order[self.output]
        self.inputs = [order[i] for i in self.inputs]


class _Reader(Tape):
    """Reads an exported graph, operator by operator."""

    def __init__(self, model: nn.Module, examples: list[Tensor]) -> None:
        super().__init__(model, int(examples[0].shape[0]), EXPANSIONS)
        self.examples = examples
        self.inputs: list[int] = []
        self.output = -1
        self.sizes: dict[Any, Ref] = {}
        self.symbols: set[str] = set()
        self.order: dict[Any, int] = {}

    def run(self, exported: Any) -> None:
        """Write all operators of an exported graph down."""
        signature = exported.graph_signature
        self.order = {fx: i for i, fx in enumerate(exported.graph.nodes)}
        live = {name for name, _ in self.model.named_buffers(remove_duplicate=False)}
        known = {name: ("parameter", target) for name, target in signature.inputs_to_parameters.items()}
        known |= {name: ("buffer", target) for name, target in signature.inputs_to_buffers.items()}
        constants = getattr(signature, "inputs_to_lifted_tensor_constants", {})
        env: dict[Any, Any] = {}
        position = 0
        for fx in exported.graph.nodes:
            if fx.op == "placeholder":
                name = constants.get(fx.name) or known.get(fx.name, ("", ""))[1]
                if fx.name in signature.input_tokens:  # the order of checks that may fail
                    env[fx] = None
                elif name in exported.constants and name not in live:
                    env[fx] = self.leaf(fx.name, ("constant", exported.constants[name]), exported.constants[name])
                elif fx.name in known:
                    kind, name = known[fx.name]
                    value = self.model.get_parameter(name) if kind == "parameter" else self.model.get_buffer(name)
                    env[fx] = self.leaf(fx.name, (kind, name), value.detach())
                elif isinstance(fx.meta.get("val"), Tensor):
                    x = self.examples[position]
                    env[fx] = self.leaf(fx.name, ("input", position), x, *(spoil(x, i) for i in self.spoilt))
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
                outputs = tree_flatten(fx.args[0])[0][-len(signature.user_outputs) or None :]  # before: new buffers
                result = env.get(outputs[0]) if len(outputs) == 1 else None
                if not isinstance(result, Ref):
                    raise ValueError(f"the module must return one tensor, it returns {len(outputs)}")
                self.output = result.index

    def call(self, fx: Any, env: dict[Any, Any]) -> None:
        """One node of the exported graph: fold sizes, undo in-place operators, expand composites."""
        args, kwargs = torch.fx.node.map_arg((fx.args, dict(fx.kwargs)), lambda n: env[n])
        source = _source(fx)
        if fx.target is operator.getitem:
            whole = args[0]
            env[fx] = self.add(fx.name, fx.target, args, kwargs, source) if isinstance(whole, Ref) else whole[args[1]]
            return
        packet = getattr(fx.target, "overloadpacket", None)
        if str(fx.target) == "with_effects":
            env[fx] = [None]
            return
        if packet is None or packet.__name__ == "sym_size":
            env[fx] = self.size(fx, args, kwargs)
            return
        name, target = packet.__name__, fx.target
        if name.startswith("_assert") or name == "sym_constrain_range_for_size":
            return
        if name.endswith("_") and not name.endswith("__"):
            name, target = name[:-1], getattr(aten, name[:-1], fx.target)
            if isinstance(args[0], Ref) and self.seen(fx, args[0], env):
                raise UnsupportedOperator(
                    f"{fx.name} ({name}_) at {source} writes into memory that is read later under another name"
                    + (
                        f": use {name}() instead"
                        if name not in ("copy", "fill", "index_put")
                        else ", as does the assignment to an index, x[...] = y: use torch.where, torch.cat or "
                        "x.masked_fill instead"
                    )
                )
        made = env[fx] = self.add(fx.name, target, args, kwargs, source)
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
        return self.add(fx.name, fx.target, args, kwargs, _source(fx))


def _read(model: nn.Module, examples: list[Tensor], exported: Any) -> _Reader:
    """The operators of an exported module; what has no rule as torch itself takes it apart."""
    known: set[Any] = set()
    while True:
        read = _Reader(model, examples)
        read.run(exported)
        perturbed = [i for i, x in zip(read.inputs, examples, strict=True) if x.is_floating_point()]
        missing = without_rule(read.nodes, perturbed)
        if missing <= known:
            return read
        known |= missing
        exported = decompose(exported, missing)


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
                    "control flow that depends on data, and without derivatives (torch.autograd.grad) inside; see "
                    "torch.export's documentation"
                ) from error


def _three(x: Tensor) -> Tensor:
    """Three different samples made of the example, since torch.export takes a batch of one for a constant."""
    if not x.is_floating_point():
        return x.detach()[[0] * 3] if x.shape[0] < 3 else x.detach()[:3]
    rows = x.detach()[[i % x.shape[0] for i in range(3)]]
    ramp = torch.linspace(0.9, 1.1, rows[0].numel(), dtype=x.dtype, device=x.device).reshape(rows[0].shape)
    return torch.stack([row * ramp.roll(i) + 0.01 * (i + 1) for i, row in enumerate(rows)])


def _compare(model: nn.Module, inputs: Sequence[Tensor], found: Tensor) -> None:
    """Raise UnsupportedOperator unless the captured operators compute what the module computes."""
    buffers = {name: b.clone() for name, b in model.named_buffers()}  # train mode writes to them
    with torch.no_grad():
        wanted = torch.func.functional_call(model, buffers, tuple(inputs))
        wanted, found = tree_flatten(wanted)[0][-1].double(), found.double()  # comparisons are numbers here
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
