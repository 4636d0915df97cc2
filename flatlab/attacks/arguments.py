"""What every attack does before it starts: check arguments, leave the caller's autograd modes, draw random starts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flatlab import checks, modes

#: The box that adversarial inputs stay in, or None for no box.
Box = tuple[float, float] | None


def batch(model: nn.Module, x: Tensor, y: Tensor, clip: Box) -> tuple[Tensor, Tensor]:
    """Return checked (x, y), detached, x in float32 or float64 and y in int64; RuntimeError for a train-mode model."""
    modes.require_eval(model)
    if clip is None or tuple(clip) == (0, 1):
        checks.inputs(x, box=clip is not None)
    else:
        low, high = clip
        if not low < high:
            raise ValueError(f"clip must be (low, high) with low < high, got {clip!r}")
        smallest, largest = checks.inputs(x, box=False).aminmax()
        if not (smallest >= low - 1e-6 and largest <= high + 1e-6):
            raise ValueError(
                f"inputs must lie in clip={clip!r}, got values in [{float(smallest):g}, {float(largest):g}]"
            )
    checks.labels(y, len(x))
    return modes.at_least_float32(x.detach()), y.long()


def uniform_noise(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform on [-eps, eps), of the shape and device of `x`: one `torch.rand` of that shape, scaled.

    Drawing exactly this, and nothing else, from the global generator is what makes a start equal to that of foolbox
    and torchattacks under the same `torch.manual_seed`. A CPU generator also serves inputs on another device.
    """
    return uniform(tuple(x.shape), x, generator).mul_(2 * eps).add_(-eps)


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform on [0, 1), drawn on the generator's device and returned with the dtype and device of `like`."""
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


@contextmanager
def differentiable(x: Tensor, *others: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """Enable gradients and disable autocast, whatever the caller's modes; yields tensors that autograd can use."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device_type=x.device.type, enabled=False),
    ):
        given = [tensor for tensor in (x, *others) if tensor is not None]
        yield tuple(tensor.clone() if tensor.is_inference() else tensor for tensor in given)


def clean_logits(model: nn.Module, x: Tensor, y: Tensor, rows: int) -> Tensor:
    """Checked logits (N, C) in passes of `rows`; ValueError for non-finite ones and labels out of range."""
    with torch.no_grad():
        logits = checks.logits(torch.cat([modes.call(model, part) for part in x.split(rows)]), len(x))
    checks.labels(y, len(x), logits.shape[1])
    return logits
