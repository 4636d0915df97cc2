"""How fast a reward model would begin to teach, measured before any training.

Under a policy gradient with a small step, the ground truth begins to rise at the rate

    dV_gold/dt = <g, grad V_gold>,        g = the mean update of the algorithm in use with this reward model.

Both factors are estimated from samples of the initial policy. Taken from the same samples their product would be biased
by the noise that they share; products of different batches are not. Variance and accuracy each see a part of it: the
variance bounds the length of g, the accuracy speaks of its direction.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.language import response_logps, sample
from flatlab.modes import evaluating
from flatlab.rlhf.advantages import grpo_advantages, rloo_advantages
from flatlab.rlhf.policy_gradient import ALGORITHMS, Reward
from flatlab.rlhf.reward_models import judged


def teacher_score(
    policy: nn.Module,
    rewards: Mapping[str, Reward],
    gold: Reward | None,
    prompts: Tensor,
    *,
    algo: str = "rloo",
    k: int = 2,
    scale: str = "group",
    batches: int = 4,
    batch: int = 256,
    seed: int = 0,
    max_new_tokens: int,
    temperature: float = 1.0,
    eos: int | None = None,
    pad: int | None = None,
) -> dict[str, float]:
    """dV_gold/dt at the first step of training with each reward model, in gold reward per unit of step size.

    Args:
        policy: the initial one; it stays as it is.
        rewards: name -> reward model.
        gold: the ground truth; None measures each model against itself, which with RLOO is |grad V_RM|^2.
        prompts: (M, P) int64; each batch takes random ones of them.
        algo, k, scale: whose advantages the models are turned into; gold has RLOO's, which are unbiased.
        batches: of independent samples, at least 2.
        batch: responses in each, a multiple of k.
        seed: of prompts and samples.
        max_new_tokens, temperature, eos, pad: as in `flatlab.models.sample`.
    """
    checks.one_of("algo", algo, ALGORITHMS)
    checks.at_least("k", k, 2)
    if checks.at_least("batch", batch, k) % k:
        raise ValueError(f"batch must be a multiple of k, got batch={batch} responses and k={k} a prompt")
    checks.at_least("batches", batches, 2)
    generator = torch.Generator(prompts.device).manual_seed(seed)
    text: dict[str, Any] = {"temperature": temperature, "eos": eos, "pad": pad}
    parameters = [p for p in policy.parameters() if p.requires_grad]
    sums: dict[str, Tensor] = {}
    shared = dict.fromkeys(rewards, 0.0)

    def worth(values: Tensor) -> Tensor:
        return rloo_advantages(values) if algo == "rloo" else grpo_advantages(values, scale)

    def gradient(logps: Tensor, advantages: Tensor) -> Tensor:
        mean = (logps * advantages.flatten()).mean()
        parts = torch.autograd.grad(mean, parameters, retain_graph=True, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None]).double()

    with evaluating(policy):
        for _ in range(batches):
            chosen = torch.randint(len(prompts), (batch // k,), generator=generator, device=prompts.device)
            x = prompts[chosen].repeat_interleave(k, 0)
            y, _ = sample(policy, x, max_new_tokens, generator=generator, **text)
            logps = response_logps(policy, x, y, **text).sum(1)

            def scored(name: str, reward: Reward, x: Tensor = x, y: Tensor = y, logps: Tensor = logps) -> Tensor:
                with torch.no_grad():
                    return judged(name, reward(x, y), batch).to(logps).view(-1, k)

            truth = None if gold is None else gradient(logps, rloo_advantages(scored("gold", gold)))
            for name, reward in rewards.items():
                values = scored(name, reward)
                taught = gradient(logps, worth(values))
                aim = truth if truth is not None else taught
                if truth is None and algo != "rloo":
                    aim = gradient(logps, rloo_advantages(values))
                shared[name] += float(taught @ aim)
                for key, value in ((f"{name} update", taught), (f"{name} aim", aim)):
                    sums[key] = sums.get(key, torch.zeros_like(value)) + value
    pairs = batches * (batches - 1)
    return {name: (float(sums[f"{name} update"] @ sums[f"{name} aim"]) - shared[name]) / pairs for name in rewards}
