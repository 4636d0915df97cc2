"""SAM, ASAM, GSAM and SAGM: known answers, limits, and the contract of torch.optim."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flatlab.flatness import over_parameters, sam_sharpness
from flatlab.optim.sam import ASAM, GSAM, SAGM, SAM

METHODS = [SAM, ASAM, GSAM, SAGM]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)


def weight(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def bowl(w: Tensor) -> Tensor:
    return 0.5 * (w * w * torch.arange(1, w.shape[-1] + 1)).sum()


def closure_of(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(16, 4, generator=generator, dtype=dtype), torch.randint(3, (16,), generator=generator)


def train(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int) -> list[Tensor]:
    x, y = batch(next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, lambda: cross_entropy(model(x), y)))
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("method", "options", "update"),
    [
        (SAM, {"rho": 0.5}, (3.175562, 8.936329)),
        (ASAM, {"rho": 0.5, "eta": 0.0}, (3.406118, 11.850604)),
        (SAM, {"rho": 0.5, "adaptive": True}, (3.406118, 11.850604)),
        (ASAM, {}, (3.407786, 11.859995)),
        (GSAM, {"rho": 0.5, "alpha": 0.3}, (3.133698, 8.951205)),
        (SAGM, {"rho": 0.5, "alpha": 0.02}, (3.057781, 8.308165)),
    ],
)
@pytest.mark.parametrize("manual", [False, True])
def test_known_updates(method: Any, options: dict[str, float], update: tuple[float, float], manual: bool) -> None:
    w = weight(3.0, 4.0)
    before, optimizer = w.detach().clone(), method([w], lr=1.0, **options)
    if manual:
        bowl(w).backward()
        optimizer.first_step(zero_grad=True)
        bowl(w).backward()
        optimizer.second_step(zero_grad=True)
        assert w.grad is None
    else:
        assert float(optimizer.step(closure_of(optimizer, lambda: bowl(w))).detach()) == 20.5
    torch.testing.assert_close((before - w).detach(), torch.tensor(update, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("method", "options"), [(SAM, {}), (ASAM, {}), (GSAM, {"alpha": 0.0}), (SAGM, {"alpha": 0.0})])
def test_a_radius_of_zero_is_the_base(method: Any, options: dict[str, float]) -> None:
    ours, plain = network(), network()
    optimizer = method(ours.parameters(), torch.optim.Adam, rho=0.0, lr=0.05, **options)
    expected = train(torch.optim.Adam(plain.parameters(), lr=0.05), plain, 5)
    if method is SAGM:  # (g + g) / 2 = g
        torch.testing.assert_close(train(optimizer, ours, 5), expected, rtol=0, atol=1e-14)
    else:
        assert same(train(optimizer, ours, 5), expected)


def test_limits_of_gsam_and_sagm() -> None:
    one, two = weight(3.0, 4.0), weight(3.0, 4.0)
    for w, optimizer in ((one, GSAM([one], rho=0.5, alpha=0.0, lr=0.1)), (two, SAM([two], rho=0.5, lr=0.1))):
        optimizer.step(closure_of(optimizer, lambda w=w: bowl(w)))
    assert torch.equal(one, two)
    one, two = weight(3.0), weight(3.0)  # in one dimension nothing is orthogonal
    for w, optimizer in ((one, GSAM([one], rho=0.5, alpha=0.7, lr=0.1)), (two, SAM([two], rho=0.5, lr=0.1))):
        optimizer.step(closure_of(optimizer, lambda w=w: (w**4).sum()))
    torch.testing.assert_close(one, two, rtol=1e-14, atol=0)
    w = weight(3.0, 4.0)
    optimizer = SAGM([w], rho=0.5, alpha=0.5 / 73**0.5, lr=0.1)  # eps = 0
    optimizer.step(closure_of(optimizer, lambda: bowl(w)))
    torch.testing.assert_close(w.detach(), torch.tensor([2.7, 3.2], dtype=torch.float64), rtol=1e-10, atol=0)


@each_method
def test_a_zero_gradient_moves_nothing(method: Any) -> None:
    w = weight(0.0, 0.0)
    optimizer = method([w], lr=1.0, rho=0.5)
    optimizer.step(closure_of(optimizer, lambda: bowl(w)))
    assert w.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", [SAM, ASAM, GSAM])
def test_the_perturbation_ignores_the_scale_of_the_loss(method: Any) -> None:
    found = []
    for factor in (1.0, 1024.0):
        w = weight(3.0, 4.0, 1.0)
        optimizer = method([w], lr=1.0)
        (factor * bowl(w)).backward()
        optimizer.first_step()
        found.append(w.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-14, atol=0)


def test_asam_ignores_scaling_weights_against_each_other() -> None:
    products = []
    for c in (1.0, 8.0):
        a, b = weight(2.0 * c), weight(0.5 / c)
        optimizer = ASAM([a, b], lr=0.1, eta=0.0, rho=0.3)
        (a * b - 3).square().sum().backward()
        optimizer.first_step()
        products.append(float((a * b).detach()))
    assert products[0] == pytest.approx(products[1], rel=1e-13)
    assert products[0] != pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_loss_rises_by_the_sharpness(adaptive: bool) -> None:
    model, (x, y) = network().eval(), batch()
    expected = sam_sharpness(over_parameters(model, lambda m: cross_entropy(m(x), y)), 0.1, adaptive=adaptive)
    optimizer = SAM(model.parameters(), rho=0.1, adaptive=adaptive, lr=0.1)
    start = cross_entropy(model(x), y)
    start.backward()
    optimizer.first_step()
    assert float((cross_entropy(model(x), y) - start).detach()) == pytest.approx(expected, rel=1e-9)
    assert expected > 1e-3


@each_method
@pytest.mark.parametrize("adaptive", [False, True])
def test_stacked_networks_train_as_alone(method: Any, adaptive: bool) -> None:
    options: dict[str, Any] = {} if method is ASAM else {"adaptive": adaptive}
    generator = torch.Generator().manual_seed(3)
    starts = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (3, 2, 2), (3,))]

    def loss(parts: list[Tensor]) -> Tensor:
        return sum(((p - 0.3).sinh() ** 2).sum() for p in parts) + parts[0][..., 0].prod() * 0

    stacked = [nn.Parameter(s.clone()) for s in starts]
    optimizer = method(stacked, torch.optim.Adam, networks=3, rho=0.2, lr=0.1, **options)
    for _ in range(4):
        optimizer.step(closure_of(optimizer, lambda: loss(stacked)))
    for index in range(3):
        alone = [nn.Parameter(s[index].clone()) for s in starts]
        single = method(alone, torch.optim.Adam, rho=0.2, lr=0.1, **options)
        for _ in range(4):
            single.step(closure_of(single, lambda alone=alone: sum(((p - 0.3).sinh() ** 2).sum() for p in alone)))
        torch.testing.assert_close([p[index] for p in stacked], alone, rtol=1e-12, atol=1e-13)


def test_one_overflow_leaves_the_other_networks_alone() -> None:
    w = nn.Parameter(torch.ones(2, 3))
    optimizer = SAM([w], networks=2, rho=0.3, lr=0.1)
    w.grad = torch.tensor([[1.0, 2.0, 2.0], [torch.inf, 1.0, 1.0]])
    optimizer.first_step()
    torch.testing.assert_close(w.detach(), torch.tensor([[1.1, 1.2, 1.2], [1.0, 1.0, 1.0]]))
    w.grad = torch.ones(2, 3)
    optimizer.restore()
    assert w.grad.isfinite().tolist() == [[True] * 3, [False] * 3]


@each_method
def test_weights_come_back_exactly_when_the_second_pass_raises(method: Any) -> None:
    model, (x, y) = network(), batch()
    optimizer = method(model.parameters(), lr=0.1, momentum=0.9, model=model)
    before, calls = copy.deepcopy(model.state_dict()), []

    def closure() -> Tensor:
        calls.append([p.detach().clone() for p in model.parameters()])
        optimizer.zero_grad()
        value = cross_entropy(model(x), y)
        value.backward()
        if len(calls) == 2:
            raise MemoryError("second pass")
        return value

    with pytest.raises(MemoryError):
        optimizer.step(closure)
    assert not same(calls[0], calls[1])
    assert same(calls[0], list(model.parameters()))
    assert int(model[1].num_batches_tracked) == int(before["1.num_batches_tracked"]) + 1
    assert not optimizer.state
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step()
    train(optimizer, model, 1)


@each_method
def test_the_base_steps_from_the_old_weights(method: Any) -> None:
    model = network(dtype=torch.float32)
    optimizer = method(model.parameters(), lr=0.1, rho=1000.0, momentum=0.9)
    seen: list[list[Tensor]] = []
    optimizer.base.register_step_pre_hook(lambda *_: seen.append([p.detach().clone() for p in model.parameters()]))
    before = [p.detach().clone() for p in model.parameters()]
    train(optimizer, model, 1)
    assert same(seen[0], before)
    assert len(optimizer.state) == len(before)
    assert all(set(entry) == {"momentum_buffer"} for entry in optimizer.state.values())


@pytest.mark.parametrize(("given", "mode", "updates"), [(True, "first", 1), (True, "both", 2), (False, "first", 2)])
def test_running_statistics(given: bool, mode: str, updates: int) -> None:
    model, plain, (x, y) = network(), network(), batch()
    optimizer = SAM(model.parameters(), model=model if given else None, running_stats=mode, rho=0.5, lr=0.1)
    for _ in range(2):
        before = copy.deepcopy(model.state_dict())
        optimizer.step(closure_of(optimizer, lambda: cross_entropy(model(x), y)))
        plain.load_state_dict(before)
        plain(x)
        assert int(model[1].num_batches_tracked) == int(before["1.num_batches_tracked"]) + updates
        assert torch.equal(model[1].running_mean, plain[1].running_mean) == (updates == 1)
    assert model[1].momentum == 0.1


@each_method
@pytest.mark.parametrize(("base", "options"), [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9})])
def test_resuming_continues_exactly(method: Any, base: Any, options: dict[str, float]) -> None:
    model = network(dtype=torch.float32)
    optimizer = method(model.parameters(), base, lr=0.05, rho=0.2, **options)
    train(optimizer, model, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = train(optimizer, model, 3)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = network(seed=1, dtype=torch.float32)
    again.load_state_dict(saved["model"])
    other = method(again.parameters(), base, lr=1.0, rho=0.9, **options)
    other.load_state_dict(saved["optimizer"])
    assert other.param_groups is other.base.param_groups
    assert other.state is other.base.state
    assert other.param_groups[0]["rho"] == 0.2
    assert same(train(other, again, 3), expected)


def test_a_checkpoint_of_the_base_keeps_our_options() -> None:
    w = weight(1.0, 2.0)
    optimizer = SAM([w], torch.optim.Adam, rho=0.3)
    optimizer.load_state_dict(torch.optim.Adam([w], lr=0.7).state_dict())
    assert (optimizer.param_groups[0]["rho"], optimizer.param_groups[0]["lr"]) == (0.3, 0.7)


@each_method
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_continue_identically(method: Any, duplicate: Callable[[Any], Any]) -> None:
    model = network()
    optimizer = method(model.parameters(), torch.optim.Adam, lr=0.05, model=model)
    train(optimizer, model, 2)
    twin, other = duplicate((model, optimizer))
    assert other.model is twin
    assert other.param_groups is other.base.param_groups
    assert same(train(optimizer, model, 3), train(other, twin, 3))


def test_an_instance_is_shared() -> None:
    w, v = weight(3.0, 4.0), weight(1.0)
    base = torch.optim.SGD([{"params": [w]}, {"params": [v], "lr": 0.5}], lr=0.1)
    optimizer = SAM([{"params": [w]}, {"params": [v], "rho": 0.7}], base, rho=0.2)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert [group["rho"] for group in base.param_groups] == [0.2, 0.7]
    new = weight(5.0)
    optimizer.add_param_group({"params": new, "rho": 0.4})
    assert base.param_groups[2]["params"][0] is new
    assert base.param_groups[2]["rho"] == 0.4
    base.load_state_dict(base.state_dict())  # replaces the lists of the base
    assert optimizer.param_groups is base.param_groups


def test_each_group_has_its_radius_and_all_share_one_norm() -> None:
    a, b = weight(3.0), weight(4.0)
    optimizer = SAM([{"params": [a], "rho": 1.0}, {"params": [b], "adaptive": True, "eta": 1.0}], rho=0.5, lr=0.1)
    a.grad, b.grad = torch.ones(1, dtype=torch.float64) * 5, torch.ones(1, dtype=torch.float64) * 2.4
    optimizer.first_step()  # T g = (5, 12), norm 13
    assert float(a.detach()) == pytest.approx(3 + 5 / 13)
    assert float(b.detach()) == pytest.approx(4 + 0.5 * 5 * 12 / 13)


@each_method
def test_maximize_perturbs_towards_the_worse(method: Any) -> None:
    found = []
    for sign in (1.0, -1.0):
        w = weight(3.0, 4.0)
        optimizer = method([w], lr=0.1, maximize=sign < 0)
        optimizer.step(closure_of(optimizer, lambda w=w, sign=sign: sign * bowl(w)))
        found.append(w.detach())
    assert torch.equal(*found)


@each_method
def test_parameters_without_gradient_are_left_alone(method: Any) -> None:
    w, idle, late = weight(3.0, 4.0), weight(1.0), weight(2.0)
    optimizer = method([w, idle, late], torch.optim.Adam, lr=0.1)
    losses = iter([bowl, lambda w: bowl(w) + late.sum()])
    optimizer.step(closure_of(optimizer, lambda: next(losses)(w)))
    assert float(idle.detach()) == 1.0
    assert idle not in optimizer.state
    assert float(late.detach()) < 2.0
    assert torch.isfinite(w).all()
    optimizer.step(lambda: None)  # stale gradients, and none at all, are no error
    optimizer.zero_grad()
    optimizer.step(lambda: None)


def test_complex_parameters_are_pairs_of_reals() -> None:
    z = nn.Parameter(torch.tensor([3 + 4j]))
    optimizer = GSAM([z], rho=0.5, lr=0.1)
    z.grad = torch.tensor([3 + 4j])
    optimizer.first_step()
    torch.testing.assert_close(z.detach(), torch.tensor([3.3 + 4.4j]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_method
def test_half_precision_weights(method: Any, dtype: torch.dtype) -> None:
    w, reference = weight(3.0, 4.0, dtype=dtype), weight(3.0, 4.0)
    for p in (w, reference):
        optimizer = method([p], rho=0.5, lr=0.125)
        optimizer.step(closure_of(optimizer, lambda p=p: bowl(p)))
    torch.testing.assert_close(w.detach().double(), reference.detach(), rtol=2e-2, atol=0)


def test_gsam_radius_follows_the_learning_rate() -> None:
    w = weight(3.0, 4.0)
    optimizer = GSAM([w], lr=0.4, rho_min=0.1, rho_max=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    radii = []
    for _ in range(4):
        optimizer.step(closure_of(optimizer, lambda: bowl(w)))
        radii.append(optimizer.param_groups[0]["rho"])
        scheduler.step()
    assert radii == pytest.approx([0.5, 0.4, 0.3, 0.2])
    assert GSAM([w], rho=0.07).param_groups[0]["rho"] == 0.07


@each_method
def test_schedulers_and_hooks_act_once_a_step(method: Any) -> None:
    w = weight(3.0, 4.0)
    optimizer = method([w], torch.optim.Adam, lr=0.1)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for manual in (False, True):
            if manual:
                bowl(w).backward()
                optimizer.first_step(zero_grad=True)
                bowl(w).backward()
                optimizer.second_step()
            else:
                optimizer.step(closure_of(optimizer, lambda: bowl(w)))
            cycle.step()
    rate = optimizer.base.param_groups[0]["lr"]
    plateau.step(1.0)
    plateau.step(2.0)
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(rate / 2)
    assert calls == ["before", "after"] * 2
    assert "rho" in repr(optimizer)
    assert f"{method.__name__} over Adam" in repr(optimizer)


def scaled_step(optimizer: Any, scaler: torch.amp.GradScaler, loss: Callable[[int], Tensor]) -> None:
    """The recipe of the docstring."""
    scaler.scale(loss(0)).backward()
    optimizer.first_step(zero_grad=True, scale=scaler.get_scale())
    try:
        scaler.scale(loss(1)).backward()
    finally:
        optimizer.restore()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


@each_method
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_grad_scaler_changes_nothing(method: Any, scale: float) -> None:
    model, plain, (x, y) = network(dtype=torch.float32), network(dtype=torch.float32), batch(torch.float32)
    optimizer = method(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for _ in range(3):
        scaled_step(optimizer, scaler, lambda _: cross_entropy(model(x), y))
    expected = train(method(plain.parameters(), lr=0.1, momentum=0.9, rho=0.3), plain, 3)
    torch.testing.assert_close(list(model.parameters()), [nn.Parameter(p) for p in expected], rtol=1e-4, atol=1e-6)


@each_method
@pytest.mark.parametrize("passes", [{0}, {1}, {0, 1}])
def test_an_overflow_skips_the_step_and_halves_the_scale(method: Any, passes: set[int]) -> None:
    bad = set(passes)
    model, (x, y) = network(dtype=torch.float32), batch(torch.float32)
    optimizer = method(model.parameters(), torch.optim.Adam, lr=0.1, model=model)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    before = [p.detach().clone() for p in model.parameters()]

    def loss(index: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            value = cross_entropy(model(x), y)
        return value * (torch.inf if index in bad else 1.0)

    scaled_step(optimizer, scaler, loss)
    assert torch.isfinite(model[1].running_mean).all()
    assert same(before, list(model.parameters()))
    assert not optimizer.state
    assert scaler.get_scale() == 128.0
    bad.clear()
    scaled_step(optimizer, scaler, loss)
    assert not same(before, list(model.parameters()))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_sparse_gradients_are_refused_before_anything_changes() -> None:
    table, w = nn.Embedding(4, 2, sparse=True), weight(1.0, 2.0, dtype=torch.float32)
    before = table.weight.detach().clone()
    optimizer = SAM([w, table.weight], lr=0.1)
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step(closure_of(optimizer, lambda: table(torch.tensor([1])).sum() + bowl(w)))
    assert torch.equal(before, table.weight)
    assert w.tolist() == [1.0, 2.0]
    assert not optimizer.state


def test_calls_out_of_order() -> None:
    w = weight(3.0, 4.0)
    optimizer = SAM([w], lr=0.1)
    with pytest.raises(RuntimeError, match=r"step\(closure\).*first_step\(\).*second_step\(\)"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="without a first_step"):
        optimizer.second_step()
    with pytest.raises(TypeError, match="callable"):
        optimizer.step(3.0)
    bowl(w).backward()
    optimizer.first_step()
    for call in (
        optimizer.first_step,
        optimizer.step,
        lambda: optimizer.step(lambda: None),
        lambda: copy.deepcopy(optimizer),
        lambda: optimizer.load_state_dict(optimizer.state_dict()),
        lambda: optimizer.add_param_group({"params": [weight(1.0)]}),
    ):
        with pytest.raises(RuntimeError, match="perturbed"):
            call()
    optimizer.restore()
    optimizer.restore()
    assert w.tolist() == [3.0, 4.0]
    optimizer.second_step()
    assert w.tolist() != [3.0, 4.0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rho": -0.1}, ValueError, "rho must be a finite number >= 0, got -0.1"),
        ({"eta": -1.0}, ValueError, "eta"),
        ({"adaptive": 1}, TypeError, "adaptive"),
        ({"running_stats": "fist"}, ValueError, "did you mean 'first'"),
        ({"model": "net"}, TypeError, "torch.nn.Module"),
        ({"networks": 3}, ValueError, r"shape \(2,\), but networks=3"),
        ({"base_optimizer": torch.optim.LBFGS}, ValueError, "LBFGS cannot be the base"),
        ({"base_optimizer": SAM}, ValueError, "SAM cannot be the base"),
        ({"base_optimizer": 3}, TypeError, "class or instance"),
        ({"base_optimizer": torch.optim.SGD([weight(1.0)])}, ValueError, "exactly the parameters"),
        ({"differentiable": True}, ValueError, "differentiable"),
        ({"momentun": 0.9}, TypeError, "momentun"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        SAM([weight(1.0, 2.0)], **options)


def test_errors_of_the_variants_and_of_groups() -> None:
    w = weight(1.0, 2.0)
    for method in (GSAM, SAGM):
        with pytest.raises(ValueError, match="alpha must be"):
            method([w], alpha=-1.0)
    with pytest.raises(ValueError, match="both or neither"):
        GSAM([w], rho_min=0.1)
    with pytest.raises(ValueError, match="must not exceed"):
        GSAM([w], rho_min=0.3, rho_max=0.1)
    with pytest.raises(ValueError, match="empty"):
        SAM([])
    base = torch.optim.SGD([w], lr=0.1)
    with pytest.raises(ValueError, match="pass the class"):
        SAM([w], base, lr=0.1)
    with pytest.raises(ValueError, match="may set only"):
        SAM([{"params": [w], "lr": 0.5}], base)
    optimizer = SAM([w], networks=2)
    for group in ({"params": [weight(1.0)]}, {"params": [weight(1.0, 2.0)], "rho": -1.0}):
        with pytest.raises(ValueError):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_an_option_that_the_base_has_too_gets_another_key() -> None:
    optimizer = SAM([weight(1.0, 2.0)], torch.optim.Adadelta, rho=0.3)
    assert (optimizer.param_groups[0]["rho"], optimizer.param_groups[0]["sam_rho"]) == (0.9, 0.3)
