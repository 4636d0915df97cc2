"""What bounds refuse: every message says what is wrong, where, and what to do; and nothing wrong is ever verified."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import (
    Ascent,
    Balls,
    Bounds,
    Box,
    CertifiedTraining,
    DomainError,
    L0Ball,
    LpBall,
    Margins,
    MemoryLimitExceeded,
    Program,
    Synonyms,
    UnsupportedOperator,
    compute_bounds,
    fused_ce,
    margins,
    robust_ce,
    verified,
    verified_error,
)

METHODS = ("ibp", "forward", "crown-ibp", "crown", "forward+backward", "alpha-crown")
X = torch.linspace(0.1, 0.9, 12).reshape(3, 4)
ROWS = torch.linspace(-1.0, 1.0, 24).sin().reshape(2, 3, 4)


class Function(nn.Module):
    """A function of one input as a module."""

    def __init__(self, f: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Any:
        return self.f(x)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def bounds(**options: Any) -> Bounds:
    return Bounds(Program(net(), X), X, LpBall(X, 0.05), **options)


def refused(f: Callable[[Tensor], Any], x: Tensor, *words: str, kind: type[Exception] = UnsupportedOperator) -> None:
    """By every method, with all words in the message."""
    for method in METHODS:
        with pytest.raises(kind) as caught:
            compute_bounds(Function(f), x, LpBall(x, 0.5), method)
        for word in words:
            assert word in str(caught.value), (word, str(caught.value))


# --- sets -------------------------------------------------------------------------------------------------------------

SETS: dict[str, tuple[Callable[[], Box], type[Exception], str]] = {
    "ends that cross": (lambda: Box(X + 1, X), ValueError, r"low <= high everywhere.*1\.1.*0\.1.*\(0, 0\)"),
    "ends of two shapes": (lambda: Box(X, X[:1]), ValueError, r"\(3, 4\).*\(1, 4\)"),
    "NaN": (lambda: Box(X, X * math.nan), ValueError, "high.*finite"),
    "an infinite box": (lambda: Box(X - math.inf, X), ValueError, "low.*finite"),
    "NaN in the centre": (lambda: LpBall(X * math.nan, 0.1), ValueError, "x.*finite"),
    "integers": (lambda: LpBall(X.long(), 1), TypeError, "floating-point.*int64.*embeddings"),
    "a number": (lambda: LpBall(0.5, 0.1), TypeError, "float"),  # type: ignore[arg-type]
    "a negative radius": (lambda: LpBall(X, -0.1), ValueError, r"eps.*>= 0.*-0\.1"),
    "a radius NaN": (lambda: LpBall(X, math.nan), ValueError, "eps.*nan"),
    "an infinite radius": (lambda: LpBall(X, math.inf), ValueError, "eps.*inf"),
    "a radius of another shape": (lambda: LpBall(X, torch.ones(3)), ValueError, r"eps.*\(3,\).*\(3, 4\)"),
    "a radius wider than x": (lambda: LpBall(X[:1], torch.ones(2, 1)), ValueError, r"eps.*\(2, 1\).*\(1, 4\)"),
    "radii of a round ball": (lambda: LpBall(X, torch.ones(4), 2), ValueError, "one number"),
    "p = 3": (lambda: LpBall(X, 0.1, 3), ValueError, "1, 2 or inf, got 3"),
    "p = 0": (lambda: LpBall(X, 0.1, 0), ValueError, "got 0.*L0Ball"),
    "p NaN": (lambda: LpBall(X, 0.1, math.nan), ValueError, "got nan"),
    "x outside of the clip range": (lambda: LpBall(X + 1, 0.1, clip=(0, 1)), ValueError, r"clip range \(0, 1\).*scale"),
    "a negative number of pixels": (lambda: L0Ball(X, -1), ValueError, "k.*>= 0, got -1"),
    "half a pixel": (lambda: L0Ball(X, 1.5), ValueError, "k.*got 1.5"),  # type: ignore[arg-type]
}
WORDS, MASK = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 5, dtype=torch.bool)
SETS |= {
    "a negative budget": (lambda: Synonyms(ROWS, WORDS, MASK, -1), ValueError, "budget.*got -1"),
    "candidates of other words": (
        lambda: Synonyms(ROWS[:, :2], WORDS, MASK, 1),
        ValueError,
        r"\(2, 2, 4\).*\(2, 3, 5, 4\)",
    ),
    "a mask of another shape": (lambda: Synonyms(ROWS, WORDS, MASK[:1], 1), ValueError, "do not fit"),
    "a mask of numbers": (lambda: Synonyms(ROWS, WORDS, MASK.float(), 1), TypeError, "mask.*bool.*float32"),
    "candidates NaN": (lambda: Synonyms(ROWS, WORDS * math.nan, MASK, 1), ValueError, "candidates.*finite"),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_refuse(name: str) -> None:
    make, kind, message = SETS[name]
    with pytest.raises(kind, match=message):
        make()


def test_sets_must_fit_what_they_perturb() -> None:
    program, weight = Program(net(), X), net()[0].weight.detach()
    for sets, message in (
        ({}, "nothing is perturbed"),
        ({1: LpBall(X, 0.1)}, "no input 1.*takes 1"),
        (LpBall(X[:1], 0.1), r"\(1, 4\).*needs \(3, 4\)"),
        (LpBall(X.double(), 0.1), "float64.*needs torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            Bounds(program, X, sets)
    for weights, message in (
        ({"none.weight": LpBall(weight, 0.1)}, "'none.weight'.*no parameter of this name"),
        ({"0.weight": Box(weight, weight)}, "'0.weight'.*LpBall"),
        ({"0.weight": LpBall(weight.clamp(0, 1), 0.1, clip=(0, 1))}, "'0.weight'.*without clip"),
        ({"0.weight": LpBall(weight[:2], 0.1)}, r"'0.weight'.*\(2, 4\).*\(5, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Bounds(program, X, weights=weights)
    with pytest.raises(ValueError, match=r"1 input\(s\), got 2"):
        Bounds(program, (X, X), LpBall(X, 0.1))
    with pytest.raises(TypeError, match=r"input 0.*int64"):
        Bounds(Program(Function(lambda x: 2 * x), X.long()), X.long(), Box(X, X))


def test_a_perturbation_must_reach_the_output() -> None:
    class Unused(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.relu()

    with pytest.raises(ValueError, match="output does not depend"):
        Bounds(Program(Unused(), X, X), (X, X), {1: LpBall(X, 0.1)})
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "idle": nn.Linear(4, 2)})
    model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"does not use.*idle\.weight"):
        Bounds(Program(model, X), X, weights={"idle.weight": LpBall(model["idle"].weight.detach(), 0.1)})


@pytest.mark.parametrize("fixed", [False, True], ids=["any batch", "a fixed batch"])
def test_a_tensor_given_twice_is_two_inputs(fixed: bool) -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.reshape((3, 4) if fixed else x.shape) - 3 * y

    program = Program(Both(), X, X)
    for method in METHODS:
        low, high = compute_bounds(program, (X, X), {0: LpBall(X, 0.1)}, method)
        torch.testing.assert_close(low, -2 * X - 0.1)
        torch.testing.assert_close(high, -2 * X + 0.1)


# --- options, rows, losses --------------------------------------------------------------------------------------------


def test_options_must_be_known() -> None:
    for make, message in (
        (lambda: compute_bounds(net(), X, LpBall(X, 0.1), "crwn"), "crwn.*did you mean 'crown'"),
        (lambda: bounds(relu="adaptiv"), "adaptiv.*did you mean 'adaptive'"),
        (lambda: bounds().compute("box"), "box.*ibp, crown-ibp, crown, forward"),
        (lambda: bounds(chunk=0), "chunk.*>= 1, got 0"),
        (lambda: Ascent(iters=0), "iters.*got 0"),
        (lambda: Ascent(lr=-1.0), "lr.*> 0, got -1"),
        (lambda: margins(bounds(), torch.tensor([0, 1, 2]), method="forward"), "forward.*crown"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3, 3), (1, 2, 3), (3, 2, 4), (3, 0, 3), (3, 1, 1, 3)], ids=str)
def test_rows_must_have_the_shape_of_the_output(method: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"C must have shape \(B, S, K\) = \(3, S, 3\), got"):
        compute_bounds(net(), X, LpBall(X, 0.1), method, torch.ones(shape))


@pytest.mark.parametrize("loss", [fused_ce, robust_ce, margins, verified, verified_error])
def test_labels_must_fit(loss: Callable[..., Any]) -> None:
    for labels, message in (([0, 1, 3], r"0\.\.2, got 0\.\.3"), ([0, -1, 1], r"0\.\.2, got -1"), ([0, 1], "2 labels")):
        with pytest.raises(ValueError, match=message):
            loss(bounds(), torch.tensor(labels))
    with pytest.raises(TypeError, match="int64, got torch.float32"):
        loss(bounds(), torch.tensor([0.0, 1.0, 2.0]))


def test_losses_need_one_row_of_logits_a_sample() -> None:
    x, y = ROWS, torch.tensor([0, 1])
    deep = Bounds(Program(nn.Linear(4, 3), x), x, LpBall(x, 0.1))
    for loss in (fused_ce, robust_ce):
        with pytest.raises(ValueError, match=r"\(B, K\).*\(2, 3, 3\)"):
            loss(deep, y)
    with pytest.raises(ValueError, match=r"3 labels and 4 classes.*\(3, 3\)"):
        bounds().compute("crown", Margins(torch.tensor([0, 1, 2]), 4))
    for kappa in (-0.1, 2.0, math.nan):
        with pytest.raises(ValueError, match="kappa"):
            fused_ce(bounds(), torch.tensor([0, 1, 2]), kappa=kappa)


def test_training_refuses_what_it_cannot_do() -> None:
    for make, message in (
        (lambda: Balls(0.0), "nothing would be certified"),
        (lambda: Balls(-1.0), "eps.*-1"),
        (lambda: CertifiedTraining(Balls(0.1), kind="crown"), "kind.*crown"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_memory_limit_names_the_node_and_the_bytes() -> None:
    small = bounds(memory_limit=10)
    for method in ("crown", "forward", "crown-ibp", "alpha-crown"):
        with pytest.raises(MemoryLimitExceeded, match=r"[0-9]+ bytes at node .*linear.*limit of 10"):
            small.compute(method)


# --- what is not a number ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["first", "last", "one row", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_weights_verify_nothing(at: str, value: float) -> None:
    model = net()
    with torch.no_grad():
        model[2].bias += torch.tensor([5.0, 0.0, 0.0])  # all samples would be verified as class 0
        y = torch.zeros(3, dtype=torch.long)
        assert bool(verified(Bounds(Program(model, X), X, LpBall(X, 0.05)), y).all())
        first, last = model[0].weight, model[2].weight
        {"first": first, "last": last, "one row": last[1:2], "bias": model[2].bias}[at].fill_(value)
        broken = Bounds(Program(model, X), X, LpBall(X, 0.05))
        for method in ("ibp", "crown-ibp", "crown", "forward+backward", "alpha-crown"):
            assert not bool(verified(broken, y, method=method).any()), method
            assert verified_error(broken, y, method=method) == 1.0


def test_rows_of_nan_bound_nothing() -> None:
    low, high = bounds().compute("crown", torch.full((3, 1, 3), math.nan))
    assert bool(low.isnan().all())
    assert bool(high.isnan().all())


# --- domains ----------------------------------------------------------------------------------------------------------

DOMAINS = {
    "log": lambda x: x.log(),
    "sqrt": lambda x: x.sqrt(),
    "rsqrt": lambda x: x.rsqrt(),
    "reciprocal": lambda x: 1 / x,
    "pow": lambda x: x**0.7,
}


@pytest.mark.parametrize("name", DOMAINS)
def test_an_interval_that_leaves_the_domain_is_refused(name: str) -> None:
    """Also where the function itself is defined on both sides, as 1/x is."""
    edge = "inputs >= 0" if name in ("sqrt", "pow") else "inputs > 0"
    refused(DOMAINS[name], X, f"({name})", edge, "-0.4", "smaller", kind=DomainError)


def test_a_quotient_of_perturbed_values_needs_a_divisor_of_one_sign() -> None:
    refused(lambda x: x / (x.sum(1, keepdim=True) - 1), X, "(reciprocal)", kind=DomainError)


# --- modules ----------------------------------------------------------------------------------------------------------


def test_batch_norm_in_train_mode_needs_two_samples() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    program = Program(model, X)
    with pytest.raises(ValueError, match=r"BatchNorm.*more than one sample.*eval"):
        Bounds(program, X[:1], LpBall(X[:1], 0.1))
    model.eval()
    with pytest.raises(ValueError, match="captured in train mode"):
        Bounds(program, X, LpBall(X, 0.1))


def test_batch_norm_without_running_statistics_mixes_samples() -> None:
    for norm in (nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3)):
        model = nn.Sequential(nn.Linear(4, 3), norm).eval()
        norm.train()
        with pytest.raises(
            UnsupportedOperator, match=r"batch_norm.*statistics of the batch, which mixes samples.*eval"
        ):
            compute_bounds(model, X, LpBall(X, 0.1), "ibp")


@pytest.mark.parametrize("how", ["jacrev", "grad", "vmap", "jvp"])
def test_derivatives_of_functions_inside_of_a_module_are_named(how: str) -> None:
    inner = nn.Linear(4, 3)
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "jacrev": lambda x: torch.func.vmap(torch.func.jacrev(inner))(x),
        "grad": lambda x: torch.func.grad(lambda z: inner(z).tanh().sum())(x),
        "vmap": lambda x: torch.func.vmap(inner)(x),
        "jvp": lambda x: torch.func.jvp(inner, (x,), (x,))[1],
    }
    word = "vmap" if how == "jacrev" else how
    with pytest.raises(UnsupportedOperator, match=rf"Function uses torch.func \(.*{word}.*test_bad_input.py, line"):
        Program(Function(calls[how]), X)
    assert torch.equal(Program(inner, X)(X), inner(X))  # nothing of it remains


def test_a_sample_without_a_batch_is_named() -> None:
    x = X[0]
    for model in (nn.Linear(4, 3), Function(torch.relu)):
        with pytest.raises(ValueError, match=r"\(4,\), without a dimension for the batch: give x\[None\]"):
            compute_bounds(model, x, LpBall(x, 0.1), "crown")
    image = torch.rand(3, 5, 5)
    with pytest.raises(UnsupportedOperator, match=r"dimension 0 of every input is the batch \(x\[None\]"):
        compute_bounds(nn.Conv2d(3, 2, 3), image, LpBall(image, 0.1), "crown")


def test_a_module_must_return_one_tensor() -> None:
    for f in (lambda x: (x, x.relu()), lambda x: None, lambda x: 1.0):
        with pytest.raises(ValueError, match="must return one tensor"):
            Program(Function(f), X)


def test_control_flow_that_depends_on_data_is_named_by_its_cure() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)cannot capture Function.*control flow that depends on data"):
        Program(Function(lambda x: x.relu() if x.sum() > 0 else x), X)


def test_inputs_must_be_batches_of_one_size() -> None:
    for inputs in ((), (X, X[:2]), (X[:0],), (torch.tensor(1.0),)):
        with pytest.raises(ValueError, match="dimension 0 of all inputs"):
            Program(net(), *inputs)


def test_a_module_that_draws_numbers_is_refused() -> None:
    for model in (nn.Sequential(nn.Linear(4, 3), nn.Dropout()), Function(lambda x: x + torch.rand(4))):
        with pytest.raises(UnsupportedOperator, match="deterministic"):
            Program(model.train(), X)


def test_a_batch_that_is_fixed_in_the_module_is_fixed_in_its_bounds() -> None:
    program = Program(Function(lambda x: x.reshape(3, 2, 2).relu().reshape(3, 4)), X)
    for method in METHODS:
        low, high = compute_bounds(program, X, LpBall(X, 0.1), method)
        assert bool((low <= X).all() & (high >= X).all())
    with pytest.raises(ValueError, match=r"batch fixed at 3, got 2.*capture it anew"):
        compute_bounds(program, X[:2], LpBall(X[:2], 0.1), "ibp")


# --- operators: a wrong bound is worse than none ----------------------------------------------------------------------

NO_RULE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sort": (lambda x: x.sort()[0], "'sort'"),
    "argmax": (lambda x: x.gather(1, x.argmax(1, keepdim=True)), "'argmax'"),
    "remainder": (lambda x: x % 2, "'remainder'"),
    "eq": (lambda x: torch.where(x == 0.5, x, 0.0), "'eq'"),
    "topk": (lambda x: x.topk(2)[0], "'topk'"),
    "atan2": (lambda x: torch.atan2(x, x + 1), "'atan2'"),
}


@pytest.mark.parametrize("name", NO_RULE)
def test_an_operator_without_a_rule_is_named_with_its_place_and_the_cure(name: str) -> None:
    f, word = NO_RULE[name]
    refused(f, X, word, "test_bad_input.py", "rules.py", "supported()")


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a quotient that is rounded": (lambda x: torch.div(x, 0.3, rounding_mode="floor"), "rounding_mode"),
    "base and exponent": (lambda x: (x.exp() + 1) ** x, "argument"),
    "a bias": (lambda x: F.linear(torch.ones(3, 4), torch.ones(4, 4), x[0]), "mixes the samples"),
    "a leaky ReLU that falls": (lambda x: F.leaky_relu(x, -0.5), "slope"),
    "an ELU that falls": (lambda x: F.elu(x, -2.0), "alpha"),
    "a CELU that falls": (lambda x: F.celu(x, -2.0), "alpha"),
    "a softplus that is concave": (lambda x: F.softplus(x, -1.0), "beta"),
    "a softplus with a step": (lambda x: F.softplus(x, 1.0, 2.0), "threshold"),
    "a sum over integers": (lambda x: x.sum(1, dtype=torch.int64), "options"),
    "attention with dropout": (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), "deterministic"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_rule_refuses_what_it_does_not_hold_for(name: str) -> None:
    f, word = WRONG[name]
    refused(f, X, word)


MIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "the mean of the batch": lambda x: x - x.mean(0),
    "softmax over the batch": lambda x: x.softmax(0),
    "sums along the batch": lambda x: x.cumsum(0),
    "products of samples": lambda x: x @ x.T,
    "the first sample": lambda x: x[0] + x,
    "some samples": lambda x: x[:2].relu(),
    "all but some samples": lambda x: x[1:].relu(),
    "a part of the batch": lambda x: torch.chunk(x.relu(), 3, 0)[2],
    "samples in reverse": lambda x: x.flip(0).relu(),
    "samples in turn": lambda x: x.roll(1, 0).relu(),
    "the sum of all": lambda x: x.relu().sum(),
    "the largest of all": lambda x: x.amax(0),
}


@pytest.mark.parametrize("name", MIXED)
def test_samples_must_not_be_mixed(name: str) -> None:
    refused(MIXED[name], X, "mixes the samples", "test_bad_input.py")


def write_then_read(x: Tensor) -> Tensor:
    whole = 1 * x
    part = whole.view(-1, 2, 2)
    whole.relu_()
    return part.flatten(1)


def write_through_a_view(x: Tensor) -> Tensor:
    whole = 1 * x
    whole.view(-1, 2, 2).relu_()
    return whole


def write_an_entry(x: Tensor) -> Tensor:
    whole = 1 * x
    whole[:, 0] = 0.0
    return whole


@pytest.mark.parametrize("f", [write_then_read, write_through_a_view, write_an_entry])
def test_writing_into_what_is_read_under_another_name_is_refused(f: Callable[[Tensor], Tensor]) -> None:
    cure = ("assignment to an index", "torch.where") if f is write_an_entry else ("use relu() instead",)
    refused(f, X, "writes into memory", "test_bad_input.py", *cure)


def test_writing_into_what_is_read_under_the_same_name_is_understood() -> None:
    def f(x: Tensor) -> Tensor:
        whole = (1 * x).flatten(1)
        whole.mul_(2).add_(-1).relu_()
        return whole + 1

    low, high = compute_bounds(Function(f), X, LpBall(X, 0.1), "crown")
    torch.testing.assert_close(low, (2 * (X - 0.1) - 1).relu() + 1)
    torch.testing.assert_close(high, (2 * (X + 0.1) - 1).relu() + 1)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "repeat": lambda x: x.repeat(1, 3),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1).flatten(1),
    "index_select": lambda x: x.index_select(1, torch.tensor([0, 2, 2, 3])),
    "gather": lambda x: x.gather(1, torch.tensor([[0, 2, 2, 3]]).expand(x.shape[0], -1)),
    "unfold": lambda x: x.unfold(1, 3, 1).flatten(1),
    "twice": lambda x: x + x,
    "broadcast": lambda x: (x.unsqueeze(1) + torch.ones(1, 3, 4)).flatten(1),
    "upsample": lambda x: F.interpolate(x.reshape(-1, 1, 2, 2), scale_factor=2).flatten(1),
    "other scales": lambda x: (x * torch.tensor([[1.0, 5.0, -1.0, 0.1]])).flatten(1),
    "parts of samples": lambda x: (x.reshape(-1, 2, 2) * torch.tensor([[0.1, 0.2], [5.0, -3.0]])).flatten(0, 1),
}


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("name", COPIES)
def test_a_ball_whose_coordinates_are_copied_is_no_ball(name: str, p: float) -> None:
    """The first layer behind copies must not take them for coordinates of a ball of the same radius."""
    f, ball = COPIES[name], LpBall(X, 0.5, p)
    width = f(X).shape[1]
    weight = torch.linspace(-1.0, 1.3, 5 * width).reshape(5, -1)
    worst = ball.worst(torch.randn(500, *X.shape))
    seen = F.linear(f(worst.flatten(0, 1)), weight).reshape(500, 3, -1)
    for method in METHODS:
        low, high = compute_bounds(Function(lambda x: F.linear(f(x), weight).reshape(x.shape[0], -1)), X, ball, method)
        assert bool((low - 1e-5 <= seen).all() & (seen <= high + 1e-5).all()), method


def test_what_follows_the_size_of_the_batch_follows_it() -> None:
    program = Program(Function(lambda x: x.relu() * x.shape[0] / x.reshape(-1, 2).shape[0]), X)
    for x in (X, X[:1]):
        low, high = compute_bounds(program, x, LpBall(x, 0.05), "crown")
        torch.testing.assert_close((low + high) / 2, x / 2)
