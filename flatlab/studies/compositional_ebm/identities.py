"""What holds exactly, MECO's log Z and gradient over a space that can be enumerated; and the bias of its logarithm."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from flatlab import ebm


class _Everything(ebm.Noise):
    """The uniform noise on K states, the corners of a simplex; its K draws are all of them."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.shape = (states,)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.eye(self.shape[0], dtype=torch.float64)

    def _log_prob(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -float(np.log(self.shape[0])), dtype=x.dtype)


def exactness(trials: int, seed: int, *, states: int = 12) -> np.ndarray:
    """The larger error of log Z and of the gradient of random models over all states, (trials,).

    Args:
        trials: models, each with data of its own.
        seed: of them.
        states: that a model has.
    """
    generator, errors = torch.Generator().manual_seed(seed), []
    for _ in range(trials):
        theta = 3 * torch.randn(states, generator=generator, dtype=torch.float64)
        x = torch.eye(states, dtype=torch.float64)[torch.randint(states, (7,), generator=generator)]
        weights = theta.clone().requires_grad_()
        out = ebm.MECOLoss(_Everything(states), n_noise=states, gamma=1.0)(partial(torch.matmul, other=weights), x)
        (slope,) = torch.autograd.grad(out.loss, weights)
        exact = theta.softmax(0) - x.mean(0)
        errors.append(max(float((slope - exact).abs().max()), abs(float(out.log_z - theta.logsumexp(0)))))
    return np.array(errors)


def log_z_bias(gammas: tuple[float, ...], replicas: int, seed: int, *, draws: int = 8, steps: int = 200) -> np.ndarray:
    """Errors of log Z of a fixed model N(1, 1) under N(0, 1), averaged over the second half of the steps.

    Args:
        gammas: of the moving averages, which all see the same draws.
        replicas: of the stream of draws.
        seed: of the draws.
        draws: a step.
        steps: of the stream.

    Returns:
        (gammas, replicas), in nats.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(steps, replicas, draws, generator=generator, dtype=torch.float64)
    found = []
    for gamma in gammas:
        loss = ebm.MECOLoss(ebm.GaussianNoise.standard(1), n_noise=draws, gamma=gamma)
        log_z = torch.stack([loss.from_ratios(part[:, :1], part - 0.5)[1] for part in y])
        found.append(log_z[steps // 2 :].mean(0))
    return torch.stack(found).numpy()
