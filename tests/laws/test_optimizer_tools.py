"""Laws of company: schedulers, hooks, gradient scaling, compilation and CUDA graphs work with every optimizer."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

CYCLED = ("lr", "betas", "momentum")


def scheduler(name: str, opt: Any) -> Any:
    if name == "step":
        return StepLR(opt, step_size=2, gamma=0.5)
    if name == "plateau":
        return ReduceLROnPlateau(opt, patience=1, factor=0.5)
    cycles = {"betas", "momentum"} & opt.param_groups[0].keys()
    return OneCycleLR(opt, max_lr=0.02, total_steps=8, cycle_momentum=bool(cycles))


@pytest.mark.parametrize("name", ["step", "plateau", "onecycle"])
def test_schedulers_act_through_the_groups_without_warnings(case, name: str) -> None:
    params, opt = case.built()
    used = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = scheduler(name, opt)
        for t in range(7):
            used.append({key: opt.param_groups[0][key] for key in CYCLED if key in opt.param_groups[0]})
            opt.step(case.closure(params, t))
            schedule.step(1.0) if name == "plateau" else schedule.step()
    for key in used[0]:
        changed = used[0][key] != used[-1][key]
        assert changed == (key == "lr" or name == "onecycle")
    others, other = case.built()
    for group in other.param_groups:  # what a schedule leaves behind for those who ask how far it has come
        group.update({key: opt.param_groups[0][key] for key in ("initial_lr", "max_lr") if key in opt.param_groups[0]})
    for t, options in enumerate(used):
        other.param_groups[0].update(options)
        other.step(case.closure(others, t))
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


def test_hooks_run_once_each(case) -> None:
    params, opt = case.built()
    calls: list[str] = []
    opt.register_step_pre_hook(lambda *_: calls.append("before step"))
    opt.register_step_post_hook(lambda *_: calls.append("after step"))
    opt.register_state_dict_pre_hook(lambda *_: calls.append("before save"))
    opt.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    opt.register_load_state_dict_pre_hook(lambda _, state: calls.append(f"before load {state['note']}"))
    opt.register_load_state_dict_post_hook(lambda *_: calls.append("after load"))
    case.run(opt, params, range(2))
    assert calls == ["before step", "after step"] * 2
    calls.clear()
    state = opt.state_dict()
    assert state["note"] == 1
    opt.load_state_dict(state)
    assert calls == ["before save", "before load 1", "after load"]


def test_gradient_scaling_skips_overflow_and_changes_nothing_else(one_pass) -> None:
    """A scale of a power of two is undone without rounding."""
    (params, opt), (others, other) = one_pass.built(torch.float32), one_pass.built(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for t in range(8):
        one_pass.closure(params, t)()
        for p in params:
            p.grad.mul_(scaler.get_scale())
        scaler.scale(torch.zeros(()))  # makes the scaler's state, as scaling a loss does
        if t in (0, 4):
            params[1].grad[0, 0] = torch.inf
            before = one_pass.frozen(opt, params)
            scaler.step(opt)
            assert one_pass.frozen(opt, params) == before
        else:
            scaler.step(opt)
            one_pass.run(other, others, [t])
        scaler.update()
    assert scaler.get_scale() == 2.0**8
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


def test_compiles_once(compiled) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    rate = torch.tensor(0.01, dtype=torch.float64)
    (params, opt), (others, other) = compiled.built(lr=rate.clone()), compiled.built(lr=rate.clone())
    step = torch.compile(opt.step, backend=backend)
    for t in range(12):
        compiled.closure(params, t)()
        if t in (7, 9):
            opt.param_groups[0]["lr"].mul_(0.5)
            other.param_groups[0]["lr"].mul_(0.5)
        step()
        if t == 5:  # by now states exist, and counts have been seen to change
            warm = len(graphs)
        compiled.run(other, others, [t])
    assert len(graphs) == warm
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_works_in_a_cuda_graph(captured) -> None:
    def on_gpu() -> tuple[list[Tensor], Any]:
        params = [p.detach().cuda().requires_grad_() for p in captured.params()]
        return params, captured.make(params, capturable=True)

    (params, opt), (others, other) = on_gpu(), on_gpu()
    grads = [torch.zeros_like(p) for p in params]

    def load(t: int) -> None:
        captured.closure(params, t)()
        for p, held in zip(params, grads, strict=True):
            held.copy_(p.grad)
            p.grad = held

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for t in range(3):
            load(t)
            opt.step()
    torch.cuda.current_stream().wait_stream(stream)
    load(3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    for t in range(3, 12):
        load(t)
        graph.replay()
    captured.run(other, others, range(12))
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
