"""Parameters of a notebook: read from its parameters cell, and checked before a kernel starts.

The cell holds plain assignments, each annotated and with a one-line comment:

    eps: float = 8 / 255  # radius of the perturbation
    epochs: int | None = None  # None = the preset's

The comment of `preset` says which presets the notebook has, such as "quick, cpu, gpu or full"; if it lists none, a run
may have any.

Understood annotations: int, float, bool, str, list[...] of these, and unions of them with None. Without an annotation
the type is that of the default.
"""

import ast
import io
import math
import numbers
import operator
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatlab.names import PRESETS, nearest, no_preset
from flatlab.runner import notebooks as files
from flatlab.runner.notebooks import StudyError

# Text is tried against the alternatives of a union in this order: the narrowest first, since every text is a str.
_ORDER = ("None", "bool", "int", "float", "list", "str")
_EXAMPLES = {
    "None": "None",
    "bool": "true or false",
    "int": "an integer such as 3",
    "float": "a finite number such as 0.1, 1e-3 or 8/255",
    "str": "a text",
}


class ParameterError(StudyError):
    """A parameter that the notebook does not have, or a value of the wrong type."""


@dataclass(frozen=True)
class Type:
    """One alternative of an annotation: `kind` is None, bool, int, float, str or list; lists have `items`."""

    kind: str
    items: tuple["Type", ...] = ()

    def example(self) -> str:
        """What a value looks like, in words."""
        if self.kind != "list":
            return _EXAMPLES[self.kind]
        return f"a list like [a, b], each {' or '.join(item.example() for item in self.items)}"


@dataclass(frozen=True)
class Parameter:
    """One assignment of a parameters cell.

    Attributes:
        name: what is assigned.
        annotation: the type as written, or the default's type, or an empty string where neither tells one.
        default: the value, or None where the expression is not a literal.
        default_text: the default as written.
        help: the trailing comment.
        types: the alternatives of the annotation.
    """

    name: str
    annotation: str
    default: Any
    default_text: str
    help: str
    types: tuple[Type, ...]

    def convert(self, value: Any) -> Any:
        """`value` in this parameter's type: a text as typed in a shell is parsed, other objects are checked."""
        if not self.types:
            raise ParameterError(
                f"parameter {self.name!r} has no type to check against: annotate it in the notebook, "
                f"as in {self.name}: float | None = None"
            )
        converted = _convert(value, self.types)
        if converted is _NO:
            wanted = " or ".join(t.example() for t in self.types)
            raise ParameterError(f"parameter {self.name!r} ({self.annotation}) must be {wanted}, got {value!r}")
        if self.name == "preset" and converted not in PRESETS:
            raise ParameterError(
                f"unknown preset {value!r}: choose one of {', '.join(PRESETS)}{nearest(str(value), PRESETS)}"
            )
        return converted


_NO = object()  # "does not fit", where None is a value


def read(cell: str, notebook: str) -> dict[str, Parameter]:
    """Parameters by name, in order, from the source of a parameters cell of the notebook called `notebook`."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError as error:
        raise StudyError(
            f"the parameters cell of {notebook} is not valid Python: line {error.lineno}, {error.msg}"
        ) from error
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(cell).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for statement in statements:
        target: ast.expr
        annotation: ast.expr | None
        if isinstance(statement, ast.AnnAssign):
            target, annotation, value = statement.target, statement.annotation, statement.value
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, annotation, value = statement.targets[0], None, statement.value
        else:
            continue
        if not isinstance(target, ast.Name) or value is None:
            continue
        default = _literal(value)
        if annotation is None:
            types: tuple[Type, ...] = () if default is _NO or default is None else (_type_of(default),)
            written = types[0].kind if types else ""
        else:
            written = ast.unparse(annotation)
            types = _types(annotation, f"{target.id}: {written}", notebook)
        found[target.id] = Parameter(
            name=target.id,
            annotation=written,
            default=None if default is _NO else default,
            default_text=ast.unparse(value),
            help=comments.get(statement.end_lineno or statement.lineno, ""),
            types=types,
        )
    return found


def of(notebook: dict[str, Any], name: str) -> dict[str, Parameter]:
    """Parameters by name, in order, of a loaded notebook called `name`."""
    return read(files.parameters_cell(notebook, name), name)


def check(values: Mapping[str, Any], known: Mapping[str, Parameter], notebook: str) -> dict[str, Any]:
    """`values` in the types of the parameters in `known`; ParameterError for a name or value that does not fit."""
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise ParameterError(
                f"notebook {notebook} has no parameter {name!r}: "
                f"it has {', '.join(known) or 'none'}{nearest(name, known)}"
            )
        checked[name] = known[name].convert(value)
        if name == "preset" and checked[name] not in presets(known):
            raise ParameterError(no_preset(f"notebook {notebook}", checked[name], presets(known)))
    return checked


def presets(known: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Those that the comment of `preset` lists before any colon, in the order of PRESETS; all if that is no list."""
    words = known["preset"].help.partition(":")[0] if "preset" in known else ""
    listed = re.split(r",\s*(?:or\s+)?|\s+or\s+", words.strip())
    return tuple(preset for preset in PRESETS if preset in listed) if set(listed) <= set(PRESETS) else PRESETS


def having(preset: str, folder: str | Path) -> tuple[list[str], dict[str, str]]:
    """Names of the notebooks in `folder` that have the preset, and for each other one a sentence which says so.

    Raises StudyError if none has it, or one has no parameters cell.
    """
    found = {path.stem: presets(of(files.load(path), path.stem)) for path in files.find(folder)}
    lacking = {name: no_preset(name, preset, own) for name, own in found.items() if preset not in own}
    if len(lacking) == len(found):
        raise StudyError(f"no notebook in {folder} has the preset {preset!r}: {'; '.join(lacking.values())}")
    return [name for name in found if name not in lacking], lacking


def _types(node: ast.expr, written: str, notebook: str) -> tuple[Type, ...]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        both = _types(node.left, written, notebook) + _types(node.right, written, notebook)
        return tuple(sorted(dict.fromkeys(both), key=lambda t: _ORDER.index(t.kind)))
    if isinstance(node, ast.Constant) and node.value is None:
        return (Type("None"),)
    if isinstance(node, ast.Name) and node.id in ("bool", "int", "float", "str"):
        return (Type(node.id),)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "list":
        items = _types(node.slice, written, notebook)
        if all(item.kind != "list" for item in items):
            return (Type("list", items),)
    raise StudyError(
        f"the parameters cell of {notebook} has an annotation that is not understood: {written}; "
        "use int, float, bool, str, list[one of these], and `| None`"
    )


def _type_of(value: Any) -> Type:
    if isinstance(value, list):
        return Type("list", tuple(dict.fromkeys(_type_of(item) for item in value)) or (Type("str"),))
    return Type(type(value).__name__)


def _literal(node: ast.expr) -> Any:
    """Value of a literal or of a fraction such as 8 / 255."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        above, below = _literal(node.left), _literal(node.right)
        numbers = all(isinstance(part, int | float) for part in (above, below))
        return above / below if numbers and below else _NO
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return _NO
    return value if isinstance(value, bool | int | float | str | list | None) else _NO


def _convert(value: Any, types: tuple[Type, ...]) -> Any:
    for kind in types:
        fitting = _parse(value, kind) if isinstance(value, str) else _fit(value, kind)
        if fitting is not _NO:
            return fitting
    return _NO


def _parse(text: str, wanted: Type) -> Any:
    word = text.strip()
    match wanted.kind:
        case "None":
            return None if word.lower() in ("none", "null") else _NO
        case "bool":
            return {"true": True, "false": False}.get(word.lower(), _NO)
        case "int":
            try:
                return int(word)
            except ValueError:
                return _NO
        case "float":
            return _number(word)
        case "list":
            bracketed = word.startswith("[") and word.endswith("]")
            inside = word[1:-1].strip() if bracketed else word
            parts = [part.strip() for part in inside.split(",")] if inside else []
            items = [_convert(_unquoted(part), wanted.items) for part in parts if part]
            return _NO if any(item is _NO for item in items) or not (bracketed or items) else items
    return text


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def _number(word: str) -> Any:
    above, slash, below = word.partition("/")
    try:
        value = float(above) / float(below) if slash else float(word)
    except (ValueError, ZeroDivisionError):
        return _NO
    return value if math.isfinite(value) else _NO


def _fit(value: Any, wanted: Type) -> Any:
    match wanted.kind:
        case "None":
            return None if value is None else _NO
        case "bool":
            return value if isinstance(value, bool) else _NO
        case "int" if not isinstance(value, bool):
            try:
                return operator.index(value)
            except TypeError:
                return _NO
        case "float" if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value) if math.isfinite(value) else _NO
        case "list" if isinstance(value, list | tuple):
            items = [_convert(item, wanted.items) for item in value]
            return _NO if any(item is _NO for item in items) else items
    return _NO
