"""Options are stated once for a family: inherited, with other defaults where a class says so, and no attributes."""

import inspect
import pickle

import pytest
import torch

from flatlab import optim

MEMORY = (optim.AdamCM, optim.AdamCG, optim.SGDCM, optim.SGDCG)


def defaults(cls: type) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}


def test_a_class_changes_only_the_defaults_that_it_names() -> None:
    adam, gradients = defaults(optim.AdamCM), defaults(optim.AdamCG)
    assert adam.keys() == gradients.keys()
    changed = {name: value for name, value in gradients.items() if value != adam[name]}
    assert changed == {"capacity": 10, "memory": "gradient", "decoupled_weight_decay": False}
    assert list(adam)[:5] == ["lr", "betas", "eps", "weight_decay", "amsgrad"]
    assert list(defaults(optim.SGDCM))[:3] == ["lr", "momentum", "weight_decay"]
    assert defaults(optim.SGDCM) == defaults(optim.SGDCG)


@pytest.mark.parametrize("cls", MEMORY)
def test_shared_options_are_given_by_name(cls: type) -> None:
    kinds = {name: parameter.kind for name, parameter in inspect.signature(cls).parameters.items()}
    assert {"capacity", "decay", "kappa", "norm", "networks", "foreach"} <= kinds.keys()
    assert kinds["capacity"] is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="positional"):
        cls([torch.zeros(1, requires_grad=True)], *[0.1] * 7)


@pytest.mark.parametrize("cls", MEMORY)
def test_the_values_are_in_the_groups_alone(cls: type) -> None:
    optimizer = cls([torch.zeros(2, requires_grad=True)], lr=0.5, capacity=3)
    for one in (optimizer, pickle.loads(pickle.dumps(optimizer))):
        assert (one.param_groups[0]["lr"], one.param_groups[0]["capacity"]) == (0.5, 3)
        assert not [name for name in defaults(cls) if hasattr(one, name)]


def test_sharpness_aware_optimizers_show_their_options() -> None:
    expected = {
        optim.SAM: {"rho": 0.05, "adaptive": False, "eta": 0.0},
        optim.ASAM: {"rho": 0.5, "adaptive": True, "eta": 0.01},
        optim.GSAM: {"rho": 0.05, "adaptive": False, "eta": 0.0, "alpha": 0.4, "rho_min": None, "rho_max": None},
        optim.SAGM: {"rho": 0.05, "adaptive": False, "eta": 0.0, "alpha": 0.001},
    }
    shared = {"base_optimizer": torch.optim.SGD, "model": None, "running_stats": "first", "networks": None}
    for cls, own in expected.items():
        assert defaults(cls) == own | shared
        assert list(inspect.signature(cls).parameters)[-1] == "base_options"
        group = cls([torch.zeros(1, requires_grad=True)], lr=0.1).param_groups[0]
        assert {name: group[name] for name in own} == own
    with pytest.raises(TypeError, match="rhoo"):
        optim.SAM([torch.zeros(1, requires_grad=True)], lr=0.1, rhoo=0.1)
