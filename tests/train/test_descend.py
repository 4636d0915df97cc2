"""Many starts descend as one parameter, each as it would alone."""

import dataclasses
import functools
import math

import pytest
import torch

from flatlab import test_functions
from flatlab.train import descend

OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}


def starts(surface, count=8, seed=0):
    return surface.uniform_starts(count, generator=torch.Generator().manual_seed(seed))


class NormalizedDescent(torch.optim.Optimizer):
    """Steps of length lr against a two-pass gradient, normalised per network, as `stacks` announces."""

    stacks = True
    made_with: list = []  # noqa: RUF012

    def __init__(self, params, lr, *, networks=None, rho=0.0):
        super().__init__(params, {"lr": lr})
        self.networks, self.rho = networks, rho
        self.made_with.append((networks, rho))

    def step(self, closure):
        (parameter,) = self.param_groups[0]["params"]
        loss = closure()
        with torch.no_grad():
            parameter.add_(self.rho)
            closure()
            parameter.sub_(self.rho)
            norm = parameter.grad.norm(dim=1, keepdim=True) if self.networks else parameter.grad.norm()
            parameter.sub_(self.param_groups[0]["lr"] * parameter.grad / norm)
        return loss


class TestDescend:
    def test_gradient_descent_by_hand(self):
        surface = test_functions.levy()
        x0 = x = starts(surface)
        run = descend(surface, x0, torch.optim.SGD, steps=3, lr=0.01, record=1)
        for step in range(3):
            torch.testing.assert_close(run.path[step], x)
            x = x - 0.01 * surface.gradient(x)
        torch.testing.assert_close(run.x, x)
        assert torch.equal(run.values, surface(run.x))
        assert torch.equal(run.path_values, surface(run.path))

    @pytest.mark.parametrize("name", OPTIMIZERS)
    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    def test_each_start_goes_as_it_would_alone(self, name, schedule):
        surface = test_functions.levy()
        x0 = starts(surface, 4)
        options = {"steps": 30, "lr": 0.02, "schedule": schedule}
        together = descend(surface, x0, OPTIMIZERS[name], **options)
        alone = [descend(surface, row[None], OPTIMIZERS[name], **options).x for row in x0]
        torch.testing.assert_close(together.x, torch.cat(alone), rtol=1e-12, atol=1e-12)

    def test_cosine_goes_from_the_rate_to_zero(self):
        surface = test_functions.two_basins()
        run = descend(surface, starts(surface), NormalizedDescent, steps=10, lr=0.01, schedule="cosine", record=1)
        lengths = run.path.diff(dim=0).abs()[:, 0, 0]
        expected = [0.005 * (1 + math.cos(math.pi * t / 10)) for t in range(10)]
        assert lengths.tolist() == pytest.approx(expected)

    def test_finds_the_bottom_of_the_well_it_starts_in(self):
        surface = test_functions.two_basins(3, 100.0)
        x0 = surface.sharp_starts(8, generator=torch.Generator().manual_seed(0))
        run = descend(surface, x0, torch.optim.Adam, steps=300, lr=0.003, schedule="cosine")
        torch.testing.assert_close(run.x, surface.minima[1].expand(8, 3), rtol=0, atol=1e-5)
        assert run.reached(surface.optimum + 1e-8).all()
        assert not run.reached(surface.optimum - 1e-8).any()
        assert not surface.escaped(run.x).any()

    def test_leaves_the_starts_and_the_global_stream_alone(self):
        surface = test_functions.ackley()
        x0 = starts(surface)
        copy, state = x0.clone(), torch.get_rng_state()
        with torch.no_grad():
            run = descend(surface, x0, torch.optim.Adam, steps=5, lr=0.1)
        assert torch.equal(x0, copy)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(run.x, x0)
        assert not run.x.requires_grad

    @pytest.mark.parametrize(("record", "kept"), [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 3, 6]), (8, [0])])
    def test_records_every_kth_iterate(self, record, kept):
        surface = test_functions.levy()
        run = descend(surface, starts(surface), torch.optim.Adam, steps=7, lr=0.1, record=record)
        assert run.path.shape == (len(kept), 8, 2)
        assert run.path_values.shape == (len(kept), 8)
        for row, steps in zip(run.path, kept, strict=True):
            assert torch.equal(row, descend(surface, starts(surface), torch.optim.Adam, steps=steps, lr=0.1).x)

    def test_keeps_no_path_unless_asked(self):
        run = descend(test_functions.levy(), starts(test_functions.levy()), torch.optim.Adam, steps=2, lr=0.1)
        assert run.path is None
        assert run.path_values is None

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_computes_in_the_precision_of_the_starts(self, dtype):
        run = descend(test_functions.levy(), starts(test_functions.levy()).to(dtype), torch.optim.Adam, steps=2, lr=0.1)
        assert run.x.dtype == run.values.dtype == dtype


class TestDivergence:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_a_start_that_diverges_disturbs_no_other_and_never_succeeds(self, name):
        surface = test_functions.goldstein_price()
        x0 = starts(surface)
        spoiled = x0.clone()
        spoiled[2], spoiled[5] = 1e200, math.nan
        options = {"steps": 40, "lr": 0.003}
        clean = descend(surface, x0, OPTIMIZERS[name], **options)
        run = descend(surface, spoiled, OPTIMIZERS[name], **options)
        bad = torch.arange(8).unsqueeze(1).eq(torch.tensor([2, 5])).any(dim=1)
        assert torch.equal(run.diverged, bad)
        assert not clean.diverged.any()
        assert torch.equal(run.x[~bad], clean.x[~bad])
        assert run.values[bad].tolist() == [math.inf, math.inf]
        assert torch.equal(run.reached(1e300), ~bad)

    def test_steps_that_blow_up_are_found_out(self):
        surface = test_functions.goldstein_price(log=False)
        run = descend(surface, starts(surface), torch.optim.SGD, steps=60, lr=1.0)
        assert run.diverged.all()
        assert run.values.eq(math.inf).all()

    def test_either_the_point_or_its_value_may_show_it(self):
        bounded = test_functions.Surface("line", lambda x: x.tanh().sum(dim=-1), 1, (-1.0, 1.0), torch.empty(0, 1))
        points = torch.tensor([[0.0], [-math.inf]])
        assert descend(bounded, points, torch.optim.SGD, steps=0, lr=1.0).diverged.tolist() == [False, True]
        points = torch.tensor([[0.0, 0.0], [1e10, 1e10]])
        run = descend(test_functions.goldstein_price(log=False), points, torch.optim.SGD, steps=0, lr=1.0)
        assert run.diverged.tolist() == [False, True]


class TestStacks:
    def setup_method(self):
        NormalizedDescent.made_with.clear()

    @pytest.mark.parametrize("wraps", [0, 1, 2])
    def test_an_optimizer_that_stacks_is_told_of_the_networks(self, wraps):
        optimizer = NormalizedDescent
        for _ in range(wraps):
            optimizer = functools.partial(optimizer, rho=0.25)
        surface = test_functions.levy()
        run = descend(surface, starts(surface, 6), optimizer, steps=1, lr=0.5, record=1)
        assert NormalizedDescent.made_with == [(6, 0.25 if wraps else 0.0)]
        torch.testing.assert_close(run.path.diff(dim=0).norm(dim=-1), torch.full((1, 6), 0.5, dtype=torch.float64))

    def test_the_closure_gives_the_gradient_at_the_current_point(self):
        surface = test_functions.levy()
        x0 = starts(surface, 3)
        run = descend(surface, x0, functools.partial(NormalizedDescent, rho=0.1), steps=1, lr=0.5)
        ascended = torch.nn.functional.normalize(surface.gradient(x0 + 0.1), dim=1)
        torch.testing.assert_close(run.x, x0 - 0.5 * ascended)


def test_sixty_four_starts_take_one_evaluation_a_step():
    surface, shapes = test_functions.levy(), []

    def counted(x):
        shapes.append(tuple(x.shape))
        return surface.function(x)

    descend(dataclasses.replace(surface, function=counted), starts(surface, 64), torch.optim.Adam, steps=50, lr=0.1)
    assert shapes == [(64, 2)] * 51  # and one for where they ended


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"starts": torch.zeros(2)}, ValueError, r"starts must have shape \(S, 2\) with S >= 1, got \(2,\)"),
        ({"starts": torch.zeros(0, 2)}, ValueError, "S >= 1"),
        ({"starts": torch.zeros(3, 3)}, ValueError, "points of levy"),
        ({"starts": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "floating point"),
        ({"steps": -1}, ValueError, "steps must be an integer >= 0, got -1"),
        ({"record": 1.5}, ValueError, "record"),
        ({"lr": -0.1}, ValueError, "lr must be a finite number >= 0, got -0.1"),
        ({"schedule": "cosin"}, ValueError, "unknown schedule 'cosin'.*did you mean 'cosine'"),
    ],
)
def test_errors_name_the_value_and_the_bound(change, error, message):
    arguments = {"starts": torch.zeros(3, 2), "optimizer": torch.optim.SGD, "steps": 1, "lr": 0.1} | change
    with pytest.raises(error, match=message):
        descend(test_functions.levy(), **arguments)


def test_a_summary_is_of_the_end():
    surface = test_functions.levy()
    run = descend(surface, starts(surface), torch.optim.Adam, steps=100, lr=0.3)
    found = run.summary(surface)
    assert found["mean value"] == pytest.approx(float(surface(run.x).mean()))
    assert found["at the minimum"] == float((run.values <= surface.optimum + 0.05).double().mean())
    assert found["top curvature"] == pytest.approx(float(surface.top_curvature(run.x).mean()))
