"""Learning online: a stream in which every sample is predicted first, then learned from, and never seen again.

The stream here is a sequence of tasks: the same images with their pixels in another order in each task. Accuracy along
the stream says how fast an optimizer adapts; accuracy on all tasks at its end says how much it has kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.stacked import Stacked, stack_models, unstack
from flatlab.train import stacking
from flatlab.train.batches import as_float
from flatlab.train.evaluate import accuracy
from flatlab.train.loop import Labelled


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples in the order in which they come.

    Attributes:
        x: (T, C, H, W) float in [0, 1].
        y: (T,) int64.
        orders: (tasks, H*W): the order of the pixels in each task.
    """

    x: Tensor
    y: Tensor
    orders: Tensor

    def seen_by(self, task: int, x: Tensor) -> Tensor:
        """Images (N, C, H, W) as they look in one task."""
        return x.flatten(2)[:, :, self.orders[task].to(x.device)].view_as(x)

    def kept(self, model: nn.Module, x: Tensor, y: Tensor) -> float:
        """The mean accuracy over all tasks on images x (N, C, H, W) with labels y (N,)."""
        hits = [accuracy(model, self.seen_by(task, x), y) for task in range(len(self.orders))]
        return sum(hits) / len(hits)


def permuted_stream(images: Labelled, tasks: int, *, seed: int) -> Stream:
    """Each image once, in random order, in `tasks` tasks of equal length, each with its own order of the pixels.

    Raises:
        ValueError: fewer images than tasks, or inputs that are not images.
    """
    x = as_float(images.x)
    if x.ndim != 4 or len(x) < checks.at_least("tasks", tasks, 1):
        raise ValueError(f"a stream of {tasks} tasks needs as many images (N, C, H, W), got shape {tuple(x.shape)}")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)
    orders = torch.stack([torch.randperm(x[0, 0].numel(), generator=generator) for _ in range(tasks)])
    stream = Stream(x[rows.to(x.device)], images.y[rows.to(images.y.device)], orders)
    parts = [stream.seen_by(task, part) for task, part in enumerate(stream.x.tensor_split(tasks))]
    return Stream(torch.cat(parts), stream.y, orders)


def fit_online(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    lr: float,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 10,
) -> Tensor:
    """Train `model` in place along a stream for each network, at a constant learning rate, one step a batch.

    Args:
        model: one network, or `stack_models` of S.
        x: (S, T, ...) float in [0, 1].
        y: (S, T) int64.
        optimizer, lr, options: as in `Recipe`.
        batch_size: samples of each network per step.

    Returns:
        (S, T) bool: whether each sample was predicted rightly before it was learned from.

    Raises:
        ValueError: not one stream for each network, or labels that do not match.
    """
    count = model.count if isinstance(model, Stacked) else 1
    if x.ndim < 3 or len(x) != count or y.shape != x.shape[:2]:
        raise ValueError(
            f"x must have shape ({count}, T, ...) and y ({count}, T), one stream per network, got {tuple(x.shape)} "
            f"and {tuple(y.shape)}"
        )
    size = checks.at_least("batch_size", batch_size, 1)
    stepper = stacking.make(optimizer, model.parameters(), lr=lr, options=options or {}, networks=count)
    model.train()
    batches = zip(x.split(size, dim=1), y.split(size, dim=1), strict=True)
    hits = [_step(model, stepper, xs.flatten(0, 1), ys.flatten(), count) for xs, ys in batches]
    model.eval()
    return torch.cat(hits, dim=1)


def fit_streams(
    build: Callable[[int], nn.Module],
    images: Labelled,
    tasks: int,
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    lr: float,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> tuple[list[float], list[tuple[Stream, nn.Module]]]:
    """`fit_online` of one network a seed, side by side, each along a `permuted_stream` of its own.

    Args:
        build: makes the untrained network of a seed.
        images, tasks: as in `permuted_stream`.
        optimizer, lr: as in `Recipe`.
        seeds: of the networks and of their streams.
        device: where to train.

    Returns:
        The accuracy along each stream, and each stream with the network at its end.
    """
    streams, networks = [permuted_stream(images, tasks, seed=s) for s in seeds], [build(s) for s in seeds]
    stacked = stack_models(networks).to(device)
    x, y = (torch.stack([getattr(s, part) for s in streams]).to(device) for part in ("x", "y"))
    hits = fit_online(stacked, x, y, optimizer, lr=lr).double().mean(1).tolist()
    return hits, list(zip(streams, unstack(stacked, networks[0]), strict=True))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, count: int) -> Tensor:
    """One step on S batches laid out network by network; returns the hits before it, (S, B)."""
    hits: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        logits = model(x)
        hits.append((logits.detach().argmax(1) == y).view(count, -1))
        loss = F.cross_entropy(logits, y) * count  # the sum over the networks: each gets its own gradient
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return hits[0]
