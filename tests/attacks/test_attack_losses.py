"""Closed forms of the objectives, and their slopes against autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab.attacks import cross_entropy, dlr, losses, margin

LOGITS = torch.tensor([[4.0, 1.0, 3.0, -2.0], [0.0, 5.0, 1.0, 2.0]], dtype=torch.float64)
Y = torch.tensor([0, 0])
TARGETS = torch.tensor([1, 2])


def test_margin_by_hand():
    assert margin(LOGITS, Y).tolist() == [-1.0, 5.0]
    assert margin(LOGITS, Y, TARGETS).tolist() == [-3.0, -4.0]


def test_dlr_by_hand():
    # Rows sort to 4 3 1 -2 and 5 2 1 0. In the second a third class leads: the target is 4 below it.
    assert dlr(LOGITS, Y).tolist() == pytest.approx([-1 / 3, 5 / 4])
    assert dlr(LOGITS, Y, TARGETS).tolist() == pytest.approx([-3 / 4.5, -4 / 4.5])
    assert (dlr(LOGITS, Y, torch.tensor([1, 1])) > 0).tolist() == [False, True]


def test_cross_entropy_by_hand():
    expected = LOGITS.logsumexp(1) - LOGITS[:, 0]
    assert torch.allclose(cross_entropy(LOGITS, Y), expected)
    targeted = LOGITS.gather(1, TARGETS[:, None])[:, 0] - LOGITS.logsumexp(1)
    assert torch.allclose(cross_entropy(LOGITS, Y, TARGETS), targeted)


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(["ce", "margin", "dlr"]),
    targeted=st.booleans(),
    n=st.integers(1, 6),
    classes=st.integers(4, 12),
    seed=st.integers(0, 10**6),
)
def test_slope_is_the_derivative(name, targeted, n, classes, seed):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=random, dtype=torch.float64).mul_(3).requires_grad_()
    y = torch.randint(classes, (n,), generator=random)
    targets = (y + torch.randint(1, classes, (n,), generator=random)) % classes if targeted else None
    objective = losses.LOSSES[name]
    (expected,) = torch.autograd.grad(objective.value(logits, y, targets).sum(), logits)
    assert torch.allclose(objective.slope(logits.detach(), y, targets), expected, atol=1e-12)


def test_slope_of_a_function_is_the_derivative():
    objective = losses.objective(lambda logits, y: logits.pow(2).sum(1))
    assert torch.equal(objective.slope(LOGITS, Y, None), 2 * LOGITS)


@settings(deadline=None, max_examples=20)
@given(scale=st.sampled_from([2.0**-8, 0.25, 2.0, 1024.0]), seed=st.integers(0, 10**6))
def test_dlr_ignores_scale(scale, seed):
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(5)
    assert torch.equal(dlr(scale * logits, y), dlr(logits, y))
    precise = logits.double()
    assert torch.allclose(dlr(precise + 7, y), dlr(precise, y), rtol=1e-9)


def test_dlr_of_equal_logits_is_finite():
    flat = torch.zeros(3, 5)
    y = torch.arange(3)
    assert dlr(flat, y).tolist() == [0, 0, 0]
    assert losses.LOSSES["dlr"].slope(flat, y, None).isfinite().all()


def test_too_few_classes():
    two, three, one = torch.randn(4, 2), torch.randn(4, 3), torch.randn(4, 1)
    y = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"DLR loss needs C >= 3 classes, the model has C = 2.*margin"):
        dlr(two, y)
    with pytest.raises(ValueError, match=r"C >= 4 classes, the model has C = 3"):
        dlr(three, y, y + 1)
    with pytest.raises(ValueError, match=r"C >= 2 classes, the model has C = 1"):
        margin(one, y)


def test_unknown_loss_lists_the_names():
    with pytest.raises(ValueError, match=r"unknown loss 'dlrr': choose one of ce, dlr, margin; did you mean 'dlr'"):
        losses.objective("dlrr")
    with pytest.raises(TypeError, match="function of logits"):
        losses.objective(3)


def test_function_losses():
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one value per sample"):
        losses.objective(lambda logits, y: logits.mean()).value(torch.randn(2, 3), y, None)
    with pytest.raises(ValueError, match="hold its targets"):
        losses.objective(lambda logits, y: logits[:, 0], targeted=True)
