"""Certified training: how its loss is mixed as the sets grow, and that any callable may give the sets."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import (
    Balls,
    Bounds,
    Box,
    CertifiedTraining,
    LpBall,
    Perturbed,
    Program,
    fused_ce,
    robust_ce,
    weight_balls,
)
from flatlab.train import Ramp

LINE = Ramp(1.0, start=0.0, length=1.0, middle=0.0)
X, Y = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(("kind", "loss"), [("fused", fused_ce), ("crown-ibp", robust_ce)])
def test_the_weight_of_intervals_is_the_share_of_the_radius(kind: str, loss) -> None:
    model = net()
    program = Program(model, X)
    objective = CertifiedTraining(Balls(0.1, weight_eps=0.02), kind=kind, ramp=LINE)
    for share in (0.25, 0.75, 1.0):
        balls = weight_balls(model, share * 0.02)
        made = Bounds(program, X, LpBall(X, share * 0.1, clip=(0, 1)), weights=balls)
        torch.testing.assert_close(objective(model, X, Y, share), loss(made, Y, kappa=1 - share).mean())
    torch.testing.assert_close(objective(model, X, Y, 1.0), robust_ce(made, Y, method="ibp").mean())
    torch.testing.assert_close(objective(model, X, Y, 0.0), F.cross_entropy(model(X), Y))


def test_any_callable_may_give_the_sets() -> None:
    """One that doubles the input, of which only the first number moves."""

    def first_moves(model: nn.Module, x: Tensor, share: float) -> Perturbed:
        reach = share * torch.tensor([0.3, 0.0, 0.0, 0.0])
        return Perturbed(2 * x, Box(2 * x - reach, 2 * x + reach))

    model = net()
    objective = CertifiedTraining(first_moves, kind="crown-ibp", ramp=LINE, mix=False)
    torch.testing.assert_close(objective(model, X, Y, 0.0), F.cross_entropy(model(2 * X), Y))
    region = first_moves(model, X, 0.5).region
    want = robust_ce(Bounds(Program(model, 2 * X), 2 * X, region), Y).mean()
    torch.testing.assert_close(objective(model, X, Y, 0.5), want)


def test_running_statistics_move_once_a_step_and_by_the_clean_batch() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    objective = CertifiedTraining(Balls(0.1), kind="ibp", ramp=LINE)
    objective(model, X, Y, 1.0)  # the first call captures the model
    before = model[1].running_mean.clone()
    objective(model, X, Y, 1.0)
    wanted = 0.9 * before + 0.1 * model[0](X).mean(0)
    torch.testing.assert_close(model[1].running_mean, wanted.detach())
