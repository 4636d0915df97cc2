"""Settings of 02_reward_variance.

Learning rates, the number of steps and every threshold of the claims were fixed on the tuning seeds, never on the seeds
that are reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from flatlab.train import Recipe

MIXES = {"100%": 1.0, "75%": 0.75, "50%": 0.5, "25%": 0.25, "0%": 0.0}
"""Learned reward models, by the part of their pairs that the policy wrote."""
DIAL = ("100%", "100% + b", "100% + 3b", "gold", "gold + b", "gold + 3b")
"""A learned reward model and the ground truth, with offsets of whole prompts: accuracy stays, variance falls."""
PAPER = (*MIXES, "shrunk")
"""The paper's six: the learned ones, and the ground truth made small on half of the prompts."""
TEACHERS = (*MIXES, "shrunk", *DIAL[1:])


@dataclass(frozen=True)
class RewardVariance:
    """Settings of one run.

    Attributes:
        seeds: each has a policy of its own, and everything that follows; `tuning_seeds`: on which settings were fixed.
        instances: random policies and rewards on which the bounds are checked; `flows`: how many are followed in time.
        text: what policies and prompts are made of; `policies`: name -> options of `flatlab.models.char_gpt`.
        prompt, response: lengths in characters.
        windows, sft: pieces of text that the policy is finetuned on, and how.
        pairs, reward_recipe: of each learned reward model.
        prompts: to train on; `scored`, `samples`: prompts, and samples of each, by which reward models are measured and
            standardized; `judged`: fresh prompts, eight samples each, on which every increase is measured.
        off_pairs: off-policy pairs, by which the off-policy accuracy is measured.
        k, batch, kl_coef, rates, steps: of the policy gradient; `rates` by algorithm and optimizer.
        looks: steps after which increases are measured.
        runs: (algorithm, optimizer) -> the reward models that are trained with.
        score_batches: of 256 samples, for the teacher score.
        level: increase of the ground truth at which KLs are compared.
        check_steps: after which policies are compared that should be the same.
        processes: how many seeds are computed at once.
    """

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (100, 101, 102, 103)
    instances: int = 500
    flows: int = 100
    text: str = "python_topics"
    policies: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"wide": {"width": 48, "layers": 2, "heads": 4}}
    )
    prompt: int = 12
    response: int = 16
    windows: int = 38_400
    sft: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=1, batch_size=64, lr=2e-3, optimizer=torch.optim.AdamW, schedule="cosine", grad_clip=1.0
        )
    )
    pairs: int = 2000
    reward_recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=1, batch_size=64, lr=1e-3, optimizer=torch.optim.AdamW, schedule="constant", grad_clip=None
        )
    )
    prompts: int = 2048
    scored: int = 128
    samples: int = 16
    judged: int = 96
    off_pairs: int = 1000
    k: int = 2
    batch: int = 64
    kl_coef: float = 0.05
    rates: Mapping[tuple[str, str], float] = field(
        default_factory=lambda: {
            ("rloo", "sgd"): 1e-4,
            ("grpo", "sgd"): 2e-4,
            ("rloo", "adam"): 3e-5,
            ("grpo", "adam"): 3e-5,
        }
    )
    steps: int = 24
    looks: tuple[int, ...] = (6, 12, 18, 24)
    runs: Mapping[tuple[str, str], tuple[str, ...]] = field(
        default_factory=lambda: {
            ("rloo", "sgd"): TEACHERS,
            ("grpo", "sgd"): TEACHERS,
            ("rloo", "adam"): ("gold", "gold + 3b", "shrunk", "100%", "100% + 3b"),
            ("grpo", "adam"): ("gold", "gold + 3b", "shrunk", "100%", "100% + 3b"),
        }
    )
    score_batches: int = 4
    level: float = 0.1
    check_steps: int = 6
    processes: int = 1

    @property
    def moments(self) -> tuple[int, ...]:
        """The looks that lie before the last step, and that one."""
        return (*(look for look in self.looks if look < self.steps), self.steps)


CPU = RewardVariance(seeds=(0, 1, 2))
"""Recorded in notebooks/results/cpu.json: six minutes with one thread of a server's CPU."""

QUICK = RewardVariance(
    seeds=(0, 1, 2),
    policies={"narrow": {"width": 32, "layers": 1, "heads": 4}},
    flows=60,
    windows=9600,
    pairs=600,
    scored=64,
    judged=32,
    off_pairs=300,
    steps=10,
    looks=(5, 10),
    runs={("rloo", "sgd"): TEACHERS, ("grpo", "sgd"): ("gold", "gold + 3b", "shrunk", "100%", "100% + 3b", "0%")},
    score_batches=2,
)
"""Stored in the notebook: a minute on the same machine."""

REAL = RewardVariance(
    seeds=tuple(range(10)),
    text="tiny_shakespeare",
    policies={
        "wide": {"width": 48, "layers": 2, "heads": 4},
        "narrow": {"width": 32, "layers": 1, "heads": 4},
    },
    judged=128,
    processes=2,
)
"""Recorded in notebooks/results/real.json: 21 minutes on two cores, from Tiny Shakespeare."""

GPU = RewardVariance(
    seeds=(0, 1, 2),
    text="tiny_shakespeare",
    policies={"large": {"width": 384, "layers": 6, "heads": 6}},
    prompt=64,
    response=64,
    windows=384_000,
    sft=Recipe(
        epochs=1, batch_size=128, lr=1e-3, optimizer=torch.optim.AdamW, schedule="cosine", grad_clip=1.0, amp=True
    ),
    pairs=20_000,
    reward_recipe=Recipe(
        epochs=1, batch_size=64, lr=1e-4, optimizer=torch.optim.AdamW, schedule="constant", grad_clip=None, amp=True
    ),
    prompts=8192,
    scored=500,
    samples=10,
    judged=256,
    batch=256,
    rates={("rloo", "sgd"): 1e-4, ("grpo", "sgd"): 2e-4, ("rloo", "adam"): 1e-5, ("grpo", "adam"): 1e-5},
    steps=150,
    looks=(25, 50, 75, 100, 125, 150),
    runs={("rloo", "sgd"): (*PAPER, "gold", "gold + b", "gold + 3b")},
)
"""A policy of ten million parameters: meant for ten minutes on one GPU, and not measured yet."""

FULL = RewardVariance(
    seeds=(0, 1, 2),
    text="tiny_shakespeare",
    policies={"large": {"width": 2560, "layers": 32, "heads": 32}},
    prompt=512,
    response=512,
    windows=10_000,
    sft=Recipe(epochs=1, batch_size=32, lr=1e-6, optimizer=torch.optim.Adam, schedule="constant", grad_clip=None),
    pairs=33_135,
    reward_recipe=Recipe(epochs=1, batch_size=32, lr=5e-7, schedule="constant", grad_clip=None),
    prompts=8284,
    scored=500,
    samples=10,
    judged=512,
    batch=64,
    rates={("rloo", "adam"): 1e-7, ("rloo", "sgd"): 1e-4, ("grpo", "sgd"): 1e-4},
    steps=777,
    looks=(129, 259, 388, 518, 647, 777),
    runs={("rloo", "adam"): (*PAPER, "gold"), ("rloo", "sgd"): (*PAPER, "gold")},
)
"""The paper's numbers of samples, steps and rates with a network of the shape of its Pythia-2.8B, trained on characters
from the start: only shapes are checked here. Its own models and data need `flatlab.rlhf.HuggingFaceLM`."""
