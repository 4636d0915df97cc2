"""UDIM: known answers of one step, its perturbation, its penalty, and what it must not touch."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import dg, optim
from flatlab.dg.head import head_gradients
from flatlab.flatness import over_parameters, sam_sharpness
from flatlab.train import operations

SGD = functools.partial(torch.optim.SGD, lr=0.1)
STILL = functools.partial(torch.optim.SGD, lr=0.0)


class Net(nn.Module):
    """A network in two parts, as all algorithms take it."""

    def __init__(self, *layers: nn.Module, d: int, classes: int) -> None:
        super().__init__()
        self.featurizer, self.classifier = nn.Sequential(nn.Flatten(), *layers), nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def waves() -> Net:
    """Three linear layers whose weights are sines; made in float32 and then widened."""
    net = Net(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), d=5, classes=3)
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_((torch.sin(1.0 + torch.arange(p.numel()) + 2 * k) / p.shape[-1] ** 0.5).view_as(p))
    return net.double()


def smooth(seed: int = 0, bn: bool = False) -> Net:
    torch.manual_seed(seed)
    extra = [nn.BatchNorm1d(8)] if bn else []
    return Net(nn.Linear(12, 8), *extra, nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), d=6, classes=3).double()


X = torch.cos(0.7 * torch.arange(72, dtype=torch.float64)).view(6, 3, 2, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def lengths(x_tilde: Tensor) -> Tensor:
    return (x_tilde - X).flatten(1).norm(dim=1)


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters()), materialize_grads=True))


def total(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).norm()


def test_loss_and_slope_of_the_known_network() -> None:
    model = waves()
    loss = F.cross_entropy(model(X), Y)
    length = total(gradients(model, loss))
    assert loss.item() == pytest.approx(1.169559026957, abs=1e-12)
    assert length.item() == pytest.approx(0.558882778967, abs=1e-12)
    rise = sam_sharpness(over_parameters(model.eval(), lambda m: F.cross_entropy(m(X), Y)), 0.05)
    assert rise == pytest.approx(0.028570841590, abs=1e-12)
    assert 0.05 * length.item() == pytest.approx(rise, rel=0.05)


@pytest.mark.parametrize(
    ("rho_x", "penalty", "ratio"),
    [(0.1, 0.2666107458, 0.3085), (1.0, 0.3538742359, 0.5578), (10.0, 4.7263127259, 39.687)],
)
def test_known_step_with_directions_over_the_batch(rho_x: float, penalty: float, ratio: float) -> None:
    model = waves()
    x_tilde = dg.perturb_inputs(model, X, Y, 0.05, rho_x, norm="batch")
    wanted = [0.211521, 0.088836, 0.035531, 0.209997, 0.088378, 0.119145]
    assert (lengths(x_tilde) / rho_x * 0.1).tolist() == pytest.approx(wanted, abs=1e-6)
    found = dg.UDIM(model, SGD, rho_x=rho_x, norm="batch").update([(X, Y)])
    assert found["loss"] == pytest.approx(1.169559026957, abs=1e-12)
    assert found["penalty"] == pytest.approx(penalty, abs=1e-10)
    assert found["ratio"] == pytest.approx(ratio, rel=2e-4)


def test_known_perturbation_and_penalties_with_directions_of_each_sample() -> None:
    model = waves()
    x_tilde = dg.perturb_inputs(model, X, Y, 0.05, 1.0)
    torch.testing.assert_close(lengths(x_tilde), torch.ones(6, dtype=torch.float64), atol=1e-12, rtol=0)
    assert x_tilde[0].flatten()[:4].tolist() == pytest.approx(
        [0.64690958, 0.43460187, 0.17056610, -0.17262928], abs=1e-8
    )
    assert F.cross_entropy(model(x_tilde), Y).item() == pytest.approx(1.369041949633, abs=1e-12)
    assert dg.inconsistency_penalty(model, X, x_tilde, Y).item() == pytest.approx(0.3369676343509, abs=1e-12)
    paper = dg.inconsistency_penalty(model, X, x_tilde, Y, mode="paper", rho=0.05)
    assert paper.item() == pytest.approx(0.2560946759045, abs=1e-11)


def by_hand(model: Net, x_tilde: Tensor, mode: str, rho: float) -> Tensor:
    """The penalty from gradients of one sample at a time, by autograd."""

    def one(x: Tensor) -> Tensor:
        rows = [F.cross_entropy(model(x[i : i + 1]), Y[i : i + 1]) for i in range(6)]
        head = list(model.classifier.parameters())
        return torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(r, head, create_graph=True)]) for r in rows]
        )

    g, new = one(X), one(x_tilde)
    if mode == "paper":
        gap = (new - new.mean(0)).square().mean(0) - (g - g.mean(0)).square().mean(0)
        return gap.norm() + rho * new.mean(0).norm()
    v, v_new = (g - g.mean(0)).square().mean(0), (new - g.mean(0)).square().mean(0)
    centre = (v + v_new) / 2
    variance = ((v - centre).square().mean() + (v_new - centre).square().mean()) / 2
    parts = new.split([3 * (new.shape[1] // 3 - 1), 3], dim=1)
    return variance + sum(part.square().sum(1).mean() / part.shape[1] for part in parts)


@pytest.mark.parametrize("mode", ["official", "paper"])
@pytest.mark.parametrize("base", ["sam", "asam", "gsam", "sagm"])
def test_a_step_is_the_base_gradient_plus_that_of_the_penalty(mode: str, base: str) -> None:
    model, reference = smooth(), smooth()
    x_tilde = dg.perturb_inputs(reference, X, Y, 0.1, 0.5)
    penalty = by_hand(reference, x_tilde, mode, 0.1)
    torch.testing.assert_close(
        dg.inconsistency_penalty(model, X, x_tilde, Y, mode=mode, rho=0.1), penalty, atol=1e-12, rtol=0
    )
    slopes = gradients(reference, penalty)
    wrapper = {"sam": optim.SAM, "asam": optim.ASAM, "gsam": optim.GSAM, "sagm": optim.SAGM}[base]
    passes = wrapper(reference.parameters(), torch.optim.SGD, lr=0.1, rho=0.1)
    for step in (passes.first_step, lambda **_: passes.restore()):
        F.cross_entropy(reference(X), Y).backward()
        step(zero_grad=True)
    for p, slope in zip(reference.parameters(), slopes, strict=True):
        p.grad += 2.0 * slope
    passes.step()
    dg.UDIM(model, SGD, rho=0.1, rho_x=0.5, lam=2.0, mode=mode, base=base).update([(X, Y)])
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


def test_the_perturbed_batch_is_another_batch() -> None:
    model, seen = waves(), []
    model.featurizer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    dg.UDIM(model, SGD).update([(X, Y)])
    both = [x for x in seen if len(x) == 12]
    assert len(both) == 1, "the penalty sees sources and copies in one pass"
    torch.testing.assert_close(both[0][:6], X)
    assert (lengths(both[0][6:]) > 0.999).all()


def test_head_gradients_are_those_of_autograd() -> None:
    model = smooth()
    features = model.featurizer(X)
    weight, bias = head_gradients(features, model.classifier(features), Y)

    def loss(params: dict[str, Tensor], h: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model.classifier, params, h), label)

    params = dict(model.classifier.named_parameters())
    wanted = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, features, Y)
    torch.testing.assert_close(weight, wanted["weight"].flatten(1), atol=1e-14, rtol=0)
    torch.testing.assert_close(bias, wanted["bias"], atol=1e-14, rtol=0)
    torch.testing.assert_close(weight.square().sum(1), bias.square().sum(1) * features.square().sum(1))


@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_directions_follow_both_terms(norm: str) -> None:
    model, x = smooth(), X.clone().requires_grad_()
    loss = F.cross_entropy(model(x), Y)
    slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    for second, target in ((True, loss + 0.3 * total(list(slopes))), (False, loss)):
        (g,) = torch.autograd.grad(target, x, retain_graph=True)
        unit = F.normalize(g.flatten(1), dim=1).view_as(g) if norm == "sample" else F.normalize(g, dim=0)
        found = dg.perturb_inputs(model, X, Y, 0.3, 2.0, norm=norm, second_order=second)
        torch.testing.assert_close(found, X + 2 * unit, atol=1e-12, rtol=0)


def test_a_linear_model_moves_along_its_weights_and_settled_samples_stay() -> None:
    model = Net(d=12, classes=3).double()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([800.0, 0, 0]))  # of class 0 the residual is exactly zero
    r = model(X).softmax(1) - F.one_hot(Y, 3)
    found = dg.perturb_inputs(model, X, Y, 0.0, 0.7) - X
    assert (found[Y == 0] == 0).all()
    wanted = 0.7 * F.normalize(r @ model.classifier.weight, dim=1)[Y > 0]
    torch.testing.assert_close(found.flatten(1)[Y > 0], wanted.detach(), atol=1e-12, rtol=0)


def test_confident_samples_still_move_by_the_whole_length() -> None:
    model = Net(d=12, classes=3)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([60.0, 0, 0]))  # in float32 the squares of such slopes vanish
    moved = dg.perturb_inputs(model, X.float(), torch.zeros(6, dtype=torch.long), 0.0, 1.0) - X.float()
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.ones(6))


def test_nothing_to_follow_leaves_everything_where_it_is() -> None:
    model = Net(d=12, classes=1).double()  # one class: no residual, no slope, and a root at zero
    y = torch.zeros(6, dtype=torch.long)
    assert torch.equal(dg.perturb_inputs(model, X, y, 0.05, 1.0), X)
    before = [p.clone() for p in model.parameters()]
    for mode in ("official", "paper"):
        found = dg.UDIM(model, SGD, mode=mode).update([(X, y)])
        assert found["penalty"] == pytest.approx(0, abs=1e-14)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_no_length_is_no_perturbation_and_the_penalty_its_norm_term() -> None:
    model = smooth()
    x_tilde = dg.perturb_inputs(model, X, Y, 0.05, 0.0)
    assert torch.equal(x_tilde, X)
    assert x_tilde.data_ptr() != X.data_ptr()
    features = model.featurizer(X)
    weight, bias = head_gradients(features, model.classifier(features), Y)
    wanted = weight.square().sum(1).mean() / 18 + bias.square().sum(1).mean() / 3
    torch.testing.assert_close(dg.inconsistency_penalty(model, X, X, Y), wanted, atol=1e-14, rtol=0)


def test_inputs_can_be_kept_in_their_range() -> None:
    x = X.clamp(0, 1)
    found = dg.perturb_inputs(smooth(), x, Y, 0.05, 5.0, clip=(0.0, 1.0))
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, x)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(
    "options", [{"lam": 0.0}, {"warmup": 0.5, "total_steps": 6}, {"warmup": 1.0, "total_steps": 3}]
)
def test_without_weight_and_while_warming_up_it_is_sam_bit_for_bit(options: dict[str, float]) -> None:
    model, reference = smooth(bn=True), smooth(bn=True)
    udim, sam = dg.UDIM(model, SGD, **options), dg.get_algorithm("SAM")(reference, SGD)
    for _ in range(3):
        udim.update([(X, Y)])
        sam.update([(X, Y)])
    assert same(model, reference)
    udim.update([(X, Y)])
    sam.update([(X, Y)])
    assert same(model, reference) == ("lam" in options)


def test_the_penalty_is_summed_over_domains() -> None:
    model = smooth()
    halves = [(X[:3], Y[:3]), (X[3:], Y[3:])]
    x_tilde = dg.perturb_inputs(model, X, Y, 0.05, 1.0)
    wanted = sum(
        dg.inconsistency_penalty(model, x, t, y).item() for (x, y), t in zip(halves, x_tilde.split(3), strict=True)
    )
    assert dg.UDIM(model, STILL).update(halves)["penalty"] == pytest.approx(wanted, abs=1e-12)
    one = dg.inconsistency_penalty(model, X, x_tilde, Y).item()
    assert dg.UDIM(model, STILL).update([(X, Y)])["penalty"] == pytest.approx(one, abs=1e-12)
    assert wanted != pytest.approx(one, rel=0.1)


def test_terms_and_directions_can_be_taken_apart() -> None:
    def penalty(**options: object) -> float:
        return dg.UDIM(smooth(), STILL, **options).update([(X, Y)])["penalty"]

    both, norm, variance = penalty(), penalty(terms="norm"), penalty(terms="variance")
    assert both == pytest.approx(norm + variance, abs=1e-13)
    assert min(norm, variance) > 0
    model = smooth()
    x_tilde = dg.perturb_inputs(model, X, Y, 0.05, 1.0)
    assert penalty(terms="loss") == pytest.approx(F.cross_entropy(model(x_tilde), Y).item(), abs=1e-12)
    random = [penalty(direction="random", terms="loss", rho_x=0.1, seed=seed) for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]
    assert max(random) < penalty(terms="loss", rho_x=0.1)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was(training: bool) -> None:
    model, reference = smooth(bn=True).train(training), smooth(bn=True)
    x = X.clone()
    x_tilde = dg.perturb_inputs(model, x, Y, 0.05, 1.0)
    dg.inconsistency_penalty(model, x, x_tilde, Y).backward()
    assert same(model, reference)
    assert model.training == training
    assert model.featurizer[2].track_running_stats
    assert torch.equal(x, X)
    assert not x.requires_grad
    assert not x_tilde.requires_grad


def test_a_step_keeps_no_graph_and_an_error_keeps_the_weights() -> None:
    model = smooth()
    udim = dg.UDIM(model, STILL)
    udim.update([(X, Y)])
    assert all(not p.grad.requires_grad for p in model.parameters())
    assert same(model, smooth())
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:  # the pass at the perturbed weights
            raise MemoryError

    model.register_forward_hook(fail)
    with pytest.raises(MemoryError):
        udim.update([(X, Y)])
    assert same(model, smooth())


def test_the_operations_of_a_step_can_be_counted() -> None:
    """A step makes six passes where ERM makes one: two of them forward, the others backward or through the gradient."""
    x, y = torch.rand(8, 12, dtype=torch.float64), torch.arange(8) % 3
    counted = {}
    for name in ("ERM", "SAM", "UDIM"):
        algorithm = dg.get_algorithm(name)(smooth(), functools.partial(torch.optim.SGD, lr=0.1))
        counted[name] = operations(lambda algorithm=algorithm: algorithm.update([(x, y)]))
    assert counted["SAM"] == 2 * counted["ERM"]
    assert 5 * counted["ERM"] < counted["UDIM"] < 7 * counted["ERM"]


def test_the_penalty_is_computed_in_float32_under_autocast() -> None:
    model, x = smooth().float(), X.float()
    x_tilde = dg.perturb_inputs(model, x, Y, 0.05, 1.0)
    plain = dg.inconsistency_penalty(model, x, x_tilde, Y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dg.perturb_inputs(model, x, Y, 0.05, 1.0), x_tilde)
        found = dg.inconsistency_penalty(model, x, x_tilde, Y)
        step = dg.UDIM(model, SGD).update([(x, Y)])
    assert torch.equal(found, plain)
    assert step["penalty"] == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("rho_x", [0.05, 0.3, 1.0])
def test_the_worst_direction_beats_random_ones(digits, rho_x: float) -> None:
    """On a digits network, whichever of 10 random directions of the same length is the best."""
    x, y = digits.x[:128].double(), digits.y[:128]
    torch.manual_seed(0)
    model = Net(nn.Linear(64, 32), nn.ReLU(), d=32, classes=10).double()
    erm = dg.get_algorithm("ERM")(model, functools.partial(torch.optim.Adam, lr=1e-2))
    for _ in range(40):
        erm.update([(x, y)])

    def height(at: Tensor) -> float:
        loss = F.cross_entropy(model(at), y)
        return (loss + 0.05 * total(gradients(model, loss))).item()

    here, found = height(x), height(dg.perturb_inputs(model, x, y, 0.05, rho_x))
    first = height(dg.perturb_inputs(model, x, y, 0.05, rho_x, second_order=False))
    others = [F.normalize(torch.randn(128, 64, dtype=torch.float64), dim=1).view_as(x) for _ in range(10)]
    assert found - here > max(height(x + rho_x * d) for d in others) - here
    assert found - here > 0
    if rho_x == 0.05:
        assert found > first, "both terms count"


def test_the_rise_within_the_ball_is_the_slope_to_first_order() -> None:
    model = smooth().eval()
    landscape = over_parameters(model, lambda m: F.cross_entropy(m(X), Y))
    length = total(list(landscape.gradient())).item()
    errors = [abs(sam_sharpness(landscape, rho) - rho * length) for rho in (0.02, 0.01, 0.005)]
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([4, 4], rel=0.05)


def test_bad_input() -> None:
    model = smooth()
    for name in ("rho", "rho_x", "lam", "warmup"):
        for value in (-0.1, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"{name} must be"):
                dg.UDIM(model, SGD, **{name: value})
    for name in ("rho", "rho_x"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            dg.perturb_inputs(model, X, Y, **{"rho": 0.1, "rho_x": 0.1, name: -1.0})
    listed = {"base": "sagm", "mode": "paper", "norm": "batch", "direction": "worst", "terms": "variance"}
    for name, valid in listed.items():
        with pytest.raises(ValueError, match=f"unknown {name} 'x'.*{valid}"):
            dg.UDIM(model, SGD, **{name: "x"})
    with pytest.raises(ValueError, match="unknown norm"):
        dg.perturb_inputs(model, X, Y, 0.1, 0.1, norm="pixel")
    with pytest.raises(ValueError, match="unknown mode"):
        dg.inconsistency_penalty(model, X, X, Y, mode="code")
    with pytest.raises(ValueError, match="warmup is a fraction"):
        dg.UDIM(model, SGD, warmup=1.5)
    with pytest.raises(ValueError, match="total_steps"):
        dg.UDIM(model, SGD, total_steps=-1)
    for clip in ((1.0, 0.0), (0.0, math.inf), (0.0,)):
        with pytest.raises(ValueError, match="clip"):
            dg.UDIM(model, SGD, clip=clip)
    with pytest.raises(ValueError, match="shape of x"):
        dg.inconsistency_penalty(model, X, X[:3], Y)
    with pytest.raises(TypeError, match=r"^model must have a \.featurizer"):
        dg.perturb_inputs(nn.Linear(12, 3), X.flatten(1), Y, 0.1, 0.1)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        dg.perturb_inputs(model, X, Y + 1, 0.1, 0.1)
    with pytest.raises(TypeError, match="floating point"):
        dg.perturb_inputs(model, X.to(torch.uint8), Y, 0.1, 0.1)
    with pytest.raises(ValueError, match="features and logits must be"):
        head_gradients(X, model(X), Y)
