"""Trainings of a few steps on embedded digits: two seeds, two runs with targets of their own, three methods."""

import copy
from collections.abc import Iterator

import pytest
import torch

from flatlab.studies.domain_generalization.worlds import Method, Task, Trained, train_all

METHODS = {
    "ERM": Method("ERM", 1e-2),
    "SAM": Method("SAM", 1e-2, {"rho": 0.1}),
    "UDIM": Method("UDIM", 1e-2, {"rho": 0.05, "rho_x": 1.5}),
}


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        "rotated",
        (("0",), ("45", "15")),
        {"angles": (0, 15, 45)},
        network_options={"widths": (8,)},
        steps=20,
        eval_every=10,
    )


@pytest.fixture(scope="session")
def once(task) -> Trained:
    return train_all(task, METHODS, (3, 1))


@pytest.fixture
def trained(once) -> Iterator[Trained]:
    """The networks, which no measure may change."""
    models = [run.selected[rule].model for runs in once.runs.values() for run in runs for rule in ("iid", "last")]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    yield once
    for model, state in zip(models, before, strict=True):
        assert not any(module.training for module in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
