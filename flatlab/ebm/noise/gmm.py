"""A mixture of normal distributions:  log q(x) = logsumexp_k [log w_k + log N(x; m_k, C_k)]."""

from typing import Self

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import Noise, normal
from flatlab.ebm.noise.moments import factor, moments, normal_log_prob


class GMMNoise(Noise):
    """K normal distributions: weights (K,), >= 0 with sum 1, means (K, D), covs (K, D, D), symmetric and regular."""

    weights: Tensor
    means: Tensor
    trils: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor) -> None:
        super().__init__()
        self.register_buffer("trils", factor(means, covs, batch=True))
        self.register_buffer("means", means.detach().to(self.trils))
        total = float(weights.double().sum())
        if weights.shape != means.shape[:1] or not (weights >= 0).all() or abs(total - 1) > 1e-4:
            raise ValueError(f"weights must be ({len(means)},), >= 0 with sum 1, got {weights.tolist()}")
        self.register_buffer("weights", weights.detach().to(self.trils) / total)
        self.shape = tuple(means.shape[1:])

    @classmethod
    def fit(cls, x: Tensor, k: int, *, seed: int = 0, reg: float = 1e-3) -> Self:
        """scikit-learn's expectation maximisation, with full covariances.

        Args:
            x: (N, D), floating point; the buffers have its dtype.
            k: components, at most N.
            seed: of the initial components.
            reg: added to each variance, in squared units of x.
        """
        from sklearn.mixture import GaussianMixture

        moments(x)  # for its checks
        if checks.at_least("k", k, 1) > len(x):
            raise ValueError(f"k={k} components need as many rows, got {len(x)}: lower k")
        mixture = GaussianMixture(k, reg_covar=checks.nonnegative("reg", reg), random_state=seed)
        mixture.fit(x.detach().double().cpu().numpy())
        fitted = (mixture.weights_, mixture.means_, mixture.covariances_)
        return cls(*map(torch.as_tensor, fitted)).to(x)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        x = normal(n, self.means, generator)
        for k, (mean, tril) in enumerate(zip(self.means, self.trils, strict=True)):
            rows = which == k
            x[rows] = mean + x[rows] @ tril.mT
        return x

    def _log_prob(self, x: Tensor) -> Tensor:
        log_weights = self.weights.to(x.dtype).log().unsqueeze(1)
        return (log_weights + normal_log_prob(x, self.means, self.trils)).logsumexp(0)
