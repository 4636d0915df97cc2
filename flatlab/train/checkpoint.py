"""Checkpoints in one safetensors file: tensors as they are, everything else as JSON in the header. No pickle.

parts = {"generator": g, "critic": c, "generator's steps": g_stepper, "critic's steps": c_stepper, "rng": rng}
resume_training(path, parts)          # if there is a file
...
save_training(path, parts)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flatlab.files import replacing

_FORMAT = "flatlab checkpoint 1"


class Stateful(Protocol):
    """What has a state: a module, an optimizer, a `Stepper`, an objective, random generators."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


def save_training(
    path: str | Path, parts: Mapping[str, Stateful], *, settings: Mapping[str, Any] | None = None
) -> None:
    """Write the states of all parts of a training.

    Args:
        path: the file, replaced whole or not at all.
        parts: everything that later steps depend on, by name.
        settings: what must be the same when training resumes; values that JSON can hold.
    """
    states = {name: dict(part.state_dict()) for name, part in parts.items()}
    save_checkpoint(path, {"settings": dict(settings or {}), "states": states})


def resume_training(
    path: str | Path,
    parts: Mapping[str, Stateful],
    *,
    settings: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> bool:
    """Continue from what `save_training` wrote, if there is such a file; returns whether there was.

    Args:
        path: the file.
        parts: as they were saved, each ready to load its state.
        settings: as they were saved.
        device: where the tensors are needed.

    Raises:
        ValueError: a file of other settings or other parts, or a damaged one.
    """
    if not Path(path).is_file():
        return False
    saved, wanted = load_checkpoint(path, device=device), dict(settings or {})
    before, states = saved.get("settings", {}), saved.get("states", {})
    changed = sorted(key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key))
    changed += sorted(states.keys() ^ parts.keys())
    if changed:
        raise ValueError(
            f"the checkpoint was made with other settings ({', '.join(changed)}); delete it or name another file"
        )
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return True


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists, tuples, tensors and JSON scalars to `path` atomically.

    A reader sees the old file or the new one, never a part; a full disk leaves the old one in place.

    Raises:
        TypeError: a value that is neither of these.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, "", tensors)
    with replacing(Path(path)) as part:
        save_file(tensors, part, metadata={"format": _FORMAT, "skeleton": json.dumps(skeleton)})


def load_checkpoint(path: str | Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, with tensors on `device`.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: a file that is damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no checkpoint ({error}); delete it and train again") from error
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by save_checkpoint; its format is {header.get('format')!r}")
    return _unflatten(json.loads(header["skeleton"]), tensors)


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A JSON picture of `value` in which {"tensor": name} stands for a tensor that was moved to `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, since the keys of an optimizer's state are integers and JSON knows strings only.
        return {"dict": [[key, _flatten(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold {name.lstrip('.')!r} of type {type(value).__name__}")


def _unflatten(picture: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = picture.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_unflatten(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    return content
