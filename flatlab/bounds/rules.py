"""The registry: which operator passes bounds how. One line per operator, or a few.

A new operator is `RULES["flip"] = Affine(shape=True)`, `RULES["softplus"] = Pointwise(convex(f, df), increasing=True)`,
or an expansion in `flatlab.bounds.expansions`. The laws in tests/laws/ check every entry by themselves: that affine
operators are affine, that lines hold on random intervals, and that gradients pass.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds import powers, relax
from flatlab.bounds.affine import Affine
from flatlab.bounds.bilinear import Bilinear, LinearLayer, matmul_corners, product_corners
from flatlab.bounds.expansions import EXPANSIONS
from flatlab.bounds.functions import FUNCTIONS, tangent_start, valley
from flatlab.bounds.interval import Interval
from flatlab.bounds.largest import Largest
from flatlab.bounds.logsumexp import LogSumExp
from flatlab.bounds.nodes import Site
from flatlab.bounds.pointwise import Pointwise
from flatlab.bounds.rule import Rule
from flatlab.bounds.softmax import Softmax
from flatlab.bounds.transposes import add_back, conv2d_back, linear_back, mul_back

RULES: dict[str, Rule] = {}
"""Name in torch.ops.aten -> rule."""

_MOVED = (
    "flatten", "reshape", "view", "_unsafe_view", "transpose", "permute", "t", "select", "slice", "unsqueeze",
    "squeeze", "contiguous", "clone", "unflatten", "flip", "roll", "narrow", "alias", "movedim", "swapaxes", "numpy_T",
    "mT", "pixel_shuffle", "pixel_unshuffle", "diagonal", "to", "_to_copy", "type_as",
)  # fmt: skip
_COPIED = ("expand", "repeat", "gather", "index_select", "upsample_nearest2d", "unfold", "im2col")
_NONNEG = (
    "cat", "sum", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "cumsum", "col2im", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
)  # fmt: skip


RULES.update({name: Affine(once=True) for name in _MOVED})
RULES.update({name: Affine(shape=True) for name in _COPIED})
RULES.update({name: Affine(shape=True, slots=2) for name in ("view_as", "expand_as")})
RULES.update({name: Affine(nonneg=True) for name in _NONNEG})
RULES.update({name: Affine(places=True) for name in ("pad", "constant_pad_nd", "index")})
RULES["where"] = Affine(nonneg=True, slots=3)  # a mask that is perturbed is expanded
RULES["masked_fill"] = Affine(nonneg=True)
RULES["add"] = Affine(nonneg=True, slots=2, back=add_back)


class _Square(Pointwise):
    """A value times itself, which is the product's second argument and no parameter."""

    def parameters(self, site: Site) -> tuple[Any, ...]:
        return ()

    def kept(self, site: Site, x: Interval) -> relax.Lines:
        return self.relax(site, x)


_square = _Square(
    relax.convex(lambda z: z * z, lambda z: 2 * z),
    interval=valley(torch.square),
)
RULES["mul"] = Bilinear(corners=product_corners, square=_square, back=mul_back)
RULES["div"] = Bilinear(slots=1)  # by a constant; by a perturbed value it is expanded
RULES["linear"] = LinearLayer(back=linear_back, exact_on_boxes=True)
RULES["conv2d"] = Bilinear(back=conv2d_back, exact_on_boxes=True)
RULES.update(
    {name: Bilinear() for name in ("conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")}
)
RULES.update({name: Bilinear(corners=matmul_corners) for name in ("matmul", "bmm", "mm")})
RULES["amax"] = RULES["masked_amax"] = Largest()
RULES["logsumexp"] = LogSumExp()
RULES |= FUNCTIONS
RULES["softmax"] = RULES["_softmax"] = RULES["masked_softmax"] = Softmax()


def _sigmoid_slope(z: Tensor) -> Tensor:
    p = z.sigmoid()
    return p * (1 - p)


def _gelu_slope(z: Tensor) -> Tensor:
    normal = (-z * z / 2).exp() / math.sqrt(2 * math.pi)
    return (1 + torch.erf(z / math.sqrt(2))) / 2 + z * normal


def _silu_slope(z: Tensor) -> Tensor:
    p = z.sigmoid()
    return p * (1 + z * (1 - p))


def _at(*points: float) -> Callable[[Tensor], list[Tensor]]:
    return lambda l: [torch.full_like(l, p) for p in points]


_SILU_BENDS, _GELU_BENDS = _at(-2.399357, 2.399357), _at(-math.sqrt(2), math.sqrt(2))
"""Their inflection points."""


def _wavy(f: Any, df: Any, offset: float) -> Pointwise:
    """A sine; over a whole period or more the lines are those of -1 and 1."""

    def bends(l: Tensor) -> list[Tensor]:  # those in the two periods from l on
        return [torch.floor((l - offset) / math.pi) * math.pi + offset + math.pi * j for j in range(4)]

    inner = relax.curved(f, df, bends)

    def cut(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return u - l >= 2 * math.pi, torch.minimum(u, l + 2 * math.pi)

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None = None) -> relax.Lines:
        whole, end = cut(l, u)
        al, bl, au, bu = inner(l, end)
        zero, one = torch.zeros_like(l), torch.ones_like(l)
        found = [torch.where(whole, a, b) for a, b in ((zero, al), (-one, bl), (zero, au), (one, bu))]  # type: ignore[arg-type]
        return found[0], found[1], found[2], found[3]

    def interval(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        whole, end = cut(l, u)
        low, high = relax.extent(f, df, bends(l), l, end)
        return torch.where(whole, -1.0, low), torch.where(whole, 1.0, high)

    return Pointwise(lines, interval=interval, free=False)


def _softplus(l: Tensor, u: Tensor, alpha: Tensor | None, beta: float = 1.0, threshold: float = 20.0) -> relax.Lines:
    f = lambda z: F.softplus(z, beta, threshold)  # noqa: E731
    return relax.convex(f, lambda z: torch.sigmoid(beta * z))(l, u, alpha)


def _elu(l: Tensor, u: Tensor, alpha: Tensor | None, a: float = 1.0) -> relax.Lines:
    f, df = (lambda z: F.elu(z, a)), (lambda z: torch.where(z > 0, 1.0, a * z.exp()))
    return (relax.convex(f, df) if a <= 1 else relax.curved(f, df, _at(0.0)))(l, u, alpha)


def _slope_start(l: Tensor, u: Tensor, lines: relax.Lines, *rest: Any) -> Tensor:
    """ReLU: begin with the slope of the default."""
    return lines[0].detach()[None].clamp(0, 1)


def _leaky_start(l: Tensor, u: Tensor, lines: relax.Lines, a: float = 0.01) -> Tensor:
    low, high = min(a, 1.0), max(a, 1.0)
    return torch.stack([((line.detach() - low) / max(high - low, 1e-12)).clamp(0, 1) for line in (lines[0], lines[2])])


def _abs_start(l: Tensor, u: Tensor, lines: relax.Lines, *rest: Any) -> Tensor:
    return torch.stack([((lines[0].detach() + 1) / 2).clamp(0, 1)] * 2)


_tanh_slope: Callable[[Tensor], Tensor] = lambda z: 1 - z.tanh().square()  # noqa: E731

RULES.update(
    {
        "relu": Pointwise(relax.relu, F.relu, increasing=True, start=_slope_start, by_sign=True),
        "leaky_relu": Pointwise(
            lambda l, u, alpha, a=0.01: relax.leaky_relu(l, u, alpha, a), F.leaky_relu, increasing=True,
            start=_leaky_start, by_sign=True,
            refuse=lambda a=0.01: "" if a >= 0 else f"it is not monotone with slope {a:g}; take a slope >= 0",
        ),
        "clamp": Pointwise(
            lambda l, u, alpha, low=None, high=None: relax.clamp(l, u, alpha, low, high), torch.clamp, increasing=True,
            free=False,
        ),
        "abs": Pointwise(relax.absolute, interval=valley(torch.abs), start=_abs_start),
        "exp": Pointwise(
            relax.convex(torch.exp, torch.exp, lambda l, u: torch.minimum(u, l + 1.98)), torch.exp, increasing=True
        ),
        "log": Pointwise(relax.concave(torch.log, torch.reciprocal), torch.log, increasing=True, above=0.0),
        "sqrt": Pointwise(
            lambda l, u, alpha: powers.lines(l, u, alpha, 0.5), interval=lambda l, u: powers.interval(l, u, 0.5),
            least=0.0,
        ),
        "rsqrt": Pointwise(
            relax.convex(torch.rsqrt, lambda z: -z.pow(-1.5) / 2), torch.rsqrt, increasing=False, above=0.0
        ),
        "pow": Pointwise(
            powers.lines, interval=powers.interval, above=lambda n: 0.0 if n < 0 else None,
            least=lambda n: 0.0 if n > 0 and n != int(n) else None,
        ),
        "sigmoid": Pointwise(
            relax.s_shaped(torch.sigmoid, _sigmoid_slope, lambda k, b: (k, 1 - b)), torch.sigmoid, increasing=True,
            start=tangent_start,
        ),
        "tanh": Pointwise(
            relax.s_shaped(torch.tanh, _tanh_slope, lambda k, b: (k, -b)), torch.tanh, increasing=True,
            start=tangent_start,
        ),
        "softplus": Pointwise(
            _softplus, F.softplus, increasing=True,
            refuse=lambda beta=1.0, threshold=20.0: (
                "" if beta > 0 and threshold >= 20 else f"beta must be > 0 and threshold >= 20, got {beta}, {threshold}"
            ),
        ),
        "elu": Pointwise(
            _elu, F.elu, increasing=True,
            refuse=lambda a=1.0: "" if a > 0 else f"alpha must be > 0, got {a:g}",
        ),
        "silu": Pointwise(
            relax.curved(F.silu, _silu_slope, _SILU_BENDS), F.silu, free=False,
            interval=lambda l, u: relax.extent(F.silu, _silu_slope, _SILU_BENDS(l), l, u),
        ),
        "gelu": Pointwise(
            lambda l, u, alpha, approximate="none": relax.curved(F.gelu, _gelu_slope, _GELU_BENDS)(l, u, alpha),
            F.gelu, free=False,
            interval=lambda l, u, *_: relax.extent(F.gelu, _gelu_slope, _GELU_BENDS(l), l, u),
        ),
        "sin": _wavy(torch.sin, torch.cos, 0.0),
        "cos": _wavy(torch.cos, lambda z: -z.sin(), math.pi / 2),
    }
)  # fmt: skip


def supported() -> dict[str, tuple[str, ...]]:
    """Kind -> names of operators, for the table in the documentation."""
    found: dict[str, list[str]] = {}
    for name, rule in sorted(RULES.items()):
        found.setdefault(rule.kind, []).append(name)
    return {kind: tuple(names) for kind, names in found.items()} | {"composite": tuple(sorted(EXPANSIONS))}
