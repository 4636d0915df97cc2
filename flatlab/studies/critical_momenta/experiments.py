"""Experiments of 05_critical_momenta: tasks in sequence, and the agreement of a memory during training.

The tasks are the same images with their pixels in another order in each. Accuracy along the sequence says how fast an
optimizer adapts; accuracy on all tasks at its end says how much it has kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.data import ImageSet
from flatlab.models import stack_models, unstack
from flatlab.optim.memory import MemoryOptimizer
from flatlab.train import TrainingState, evaluate_samples, fit_continual


@dataclass(frozen=True, eq=False)
class TaskSequence:
    """Images in the order in which they come, task by task.

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

    def kept(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """In which share of the tasks each of the images x (N, C, H, W) with labels y (N,) is right, (N,)."""
        hits = [evaluate_samples(model, self.seen_by(task, x), y)[1] for task in range(len(self.orders))]
        return torch.stack(hits).mean(0)


def permuted_tasks(images: ImageSet, tasks: int, *, seed: int) -> TaskSequence:
    """Each image once, in random order, in `tasks` tasks of equal length, each with its own order of the pixels.

    Args:
        images: what the tasks consist of.
        tasks: how many, at most as many as images.
        seed: of both orders.

    Raises:
        ValueError: fewer images than tasks.
    """
    x, y = images.float()
    if len(x) < checks.at_least("tasks", tasks, 1):
        raise ValueError(f"a sequence of {tasks} tasks needs as many images, got {len(x)}")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)
    orders = torch.stack([torch.randperm(x[0, 0].numel(), generator=generator) for _ in range(tasks)])
    sequence = TaskSequence(x[rows.to(x.device)], y[rows.to(y.device)], orders)
    parts = [sequence.seen_by(task, part) for task, part in enumerate(sequence.x.tensor_split(tasks))]
    return TaskSequence(torch.cat(parts), sequence.y, orders)


def fit_task_sequences(
    build: Callable[[int], nn.Module],
    images: ImageSet,
    tasks: int,
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    lr: float,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> tuple[list[float], list[tuple[TaskSequence, nn.Module]]]:
    """`fit_continual` of one network a seed, side by side, each along `permuted_tasks` of its own.

    Args:
        build: makes the untrained network of a seed.
        images: as in `permuted_tasks`.
        tasks: in each sequence.
        optimizer: as in `flatlab.train.Recipe`.
        lr: the learning rate.
        seeds: of the networks and of their sequences.
        device: where to train.

    Returns:
        The accuracy along each sequence, and each sequence with the network at its end.
    """
    sequences, networks = [permuted_tasks(images, tasks, seed=s) for s in seeds], [build(s) for s in seeds]
    stacked = stack_models(networks).to(device)
    x, y = torch.stack([s.x for s in sequences]).to(device), torch.stack([s.y for s in sequences]).to(device)
    hits = fit_continual(stacked, x, y, optimizer, lr=lr).double().mean(1).tolist()
    return hits, list(zip(sequences, unstack(stacked, networks[0]), strict=True))


def cancellation(state: TrainingState) -> dict[int, float]:
    """How far the items of the optimizer's memory agree, of each network in training by its seed; NaN without one."""
    optimizer = state.optimizer
    stats = optimizer.memory_stats()[0] if isinstance(optimizer, MemoryOptimizer) else {}
    found = stats.get("cancellation", float("nan"))
    return dict(zip(state.seeds, found if isinstance(found, list) else [found] * len(state.seeds), strict=True))
