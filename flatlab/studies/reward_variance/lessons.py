"""All lessons of all classrooms: what each teacher brought, and how well it was known before."""

import copy
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flatlab import rlhf
from flatlab.stats import Estimate, mean, paired_difference
from flatlab.studies.reward_variance.pipeline import Classroom
from flatlab.studies.reward_variance.settings import MIXES, RewardVariance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lessons:
    """What happened in the classrooms of all policies and seeds.

    Attributes:
        cfg: the settings.
        measures: a row for each policy, seed and teacher: see `Classroom.measures`.
        increases: a row for each policy, seed, teacher, algo, optimizer and step: "proxy", "gold", "kl".
        checks: a row for each policy and seed: see `checks`.
    """

    cfg: RewardVariance
    measures: pd.DataFrame
    increases: pd.DataFrame
    checks: pd.DataFrame

    @classmethod
    def run(cls, cfg: RewardVariance, *, root: str = "", device: str = "cpu") -> "Lessons":
        """Everything, seed by seed, or `cfg.processes` seeds at once; results do not depend on which."""
        jobs = [(cfg, policy, seed, root, device) for policy in cfg.policies for seed in cfg.seeds]
        if cfg.processes == 1:
            found = [_classroom(*job) for job in jobs]
        else:
            with ProcessPoolExecutor(cfg.processes, mp_context=get_context("spawn")) as pool:
                found = list(pool.map(_classroom, *zip(*jobs, strict=True)))
        return cls(cfg, *(pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True)))

    def table(self, value: str, algo: str = "rloo", optimizer: str = "sgd", *, step: int | None = None) -> pd.DataFrame:
        """Increases after a step (the last, by default), a row a seed and a column a teacher; means over policies."""
        rows = self._after(algo, optimizer, step)
        return rows.pivot_table(index="seed", columns="teacher", values=value)

    def known(self, measure: str) -> pd.DataFrame:
        """A measure, a row a seed and a column a teacher; means over policies."""
        return self.measures.pivot_table(index="seed", columns="teacher", values=measure)

    def correlations(
        self,
        measure: str,
        value: str,
        teachers: tuple[str, ...],
        *,
        algo: str = "rloo",
        kind: Literal["pearson", "spearman"] = "pearson",
        step: int | None = None,
    ) -> Array:
        """Of a measure with the increase over teachers, one a seed; means over policies.

        Args:
            measure: a column of `measures`.
            value: "proxy" or "gold".
            teachers: over whom.
            algo: "rloo" or "grpo", with SGD.
            kind: "pearson" or "spearman".
            step: after which; by default the last.
        """
        both = self._after(algo, "sgd", step).merge(self.measures, on=["policy", "seed", "teacher"])
        found: dict[Any, list[float]] = {}
        for (s, _), group in both[both["teacher"].isin(teachers)].groupby(["seed", "policy"]):
            found.setdefault(s, []).append(group[measure].corr(group[value], method=kind))
        return np.array([np.mean(each) for each in found.values()])

    def ran(self, teachers: Iterable[str], algo: str = "rloo", optimizer: str = "sgd") -> bool:
        """Whether each of the teachers was trained with, by this algorithm and optimizer."""
        return set(teachers) <= set(self.cfg.runs.get((algo, optimizer), ()))

    def correlated(self, measure: str, value: str, teachers: tuple[str, ...]) -> Estimate | None:
        """The mean of `correlations` over seeds; None if a teacher was left out."""
        if not self.ran(teachers):
            return None
        return mean(self.correlations(measure, value, teachers), support=(-1, 1))

    def advantage(
        self, measure: str, other: str, teachers: tuple[str, ...], value: str, *, algo: str = "rloo", **options: Any
    ) -> Estimate | None:
        """By how much the correlation of a measure with what was learned exceeds that of another one, paired by seed.

        Args:
            measure, other: columns of `measures`.
            teachers, value: as in `correlations`.
            algo, options: further ones of `correlations`.

        Returns:
            The estimate, or None if a teacher was left out.
        """
        if not self.ran(teachers, algo):
            return None
        options["algo"] = algo
        pair = (self.correlations(name, value, teachers, **options) for name in (measure, other))
        return paired_difference(*pair)

    def _after(self, algo: str, optimizer: str, step: int | None) -> pd.DataFrame:
        rows = self.increases
        at = self.cfg.steps if step is None else step
        return rows[(rows["algo"] == algo) & (rows["optimizer"] == optimizer) & (rows["step"] == at)]

    def kl_at(self, level: float) -> pd.DataFrame:
        """The KL at which the ground truth has risen by `level` under RLOO with SGD, a row a seed, a column a teacher.

        Interpolated along the looks, from 0 at the start; NaN where it never rose by so much.
        """
        rows = self.increases[(self.increases["algo"] == "rloo") & (self.increases["optimizer"] == "sgd")]
        found = [
            {"seed": s, "teacher": name, "kl": _crossing(path["gold"].to_numpy(), path["kl"].to_numpy(), level)}
            for (s, _, name), path in rows.sort_values("step").groupby(["seed", "policy", "teacher"])
        ]
        return pd.DataFrame(found).pivot_table(index="seed", columns="teacher", values="kl", dropna=False)

    def trends(self, measure: str) -> tuple[Array, Array]:
        """For `stats.trend`: a measure of the learned models (seeds, mixes), and the on-policy parts of their pairs."""
        return self.known(measure)[list(MIXES)].to_numpy(), np.array(list(MIXES.values()))

    def cost(self, algo: str, optimizer: str) -> Array | None:
        """By how much more the ground truth teaches without an offset than with one, (seeds,); None if not run."""
        if not self.ran(("gold", "gold + 3b"), algo, optimizer):
            return None
        table = self.table("gold", algo, optimizer)
        return (table["gold"] - table["gold + 3b"]).to_numpy()

    def costs(self) -> pd.DataFrame:
        """What low variance costs: how much less the ground truth rises, for each algorithm and optimizer.

        A column a pair of teachers of one and the same ranking, in standard deviations; means over seeds.
        """
        pairs = (("gold", "gold + 3b"), ("gold", "shrunk"), ("100%", "100% + 3b"))
        rows = {}
        for algo, optimizer in self.cfg.runs:
            table = self.table("gold", algo, optimizer)
            both = [pair for pair in pairs if self.ran(pair, algo, optimizer)]
            rows[algo, optimizer] = {f"{a} against {b}": float((table[a] - table[b]).mean()) for a, b in both}
        return pd.DataFrame(rows).T.rename_axis(["algorithm", "optimizer"])


def checks(room: Classroom) -> dict[str, float]:
    """Three identities, each as the distance between two trained policies over the way that one of them went.

    "adam": with Adam and no penalty, rewards times 16 change nothing. "rate": with SGD, an offset of whole prompts is
    undone by a larger learning rate and a smaller penalty. "grpo": under GRPO it changes nothing to begin with.
    In float64: rounding flips a sampled character now and then, and from there on two equal trainings go apart. For the
    same reason Adam's rewards are large, so that its eps is small beside their gradients.
    """
    scale = room.teachers["gold + 3b"].normalizer.scale
    adam = [_ends(room, "gold", "adam", kl_coef=0.0, factor=factor) for factor in (2.0**10, 2.0**14)]
    rate, lam = room.cfg.rates["rloo", "sgd"], room.cfg.kl_coef
    sgd = [_ends(room, "gold", "sgd"), _ends(room, "gold + 3b", "sgd", lr=rate / scale, kl_coef=lam * scale)]
    grpo = [_ends(room, name, "sgd", algo="grpo") for name in ("gold", "gold + 3b")]
    start = torch.nn.utils.parameters_to_vector(room.policy.parameters()).detach().double()
    found = {"adam": adam, "rate": sgd, "grpo": grpo}
    return {name: float((a - b).norm() / (a - start).norm()) for name, (a, b) in found.items()}


def _ends(
    room: Classroom, teacher: str, optimizer: str, *, algo: str = "rloo", factor: float = 1.0, **changes: Any
) -> torch.Tensor:
    reward, cfg = room.teachers[teacher], room.cfg
    policy, ref = (copy.deepcopy(room.policy).double() for _ in range(2))
    options: dict[str, Any] = {"lr": cfg.rates[algo, optimizer], "kl_coef": cfg.kl_coef, "seed": room.seed} | changes
    rlhf.policy_gradient(
        policy,
        ref,
        lambda x, y: factor * reward(x, y),
        room.prompts,
        k=cfg.k,
        batch=cfg.batch,
        algo=algo,
        optimizer=optimizer,
        steps=cfg.check_steps,
        max_new_tokens=cfg.response,
        **options,
    )
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach()


def _classroom(cfg: RewardVariance, policy: str, seed: int, root: str, device: str) -> tuple[pd.DataFrame, ...]:
    """The three frames of one policy and seed."""
    if cfg.processes > 1:
        torch.set_num_threads(1)
    room = Classroom(cfg, policy, seed, root=root, device=device)
    room.grade()
    rows = [
        row | {"algo": algo, "optimizer": optimizer}
        for (algo, optimizer), teachers in cfg.runs.items()
        for name in teachers
        for row in room.teach(name, algo, optimizer)
    ]
    measures = room.measures.rename_axis("teacher").reset_index()
    frames = (measures, pd.DataFrame(rows), pd.DataFrame([checks(room)]))
    return tuple(frame.assign(policy=policy, seed=seed) for frame in frames)


def _crossing(values: Array, along: Array, level: float) -> float:
    """Where a path of values, from 0 on, first reaches a level, in terms of `along`; NaN if never."""
    gold, kl = np.concatenate([[0.0], values]), np.concatenate([[0.0], along])
    after = np.flatnonzero(gold >= level)
    if not len(after):
        return float("nan")
    i = after[0]
    part = (level - gold[i - 1]) / (gold[i] - gold[i - 1])
    return float(kl[i - 1] + part * (kl[i] - kl[i - 1]))
