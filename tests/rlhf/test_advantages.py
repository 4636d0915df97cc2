"""Advantages: numbers worked out by hand, what cancels in them, and what they refuse."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flatlab.rlhf import grpo_advantages, rloo_advantages

ONE_OF_FOUR = torch.tensor([1.0, 0, 0, 0])
THREE_OF_EIGHT = torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0], dtype=torch.float64)


def close(found: Tensor, wanted: list[float], atol: float = 1e-6) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=atol)


def rewards(seed: int, prompts: int = 4, k: int = 5) -> Tensor:
    return torch.randn(prompts, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_rloo_by_hand() -> None:
    close(rloo_advantages(ONE_OF_FOUR), [1, -1 / 3, -1 / 3, -1 / 3])
    close(rloo_advantages(torch.tensor([1.0, 3.0])), [-2, 2])
    close(rloo_advantages(THREE_OF_EIGHT).unique(), [-3 / 7, 5 / 7])
    close(rloo_advantages(THREE_OF_EIGHT)[:2], [0.7143, -0.4286], 5e-5)


def test_grpo_by_hand() -> None:
    close(grpo_advantages(ONE_OF_FOUR), [1.5, -0.5, -0.5, -0.5], 1e-5)  # the deviation is 1/2: n - 1 below
    close(grpo_advantages(torch.tensor([1.0, 3.0])), [-0.70710678, 0.70710678])
    close(grpo_advantages(torch.tensor([1.0, 300.0])), [-0.70710678, 0.70710678])  # only the order counts
    close(grpo_advantages(THREE_OF_EIGHT)[:2], [1.2076, -0.7246], 5e-5)
    close(grpo_advantages(THREE_OF_EIGHT, "none")[:2], [0.625, -0.375], 1e-15)
    close(grpo_advantages(ONE_OF_FOUR, eps=0.5), [0.75, -0.25, -0.25, -0.25])


def test_rloo_is_the_reward_less_the_mean_of_the_others() -> None:
    r = rewards(0)
    found = rloo_advantages(r)
    for prompt in range(4):
        for i in range(5):
            others = [float(r[prompt, j]) for j in range(5) if j != i]
            assert float(found[prompt, i]) == pytest.approx(float(r[prompt, i]) - sum(others) / 4, abs=1e-14)


def test_the_penalty_is_taken_off_the_reward() -> None:
    r, kl = rewards(0), 3 * rewards(1)
    torch.testing.assert_close(rloo_advantages(r, kl), rloo_advantages(r - kl))
    assert not torch.allclose(rloo_advantages(r, kl), rloo_advantages(r))
    torch.testing.assert_close(rloo_advantages(r, 0.7), rloo_advantages(r), rtol=0, atol=1e-14)
    close(rloo_advantages(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])), [0, 0], 0)


def test_the_deviation_of_the_batch_by_hand() -> None:
    r = torch.tensor([[1.0, 3.0], [10.0, 14.0]])  # around 7: -6, -4, 3, 7
    deviation = math.sqrt((36 + 16 + 9 + 49) / 3)
    wanted = [-1 / deviation, 1 / deviation, -2 / deviation, 2 / deviation]
    close(grpo_advantages(r, "batch").flatten(), wanted)
    assert float(grpo_advantages(r, "batch", eps=1.0)[0, 1]) == pytest.approx(1 / (deviation + 1))
    close(grpo_advantages(r, "none").flatten(), [-1, 1, -2, 2], 0)


# --- equal rewards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e6, 1e-30])
@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_equal_rewards_are_worth_exactly_nothing(value: float, k: int, dtype: torch.dtype, eps: float) -> None:
    r = torch.full((2, k), value, dtype=dtype)
    r[1] *= 3  # the batch has a deviation
    for found in (rloo_advantages(r), *(grpo_advantages(r, scale, eps) for scale in ("group", "batch", "none"))):
        assert found.dtype == dtype
        assert torch.equal(found, torch.zeros_like(r))
        assert torch.equal(found[0], torch.zeros(k, dtype=dtype))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_flat_prompt_leaves_the_others_alone(scale: str) -> None:
    r = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.2, 0.6]], dtype=torch.float64)
    found = grpo_advantages(r, scale, 0.0)
    assert torch.equal(found[0], torch.zeros(3, dtype=torch.float64))
    by = {"group": r[1].std(), "batch": r.std(), "none": 1}[scale]
    torch.testing.assert_close(found[1], (r[1] - 0.3) / by)
    torch.testing.assert_close(rloo_advantages(r)[1], 1.5 * (r[1] - 0.3))


# --- what cancels -----------------------------------------------------------------------------------------------------

SEEDS, SCALES = st.integers(0, 10_000), st.sampled_from(["group", "batch", "none"])


@given(SEEDS, st.integers(2, 9), SCALES)
@settings(deadline=None, max_examples=40)
def test_the_advantages_of_a_prompt_sum_to_nothing(seed: int, k: int, scale: str) -> None:
    r = rewards(seed, k=k)
    for found in (rloo_advantages(r), grpo_advantages(r, scale)):
        assert found.shape == r.shape
        assert float(found.sum(-1).abs().max()) < 1e-12
        assert torch.equal(found.argsort(-1), r.argsort(-1))


@given(SEEDS, st.floats(-1e3, 1e3))
@settings(deadline=None, max_examples=40)
def test_an_offset_of_a_prompt_cancels(seed: int, offset: float) -> None:
    r, g = rewards(seed), torch.Generator().manual_seed(seed + 1)
    moved = r + offset * torch.randn(4, 1, generator=g, dtype=torch.float64)
    torch.testing.assert_close(rloo_advantages(moved), rloo_advantages(r), rtol=0, atol=1e-10)
    for scale in ("group", "none"):
        torch.testing.assert_close(grpo_advantages(moved, scale), grpo_advantages(r, scale), rtol=0, atol=1e-9)


@given(SEEDS, st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_what_becomes_of_another_scale(seed: int, factor: float) -> None:
    r = rewards(seed)
    for scale in ("group", "batch"):
        torch.testing.assert_close(grpo_advantages(factor * r, scale, 0.0), grpo_advantages(r, scale, 0.0))
    torch.testing.assert_close(grpo_advantages(factor * r, "none"), factor * grpo_advantages(r, "none"))
    torch.testing.assert_close(rloo_advantages(factor * r), factor * rloo_advantages(r))


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_each_prompt_is_for_itself(seed: int) -> None:
    r = rewards(seed)
    for advantages in (rloo_advantages, grpo_advantages, lambda x: grpo_advantages(x, "none")):
        torch.testing.assert_close(advantages(r), torch.stack([advantages(row) for row in r]))
        torch.testing.assert_close(advantages(r.view(2, 2, 5)), advantages(r).view(2, 2, 5))
    other = torch.cat([r[:3], 9 * r[3:]])
    assert not torch.allclose(grpo_advantages(other, "batch")[:3], grpo_advantages(r, "batch")[:3])


# --- bad input --------------------------------------------------------------------------------------------------------

NAN, INF = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.tensor([0.0, -torch.inf])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rloo_advantages(torch.zeros(4, 1)), r"k >= 2 responses a prompt, got \(4, 1\)"),
        (lambda: rloo_advantages(torch.tensor(1.0)), r"k >= 2 responses a prompt, got \(\)"),
        (lambda: grpo_advantages(torch.zeros(4, 1)), "k >= 2"),
        (lambda: rloo_advantages(NAN), "NaN or infinity"),
        (lambda: rloo_advantages(INF), "NaN or infinity"),
        (lambda: grpo_advantages(NAN), "NaN or infinity"),
        (lambda: grpo_advantages(INF, "batch"), "NaN or infinity"),
        (lambda: grpo_advantages(ONE_OF_FOUR, "prompt"), "scale.*group, batch, none"),
        (lambda: grpo_advantages(ONE_OF_FOUR, eps=-1e-6), "eps must be a finite number >= 0"),
        (lambda: grpo_advantages(ONE_OF_FOUR, eps=float("nan")), "eps"),
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
