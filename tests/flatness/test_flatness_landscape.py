"""The one abstraction: scalar functions over inputs, weights or both, and models left as they were found."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatlab import flatness


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def snapshot(model):
    return [(id(p), p.detach().clone(), p.requires_grad, p.grad) for p in model.parameters()]


def assert_untouched(model, before):
    for p, (identity, value, requires_grad, grad) in zip(model.parameters(), before, strict=True):
        assert id(p) == identity
        assert torch.equal(p, value)
        assert (p.requires_grad, p.grad) == (requires_grad, grad)


def everything(landscape):
    flatness.top_eigenvalues(landscape, max_steps=3, generator=gen())
    flatness.hutchinson_trace(landscape, probes=1, generator=gen())
    flatness.spectral_density(landscape, steps=2, probes=1, generator=gen())
    flatness.sam_sharpness(landscape)
    flatness.sam_sharpness(landscape, adaptive=True)
    flatness.loss_line(landscape, flatness.gaussian(landscape.point, generator=gen()), n=2)


class TestWeights:
    def test_model_is_left_as_found(self, points, trained):
        x, y = points
        before = snapshot(trained)
        with torch.no_grad():
            everything(flatness.over_parameters(trained, lambda m: F.cross_entropy(m(x), y)))
        assert_untouched(trained, before)

    @pytest.mark.parametrize("calls", [0, 1, 2, 3])
    def test_also_after_an_exception(self, points, trained, calls):
        x, y = points
        before, left = snapshot(trained), calls

        def fails_later(model):
            nonlocal left
            if left == 0:
                raise KeyError("interrupted")
            left -= 1
            return F.cross_entropy(model(x), y)

        with pytest.raises(KeyError, match="interrupted"):
            flatness.loss_line(
                flatness.over_parameters(trained, fails_later), [torch.ones_like(p) for p in trained.parameters()]
            )
        left = min(calls, 2)
        with pytest.raises(KeyError, match="interrupted"):
            flatness.sam_sharpness(flatness.over_parameters(trained, fails_later))
        assert_untouched(trained, before)

    def test_the_point_follows_training(self, points):
        x, y = points
        model = nn.Linear(64, 10)
        landscape = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))
        with torch.no_grad():
            model.weight.fill_(0.5), model.bias.zero_()
        assert landscape.value() == pytest.approx(math.log(10), rel=1e-6)

    def test_choice_of_parameters(self, points, trained):
        x, y = points
        loss = lambda m: F.cross_entropy(m(x), y)  # noqa: E731
        last = flatness.over_parameters(trained, loss, only=["2.bias", "2.weight"])
        assert last.names == ("2.weight", "2.bias")
        assert last.size == 650
        whole = flatness.over_parameters(trained, loss)
        for g, h in zip(last.gradient(), whole.gradient()[2:], strict=True):
            torch.testing.assert_close(g, h)
        trained[0].requires_grad_(False)
        try:
            assert flatness.over_parameters(trained, loss).names == ("2.weight", "2.bias")
        finally:
            trained[0].requires_grad_(True)
        with pytest.raises(ValueError, match=r"\['3.weight'\]"):
            flatness.over_parameters(trained, loss, only=["3.weight"])
        with pytest.raises(ValueError, match="no parameters"):
            flatness.over_parameters(nn.Flatten(), loss)

    def test_parts_are_their_mean(self, points, trained):
        x, y = points
        whole = flatness.over_parameters(trained, lambda m: F.cross_entropy(m(x), y))
        parts = flatness.over_parameters(
            trained, [lambda m, s=slice(i, i + 100): F.cross_entropy(m(x[s]), y[s]) for i in (0, 100, 200)]
        )
        assert parts.value() == pytest.approx(whole.value(), rel=1e-5)
        vector = flatness.gaussian(whole.point, generator=gen())
        for of in (lambda space: space.gradient(), lambda space: flatness.hvp(space, vector)):
            for p, q in zip(of(parts), of(whole), strict=True):
                torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
        a, b = (flatness.top_eigenvalues(landscape, generator=gen()).values for landscape in (whole, parts))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=0)

    def test_loss_may_use_any_attribute(self):
        class Policy(nn.Module):
            """A softmax over four answers, with no forward at all."""

            def __init__(self):
                super().__init__()
                self.logits = nn.Parameter(torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log())

            def expected(self, reward):
                return self.logits.softmax(0) @ reward

        reward = torch.tensor([0.9, 0.1, -0.5, -0.2], dtype=torch.float64)
        landscape = flatness.over_parameters(Policy(), lambda policy: policy.expected(reward))
        assert landscape.value() == pytest.approx(0.27)
        assert landscape.gradient()[0].tolist() == pytest.approx([0.252, -0.051, -0.154, -0.047])
        spectrum = flatness.top_eigenvalues(landscape, 4, generator=gen()).values
        assert spectrum.tolist() == pytest.approx([0.08534344, 0, -0.05264442, -0.13269910], abs=1e-7)

    def test_weights_times_inputs(self, points, trained):
        x, y = points
        landscape = flatness.over_parameters(trained, lambda m, x: F.cross_entropy(m(x), y[:3]), joint=[x[:3]])
        assert landscape.names[-1] == "joint0"
        leaf = x[:3].clone().requires_grad_()
        wanted = torch.autograd.grad(F.cross_entropy(trained(leaf), y[:3]), leaf)[0]
        torch.testing.assert_close(landscape.gradient()[-1], wanted)
        everything(landscape)

    def test_one_player_of_a_game(self):
        torch.manual_seed(0)
        game = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 1)])
        z = torch.randn(8, 2, generator=gen())
        loss = lambda players: F.softplus(-players[1](players[0](z))).mean()  # noqa: E731
        generator = flatness.over_parameters(game, loss, only=["0.weight", "0.bias"])
        assert generator.size == 6
        everything(generator)

    @pytest.mark.parametrize("kind", ["lstm", "attention", "tied"])
    def test_layers_with_special_kernels(self, kind):
        torch.manual_seed(0)
        x = torch.randn(2, 5, 8, generator=gen())
        if kind == "lstm":
            model = nn.LSTM(8, 8, batch_first=True)
            loss = lambda m: m(x)[0].square().mean()  # noqa: E731
        elif kind == "attention":
            model = nn.Linear(8, 24)

            def loss(m):
                q, k, v = m(x)[:, None].chunk(3, -1)
                return F.scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()

        else:
            model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
            model[2].weight = model[0].weight
            loss = lambda m: m(x).square().mean()  # noqa: E731
        model.eval()
        before = snapshot(model)
        landscape = flatness.over_parameters(model, loss)
        direction = flatness.gaussian(landscape.point, generator=gen())
        slope = [
            sum((g * d).sum().item() for g, d in zip(moved.gradient(), direction, strict=True))
            for h in (1e-2, -1e-2)
            for moved in [landscape.at(*landscape.displaced(direction, h))]
        ]
        product = sum((g * d).sum().item() for g, d in zip(flatness.hvp(landscape, direction), direction, strict=True))
        assert product == pytest.approx((slope[0] - slope[1]) / 2e-2, rel=2e-2, abs=1e-4)
        assert_untouched(model, before)

    def test_train_mode_is_refused(self, points):
        x, y = points
        model = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
        landscape = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))
        with pytest.raises(RuntimeError, match="train mode"):
            landscape.value()
        model.eval()
        running = model[1].running_mean.clone()
        everything(landscape)
        assert torch.equal(model[1].running_mean, running)

    def test_nan_weights(self, points):
        x, y = points
        model = nn.Linear(64, 10)
        nn.init.constant_(model.bias, math.nan)
        landscape = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))
        for measure in (flatness.top_eigenvalues, flatness.hutchinson_trace, flatness.sam_sharpness):
            with pytest.raises(ValueError, match="nan at its own point"):
                measure(landscape)


class TestFunctions:
    def test_what_a_function_may_return(self):
        w = torch.ones(2)
        with pytest.raises(TypeError, match="float"):
            flatness.over_tensors(lambda w: w.sum().item(), w).value()
        with pytest.raises(ValueError, match=r"shape \(2,\)"):
            flatness.over_tensors(lambda w: w, w).value()
        assert flatness.over_tensors(lambda w: w[:1], w).value() == 1
        with pytest.raises(ValueError, match="detached"):
            flatness.sam_sharpness(flatness.over_tensors(lambda w: w.detach().sum(), w))

    def test_what_a_point_may_be(self):
        with pytest.raises(TypeError, match="int64"):
            flatness.over_tensors(lambda w: w.sum(), torch.ones(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="at least one tensor"):
            flatness.over_tensors(lambda: torch.zeros(()))
        with pytest.raises(ValueError, match="at least one function"):
            flatness.over_tensors([], torch.ones(2))

    def test_differentiable_by_hand(self):
        landscape = flatness.over_tensors(lambda a, b: (a * b).sum(), torch.ones(2), torch.full((2,), 3.0))
        assert landscape().item() == 6
        leaf = torch.full((2,), 2.0, requires_grad=True)
        landscape(leaf, torch.ones(2)).backward()
        assert leaf.grad.tolist() == [1, 1]
        assert [g.tolist() for g in landscape.gradient()] == [[3, 3], [1, 1]]
        # An unused tensor is a coordinate in which the landscape is flat.
        ignoring = flatness.over_tensors(lambda a, b: a.square().sum(), torch.ones(2), torch.ones(1))
        assert ignoring.gradient()[1].tolist() == [0]
        assert flatness.hvp(ignoring, (torch.ones(2), torch.ones(1)))[1].tolist() == [0]
