"""What a value is, as a short text that is the same in every process: how a checkpoint knows data and code again.

    fingerprint(images)           "uint8 (1200, 1, 8, 8) 9f1c03aa"
    fingerprint(crop_flip)        "flatlab.train.augment.crop_flip 5d41402abc4b"

Tensors and arrays count by type, shape and bytes. Functions count by their instructions, their defaults, what they
close over, and the functions, classes and values of their own module that they use; so what a notebook defines counts
in full. What they use of other modules counts by name, and so does all code of Python, NumPy and torch. Objects count
by their class and attributes: of a dataclass the fields that are compared, of an `Objective` what is not part of its
state. Whatever else there is counts by its `repr` without addresses, random generators among it: where they stand is
state.

Instructions are those of one version of Python: under another one, code is other code.
"""

import dis
import functools
import hashlib
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatlab.train.objective import Objective, PlainFunction

_BY_NAME = {*sys.stdlib_module_names, "numpy", "torch"}
_BY_VALUE = {*dis.hasconst, *dis.hasname}  # instructions whose argument stands for a constant or a name
_ROWS = 1 << 24  # elements that are copied at a time, where a copy is needed


def fingerprint(value: Any) -> str:
    """The kind or name of `value`, and a checksum of what it is.

    Args:
        value: a tensor of any shape, a function, a module, or any nesting of these and of plain values.
    """
    if isinstance(value, Tensor):
        return _tensor(value)
    named = value
    while isinstance(named, functools.partial | PlainFunction):
        named = named.func
    if not isinstance(named, FunctionType | type):
        named = type(named)
    return f"{_name(named)} {_Walk().digest(value)[:12]}"


def checksum(x: Tensor) -> int:
    """CRC-32 of the bytes of a tensor of any shape, row by row, in about a third of the time of SHA-256.

    A tensor that is not contiguous, or lies on a GPU, is copied piece by piece.
    """
    x = x.detach()
    x = x.to_dense() if x.layout != torch.strided else x
    rows, found = x.flatten() if x.ndim < 2 or x.is_contiguous() else x, 0
    for part in rows.split(max(1, _ROWS // max(1, rows[:1].numel()))):
        found = zlib.crc32(part.cpu().contiguous().flatten().view(torch.uint8).numpy(), found)
    return found


class _Walk:
    """The digests of a value and of all that it is made of; `path` leads to the value at hand."""

    def __init__(self) -> None:
        self.path: list[int] = []
        self.known: dict[int, tuple[Any, str]] = {}  # with the value, so that no other can take its address

    def digest(self, value: Any) -> str:
        key = id(value)
        if key in self.path:  # it holds itself
            return f"{len(self.path) - self.path.index(key)} above"
        if key not in self.known:
            self.path.append(key)
            text = " ".join(self.parts(value))
            self.path.pop()
            self.known[key] = value, hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        return self.known[key][1]

    def parts(self, value: Any) -> Iterator[str]:
        """What tells `value` from others."""
        yield self.digest(type(value))
        if isinstance(value, Tensor):
            yield _tensor(value)
        elif isinstance(value, np.ndarray):
            content = self.digest(value.tolist()) if value.dtype.hasobject else zlib.crc32(value.tobytes())
            yield f"{value.dtype.str} {value.shape} {content}"
        elif isinstance(value, type):
            yield from self.of_class(value)
        elif isinstance(value, FunctionType):
            yield from self.of_function(value)
        elif isinstance(value, CodeType):
            yield from self.of_code(value)
        elif isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(value, Mapping):
            yield from map(self.digest, value.items())
        elif isinstance(value, Set):
            yield from sorted(map(self.digest, value))
        elif isinstance(value, list | tuple | deque):
            yield from map(self.digest, value)
        elif parts := _parts(value):
            yield self.digest(parts)
        else:
            yield re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))

    def of_function(self, function: FunctionType) -> Iterator[str]:
        yield _name(function)
        if _first(function) in _BY_NAME:
            return
        yield self.digest(function.__code__)
        yield from map(self.digest, (function.__defaults__, function.__kwdefaults__, function.__closure__))
        for name in sorted(_globals(function.__code__)):
            if name in function.__globals__:
                used = function.__globals__[name]
                code = isinstance(used, FunctionType | type)
                elsewhere = code and used.__module__ != function.__module__
                yield f"{name} {_name(used) if elsewhere else self.digest(used)}"

    def of_code(self, code: CodeType) -> Iterator[str]:
        yield code.co_exceptiontable.hex()
        for step in dis.get_instructions(code):
            yield f"{step.opname} {self.digest(step.argval) if step.opcode in _BY_VALUE else step.arg}"

    def of_class(self, kind: type) -> Iterator[str]:
        yield _name(kind)
        if _first(kind) in _BY_NAME:
            return
        yield from map(self.digest, kind.__bases__)
        for name, member in vars(kind).items():
            member = getattr(member, "__func__", member)  # of static and class methods
            if isinstance(member, FunctionType) or not name.startswith("__"):
                yield f"{name} {self.digest(member)}"


def _tensor(x: Tensor) -> str:
    text = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    return text if x.is_meta else f"{text} {checksum(x):08x}"


def _name(value: Any) -> str:
    """Module and name of a class or a function."""
    return f"{value.__module__}.{value.__qualname__}"


def _globals(code: CodeType) -> set[str]:
    """The names that are looked up outside a function by its code, and by the code inside."""
    inside = (_globals(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}.union(*inside)


def _parts(value: Any) -> Any:
    """What an object is made of; None or nothing if its `repr` tells."""
    if isinstance(value, CellType):
        return [] if value == CellType() else [value.cell_contents]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, property):
        return [value.fget, value.fset]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if wrapped := getattr(value, "__wrapped__", None):  # behind a cache of its results
        return [wrapped]
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init and field.compare}
    if isinstance(value, Objective):
        state = value.state_dict()
        return {name: part for name, part in vars(value).items() if name not in state}
    return None if _first(type(value)) in sys.stdlib_module_names else object.__getstate__(value)


def _first(value: Any) -> str:
    """The package of a class or a function."""
    return str(value.__module__).partition(".")[0]
