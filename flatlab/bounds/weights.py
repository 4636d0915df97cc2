"""Perturbed weights of linear layers and convolutions, and the first affine layer over an L1 or L2 ball.

A weight W0 + D, ||D||_p <= eps, adds <D, M> to a bound, where M = sum over positions of A (x) patch; its least value is
-eps ||M||_q, 1/p + 1/q = 1. Where a patch is only known to lie in c +- r, |M| <= |sum A (x) c| + sum |A| (x) r takes
its place, so that what has opposite signs at different positions still cancels; at a single position the norm of that
is ||A||_q times that of the largest patch. D itself is never written out. McCormick's planes over the box W0 +- eps,
which an L2 ball fills badly, give wider bounds (Xu et al. 2020, section 3, arXiv 2002.12920).

There is one ball around each weight: one that is used twice is bounded as if it were two, which is sound.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds.interval import Ball, Interval
from flatlab.bounds.nodes import Site
from flatlab.bounds.sets import LpBall
from flatlab.flatness import layer_weights

SUPPORTED = ("linear", "conv2d")


def weight_balls(
    model: nn.Module, eps: float, *, p: float = 2, names: Sequence[str] | None = None
) -> dict[str, LpBall]:
    """A ball around each weight of a model, for `Bounds`.

    Args:
        eps: radius of each, >= 0, in the units of the weights.
        p: 1, 2 or inf, over all entries of a weight (2: the Frobenius norm).
        names: of the parameters; None for the weights of all linear layers and convolutions, whose biases stay.

    Raises:
        ValueError: no such parameter, or no layer with weights.
    """
    parameters = dict(model.named_parameters())
    return {name: LpBall(parameters[name], eps, p) for name in layer_weights(model, names)}


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter -> the one that `named_parameters` gives it: tied weights have several."""
    first: dict[Tensor, str] = {}
    return {name: first.setdefault(p, name) for name, p in model.named_parameters(remove_duplicate=False)}


def dual(p: float) -> float:
    """1/p + 1/q = 1."""
    return {1: math.inf, 2: 2, math.inf: 1}[p]


def _options(site: Site) -> dict[str, Any]:
    names = (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1), ("groups", 6, 1))
    return {name: site.argument(i, name, default) for name, i, default in names}


def _patches(site: Site, z: Tensor) -> Tensor:
    """The inputs of each output: (N, groups, numbers of a patch, positions)."""
    if site.node.key == "linear":
        return z.reshape(-1, 1, z.shape[-1], 1)
    o, size = _options(site), site.argument(1).shape[2:]
    flat = F.unfold(z, size, o["dilation"], o["padding"], o["stride"])
    return flat.reshape(z.shape[0], o["groups"], -1, flat.shape[-1])


def _by_sample(site: Site, t: Tensor) -> Tensor:
    """(*, N, groups, n, positions) -> (*, B, groups, n, positions), where N = pre B post counts positions as well."""
    if t.shape[-4] == site.batch:
        return t
    split = t.unflatten(-4, (site.node.pre, site.batch, -1))
    return split.movedim((-6, -4), (-3, -2)).flatten(-3)


def interval_radius(site: Site, size: Tensor) -> Tensor:
    """How far each output can move: eps times the dual norm of its patch; `size` bounds the inputs' absolute values."""
    total: Tensor | float = 0.0
    if site.weight is not None:
        q, weight = dual(site.weight.p), site.argument(1)
        if site.node.key == "linear":
            norm = size.norm(p=q, dim=-1, keepdim=True)
            total = site.weight.eps * norm.expand(*norm.shape[:-1], weight.shape[0])
        else:
            norm = _patches(site, size).norm(p=q, dim=2)  # (N, groups, positions)
            reach = norm.repeat_interleave(weight.shape[0] // norm.shape[1], dim=1)
            shape = site.node.op(size[:1], weight, None, *site.node.args[3:]).shape  # type: ignore[misc]
            total = site.weight.eps * reach.reshape(size.shape[0], *shape[1:])
    if site.bias is not None:
        total = total + site.bias.eps
    return total  # type: ignore[return-value]


def backward_cost(site: Site, a: Tensor, x: Interval | Tensor) -> Tensor:
    """The least that perturbed weights and biases add to <a, z>, (S, B).

    Args:
        a: coefficients (S, *shape of z).
        x: the layer's input: its interval, or its value if it is known.
    """
    weight = site.argument(1)
    if site.node.key == "linear":
        flat = a.reshape(a.shape[0], -1, 1, weight.shape[0], 1)
    else:
        flat = a.reshape(*a.shape[:2], _options(site)["groups"], -1, math.prod(a.shape[3:]))
    flat = _by_sample(site, flat)  # (S, B, groups, outputs of a group, positions)
    cost = torch.zeros(flat.shape[:2], dtype=a.dtype, device=a.device)
    if site.weight is not None:
        cost = cost - site.weight.eps * _norm(site, flat, x, dual(site.weight.p))
    if site.bias is not None:
        cost = cost - site.bias.eps * flat.sum(4).flatten(2).norm(p=dual(site.bias.p), dim=2)
    return cost


def _norm(site: Site, a: Tensor, x: Interval | Tensor, q: float) -> Tensor:
    """The dual norm of M, (S, B), or a bound of it."""
    center, radius = (x.center, x.radius) if isinstance(x, Interval) else (x, None)
    at = _by_sample(site, _patches(site, center))
    reach = None if radius is None else _by_sample(site, _patches(site, radius))
    if at.shape[-1] == 1:  # an outer product: its norm is the product of the norms
        size = at[..., 0] if reach is None else at[..., 0].abs() + reach[..., 0]
        return (a[..., 0].norm(p=q, dim=3) * size.norm(p=q, dim=2)).norm(p=q, dim=2)
    m = torch.einsum("sbgol,bgil->sbgoi", a, at)
    if reach is not None:
        m = m.abs() + torch.einsum("sbgol,bgil->sbgoi", a.abs(), reach)
    return m.flatten(2).norm(p=q, dim=2)


def ball_radius(site: Site, ball: Ball) -> Tensor | Ball | None:
    """What an Lp ball becomes under a product with a constant: radii of the outputs, a ball, or None (use the box)."""
    if site.node.pre != 1:
        return None
    key = site.node.key
    if key in ("mul", "div") and site.node.args[0].index in site.hot:
        other = site.argument(1)
        scale = ball.scale / abs(other) if key == "div" else ball.scale * abs(other)
        if scale.shape != ball.scale.shape:
            return None
        return Ball(site.apply(ball.center), scale, ball.p)
    if key not in SUPPORTED or site.node.args[0].index not in site.hot:
        return None
    weight = site.argument(1).abs()
    if key == "linear":
        if ball.q == 2:
            return F.linear(ball.scale.square(), weight.square()).clamp(min=1e-30).sqrt()
        return (weight * ball.scale.unsqueeze(-2)).amax(-1)
    o = _options(site)
    if isinstance(o["padding"], str):
        return None
    if ball.q == 2:
        return F.conv2d(ball.scale.square(), weight.square(), None, **o).clamp(min=1e-30).sqrt()
    reach = weight.flatten(1).amax(1) * ball.scale.amax()
    return reach.reshape(1, -1, 1, 1)
