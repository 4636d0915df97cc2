"""The mean of a Gaussian by stochastic gradients: methods race for it over a grid of distances and noises.

Each network of a stack is one number b. It has a distance R, a noise and a seed of its own: data N(R, 1), and

    q = (1 - share) N(0, s^2) + share N(0, wide^2)

All methods see the same data and the same draws, a batch of each a step, and take the same number of steps. Rates are
chosen for each method, distance and noise, on seeds that are not reported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from flatlab import ebm, train
from flatlab.studies.compositional_ebm.settings import CompositionalEBM, Noise

_HALF_LOG_2PI = math.log(2 * math.pi) / 2


Case = tuple[float, Noise]

METHODS: dict[str, tuple[Callable[[ebm.Noise, int], ebm.NoiseLoss], bool, bool]] = {
    "NCE, SGD": (lambda q, n: ebm.NCELoss(q, n_noise=n), False, False),
    "NCE, NGD": (lambda q, n: ebm.NCELoss(q, n_noise=n), True, False),
    "eNCE, NGD": (lambda q, n: ebm.ExpNCELoss(q, n_noise=n), True, False),
    "MECO": (lambda q, n: ebm.MECOLoss(q, n_noise=n), False, False),
    "MECO, gamma 1": (lambda q, n: ebm.MECOLoss(q, n_noise=n, gamma=1.0), False, False),
    "MECO, location": (lambda q, n: ebm.MECOLoss(q, n_noise=n), False, True),
    "SNL": (lambda q, n: ebm.SNLLoss(q, n_noise=n), False, False),
}
"""Name -> (loss, whether gradients are normalized, whether f = -(x - b)^2 / 2 instead of b x - x^2 / 2)."""


class Race:
    """Data and draws of S = cases x seeds numbers b, network by network.

    Attribute `thin`: the share of the last run's steps with fewer than two effective draws, (cases, seeds).

    Args:
        cases: (R, noise), each with all seeds.
        seeds: each with a generator of its own.
        points: size of the training set of each.
        batch: data a step, and draws a step.
    """

    def __init__(self, cases: Sequence[Case], seeds: Sequence[int], *, points: int = 2000, batch: int = 64) -> None:
        self.cases, self.seeds, self.points, self.batch = list(cases), list(seeds), points, batch
        noises = [noise for _, noise in self.cases]

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values).repeat_interleave(len(self.seeds))[:, None]

        self.R = column([R for R, _ in self.cases])
        self.s, self.share, self.wide = (column([getattr(q, name) for q in noises]) for name in ("s", "share", "wide"))

    def run(self, method: str, rate: float, steps: int, looks: Sequence[int]) -> Tensor:
        """Errors |mean of b since the look before - R| at some steps, (cases, seeds, looks); NaN if it diverged.

        Args:
            method: one of `METHODS`.
            rate: the rate falls from it to 0.3 of it, as rate / sqrt(1 + 10 t / steps).
            steps: in all.
            looks: numbers of steps, rising.
        """
        make, normalized, location = METHODS[method]
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        thin = torch.zeros(len(self.R))
        data = self.R + self._normal(self.points)
        loss = make(ebm.GaussianNoise.standard(1), self.batch).fresh(len(self.R))
        b = nn.Parameter(torch.zeros(len(self.R), 1))
        optimizer = ebm.NormalizedSGD if normalized else torch.optim.SGD
        stepper = train.Stepper([b, *loss.parameters()], optimizer, lr=rate, networks=len(b), check_finite=False)
        total, errors, last = torch.zeros(len(b)), [], 0

        def ratio(x: Tensor) -> Tensor:  # f - log q
            energy = -(x - b).square() / 2 if location else b * x - x.square() / 2
            return energy - _HALF_LOG_2PI - self.log_q(x)

        def loss_of(x: Tensor, y: Tensor) -> Tensor:
            weights = ratio(y)
            thin.add_(1 / weights.detach().softmax(1).square().sum(1) < 2)
            return loss.from_ratios(ratio(x), weights)[0]

        for look in looks:
            for step in range(last, look):
                x, y = data.gather(1, self._rows()), self.draws()
                stepper.lr = rate / math.sqrt(1 + 10 * step / steps)
                stepper.step(partial(loss_of, x, y))
                total += b.detach()[:, 0]
            errors.append((total / (look - last) - self.R[:, 0]).abs())
            total, last = torch.zeros(len(b)), look
        self.thin = (thin / looks[-1]).view(len(self.cases), -1)
        return torch.stack(errors, 1).view(*self.thin.shape, -1)

    def draws(self) -> Tensor:
        """Noise (S, batch)."""
        wide = self._uniform(self.batch) < self.share
        return torch.where(wide, self.wide, self.s) * self._normal(self.batch)

    def log_q(self, x: Tensor) -> Tensor:
        """Log density of the noise at (S, n)."""
        near, far = (-(x / sd).square() / 2 - sd.log() - _HALF_LOG_2PI for sd in (self.s, self.wide))
        return torch.logaddexp(near + torch.log1p(-self.share), far + self.share.log())

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """One draw (cases, n) a seed, as (S, n)."""
        return torch.stack([draw(generator) for generator in self.generators], 1).flatten(0, 1)

    def _normal(self, n: int) -> Tensor:
        return self._each(lambda g: torch.randn(len(self.cases), n, generator=g))

    def _uniform(self, n: int) -> Tensor:
        return self._each(lambda g: torch.rand(len(self.cases), n, generator=g))

    def _rows(self) -> Tensor:
        shape = (len(self.cases), self.batch)
        return self._each(lambda g: torch.randint(self.points, shape, generator=g))


@dataclass(frozen=True)
class Finish:
    """How the methods did, each at the rate that was best for it in each case, on other seeds.

    Attributes:
        cases: (R, noise).
        looks: numbers of steps at which errors were taken.
        tuning: how many of the seeds, the first ones, chose the rates.
        rates: method -> its rates.
        errors: method -> (rates, cases, seeds, looks), infinite for runs that diverged.
        thin: method -> (rates, cases, seeds), shares of steps with fewer than two effective draws.
        batch: data a step, and draws a step.
    """

    cases: tuple[Case, ...]
    looks: tuple[int, ...]
    tuning: int
    rates: dict[str, tuple[float, ...]]
    errors: dict[str, np.ndarray]
    thin: dict[str, np.ndarray]
    batch: int

    def best(self, method: str, case: Case) -> int:
        """Place of the rate with the least mean error at the end, on the tuning seeds."""
        at = self.cases.index(case)
        return int(self.errors[method][:, at, : self.tuning, -1].mean(1).argmin())

    def final(self, method: str, case: Case) -> np.ndarray:
        """Errors at the end (seeds,), at that rate."""
        return self.errors[method][self.best(method, case), self.cases.index(case), self.tuning :, -1]

    def warned(self, method: str, case: Case) -> float:
        """The share of steps, at that rate, in which a guard that wants two effective draws would have spoken."""
        return float(self.thin[method][self.best(method, case), self.cases.index(case), self.tuning :].mean())

    def draws(self, methods: Sequence[str], case: Case, tolerance: float) -> np.ndarray:
        """Data and draws (seeds,) after which the error stays within a tolerance; infinite if it does not in the end.

        Of several methods and all their rates, those count that need the fewest on the tuning seeds (geometric mean; if
        none arrives, those with the least error).

        Args:
            methods: of the race.
            case: one of `cases`.
            tolerance: of |b - R|.
        """
        at, found = self.cases.index(case), []
        for method in methods:
            errors = self.errors[method][:, at]
            outside = errors > tolerance
            after = np.where(outside.any(-1), len(self.looks) - outside[..., ::-1].argmax(-1), 0)
            needed = np.append(np.array(self.looks, dtype=float), np.inf)[after] * 2 * self.batch
            score = np.log(needed[:, : self.tuning]).mean(1)
            found += [(s, e, n) for s, e, n in zip(score, errors[:, : self.tuning, -1].mean(1), needed, strict=True)]
        return min(found, key=lambda one: one[:2])[2][self.tuning :]

    def decades(self, method: str, case: Case, tolerance: float) -> np.ndarray:
        """Over how many decades of rates each seed's error ends within a tolerance, (seeds,).

        Between two rates of the grid the logarithm of the error is taken to be a line in that of the rate.
        """
        rates = np.log10(self.rates[method])
        errors = self.errors[method][:, self.cases.index(case), self.tuning :, -1]
        fine = np.linspace(rates[0], rates[-1], 2001)
        height = np.log(np.clip(errors, 1e-12, 1e12) / tolerance).T
        return np.array([(np.interp(fine, rates, line) <= 0).mean() for line in height]) * (rates[-1] - rates[0])


def race(cfg: CompositionalEBM) -> Finish:
    """All methods at all rates on all cases, with the tuning seeds and those that are reported side by side."""
    looks = tuple(sorted({round(cfg.race_steps * 1.25**-k) for k in range(25)} | {round(0.9 * cfg.race_steps)}))
    field = Race(cfg.cases, (*cfg.tuning_seeds, *cfg.seeds), batch=cfg.race_batch)
    rates = {name: cfg.ngd_rates if normalized else cfg.sgd_rates for name, (_, normalized, _) in METHODS.items()}
    errors, thin = {}, {}
    for name, grid in rates.items():
        runs = [(field.run(name, rate, cfg.race_steps, looks), field.thin) for rate in grid]
        found, shares = (torch.stack(parts).numpy() for parts in zip(*runs, strict=True))
        errors[name], thin[name] = np.nan_to_num(found, nan=np.inf, posinf=np.inf), shares
    return Finish(cfg.cases, looks, len(cfg.tuning_seeds), rates, errors, thin, cfg.race_batch)
