"""Frechet inception distance (FID; Heusel et al. 2017): Frechet distance of two samples in the features of a network.

    FID = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^{1/2}),    m, C the means and unbiased covariances of the features

The features are anyone's: `flatlab.metrics.Extractor` makes them of images, and FIDs of different networks cannot be
compared. FID of finite samples is too high (`fid_bias`): compare samples of equal size, or see `fid_infinity`.
`FIDStats` sums up features batch by batch, in the memory of one D x D matrix, and keeps them in files that pytorch-fid
and TTUR's code write and read as well (arrays `mu` and `sigma`).
"""

import warnings
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from flatlab import checks
from flatlab.files import replacing
from flatlab.metrics.arguments import Numbers, features, same_columns
from flatlab.metrics.fid_bias import fid_bias
from flatlab.metrics.frechet import Moments, between, covariance


class FIDStats:
    """Number, mean and covariance of features, summed up in float64 around the mean of the first batch.

    Summing deviations keeps the digits of features whose mean is far from 0; it makes the result independent of how
    the rows were split into batches, but for rounding.

    Attributes:
        extractor: name of what made the features, such as `Extractor.name`; "" for unknown, which goes with all.
        n: rows so far; None if it is not known, of a file with `mu` and `sigma` alone.
    """

    def __init__(self, extractor: str = "") -> None:
        self.extractor = extractor
        self.n: int | None = 0
        self._shift: Tensor = torch.empty(0)
        self._sum: Tensor = torch.empty(0)  # of x - shift, (D,)
        self._squares: Tensor = torch.empty(0)  # of their outer products, (D, D)

    def update(self, batch: Numbers) -> "FIDStats":
        """Add features (N, D), N >= 1, and return self; a batch that is refused leaves everything as it was.

        Raises:
            TypeError: not numbers.
            ValueError: other shapes, NaN or infinity, another D than before, statistics with an unknown n.
        """
        count, rows = self._known(), features("batch", batch, least=1)
        shift = self._shift.to(rows.device) if count else rows.mean(0)
        same_columns(earlier=shift, batch=rows)
        deviations = rows - shift
        self._add(len(rows), shift, deviations.sum(0), deviations.T @ deviations)
        return self

    @property
    def mean(self) -> Tensor:
        """(D,); ValueError before the first row."""
        if self.n is None:
            return self._shift
        return self._shift + self._sum / checks.at_least("the number of rows so far", self.n, 1)

    @property
    def cov(self) -> Tensor:
        """Unbiased (divided by n - 1), (D, D); ValueError before the second row."""
        if self.n is None:
            return self._squares
        n = checks.at_least("the number of rows so far", self.n, 2)
        return (self._squares - torch.outer(self._sum, self._sum) / n) / (n - 1)

    def save(self, path: str | Path) -> None:
        """Write arrays `mu`, `sigma`, `n` (0: unknown) and `extractor` to an npz file, atomically."""
        mu, sigma = self.mean.cpu().numpy(), self.cov.cpu().numpy()
        with replacing(Path(path)) as part, part.open("wb") as file:
            np.savez(file, mu=mu, sigma=sigma, n=np.array(self.n or 0), extractor=np.array(self.extractor))

    @classmethod
    def load(cls, path: str | Path) -> "FIDStats":
        """Read what `save` wrote, or a file with `mu` and `sigma` alone: then n is None, and no rows can be added.

        Raises:
            FileNotFoundError: no file at `path`.
            ValueError: a file that is damaged or of another kind; the message names it.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                mean = torch.atleast_1d(torch.from_numpy(np.array(file["mu"], dtype=np.float64)))
                matrix = covariance("sigma", np.array(file["sigma"]), len(mean))
                count = int(file["n"]) if "n" in file else 0
                found = cls(str(file["extractor"]) if "extractor" in file else "")
            if mean.ndim != 1 or not mean.isfinite().all():
                raise ValueError(f"mu must be (D,) and finite, got shape {tuple(mean.shape)}")
            found.n = checks.at_least("n", count, 2) if count else None
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} is damaged or holds no statistics of features ({error}); it must be an npz file with "
                "mu (D,) and sigma (D, D)"
            ) from error
        found._shift, found._sum = mean, torch.zeros_like(mean)
        found._squares = matrix * (count - 1 if count else 1)
        return found

    def _add(self, n: int, shift: Tensor, total: Tensor, squares: Tensor) -> None:
        """Add n rows of which the sums of deviations from `shift`, and of their outer products, are known."""
        if not self.n:
            self.n, self._shift, self._sum, self._squares = n, shift, total, squares
            return
        shift, total, squares = (part.to(self._shift.device) for part in (shift, total, squares))
        step = shift - self._shift
        cross = torch.outer(total, step)
        self._squares = self._squares + squares + cross + cross.T + n * torch.outer(step, step)
        self._sum = self._sum + total + n * step
        self.n += n

    def _known(self) -> int:
        if self.n is None:
            raise ValueError("n is not known (a file with mu and sigma alone): rows cannot be added, only compared")
        return self.n


def merge(a: FIDStats, b: FIDStats) -> FIDStats:
    """Statistics of the rows of both, as if one object had seen them all.

    Raises:
        ValueError: features of different extractors or of other D, or an unknown n.
    """
    merged = FIDStats(_same_extractor(a, b))
    for part in (a, b):
        if part._known():
            if merged.n:
                same_columns(a=merged._shift, b=part._shift)
            merged._add(part._known(), part._shift, part._sum, part._squares)
    return merged


def fid(real: Numbers | FIDStats, fake: Numbers | FIDStats, *, warn: bool = True) -> float:
    """FID >= 0 in float64, of features or of statistics of features.

    Of features with N <= D the statistics lose half the digits (roots of eigenvalues that are zero but for rounding),
    the features themselves none.

    Args:
        real: features (N, D), N >= 2, or their statistics.
        fake: features (M, D), M >= 2, or their statistics.
        warn: whether to warn of samples with fewer than 10 D rows, for which FID is much too high. False where all
            values to be compared have the same N, M and bias.

    Raises:
        TypeError: not numbers.
        ValueError: too few rows, other shapes, NaN or infinity, other numbers of features, statistics of different
            extractors.
    """
    if isinstance(real, FIDStats) and isinstance(fake, FIDStats):
        _same_extractor(real, fake)
    (first, n), (second, m) = _moments("real", real), _moments("fake", fake)
    same_columns(real=first.mean, fake=second.mean)
    few, d = min(size for size in (n, m, np.inf) if size is not None), len(first.mean)
    if warn and few < 10 * d:
        bias = fid_bias(first.root.T @ first.root, *(size for size in (n, m) if size is not None))
        warnings.warn(
            f"FID of {few} rows of {d} features is too high, by about {bias:.3g} if the samples are alike"
            f"{' (and a covariance is singular)' if few <= d else ''}: take at least {10 * d} rows, or compare at "
            "equal numbers of rows alone, with warn=False",
            stacklevel=2,
        )
    return between(first, second)


def _moments(name: str, of: Numbers | FIDStats) -> tuple[Moments, int | None]:
    if isinstance(of, FIDStats):
        return Moments.of_covariance(name, of.mean, of.cov), of.n
    rows = features(name, of)
    return Moments.of_sample(name, rows), len(rows)


def _same_extractor(a: FIDStats, b: FIDStats) -> str:
    if a.extractor and b.extractor and a.extractor != b.extractor:
        raise ValueError(
            f"features of {a.extractor!r} and of {b.extractor!r} cannot be compared: extract both with one network"
        )
    return a.extractor or b.extractor
