"""Tensors and parameters that carry a perturbation, under the names of auto_LiRPA."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from flatlab.bounds.sets import Box, L0Ball, LpBall, Synonyms


class Perturbation:
    """What may happen to a tensor. Attributes may be changed between calls."""

    def region(self, x: Tensor, aux: Any = None) -> Box:
        """The set around x; `aux` as given to `BoundedModule.compute_bounds`."""
        raise NotImplementedError


class PerturbationLpNorm(Perturbation):
    """An Lp ball, or a box.

    Args:
        eps: radius, a number, or for p = inf a tensor that broadcasts against the input.
        norm: p = 1, 2 or inf.
        x_L, x_U: for p = inf, the ends of a box (B, ...), instead of x - eps and x + eps; else without effect.
    """

    def __init__(
        self, eps: Any = 0, norm: float = math.inf, x_L: Tensor | None = None, x_U: Tensor | None = None
    ) -> None:
        self.eps, self.norm, self.x_L, self.x_U = eps, norm, x_L, x_U

    def set_eps(self, eps: Any) -> None:
        """Change the radius."""
        self.eps = eps

    def region(self, x: Tensor, aux: Any = None) -> Box:
        box = self.norm == math.inf and not (self.x_L is None and self.x_U is None)
        if self.eps is None and not (box and self.x_L is not None and self.x_U is not None):
            raise ValueError("PerturbationLpNorm needs eps, or both x_L and x_U with norm=inf")
        if not box:
            return LpBall(x, self.eps, self.norm)
        low = x - self.eps if self.x_L is None else plain(self.x_L)
        high = x + self.eps if self.x_U is None else plain(self.x_U)
        return Box(*(end.to(x).expand_as(x) for end in (low, high)))

    def __repr__(self) -> str:
        return f"PerturbationLpNorm(norm={self.norm}, eps={self.eps})"


class PerturbationL0Norm(Perturbation):
    """At most `eps` numbers of an input change, each to anything in [0, 1].

    Args:
        eps: how many.
        ratio: in (0, 1], how far towards 0 or 1 they may go, as a share of the way.
    """

    def __init__(self, eps: int, x_L: Tensor | None = None, x_U: Tensor | None = None, ratio: float = 1.0) -> None:
        self.eps, self.x_L, self.x_U, self.ratio = eps, x_L, x_U, ratio

    def region(self, x: Tensor, aux: Any = None) -> Box:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio!r}")
        return L0Ball(x, math.ceil(self.eps), share=self.ratio)

    def __repr__(self) -> str:
        return f"PerturbationL0Norm(eps={self.eps})"


class PerturbationSynonym(Perturbation):
    """At most `budget` words of a sentence are replaced by one of their candidates.

    Args:
        budget: how many.
        eps: in [0, 1], how far candidates lie from the word, as a share of the way.
        use_simple: let all words change, whatever the budget.
        candidates: vectors (B, T, K, D) for an input (B, T, D); or give aux=(candidates, mask) to `compute_bounds`.
        mask: which of them exist, bool (B, T, K); None for all.
    """

    def __init__(
        self,
        budget: int,
        eps: float = 1.0,
        use_simple: bool = False,
        *,
        candidates: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.budget, self.eps, self.use_simple, self.candidates, self.mask = budget, eps, use_simple, candidates, mask

    def region(self, x: Tensor, aux: Any = None) -> Box:
        candidates, mask = (self.candidates, self.mask) if aux is None else aux
        if candidates is None:
            raise ValueError(
                "PerturbationSynonym needs the candidates' vectors (B, T, K, D): give candidates= and mask=, or "
                "aux=(candidates, mask) to compute_bounds"
            )
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps must lie in [0, 1], got {self.eps!r}")
        mask = torch.ones(candidates.shape[:3], dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        budget = x.shape[1] if self.use_simple else self.budget
        return Synonyms(x, x[:, :, None] + self.eps * (candidates - x[:, :, None]), mask, budget)

    def __repr__(self) -> str:
        return f"PerturbationSynonym(budget={self.budget}, eps={self.eps})"


class BoundedTensor(Tensor):
    """A tensor that carries what may happen to it, `ptb`. What is computed from it is an ordinary tensor.

    Args:
        x: the tensor, in whose graph the new one stays.
        ptb: a `Perturbation`, or None.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    ptb: Perturbation | None

    @staticmethod
    def __new__(cls, x: Any, ptb: Perturbation | None = None) -> "BoundedTensor":
        return torch.as_tensor(x).as_subclass(Tensor).as_subclass(cls)

    def __init__(self, x: Any, ptb: Perturbation | None = None) -> None:
        self.ptb = _perturbation(ptb)

    def __deepcopy__(self, memo: dict[int, Any]) -> "BoundedTensor":
        return memo.setdefault(id(self), BoundedTensor(copy.deepcopy(plain(self), memo), copy.deepcopy(self.ptb, memo)))

    def to(self, *args: Any, **kwargs: Any) -> "BoundedTensor":
        """As of a tensor, and with the perturbation, whose own tensors follow when bounds are computed."""
        return BoundedTensor(super().to(*args, **kwargs), self.ptb)

    def clone(self, *args: Any, **kwargs: Any) -> "BoundedTensor":
        """As of a tensor, and with the same perturbation."""
        return BoundedTensor(super().clone(*args, **kwargs), self.ptb)


class BoundedParameter(nn.Parameter):
    """A parameter that carries what may happen to it: the weight or bias of a linear layer or a convolution.

    Args:
        data: its value.
        ptb: a `PerturbationLpNorm` with a number for eps; None leaves it alone.
    """

    ptb: Perturbation | None

    def __new__(cls, data: Tensor, ptb: Perturbation | None = None, requires_grad: bool = True) -> "BoundedParameter":
        made = super().__new__(cls, data, requires_grad)
        made.ptb = _perturbation(ptb)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "BoundedParameter":
        if id(self) not in memo:
            memo[id(self)] = BoundedParameter(self.data.clone(), self.ptb, self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return BoundedParameter, (self.data, self.ptb, self.requires_grad)


def plain(x: Tensor) -> Tensor:
    """Without the perturbation, in the same graph."""
    return x.as_subclass(Tensor) if isinstance(x, BoundedTensor) else x


def _perturbation(ptb: Any) -> Perturbation | None:
    if ptb is not None and not isinstance(ptb, Perturbation):
        raise TypeError(f"ptb must be a perturbation of flatlab.bounds.auto_lirpa or None, got {type(ptb).__name__}")
    return ptb
