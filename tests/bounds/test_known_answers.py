"""Bounds that can be worked out by hand, and those that auto_LiRPA, the library of the method's authors, computes."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import (
    RULES,
    Ascent,
    Bounds,
    Box,
    LpBall,
    Margins,
    Program,
    Synonyms,
    compute_bounds,
    fused_ce,
    robust_ce,
    verified_error,
)

METHODS = ("ibp", "forward", "crown-ibp", "crown", "forward+backward", "alpha-crown")
every_method = pytest.mark.parametrize("method", METHODS)
Activation = Callable[[], nn.Module]


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.f(*inputs)


def close(found: Tensor, wanted: object, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), rtol=tolerance, atol=tolerance)


def bound(f: Callable[..., Tensor] | nn.Module, x: Tensor, s: Box, method: str, **options) -> tuple[Tensor, Tensor]:
    module = f if isinstance(f, nn.Module) else Function(f)
    return compute_bounds(module, x, s, method, **options)


def mean_width(bounds: tuple[Tensor, Tensor]) -> float:
    return float((bounds[1] - bounds[0]).mean().detach())


# --- by hand ----------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_linear_layer_moves_by_the_dual_norm_of_its_rows(method: str, p: float) -> None:
    layer, x = nn.Linear(5, 3), torch.randn(2, 5)
    low, high = bound(layer, x, LpBall(x, 0.3, p), method)
    reach = 0.3 * layer.weight.norm(p={1: math.inf, 2: 2, math.inf: 1}[p], dim=1)
    close(low, layer(x) - reach)
    close(high, layer(x) + reach)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_convolution_moves_by_the_dual_norm_of_its_patches(p: float) -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 4, 4)
    ones = torch.eye(32).reshape(32, 2, 4, 4)
    rows = (layer(ones) - layer(0 * ones)).flatten(1)  # the Jacobian, column by column
    reach = 0.1 * rows.norm(p={1: math.inf, 2: 2, math.inf: 1}[p], dim=0).reshape(3, 4, 4)
    for method in METHODS:
        low, high = bound(layer, x, LpBall(x, 0.1, p), method)
        if p == 1 and method == "ibp":  # it takes each patch for a whole one, which at a border is more
            assert bool((high >= layer(x) + reach - 1e-6).all())
            assert bool((low <= layer(x) - reach + 1e-6).all())
            continue
        close(low, layer(x) - reach)
        close(high, layer(x) + reach)


HAND = {
    ((0.0, 0.0), "ibp", "adaptive"): (0, 4),
    ((0.0, 0.0), "crown", "adaptive"): (0, 3),
    ((0.0, 0.0), "crown", "zero-lb"): (0, 3),
    ((0.0, 0.0), "crown", "same-slope"): (-1, 3),
    ((0.0, 0.0), "alpha-crown", "adaptive"): (0, 3),
    ((1.0, 0.0), "ibp", "adaptive"): (0, 6),
    ((1.0, 0.0), "crown", "adaptive"): (0, 4.5),
    ((1.0, 0.0), "crown", "zero-lb"): (0, 4.5),
    ((1.0, 0.0), "crown", "one-lb"): (0, 4.5),
    ((1.0, 0.0), "alpha-crown", "adaptive"): (0, 4.5),
}


@pytest.mark.parametrize(("case", "wanted"), HAND.items(), ids=str)
def test_two_neurons(case: tuple[tuple[float, float], str, str], wanted: tuple[float, float]) -> None:
    """y = relu(x1 + x2) + relu(x1 - x2) over a box of radius 1: it lies in [0, 2] around 0, in [0, 4] around (1, 0)."""
    center, method, slope = case
    w, x = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([center])
    found = bound(
        lambda t: (t @ w.T).relu().sum(1, keepdim=True), x, LpBall(x, 1.0), method, relu=slope, c=torch.ones(1, 1, 1)
    )
    close(found[0], [[wanted[0]]])
    close(found[1], [[wanted[1]]])


# function -> [l, u] -> slope and intercept of the lower line, and of the upper one
LINES: dict[str, dict[tuple[float, float], tuple[float, float, float, float]]] = {
    "relu": {
        (-1, 2): (1, 0, 2 / 3, 2 / 3),
        (-2, 1): (0, 0, 1 / 3, 2 / 3),
        (-1, 1): (0, 0, 1 / 2, 1 / 2),
        (0.5, 1.5): (1, 0, 1, 0),
        (-3, -1): (0, 0, 0, 0),
    },
    # upper lines on (-1, 2): where it may lie there, the point of the tangent is the middle
    "sigmoid": {
        (-1, 2): (0.204055, 0.472688, 0.235004, 0.504957),
        (0.5, 1.5): (0.195115, 0.524902, 0.196612, 0.534447),
    },
    "tanh": {
        (-1, 2): (0.581572, -0.199119, 0.786448, 0.068893),
        (-2, 1): (0.786448, -0.068893, 0.581572, 0.199119),
        (-3, -1): (0.070651, -0.822726, 0.116730, -0.644864),
    },
    "exp": {(-1, 2): (0.990050, 0.999950, 2.340392, 2.708272), (0.5, 1.5): (2.718282, 0, 2.832968, 0.232237)},
    "log": {(0.5, 1.5): (1.098612, -1.242453, 1, -1)},
    "sqrt": {(0.5, 1.5): (0.517638, 0.448288, 0.5, 0.5)},
    "reciprocal": {(0.5, 1.5): (-1, 2, -1.333333, 2.666667)},
}


@pytest.mark.parametrize(
    ("name", "ends", "wanted"), [(n, ends, w) for n, cases in LINES.items() for ends, w in cases.items()]
)
def test_lines(name: str, ends: tuple[float, float], wanted: tuple[float, ...]) -> None:
    low, high = torch.tensor([ends], dtype=torch.float64).T
    found = RULES[name].lines(low, high, None)
    close(torch.cat([low * 0 if t is None else t for t in found]), wanted, 2e-6)


def test_lines_of_the_square() -> None:
    low, high = torch.tensor([-1.0]), torch.tensor([2.0])
    close(torch.cat(RULES["mul"].square.lines(low, high, None)), [1, -0.25, 1, 2])


def test_a_product_has_the_planes_of_its_corner() -> None:
    """x y >= -x - y - 1 and <= x - y + 1 on [-1, 1]^2."""
    x = torch.zeros(1, 2)
    found = Bounds(Program(Function(lambda t: t[:, :1] * t[:, 1:]), x), x, LpBall(x, 1.0)).certificate("crown").function
    close(found.a[0][:, 0], [[-1, -1], [-1, 1]])  # of the product, and of its negative
    close(found.bias, [[-1], [-1]])
    low, high = bound(lambda t: t[:, :1] * t[:, 1:], x, LpBall(x, 1.0), "ibp")
    close(low, [[-1]])
    close(high, [[1]])


@every_method
def test_a_value_times_itself_is_a_square(method: str) -> None:
    box = Box(torch.tensor([[-1.0]]), torch.tensor([[2.0]]))
    low, high = bound(lambda x: x * x, box.center, box, method)
    close(low, [[0]])
    close(high, [[4]])


def test_softmax_of_two_has_an_exact_interval() -> None:
    x = torch.zeros(1, 2)
    low, high = bound(lambda t: t.softmax(1), x, LpBall(x, 1.0), "ibp")
    close(low, [[0.119203, 0.119203]])
    close(high, [[0.880797, 0.880797]])


def test_softmax_of_logits_far_apart_does_not_underflow() -> None:
    """p_2 is anything where x_1 is in [-300, 0] and x_2 = -150, although every exponential may be 0 in float32."""
    box = Box(torch.tensor([[-300.0, -150.0]]), torch.tensor([[0.0, -150.0]]))
    for method in ("ibp", "crown", "forward"):
        low, high = bound(lambda t: t.softmax(1), box.center, box, method)
        close(low, [[0.0, 0.0]])
        close(high, [[1.0, 1.0]])


@every_method
def test_a_sum_with_itself_is_twice_the_value(method: str) -> None:
    x = torch.randn(2, 3)
    low, high = bound(lambda t: t + t, x, LpBall(x, 0.5), method)
    close(low, 2 * x - 1)
    close(high, 2 * x + 1)


@every_method
def test_a_difference_with_itself_is_nothing_but_for_intervals(method: str) -> None:
    x = torch.randn(2, 3)
    low, high = bound(lambda t: t - t, x, LpBall(x, 0.5), method)
    reach = 1.0 if method == "ibp" else 0.0
    close(low, torch.full_like(x, -reach))
    close(high, torch.full_like(x, reach))


@every_method
def test_a_ball_of_radius_0_has_one_value(method: str) -> None:
    model, x = mlp(nn.ReLU)
    for end in bound(model, x, LpBall(x, 0.0, 2), method):
        close(end, model(x).detach())


# --- losses -----------------------------------------------------------------------------------------------------------


def test_losses_of_equal_logits_are_the_logarithm_of_their_number() -> None:
    model, x, y = nn.Linear(4, 7), torch.randn(3, 4), torch.tensor([0, 3, 6])
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    bounds = Bounds(Program(model, x), x, LpBall(x, 0.3))
    for loss in (fused_ce(bounds, y), robust_ce(bounds, y), robust_ce(bounds, y, method="ibp")):
        close(loss, [math.log(7)] * 3)
    assert verified_error(bounds, y) == 1.0  # a tie proves nothing


def test_losses_of_a_point_are_the_cross_entropy() -> None:
    model, x = mlp(nn.ReLU)
    y = torch.tensor([0, 2])
    bounds = Bounds(Program(model, x), x, LpBall(x, 0.0))
    losses = [loss(bounds, y, kappa=kappa) for loss in (fused_ce, robust_ce) for kappa in (1.0, 0.3, 0.0)]
    for loss in losses:
        close(loss, F.cross_entropy(model(x), y, reduction="none"), 1e-5)


def test_fusion_of_two_classes_is_the_chord() -> None:
    """v = z_2 - z_1 in [-1, 1]: 1 + e^v <= 1 + (chord at 1) = 1 + e."""
    model, x, y = nn.Linear(1, 2, bias=False), torch.zeros(1, 1), torch.tensor([0])
    model.weight.data = torch.tensor([[0.0], [1.0]])
    bounds = Bounds(Program(model, x), x, LpBall(x, 1.0))
    close(fused_ce(bounds, y), [math.log(1 + math.e)])
    close(robust_ce(bounds, y), [math.log(1 + math.e)])


def test_losses_lie_between_attacks_and_intervals() -> None:
    model, x = mlp(nn.ReLU)
    y, ball = torch.tensor([0, 2]), LpBall(x, 0.1)
    bounds = Bounds(Program(model, x), x, ball)
    points = [ball.worst(a[None])[0] for a in torch.randn(500, 2, 8)]
    worst = torch.stack([F.cross_entropy(model(z), y, reduction="none") for z in points]).detach()
    found = robust_ce(bounds, y), fused_ce(bounds, y), robust_ce(bounds, y, method="ibp")
    plain, fused, ibp = (loss.detach() for loss in found)
    assert bool((worst.amax(0) <= torch.minimum(plain, fused) + 1e-6).all())
    assert float(fused.mean()) <= float(ibp.mean())
    assert float(plain.mean()) <= float(ibp.mean())
    assert verified_error(bounds, y, method="crown") <= verified_error(bounds, y, method="ibp")


LOSSES = {10: (3.187900, 2.813884, 3.551909), 100: (5.553948, 5.162404, 5.939889)}
NORMS = (5.19412, 2.79326, 5.60552)


@pytest.mark.parametrize("classes", LOSSES)
def test_losses_of_a_convolutional_network_are_those_of_the_authors_library(classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, classes),
    )  # fmt: skip
    x, y = torch.rand(4, 3, 32, 32), torch.randint(0, classes, (4,))
    bounds = Bounds(Program(model, x), x, LpBall(x, 1 / 255, clip=(0, 1)))
    losses = [fused_ce(bounds, y).mean(), robust_ce(bounds, y).mean(), robust_ce(bounds, y, method="ibp").mean()]
    close(torch.stack(losses), LOSSES[classes], 2e-6)
    if classes == 10:
        for loss, norm in zip(losses, NORMS, strict=True):
            slopes = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            assert float(torch.cat([s.flatten() for s in slopes]).norm()) == pytest.approx(norm, rel=1e-5)


# --- sets, weights, layers --------------------------------------------------------------------------------------------


def test_a_budget_of_words() -> None:
    """Words worth (1, 2, 3) whose best candidates are worth (4, 2.5, 3)."""
    x, candidates = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[[4.0]], [[2.5]], [[3.0]]]])
    mask, a = torch.ones(1, 3, 1, dtype=torch.bool), torch.ones(1, 1, 3, 1)
    for budget, best in ((1, 9.0), (2, 9.5), (3, 9.5)):
        words = Synonyms(x, candidates, mask, budget)
        assert float(-words.lower(-a)) == best
        assert float(words.lower(a)) == 6.0


def test_a_ball_of_weights() -> None:
    """y = w x moves by eps times the norm of x; so does what comes behind a layer whose input is known."""
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    ball = {"weight": LpBall(model.weight.detach(), 0.1, 2)}
    for method in ("ibp", "crown"):
        ends = Bounds(Program(model, x), x, weights=ball).compute(method)
        reach = 0.1 * x.norm(dim=1, keepdim=True)
        close(ends[0], model(x) - reach)
        close(ends[1], model(x) + reach)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    last = {"2.weight": LpBall(net[2].weight.detach(), 0.1, 2)}
    low, high = Bounds(Program(net, x), x, weights=last).compute("crown")
    reach = 0.1 * net[:2](x).norm(dim=1, keepdim=True)
    close(low, net(x) - reach)
    close(high, net(x) + reach)


def test_a_ball_of_weights_of_radius_0_changes_nothing() -> None:
    model, x = mlp(nn.ReLU)
    weights = {f"{i}.weight": LpBall(model[i].weight.detach(), 0.0, 2) for i in (0, 2, 4)}
    plain, both = (Bounds(Program(model, x), x, LpBall(x, 0.1), weights=moved) for moved in ({}, weights))
    for method in ("ibp", "crown", "crown-ibp"):
        for one, other in zip(plain.compute(method), both.compute(method), strict=True):
            close(one, other.detach(), 1e-5)


@every_method
def test_batch_norm_folded_into_a_convolution_changes_nothing(method: str) -> None:
    conv, norm, x = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), torch.rand(4, 1, 4, 4)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.normal_(norm.bias)
    norm(conv(x))
    rest = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm.eval())
    apart, together = nn.Sequential(conv, norm, rest).eval(), nn.Sequential(folded, rest).eval()
    found, wanted = (bound(model, x, LpBall(x, 0.05), method, ascent=Ascent(iters=3)) for model in (apart, together))
    for one, other in zip(found, wanted, strict=True):
        close(one, other.detach(), 1e-4)


def test_dropout_in_eval_mode_is_nothing() -> None:
    x = torch.randn(2, 4)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    dropped = nn.Sequential(net[0], net[1], nn.Dropout(0.5), net[2]).eval()
    found, wanted = (bound(model, x, LpBall(x, 0.1), "crown") for model in (dropped, net))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


# --- numbers of auto_LiRPA --------------------------------------------------------------------------------------------


def mlp(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """8-16-16-3 and two inputs, from seed 0."""
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 3)
    return nn.Sequential(*layers), torch.randn(2, 8)


# (p, eps) -> width of IBP; method -> lower and upper bounds of the first input, and the mean width of both
REFERENCE: dict[tuple[float, float], tuple[float, dict[str, tuple[list[float], list[float], float]]]] = {
    (1, 0.5): (0.448881, {
        "crown-ibp": ([0.000886, 0.033603, -0.13103], [0.116925, 0.218012, 0.008782], 0.113835),
        "crown": ([0.041704, 0.080351, -0.109052], [0.096844, 0.190349, -0.035227], 0.066555),
        "forward": ([0.031869, 0.07114, -0.1293], [0.100825, 0.208389, -0.0263], 0.084612),
    }),
    (2, 0.3): (0.469468, {
        "crown-ibp": ([-0.000827, 0.030177, -0.137601], [0.127871, 0.215963, 0.015552], 0.122497),
        "crown": ([0.043811, 0.085213, -0.110725], [0.095568, 0.186005, -0.033178], 0.068009),
        "forward": ([0.033691, 0.075605, -0.13393], [0.101012, 0.206623, -0.022165], 0.089003),
    }),
    (math.inf, 0.1): (0.391212, {
        "crown-ibp": ([0.01584, 0.059217, -0.122576], [0.110278, 0.199059, -0.003979], 0.093125),
        "crown": ([0.051869, 0.099, -0.101944], [0.090584, 0.17652, -0.043338], 0.052768),
        "forward": ([0.044449, 0.092771, -0.120428], [0.095575, 0.192985, -0.034597], 0.068155),
    }),
}  # fmt: skip


@pytest.mark.parametrize("ball", REFERENCE, ids=str)
def test_bounds_of_a_small_network(ball: tuple[float, float]) -> None:
    (p, eps), (ibp, methods) = ball, REFERENCE[ball]
    model, x = mlp(nn.ReLU)
    program, s = Program(model, x), LpBall(x, eps, p)
    assert mean_width(compute_bounds(program, x, s, "ibp")) == pytest.approx(ibp, abs=2e-6)
    for method, (low, high, width) in methods.items():
        found = compute_bounds(program, x, s, method)
        assert mean_width(found) == pytest.approx(width, abs=2e-6), method
        close(found[0][0].detach(), low, 2e-6)
        close(found[1][0].detach(), high, 2e-6)
    between = compute_bounds(program, x, s, "forward+backward")
    assert mean_width(between) == pytest.approx(methods["crown"][2], abs=2e-6)


SMOOTH = {
    "tanh": (nn.Tanh, (1.768091, 0.238880, 0.165934)),
    "sigmoid": (nn.Sigmoid, (0.143492, 0.012068, 0.011460)),
    "leaky_relu": (lambda: nn.LeakyReLU(0.1), (0.875231, 0.247504, 0.122658)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_bounds_of_other_activations_are_as_tight(name: str) -> None:
    """Intervals are the same; the lines of S-shaped functions differ a little, and may cost 3.5 percent."""
    activation, (ibp, crown_ibp, crown) = SMOOTH[name]
    model, x = mlp(activation)
    program = Program(model, x)
    assert mean_width(compute_bounds(program, x, LpBall(x, 0.2), "ibp")) == pytest.approx(ibp, abs=2e-6)
    assert mean_width(compute_bounds(program, x, LpBall(x, 0.2), "crown-ibp")) <= 1.035 * crown_ibp
    assert mean_width(compute_bounds(program, x, LpBall(x, 0.2), "crown")) <= 1.035 * crown


POOLS = {
    "ibp": ([0.075729, -0.225519, -0.116402], [0.207597, -0.119603, -0.013999]),
    "crown-ibp": ([0.123265, -0.189987, -0.083243], [0.16484, -0.153473, -0.045703]),
    "crown": ([0.126182, -0.188323, -0.080469], [0.163501, -0.154875, -0.04783]),
}


def test_bounds_of_a_network_with_pools() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    x = torch.rand(1, 1, 8, 8)
    program = Program(model, x)
    for method, (low, high) in POOLS.items():
        found = compute_bounds(program, x, LpBall(x, 0.05), method)
        wanted = torch.tensor([low]), torch.tensor([high])
        assert mean_width(found) <= 1.02 * mean_width(wanted), method
        if method == "ibp":
            close(found[0].detach(), wanted[0], 2e-6)
            close(found[1].detach(), wanted[1], 2e-6)


def test_margins_are_the_rows_of_differences() -> None:
    model, x = mlp(nn.ReLU)
    y = torch.tensor([1, 0])
    rows = Margins(y, 3)
    dense = rows.dense(2, x).transpose(0, 1)
    close(dense, [[[-1, 1, 0], [0, 1, -1]], [[1, -1, 0], [1, 0, -1]]])
    for method in METHODS:
        one, other = (compute_bounds(model, x, LpBall(x, 0.1), method, c) for c in (rows, dense))
        close(one[0].detach(), other[0].detach(), 1e-5)
