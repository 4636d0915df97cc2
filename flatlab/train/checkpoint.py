"""Checkpoints in one safetensors file: tensors as they are, everything else as JSON in the header. No pickle.

parts = {"generator": g, "critic": c, "generator's steps": g_stepper, "critic's steps": c_stepper, "rng": rng}
facts = {"data": fingerprint(x), "rounds": 2000}
resume_training(path, parts, settings=facts)          # if there is a file
...
save_training(path, parts, settings=facts)

A checksum over all of it, of which a flipped bit changes something, lies in the header. A file of other settings, of
another program or with damage is refused with its name; nothing of it has been loaded then.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flatlab.files import replacing
from flatlab.train.content import fingerprint

_KIND, _FORMAT = "flatlab checkpoint ", "flatlab checkpoint 2"


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
    path: str | Path, parts: Mapping[str, Stateful], *, settings: Mapping[str, Any] | None = None
) -> bool:
    """Continue from what `save_training` wrote, if there is such a file; returns whether there was.

    Args:
        path: the file.
        parts: as they were saved, each ready to load its state. It is given tensors on the CPU and takes them to where
            it works, as modules and optimizers do: their counts of steps stay on the CPU, where no step waits for them.
        settings: as they were saved; `flatlab.train.fingerprint` turns data and functions into such values.

    Raises:
        ValueError: a file of other settings or other parts, a state that does not fit its part, and what
            `load_checkpoint` refuses; names the file.
    """
    if not Path(path).exists():
        return False
    saved, wanted = load_checkpoint(path), dict(settings or {})
    if saved.keys() != {"settings", "states"}:
        raise ValueError(f"{path} holds no training (save_training writes one); name another file")
    before, states = saved["settings"], saved["states"]
    changed = sorted(key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key))
    if what := ", ".join([*changed, *sorted(states.keys() ^ parts.keys())]):
        facts = "".join(f"; {key}: {before.get(key)} there, {wanted.get(key)} here" for key in changed)
        raise ValueError(f"{path} was made with other settings ({what}); delete it or name another file{facts}")
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise ValueError(f"{path}: its state of {name!r} does not fit; name another file. {error}") from error
    return True


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists, tuples, tensors and JSON scalars to `path` atomically.

    A reader sees the old file or the new one, never a part; a full disk leaves the old one in place.

    Raises:
        TypeError: a value that is neither of these.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_flatten(state, "", tensors))
    header = {"format": _FORMAT, "skeleton": skeleton, "checksum": _checksum(skeleton, tensors)}
    with replacing(Path(path)) as part:
        save_file(tensors, part, metadata=header)


def load_checkpoint(path: str | Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, with tensors on `device`.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: what lies there is damaged, of another program or of an earlier version; names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, a pipe or a device, not a checkpoint; name a file")
    path.open("rb").close()  # an error of reading is none of the content
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (found := header.get("format", "")) == _FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint ({error}); delete it or name another file") from error
    if found != _FORMAT and found.startswith(_KIND):
        raise ValueError(
            f"{path} is in the format {found!r}, and this version of flatlab reads {_FORMAT!r}, which says what data, "
            "augmentation and objective it belongs to; delete it and train again, or use the version that wrote it"
        )
    if found != _FORMAT:
        raise ValueError(f"{path} was not written by save_checkpoint (its format is {found!r}); name another file")
    skeleton = header.get("skeleton", "")
    if header.get("checksum") != _checksum(skeleton, tensors):
        raise ValueError(f"{path} is damaged: its checksum is not that of its content; delete it and train again")
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    return cast(dict[str, Any], _unflatten(json.loads(skeleton), moved))


def _checksum(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    """Of what a checkpoint holds: names, types, shapes and bytes of its tensors, and all else."""
    held = "".join(f"{name} {fingerprint(tensors[name])}\n" for name in sorted(tensors))
    return f"{zlib.crc32((held + skeleton).encode()):08x}"


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
