"""A classifier of images in one row of numbers: attacked and proven in one ball; and what a step of training costs."""

import torch
from torch import Tensor, nn

from flatlab import checks, train
from flatlab.bounds.engine import Bounds
from flatlab.bounds.graph import Program
from flatlab.bounds.losses import fused_ce, robust_ce, verified_in_ball
from flatlab.bounds.sets import LpBall

STEP_KINDS = ("natural", "IBP", "fused", "plain")


def ball_report(program: Program, x: Tensor, y: Tensor, eps: float, *, attacked: Tensor) -> dict[str, float]:
    """Errors on images without an attack, under one, and as far as they can be excluded.

    Args:
        program: what was captured of a classifier in eval mode.
        x, y: images (N, ...) in [0, 1] and labels (N,).
        eps: radius of the L_inf ball, clipped to [0, 1].
        attacked: what an attack has made of x, in that ball.

    Returns:
        "clean" and "attacked"; "verified ibp", "verified crown-ibp" and "verified", the shares that are not proven by
        either or by both; and "contradictions", how many images are proven and yet broken, which must be 0.
    """
    broken = program.model(attacked).argmax(1) != y
    ibp, crown = (verified_in_ball(program, x, y, eps, method=method) for method in ("ibp", "crown-ibp"))
    share = lambda flags: flags.double().mean().item()  # noqa: E731
    return {
        "clean": share(program.model(x).argmax(1) != y),
        "attacked": share(broken),
        "verified ibp": share(~ibp),
        "verified crown-ibp": share(~crown),
        "verified": share(~(ibp | crown)),
        "contradictions": int(((ibp | crown) & broken).sum()),
    }


def step_cost(kind: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, repeats: int = 5) -> tuple[float, int]:
    """Median seconds, and operations, of the loss of a training step and its gradient.

    Args:
        kind: "natural" (cross-entropy), "IBP", or CROWN-IBP with loss fusion ("fused") or without ("plain").
        model: a classifier of images x (N, ...) in [0, 1] with labels y (N,).
        eps: radius of the L_inf ball, clipped to [0, 1].
        repeats: timed steps.
    """
    checks.one_of("kind", kind, STEP_KINDS)
    program, region = Program(model, x), LpBall(x, eps, clip=(0, 1))

    def loss() -> Tensor:
        if kind == "natural":
            return train.cross_entropy(model, x, y)
        made = Bounds(program, x, region)
        if kind == "fused":
            return fused_ce(made, y).mean()
        return robust_ce(made, y, method="ibp" if kind == "IBP" else "crown-ibp").mean()

    step = lambda: torch.autograd.grad(loss(), list(model.parameters()))  # noqa: E731
    times = sorted(train.seconds(step, x.device, repeats=repeats))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return middle, train.operations(step)
