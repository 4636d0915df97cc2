"""Normalized gradient descent: known steps, one norm for all, and what bad gradients spoil."""

import math

import pytest
import torch
from torch import Tensor

from flatlab import models, train
from flatlab.data import Points
from flatlab.optim import SAM, NormalizedSGD
from flatlab.train.stacking import keeps_apart


def weight(*values: float, grad: tuple[float, ...] = ()) -> Tensor:
    p = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor(grad, dtype=torch.float64) if grad else None
    return p


def moved(p: Tensor, *expected: float) -> None:
    torch.testing.assert_close(p.detach(), torch.tensor(expected, dtype=p.dtype))


def test_a_step_is_lr_long_whatever_the_gradient() -> None:
    p = weight(0.0, 0.0, grad=(3.0, 4.0))
    NormalizedSGD([p], lr=1.0).step()
    moved(p, -0.6, -0.8)
    p = weight(1.0, 1.0, grad=(3e-7, 4e-7))
    NormalizedSGD([p], lr=0.5, maximize=True).step()
    moved(p, 1.3, 1.4)


@pytest.mark.parametrize("foreach", [None, False])
def test_groups_share_one_norm_and_have_their_own_lr(foreach: bool | None) -> None:
    p, q = weight(0.0, grad=(3.0,)), weight(0.0, grad=(4.0,))
    NormalizedSGD([{"params": [p]}, {"params": [q], "lr": 0.1}], lr=1.0, foreach=foreach).step()
    moved(p, -0.6)
    moved(q, -0.08)


def test_stacked_networks_have_a_norm_each() -> None:
    p = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    q = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    p.grad, q.grad = torch.tensor([[3.0], [-5.0]]).double(), torch.tensor([[[4.0]], [[12.0]]]).double()
    NormalizedSGD([{"params": [p]}, {"params": [q]}], lr=1.0, networks=2).step()
    moved(p.flatten(), -0.6, 5 / 13)
    moved(q.flatten(), -0.8, -12 / 13)


def test_a_gradient_of_zero_moves_nothing() -> None:
    p, q = weight(1.0, 2.0, grad=(0.0, 0.0)), weight(1.0, 2.0, grad=(0.0, -5.0))
    NormalizedSGD([p], lr=1.0).step()
    moved(p, 1.0, 2.0)
    NormalizedSGD([q], lr=1.0, networks=2).step()
    moved(q, 1.0, 3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_makes_all_of_its_network_nan_and_no_other(bad: float) -> None:
    p, q = weight(0.0, 0.0, 0.0, grad=(bad, 3.0, 0.0)), weight(0.0, 0.0, 0.0, grad=(1.0, 4.0, 2.0))
    NormalizedSGD([p, q], lr=1.0, networks=3).step()
    moved(p[1:], -0.6, 0.0)
    moved(q[1:], -0.8, -1.0)
    assert p[0].isnan()
    assert q[0].isnan(), "the other parameter of the same network"
    p = weight(0.0, 0.0, 0.0, grad=(bad, 3.0, 0.0))
    NormalizedSGD([p], lr=1.0).step()
    assert p.isnan().all()


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("networks", [None, 1])
def test_squares_that_float32_cannot_hold_do_no_harm(size: float, networks: int | None) -> None:
    p = torch.zeros(1, 2, requires_grad=True)
    p.grad = torch.tensor([[size, -size]])
    NormalizedSGD([p], lr=2.0, networks=networks).step()
    torch.testing.assert_close(p.detach(), torch.tensor([[-1.0, 1.0]]) * 2**0.5)


def test_the_path_on_an_exponential_loss_is_that_on_its_logarithm() -> None:
    """Where plain gradient descent stands still, then leaps."""
    paths = []
    for power in (lambda value: value, lambda value: value.exp()):
        p = weight(6.0, -3.0)
        opt = NormalizedSGD([p], lr=0.05)
        for _ in range(150):
            opt.zero_grad()
            power(p.square() @ torch.tensor([1.0, 3.0], dtype=torch.float64)).backward()
            opt.step()
        paths.append(p.detach())
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-9)
    assert paths[0].norm() < 0.1, "about a step from the minimum"


def test_two_networks_in_a_stack_are_trained_as_alone() -> None:
    data = Points(torch.rand(32, 4, generator=torch.Generator().manual_seed(0)))

    def goal(model: torch.nn.Module, x: Tensor, y: None, fraction: float) -> Tensor:
        return (model(x)[:, 0] - x.sum(1)).square().mean()

    recipe = train.Recipe(epochs=2, batch_size=8, lr=0.05, optimizer=NormalizedSGD)
    nets = [models.build("mlp", (4,), 1, seed=seed, options={"widths": (4,)}) for seed in (0, 1)]
    stacked = models.stack_models(nets)
    train.fit(stacked, data, goal, recipe, seeds=[0, 1])
    for seed, (net, again) in enumerate(zip(nets, models.unstack(stacked, nets[0]), strict=True)):
        train.fit(net, data, goal, recipe, seeds=seed)
        torch.testing.assert_close(again(data.x), net(data.x), rtol=1e-3, atol=1e-3)
    assert keeps_apart(NormalizedSGD, {})


def test_it_is_a_base_of_sharpness_aware_steps() -> None:
    p = weight(3.0, 4.0)
    opt = SAM([p], NormalizedSGD, rho=0.1, lr=1.0)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = p.square().sum() / 2
        loss.backward()
        return loss

    opt.step(closure)
    moved(p, 2.4, 3.2)


def test_misfits_are_refused() -> None:
    p, q = weight(1.0, 2.0), weight(1.0, 2.0)
    with pytest.raises(TypeError, match="lr"):
        NormalizedSGD([p])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="networks=3, but parameter 0 of the group has shape"):
        NormalizedSGD([p], lr=0.1, networks=3)
    opt = NormalizedSGD([p], lr=0.1, networks=2)
    with pytest.raises(ValueError, match="networks=None in one group, but 2 in all others"):
        opt.add_param_group({"params": [q], "networks": None})
    assert len(opt.param_groups) == 1
