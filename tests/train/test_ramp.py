"""The ramp of a radius, or of any other number that rises during training."""

import pytest
import torch

from flatlab.train import Ramp


def test_a_ramp_rises_smoothly_from_nothing_to_the_full_radius() -> None:
    ramp = Ramp(0.3, start=0.0, length=1.0, middle=0.25, power=4.0)
    steps = torch.linspace(0, 1, 1001, dtype=torch.float64)
    eps = torch.tensor([ramp(float(t)) for t in steps], dtype=torch.float64)
    assert eps[0] == 0
    assert float(eps[-1]) == pytest.approx(0.3)
    assert bool((eps.diff() >= 0).all())
    slope = eps.diff() / steps.diff()
    assert float(slope[250]) == pytest.approx(float(slope[249]), rel=0.02)  # no kink where the power ends
    torch.testing.assert_close(slope[251:], slope[-1].expand(749), rtol=1e-6, atol=1e-6)  # and a line from there on
    # a s^4 up to 1/4, then a line of its slope: a (1/4)^3 (4 - 3 / 4) = 0.3
    a = 0.3 / (0.25**3 * (4 - 3 * 0.25))
    assert ramp(0.1) == pytest.approx(a * 0.1**4)
    assert ramp.share(0.0) == 0.0
    assert ramp.share(1.0) == pytest.approx(1.0)
    assert ramp.share(0.1) == pytest.approx(ramp(0.1) / 0.3)


def test_a_ramp_waits_for_its_start() -> None:
    ramp = Ramp(0.3, start=0.2, length=0.5)
    assert ramp(0.2) == 0.0
    assert ramp(0.7) == pytest.approx(0.3)
    assert ramp(1.0) == pytest.approx(0.3)


def test_without_a_power_a_ramp_is_a_line_and_without_a_length_a_step() -> None:
    line = Ramp(2.0, start=0.2, length=0.5, middle=0.0)
    assert line(0.45) == pytest.approx(1.0)
    step = Ramp(2.0, start=0.5, length=0.0)
    assert (step(0.4), step(0.5)) == (0.0, 2.0)


def test_a_ramp_refuses_what_it_cannot_do() -> None:
    for make, message in (
        (lambda: Ramp(-1.0), "full.*> 0, got -1"),
        (lambda: Ramp(0.0), "full.*> 0"),
        (lambda: Ramp(0.1, start=2.0), r"start.*\[0, 1\].*2"),
        (lambda: Ramp(0.1, power=1.0), "power.*> 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
