"""Perturbed weights of linear layers and convolutions, and the first affine layer over an L1 or L2 ball.

A weight W0 + D, ||D||_p <= eps, adds <D, M> to a bound, where M = sum over positions of A (x) patch; its least value is
-eps ||M||_q, 1/p + 1/q = 1. D itself is never written out. Where the layer's input is only known to lie in a box, so is
M, which is linear in it: M in c -+ r with c = sum A (x) center, r = sum |A| (x) radius, so that what has opposite signs
at different positions still cancels. A function of M that is linear, and lies above the norm on that box, is passed on
to the input:

    q = 1      |m| <= its chord on [c - r, c + r]
    q = 2      ||M|| <= s/2 + ||M||^2 / (2 s) for any s > 0, and m^2 <= 2 c m - c^2 + r^2. The least value in the middle
               has s^2 = ||c||^2 + ||r||^2: ||M|| <= (<c, M> + ||r||^2) / s
    q = inf    max |m| <= t + the chord of max(|m_1| - t, 0), where m_1 is the entry that may be the largest, and t what
               no other can exceed

The largest value of the norm, which is taken at one corner of the box, would do as well, and is larger almost
everywhere. McCormick's planes over the box W0 +- eps, which an L2 ball fills badly, are wider, too (Xu et al. 2020,
section 3, arXiv 2002.12920).

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
"""Operators whose parameters may be perturbed."""

WEIGHED = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d")
"""Operators whose outputs have radii of their own, where their input lies in a ball."""


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


def box_ends(site: Site, x: Interval) -> tuple[Tensor, Tensor]:
    """The ends of W x + b where W lies in a box W0 -+ eps: W0 x -+ eps |x|, the chord of |x| in its place, is affine.

    |W0 - eps k|, for the slopes k in [-1, 1] of the chords, lies below its own chord between k = -1 and k = 1, so that
    two products serve all samples; it is that chord where k is -1 or 1, or |W0| >= eps.
    """
    assert site.weight is not None
    weight, eps = site.argument(1), site.weight.eps
    k = chord_slope(x.center, x.radius)
    reach = interval_radius(site, torch.maximum(x.center.abs(), x.radius))  # the chords in the middle
    up, down = (1 + k) / 2 * x.radius, (1 - k) / 2 * x.radius
    near, far = (weight - eps).abs(), (weight + eps).abs()
    product = lambda t, w: site.node.op(t, w, None, *site.node.args[3:])  # type: ignore[misc]  # noqa: E731
    middle = site.apply(x.center)
    low = middle - reach - product(up, near) - product(down, far)
    return low, middle + reach + product(up, far) + product(down, near)


def backward_cost(site: Site, a: Tensor, x: Interval | Tensor) -> tuple[Tensor, Tensor | None]:
    """The least that perturbed weights and biases add to <a, z>, or a function linear in the input that lies below it.

    Args:
        a: coefficients (S, *shape of z).
        x: the layer's input: its interval, or its value if it is known.

    Returns:
        A constant (S, B), and coefficients of the input (S, *shape of x); None if there are none.
    """
    weight = site.argument(1)
    if site.node.key == "linear":
        flat = a.reshape(a.shape[0], -1, 1, weight.shape[0], 1)
    else:
        flat = a.reshape(*a.shape[:2], _options(site)["groups"], -1, math.prod(a.shape[3:]))
    flat = _by_sample(site, flat)  # (S, B, groups, outputs of a group, positions)
    cost, slope = torch.zeros(flat.shape[:2], dtype=a.dtype, device=a.device), None
    if site.weight is not None:
        most, slope = _norm(site, flat, x, dual(site.weight.p))
        cost = cost - site.weight.eps * most
        slope = None if slope is None else _of_input(site, -site.weight.eps * slope, x.shape)
    if site.bias is not None:
        cost = cost - site.bias.eps * flat.sum(4).flatten(2).norm(p=dual(site.bias.p), dim=2)
    return cost, slope


def _norm(site: Site, a: Tensor, x: Interval | Tensor, q: float) -> tuple[Tensor, Tensor | None]:
    """The dual norm of M, or a function above it: (S, B), and coefficients of patches (S, B, groups, n, positions)."""
    center, radius = (x.center, x.radius) if isinstance(x, Interval) else (x, None)
    at = _by_sample(site, _patches(site, center))
    reach = None if radius is None else _by_sample(site, _patches(site, radius))
    if at.shape[-1] == 1:  # outer products, whose norms are the products of the norms
        size = a[..., 0].norm(p=q, dim=3)[..., None]  # (S, B, groups, 1)
        most, slope = linear_norm(size * at[..., 0], None if reach is None else size * reach[..., 0], q)
        return most, None if slope is None else (size * slope)[..., None]
    m = torch.einsum("sbgol,bgil->sbgoi", a, at)
    most, slope = linear_norm(m, None if reach is None else torch.einsum("sbgol,bgil->sbgoi", a.abs(), reach), q)
    return most, None if slope is None else torch.einsum("sbgoi,sbgol->sbgil", slope, a)


def linear_norm(center: Tensor, radius: Tensor | None, q: float) -> tuple[Tensor, Tensor | None]:
    """A function <slope, m> + constant that lies above the q-norm of each m of a box.

    Args:
        center, radius: of the box, (S, B, ...) each; radius None for a point, whose norm is found.
        q: 1, 2 or inf.

    Returns:
        The constant (S, B), and the slope (S, B, ...); None stands for 0.
    """
    c = center.flatten(2)
    if radius is None:
        return c.norm(p=q, dim=2), None
    r = radius.flatten(2)
    if q == 1:
        slope = chord_slope(c, r)
        constant = (torch.maximum(c.abs(), r) - slope * c).sum(2)
    elif q == 2:
        square = r.square().sum(2)
        s = (c.square().sum(2) + square).clamp(min=torch.finfo(c.dtype).tiny).sqrt()
        slope, constant = c / s[..., None], square / s
    else:
        most, where = (c.abs() + r).topk(min(2, c.shape[2]), dim=2)
        rest = most[..., 1:].sum(2, keepdim=True)  # the second largest, if there is one
        l, u = ((c + sign * r).gather(2, where[..., :1]) for sign in (-1, 1))
        low, high = ((end.abs() - rest).clamp(min=0) for end in (l, u))
        k = (high - low) / (u - l).masked_fill(u == l, 1.0)
        slope = torch.zeros_like(c).scatter(2, where[..., :1], k)
        constant = (rest + low - k * l)[..., 0]
    return constant, slope.reshape(center.shape)


def chord_slope(center: Tensor, radius: Tensor) -> Tensor:
    """The slope of the chord of |m| on center -+ radius; in the middle it is max(|center|, radius)."""
    sure = center.abs() >= radius
    return torch.where(sure, center.sign(), center / radius.masked_fill(sure, 1.0))


def _of_input(site: Site, slope: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Coefficients (S, B, groups, n, positions) of the patches -> those of the layer's input, (S, *shape)."""
    linear, rows = site.node.key == "linear", slope.shape[0]
    count = math.prod(shape[:-1]) if linear else shape[0]
    if count != site.batch:  # the way back from `_by_sample`
        slope = slope.unflatten(-1, (site.node.pre, count // (site.node.pre * site.batch), -1))
        slope = slope.movedim((-3, -2), (-6, -4)).flatten(-6, -4)
    if linear:
        return slope.reshape(rows, *shape)
    o, flat = _options(site), slope.flatten(2, 3).flatten(0, 1)
    whole = F.fold(flat, shape[-2:], site.argument(1).shape[2:], o["dilation"], o["padding"], o["stride"])
    return whole.unflatten(0, (rows, count))


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
    if key not in WEIGHED or site.node.args[0].index not in site.hot:
        return None
    weight = site.argument(1).abs()
    if ball.q == 2:  # each input of an output has one weight there
        square = site.node.op(ball.scale.square(), weight.square(), None, *site.node.args[3:])  # type: ignore[misc]
        return square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
    if key == "linear":
        return (weight * ball.scale.unsqueeze(-2)).amax(-1)
    if key == "conv_transpose2d":
        return None
    o, count = _options(site), weight.ndim - 2
    pads = [side for n in reversed(_every(o["padding"], count)) for side in (n, n)]
    largest = F.pad(ball.scale.amax(1, keepdim=True), pads)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[count - 1]
    reach = pool(largest, weight.shape[2:], _every(o["stride"], count), 0, _every(o["dilation"], count))
    return weight.flatten(1).amax(1).reshape(1, -1, *[1] * count) * reach


def _every(value: Any, count: int) -> list[int]:
    """An option of a convolution for each of its axes."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * count if len(values) == 1 else values
