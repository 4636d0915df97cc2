"""Known answers on quadratics and on constant gradients, each by two independent routes."""

import numpy as np
import pytest
import torch

from flatlab.optim import AdamCM, theory

# Largest stable mu for C = 0, 1, 2, 5, 10, 20.
STABLE = {
    0.9: (38, 1, 0.69806, 0.39278, 0.26076, 0.24623),
    0.5: (6, 1, 0.87689, 5.75039, 6, 6),
    0.0: (2, 1, 2, 2.23266, 2, 2),
}
CAPACITIES = (0, 1, 2, 5, 10, 20)
FIRST_STEPS = {
    "official": (0, 7.441, 3.567, 2.718, 1.265),
    "paper": (10, 7.035, 5.142, 4.165, 1.258),
    "corrected": (1, 1.265, 1.155, 1.109, 1.009),
}


def first_crossing(capacity: int, beta1: float) -> float:
    """The smallest mu > 0 with a root on the unit circle: there mu(z), solved from the polynomial, is real."""

    def mu(w: np.ndarray) -> np.ndarray:
        z = np.exp(1j * w)
        memory = sum(z**-k for k in range(1, capacity + 1)) / max(capacity, 1)
        return -(z - 1) * (z - beta1) / ((1 - beta1) * z * (1 + memory))

    w = np.linspace(1e-3, np.pi - 1e-7, 200_001)
    values = mu(w)
    with np.errstate(invalid="ignore"):
        i = np.flatnonzero(np.diff(np.sign(values.imag)) != 0)
    low, high = w[i], w[i + 1]
    for _ in range(60):
        middle = (low + high) / 2
        left = np.sign(mu(middle).imag) == np.sign(mu(low).imag)
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    found = [*mu(low).real, mu(np.array([np.pi - 1e-9]))[0].real]  # z = -1 is real for every mu
    return min(value for value in found if value > 1e-6)


class TestStability:
    @pytest.mark.parametrize("beta1", STABLE)
    def test_the_table(self, beta1):
        found = [theory.stable_curvature(capacity, beta1) for capacity in CAPACITIES]
        assert found == pytest.approx(STABLE[beta1], abs=6e-6)

    @pytest.mark.parametrize("beta1", [0.0, 0.3, 0.9, 0.99])
    def test_closed_forms(self, beta1):
        assert theory.stable_curvature(0, beta1) == pytest.approx(2 * (1 + beta1) / (1 - beta1), rel=1e-6)
        assert theory.stable_curvature(1, beta1) == pytest.approx(1, rel=1e-9)

    @pytest.mark.parametrize("capacity", [2, 3, 5, 20, 60])
    @pytest.mark.parametrize("beta1", [0.5, 0.9])
    def test_is_the_first_crossing_of_the_unit_circle(self, capacity, beta1):
        assert theory.stable_curvature(capacity, beta1) == pytest.approx(first_crossing(capacity, beta1), rel=1e-6)

    @pytest.mark.parametrize("capacity", CAPACITIES)
    def test_simulation_decays_below_and_grows_above(self, capacity):
        bound = theory.stable_curvature(capacity)
        below = np.abs(theory.simulate_quadratic(0.99 * bound, capacity, steps=20_000))
        assert below[-1000:].max() < 0.5 * below[1000:2000].max()
        above = np.abs(theory.simulate_quadratic(1.01 * bound, capacity, steps=20_000 if capacity else 500))
        assert above[-200:].max() > 2 * above[:200].max()

    @pytest.mark.parametrize("capacity", CAPACITIES)
    @pytest.mark.parametrize("mu", [0.05, 0.3, 0.8])
    def test_the_radius_is_the_rate_of_the_simulation(self, capacity, mu):
        x = np.abs(theory.simulate_quadratic(mu, capacity, steps=2400))
        rate = (x[2200:2400].max() / x[600:800].max()) ** (1 / 1600)
        assert theory.spectral_radius(mu, capacity) == pytest.approx(rate, abs=1e-3)

    def test_radius_at_zero_curvature_and_without_momentum(self):
        assert theory.spectral_radius(0.0, 5) == pytest.approx(1)
        assert theory.spectral_radius(0.3, 0, 0.0) == pytest.approx(0.7)  # gradient descent: 1 - mu

    @pytest.mark.parametrize(
        ("mu", "capacity", "lowest"),
        [
            (0.05, 0, -0.036),
            (0.05, 5, -0.219),
            (0.05, 20, -0.359),
            (0.2, 0, -0.295),
            (0.2, 5, -0.669),
            (0.2, 20, -0.696),
        ],
    )
    def test_overshoot(self, mu, capacity, lowest):
        assert theory.overshoot(mu, capacity) == pytest.approx(lowest, abs=6e-4)

    def test_first_iterates_by_hand(self):
        # beta1 = 0, mu = 1/2, C = 1: u is half of the current and of the last iterate.
        assert theory.simulate_quadratic(0.5, 1, 0.0, 3, start=4.0).tolist() == [4, 2, -1, -1.5]


class TestFirstSteps:
    @pytest.mark.parametrize("init", theory.INITS)
    def test_the_table(self, init):
        found = theory.first_steps(init)
        assert found.shape == (40,)
        assert found[[0, 1, 2, 3, 39]] == pytest.approx(FIRST_STEPS[init], abs=6e-4)

    @pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.5, 0.99), (0.0, 0.9)])
    def test_closed_forms(self, beta1, beta2):
        assert theory.first_steps("paper", beta1, beta2)[0] == pytest.approx(1 / (1 - beta1))
        assert theory.first_steps("official", beta1, beta2)[0] == 0
        assert theory.first_steps("official", beta1, beta2)[1] == pytest.approx((1 + beta2) ** 0.5 / (1 - beta1**2))
        assert theory.first_steps("corrected", beta1, beta2)[0] == pytest.approx(1)

    def test_without_memory_only_the_corrected_start_is_adams(self):
        assert theory.first_steps("corrected", capacity=0) == pytest.approx(np.ones(40))
        assert theory.first_steps("paper", capacity=0)[0] == pytest.approx(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.spectral_radius(-1.0, 5), "mu must be a finite number >= 0, got -1.0"),
        (lambda: theory.spectral_radius(float("nan"), 5), "mu"),
        (lambda: theory.stable_curvature(-1), "capacity must be an integer >= 0, got -1"),
        (lambda: theory.stable_curvature(1.5), "capacity"),
        (lambda: theory.stable_curvature(5, 1.0), r"beta1 must lie in \[0, 1\), got 1.0"),
        (lambda: theory.first_steps("paper", beta2=1.0), "beta2"),
        (lambda: theory.first_steps("papr"), "unknown init 'papr'.*did you mean 'paper'"),
    ],
)
def test_errors_name_the_value_and_the_bound(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("capacity", [0, 1, 5])
@pytest.mark.parametrize("curvature", [1.0, 30.0])
def test_an_iterate_circles_at_the_distance_of_the_theory(capacity, curvature):
    point = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    options = {"lr": 0.1, "betas": (0.9, 0.99), "capacity": capacity, "policy": "fifo", "init": "corrected"}
    optimizer, places = AdamCM([point], **options), []
    for _ in range(4000):
        point.grad = curvature * point.detach()
        optimizer.step()
        places.append(point.item())
    found = np.sqrt(np.mean(np.square(places[-2000:])))
    assert found == pytest.approx(0.1 * theory.cycle_size(capacity), rel=0.03)


def test_size_of_the_cycle_in_closed_form():
    assert theory.cycle_size(0) == pytest.approx(1 / 2, rel=1e-6)  # at z = -1
    assert theory.cycle_size(1) == pytest.approx(5**0.5, rel=1e-6)  # at z = 0.9 + 0.19^(1/2) i
