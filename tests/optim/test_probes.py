"""The probes, on optimizers whose answer is known."""

from functools import partial

import pytest
import torch

from flatlab.optim import AdamCG, AdamCM, probes


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_constant_gradient() -> None:
    assert probes.constant_gradient(torch.optim.SGD, steps=3) == [1, 1, 1]
    assert probes.constant_gradient(partial(torch.optim.Adam, eps=0), steps=3) == pytest.approx([1, 1, 1])
    assert probes.constant_gradient(partial(AdamCM, eps=0), steps=1) == pytest.approx([10])
    with pytest.raises(ValueError, match="steps"):
        probes.constant_gradient(torch.optim.SGD, steps=0)


def test_quadratic_path() -> None:
    still = probes.quadratic_path(partial(torch.optim.SGD, lr=0.0), steps=5, generator=generator())
    assert still.tolist() == [[0, 0, 0]]
    one = probes.quadratic_path(partial(torch.optim.SGD, lr=1.0), steps=1, generator=generator())
    assert one.tolist() == [(-torch.randn(3, generator=generator(), dtype=torch.float64)).tolist()]


def test_memory_agreement() -> None:
    same = probes.memory_agreement(partial(AdamCG, capacity=1), torch.ones(2), 0.0, generator=generator(), runs=3)
    assert same.tolist() == pytest.approx([1, 1, 1])
    noisy = probes.memory_agreement(partial(AdamCG, capacity=20), torch.zeros(50), 1.0, generator=generator(), runs=3)
    assert noisy.tolist() == pytest.approx([20**-0.5] * 3, rel=0.1)  # the mean of 20 independent items


def test_state_numbers() -> None:
    assert probes.state_numbers(torch.optim.Adam) == 2
    assert probes.state_numbers(partial(AdamCM, capacity=7)) == 10
