"""Laws of saving, loading and copying: an optimizer goes on as if nothing had happened, to the last bit."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

# Options whose absence old pickles and checkpoints may show, and that then take their defaults.
NEW_KEYS = ("amsgrad", "maximize", "foreach", "capturable", "resum_every", "buffer_dtype", "rho", "eta", "alpha")


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file that holds nothing but tensors and plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def copies(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in params]


@pytest.mark.parametrize(("steps", "dtype"), [(2, torch.float64), (12, torch.float32), (12, torch.bfloat16)])
def test_resumes_from_a_file_bit_equal(case, steps: int, dtype: torch.dtype) -> None:
    """With a partly filled memory, and a parameter that has not begun; then with a full memory."""
    params, opt = case.built(dtype)
    case.run(opt, params, range(steps), idle=[1] if steps == 2 else [])
    resumed = copies(params)
    other = case.make(resumed, lr=0.5)  # the saved learning rate wins
    other.load_state_dict(stored(opt.state_dict()))
    assert case.frozen(other, resumed) == case.frozen(opt, params)
    case.run(opt, params, range(steps, steps + 4))
    case.run(other, resumed, range(steps, steps + 4))
    assert case.frozen(other, resumed) == case.frozen(opt, params)


def test_resumes_several_groups_that_began_at_different_times(case) -> None:
    params = case.params()
    opt = case.make([{"params": params[:1], "lr": 0.02}])
    case.run(opt, params[:1], range(3))
    opt.add_param_group({"params": params[1:]})
    case.run(opt, params, range(3, 5))
    resumed = copies(params)
    other = case.make([{"params": resumed[:1]}, {"params": resumed[1:]}])
    other.load_state_dict(stored(opt.state_dict()))
    case.run(opt, params, range(5, 9))
    case.run(other, resumed, range(5, 9))
    assert case.frozen(other, resumed) == case.frozen(opt, params)


def test_a_loaded_state_is_used_twice(case) -> None:
    """Training on from a checkpoint must not change the checkpoint: a second resume gives the same."""
    params, opt = case.built()
    case.run(opt, params, range(6))
    start, file = copies(params), stored(opt.state_dict())
    ends = []
    for _ in range(2):
        resumed = copies(start)
        other = case.make(resumed)
        other.load_state_dict(copy.deepcopy(file) if case.base.__module__.startswith("torch") else file)
        case.run(other, resumed, range(6, 10))
        ends.append(case.frozen(other, resumed))
    assert ends[0] == ends[1]


def test_refuses_the_state_of_other_parameters(case) -> None:
    params, opt = case.built()
    case.run(opt, params, range(2))
    with pytest.raises(ValueError, match="group"):
        case.make(case.params()[:2]).load_state_dict(opt.state_dict())


@pytest.mark.parametrize(("steps", "how"), [(0, "pickle"), (2, "deepcopy"), (12, "pickle")])
def test_copies_continue_bit_equal_and_independently(case, steps: int, how: str) -> None:
    params, opt = case.built()
    case.run(opt, params, range(steps))
    before = case.frozen(opt, params)
    pair = (params, opt)
    twins, twin = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(twin) is type(opt)
    assert case.frozen(twin, twins) == before
    case.run(twin, twins, range(steps, steps + 4))
    assert case.frozen(opt, params) == before
    case.run(opt, params, range(steps, steps + 4))
    assert case.frozen(twin, twins) == case.frozen(opt, params)


COPIED: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
}


def options(opt: Any) -> list[dict[str, Any]]:
    return [opt.defaults, *opt.state_dict()["param_groups"]]


@pytest.mark.parametrize("how", COPIED)
def test_copies_have_the_same_options_and_leave_the_original_its_own(case, how: str) -> None:
    params = case.params()
    opt = case.make(params[:2])
    before = copy.deepcopy(options(opt))
    twin = COPIED[how](opt)
    assert options(twin) == before == options(opt)
    twin.add_param_group({"params": case.params()[2:]})
    assert twin.param_groups[1].keys() == twin.param_groups[0].keys()


def test_a_loaded_group_has_the_options_that_were_saved_and_no_other(case) -> None:
    (_, opt), (_, other) = case.built(), case.built()
    before = copy.deepcopy(options(opt))
    other.load_state_dict(stored(opt.state_dict()))
    assert options(other) == before
    opt.load_state_dict(opt.state_dict())
    assert options(opt) == before


def test_an_option_that_torch_once_spread_into_groups_goes_when_they_are_loaded(unfused) -> None:
    _, opt = unfused.built()
    before = copy.deepcopy(options(opt))
    state = opt.state_dict()
    state["param_groups"][0]["differentiable"] = False
    opt.load_state_dict(state)
    assert options(opt) == before


def droppable(case, held: dict[str, Any]) -> list[str]:
    """The options of a group that an old file may lack."""
    keys = [key for key in NEW_KEYS if key in held and key not in case.options]
    return [key for key in keys if case.control or case.two_pass or key != "alpha"]


def test_options_that_old_pickles_lack_take_their_defaults(case) -> None:
    params, opt = case.built()
    case.run(opt, params, range(3))
    held = opt.param_groups[0]
    removed = {key: held.pop(key) for key in droppable(case, held)}
    twins, twin = pickle.loads(pickle.dumps((params, opt)))
    held.update(removed)
    assert removed
    assert {key: twin.param_groups[0][key] for key in removed} == removed
    go_on_alike(case, (params, opt), (twins, twin))


def test_options_that_old_checkpoints_lack_take_their_defaults(fills_loaded) -> None:
    case = fills_loaded
    params, opt = case.built()
    case.run(opt, params, range(3))
    held, state = opt.param_groups[0], stored(opt.state_dict())
    dropped = [key for key in droppable(case, held) if not case.torch_base or key in ("rho", "eta")]
    for key in dropped:
        del state["param_groups"][0][key]
    twins = copies(params)
    twin = case.make(twins)
    twin.load_state_dict(state)
    assert dropped
    assert {key: twin.param_groups[0][key] for key in dropped} == {key: held[key] for key in dropped}
    go_on_alike(case, (params, opt), (twins, twin))


def go_on_alike(case, pair: tuple[list[Tensor], Any], twins: tuple[list[Tensor], Any]) -> None:
    for params, opt in (twins, pair):
        case.run(opt, params, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(twins[0], pair[0], strict=True))
