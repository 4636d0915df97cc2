"""RLHF against what one would write instead.

Gradient flows in one batch against one at a time and scipy's integrator, sampling with a cache against reading each
text anew, and steps of RLOO against TRL's trainer, where that is installed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from flatlab import rlhf

FLOWS, OUTPUTS, GAIN = 200, 50, 0.3


def by_scipy(theta: Tensor, r: Tensor) -> float:
    """LSODA with an event, as one would write it down."""
    rewards, start = r.numpy(), theta.numpy()

    def probs(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max())
        return e / e.sum()

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        p = probs(x)
        return p * (rewards - p @ rewards)

    def reached(_: float, x: np.ndarray) -> float:
        return float(probs(x) @ rewards - probs(start) @ rewards - GAIN)

    reached.terminal = True
    return float(solve_ivp(slope, (0, 1e6), start, method="LSODA", rtol=1e-9, atol=1e-9, events=reached).t[-1])


@pytest.mark.benchmark(group="gradient flows")
def test_flows_in_a_batch_against_one_at_a_time(benchmark, stopwatch) -> None:
    g, flows = torch.Generator().manual_seed(0), FLOWS if stopwatch.measuring else 8
    theta = torch.randn(flows, OUTPUTS, generator=g, dtype=torch.float64)
    r = torch.rand(flows, OUTPUTS, generator=g, dtype=torch.float64) * 2 - 1

    def batch() -> Tensor:
        return torch.as_tensor(rlhf.time_to_gain(rlhf.SoftmaxPolicy(theta), r, r, GAIN))

    def alone() -> list[float | Tensor]:
        return [
            rlhf.time_to_gain(rlhf.SoftmaxPolicy(start), own, own, GAIN) for start, own in zip(theta, r, strict=True)
        ]

    def scipys() -> list[float]:
        return [by_scipy(start, own) for start, own in zip(theta, r, strict=True)]

    seconds = stopwatch({"batch": batch, "alone": alone, "scipy": scipys}, 3)
    ratio, to_scipy = (seconds["batch"] / max(seconds[name], 1e-9) for name in ("alone", "scipy"))
    print(
        f"\n{flows} flows, {OUTPUTS} outputs, in one batch: {seconds['batch']:.2f} s; / one at a time: {ratio:.3f}",
        end="",
    )
    print(f"; / scipy's LSODA, one at a time: {to_scipy:.3f}")
    benchmark.extra_info.update({"batch / one at a time": ratio, "batch / scipy": to_scipy})
    found = benchmark.pedantic(batch, rounds=1)
    torch.testing.assert_close(found, torch.tensor(scipys(), dtype=torch.float64), rtol=1e-6, atol=0)
    assert (ratio < 0.2 and seconds["batch"] < 10) or not stopwatch.measuring


SYMBOLS, BATCH, PROMPT, NEW = 96, 64, 12, 64


@torch.no_grad()
def reading_anew(model: rlhf.TinyGPT, prompts: Tensor, new: int, seed: int) -> Tensor:
    """Ancestral sampling from the same numbers, as one would write it down."""
    draws = torch.rand(len(prompts), new, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = prompts
    for step in range(new):
        mass = model(x)[:, -1].softmax(1).double().cumsum(1)
        x = torch.cat([x, (mass <= draws[:, step, None] * mass[:, -1:]).sum(1, keepdim=True)], 1)
    return x[:, prompts.shape[1] :]


@pytest.mark.benchmark(group="sampling")
def test_sampling_with_a_cache_against_reading_anew(benchmark, stopwatch) -> None:
    torch.manual_seed(0)
    model = rlhf.TinyGPT(SYMBOLS, context=PROMPT + NEW).eval()
    prompts = torch.randint(SYMBOLS, (BATCH if stopwatch.measuring else 4, PROMPT))

    def cached() -> Tensor:
        return rlhf.sample(model, prompts, NEW, generator=torch.Generator().manual_seed(1))[0]

    def anew() -> Tensor:
        return reading_anew(model, prompts, NEW, 1)

    seconds = stopwatch({"cached": cached, "anew": anew})
    ratio = seconds["cached"] / max(seconds["anew"], 1e-9)
    print(f"\n{len(prompts)} texts of {PROMPT} + {NEW} tokens: cached / read anew = {ratio:.3f}")
    benchmark.extra_info["cached / read anew"] = ratio
    assert (benchmark.pedantic(cached, rounds=1) == anew()).all(1).float().mean() > 0.9  # but for the last bits
    assert ratio < 0.4 or not stopwatch.measuring


def by_trl(folder: Path, prompts: Tensor, context: int, steps: int, k: int) -> Callable[[], Any]:
    """Makes TRL's trainer of a GPT-2 of the same size with the same reward, ready to train once."""
    trl = pytest.importorskip("trl", reason="TRL is what is compared with")
    transformers, datasets = pytest.importorskip("transformers"), pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")
    names = [*map(str, range(SYMBOLS)), "end", "pad"]
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="pad")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="end", pad_token="pad", padding_side="left"
    )
    config = transformers.GPT2Config(
        vocab_size=len(names), n_positions=context, n_embd=48, n_layer=2, n_head=4, eos_token_id=SYMBOLS,
        pad_token_id=SYMBOLS + 1, bos_token_id=SYMBOLS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        return [ids.count(1) / len(ids) for ids in completion_ids]

    start = str(folder / "start")  # the trainer reads its reference from there
    transformers.GPT2LMHeadModel(config).save_pretrained(start)
    texts = [" ".join(map(str, row)) for row in prompts.tolist()]
    settings = trl.RLOOConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_generations=k, max_steps=steps, beta=0.05,
        max_completion_length=NEW // 4, learning_rate=1e-4, use_cpu=True, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip

    def ready() -> Any:
        data = datasets.Dataset.from_dict({"prompt": texts})
        return trl.RLOOTrainer(start, reward, settings, data, processing_class=tokenizer)

    return ready


@pytest.mark.benchmark(group="policy gradient")
def test_steps_of_rloo_against_trl(benchmark, stopwatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    context, steps, k = PROMPT + NEW // 4, 10 if stopwatch.measuring else 1, 2
    prompts = torch.randint(SYMBOLS, (256, PROMPT))
    rounds, ready = 3, by_trl(tmp_path, prompts, context, steps, k)
    trainers = iter([ready() for _ in range(1 + rounds if stopwatch.measuring else 1)])  # not part of the time

    def own() -> rlhf.PolicyHistory:
        policy, ref = rlhf.TinyGPT(SYMBOLS, context=context), rlhf.TinyGPT(SYMBOLS, context=context)
        ref.load_state_dict(policy.state_dict())
        return rlhf.policy_gradient(
            policy, ref, lambda x, y: (y == 1).float().mean(1), prompts, k=k, optimizer="adam", lr=1e-4, steps=steps,
            batch=BATCH, max_new_tokens=NEW // 4,
        )  # fmt: skip

    seconds = stopwatch({"own": own, "trl": lambda: next(trainers).train()}, rounds)
    ratio = seconds["own"] / max(seconds["trl"], 1e-9)
    print(f"\n{steps} steps of RLOO, {BATCH} responses of {NEW // 4} tokens: own / TRL = {ratio:.2f}")
    benchmark.extra_info["own / TRL"] = ratio
    assert len(benchmark.pedantic(own, rounds=1)) == steps
    assert ratio < 1 or not stopwatch.measuring
