"""Teacher scores against the exact gradients of policies whose texts can be listed."""

import copy
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flatlab.rlhf import TinyGPT, response_logps
from flatlab.rlhf.policy_gradient import Reward
from flatlab.rlhf.teacher import teacher_score

Make = Callable[..., TinyGPT]
PROMPTS = torch.tensor([[0, 1], [2, 0]])
EVERY = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # (9, 2), all responses


def table(seed: int, scale: float = 1.0) -> Reward:
    """A reward without any structure, which depends on the prompt."""
    worth = scale * torch.randn(3, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda x, y: worth[x[:, 0], 3 * y[:, 0] + y[:, 1]]


def offset(x: Tensor, y: Tensor) -> Tensor:
    """Of each prompt, and nothing else."""
    return 5.0 * x[:, 0] + 0.1


RM, OTHER, GOLD = table(1), table(2), table(3)


def score(
    policy: nn.Module, rewards: dict[str, Reward], gold: Reward | None = GOLD, **options: Any
) -> dict[str, float]:
    usual: dict[str, Any] = {"batch": 16, "batches": 2, "max_new_tokens": 2}
    return teacher_score(policy, rewards, gold, PROMPTS, **(usual | options))


def exact_gradient(policy: nn.Module, reward: Reward) -> Tensor:
    """Of the expected reward, averaged over the prompts."""
    value = torch.zeros((), dtype=torch.float64)
    for prompt in PROMPTS:
        x = prompt.expand(9, 2)
        value = value + (response_logps(policy, x, EVERY).sum(1).exp() * reward(x, EVERY)).sum() / 2
    free = [weight for weight in policy.parameters() if weight.requires_grad]
    return nn.utils.parameters_to_vector(torch.autograd.grad(value, free))


def agrees(found: list[float], wanted: float) -> bool:
    """Within four standard errors, and closely enough that this says something."""
    error = statistics.stdev(found) / math.sqrt(len(found))
    assert error < 0.2 * abs(wanted)
    return abs(statistics.fmean(found) - wanted) < 4 * error


# --- against exact gradients ------------------------------------------------------------------------------------------


def test_the_mean_score_is_the_rate_at_which_the_truth_rises(small: Make) -> None:
    policy = small()
    rewards = {"rm": RM, "gold": GOLD}
    runs = [score(policy, rewards, seed=seed) for seed in range(250)]
    truth = exact_gradient(policy, GOLD)
    for name, reward in rewards.items():
        assert agrees([run[name] for run in runs], float(exact_gradient(policy, reward) @ truth)), name


def test_without_a_truth_a_model_is_its_own(small: Make) -> None:
    policy = small()
    runs = [score(policy, {"rm": RM, "other": OTHER, "offset": offset}, None, seed=seed, k=4) for seed in range(250)]
    for name, reward in (("rm", RM), ("other", OTHER)):
        assert agrees([run[name] for run in runs], float(exact_gradient(policy, reward).square().sum())), name
    assert all(run["offset"] == 0 for run in runs)


def test_where_nothing_is_taught_the_square_is_unbiased_too(small: Make) -> None:
    """A reward that the policy cannot raise: its samples have gradients, their mean is 0."""
    policy = small()
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.zero_()
    for name, weight in policy.named_parameters():
        weight.requires_grad_(name == "head.bias")

    def balanced(x: Tensor, y: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]])[y[:, 0], y[:, 1]]

    assert float(exact_gradient(policy, balanced).norm()) < 1e-12
    found = [score(policy, {"rm": balanced}, None, seed=seed, batches=3)["rm"] for seed in range(200)]
    error = statistics.stdev(found) / math.sqrt(200)
    assert error > 0
    assert abs(statistics.fmean(found)) < 4 * error
    assert min(found) < -4 * error  # it may fall below 0, as an unbiased estimate of 0 must


def test_more_batches_are_as_right_and_less_noisy(small: Make) -> None:
    policy = small()
    few, many = (
        [score(policy, {"rm": RM}, None, seed=seed, batches=batches)["rm"] for seed in range(60)] for batches in (2, 8)
    )
    assert agrees(many, float(exact_gradient(policy, RM).square().sum()))
    assert statistics.stdev(many) < 0.7 * statistics.stdev(few)


def test_prompts_and_temperature_are_those_of_the_samples(small: Make) -> None:
    """At another temperature the policy is another one: its weights before the softmax, divided by it."""
    policy, hot = small(), small()
    with torch.no_grad():
        for weight in hot.head.parameters():
            weight.div_(2)
    one, other = score(policy, {"rm": RM}, temperature=2.0)["rm"], score(hot, {"rm": RM})["rm"]
    assert one != score(policy, {"rm": RM})["rm"]
    head = {"head.weight", "head.bias"}
    for model in (policy, hot):
        for name, weight in model.named_parameters():
            weight.requires_grad_(name not in head)
    one, other = score(policy, {"rm": RM}, temperature=2.0)["rm"], score(hot, {"rm": RM})["rm"]
    assert one == pytest.approx(other, rel=1e-9)


# --- scales -----------------------------------------------------------------------------------------------------------


def test_scores_of_rloo_are_linear_in_the_reward(small: Make) -> None:
    policy = small()

    def both(x: Tensor, y: Tensor) -> Tensor:
        return 3 * RM(x, y) - 2 * OTHER(x, y) + offset(x, y)

    found = score(policy, {"rm": RM, "other": OTHER, "both": both, "offset": offset})
    assert found["both"] == pytest.approx(3 * found["rm"] - 2 * found["other"], rel=1e-9)
    assert found["offset"] == 0
    twice = score(policy, {"rm": RM}, lambda x, y: 2 * GOLD(x, y))
    assert twice["rm"] == pytest.approx(2 * found["rm"])
    alone = score(policy, {"rm": RM, "three": table(1, 3.0)}, None)
    assert alone["three"] == pytest.approx(9 * alone["rm"])


def test_scores_of_grpo_do_not_see_the_scale(small: Make) -> None:
    policy = small()
    rewards = {"rm": RM, "large": table(1, 100.0), "small": table(1, 0.01)}
    for scale in ("group", "batch"):
        found = score(policy, rewards, algo="grpo", k=4, scale=scale)
        assert found["large"] == pytest.approx(found["rm"], rel=1e-4)
        assert found["small"] == pytest.approx(found["rm"], rel=1e-2)
        assert found["rm"] != pytest.approx(score(policy, rewards, k=4)["rm"], rel=1e-2)
    plain, rloo = score(policy, rewards, algo="grpo", k=4, scale="none"), score(policy, rewards, k=4)
    for name in rewards:  # RLOO's advantages are k / (k - 1) times as large
        assert 4 / 3 * plain[name] == pytest.approx(rloo[name])
    for algo in ("rloo", "grpo"):
        itself = score(policy, {"rm": RM}, RM, algo=algo, k=4)
        assert score(policy, {"rm": RM}, None, algo=algo, k=4) == pytest.approx(itself)
    gold_twice = score(policy, rewards, lambda x, y: 2 * GOLD(x, y), algo="grpo", k=4)
    assert gold_twice["rm"] == pytest.approx(2 * score(policy, rewards, algo="grpo", k=4)["rm"])


# --- what surrounds it ------------------------------------------------------------------------------------------------


def test_all_rewards_are_measured_on_the_same_samples(small: Make) -> None:
    policy = small()
    together = score(policy, {"rm": RM, "other": OTHER})
    assert list(together) == ["rm", "other"]
    assert together["other"] == score(policy, {"other": OTHER})["other"]
    torch.manual_seed(5)
    assert score(policy, {"rm": RM, "other": OTHER}) == together
    assert score(policy, {"rm": RM, "other": OTHER}, seed=1) != together
    assert score(policy, {}) == {}


def test_the_policy_stays_as_it_is(small: Make) -> None:
    policy, modes = small(), []
    policy.train()
    policy.blocks[0].eval()
    before, flags = copy.deepcopy(policy.state_dict()), [module.training for module in policy.modules()]

    def looking(x: Tensor, y: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        modes.extend(module.training for module in policy.modules())
        return RM(x, y)

    score(policy, {"rm": looking})
    assert not any(modes)
    assert [module.training for module in policy.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(weight.grad is None for weight in policy.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "k must be an integer >= 2, got 1"),
        ({"k": 3}, "batch must be a multiple of k, got batch=16 responses and k=3"),
        ({"batch": 1}, "batch must be an integer >= 2"),
        ({"batches": 1}, "batches must be an integer >= 2, got 1"),
        ({"algo": "ppo"}, "algo.*rloo, grpo"),
        ({"algo": "grpo", "scale": "prompt"}, "scale.*group, batch, none"),
        ({"temperature": 0.0}, "temperature"),
        ({"max_new_tokens": 5}, "do not fit into context=6"),
        ({"eos": 1, "pad": 1}, "eos=1 needs a pad"),
        ({"rewards": {"mine": lambda x, y: RM(x, y) * math.nan}}, "mine returned nan for text 0"),
        ({"rewards": {"mine": lambda x, y: RM(x, y)[1:]}}, r"mine must return one number.*\(15,\)"),
        ({"gold": lambda x, y: RM(x, y) + math.inf}, "gold returned inf for text 0"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else str(value),  # no addresses of functions
)
def test_bad_input(small: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(small(), **({"rewards": {"rm": RM}} | options))
