"""The shared checks and the eval-mode context: what they say, and what they leave behind."""

import pytest
import torch
from torch import nn

from flatlab import checks
from flatlab.modes import evaluating, require_eval


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_numbers_are_named_with_their_bound(bad: float) -> None:
    with pytest.raises(ValueError, match="rho must be a finite number >= 0"):
        checks.nonnegative("rho", bad)
    with pytest.raises(ValueError, match="rho must be a finite number > 0"):
        checks.positive("rho", bad)
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 1.5"):
        checks.at_least("steps", 1.5, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got True"):
        checks.at_least("steps", True, 1)


def test_a_radius_in_8_bit_units_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match="write eps=8/255"):
        checks.radius(8)
    assert checks.radius(8 / 255) == 8 / 255


def test_inputs_and_labels() -> None:
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    assert checks.inputs(x) is x
    assert checks.labels(y, 3, 3) is y
    with pytest.raises(TypeError, match=r"x.float\(\) / 255"):
        checks.inputs((x * 255).byte())
    with pytest.raises(ValueError, match="non-empty batch"):
        checks.inputs(x[:0])
    with pytest.raises(ValueError, match=r"got values in \[.*, 2\]"):
        checks.inputs(torch.full((1, 2), 2.0))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        checks.inputs(torch.tensor([[0.5, float("nan")]]))
    with pytest.raises(ValueError, match=r"labels must lie in 0..1, got 0..2"):
        checks.labels(y, 3, 2)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        checks.labels(y, 4)
    with pytest.raises(TypeError, match="int64"):
        checks.labels(y.float(), 3)


def test_logits_name_the_bad_row() -> None:
    values = torch.zeros(4, 3)
    values[2, 1] = float("nan")
    with pytest.raises(ValueError, match="batch index 2"):
        checks.logits(values)
    with pytest.raises(ValueError, match=r"shape \(5, C\), got \(4, 3\)"):
        checks.logits(torch.zeros(4, 3), 5)


def test_modes_are_restored_layer_by_layer_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].eval()
    with pytest.raises(RuntimeError, match="layer '2'.*Dropout.*train mode"):
        require_eval(model)
    with evaluating(model):
        require_eval(model)
        assert [m.training for m in model] == [False, False, False]
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [m.training for m in model] == [True, False, True]
