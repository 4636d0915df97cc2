"""The rate of MECO, and what the noise has to do with it: T m E(theta_T - R)^2 -> 1 + V.

Each network of a stack is a replica: one number theta, the model N(theta, 1) in the form f(x) = -(x - theta)^2 / 2,
fresh data N(R, 1) and fresh noise N(0, s^2), m of each a step. With steps 1 / (t + 10) and exact u the law follows from
the variances of the two parts of the gradient, 1 and V (`ebm.gaussian.gradient_variance`).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from flatlab import ebm, train


def squared_errors(
    cases: Sequence[tuple[float, float]], replicas: int, looks: Sequence[int], *, batch: int = 16, seed: int = 0
) -> Tensor:
    """(theta - R)^2 after some steps from R / 2: (cases, replicas, looks).

    Args:
        cases: (R, s).
        replicas: of each case.
        looks: numbers of steps, rising.
        batch: m, data and draws a step.
        seed: of all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    R, s = (torch.tensor(column).repeat_interleave(replicas)[:, None] for column in zip(*cases, strict=True))
    loss = ebm.MECOLoss(ebm.GaussianNoise.standard(1), n_noise=batch, gamma=ebm.Decay()).fresh(len(R))
    theta = nn.Parameter(R / 2)
    stepper = train.Stepper([theta], torch.optim.SGD, lr=1.0, networks=len(theta), check_finite=False)
    found = []

    def ratio(x: Tensor) -> Tensor:
        return (x / s).square() / 2 + s.log() - (x - theta).square() / 2

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return loss.from_ratios(ratio(x), ratio(y))[0]

    for step in range(looks[-1]):
        x, y = (torch.randn(len(R), batch, generator=generator) for _ in range(2))
        x, y, stepper.lr = x + R, y * s, 1 / (step + 10)
        stepper.step(partial(loss_of, x, y))
        if step + 1 in looks:
            found.append((theta.detach() - R).square()[:, 0])
    return torch.stack(found, 1).view(len(cases), replicas, len(looks))
