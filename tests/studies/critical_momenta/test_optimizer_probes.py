"""The probes, on optimizers whose answer is known."""

from functools import partial

import pytest
import torch

from flatlab.optim import AdamCG, AdamCM
from flatlab.studies.critical_momenta import optimizer_probes as probes


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_steps_on_constant_gradient() -> None:
    assert probes.steps_on_constant_gradient(torch.optim.SGD, steps=3) == [1, 1, 1]
    assert probes.steps_on_constant_gradient(partial(torch.optim.Adam, eps=0), steps=3) == pytest.approx([1, 1, 1])
    assert probes.steps_on_constant_gradient(partial(AdamCM, eps=0), steps=1) == pytest.approx([10])
    with pytest.raises(ValueError, match="steps"):
        probes.steps_on_constant_gradient(torch.optim.SGD, steps=0)


def test_end_on_noisy_quadratic() -> None:
    options = {"generator": generator(), "runs": 2}
    still = probes.end_on_noisy_quadratic(partial(torch.optim.SGD, lr=0.0), steps=5, **options)
    assert still.tolist() == [[0, 0, 0], [0, 0, 0]]
    options = {"generator": generator(), "runs": 2}
    one = probes.end_on_noisy_quadratic(partial(torch.optim.SGD, lr=1.0), steps=1, **options)
    assert torch.equal(one, -torch.randn(2, 3, generator=generator(), dtype=torch.float64))


def test_memory_agreement() -> None:
    same = probes.memory_agreement(partial(AdamCG, capacity=1), torch.ones(2), 0.0, generator=generator(), runs=3)
    assert same.tolist() == pytest.approx([1, 1, 1])
    noisy = probes.memory_agreement(partial(AdamCG, capacity=20), torch.zeros(50), 1.0, generator=generator(), runs=3)
    assert noisy.tolist() == pytest.approx([20**-0.5] * 3, rel=0.1)  # the mean of 20 independent items


def test_state_per_parameter() -> None:
    assert probes.state_per_parameter(torch.optim.Adam) == 2
    assert probes.state_per_parameter(partial(AdamCM, capacity=7)) == 10


def test_simulations_agree_with_the_threshold_and_would_show_a_wrong_one(monkeypatch):
    assert probes.stability_contradictions((0, 2), (0.9,)) == (0, 4)
    monkeypatch.setattr(probes, "stable_curvature", lambda c, _: {0: 76.0, 2: 1.4}[c])  # twice what it is
    assert probes.stability_contradictions((0, 2), (0.9,)) == (2, 4)
