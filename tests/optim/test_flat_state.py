"""State in flat arrays: what is remembered from step to step follows weights and states that are replaced."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flatlab.optim import SGDCM, AdamCM

PATHS: list[dict[str, bool | None]] = [{"foreach": None}, {"foreach": True}, {"foreach": False}]
SHAPES = ((4, 4), (2, 3, 5, 4), (3,), ())


def start() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def feed(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], t: int) -> None:
    generator = torch.Generator().manual_seed(t)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    optimizer.step()


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "elsewhere": torch.clone,
    "channels last": lambda p: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p,
    "transposed in place": lambda p: p.t() if p.shape == (4, 4) else p,
}


@pytest.mark.parametrize("cls", [AdamCM, SGDCM])
@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("move", MOVES)
def test_weights_that_are_given_other_memory_are_followed(cls: type, path: dict, move: str) -> None:
    params, others = start(), start()
    opt, other = cls(params, lr=0.1, **path), cls(others, lr=0.1, foreach=False)
    for t in range(8):
        if t == 4:
            for p, q in zip(params, others, strict=True):
                p.data = MOVES[move](p.data)
                q.data = MOVES[move](q.data).contiguous()
        feed(opt, params, t)
        feed(other, others, t)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_state_that_is_replaced_by_hand_is_followed(path: dict) -> None:
    params, others = start(), start()
    opt, other = AdamCM(params, **path), AdamCM(others, **path)
    for t in range(8):
        if t == 4:
            for p in params:
                opt.state[p]["exp_avg"] = opt.state[p]["exp_avg"].clone()
        feed(opt, params, t)
        feed(other, others, t)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    for p, q in zip(params, others, strict=True):
        assert torch.equal(opt.state[p]["exp_avg"], other.state[q]["exp_avg"])


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_shallow_copy_leaves_the_original_its_slots(path: dict) -> None:
    params, others = start(), start()
    opt, other = AdamCM(params, **path), AdamCM(others, **path)
    for t in range(8):
        if t == 4:
            copy.copy(opt)
        feed(opt, params, t)
        feed(other, others, t)
    for p, q in zip(params, others, strict=True):
        for name in ("step", "priority", "born", "accepted"):
            assert torch.equal(opt.state[p][name], other.state[q][name])
