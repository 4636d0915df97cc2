"""RLHF from beginning to end, for one policy and one seed: finetuning, pairs, reward models, policy gradient."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from flatlab import data, models, rlhf, train
from flatlab.studies.reward_variance.ground_truth import CharacterReward, shrunk
from flatlab.studies.reward_variance.settings import MIXES, RewardVariance

Reward = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Standardized:
    """A reward model with mean 0 and variance 1 on the initial policy's answers."""

    reward: Reward
    normalizer: rlhf.RewardNormalizer

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return self.normalizer.transform(self.reward(prompts, responses))


class Classroom:
    """Everything that precedes the policy gradient, and the policy gradient with any of the teachers.

    Attributes:
        policy: the finetuned one.
        gold: the ground truth.
        teachers: name -> standardized reward model, mean 0 and variance 1 over `scored` prompts and their samples.
        measures: one row a teacher: "variance", "on" and "off" (accuracies), "accuracy" (their mean), "both" (the mean
            of variance and accuracy), and from `grade` on the teacher scores.
    """

    def __init__(self, cfg: RewardVariance, policy: str, seed: int, *, root: str = "", device: str = "cpu") -> None:
        self.cfg, self.seed, self.device = cfg, seed, torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.texts = {
            part: data.load_text(cfg.text, part, root=root or None) for part in ("train", "validation", "test")
        }
        alphabet = self.texts["train"].alphabet
        self.gold = CharacterReward(alphabet, self.device)
        length = cfg.prompt + cfg.response
        options = {**cfg.policies[policy], "context": length}
        self.policy = models.build("char_gpt", (length,), len(alphabet), seed=seed, options=options).to(self.device)
        pieces = self.pieces("train", cfg.windows, length + 1)
        train.fit(self.policy, data.Windows(pieces[:, :-1], pieces[:, 1:]), train.next_token, cfg.sft, seeds=seed)
        self.prompts = self.pieces("train", cfg.prompts, cfg.prompt)
        self.fresh = self.pieces("test", cfg.judged, cfg.prompt)
        self.teachers = self._teachers()
        self.measures = pd.DataFrame(self._measures()).T

    def pieces(self, part: str, count: int, length: int) -> Tensor:
        """Pieces of a text from random places, (count, length)."""
        codes = self.texts[part].codes
        at = torch.randint(len(codes) - length, (count, 1), generator=self.generator)
        return codes[at + torch.arange(length)].to(self.device)

    def off_policy(self, count: int) -> Tensor:
        """Responses that another author wrote: held-out text in lower case and on one line, (count, response)."""
        text = self.texts["validation"]
        index = {c: i for i, c in enumerate(text.alphabet)}
        plain = torch.tensor([index[c.lower() if c != "\n" else " "] for c in text.alphabet])
        return plain.to(self.device)[self.pieces("validation", count, self.cfg.response)]

    def texts_of(self, prompts: Tensor, *, own: bool) -> Tensor:
        """Two texts of each prompt, by the policy if `own`, else by the other author; (P, 2, prompt + response)."""
        twice = prompts.repeat_interleave(2, 0)
        written = self.sample(self.policy, twice) if own else self.off_policy(len(twice))
        return torch.cat([twice, written], 1).view(len(prompts), 2, -1)

    def sample(self, policy: nn.Module, prompts: Tensor, seed: int | None = None) -> Tensor:
        """One response to each prompt."""
        generator = torch.Generator(self.device).manual_seed(self.seed + 7919 if seed is None else seed)
        return rlhf.sample(policy, prompts, self.cfg.response, generator=generator)[0]

    def _teachers(self) -> dict[str, Standardized]:
        cfg, gold = self.cfg, self.gold
        prompts = self.pieces("train", cfg.pairs, cfg.prompt)
        on, off = self.texts_of(prompts, own=True), self.texts_of(prompts, own=False)

        def judge(tokens: Tensor) -> Tensor:
            return gold(tokens[:, : cfg.prompt], tokens[:, cfg.prompt :])

        raw: dict[str, Reward] = {}
        for name, fraction in MIXES.items():
            pairs = rlhf.preference_pairs(on, off, judge, fraction, self.seed)
            raw[name] = rlhf.train_reward_model(pairs, self.policy, recipe=cfg.reward_recipe, seed=self.seed)
        raw["gold"] = gold
        raw["shrunk"] = lambda x, y: shrunk(gold, x, y)
        self.scored = self.prompts[: cfg.scored].repeat_interleave(cfg.samples, 0)
        self.answers = self.sample(self.policy, self.scored, self.seed + 104_729)
        teachers = {name: self._standardized(reward) for name, reward in raw.items()}
        offsets = gold.offset(self.prompts[: cfg.scored])
        mean, deviation = float(offsets.mean()), float(offsets.std())
        for name in ("100%", "gold"):
            for weight, label in ((1.0, "b"), (3.0, "3b")):
                dialled = _Offset(teachers[name], gold, weight / deviation, mean)
                teachers[f"{name} + {label}"] = self._standardized(dialled)
        return teachers

    def _standardized(self, reward: Reward) -> Standardized:
        return Standardized(reward, rlhf.RewardNormalizer.fit(self._rewards(reward)))

    def _rewards(self, reward: Reward) -> Tensor:
        with torch.no_grad():
            return reward(self.scored, self.answers).double().view(self.cfg.scored, -1)

    def _measures(self) -> dict[str, dict[str, float]]:
        prompts = self.pieces("train", self.cfg.off_pairs, self.cfg.prompt)
        pairs, cut = self.texts_of(prompts, own=False), self.cfg.prompt
        rows, truth = {}, self._rewards(self.teachers["gold"])
        with torch.no_grad():
            off = {
                name: torch.stack([r(pairs[:, i, :cut], pairs[:, i, cut:]) for i in (0, 1)], 1)
                for name, r in self.teachers.items()
            }
        for name, reward in self.teachers.items():
            values = self._rewards(reward)
            row = {"variance": rlhf.reward_variance(values), "on": rlhf.ranking_accuracy(values, truth)}
            row["off"] = rlhf.ranking_accuracy(off[name], off["gold"])
            row["accuracy"] = (row["on"] + row["off"]) / 2
            rows[name] = row | {"both": (row["variance"] + row["accuracy"]) / 2}
        return rows

    def grade(self) -> None:
        """Add to the measures the teacher scores, "score rloo" and "score grpo", and "gradient", |grad V|^2."""
        shared: dict[str, Any] = {
            "batches": self.cfg.score_batches,
            "max_new_tokens": self.cfg.response,
            "k": self.cfg.k,
        }
        for column, algo, truth in (
            ("score rloo", "rloo", self.teachers["gold"]),
            ("score grpo", "grpo", self.teachers["gold"]),
            ("gradient", "rloo", None),
        ):
            found = rlhf.teacher_score(
                self.policy, self.teachers, truth, self.prompts, algo=algo, seed=self.seed + 15_485, **shared
            )
            self.measures[column] = pd.Series(found)

    def increases(self, name: str, policy: nn.Module) -> dict[str, float]:
        """By how much a policy's mean rewards exceed those of the first one, on fresh prompts, and the KL between them.

        Returns:
            "proxy", the teacher's own reward; "gold"; both in standard deviations; "kl" in nats a response.
        """
        prompts, cut = self.fresh.repeat_interleave(8, 0), self.seed + 1_299
        values = {}
        for label, net in (("before", self.policy), ("after", policy)):
            answers = self.sample(net, prompts, cut)
            with torch.no_grad():
                values[label] = [float(self.teachers[r](prompts, answers).double().mean()) for r in (name, "gold")]
        with torch.no_grad():
            ratio = rlhf.response_logps(policy, prompts, answers) - rlhf.response_logps(self.policy, prompts, answers)
        proxy, gold = (after - before for before, after in zip(values["before"], values["after"], strict=True))
        return {"proxy": proxy, "gold": gold, "kl": float(ratio.sum(1).mean())}

    def teach(self, name: str, algo: str, optimizer: str) -> list[dict[str, Any]]:
        """Train a copy of the policy with a teacher: a row of `increases` at every look.

        Args:
            name: of the teacher.
            algo, optimizer: of `flatlab.rlhf.policy_gradient`.
        """
        cfg, policy = self.cfg, copy.deepcopy(self.policy)
        looks = cfg.moments if (algo, optimizer) == ("rloo", "sgd") else cfg.moments[-1:]
        rows: list[dict[str, Any]] = []

        def look(step: int, net: nn.Module) -> None:
            if step in looks:
                rows.append({"teacher": name, "step": step, **self.increases(name, net)})

        options: dict[str, Any] = {
            "k": cfg.k,
            "kl_coef": cfg.kl_coef,
            "lr": cfg.rates[algo, optimizer],
            "batch": cfg.batch,
        }
        options |= {"steps": cfg.steps, "seed": self.seed, "max_new_tokens": cfg.response, "callbacks": [look]}
        rlhf.policy_gradient(
            policy, self.policy, self.teachers[name], self.prompts, algo=algo, optimizer=optimizer, **options
        )
        return rows


@dataclass(frozen=True)
class _Offset:
    """A reward plus `weight` times the prompt's offset less its mean."""

    reward: Reward
    gold: CharacterReward
    weight: float
    mean: float

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return self.reward(prompts, responses) + self.weight * (self.gold.offset(prompts) - self.mean)
