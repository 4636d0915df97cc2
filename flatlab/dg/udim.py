"""Unknown domain inconsistency minimisation, UDIM (Shin et al. 2024, arXiv 2403.07329), over any SAM-type step.

The loss of domains nobody has seen is to agree with that of the sources around the weights. Such domains are made from
the sources by one step in data space, and the disagreement is measured by gradients of the linear head alone:

    x~_i = x_i + rho_x G_i / |G_i|        G_i = grad_x_i [ L(x) + rho |grad_w L(x)| ]
    step: g_SAM + lam grad_w P            g_SAM: that of SAM, ASAM, GSAM or SAGM on the sources

With G_i and G~_i the head's gradients of sample i at x_i and at x~_i, m the mean of the G_i, and D = C d + C numbers:

    mode="official"   P = mean_j (v~ - v)_j^2 / 4 + mean_i |dW~_i|^2 / (C d) + mean_i |db~_i|^2 / C
                      v = mean_i (G_i - m)^2       v~ = mean_i (G~_i - m)^2, about the mean of the sources
    mode="paper"      P = |v~ - v| + rho |mean_i G~_i|,   v and v~ each about their own mean

"official" is what the released code computes, "paper" what the text says. P is summed over the source domains. It is
differentiated through the whole network; x~ is a constant. Its norm term is a squared error (p - y)^2 at perturbed
inputs, weighted by the size of the features: mostly, UDIM is SAM plus a bounded form of adversarial training.

Where the released code differs besides: it normalises each pixel over the batch (here norm="batch"), one of its
branches perturbs nothing, and its networks use the statistics of test batches. The scale of P falls with the number of
the head's weights, so that `lam` does not carry over between networks: watch "ratio", lam |grad P| / |g_SAM|.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks, optim
from flatlab.dg.base import Batch, check_model, classes, features_and_logits, resting_statistics
from flatlab.dg.head import head_moments, head_residuals
from flatlab.dg.sam import SAM
from flatlab.optim import norms
from flatlab.optim.two_pass import TwoPass

BASES: dict[str, type[TwoPass]] = {"sam": optim.SAM, "asam": optim.ASAM, "gsam": optim.GSAM, "sagm": optim.SAGM}
MODES = ("official", "paper")
NORMS = ("sample", "batch")
DIRECTIONS = ("worst", "random")
TERMS = ("both", "norm", "variance", "loss")
_TINY = 1e-30  # of a squared norm: keeps the root's slope finite where all gradients vanish


@dataclass(eq=False, repr=False, kw_only=True)
class UDIM(SAM):
    """SAM, or another of its family, plus the inconsistency with perturbed copies of the source domains.

    Args:
        rho: radius in weight space, of the base and of G, >= 0.
        rho_x: length of a sample's perturbation, in the units of x, >= 0.
        lam: weight of the penalty; 0 is the base alone, bit for bit.
        warmup: fraction of `total_steps` in which the base trains alone, in [0, 1].
        total_steps: of the whole training; None: no warm-up.
        base: "sam", "asam", "gsam" or "sagm", the options besides rho being the defaults of `flatlab.optim`.
        mode: "official" or "paper", see the head of this file.
        norm: "sample": each sample moves by rho_x; "batch": each pixel does, over the batch.
        second_order: whether G has its second term, which costs a second backward pass.
        clip: (low, high), a range that perturbed inputs are kept in; None: none, as the authors do.
        direction: "worst", or "random": a Gaussian direction, normalised alike. An ablation.
        terms: "both", or of P only the "norm" or the "variance"; "loss": the cross-entropy at x~ in the place of P,
            which is adversarial training. Ablations.
    """

    rho_x: float = 1.0
    lam: float = 1.0
    warmup: float = 0.2
    total_steps: int | None = None
    base: str = "sam"
    mode: str = "official"
    norm: str = "sample"
    second_order: bool = True
    clip: tuple[float, float] | None = None
    direction: str = "worst"
    terms: str = "both"

    neutral: ClassVar = {"rho": 0.0, "lam": 0.0}

    def __post_init__(self) -> None:
        check_ball(self.rho, self.rho_x, self.norm, self.clip)
        checks.nonnegative("lam", self.lam)
        if checks.nonnegative("warmup", self.warmup) > 1:
            raise ValueError(f"warmup is a fraction of total_steps and must lie in [0, 1], got {self.warmup!r}")
        self._warm_steps = self.warmup * (
            checks.at_least("total_steps", self.total_steps, 1) if self.total_steps else 0
        )
        for name, valid in (("base", BASES), ("mode", MODES), ("direction", DIRECTIONS), ("terms", TERMS)):
            checks.one_of(name, getattr(self, name), valid)
        super().__post_init__()

    def _perturbing(self) -> type[TwoPass]:
        return BASES[self.base]

    def _perturbing_options(self) -> dict[str, Any]:
        return {"rho": self.rho}

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        if self.lam == 0 or self.steps < self._warm_steps:
            return super()._step(batch)
        two_pass = self._optimizer
        assert isinstance(two_pass, TwoPass)
        x_tilde, loss, first = self._perturb(batch)
        for p, g in zip(self.parameters, first, strict=True):
            p.grad = g
        two_pass.first_step(zero_grad=True)
        try:
            F.cross_entropy(self.trained(batch.x), batch.y).backward()
        finally:
            two_pass.restore()
        with resting_statistics(self.trained), full_precision(batch.x):
            penalty = self._penalty(batch, x_tilde)
            slopes = torch.autograd.grad(penalty, self.parameters, materialize_grads=True)
        ratio = self.lam * _norm(slopes) / _norm(p.grad for p in self.parameters).clamp_min(_TINY)
        for p, slope in zip(self.parameters, slopes, strict=True):
            p.grad = self.lam * slope if p.grad is None else p.grad.add_(slope, alpha=self.lam)
        two_pass.step()
        return {"loss": loss, "penalty": penalty.detach(), "ratio": ratio}

    def _perturb(self, batch: Batch) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
        """x~, and what the same forward pass gives SAM: the loss and its gradients at the weights."""
        second = self.second_order and self.direction == "worst"
        slope, loss, first = _ascent(self.trained, batch.x, batch.y, self.rho if second else 0.0, self.parameters)
        if self.direction == "random":
            slope = torch.from_numpy(self._draws().standard_normal(tuple(batch.x.shape))).to(batch.x)
        return _moved(batch.x, slope, self.rho_x, self.norm, self.clip), loss, first

    def _penalty(self, batch: Batch, x_tilde: Tensor) -> Tensor:
        x_tilde = at_least_float32(x_tilde)
        if self.terms == "loss":
            return F.cross_entropy(self.trained(x_tilde), batch.y)
        parts = _terms(self.trained, at_least_float32(batch.x), x_tilde, batch.y, batch.sizes, self.mode, self.rho)
        return {"both": parts[0] + parts[1], "variance": parts[0], "norm": parts[1]}[self.terms]


def perturb_inputs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float,
    rho_x: float,
    *,
    norm: str = "sample",
    second_order: bool = True,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """x~ of the head of this file: a batch like x, each sample at distance rho_x, where L + rho |grad L| is larger.

    A sample whose G is zero stays where it is. The model is left as it was, running statistics included.

    Args:
        model: with `.featurizer` and `.classifier`, in train or eval mode.
        x: inputs (N, ...), floating.
        y: labels (N,) in 0..C-1.
        rho: radius in weight space, >= 0.
        rho_x: length of the step, >= 0; 0 returns a copy of x.
        norm: "sample" or "batch".
        second_order: whether rho |grad L| counts.
        clip: (low, high), or None.
    """
    check_model(model)
    check_ball(rho, rho_x, norm, clip)
    checks.labels(y, len(checks.inputs(x, box=False)), classes(model))
    parameters = [p for p in model.parameters() if p.requires_grad]
    with resting_statistics(model):
        slope, _, _ = _ascent(model, x, y.long(), rho if second_order else 0.0, parameters)
    return _moved(x, slope, rho_x, norm, clip)


def inconsistency_penalty(
    model: nn.Module, x: Tensor, x_tilde: Tensor, y: Tensor, *, mode: str = "official", rho: float = 0.05
) -> Tensor:
    """P of the head of this file for one domain, a scalar that is differentiable in the weights of `model`.

    Computed in float32 at least, also under autocast. Running statistics stay as they are.

    Args:
        model: with `.featurizer` and `.classifier`.
        x: inputs (N, ...), floating.
        x_tilde: their perturbed copies, of the same shape.
        y: labels (N,) in 0..C-1.
        mode: "official" or "paper".
        rho: weight of the norm in mode "paper"; "official" has none.
    """
    check_model(model)
    checks.one_of("mode", mode, MODES)
    checks.nonnegative("rho", rho)
    checks.labels(y, len(checks.inputs(x, box=False)), classes(model))
    if x_tilde.shape != x.shape:
        raise ValueError(f"x_tilde must have the shape of x, {tuple(x.shape)}, got {tuple(x_tilde.shape)}")
    with resting_statistics(model), full_precision(x):
        variance, norm = _terms(model, at_least_float32(x), at_least_float32(x_tilde), y, [len(x)], mode, rho)
        return variance + norm


def check_ball(rho: float, rho_x: float, norm: str, clip: tuple[float, float] | None) -> None:
    """Raise ValueError unless radii, norm and range are such as `perturb_inputs` takes, see `perturb_inputs`."""
    checks.nonnegative("rho", rho)
    checks.nonnegative("rho_x", rho_x)
    checks.one_of("norm", norm, NORMS)
    if clip is not None and not (len(clip) == 2 and -math.inf < clip[0] < clip[1] < math.inf):
        raise ValueError(f"clip must be (low, high) with low < high, both finite, or None; got {clip!r}")


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast inside: squared variances of gradients, about 1e-8, vanish in half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _ascent(
    model: nn.Module, x: Tensor, y: Tensor, rho: float, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """grad_x [L + rho |grad_w L|], the loss L, and grad_w L, all without a graph."""
    here = at_least_float32(x.detach()).clone().requires_grad_()
    with torch.enable_grad(), full_precision(x):
        # A view, since torch cannot count the operations of a gradient in the very argument of a module.
        loss = F.cross_entropy(model(here.view_as(here)), y)
        slope, *first = torch.autograd.grad(loss, [here, *parameters], create_graph=rho > 0, allow_unused=True)
        if rho > 0:  # the gradient of |g| is that of <g, u> for the constant u = g / |g|
            curves = [g for g in first if g is not None and g.requires_grad]
            length = _norm(g.detach() for g in curves).clamp_min(_TINY)
            units = [g.detach() * (rho / length) for g in curves]
            (bend,) = torch.autograd.grad(curves, here, units, allow_unused=True)
            slope = slope.detach() if bend is None else slope.detach() + bend
    return slope, loss.detach(), [None if g is None else g.detach() for g in first]


def _moved(x: Tensor, slope: Tensor, rho_x: float, norm: str, clip: tuple[float, float] | None) -> Tensor:
    """x + rho_x slope / |slope|, over each sample or over the batch; where the slope is zero, nothing moves."""
    if rho_x == 0:
        return x.detach().clone()
    over = tuple(range(1, x.ndim)) if norm == "sample" else (0,)
    tiny, length = torch.finfo(slope.dtype).tiny, functools.partial(torch.linalg.vector_norm, dim=over, keepdim=True)
    # Of confident samples the squares would underflow, so the largest entry is made 1 first.
    slope = slope / length(slope, math.inf).clamp_min(tiny)
    moved = torch.add(x.detach(), (slope / length(slope).clamp_min(tiny)).to(x.dtype), alpha=rho_x)
    return moved if clip is None else moved.clamp(*clip)


def _terms(
    model: nn.Module, x: Tensor, x_tilde: Tensor, y: Tensor, sizes: list[int], mode: str, rho: float
) -> tuple[Tensor, Tensor]:
    """The variance term and the norm term of P, each summed over domains of `sizes` rows."""
    features, logits = features_and_logits(model, torch.cat([x, x_tilde]))
    features, residual = head_residuals(features, logits, torch.cat([y, y]))
    mean, square = head_moments(features, residual, sizes * 2)
    (m, m_new), (s, s_new) = mean.chunk(2), square.chunk(2)
    if mode == "paper":
        gap, slope = (s_new - m_new.square()) - (s - m.square()), m_new
        return _length(gap).sum(), rho * _length(slope).sum()
    gap = s_new - s - 2 * m * (m_new - m)  # of the mean squares about m
    classes_, d = residual.shape[1], features.shape[1]
    shares = torch.full((d + 1,), 1 / (classes_ * d), dtype=s.dtype, device=s.device)
    shares[-1] = 1 / classes_
    return gap.square().sum() / (4 * gap[0].numel()), s_new.sum((0, 1)) @ shares


def _length(tensor: Tensor) -> Tensor:
    """The norm of each domain's (C, d + 1), with a finite slope at zero."""
    return tensor.square().sum((1, 2)).clamp_min(_TINY).sqrt()


def _norm(tensors: Iterable[Tensor | None]) -> Tensor:
    """The norm over all tensors together."""
    return norms.norm([[t for t in tensors if t is not None]], None)
