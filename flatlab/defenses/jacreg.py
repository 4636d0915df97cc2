"""Jacobian regularization (Hoffman, Roberts, Yaida 2019).

    L = CE + lambda/2 |J|_F^2,   J = df/dx (C x D),   |J|_F^2 = C E |v^T J|_2^2,   v uniform on the unit sphere of R^C

estimated with a few random projections v per sample, or computed exactly with one backward pass per class. The official
code draws unit vectors and multiplies by C, where its docstring speaks of vectors of length sqrt(C): both are the same.

It bounds the flatness of the log-density, as |grad LSE f| = |J^T p| <= |J|_F, and not the other way round.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses.penalty import Penalty


@dataclass(kw_only=True, eq=False)
class JacReg(Penalty):
    """Cross-entropy plus half the squared Frobenius norm of the input-logit Jacobian. Ignores `eps`.

    Args:
        weight: lambda.
        projections: random vectors per sample; None computes the norm exactly, with C backward passes.
    """

    weight: float = 0.03
    projections: int | None = 1

    name = "jacreg"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projections is not None:
            checks.at_least("projections", self.projections, 1)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = model(point)
            norm = sum(
                torch.autograd.grad((logits * v).sum(), point, create_graph=True)[0].flatten(1).square().sum(1)
                for v in self._vectors(logits)
            )
        return F.cross_entropy(logits, y) + self.weight / 2 * torch.as_tensor(norm).mean()

    def _vectors(self, logits: Tensor) -> list[Tensor]:
        """Vectors v (N, C) or (C,) for which the sum of |v^T J|^2 is, or has as its mean, the squared norm."""
        classes = logits.shape[1]
        if self.projections is None:
            return list(torch.eye(classes, dtype=logits.dtype, device=logits.device))
        draws = [self.rng.normal(logits.shape).to(logits) for _ in range(self.projections)]
        return [F.normalize(v, dim=1) * (classes / self.projections) ** 0.5 for v in draws]
