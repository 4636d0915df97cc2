"""Laws that every optimizer obeys in every setting: torch.optim's contract, and what memories and stacks add to it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flatlab import optim

# What each option refuses, and how messages may call it.
BAD: dict[str, tuple[str, tuple[Any, ...]]] = {
    "lr": ("lr|learning rate", (-1.0, math.nan)),
    "betas": ("beta", ((1.0, 0.5), (-0.1, 0.5), (0.5, 1.0), (0.5, -2.0))),
    "eps": ("eps", (-1.0, math.nan)),
    "weight_decay": ("weight_decay", (-1.0, math.nan)),
    "momentum": ("momentum", (-1.0,)),
    "capacity": ("capacity", (-1, 1.5)),
    "decay": ("decay", (0.0, 1.5, -1.0, math.nan)),
    "kappa": ("kappa", (-1.0, math.nan)),
    "resum_every": ("resum_every", (-1, 2.5)),
    "networks": ("networks", (0, -3, 4)),
    "buffer_dtype": ("buffer_dtype", (torch.int64,)),
    "rho": ("rho", (-1.0, math.nan)),
    "eta": ("eta", (-1.0, math.nan)),
    "alpha": ("alpha", (-1.0, math.nan)),
}
for choice in ("memory", "aggregate", "policy", "norm", "init", "second_moment", "running_stats"):
    BAD[choice] = (choice, ("no such choice",))
NOT_IN_GROUPS = {"base_optimizer", "model", "running_stats", "networks", "differentiable"}


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def values(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


# --- the table of cases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in optim.list_optimizers() if optim.info(name).family != "torch"])
def test_every_optimizer_of_the_registry_is_a_case(cases, name: str) -> None:
    found = optim.info(name)
    cls = getattr(found.factory, "func", found.factory)
    assert any(case.cls is cls and case.options.items() >= found.defaults.items() for case in cases)


def test_every_optimizer_class_is_in_the_registry(cases) -> None:
    exported = (getattr(optim, name) for name in optim.__all__)
    classes = {cls for cls in exported if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)}
    assert classes
    assert classes <= {optim.info(name).factory for name in optim.list_optimizers()}
    assert classes == {case.cls for case in cases if not case.control}


# --- construction -----------------------------------------------------------------------------------------------------


def test_refuses_no_parameters(case) -> None:
    with pytest.raises(ValueError, match="empty"):
        case.make([])


def test_refuses_options_out_of_range_and_says_which(case) -> None:
    for option in sorted(BAD.keys() & case.arguments):
        name, bad = BAD[option]
        for value in bad:
            if value != value and (case.control or case.base.__module__.startswith("torch")):
                continue  # torch lets some NaN pass
            with pytest.raises(ValueError, match=f"(?i){name}") as caught:
                case.make(case.params(), **{option: value})
            culprit = next(v for v in value if not 0 <= v < 1) if isinstance(value, tuple) else value
            assert str(culprit) in str(caught.value)


def test_refuses_a_bad_option_of_one_group(own) -> None:
    params = own.params()
    checked = {"rho", "eta", "alpha"} if own.two_pass else own.arguments
    for option in sorted((BAD.keys() & own.arguments & checked) - NOT_IN_GROUPS):
        with pytest.raises(ValueError, match=option):
            own.make([{"params": params[:1]}, {"params": params[1:], option: BAD[option][1][0]}])
        opt = own.make(params[:1])
        with pytest.raises(ValueError, match=option):
            opt.add_param_group({"params": params[1:], option: BAD[option][1][0]})
        assert len(opt.param_groups) == 1


def test_options_are_in_defaults_and_groups(case) -> None:
    opt = case.make(case.params())
    own = set(case.arguments) - NOT_IN_GROUPS
    assert own <= opt.defaults.keys()
    for option, value in case.options.items():
        if option not in NOT_IN_GROUPS:
            assert opt.param_groups[0][option] == value


def test_groups_with_options_of_their_own_are_separate_optimizers(by_group) -> None:
    """The norm, the memory and its decisions are those of the group."""
    special = {"lr": 0.03, "weight_decay": 0.2} | ({"capacity": 2} if "capacity" in by_group.arguments else {})
    params = by_group.params()
    opt = by_group.make([{"params": params[:1], **special}, {"params": params[1:]}])
    by_group.run(opt, params, range(8))
    apart = by_group.params()
    first, rest = by_group.make(apart[:1], **special), by_group.make(apart[1:])
    for t in range(8):
        by_group.closure(apart, t)()
        first.step()
        rest.step()
    close(params, apart)


def test_a_group_of_learning_rate_zero_stays(case) -> None:
    params = case.params()
    before = values(params)
    opt = case.make([{"params": params[:1], "lr": 0.0}, {"params": params[1:]}])
    case.run(opt, params, range(3))
    assert equal(params[:1], before[:1])
    assert not equal(params[1:], before[1:])


def test_takes_named_parameters(case) -> None:
    (params, opt), named = case.built(), case.params()
    other = case.make([(f"weight{i}", p) for i, p in enumerate(named)])
    case.run(opt, params, range(4))
    case.run(other, named, range(4))
    assert equal(params, named)
    assert other.state_dict()["param_groups"][0]["param_names"] == ["weight0", "weight1", "weight2"]


def test_refuses_to_be_differentiable(own) -> None:
    with pytest.raises((RuntimeError, ValueError, NotImplementedError), match="differentiable"):
        own.make(own.params(), differentiable=True)


def test_refuses_to_be_fused(unfused) -> None:
    with pytest.raises(TypeError, match="fused"):
        unfused.make(unfused.params(), fused=True)


def test_repr_lists_groups_and_options(case) -> None:
    params = case.params()
    text = repr(case.make([{"params": params[:1]}, {"params": params[1:]}]))
    assert case.cls.__name__ in text
    assert "Parameter Group 1" in text
    assert case.arguments > NOT_IN_GROUPS & case.arguments
    assert all(f"{option}:" in text for option in case.arguments - NOT_IN_GROUPS)


# --- the step ---------------------------------------------------------------------------------------------------------


def test_runs_the_closure_with_gradients_on_and_returns_its_first_loss(case) -> None:
    params, opt = case.built()
    expected, seen = case.closure(params, 0)().detach(), []
    opt.zero_grad()
    closure = case.closure(params, 0)

    def watched() -> Tensor:
        seen.append(torch.is_grad_enabled())
        return closure()

    with torch.no_grad():
        loss = opt.step(watched)
    assert torch.equal(loss.detach(), expected)
    assert seen == [True, True] if case.two_pass else [True]
    assert not any(p.grad_fn for p in params)


def test_takes_a_step_without_closure_if_one_pass_is_enough(one_pass) -> None:
    (params, opt), (others, other) = one_pass.built(), one_pass.built()
    one_pass.closure(params, 0)()
    assert opt.step() is None
    one_pass.run(other, others, [0])
    assert equal(params, others)


def test_refuses_a_step_without_closure_if_it_takes_two_passes(two_pass) -> None:
    params, opt = two_pass.built()
    two_pass.closure(params, 0)()
    with pytest.raises(RuntimeError, match="closure"):
        opt.step()


def test_refuses_a_closure_that_cannot_be_called(case) -> None:
    _, opt = case.built()
    with pytest.raises(TypeError, match="callable"):
        opt.step(3)


def test_without_gradients_nothing_happens(case) -> None:
    params, opt = case.built()
    before = values(params)
    loss = torch.tensor(2.0)
    assert opt.step(lambda: loss) is loss
    assert equal(params, before)
    assert not opt.state


def test_a_parameter_without_gradient_keeps_value_and_state(case) -> None:
    params, opt = case.built()
    case.run(opt, params, range(3))
    before, others = case.frozen(opt, params[1:2]), values(params[::2])
    case.run(opt, params, range(3, 5), idle=[1])
    after = case.frozen(opt, params[1:2])
    mine = [key for key in before if key.startswith(("/params", "/state/1/")) and not key.endswith("/memory_group")]
    assert {key: before[key] for key in mine} == {key: after[key] for key in mine}
    assert not any(torch.equal(a, b) for a, b in zip(others, params[::2], strict=True))


def test_refuses_sparse_gradients_before_anything_changes(dense) -> None:
    for steps in (0, 2):
        params, opt = dense.built()
        dense.run(opt, params, range(steps))
        before, inner = dense.frozen(opt, params), dense.closure(params, 5)

        def closure(inner=inner, params=params) -> Tensor:
            loss = inner()
            params[-1].grad = params[-1].grad.to_sparse()
            return loss

        with pytest.raises(RuntimeError, match="sparse"):
            opt.step(closure)
        if steps or not dense.control:  # torch's Adam makes the states of the parameters that come first
            assert dense.frozen(opt, params) == before


def test_complex_parameters_are_pairs_of_reals(takes_complex) -> None:
    pairs = takes_complex.params(shapes=[(3, 4, 2)])
    numbers = [torch.view_as_complex(pairs[0].detach().clone()).requires_grad_()]
    opt, real = takes_complex.make(numbers), takes_complex.make(pairs)
    for t in range(3):
        opt.step(lambda t=t: _complex_loss(opt, numbers[0], t))
        real.step(lambda t=t: _complex_loss(real, pairs[0], t))
    close([torch.view_as_real(numbers[0].detach())], pairs)


def test_refuses_complex_parameters(refuses_complex) -> None:
    numbers = [torch.zeros(3, 4, dtype=torch.complex128, requires_grad=True)]
    with pytest.raises(ValueError, match="complex"):
        refuses_complex.make(numbers)


def _complex_loss(opt: Any, p: Tensor, t: int) -> Tensor:
    opt.zero_grad()
    x = torch.view_as_real(p) if p.is_complex() else p
    loss = (x - t).square().sum()
    loss.backward()
    return loss


def test_a_group_added_later_has_all_options_and_is_trained(case) -> None:
    params = case.params()
    opt = case.make(params[:1])
    case.run(opt, params[:1], range(3))
    opt.add_param_group({"params": params[1:], "lr": 0.02})
    assert opt.param_groups[1].keys() == opt.param_groups[0].keys()
    before = values(params)
    case.run(opt, params, range(3, 6))
    assert all(p.isfinite().all() for p in params)
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_a_group_added_later_begins_afresh(by_group) -> None:
    """Sharpness-aware and normalized steps have one norm over all groups: no separate optimizer does the same."""
    params = by_group.params()
    opt = by_group.make(params[:1])
    by_group.run(opt, params[:1], range(3))
    opt.add_param_group({"params": params[1:], "lr": 0.02})
    by_group.run(opt, params, range(3, 6))
    apart = by_group.params()
    first, rest = by_group.make(apart[:1]), by_group.make(apart[1:], lr=0.02)
    by_group.run(first, apart[:1], range(3))
    for t in range(3, 6):
        by_group.closure(apart, t)()
        first.step()
        rest.step()
    close(params, apart)


def test_zero_grad(case) -> None:
    params, opt = case.built()
    case.closure(params, 0)()
    opt.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in params)
    opt.zero_grad()
    assert all(p.grad is None for p in params)


# --- values that must agree -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_foreach_equals_one_by_one(case, dtype: torch.dtype, tolerance: float) -> None:
    results = []
    for foreach in (True, False, None):
        params, opt = case.built(dtype, foreach=foreach)
        case.run(opt, params, range(12))
        results.append(params)
    close(results[0], results[1], tolerance)
    close(results[2], results[1], tolerance)


def test_maximize_is_descent_on_the_negated_loss(descending) -> None:
    (params, opt), (others, other) = descending.built(maximize=True), descending.built()
    descending.run(opt, params, range(8))
    descending.run(other, others, range(8), sign=-1.0)
    close(params, others)


def test_refuses_to_be_capturable_with_options_that_look_at_the_step(uncaptured_memory) -> None:
    with pytest.raises(ValueError, match="capturable"):
        uncaptured_memory.built(capturable=True)


def test_capturable_gives_the_same_values(captured_memory) -> None:
    (params, opt), (others, other) = captured_memory.built(capturable=True), captured_memory.built(capturable=False)
    (third, tensor) = captured_memory.built(capturable=True, lr=torch.tensor(0.01, dtype=torch.float64))
    for optimizer, ps in ((opt, params), (other, others), (tensor, third)):
        captured_memory.run(optimizer, ps, range(12))
    close(params, others, 1e-5)  # step, and with it 1 - beta^step, are float32 on the device, as in torch
    close(params, third, 1e-7)


def test_order_of_the_parameters_does_not_matter(case) -> None:
    (params, opt), others = case.built(), case.params()
    other = case.make([others[i] for i in (2, 0, 1)])
    case.run(opt, params, range(10))
    case.run(other, others, range(10))
    close(params, others, 1e-11)


def test_stacked_networks_are_trained_as_if_each_were_alone(case) -> None:
    options = {"networks": 3} if "networks" in case.arguments else {}
    params, opt = case.built(**options)
    case.run(opt, params, range(8))
    for network in range(3):
        alone = [p.detach()[network : network + 1].clone().requires_grad_() for p in case.params()]
        single = case.make(alone, **({"networks": None} if options else {}))
        for t in range(8):
            single.step(_slice_closure(case, single, alone, network, t))
        close([p[network : network + 1] for p in params], alone)


def _slice_closure(case, opt: Any, alone: list[Tensor], network: int, t: int) -> Any:
    """The loss of step t of one of the stacked networks: the others rest at the origin."""
    full = case.params()
    inner = case.closure(full, t)

    def closure() -> Tensor:
        opt.zero_grad()
        for whole, p in zip(full, alone, strict=True):
            whole.data.zero_()
            whole.data[network] = p.data[0]
        loss = inner()
        for whole, p in zip(full, alone, strict=True):
            p.grad = whole.grad[network : network + 1].clone()
        return loss

    return closure


def order(t: Tensor) -> list[int]:
    """The dimensions as they lie in memory."""
    return sorted(range(t.ndim), key=t.stride)


def test_channels_last_changes_nothing(case) -> None:
    shapes = [(3, 2, 4, 4), (3,)]
    params, others = case.params(shapes=shapes), case.params(shapes=shapes)
    last = [others[0].detach().to(memory_format=torch.channels_last).requires_grad_(), others[1]]
    opt, other = case.make(params), case.make(last)
    case.run(opt, params, range(8))
    case.run(other, last, range(8))
    close(params, last)
    assert last[0].is_contiguous(memory_format=torch.channels_last)
    buffers = [b for b in other.state[last[0]].values() if isinstance(b, Tensor) and b.shape == last[0].shape]
    assert buffers or case.stateless
    assert all(b.device == last[0].device and order(b) == order(last[0]) for b in buffers)


def test_mixed_precisions_in_one_group(case) -> None:
    mixed, wide = case.params(), case.params()
    mixed[1] = mixed[1].detach().float().requires_grad_()
    case.run(case.make(mixed), mixed, range(5))
    case.run(case.make(wide), wide, range(5))
    assert [p.dtype for p in mixed] == [torch.float64, torch.float32, torch.float64]
    close([p.double() for p in mixed], wide, 1e-4)


def test_takes_no_number_from_the_global_streams(case) -> None:
    params, opt = case.built()
    closures = [case.closure(params, t) for t in range(3)]
    state, (kind, numpy_state, *rest) = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    for closure in closures:
        opt.step(closure)
    assert torch.equal(state, torch.get_rng_state())
    now = np.random.get_state()  # noqa: NPY002
    assert (kind, *rest) == (now[0], *now[2:])
    assert (numpy_state == now[1]).all()


# --- bad gradients and late parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_spoils_what_it_spoils_in_adam_but_not_the_memory(memory, bad: float) -> None:
    (params, opt), reference = memory.built(), memory.params()
    control = torch.optim.Adam(reference, lr=0.01)
    for optimizer, ps in ((opt, params), (control, reference)):
        memory.run(optimizer, ps, range(3))
        memory.closure(ps, 3)()
        ps[0].grad[0, 1] = bad
        optimizer.step()
        memory.run(optimizer, ps, range(4, 10))
    assert all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(params, reference, strict=True))
    assert not params[0].isfinite().all()
    kept = [opt.state[p][name] for p in params for name in ("memory", "memory_sum", "priority") if name in opt.state[p]]
    assert all(buffer.isfinite().all() for buffer in kept)


def test_a_parameter_that_begins_late_has_a_memory_of_its_own(memory) -> None:
    """With a norm of its own per parameter, it moves as in an optimizer of its own."""
    (params, opt), apart = memory.built(norm="parameter"), memory.params()
    single = [memory.make([p], norm="parameter") for p in apart]
    memory.run(opt, params, range(4), idle=[1])
    memory.run(opt, params, range(4, 10))
    for t in range(10):
        memory.closure(apart, t, idle=[1] if t < 4 else [])()
        for optimizer in single:
            optimizer.step()
    close(params, apart)
    assert int(opt.state[params[0]]["step"]) == 10
    assert int(opt.state[params[1]]["step"]) == 6


def test_a_parameter_that_begins_late_counts_its_own_items(memory) -> None:
    params, opt = memory.built()
    memory.run(opt, params, range(4), idle=[1])
    assert not opt.state.get(params[1])
    memory.run(opt, params, range(4, 6))
    early, late = opt.state[params[0]], opt.state[params[1]]
    assert (int(early["step"]), int(late["step"])) == (6, 2)
    assert int(late["accepted"].max()) <= 2
