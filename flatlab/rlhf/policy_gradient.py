"""The third step of RLHF: policy gradient on the reward of a model, held near a reference.

    sample y_1..y_k ~ p(.|x),    R_i = r(x, y_i) - lam ln(p/ref)(y_i),    A = RLOO or GRPO of R
    loss = -mean min(w A, clip(w, 1 - c, 1 + c) A),    w = p(y|x) / p_old(y|x)

One step is one batch of responses and `updates` steps of the optimizer on it; with one, w = 1 and the gradient is that
of REINFORCE with a leave-one-out baseline, unbiased. The penalty is Schulman's k1, k2 or k3. k1 belongs to the reward:
as a loss its mean gradient would be 0. k2 and k3 belong to the loss; k2 of whole responses has the gradient of
KL(p || ref), k3, token by token, that of KL(ref || p) at every token given what came before it (Shao et al. 2024). The
paper's own code takes GRPO's penalty without a gradient, so that it pulls nowhere: `kl_coef=0` is the same.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.language import codes, ending, response_logps, sample
from flatlab.modes import evaluating
from flatlab.rlhf.advantages import grpo_advantages, rloo_advantages
from flatlab.rlhf.losses import kl_penalty
from flatlab.rlhf.reward_models import judged
from flatlab.rng import SeedGenerators
from flatlab.train import TrainingDiverged, fingerprint, resume_training, save_training

Reward = Callable[[Tensor, Tensor], Tensor]
"""Prompts (N, P) and responses (N, T) -> rewards (N,)."""

ALGORITHMS = ("rloo", "grpo")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
_NUMBERS = ("proxy", "gold", "kl", "variance", "grad_norm")


class PolicyHistory:
    """What each step saw, before it changed the policy; every attribute is (steps,).

    Attributes:
        proxy: mean reward of the batch.
        gold: mean ground truth, NaN if none was given.
        kl: mean of ln p - ln ref over the responses, in nats a response.
        variance: mean over prompts of the rewards' unbiased variance.
        grad_norm: of the gradient, before clipping; of the last update on the batch.
    """

    proxy: Tensor
    gold: Tensor
    kl: Tensor
    variance: Tensor
    grad_norm: Tensor

    def __init__(self) -> None:
        self.load_state_dict(dict.fromkeys(_NUMBERS, torch.zeros(0, dtype=torch.float64)))

    def __len__(self) -> int:
        return len(self.proxy)

    def append(self, *numbers: float) -> None:
        """Add one step's numbers, in the order of the attributes."""
        for name, value in zip(_NUMBERS, numbers, strict=True):
            setattr(self, name, torch.cat([getattr(self, name), torch.tensor([value], dtype=torch.float64)]))

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in _NUMBERS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state_dict` returned."""
        for name in _NUMBERS:
            setattr(self, name, state[name].cpu())


def policy_gradient(
    policy: nn.Module,
    ref: nn.Module,
    reward: Reward,
    prompts: Tensor,
    *,
    algo: str = "rloo",
    k: int = 2,
    kl_coef: float = 0.05,
    optimizer: str = "sgd",
    lr: float,
    steps: int,
    seed: int = 0,
    batch: int = 64,
    max_new_tokens: int,
    gold: Reward | None = None,
    kl: str | None = None,
    scale: str = "group",
    clip: float | None = 0.2,
    updates: int = 1,
    grad_clip: float | None = None,
    temperature: float = 1.0,
    eos: int | None = None,
    pad: int | None = None,
    callbacks: Sequence[Callable[[int, nn.Module], None]] = (),
    checkpoint: str | Path | None = None,
    save_every: int = 10,
) -> PolicyHistory:
    """Train `policy` in place, in eval mode (no dropout), on the device where it lies.

    Args:
        policy, ref: language models (`flatlab.models.language.LanguageModel`), two of them; `ref` stays as it is.
        reward: what is trained on.
        prompts: (M, P) int64; each pass takes them in an order of its own, which `seed` decides.
        algo: "rloo" or "grpo".
        k: responses a prompt, at least 2.
        kl_coef: lam, weight of the penalty.
        optimizer: "sgd" or "adam", torch's own with a constant rate.
        lr: its learning rate.
        steps: batches of responses.
        seed: of the prompts' order and of the sampling.
        batch: responses a step, a multiple of k.
        max_new_tokens: of a response.
        gold: the ground truth, only looked at.
        kl: "k1", "k2" or "k3"; by default k1 for RLOO and k3 for GRPO.
        scale: of GRPO's advantages.
        clip: c, or None.
        updates: of the optimizer on each batch.
        grad_clip: largest norm of the gradient, or None.
        temperature, eos, pad: as in `flatlab.models.sample`.
        callbacks: called as callback(steps done, policy) after each step.
        checkpoint: a file that is rewritten every `save_every` steps and at the end; if it is there, training
            continues from it exactly.
        save_every: steps.

    Raises:
        ValueError: bad arguments, a reward that is not finite or not one a response, a checkpoint of other settings.
        TrainingDiverged: loss or gradient are not finite.
    """
    checks.one_of("algo", algo, ALGORITHMS)
    checks.one_of("optimizer", optimizer, OPTIMIZERS)
    checks.at_least("k", k, 2)
    checks.one_of("scale", scale, ("group", "batch", "none"))
    penalty = checks.one_of("kl", kl or ("k1" if algo == "rloo" else "k3"), ("k1", "k2", "k3"))
    lam, bound = checks.nonnegative("kl_coef", kl_coef), math.inf if clip is None else checks.positive("clip", clip)
    longest = math.inf if grad_clip is None else checks.positive("grad_clip", grad_clip)
    if checks.at_least("batch", batch, k) % k:
        raise ValueError(f"batch must be a multiple of k, got batch={batch} responses and k={k} a prompt")
    if policy is ref:
        raise ValueError("policy and ref are one object: the reference would move along; give it a copy of its own")
    for name, value in (("steps", steps), ("updates", updates), ("save_every", save_every)):
        checks.at_least(name, value, 1)
    codes("prompts", prompts, policy, new=checks.at_least("max_new_tokens", max_new_tokens, 1))
    ending(eos, pad)
    settings = {
        "algo": [algo, k, lam, penalty, scale, clip, updates],
        "optimizer": [optimizer, lr, grad_clip],
        "sampling": [seed, batch, max_new_tokens, temperature, eos, pad],
    }
    parameters = [p for p in policy.parameters() if p.requires_grad]
    stepper = OPTIMIZERS[optimizer](parameters, lr=checks.positive("lr", lr))
    history, draws = PolicyHistory(), SeedGenerators(seed, prompts.device)
    parts: dict[str, Any] = {"policy": policy, "optimizer": stepper, "history": history, "draws": draws}
    if checkpoint is not None:
        given = {"prompts": prompts, "reward": reward, "ref": ref.state_dict()}
        settings |= {name: fingerprint(value) for name, value in given.items()}
        resume_training(checkpoint, parts, settings=settings)
    order = _order(len(prompts), batch // k, steps, seed).to(prompts.device)
    text: dict[str, Any] = {"temperature": temperature, "eos": eos, "pad": pad}
    with evaluating(policy), evaluating(ref):
        for step in range(len(history), steps):
            x = prompts[order[step]].repeat_interleave(k, 0)
            y, old = sample(policy, x, max_new_tokens, generator=draws.generators[0], **text)
            with torch.no_grad():
                near = response_logps(ref, x, y, **text)
                scores = judged("reward", reward(x, y), batch).to(old).view(-1, k)
                truth = math.nan if gold is None else float(judged("gold", gold(x, y), batch).double().mean())
            away = (old - near).sum(1).view(-1, k)
            if not away.isfinite().all():
                raise TrainingDiverged(f"ln p - ln ref is not finite at step {step + 1}; lower lr")
            inside = lam * away if penalty == "k1" else 0.0
            advantage = (
                rloo_advantages(scores, inside) if algo == "rloo" else grpo_advantages(scores - inside, scale)
            ).flatten()
            for _ in range(updates):
                stepper.zero_grad(set_to_none=True)
                logps = response_logps(policy, x, y, **text)
                ratio = (logps.sum(1) - old.sum(1)).exp()
                worth = torch.minimum(ratio * advantage, ratio.clamp(1 - bound, 1 + bound) * advantage)
                loss = -worth.mean()
                if lam and penalty == "k2":
                    loss = loss + lam * kl_penalty(logps.sum(1), near.sum(1), "k2").mean()
                elif lam and penalty == "k3":
                    loss = loss + lam * kl_penalty(logps, near, "k3").sum(1).mean()
                loss.backward()
                norm = float(torch.nn.utils.clip_grad_norm_(parameters, longest))
                if not math.isfinite(loss.item() + norm):
                    raise TrainingDiverged(f"loss {loss.item():g} and gradient {norm:g} at step {step + 1}; lower lr")
                stepper.step()
            history.append(float(scores.mean()), truth, float(away.mean()), float(scores.var(1).mean()), norm)
            for callback in callbacks:
                callback(step + 1, policy)
            if checkpoint is not None and ((step + 1) % save_every == 0 or step + 1 == steps):
                save_training(checkpoint, parts, settings=settings)
    return history


def _order(count: int, each: int, steps: int, seed: int) -> Tensor:
    """Which prompts each step takes, (steps, each): pass after pass, every pass in an order of its own."""
    generator = torch.Generator().manual_seed(seed + 1_000_003)  # sampling has the seed itself
    passes = [torch.randperm(count, generator=generator) for _ in range(math.ceil(each * steps / count))]
    return torch.cat(passes)[: each * steps].view(steps, each)
