"""Perturbed weights: exact cases, soundness against attacks on the weights, layouts, and certified flatness."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from flatlab import flatness, models
from flatlab.bounds import (
    Ascent,
    Balls,
    Bounds,
    CertifiedTraining,
    LpBall,
    Program,
    UnsupportedOperator,
    certified_flatness,
    compute_bounds,
    robust_ce,
    verified,
    weight_balls,
)
from flatlab.flatness import random_gap, weight_attack
from flatlab.flatness.weight_attack import project, steepest
from flatlab.train import Ramp, Recipe, fit

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
NORMS = (1, 2, math.inf)


class Sequence(nn.Module):
    """(B, T, D), each position by the same layers; `time_first` moves the samples to the second dimension."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tensor:
        if self.time_first:
            return self.head(self.b(self.a(x.transpose(0, 1)).relu()).relu().transpose(0, 1).mean(1))
        return self.head(self.b(self.a(x).relu()).relu().mean(1))


class Frames(nn.Module):
    """A convolution over each of the frames of a sample: (B, T, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x.flatten(0, 1)).relu().unflatten(0, (-1, 2))
        return self.head(h.mean(1).flatten(1))


class Tied(nn.Module):
    """One weight in two layers of different names, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(self.b(self.a(x).relu()).relu()).tanh())


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=(1, 2), dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(4, 6, (1, 2), groups=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


CASES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), (3, 5)),
    "convolutions": (convolutions, (2, 2, 6, 6)),
    "sequence": (Sequence, (3, 3, 4)),
    "time first": (lambda: Sequence(time_first=True), (3, 3, 4)),
    "frames": (Frames, (2, 2, 1, 4, 4)),
    "tied": (Tied, (3, 5)),
    "lstm": (lambda: models.text_lstm((3, 4), 3, vocabulary=5, hidden=3), (2, 3, 4)),
    "transformer": (lambda: models.text_transformer((3, 4), 3, vocabulary=5, heads=2, ff=4), (2, 3, 4)),
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    make, shape = CASES[name]
    return make().double().eval(), torch.rand(shape, dtype=torch.float64)


def moved(model: nn.Module, x: Tensor, d: dict) -> Tensor:
    """The output where parameters and inputs (key 0) have been displaced."""
    weights = {k: model.get_parameter(k).detach() + t for k, t in d.items() if k != 0}
    return functional_call(model, weights, (x + d[0] if 0 in d else x,))


def to_end(slope: Tensor, ball: LpBall, batch: bool) -> Tensor:
    """The point of a ball (of each sample's, for inputs) that is best for a slope."""
    rows = slope if batch else slope[None]
    found = torch.stack([steepest(row.contiguous(), float(ball.eps), ball.p) for row in rows])
    return found if batch else found[0]


def excess(model: nn.Module, x: Tensor, region: LpBall | None, balls: dict, low: Tensor, high: Tensor) -> float:
    """By how much random and attacked points of the sets leave the bounds; negative if they do not."""
    sets = balls if region is None else {0: region, **balls}
    g = torch.Generator().manual_seed(0)
    worst = -math.inf

    def check(out: Tensor) -> None:
        nonlocal worst
        worst = max(worst, float(torch.maximum(low - out, out - high).max()))

    for _ in range(10):
        d = {k: to_end(torch.randn(s.x.shape, generator=g, dtype=x.dtype), s, k == 0) for k, s in sets.items()}
        check(moved(model, x, d).detach())
    for sample in range(len(x)):
        for output, sign in ((0, 1), (1, -1)):
            d = {k: torch.zeros_like(s.x) for k, s in sets.items()}
            for _ in range(4):
                leaves = {k: t.clone().requires_grad_() for k, t in d.items()}
                out = moved(model, x, leaves)
                check(out.detach())
                slopes = torch.autograd.grad(sign * out[sample, output], list(leaves.values()), materialize_grads=True)
                d = {k: to_end(slope, sets[k], k == 0) for k, slope in zip(leaves, slopes, strict=True)}
            check(moved(model, x, d).detach())
    return worst


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", CASES)
def test_no_weights_of_the_balls_leave_the_bounds(name, p):
    model, x = case(name)
    eps = {1: 0.2, 2: 0.1, math.inf: 0.01}[p]
    affine = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.LSTM)]
    inside = [n for n, _ in model.named_parameters() if n.rpartition(".")[0] in affine]
    matrices = [n for n in inside if model.get_parameter(n).ndim > 1]
    program = Program(model, x)
    for region, balls in (
        (None, weight_balls(model, eps, p=p, names=matrices)),
        (LpBall(x, eps / 2, p), weight_balls(model, eps, p=p, names=inside)),
    ):
        widths = []
        for method in METHODS:
            found = compute_bounds(program, x, region, method, weights=balls, ascent=Ascent(iters=3))
            low, high = (t.detach() for t in found)
            assert excess(model, x, region, balls, low, high) <= 1e-9, method
            widths.append(float((high - low).mean()))
        ratios = [b / a for a, b in pairwise(widths)]
        assert max(ratios) <= 1 + 1e-9, "each method is tighter on average than the one before, or equal"


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_one_layer_is_exact(p, method):
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3).double(), torch.randn(2, 4, dtype=torch.float64)
    q = {1: math.inf, 2: 2, math.inf: 1}[p]
    sets = {"weight": LpBall(layer.weight, 0.3, p), "bias": LpBall(layer.bias, 0.1, p)}
    low, high = compute_bounds(layer, x, None, method, weights=sets)
    reach = 0.3 * x.norm(p=q, dim=1, keepdim=True) + 0.1
    torch.testing.assert_close(low, layer(x) - reach)
    torch.testing.assert_close(high, layer(x) + reach)
    c = torch.randn(2, 2, 3, dtype=torch.float64)  # a bias has one ball for all outputs
    low = compute_bounds(layer, x, None, "crown", c, weights=sets)[0]
    reach = c.norm(p=q, dim=2) * (0.3 * x.norm(p=q, dim=1, keepdim=True) + 0.1)
    torch.testing.assert_close(low, torch.einsum("bsk,bk->bs", c, layer(x)) - reach)


@pytest.mark.parametrize("p", NORMS)
def test_only_the_last_layer_moves_and_its_input_is_known(p):
    model, x = case("mlp")
    low, high = compute_bounds(model, x, weights={"4.weight": LpBall(model[4].weight, 0.2, p)})
    q = {1: math.inf, 2: 2, math.inf: 1}[p]
    reach = 0.2 * model[:4](x).norm(p=q, dim=1, keepdim=True)
    torch.testing.assert_close(low, model(x) - reach)
    torch.testing.assert_close(high, model(x) + reach)


def test_a_convolution_of_known_inputs_is_exact_for_every_linear_function_of_its_outputs():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2).double()
    model, x = nn.Sequential(conv, nn.Flatten()), torch.randn(1, 2, 5, 5, dtype=torch.float64)
    c = torch.randn(1, 1, 36, dtype=torch.float64)
    bound = compute_bounds(model, x, c=c, weights={"0.weight": LpBall(conv.weight, 0.5, 2)})[1]
    value = (c[0, 0] * model(x)[0]).sum()
    slope = torch.autograd.grad(value, conv.weight)[0]
    torch.testing.assert_close(bound[0, 0], value.detach() + 0.5 * slope.norm())


@pytest.mark.parametrize("method", METHODS)
def test_radius_zero_is_the_ball_of_inputs_alone(method):
    model, x = case("convolutions")
    ball = LpBall(x, 0.05)
    ascent = Ascent(iters=3)
    with_weights = compute_bounds(model, x, ball, method, weights=weight_balls(model, 0.0), ascent=ascent)
    torch.testing.assert_close(with_weights, compute_bounds(model, x, ball, method, ascent=ascent))


def test_bounds_of_a_batch_are_those_of_its_samples():
    for name in ("mlp", "convolutions", "time first"):
        model, x = case(name)
        program, balls = Program(model, x), weight_balls(model, 0.05)
        whole = compute_bounds(program, x, weights=balls)
        parts = [compute_bounds(program, x[i : i + 1], weights=balls)[0] for i in range(len(x))]
        if name == "convolutions":  # which neurons are bounded inside is decided for the batch
            assert bool((whole[0] >= torch.cat(parts) - 1e-9).all())
        else:
            torch.testing.assert_close(whole[0], torch.cat(parts))


def test_samples_in_the_second_dimension_are_followed():
    model, x = case("sequence")
    other = Sequence(time_first=True).double()
    other.load_state_dict(model.state_dict())
    for method in ("ibp", "crown-ibp", "crown"):
        torch.testing.assert_close(
            compute_bounds(model, x, None, method, weights=weight_balls(model, 0.1)),
            compute_bounds(other, x, None, method, weights=weight_balls(other, 0.1)),
        )


def test_all_neurons_inside_are_bounded_where_their_size_matters():
    model, x = case("mlp")
    program, balls = Program(model, x), weight_balls(model, 0.1)
    sparse, dense = (Bounds(program, x, weights=balls, sparse=sparse).compute("crown") for sparse in (True, False))
    torch.testing.assert_close(sparse, dense)


def test_a_ball_need_not_lie_around_the_present_weights():
    model, x = case("mlp")
    elsewhere = model[0].weight.detach() + 1.0
    found = compute_bounds(model, x, weights={"0.weight": LpBall(elsewhere, 0.1, 2)})
    with torch.no_grad():
        model[0].weight += 1.0
    torch.testing.assert_close(found, compute_bounds(model, x, weights={"0.weight": LpBall(elsewhere, 0.1, 2)}))
    assert bool((found[0] <= model(x)).all())


def test_tied_weights_have_one_ball_under_any_of_their_names():
    model, x = case("tied")
    assert list(weight_balls(model, 0.1)) == ["a.weight", "head.weight"]
    by = [compute_bounds(model, x, weights={name: LpBall(model.a.weight, 0.1, 2)}) for name in ("a.weight", "b.weight")]
    torch.testing.assert_close(by[0], by[1])


class AsInputs(nn.Module):
    """A perceptron of one hidden layer whose weights are inputs, one copy for each sample."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        h = (v @ x.unsqueeze(2) + self.net[0].bias.unsqueeze(1)).relu()
        return (w @ h).squeeze(2) + self.net[2].bias


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
def test_tighter_than_planes_over_the_box_of_each_weight(method):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double(), torch.randn(4, 6).double()
    inputs = (x, *(net[i].weight.detach().expand(4, -1, -1) for i in (0, 2)))
    for eps in (0.05, 0.2):
        planes = compute_bounds(AsInputs(net), inputs, {i: LpBall(inputs[i], eps, 2) for i in (1, 2)}, method)
        ours = compute_bounds(net, x, None, method, weights=weight_balls(net, eps))
        ratio = (planes[1] - planes[0]) / (ours[1] - ours[0])
        assert float(ratio.detach().min()) > 1.1, "an L2 ball fills only a small part of its box"


class Constant(nn.Module):
    """A layer that is applied to a parameter, not to the data."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.layer = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.layer(self.at)).mean(1)


def test_what_cannot_be_bounded_is_refused():
    with pytest.raises(UnsupportedOperator, match="the same for all samples"):
        compute_bounds(Constant(), torch.rand(3, 3, 4), weights=weight_balls(Constant(), 0.1))
    norm = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval()
    with pytest.raises(UnsupportedOperator, match=r"only those of linear and conv2d"):
        compute_bounds(norm, torch.rand(2, 4), weights={"1.weight": LpBall(norm[1].weight, 0.1, 2)})
    with pytest.raises(ValueError, match="does not use the perturbed parameter"):
        compute_bounds(nn.Linear(4, 4), torch.rand(2, 4), weights={"c": LpBall(torch.rand(0), 0.1)})
    with pytest.raises(ValueError, match="no weights .*'nothing'"):
        weight_balls(norm, 0.1, names=["nothing"])
    with pytest.raises(ValueError, match="no weights of linear layers or convolutions"):
        weight_balls(nn.LayerNorm(4), 0.1)


# --- flatness ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A perceptron fitted to forty points."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 6, generator=g)
    y = (x[:, 0] * x[:, 1] > x[:, 2] * x[:, 3]).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval().requires_grad_(False), x, y


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5])
def test_random_steps_attacks_and_proofs_are_in_order(trained, rho, p):
    model, x, y = trained
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attack = weight_attack(model, x, y, rho, p=p, restarts=2)
    proofs = [certified_flatness(model, x, y, rho, p=p, method=m) for m in METHODS]
    assert all(attack <= proof.certified_loss for proof in proofs)
    assert proofs[0].certified_loss >= proofs[1].certified_loss >= proofs[2].certified_loss >= proofs[3].certified_loss
    random = random_gap(model, x, y, rho, 20, torch.Generator().manual_seed(1), p=p)
    assert random <= attack - proofs[0].loss
    if p == 2:
        space = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y), only=["0.weight", "2.weight"])
        assert flatness.sam_sharpness(space, rho) <= attack - proofs[0].loss + 1e-6
    for proof in proofs:
        assert proof.loss == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-5)
        assert proof.gap == proof.certified_loss - proof.loss >= 0
        assert proof.per_sample.shape == (40,)
        assert float(proof.per_sample.mean()) == pytest.approx(proof.certified_loss, rel=1e-5)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_sample_exceeds_its_own_certificate(trained):
    model, x, y = trained
    proof = certified_flatness(model, x, y, 0.2, method="crown")
    for i in (0, 7, 23):
        assert weight_attack(model, x[i : i + 1], y[i : i + 1], 0.2) <= float(proof.per_sample[i])


def test_certified_flatness_grows_with_the_radius_and_is_zero_without_one(trained):
    model, x, y = trained
    gaps = [certified_flatness(model, x, y, rho).gap for rho in (0.0, 0.05, 0.1, 0.2)]
    assert gaps[0] == pytest.approx(0, abs=1e-5)
    assert gaps == sorted(gaps)
    assert weight_attack(model, x, y, 0.0) == pytest.approx(certified_flatness(model, x, y, 0.0).loss)


def test_certified_flatness_in_parts(trained):
    model, x, y = trained
    whole = certified_flatness(model, x, y, 0.1)
    parts = certified_flatness(model, x, y, 0.1, batch_size=7)
    torch.testing.assert_close(whole.per_sample, parts.per_sample)
    assert weight_attack(model, x, y, 0.1, batch_size=7) == pytest.approx(weight_attack(model, x, y, 0.1), rel=1e-4)
    first = certified_flatness(model, x, y, 0.1, names=["0.weight"])
    assert first.certified_loss < whole.certified_loss
    both = certified_flatness(model, x, y, 0.1, input_eps=0.02, clip=(0, 1))
    assert (
        whole.certified_loss < both.certified_loss < certified_flatness(model, x, y, 0.1, input_eps=0.02).certified_loss
    )
    made = Bounds(Program(model, x), x, LpBall(x, 0.02, clip=(0, 1)), weights=weight_balls(model, 0.1))
    assert bool((both.per_sample <= robust_ce(made, y) + 1e-6).all())


def test_the_attack_takes_its_own_random_numbers(trained):
    model, x, y = trained
    torch.manual_seed(3)
    first = weight_attack(model, x, y, 0.3, restarts=3), random_gap(model, x, y, 0.3)
    state = torch.get_rng_state()
    assert (weight_attack(model, x, y, 0.3, restarts=3), random_gap(model, x, y, 0.3)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert weight_attack(model, x, y, 0.3) <= first[0]


@pytest.mark.parametrize("p", NORMS)
def test_projections_are_the_nearest_points(p):
    g = torch.Generator().manual_seed(0)
    for scale in (0.01, 1.0, 10.0):
        point = torch.randn(3, 4, generator=g) * scale
        near = project(point, 0.7, p)
        assert float(near.norm(p=p)) <= 0.7 + 1e-5
        for _ in range(50):
            other = torch.randn(3, 4, generator=g)
            other = other * (0.7 * torch.rand((), generator=g) / other.norm(p=p))
            assert float((point - near).norm()) <= float((point - other).norm()) + 1e-5
        end = steepest(point, 0.7, p)
        assert float((point * end).sum()) == pytest.approx(0.7 * float(point.norm(p={1: math.inf, 2: 2}.get(p, 1))))
    assert float(project(torch.ones(3), 0.0, p).abs().max()) == 0


def test_bad_arguments(trained):
    model, x, y = trained
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -1"):
        certified_flatness(model, x, y, -1)
    with pytest.raises(ValueError, match="did you mean 'crown-ibp'"):
        certified_flatness(model, x, y, 0.1, method="crown-ipb")
    with pytest.raises(ValueError, match="labels must have shape"):
        weight_attack(model, x, y[:3], 0.1)
    with pytest.raises(ValueError, match="samples must be"):
        random_gap(model, x, y, 0.1, 0)
    with pytest.raises(ValueError, match="p must be 1, 2 or inf"):
        random_gap(model, x, y, 0.1, p=3)
    dropping = nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.5))
    with pytest.raises(RuntimeError, match=r"model\.eval\(\)"):
        certified_flatness(dropping, x, y, 0.1)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ibp", "fused", "crown-ibp"])
def test_training_on_weight_balls_makes_flatness_that_can_be_proven(trained, kind):
    plain, x, y = trained

    class Points:
        pass

    points = Points()
    points.x, points.y = x, y
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    objective = CertifiedTraining(Balls(weight_eps=0.1), kind=kind, ramp=Ramp(1.0, 0.1, 0.5))
    fit(model, points, objective, Recipe(epochs=150, batch_size=40, lr=0.03, schedule="constant", grad_clip=None))
    assert certified_flatness(model, x, y, 0.1).certified_loss < certified_flatness(plain, x, y, 0.1).certified_loss
    assert verified(Bounds(Program(model, x), x, weights=weight_balls(model, 0.1)), y).sum() > 20


def test_the_objective_is_plain_at_first_and_then_bounds_the_worst_case(trained):
    model, x, y = trained
    objective = CertifiedTraining(Balls(weight_eps=0.2), kind="crown-ibp", mix=False)
    plain = F.cross_entropy(model(x), y)
    torch.testing.assert_close(objective(model, x, y, 0.0), plain)
    full = float(objective(model, x, y, 1.0))
    assert full == pytest.approx(certified_flatness(model, x, y, 0.2).certified_loss, rel=1e-5)
    assert float(plain) < float(objective(model, x, y, 0.4)) < full
    last = Balls(weight_eps=0.2, weight_names=["2.weight"])
    one = CertifiedTraining(last, kind="crown-ibp", mix=False)
    assert float(one(model, x, y, 1.0)) < full
    with pytest.raises(ValueError, match="both 0"):
        Balls()


def test_gradients_of_the_objective_are_those_of_finite_differences(trained):
    x, y = trained[1][:5].double(), trained[2][:5]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    for kind in ("ibp", "fused", "crown-ibp"):
        objective = CertifiedTraining(Balls(weight_eps=0.1), kind=kind, mix=False, relu="zero-lb")
        model.zero_grad()
        objective(model, x, y).backward()
        for parameter in model.parameters():
            d = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-6
            with torch.no_grad():
                ends = []
                for sign in (1, -1):
                    parameter += sign * d
                    ends.append(float(objective(model, x, y)))
                    parameter -= sign * d
            assert (ends[0] - ends[1]) / 2 == pytest.approx(float((parameter.grad * d).sum()), rel=1e-4, abs=1e-10)
