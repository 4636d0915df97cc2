"""Policies over few enough outputs to enumerate them, with everything about their reward exact, in float64.

    p(y) = prod_{l = 1..L} softmax(theta_{y_1..y_{l-1}})_{y_l}

`AutoregressiveTable` has a vector of logits for each prefix; `SoftmaxPolicy` is the case L = 1 (Razin et al. 2025, What
Makes a Reward Model a Good Teacher?, equations 2 and 3). Their objective is phi = E_p r_KL with

    r_KL(y) = r(y) - lam ln(p(y) / ref(y)),      d phi / d theta_s = P(s) pi(.|s) (Q(s, .) - V(s)) at a prefix s,

Q and V the conditional means of r_KL. The leading axes of the logits are a batch of policies.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from flatlab import checks
from flatlab.rlhf import arguments


class Policy:
    """What both policies share.

    Attributes:
        theta: all logits (*batch, D), float64: those of the first position, then those of the second, by prefix.
        symbols, length: V and L; the K = V^L outputs are in lexicographic order.
    """

    def __init__(self, theta: Tensor, symbols: int, length: int) -> None:
        if not theta.isfinite().all():
            raise ValueError("logits must be finite; an output that is hardly ever drawn has a very negative one")
        self.theta, self.symbols, self.length = theta.double(), symbols, length

    @property
    def batch(self) -> torch.Size:
        """The leading axes: () for one policy."""
        return self.theta.shape[:-1]

    @property
    def outputs(self) -> int:
        """K, the number of outputs."""
        return int(self.symbols**self.length)

    def at(self, theta: Tensor) -> Self:
        """The policy of the same kind with other logits (..., D)."""
        moved = copy.copy(self)
        moved.theta = theta
        return moved

    def log_probs(self) -> Tensor:
        """ln p(y) of every output (*batch, K)."""
        return self._joint(self._conditionals())

    def probs(self) -> Tensor:
        """p(y) of every output (*batch, K)."""
        return self.log_probs().exp()

    def expected(self, r: Tensor) -> Tensor:
        """E_p r, of shape `batch`, for rewards (..., K)."""
        return (self.probs() * arguments.rewards("r", r, self.outputs)).sum(-1)

    def variance(self, r: Tensor) -> Tensor:
        """Reward variance E_p (r - E_p r)^2 (Definition 2), of shape `batch`, by centred squares."""
        values, p = arguments.rewards("r", r, self.outputs), self.probs()
        return (p * (values - (p * values).sum(-1, keepdim=True)) ** 2).sum(-1)

    def gradient(self, r: Tensor, lam: float = 0.0, ref: Tensor | None = None) -> Tensor:
        """The gradient of phi in theta, (*batch, D).

        Args:
            r: rewards (..., K).
            lam: weight of the KL penalty, >= 0.
            ref: probabilities (..., K) of the reference policy; needed, and > 0, where lam > 0.
        """
        return self.ascent(*self._objective(r, lam, ref))

    def hessian(self, r: Tensor, lam: float = 0.0, ref: Tensor | None = None) -> Tensor:
        """The Hessian of phi in theta, (*batch, D, D); its arguments are those of `gradient`."""
        values, weight, ref_log = self._objective(r, lam, ref)

        def gradient(theta: Tensor, r: Tensor, ref_log: Tensor) -> Tensor:
            return self.at(theta).ascent(r, weight, ref_log)

        rows = [arguments.expanded("r or ref", x, self.batch) for x in (self.theta, values, ref_log)]
        found: Tensor = torch.func.vmap(torch.func.jacrev(gradient))(*rows)
        return found.reshape(*self.batch, *found.shape[1:])

    def kl(self, ref_log: Tensor) -> Tensor:
        """KL(p || ref) in nats, of shape `batch`, from ln ref (..., K), which no underflow can make infinite."""
        logs = self.log_probs()
        return (logs.exp() * (logs - ref_log)).sum(-1)

    def ascent(self, r: Tensor, lam: Tensor, ref_log: Tensor) -> Tensor:
        """The gradient of phi, (*batch, D), unchecked: the inner loop of a flow.

        Args:
            r: rewards (..., K).
            lam: () or (..., 1).
            ref_log: ln ref (..., K); of no effect where lam = 0.
        """
        logs = self._conditionals()
        choices = [log.exp() for log in logs]
        value = r - lam * (self._joint(logs) - ref_log)
        advantages: list[Tensor] = []
        for choice in reversed(choices):
            value = value.reshape(*value.shape[:-1], *choice.shape[-2:])
            mean = (choice * value).sum(-1)
            advantages.insert(0, value - mean[..., None])
            value = mean
        reach, found = torch.ones_like(choices[0][..., 0]), []
        for choice, advantage in zip(choices, advantages, strict=True):
            joint = reach[..., None] * choice
            found.append((joint * advantage).flatten(-2))
            reach = joint.flatten(-2)
        return torch.cat(found, -1)

    def _conditionals(self) -> list[Tensor]:
        """ln pi(.|s) at each position, (*batch, V^l, V)."""
        blocks = self.theta.split([self.symbols ** (position + 1) for position in range(self.length)], dim=-1)
        return [block.unflatten(-1, (-1, self.symbols)).log_softmax(-1) for block in blocks]

    def _joint(self, conditionals: list[Tensor]) -> Tensor:
        joint = conditionals[0].flatten(-2)
        for log in conditionals[1:]:
            joint = (joint[..., None] + log).flatten(-2)
        return joint

    def _objective(self, r: Tensor, lam: float, ref: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        values, weight = arguments.rewards("r", r, self.outputs), arguments.number("lam", lam)
        if lam > 0 and ref is None:
            raise ValueError(f"lam={lam:g} weighs a KL to a reference policy: give its probabilities as ref=")
        if lam == 0 or ref is None:
            return values, weight, torch.zeros_like(values)
        return values, weight, arguments.probabilities("ref", ref, self.outputs, positive=True).log()


class SoftmaxPolicy(Policy):
    """One softmax over K outputs; `SoftmaxPolicy(p.log())` has the probabilities p.

    Args:
        logits: (..., K), finite.
    """

    def __init__(self, logits: Tensor) -> None:
        if logits.ndim < 1 or logits.shape[-1] < 1:
            raise ValueError(f"logits must have shape (..., K) with K >= 1, got {tuple(logits.shape)}")
        super().__init__(logits, logits.shape[-1], 1)


class AutoregressiveTable(Policy):
    """Outputs of L symbols, each drawn from a softmax of its own for each prefix.

    Args:
        V: symbols.
        L: length of an output.
        logits: for each position l = 0..L-1 a tensor (..., V^l, V), prefixes in lexicographic order.
    """

    def __init__(self, V: int, L: int, logits: Sequence[Tensor]) -> None:
        shapes = [tuple(block.shape) for block in logits]
        wanted = [(checks.at_least("V", V, 1) ** position, V) for position in range(checks.at_least("L", L, 1))]
        if [shape[-2:] for shape in shapes] != wanted or len({shape[:-2] for shape in shapes}) != 1:
            raise ValueError(f"logits must have shapes {wanted} after the same leading axes, got {shapes}")
        super().__init__(torch.cat([block.flatten(-2) for block in logits], -1), V, L)
