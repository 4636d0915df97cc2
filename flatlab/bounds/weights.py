"""Perturbed weights of linear layers and convolutions, and the first affine layer over an L1 or L2 ball.

A weight W0 + D, ||D||_p <= eps, adds <D, M> to a bound, where M = sum over positions of A (x) patch; its least value is
-eps ||M||_q, 1/p + 1/q = 1. Where the patch is not known exactly, |M| <= |A| (x) max |patch| takes its place. One ball
around each weight: a weight that is used twice is bounded as if it were two, which is sound.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds.interval import Ball

if TYPE_CHECKING:
    from flatlab.bounds.kinds import Site

SUPPORTED = ("linear", "conv2d")


def _dual(p: float) -> float:
    return {1: math.inf, 2: 2, math.inf: 1}[p]


def _options(site: "Site") -> dict[str, Any]:
    names = (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1), ("groups", 6, 1))
    return {name: site.argument(i, name, default) for name, i, default in names}


def _patches(site: "Site", size: Tensor) -> Tensor:
    """(B, groups, numbers of a patch, positions)."""
    weight = site.argument(1)
    if site.node.key == "linear":
        return size.reshape(size.shape[0], -1, size.shape[-1]).transpose(1, 2)[:, None]
    o = _options(site)
    flat = F.unfold(size, weight.shape[2:], o["dilation"], o["padding"], o["stride"])
    return flat.reshape(size.shape[0], o["groups"], -1, flat.shape[-1])


def interval_radius(site: "Site", size: Tensor) -> Tensor:
    """How far each output can move: eps times the dual norm of its patch; `size` bounds the inputs' absolute values."""
    total: Tensor | float = 0.0
    if site.weight is not None:
        norm = _patches(site, size).norm(p=_dual(site.weight.p), dim=2)  # (B, groups, positions)
        weight = site.argument(1)
        reach = site.weight.eps * norm.repeat_interleave(weight.shape[0] // norm.shape[1], dim=1)
        if site.node.key == "linear":
            total = reach[:, :1].transpose(1, 2).reshape(*size.shape[:-1], 1).expand(*size.shape[:-1], weight.shape[0])
        else:
            shape = site.node.op(size[:1], weight, None, *site.node.args[3:]).shape  # type: ignore[misc]
            total = reach.reshape(size.shape[0], *shape[1:])
    if site.bias is not None:
        total = total + site.bias.eps
    return total  # type: ignore[return-value]


def backward_cost(site: "Site", a: Tensor, size: Tensor, signed: Tensor | None) -> Tensor:
    """The least that perturbed weights and biases add to <a, z>, (S, B); `signed` is the input, if it is known."""
    rows, batch = a.shape[:2]
    flat = a.reshape(rows, batch, -1, a.shape[-1]).transpose(2, 3) if site.node.key == "linear" else a.flatten(3)
    cost = torch.zeros(rows, batch, dtype=a.dtype, device=a.device)
    if site.weight is not None:
        q = _dual(site.weight.p)
        patches = _patches(site, size if signed is None else signed)
        groups = patches.shape[1]
        grouped = flat.reshape(rows, batch, groups, -1, flat.shape[-1])
        if patches.shape[-1] == 1:  # an outer product: its norm is the product of the norms
            cost = cost - site.weight.eps * (grouped[..., 0].norm(p=q, dim=3) * patches[..., 0].norm(p=q, dim=2)).norm(
                p=q, dim=2
            )
        else:
            m = torch.einsum("sbgol,bgil->sbgoi", grouped if signed is not None else grouped.abs(), patches)
            cost = cost - site.weight.eps * m.flatten(2).norm(p=q, dim=2)
    if site.bias is not None:
        cost = cost - site.bias.eps * flat.sum(3).norm(p=_dual(site.bias.p), dim=2)
    return cost


def ball_radius(site: "Site", ball: Ball) -> Tensor | Ball | None:
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
