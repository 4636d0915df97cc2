"""The names of auto_LiRPA: they give what `flatlab.bounds` gives, wrap a module without changing it, and train it."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import bounds
from flatlab.bounds.auto_lirpa import (
    BoundedModule,
    BoundedParameter,
    BoundedTensor,
    PerturbationL0Norm,
    PerturbationLpNorm,
    PerturbationSynonym,
)


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 3),
    ).eval()  # fmt: skip


def mlp(*, tanh: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh() if tanh else nn.ReLU(), nn.Linear(12, 12), nn.ReLU(),
                         nn.Linear(12, 3))  # fmt: skip


def margin_rows(y: Tensor, classes: int) -> Tensor:
    """C (B, K - 1, K) as scripts of the field write it."""
    eye = torch.eye(classes)
    c = eye[y].unsqueeze(1) - eye.unsqueeze(0)
    keep = y.unsqueeze(1) != torch.arange(classes).unsqueeze(0)
    return c[keep].view(len(y), classes - 1, classes)


def test_a_script_of_the_field_gets_what_compute_bounds_gives() -> None:
    x, y = torch.rand(5, 1, 8, 8), torch.randint(3, (5,))
    net = convnet()
    model = BoundedModule(net, torch.empty_like(x), bound_opts={"relu": "zero-lb", "conv_mode": "patches"})
    ptb = PerturbationLpNorm(norm=math.inf, eps=0.1, x_L=(x - 0.1).clamp(min=0), x_U=(x + 0.1).clamp(max=1))
    image = BoundedTensor(x, ptb)
    assert torch.equal(model(image), net(x))
    region = bounds.LpBall(x, 0.1, clip=(0, 1))
    for theirs, ours in (("IBP", "ibp"), ("CROWN-IBP", "crown-ibp"), ("CROWN", "crown"), ("Forward", "forward")):
        for c in (None, margin_rows(y, 3)):
            wanted = bounds.compute_bounds(net, x, region, ours, c, relu="zero-lb")
            for found, want in zip(model.compute_bounds(x=(image,), C=c, method=theirs), wanted, strict=True):
                assert found.shape == ((5, 3) if c is None else (5, 2))
                torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    ("call", "method"),
    [
        ({}, "crown"),
        ({"method": "backward"}, "crown"),
        ({"method": "Interval"}, "ibp"),
        ({"method": None, "IBP": True}, "ibp"),
        ({"method": "backward", "IBP": True}, "crown-ibp"),
        ({"method": "ibp+Backward"}, "crown-ibp"),
        ({"method": None, "forward": True}, "forward"),
        ({"method": "backward", "forward": True}, "forward+backward"),
        ({"method": "FORWARD+BACKWARD", "reuse_ibp": True, "average_A": True}, "forward+backward"),
    ],
    ids=str,
)
def test_every_name_stands_for_its_method(call: dict[str, Any], method: str) -> None:
    x, net = torch.rand(2, 6), mlp()
    model = BoundedModule(net, x)
    low, high = bounds.compute_bounds(net, x, bounds.LpBall(x, 0.1), method)
    found = model.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)), **call)
    assert torch.equal(found[0], low)
    assert torch.equal(found[1], high)


@pytest.mark.parametrize("fixed", [False, True])
def test_optimised_bounds_take_their_options(fixed: bool) -> None:
    x, net = torch.rand(2, 6), mlp()
    options = {"iteration": 5, "lr_alpha": 0.2, "fix_interm_bounds": fixed, "init_alpha": True}
    model = BoundedModule(net, x, bound_opts={"optimize_bound_args": {"iteration": 1}})
    model.set_bound_opts({"optimize_bound_args": options})
    ball = bounds.LpBall(x, 0.3)
    want = bounds.Bounds(bounds.Program(net, x), x, ball).compute(
        "alpha-crown", ascent=bounds.Ascent(5, 0.2, joint=not fixed)
    )
    found = model.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.3)), method="CROWN-Optimized")
    assert torch.equal(found[0], want[0])
    assert torch.equal(found[1], want[1])
    assert not found[0].requires_grad


def test_one_side_is_the_same_bound_and_the_other_none() -> None:
    x, net = torch.rand(3, 6), mlp()
    image, model = BoundedTensor(x, PerturbationLpNorm(0.2)), BoundedModule(net, x)
    for c in (None, torch.randn(3, 4, 3)):
        for method in ("IBP", "forward", "CROWN-IBP", "CROWN", "alpha-CROWN"):
            low, high = model.compute_bounds(image, C=c, method=method)
            one = model.compute_bounds(image, C=c, method=method, bound_upper=False)
            other = model.compute_bounds(image, C=c, method=method, bound_lower=False)
            assert one[1] is None
            assert other[0] is None
            torch.testing.assert_close((one[0], other[1]), (low, high))


X = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(1))
OTHERS = X[:, :, None] + torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(2))
MASK = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(3)) < 0.6


@pytest.mark.parametrize(
    ("ptb", "wanted"),
    [
        (PerturbationLpNorm(eps=0.1), bounds.LpBall(X, 0.1)),
        (PerturbationLpNorm(eps=0.1, norm=2, x_L=X, x_U=X), bounds.LpBall(X, 0.1, 2)),
        (PerturbationLpNorm(eps=0.1, norm=1), bounds.LpBall(X, 0.1, 1)),
        (PerturbationLpNorm(eps=torch.tensor([0.1, 0.3])), bounds.Box(X - X.new([0.1, 0.3]), X + X.new([0.1, 0.3]))),
        (PerturbationLpNorm(eps=None, x_L=X - 1, x_U=X + 2), bounds.Box(X - 1, X + 2)),
        (PerturbationLpNorm(eps=0.1, x_L=X[:1] * 0 - 1), bounds.Box(torch.full_like(X, -1), X + 0.1)),
        (PerturbationL0Norm(2), bounds.L0Ball(X, 2)),
        (PerturbationSynonym(2, candidates=OTHERS, mask=MASK), bounds.Synonyms(X, OTHERS, MASK, 2)),
        (PerturbationSynonym(2, candidates=OTHERS), bounds.Synonyms(X, OTHERS, torch.ones_like(MASK), 2)),
        (PerturbationSynonym(1, use_simple=True, candidates=OTHERS, mask=MASK.float()),
         bounds.Synonyms(X, OTHERS, MASK, 4)),
        (PerturbationSynonym(2, 0.5, candidates=OTHERS, mask=MASK),
         bounds.Synonyms(X, (OTHERS + X[:, :, None]) / 2, MASK, 2)),
    ],
    ids=lambda t: repr(t) if not isinstance(t, bounds.Box) else "",
)  # fmt: skip
def test_perturbations_are_the_sets(ptb: Any, wanted: bounds.Box) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 2))
    found = BoundedModule(net, X).compute_bounds(BoundedTensor(X, ptb), method="CROWN-IBP")
    torch.testing.assert_close(found, bounds.compute_bounds(net, X, wanted, "crown-ibp"))


def test_candidates_may_come_with_the_call() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    model, given = BoundedModule(net, X), BoundedTensor(X, PerturbationSynonym(2))
    found = model.compute_bounds((given,), aux=(OTHERS, MASK))
    torch.testing.assert_close(found, bounds.compute_bounds(net, X, bounds.Synonyms(X, OTHERS, MASK, 2), "crown"))


def test_a_share_of_the_way_of_a_pixel() -> None:
    x, a = torch.rand(2, 5), torch.randn(3, 2, 5)
    region = PerturbationL0Norm(5, ratio=0.25).region(x)
    worst = torch.where(a > 0, 0.75 * x, x + 0.25 * (1 - x))
    torch.testing.assert_close(region.lower(a), (a * worst).sum(2))
    assert torch.equal(region.center, x)


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
def test_perturbed_weights(norm: float, method: str) -> None:
    x, net = torch.rand(3, 6), mlp()
    plain = copy.deepcopy(net)
    ptb = PerturbationLpNorm(norm=norm, eps=0.5)
    net[0].weight = BoundedParameter(net[0].weight, ptb)
    net[2].bias = BoundedParameter(net[2].bias.data, ptb)
    net[4].bias = BoundedParameter(net[4].bias.data)
    model = BoundedModule(net, x)
    ptb.eps = 0.05  # as schedules do
    balls = bounds.weight_balls(plain, 0.05, p=norm, names=["0.weight", "2.bias"])
    want = bounds.compute_bounds(plain, x, None, method.lower(), weights=balls)
    torch.testing.assert_close(model.compute_bounds(x, method=method), want)
    both = bounds.compute_bounds(plain, x, bounds.LpBall(x, 0.1), method.lower(), weights=balls)
    given = BoundedTensor(x, PerturbationLpNorm(0.1))
    torch.testing.assert_close(model.compute_bounds(given, method=method), both)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(copied.compute_bounds(given, method=method), both)
    net[0].weight.grad = None
    model.compute_bounds(x, method=method)[0].sum().backward()
    assert net[0].weight.grad is not None


class Two(nn.Module):
    """Two inputs that meet."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.top = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.top(F.relu(self.one(x) * torch.tanh(self.two(y.flatten(1)))))


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "forward+backward", "alpha-CROWN"])
@pytest.mark.parametrize("spec", [False, True])
@pytest.mark.parametrize("rows", [None, 2])
def test_returned_functions_hold_and_reach_the_bounds(method: str, spec: bool, rows: int | None) -> None:
    x, y = torch.randn(4, 6), torch.randn(4, 2, 2)
    net = Two()
    options = {} if rows is None else {"crown_batch_size": rows}
    model = BoundedModule(net, (x, y), bound_opts={**options, "optimize_bound_args": {"iteration": 6}})
    c = torch.randn(4, 5, 3) if spec else None
    given = (BoundedTensor(x, PerturbationLpNorm(0.1)), BoundedTensor(y, PerturbationLpNorm(0.3, norm=2)))
    low, high, found = model.compute_bounds(given, C=c, method=method, return_A=True)
    low, high = low.detach(), high.detach()
    table = found[model.output_name[0]]
    one, two = (table[name] for name in model.input_name)
    assert one["lA"].shape == (4, 5 if spec else 3, 6)
    assert two["uA"].shape == (4, 5 if spec else 3, 2, 2)

    def value(side: str, dx: Tensor, dy: Tensor) -> Tensor:
        a, b, bias = one[side + "A"].detach(), two[side + "A"].detach(), one[side + "bias"].detach()
        return torch.einsum("bsn,bn->bs", a, dx) + torch.einsum("bsij,bij->bs", b, dy) + bias

    for i in range(200):
        dx = x + 0.1 * (torch.rand_like(x) * 2 - 1).sign()
        step = torch.randn_like(y)
        dy = y + 0.3 * step / step.flatten(1).norm(dim=1)[:, None, None] * (1 if i % 2 else torch.rand(()))
        with torch.no_grad():
            z = net(dx, dy)
        z = z if c is None else torch.einsum("bsk,bk->bs", c, z)
        assert (value("l", dx, dy) <= z + 1e-5).all()
        assert (value("u", dx, dy) >= z - 1e-5).all()
    for side, sign, bound in (("l", -1, low), ("u", 1, high)):
        ends = 0.1 * one[side + "A"].abs().sum(2) + 0.3 * two[side + "A"].flatten(2).norm(dim=2)
        reached = value(side, x, y) + sign * ends.detach()
        if spec:
            torch.testing.assert_close(reached, bound, atol=1e-4, rtol=1e-4)
        else:  # bounds of the output itself are nowhere wider than what is known
            assert (sign * (reached - bound) >= -1e-4).all()
    plain = model.compute_bounds(given, C=c, method=method)
    assert all(torch.equal(one, other.detach()) for one, other in zip((low, high), plain, strict=True))
    only = model.compute_bounds(given, C=c, method=method, return_A=True, bound_upper=False)
    assert only[1] is only[2][model.output_name[0]][model.input_name[0]]["uA"] is None


def test_returned_functions_are_differentiable() -> None:
    x, net = torch.rand(2, 6), mlp()
    model = BoundedModule(net, x)
    given = BoundedTensor(x, PerturbationLpNorm(0.1))
    *_, found = model.compute_bounds(given, method="CROWN-IBP", return_A=True, needed_A_dict={"out": {"in"}})
    found[model.output_name[0]][model.input_name[0]]["lA"].square().sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_the_module_stays_what_it_is() -> None:
    x, net = (
        torch.rand(4, 1, 8, 8),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 2)),
    )
    names = list(net.state_dict())
    model = BoundedModule(net, x)
    assert list(model.state_dict()) == names
    assert [*map(id, model.parameters())] == [*map(id, net.parameters())]
    assert dict(model.named_buffers()).keys() == dict(net.named_buffers()).keys()
    other = BoundedModule(copy.deepcopy(net), x)
    for p in other.parameters():
        p.data.add_(1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), net.eval()(x))
    outer = nn.ModuleDict({"part": model})
    assert list(outer.state_dict()) == ["part." + name for name in names]
    outer.load_state_dict(outer.state_dict())
    outer.train()
    assert net.training
    assert net[1].training
    net.eval()
    assert not model.training
    model.double()
    assert net[0].weight.dtype == torch.float64
    given = BoundedTensor(x, PerturbationLpNorm(0.01)).to(torch.float64)
    assert model.compute_bounds(given)[0].dtype == torch.float64
    net.note = "mine"
    assert model.note == "mine"
    with pytest.raises(AttributeError, match="Sequential"):
        model.nothing_of_that_name  # noqa: B018


def test_each_mode_is_captured_once() -> None:
    x = torch.rand(4, 6)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    net(torch.randn(50, 6))
    model = BoundedModule(net, x)
    given = BoundedTensor(x, PerturbationLpNorm(0.1))
    train = model.compute_bounds(given)[0]
    first = model._program((x,))
    evaluated = model.eval().compute_bounds(given)[0]
    assert (train - evaluated).abs().max() > 1e-3
    model.train()
    assert model._program((x,)) is first
    torch.testing.assert_close(model.compute_bounds(given)[0], train)
    net[1].eval()  # a frozen layer inside is a mode of its own
    torch.testing.assert_close(model.compute_bounds(given)[0], evaluated)


def test_the_last_inputs_are_kept_and_copies_begin_without() -> None:
    x, net = torch.rand(2, 6), mlp()
    model = BoundedModule(net, BoundedTensor(x, PerturbationLpNorm(0.1)))
    want = bounds.compute_bounds(net, x, bounds.LpBall(x, 0.1), "ibp")
    torch.testing.assert_close(model.compute_bounds(method="IBP"), want)
    model(BoundedTensor(x + 1, PerturbationLpNorm(0.1)))
    want = bounds.compute_bounds(net, x + 1, bounds.LpBall(x + 1, 0.1), "ibp")
    torch.testing.assert_close(model(method_opt="compute_bounds", method="IBP"), want)
    copied = copy.deepcopy(model)
    next(copied.parameters()).data.zero_()
    torch.testing.assert_close(model.compute_bounds(method="IBP"), want)
    with pytest.raises(ValueError, match="give x"):
        copied.compute_bounds(method="IBP")


def test_a_tensor_with_a_perturbation_is_a_tensor() -> None:
    x = torch.rand(2, 6, requires_grad=True)
    ptb = PerturbationLpNorm(0.1)
    given = BoundedTensor(x, ptb)
    assert isinstance(given, Tensor)
    assert type(given + 1) is Tensor
    assert given.clone().ptb is given.to("cpu").ptb is ptb
    assert pickle.loads(pickle.dumps(BoundedTensor(x.detach(), ptb))).ptb.eps == 0.1
    assert copy.deepcopy(BoundedTensor(x.detach(), ptb)).ptb is not ptb
    model = BoundedModule(mlp(), x)
    model.compute_bounds(given, method="CROWN")[0].sum().backward()
    assert x.grad is not None
    leaf = BoundedTensor(torch.rand(2, 6), ptb)
    leaf.requires_grad_()
    model.compute_bounds(leaf)[0].sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("fill", [math.nan, math.inf, 1e38, 0.0])
def test_what_the_example_holds_does_not_matter(fill: float) -> None:
    x, net = torch.rand(2, 1, 8, 8), convnet()
    model = BoundedModule(net, torch.full((1, 1, 8, 8), fill))
    found = model.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)))
    torch.testing.assert_close(found, bounds.compute_bounds(net, x, bounds.LpBall(x, 0.1)))


def test_training_on_a_certified_loss() -> None:
    x, net = torch.randn(40, 6), mlp()
    y = (x[:, 0] > 0).long()
    model = BoundedModule(net, x[:2])
    c = margin_rows(y, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(30):
        model(BoundedTensor(x, PerturbationLpNorm(0.1)))
        ilb, _ = model.compute_bounds(C=c, method="IBP")
        clb, iub = model.compute_bounds(C=c, method="CROWN-IBP", bound_upper=False)
        lb = (clb + ilb) / 2
        loss = F.cross_entropy(-F.pad(lb, (1, 0)), torch.zeros(40, dtype=torch.long))
        if step == 0:
            at = bounds.Bounds(bounds.Program(net, x), x, bounds.LpBall(x, 0.1))
            want = torch.autograd.grad(bounds.robust_ce(at, y, kappa=0.5).mean(), list(net.parameters()))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            torch.testing.assert_close([p.grad for p in net.parameters()], list(want))
        optimizer.step()
        losses.append(loss.item())
    assert iub is None
    assert losses[-1] < 0.6 * losses[0]


def test_joint_slopes_recover_from_a_step_that_was_too_long() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(),
                        nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3))  # fmt: skip
    x = torch.rand(2, 1, 12, 12)
    at = bounds.Bounds(bounds.Program(net, x), x, bounds.LpBall(x, 0.3))
    widths = []
    for lr in (0.1, 1.0):
        low, high = at.compute("alpha-crown", ascent=bounds.Ascent(20, lr, joint=True))
        widths.append(float((high - low).mean()))
    assert widths[1] < 1.02 * widths[0]


class Pair(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


@pytest.mark.parametrize("function", [torch.max, torch.min], ids=["max", "min"])
@pytest.mark.parametrize("method", ["IBP", "CROWN", "forward"])
def test_the_larger_and_the_smaller_of_two_tensors(function: Any, method: str) -> None:
    x, y = torch.randn(2, 1, 50)
    given = BoundedTensor(x, PerturbationLpNorm(0.5)), BoundedTensor(y, PerturbationLpNorm(0.3))
    low, high = BoundedModule(Pair(function), (x[0], y[0])).compute_bounds(given, method=method)
    ends = function(x - 0.5, y - 0.3), function(x + 0.5, y + 0.3)  # exact, as both are monotone
    assert (low <= ends[0] + 1e-6).all()
    assert (high >= ends[1] - 1e-6).all()
    assert (high - low).max() < 4


def refused(x: Tensor, **call: Any) -> None:
    BoundedModule(mlp(), x).compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)), **call)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        ({"method": "CRWN"}, ValueError, "choose one of IBP.*did you mean 'CROWN'"),
        ({"method": "dynamic-forward"}, ValueError, "unknown method 'dynamic-forward'"),
        ({"method": None}, ValueError, "IBP=True"),
        ({"bound_lower": False, "bound_upper": False}, ValueError, "at least one"),
        ({"method": "IBP", "return_A": True}, ValueError, "backward pass"),
        ({"C": torch.zeros(2, 5, 4)}, ValueError, r"\(2, S, 3\)"),
        ({"C": torch.zeros(5, 3)}, ValueError, "C must have shape"),
        ({"interm_bounds": {}}, ValueError, "interm_bounds is not offered"),
        ({"reuse_ipb": True}, TypeError, "did you mean 'reuse_ibp'"),
    ],
    ids=lambda t: "",
)
def test_calls_that_are_refused(call: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        refused(torch.rand(2, 6), **call)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"relu": "adaptiv"}, "did you mean 'adaptive'"),
        ({"activation_bound_option": "none"}, "lower slope of ReLUs"),
        ({"loss_fusion": True}, "unknown bound option 'loss_fusion'"),
        ({"crown_batchsize": 5}, "did you mean 'crown_batch_size'"),
        ({"optimize_bound_args": {"iterations": 5}}, "did you mean 'iteration'"),
    ],
    ids=lambda t: "",
)
def test_options_that_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BoundedModule(mlp(), torch.rand(2, 6), bound_opts=options)


def test_perturbations_that_are_refused() -> None:
    x = torch.rand(2, 6)
    model = BoundedModule(mlp(), x)
    with pytest.raises(ValueError, match="nothing is perturbed"):
        model.compute_bounds(x)
    for ptb, match in (
        (PerturbationLpNorm(eps=None), "needs eps"),
        (PerturbationLpNorm(eps=None, norm=2, x_L=x, x_U=x), "needs eps"),
        (PerturbationLpNorm(eps=0.1, norm=0), "L0Ball"),
        (PerturbationLpNorm(eps=-0.1), "eps must be finite"),
        (PerturbationLpNorm(x_L=x + 1, x_U=x), "low <= high"),
        (PerturbationL0Norm(2, ratio=2), "ratio"),
        (PerturbationSynonym(2), "candidates"),
        (PerturbationSynonym(2, 1.5, candidates=OTHERS), "eps must lie"),
    ):
        with pytest.raises(ValueError, match=match):
            model.compute_bounds(BoundedTensor(x, ptb))
    with pytest.raises(TypeError, match="got float"):
        BoundedTensor(x, 0.1)  # type: ignore[arg-type]
    net = mlp()
    net[0].weight = BoundedParameter(net[0].weight, PerturbationLpNorm(0.1, 2))
    weights = BoundedModule(net, x)
    with pytest.raises(ValueError, match="needs a perturbed input"):
        weights.compute_bounds(x, return_A=True)
    with pytest.raises(ValueError, match="method_opt"):
        model(x, method_opt="bounds")
