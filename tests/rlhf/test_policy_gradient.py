"""Policy gradients against exact ones of policies whose texts can be listed, and what surrounds the steps."""

import copy
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flatlab.rlhf import (
    PolicyHistory,
    RewardModel,
    TinyGPT,
    grpo_advantages,
    kl_penalty,
    policy_gradient,
    response_logps,
    rloo_advantages,
)
from flatlab.train import TrainingDiverged

Make = Callable[..., TinyGPT]
PROMPTS = torch.tensor([[0, 1]])
SIX = torch.cartesian_prod(torch.arange(3), torch.arange(2))
EVERY = torch.cartesian_prod(*[torch.arange(3)] * 3)  # (27, 3), all responses
WORTH = torch.randn(27, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def table(x: Tensor, y: Tensor) -> Tensor:
    """A reward without any structure."""
    return WORTH[(y * torch.tensor([9, 3, 1])[: y.shape[1]]).sum(1)] + 0.3 * x[:, 0]


def easy(x: Tensor, y: Tensor) -> Tensor:
    """The share of one token."""
    return (y == 2).double().mean(1)


def flat(x: Tensor, y: Tensor) -> Tensor:
    return torch.full((len(y),), 0.1)


class Recorder:
    """A reward that remembers what it was asked."""

    def __init__(self, reward: Callable[[Tensor, Tensor], Tensor] = table) -> None:
        self.reward = reward
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.x.append(x.clone())
        self.y.append(y.clone())
        return self.reward(x, y)


def run(policy: nn.Module, ref: nn.Module, reward: Any = table, prompts: Tensor = PROMPTS, **options: Any) -> Any:
    """A short training; `options` replace its settings."""
    usual: dict[str, Any] = {"lr": 0.1, "steps": 1, "batch": 8, "max_new_tokens": 3}
    return policy_gradient(policy, ref, reward, prompts, **(usual | options))


def weights(policy: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(policy.parameters()).detach()


def slope(value: Tensor, policy: nn.Module) -> Tensor:
    """The derivative by all weights, in one vector."""
    return nn.utils.parameters_to_vector(torch.autograd.grad(value, list(policy.parameters()), retain_graph=True))


def logps(policy: nn.Module, y: Tensor = EVERY) -> Tensor:
    """Of each token of responses to the one prompt."""
    return response_logps(policy, PROMPTS.expand(len(y), 2), y)


def kl_between(policy: nn.Module, ref: nn.Module, y: Tensor = EVERY) -> Tensor:
    """KL(policy || ref), over a list of all responses."""
    mine, other = logps(policy, y).sum(1), logps(ref, y).sum(1)
    return (mine.exp() * (mine - other)).sum()


def close(found: Tensor, wanted: Tensor, atol: float = 1e-12) -> None:
    assert float(wanted.detach().abs().max()) > 1e-3 or not wanted.any()
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


# --- exact gradients, by enumeration ----------------------------------------------------------------------------------

PAIRS = torch.cartesian_prod(torch.arange(27), torch.arange(27))


def mean_rloo_gradient(policy: nn.Module, rewards: Tensor, kl: Tensor | float = 0.0) -> Tensor:
    """The mean of the gradient over all pairs of independent responses."""
    logp = logps(policy).sum(1)
    advantages = rloo_advantages(rewards[PAIRS], kl[PAIRS] if isinstance(kl, Tensor) else kl)
    chance = logp.detach().exp()[PAIRS].prod(1)
    return slope((chance * (advantages * logp[PAIRS]).mean(1)).sum(), policy)


@pytest.mark.parametrize("offset", [0.0, -7.0, 1000.0])
def test_rloo_is_unbiased(small: Make, offset: float) -> None:
    policy = small()
    p = logps(policy).sum(1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-14)
    found = mean_rloo_gradient(policy, WORTH + offset)
    close(found, slope((p * WORTH).sum(), policy), 1e-12 * max(1, abs(offset)))


@pytest.mark.parametrize("lam", [0.05, 2.0])
def test_with_k1_in_the_reward_rloo_climbs_the_penalised_objective(small: Make, lam: float) -> None:
    policy, ref = small(), small(1)
    mine, other = logps(policy).sum(1), logps(ref).sum(1)
    found = mean_rloo_gradient(policy, WORTH, lam * (mine - other).detach())
    close(found, slope((mine.exp() * WORTH).sum() - lam * kl_between(policy, ref), policy))


def test_k2_of_whole_responses_has_the_gradient_of_the_kl(small: Make) -> None:
    policy, ref = small(), small(1)
    mine, other = logps(policy), logps(ref).detach()
    p, wanted = mine.sum(1).exp().detach(), slope(kl_between(policy, ref), policy)
    close(slope((p * kl_penalty(mine.sum(1), other.sum(1), "k2")).sum(), policy), wanted)
    by_token = slope((p * kl_penalty(mine, other, "k2").sum(1)).sum(), policy)
    assert float((by_token - wanted).norm() / wanted.norm()) > 0.01  # and token by token it is another one


def test_k3_at_one_token_has_the_gradient_of_the_kl_the_other_way_round(small: Make) -> None:
    policy, ref, y = small(), small(1), torch.arange(3)[:, None]
    mine, other = logps(policy, y), logps(ref, y).detach()
    found = slope((mine.sum(1).exp().detach() * kl_penalty(mine, other, "k3").sum(1)).sum(), policy)
    close(found, slope(kl_between(ref, policy, y), policy))


def test_the_step_itself_is_unbiased(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch holds all pairs; a reward that carries their probabilities makes its mean the expectation."""
    policy = small()
    start, lists = copy.deepcopy(policy), PAIRS.flatten()
    logp = logps(start)

    def everything(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return EVERY[lists], logp.detach()[lists]

    def weighted(x: Tensor, y: Tensor) -> Tensor:
        return (len(PAIRS) * logp.detach().sum(1).exp()[PAIRS].prod(1, keepdim=True) * (WORTH[PAIRS] + 3)).flatten()

    monkeypatch.setattr(sys.modules["flatlab.rlhf.policy_gradient"], "sample", everything)
    run(policy, small(1), weighted, PROMPTS.expand(729, 2), batch=1458, kl_coef=0.0, lr=1.0)
    close(weights(policy) - weights(start), slope((logp.sum(1).exp() * WORTH).sum(), start))


# --- its own steps ----------------------------------------------------------------------------------------------------


def by_hand(start: TinyGPT, ref: TinyGPT, x: Tensor, y: Tensor, k: int, lr: float, **options: Any) -> TinyGPT:
    """The weights after the updates of one batch by SGD, written out response by response."""
    algo, kl, lam, clip = options["algo"], options["kl"], options["kl_coef"], options.get("clip", 0.2)
    text = {name: options[name] for name in ("temperature", "eos", "pad") if name in options}
    policy = copy.deepcopy(start)
    old, near = (response_logps(model, x, y, **text).detach() for model in (start, ref))
    scores = table(x, y)
    if kl == "k1":
        scores = scores - lam * (old - near).sum(1)
    groups = scores.view(-1, k)
    advantages = rloo_advantages(groups) if algo == "rloo" else grpo_advantages(groups, options.get("scale", "group"))
    for _ in range(options.get("updates", 1)):
        now = response_logps(policy, x, y, **text)
        terms = []
        for i, advantage in enumerate(advantages.flatten().tolist()):
            w = (now[i].sum() - old[i].sum()).exp()
            if clip is not None and advantage * (w.item() - 1) > abs(advantage) * clip:
                w = w.detach()
            term = w * advantage
            if kl == "k2":
                term = term - lam * (now[i].sum() - near[i].sum()) ** 2 / 2
            if kl == "k3":
                d = now[i] - near[i]
                term = term - lam * ((-d).exp() - 1 + d).sum()
            terms.append(term)
        step = slope(torch.stack(terms).mean(), policy)
        nn.utils.vector_to_parameters(weights(policy) + lr * step, policy.parameters())
    return policy


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize("algo", ["rloo", "grpo"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 4, "scale": "batch"},
        {"k": 4, "scale": "none", "temperature": 0.7},
        {"eos": 1, "pad": 2, "kl_coef": 0.0},
        {"eos": 1, "pad": 2, "updates": 3, "clip": 0.005},
        {"updates": 3, "clip": None},
    ],
    ids=["plain", "batch", "temperature", "end of text", "clipped", "not clipped"],
)
def test_a_step_is_the_rate_times_the_gradient(small: Make, algo: str, kl: str, options: dict[str, Any]) -> None:
    policy, ref, reward = small(), small(1), Recorder()
    start, before = copy.deepcopy(policy), weights(ref).clone()
    options = {"algo": algo, "kl": kl, "kl_coef": 0.3, "k": 2} | options
    history = run(policy, ref, reward, SIX, lr=0.05, batch=16, seed=1, **options)
    (x,), (y,) = reward.x, reward.y
    assert x.shape == (16, 2)
    assert y.shape == (16, 3)
    wanted = by_hand(start, ref, x, y, lr=0.05, **options)
    close(weights(policy) - weights(start), weights(wanted) - weights(start), 1e-11)
    assert torch.equal(weights(ref), before)
    if options.get("updates", 1) == 1:
        assert float(history.grad_norm[0]) == pytest.approx(float((weights(wanted) - weights(start)).norm()) / 0.05)


@pytest.mark.parametrize(("algo", "kl"), [("rloo", "k1"), ("grpo", "k3")])
def test_each_algorithm_has_its_penalty(small: Make, algo: str, kl: str) -> None:
    one, other, ref = small(), small(), small(1)
    run(one, ref, algo=algo, kl_coef=0.5, steps=2)
    run(other, ref, algo=algo, kl_coef=0.5, steps=2, kl=kl)
    assert torch.equal(weights(one), weights(other))


def test_clipping_binds_from_the_second_update_on(small: Make) -> None:
    ends = {}
    for updates, clip in itertools.product((1, 2), (None, 0.01, 0.2)):
        policy = small()
        run(policy, small(1), lr=0.05, updates=updates, clip=clip)
        ends[updates, clip] = weights(policy)
    close(ends[1, None], ends[1, 0.01], 0)
    assert not torch.equal(ends[2, None], ends[2, 0.01])
    assert not torch.equal(ends[2, 0.2], ends[2, 0.01])
    assert not torch.equal(ends[2, 0.2], ends[1, 0.2])


def test_the_norm_of_a_gradient_can_be_bounded(small: Make) -> None:
    free, held, start = small(), small(), weights(small())
    full = run(free, small(1), lr=0.1)
    norm = float(full.grad_norm[0])
    bounded = run(held, small(1), lr=0.1, grad_clip=norm / 5)
    assert float(bounded.grad_norm[0]) == pytest.approx(norm)  # before clipping
    torch.testing.assert_close(weights(held) - start, (weights(free) - start) / 5, rtol=1e-4, atol=1e-12)
    run(loose := small(), small(1), lr=0.1, grad_clip=2 * norm)
    assert torch.equal(weights(loose), weights(free))


# --- the penalty ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["rloo", "grpo"])
def test_the_penalty_pulls_to_the_reference(small: Make, algo: str) -> None:
    policy, ref = small(), small(1)
    options: dict[str, Any] = {"algo": algo, "k": 4, "batch": 64, "steps": 15, "lr": 0.2}
    before = kl_between(policy, ref).item()
    history = run(policy, ref, flat, kl_coef=0.5, **options)
    assert kl_between(policy, ref).item() < 0.5 * before
    assert history.kl[-5:].mean() < history.kl[:5].mean()
    for optimizer in ("sgd", "adam"):
        still = small()
        history = run(still, ref, flat, kl_coef=0.0, optimizer=optimizer, **options)
        assert torch.equal(weights(still), weights(small()))
        assert not history.grad_norm.any()


@pytest.mark.parametrize("algo", ["rloo", "grpo"])
def test_at_the_reference_the_first_step_knows_no_penalty(small: Make, algo: str) -> None:
    ends = []
    for lam in (0.0, 0.05, 5.0):
        policy = small()
        run(policy, small(), algo=algo, kl_coef=lam)
        ends.append(weights(policy))
    for end in ends[1:]:
        close(end, ends[0], 1e-12)
    for lam in (0.0, 5.0):
        policy = small()
        run(policy, small(), algo=algo, kl_coef=lam, steps=4)
        ends.append(weights(policy))
    assert float((ends[-1] - ends[-2]).norm()) > 1e-3


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algo", "optimizer", "lr"), [("rloo", "sgd", 0.3), ("grpo", "adam", 0.01)])
def test_an_easy_reward_rises(small: Make, algo: str, optimizer: str, lr: float) -> None:
    policy, ref = small(), small()
    value = (logps(policy).sum(1).exp() * easy(EVERY, EVERY)).sum().item()
    history = run(policy, ref, easy, algo=algo, optimizer=optimizer, lr=lr, k=4, batch=32, steps=25)
    assert (logps(policy).sum(1).exp() * easy(EVERY, EVERY)).sum().item() > value + 0.2
    assert history.proxy[-5:].mean() > history.proxy[:5].mean() + 0.1
    assert float(history.kl[0]) == pytest.approx(0, abs=1e-12)
    assert history.kl[-1] > 0.05


def test_a_reward_model_is_a_reward(small: Make) -> None:
    policy, ref = small(), small(1)
    model = RewardModel(small(2))
    history = run(policy, ref, model, SIX, gold=easy, steps=2)
    assert len(history) == 2
    assert all(weight.grad is None for weight in model.parameters())


def test_the_scale_of_rewards(small: Make) -> None:
    """A factor is a factor of SGD's rate; to Adam and to GRPO it is nearly nothing."""

    def end(factor: float, **options: Any) -> Tensor:
        policy = small()
        run(policy, small(1), lambda x, y: factor * table(x, y), SIX, steps=5, **options)
        return weights(policy)

    start = weights(small())
    plain = end(1.0, kl_coef=0.0)
    close(end(8.0, kl_coef=0.0, lr=0.1 / 8), plain)
    assert float((end(8.0, kl_coef=0.0) - plain).norm()) > 0.1
    close(end(8.0, kl_coef=0.8, lr=0.1 / 8), end(1.0, kl_coef=0.1))  # with the penalty
    adam: dict[str, Any] = {"optimizer": "adam", "kl_coef": 0.0, "lr": 0.01}
    moved = end(1.0, **adam)
    assert float((end(16.0, **adam) - moved).norm()) < 1e-3 * float((moved - start).norm())
    grpo: dict[str, Any] = {"algo": "grpo", "kl_coef": 0.2, "k": 4}
    moved = end(1.0, **grpo)
    assert float((end(16.0, **grpo) - moved).norm()) < 1e-4 * float((moved - start).norm())
    grpo["scale"] = "none"
    assert float((end(16.0, **grpo) - end(1.0, **grpo)).norm()) > 0.1


def test_a_seed_is_a_training(small: Make) -> None:
    ends = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        policy = small()
        run(policy, small(1), prompts=SIX, steps=3, seed=seed)
        ends.append(weights(policy))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


# --- what surrounds the steps -----------------------------------------------------------------------------------------


def test_the_history_by_hand(small: Make) -> None:
    policy, ref, reward = small(), small(1), Recorder()
    start = copy.deepcopy(policy)
    history = run(policy, ref, reward, SIX, k=4, batch=8, steps=3, gold=easy)
    assert len(history) == 3
    assert set(history.state_dict()) == {"proxy", "gold", "kl", "variance", "grad_norm"}
    for values in history.state_dict().values():
        assert values.shape == (3,)
        assert values.dtype == torch.float64
    for step, (x, y) in enumerate(zip(reward.x, reward.y, strict=True)):
        scores = table(x, y).tolist()
        assert float(history.proxy[step]) == pytest.approx(sum(scores) / 8)
        assert float(history.gold[step]) == pytest.approx(easy(x, y).mean().item())
        groups = (scores[:4], scores[4:])
        variances = [sum((r - sum(group) / 4) ** 2 for r in group) / 3 for group in groups]
        assert float(history.variance[step]) == pytest.approx(sum(variances) / 2)
    x, y = reward.x[0], reward.y[0]
    ratios = response_logps(start, x, y).sum(1) - response_logps(ref, x, y).sum(1)
    assert float(history.kl[0]) == pytest.approx(ratios.mean().item())
    assert history.grad_norm[0] > 0


def test_the_ground_truth_is_only_looked_at(small: Make) -> None:
    with_gold, without = small(), small()
    run(with_gold, small(1), steps=2, gold=lambda x, y: 1e6 * easy(x, y))
    history = run(without, small(1), steps=2)
    assert history.gold.isnan().all()
    assert torch.equal(weights(with_gold), weights(without))


@pytest.mark.parametrize(("count", "steps", "passes"), [(6, 6, 2), (5, 10, 4), (1, 3, 6), (3, 3, 2)])
def test_each_pass_takes_every_prompt_once(small: Make, count: int, steps: int, passes: int) -> None:
    prompts, orders = SIX[:count], []
    for seed in (0, 1):
        reward = Recorder()
        run(small(), small(1), reward, prompts, k=4, batch=8, steps=steps, seed=seed)
        taken = torch.cat(reward.x).view(-1, 4, 2)
        assert (taken == taken[:, :1]).all()  # k responses to each
        rows = [prompts.tolist().index(prompt) for prompt in taken[:, 0].tolist()]
        orders.append([rows[i * count : (i + 1) * count] for i in range(passes)])
        assert len(rows) == passes * count
        assert all(sorted(order) == list(range(count)) for order in orders[-1])
    if count > 3:
        assert len({tuple(order) for order in orders[0]}) > 1
        assert orders[0] != orders[1]


def test_callbacks_see_every_step(small: Make) -> None:
    policy, seen = small(), []

    def look(step: int, trained: nn.Module) -> None:
        assert trained is policy
        seen.append((step, weights(trained)))

    run(policy, small(1), steps=3, callbacks=[look])
    assert [step for step, _ in seen] == [1, 2, 3]
    assert torch.equal(seen[-1][1], weights(policy))
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("fails", [False, True])
def test_policies_are_in_eval_mode_and_their_flags_come_back(small: Make, fails: bool) -> None:
    policy, ref, modes = small(), small(1), []
    policy.train()
    ref.train()
    policy.blocks[0].eval()
    flags = [module.training for model in (policy, ref) for module in model.modules()]

    def reward(x: Tensor, y: Tensor) -> Tensor:
        modes.extend(module.training for model in (policy, ref) for module in model.modules())
        return table(x, y) * (math.nan if fails else 1)

    if fails:
        with pytest.raises(ValueError, match="nan"):
            run(policy, ref, reward)
    else:
        run(policy, ref, reward)
    assert modes
    assert not any(modes)
    assert [module.training for model in (policy, ref) for module in model.modules()] == flags


# --- checkpoints ------------------------------------------------------------------------------------------------------


def same(one: PolicyHistory, other: PolicyHistory) -> bool:
    return all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("algo", ["rloo", "grpo"])
def test_a_checkpoint_continues_bit_by_bit(small: Make, tmp_path: Path, algo: str, optimizer: str) -> None:
    file, ref = tmp_path / "policy.safetensors", small(1)
    settings: dict[str, Any] = {"algo": algo, "optimizer": optimizer, "steps": 7, "prompts": SIX, "gold": easy}
    straight, interrupted, resumed, done = small(), small(), small(8), small(9)
    history = run(straight, ref, **settings)

    def stop(step: int, policy: nn.Module) -> None:
        if step == 5:
            raise KeyboardInterrupt

    settings |= {"checkpoint": file, "save_every": 2}
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, ref, Recorder(), callbacks=[stop], **settings)
    assert not torch.equal(weights(interrupted), weights(straight))
    reward = Recorder()
    again = run(resumed, ref, reward, **settings)
    assert len(reward.x) == 3  # what came after the fourth step
    assert same(again, history)
    assert torch.equal(weights(resumed), weights(straight))
    reward = Recorder()
    assert same(run(done, ref, reward, **settings), history)  # nothing is left to do
    assert not reward.x
    assert torch.equal(weights(done), weights(straight))
    longer, further = small(), small(7)
    run(longer, ref, **(settings | {"steps": 9, "checkpoint": None}))
    run(further, ref, Recorder(), **(settings | {"steps": 9}))
    assert torch.equal(weights(further), weights(longer))


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 0.2}, {"kl_coef": 0.3}, {"k": 4}, {"batch": 16}, {"seed": 1}, {"optimizer": "adam"}, {"algo": "grpo"},
        {"kl": "k2"}, {"clip": None}, {"updates": 2}, {"grad_clip": 1.0}, {"temperature": 0.5}, {"prompts": SIX[1:]},
        {"max_new_tokens": 2}, {"eos": 1, "pad": 2}, {"scale": "none"},
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else str(value),  # no addresses of functions
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused(small: Make, tmp_path: Path, other: dict[str, Any]) -> None:
    file = tmp_path / "policy.safetensors"
    run(small(), small(1), prompts=SIX, checkpoint=file)
    policy = small()
    with pytest.raises(ValueError, match="other settings"):
        run(policy, small(1), **({"prompts": SIX, "checkpoint": file, "steps": 2} | other))
    assert torch.equal(weights(policy), weights(small()))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "k must be an integer >= 2, got 1"),
        ({"k": 3}, "batch must be a multiple of k, got batch=8 responses and k=3"),
        ({"k": 16}, "batch must be an integer >= 16, got 8"),
        ({"algo": "ppo"}, "algo.*rloo, grpo"),
        ({"optimizer": "lion"}, "optimizer.*sgd, adam"),
        ({"kl": "k4"}, "kl.*k1, k2, k3"),
        ({"algo": "grpo", "scale": "prompt"}, "scale.*group, batch, none"),
        ({"scale": "prompt"}, "scale.*group, batch, none"),
        ({"lr": 0.0}, "lr must be a finite number > 0"),
        ({"lr": -0.1}, "lr"),
        ({"kl_coef": -0.1}, "kl_coef must be a finite number >= 0"),
        ({"clip": 0.0}, "clip must be a finite number > 0"),
        ({"clip": -0.2}, "clip"),
        ({"grad_clip": 0.0}, "grad_clip must be a finite number > 0"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"updates": 0}, "updates must be an integer >= 1"),
        ({"save_every": 0}, "save_every must be an integer >= 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1"),
        ({"max_new_tokens": 5}, "2 tokens and 5 new ones do not fit into context=6"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"eos": 1, "pad": 1}, "eos=1 needs a pad"),
        ({"eos": 1}, "eos=1 needs a pad"),
        ({"prompts": PROMPTS + 2}, "of the vocabulary"),
        ({"prompts": PROMPTS[0]}, r"shape \(N, T\)"),
        ({"reward": lambda x, y: table(x, y) * math.nan}, "reward returned nan for text 0"),
        ({"reward": lambda x, y: table(x, y) + math.inf}, "reward returned inf for text 0"),
        ({"reward": lambda x, y: table(x, y)[1:]}, r"reward must return one number for each of 8 texts.*\(7,\)"),
        ({"reward": lambda x, y: table(x, y)[:, None]}, r"reward must return one number.*\(8, 1\)"),
        ({"gold": lambda x, y: table(x, y) * math.nan}, "gold returned nan for text 0"),
        ({"gold": lambda x, y: table(x, y)[1:]}, r"gold must return one number.*\(7,\)"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else str(value),  # no addresses of functions
)
def test_bad_input(small: Make, options: dict[str, Any], message: str) -> None:
    policy = small()
    with pytest.raises(ValueError, match=message):
        run(policy, small(1), **options)
    assert torch.equal(weights(policy), weights(small()))


def test_the_reference_must_be_another_object(small: Make) -> None:
    policy = small()
    with pytest.raises(ValueError, match="policy and ref are one object"):
        run(policy, policy)


@pytest.mark.parametrize("kl", ["k1", "k3"])
@pytest.mark.parametrize("algo", ["rloo", "grpo"])
def test_what_diverges_says_so(small: Make, algo: str, kl: str) -> None:
    policy, ref = small().float(), small(1).float()
    with pytest.raises(TrainingDiverged, match="at step 2; lower lr"):
        run(policy, ref, algo=algo, kl=kl, lr=1e30, steps=5, batch=32)
