"""What the notebook on certified bounds measures of bounds themselves: whether they hold, and what they cost."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlab import bounds, checks, models, stats, train
from flatlab.studies.certified_bounds.networks import Network
from flatlab.studies.certified_bounds.settings import CertifiedBounds

Method = Callable[[bounds.Bounds], tuple[Tensor, Tensor]]

STEP_KINDS = ("natural", "IBP", "fused", "plain")


class RandomNetwork:
    """A network of a kind with random weights. It is captured once; other weights are put into the same module.

    Args:
        network: its kind.
        examples: random inputs of each trial.
        device: where to compute.
    """

    def __init__(self, network: Network, examples: int, *, device: torch.device) -> None:
        self.network, self.examples, self.device = network, examples, device
        self.program = bounds.Program(self._build(0), self.inputs(0))

    def inputs(self, seed: int) -> Tensor:
        """Uniform in [0, 1], (examples, *shape)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.examples, *self.network.shape, generator=generator).to(self.device)

    def trial(
        self, seed: int, methods: Mapping[str, Method], *, steps: int, region: bounds.Box | None = None
    ) -> dict[str, float]:
        """Bound the four outputs by each method, and try to refute the bounds.

        Args:
            seed: of weights, inputs and the attack.
            methods: name -> how outputs are bounded, the tightest last: it is attacked, the others compared with that.
            steps: of the attack on each end of each interval, by `flatlab.bounds.audit`.
            region: the set of inputs; None for the network's own ball around `inputs`.

        Returns:
            "excess": the largest violation of any bound; "attacked" and by method: mean widths; "B out of A" for
            neighbours among the methods: by how much an interval of B sticks out of that of A, relative to its size.
        """
        self.program.model.load_state_dict(self._build(seed).state_dict())
        region = bounds.LpBall(self.inputs(seed), self.network.eps) if region is None else region
        made = bounds.Bounds(self.program, region.center, region)
        with torch.no_grad():
            found = {name: method(made) for name, method in methods.items()}
        generator = torch.Generator().manual_seed(seed)
        excess, (low, high) = refute(self.program.model, region, list(found.values()), steps=steps, generator=generator)
        row = {"excess": excess, "attacked": (high - low).mean().item()}
        for outer, inner in itertools.pairwise(found):
            row[f"{inner} out of {outer}"] = bounds.violation(*found[outer], *found[inner])
        return row | {name: (top - bottom).mean().item() for name, (bottom, top) in found.items()}

    def _build(self, seed: int) -> nn.Module:
        kind = self.network
        return models.build(kind.model, kind.shape, 4, seed=seed, options=kind.options).to(self.device).eval()


def refute(
    model: nn.Module,
    region: bounds.Box,
    found: Sequence[tuple[Tensor, Tensor]],
    *,
    steps: int = 20,
    starts: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Attack several bounds of the same outputs, the last of them, which is the tightest, by `flatlab.bounds.audit`.

    Args:
        model: maps (N, ...) to (N, K).
        region: the set around B inputs.
        found: lower and upper bounds (B, K), by several methods.
        steps, starts, generator: as in `audit`.

    Returns:
        The largest `violation` of any of them, and the smallest and largest values found, (B, K) each.
    """
    attacked = bounds.audit(model, region, *found[-1], steps=steps, starts=starts, generator=generator)
    return max(bounds.violation(*ends, *attacked) for ends in found), attacked


def every_set(x: Tensor, eps: float, *, generator: torch.Generator) -> dict[str, bounds.Box]:
    """One set of each kind around points in [0, 1], of comparable size.

    Args:
        x: (B, T, D) in [0, 1]; words of a sentence where sets are of words.
        eps: the radius of the L_inf ball that the others are comparable to.
        generator: of three random synonyms for each word, on the CPU.
    """
    noise = eps * torch.randn(*x.shape[:2], 3, x.shape[2], generator=generator).to(x)
    known = torch.ones(*x.shape[:2], 3, dtype=torch.bool, device=x.device)
    return {
        "Linf, clipped": bounds.LpBall(x, eps, clip=(0, 1)),
        "L2": bounds.LpBall(x, 4 * eps, 2),
        "L2, clipped": bounds.LpBall(x, 4 * eps, 2, clip=(0, 1)),
        "L1": bounds.LpBall(x, 8 * eps, 1),
        "L1, clipped": bounds.LpBall(x, 8 * eps, 1, clip=(0, 1)),
        "L0": bounds.L0Ball(x, 1),
        "box": bounds.Box(x - eps, x + eps / 2),
        "synonyms": bounds.Synonyms(x, x[:, :, None] + noise, known, 2),
    }


def attainment(region: bounds.Box, a: Tensor) -> float:
    """How far the points where linear functions are least miss the functions' bounds, or leave the set; 0 if nowhere.

    Args:
        region: a set around B inputs.
        a: coefficients of the functions, (S, B, ...).
    """
    worst = region.worst(a)
    missed = ((a * worst).flatten(2).sum(2) - region.lower(a)).abs().max()
    outside = torch.maximum(region.low - worst, worst - region.high).max()
    if isinstance(region, bounds.LpBall):
        length = (worst - region.x).flatten(2).norm(p=region.p, dim=2)
        outside = torch.maximum(outside, (length - region.eps.max()).max())
    return max(0.0, float(missed), float(outside))


def gradient_error(value: Callable[[], Tensor], weights: Sequence[Tensor], *, generator: torch.Generator) -> float:
    """How far the gradient of a scalar is from central differences of length 1e-6, along a random direction.

    Args:
        value: computes the scalar from the present weights.
        weights: float64 leaves; written to, and put back.
        generator: of the direction.

    Returns:
        The difference of both slopes, relative to 1 + the slope.
    """
    d = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = float(sum((g * v).sum() for g, v in zip(torch.autograd.grad(value(), weights), d, strict=True)))
    before, ends = [w.detach().clone() for w in weights], []
    with torch.no_grad():
        for sign in (1, -1):
            for w, old, v in zip(weights, before, d, strict=True):
                w.copy_(old + sign * 1e-6 * v)
            ends.append(float(value()))
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
    return abs((ends[0] - ends[1]) / 2e-6 - slope) / (1 + abs(slope))


def step_cost(kind: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, repeats: int = 5) -> tuple[float, int]:
    """Median seconds, and operations, of the loss of a training step and its gradient.

    Args:
        kind: "natural" (cross-entropy), "IBP", or CROWN-IBP with loss fusion ("fused") or without ("plain").
        model: a classifier of images x (N, ...) in [0, 1] with labels y (N,).
        eps: radius of the L_inf ball, clipped to [0, 1].
        repeats: timed steps.
    """
    checks.one_of("kind", kind, STEP_KINDS)
    program, region = bounds.Program(model, x), bounds.LpBall(x, eps, clip=(0, 1))

    def loss() -> Tensor:
        if kind == "natural":
            return train.cross_entropy(model, x, y)
        made = bounds.Bounds(program, x, region)
        if kind == "fused":
            return bounds.fused_ce(made, y).mean()
        return bounds.robust_ce(made, y, method="ibp" if kind == "IBP" else "crown-ibp").mean()

    step = lambda: torch.autograd.grad(loss(), list(model.parameters()))  # noqa: E731
    times = sorted(train.seconds(step, x.device, repeats=repeats))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return middle, train.operations(step)


def step_costs(cfg: CertifiedBounds, *, seed: int, device: torch.device) -> dict[str, NDArray[np.float64]]:
    """`step_cost` of a small CNN on four random images, by the number of classes.

    Args:
        cfg: shape of the images, numbers of classes, and repeats.
        seed: of weights and images.
        device: where to compute.

    Returns:
        Kind -> (classes, 2): seconds and operations.
    """
    x = torch.rand(4, *cfg.image_shape, generator=torch.Generator().manual_seed(seed)).to(device)
    y = torch.arange(4, device=device)
    options = {"widths": (16, 32), "kernel": 3, "strides": (2, 2), "hidden": 256}
    build = partial(models.build, "small_cnn", cfg.image_shape, seed=seed, options=options)
    return {
        kind: np.array([step_cost(kind, build(k).to(device), x, y, 1 / 255, repeats=cfg.repeats) for k in cfg.classes])
        for kind in STEP_KINDS
    }


def growth(operations: NDArray[np.float64], classes: Sequence[int]) -> stats.Estimate:
    """The power by which operations grow from the first to the last number of classes.

    Args:
        operations: one a number of classes.
        classes: ascending.
    """
    power = np.log(operations[-1] / operations[0]) / np.log(classes[-1] / classes[0])
    return stats.exact(power, n=len(classes))
