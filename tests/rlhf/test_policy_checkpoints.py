"""A checkpoint of a policy knows the reward and the reference by content."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flatlab.rlhf import RewardModel, TinyGPT, policy_gradient

PROMPTS = torch.tensor([[0, 1], [1, 2], [2, 0]])
Make = Callable[..., TinyGPT]


def scaled(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: factor * y.double().sum(1)


def run(file: Path, small: Make, reward: Callable[..., Tensor], ref: nn.Module) -> None:
    policy_gradient(small(), ref, reward, PROMPTS, lr=0.1, steps=1, batch=4, max_new_tokens=2, checkpoint=file)


def test_another_reward_is_refused(small: Make, tmp_path: Path) -> None:
    run(tmp_path / "run", small, scaled(1.0), small(1))
    run(tmp_path / "run", small, scaled(1.0), small(1))
    for other in (scaled(2.0), RewardModel(small())):
        with pytest.raises(ValueError, match=r"run was made with other settings \(reward\); delete it or name another"):
            run(tmp_path / "run", small, other, small(1))


def test_a_reward_model_of_other_weights_is_refused(small: Make, tmp_path: Path) -> None:
    run(tmp_path / "run", small, RewardModel(small(3)), small(1))
    run(tmp_path / "run", small, RewardModel(small(3)), small(1))
    for other in (RewardModel(small(4)), RewardModel(small(3), seed=1), RewardModel(small(3), pool="last")):
        with pytest.raises(ValueError, match=r"other settings \(reward\)"):
            run(tmp_path / "run", small, other, small(1))


def test_another_reference_is_refused(small: Make, tmp_path: Path) -> None:
    run(tmp_path / "run", small, scaled(1.0), small(1))
    with pytest.raises(ValueError, match=r"other settings \(ref\)"):
        run(tmp_path / "run", small, scaled(1.0), small(2))
