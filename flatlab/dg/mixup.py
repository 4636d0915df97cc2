"""Mixup between domains (Zhang et al. 2018; across domains as in DomainBed).

    x = m x_e + (1 - m) x_f      m ~ Beta(alpha, alpha)
    L = mean over pairs of  m CE(f(x), y_e) + (1 - m) CE(f(x), y_f)

Each step pairs every domain with the next one of a random order, and draws one m a pair; of unequal batches the rows
that both have. A single domain is paired with itself in a random order of its rows.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks
from flatlab.dg.base import Batch
from flatlab.dg.erm import ERM


@dataclass(eq=False, repr=False, kw_only=True)
class Mixup(ERM):
    """Cross-entropy of convex combinations of two domains.

    Args:
        alpha: of the Beta distribution of m, >= 0; 0 mixes nothing.
    """

    alpha: float = 0.2

    neutral: ClassVar = {"alpha": 0.0}

    def __post_init__(self) -> None:
        checks.nonnegative("alpha", self.alpha)
        super().__post_init__()

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        draws, domains = self._draws(), len(batch.sizes)
        xs, ys = batch.x.split(batch.sizes), batch.y.split(batch.sizes)
        order = draws.permutation(domains).tolist()
        mixed, pairs = [], []
        for e, f in zip(order, order[1:] + order[:1], strict=True):
            n = min(len(xs[e]), len(xs[f]))
            share = float(draws.beta(self.alpha, self.alpha)) if self.alpha > 0 else 1.0
            rows = torch.from_numpy(draws.permutation(n)).to(batch.y.device)
            mixed.append(share * xs[e][:n] + (1 - share) * xs[f][rows])
            pairs.append((share, ys[e][:n], ys[f][rows]))
        logits = self.trained(torch.cat(mixed)).split([len(x) for x in mixed])
        losses = [
            share * F.cross_entropy(found, own) + (1 - share) * F.cross_entropy(found, other)
            for found, (share, own, other) in zip(logits, pairs, strict=True)
        ]
        return {"loss": torch.stack(losses).mean()}
