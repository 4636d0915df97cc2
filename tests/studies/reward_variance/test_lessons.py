"""The pipeline at a tiny size: what teachers are, what is measured of them, and what is made of the measurements."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from flatlab import studies
from flatlab.studies.reward_variance.ground_truth import CharacterReward, shrunk
from flatlab.studies.reward_variance.lessons import Lessons
from flatlab.studies.reward_variance.pipeline import Classroom
from flatlab.studies.reward_variance.settings import DIAL, MIXES, PAPER, TEACHERS

TINY = dataclasses.replace(
    studies.resolve("reward_variance", "quick"),
    seeds=(100, 101),
    policies={"small": {"width": 8, "layers": 1, "heads": 2}},
    windows=640,
    pairs=64,
    prompts=64,
    scored=16,
    samples=4,
    judged=4,
    off_pairs=32,
    batch=8,
    steps=3,
    looks=(2, 12),
    runs={("rloo", "sgd"): TEACHERS, ("grpo", "sgd"): ("gold", "gold + 3b")},
    score_batches=2,
    check_steps=2,
)


@pytest.fixture(scope="module")
def room() -> Classroom:
    return Classroom(TINY, "small", 100)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return Lessons.run(TINY)


def test_the_ground_truth_by_hand() -> None:
    gold = CharacterReward(("a", "b", ",", "\n", "E", "Q"))
    prompts, responses = torch.tensor([[0, 1]]), torch.tensor([[2, 3, 4, 5]])  # 1 + 0; 1.5 - 2 + (1 - 1) - 1
    assert gold(prompts, responses).item() == pytest.approx(math.tanh(1.5 * (1 - 1.5) / 4 - 0.5))
    assert gold.offset(prompts).item() == pytest.approx(0.5)
    x, y = torch.tensor([[0, 1], [0, 2]]), torch.tensor([[2, 2], [2, 2]])
    assert shrunk(gold, x, y)[0] == gold(x, y)[0] + 1, "an odd sum of codes: as it is"
    assert shrunk(gold, x, y)[1].item() == pytest.approx(0.001 * (gold(x, y)[1] + 1).item(), rel=1e-4)


def test_every_teacher_is_standardized_on_the_same_answers(room) -> None:
    assert set(room.teachers) == set(TEACHERS) >= {*PAPER, *DIAL, *MIXES}
    for name, teacher in room.teachers.items():
        with torch.no_grad():
            rewards = teacher(room.scored, room.answers)
        assert rewards.mean().item() == pytest.approx(0, abs=1e-4), name
        assert rewards.std().item() == pytest.approx(1, abs=1e-4), name


def test_an_offset_changes_the_variance_and_no_rank(room) -> None:
    for base in ("gold", "100%"):
        with torch.no_grad():
            plain, dialled = (room.teachers[name](room.scored, room.answers) for name in (base, f"{base} + 3b"))
        one, three = plain.double().view(TINY.scored, -1), dialled.double().view(TINY.scored, -1)
        inside = (one - one.mean(1, keepdim=True)) / (three - three.mean(1, keepdim=True))
        scale = inside[inside.isfinite() & (one - one.mean(1, keepdim=True)).abs().gt(0.05)]
        assert float(scale.std() / scale.mean()) < 0.01, "within a prompt it is a change of scale"
        assert room.measures["variance"][f"{base} + 3b"] < room.measures["variance"][base] / 3
    assert room.measures.loc[["gold", "shrunk", "gold + b"], ["on", "off"]].to_numpy().min() > 0.999
    assert room.measures["both"]["0%"] == pytest.approx(
        (room.measures["variance"]["0%"] + room.measures["on"]["0%"] / 2 + room.measures["off"]["0%"] / 2) / 2
    )


def test_the_other_author_writes_lower_case_on_one_line(room) -> None:
    written = room.texts["train"].decode(room.off_policy(50))
    assert written == written.lower()
    assert "\n" not in written


def test_an_untrained_policy_has_increased_nothing(room) -> None:
    assert room.increases("0%", room.policy) == {"proxy": 0, "gold": 0, "kl": 0}


def test_rows_of_every_lesson(lessons) -> None:
    assert len(lessons.measures) == 2 * len(TEACHERS)
    assert {"score rloo", "score grpo", "gradient", "on", "off", "accuracy", "both"} <= set(lessons.measures)
    looks = lessons.increases.groupby(["algo", "seed"])["step"].agg(lambda steps: sorted(set(steps)))
    assert looks["rloo"].tolist() == [[2, 3]] * 2
    assert looks["grpo"].tolist() == [[3]] * 2
    assert lessons.table("gold").shape == (2, len(TEACHERS))
    assert lessons.cost("grpo", "sgd").shape == (2,)
    assert lessons.cost("rloo", "adam") is None
    np.testing.assert_array_less(lessons.checks[["grpo", "rate"]].to_numpy(), 0.05)


def test_seeds_do_not_depend_on_each_other_or_on_the_processes(lessons) -> None:
    alone = Lessons.run(dataclasses.replace(TINY, seeds=(101,), runs={("rloo", "sgd"): ("gold",)}))
    both = lessons.increases.query("seed == 101 and teacher == 'gold' and algo == 'rloo'")
    pd.testing.assert_frame_equal(alone.increases, both.reset_index(drop=True))


@pytest.mark.slow
def test_two_processes_find_the_same(lessons) -> None:
    little = {"runs": {("rloo", "sgd"): ("gold",)}}
    found = Lessons.run(dataclasses.replace(TINY, processes=2, **little))
    expected = lessons.increases.query("teacher == 'gold' and algo == 'rloo'").reset_index(drop=True)
    pd.testing.assert_frame_equal(found.increases, expected, rtol=1e-4)


def invented() -> Lessons:
    """Four teachers, two seeds, two policies; increases that are known functions of the variance."""
    rows, measures = [], []
    for policy, slope in (("a", 1.0), ("b", -1.0)):
        for seed in (0, 1):
            for index, name in enumerate(("gold", "gold + 3b", "100%", "100% + 3b")):
                variance = [0.4, 0.1, 0.8, 0.2][index]
                measures.append({"policy": policy, "seed": seed, "teacher": name, "variance": variance, "on": index})
                for step in (2, 3):
                    gold = (slope if seed else 1.0) * variance * step
                    row = {"policy": policy, "seed": seed, "teacher": name, "step": step, "gold": gold}
                    rows.append(row | {"proxy": 1.0, "kl": step * 1.0, "algo": "rloo", "optimizer": "sgd"})
    runs = {("rloo", "sgd"): ("gold", "gold + 3b", "100%", "100% + 3b")}
    cfg = dataclasses.replace(TINY, runs=runs)
    return Lessons(cfg, pd.DataFrame(measures), pd.DataFrame(rows), pd.DataFrame())


def test_correlations_are_one_a_seed_and_means_over_policies() -> None:
    lessons = invented()
    four = ("gold", "gold + 3b", "100%", "100% + 3b")
    np.testing.assert_allclose(lessons.correlations("variance", "gold", four), [1, 0], atol=1e-12)
    np.testing.assert_allclose(lessons.correlations("variance", "gold", four, kind="spearman", step=2), [1, 0])
    ranks = np.corrcoef([0.4, 0.1, 0.8, 0.2], range(4))[0, 1]
    made = lessons.advantage("variance", "on", four, "gold")
    assert made.value == pytest.approx(((1 - ranks) + 0) / 2)


def test_costs_and_ways_by_hand() -> None:
    lessons = invented()
    np.testing.assert_allclose(lessons.table("gold")["gold"], [1.2, 0])
    np.testing.assert_allclose(lessons.cost("rloo", "sgd"), [0.9, 0], atol=1e-12)
    ways = lessons.kl_at(0.4)
    assert ways["gold"][0] == pytest.approx(1.0)  # half way to the first look, where 0.8 was reached at a KL of 2
    assert ways["gold + 3b"].isna().all(), "it never rose by so much"
