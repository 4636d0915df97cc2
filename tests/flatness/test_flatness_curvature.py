"""Hessians: known spectra on the points, quadratic forms, multiplicities, standard errors, sharpness."""

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from flatlab import flatness
from flatlab.flatness.lanczos import lanczos


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratic(matrix, at=None):
    """The landscape w^T A w / 2, with A symmetric, around `at`."""
    return flatness.over_tensors(lambda w: 0.5 * w @ matrix @ w, torch.zeros(len(matrix)) if at is None else at)


def spectrum(*eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    q = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=gen(seed), dtype=torch.float64)).Q
    return q @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ q.T


@pytest.fixture(scope="module")
def logreg(points):
    """Logistic regression at zero weights: H = (X^T X / n) kron (I / 10 - 1 1^T / 100), 650 parameters."""
    x, y = points
    model = nn.Linear(64, 10)
    for p in model.parameters():
        nn.init.zeros_(p)
    return flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))


@pytest.fixture(scope="module")
def mlp_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def mlp(points, mlp_model):
    x, y = points
    return flatness.over_parameters(mlp_model, lambda m: F.cross_entropy(m(x), y))


@pytest.fixture(scope="module")
def mlp_exact(points, mlp_model):
    """The whole Hessian of that network, 1210 x 1210, in double precision."""
    x, y = points
    named = {name: p.detach().double() for name, p in mlp_model.named_parameters()}
    sizes = [p.numel() for p in named.values()]

    def loss(flat):
        pieces = (v.reshape(p.shape) for v, p in zip(flat.split(sizes), named.values(), strict=True))
        return F.cross_entropy(functional_call(mlp_model, dict(zip(named, pieces, strict=True)), x.double()), y)

    return jacrev(jacrev(loss))(torch.cat([p.flatten() for p in named.values()]))


class TestKnownSpectra:
    def test_logistic_regression(self, logreg):
        top = flatness.top_eigenvalues(logreg, 10, generator=gen())
        assert top.converged
        assert top.values[:9].tolist() == pytest.approx([1.1477176] * 9, abs=1e-5)  # nine copies
        assert top.values[9] < 0.1
        low = flatness.top_eigenvalues(logreg, 1, end="min", generator=gen())
        assert low.values.item() == pytest.approx(0, abs=1e-4)
        trace = flatness.hutchinson_trace(logreg, probes=200, generator=gen())
        assert abs(trace.mean - 14.461863) < 4 * trace.stderr
        assert trace.stderr == pytest.approx(0.33, abs=0.1)
        assert flatness.sam_sharpness(logreg) == pytest.approx(0.024876, abs=2e-6)

    def test_tanh_network(self, mlp):
        top = flatness.top_eigenvalues(mlp, 3, generator=gen())
        assert top.converged
        assert top.values.tolist() == pytest.approx([1.13985, 1.03560, 0.80098], abs=1e-5)
        low = flatness.top_eigenvalues(mlp, 1, end="min", generator=gen())
        assert low.values.item() == pytest.approx(-0.57111, abs=1e-5)
        trace = flatness.hutchinson_trace(mlp, probes=200, generator=gen())
        assert abs(trace.mean - 4.73224) < 4 * trace.stderr
        assert flatness.sam_sharpness(mlp) == pytest.approx(0.020705, abs=2e-6)

    def test_tanh_network_against_its_whole_hessian(self, mlp, mlp_exact):
        assert mlp_exact.trace().item() == pytest.approx(4.73224, abs=1e-4)
        assert mlp_exact.norm().item() == pytest.approx(3.61549, abs=1e-5)
        vector = torch.randn(1210, generator=gen())
        product = flatness.Hessian(mlp) @ vector
        torch.testing.assert_close(product.double(), mlp_exact @ vector.double(), atol=1e-5, rtol=1e-4)
        top = flatness.top_eigenvalues(mlp, 5, vectors=True, generator=gen())
        torch.testing.assert_close(top.values, torch.linalg.eigvalsh(mlp_exact).flip(0)[:5], atol=1e-5, rtol=0)
        residuals = (top.vectors.double() @ mlp_exact - top.values[:, None] * top.vectors).norm(dim=1)
        torch.testing.assert_close(residuals, top.residuals, atol=2e-6, rtol=0)
        torch.testing.assert_close(top.vectors @ top.vectors.T, torch.eye(5), atol=1e-5, rtol=0)
        # The standard error of the trace has a closed form for random signs.
        off_diagonal = mlp_exact.norm().square() - mlp_exact.diag().square().sum()
        trace = flatness.hutchinson_trace(mlp, probes=400, generator=gen())
        assert trace.stderr == pytest.approx(math.sqrt(2 * off_diagonal / 400), rel=0.2)
        assert abs(trace.mean - mlp_exact.trace()) < 4 * trace.stderr
        assert top.values[0] >= mlp_exact.trace() / 1210

    def test_traces_by_tensor(self, mlp, mlp_exact):
        trace = flatness.hutchinson_trace(mlp, probes=400, generator=gen())
        assert list(trace.by_tensor) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert sum(mean for mean, _ in trace.by_tensor.values()) == pytest.approx(trace.mean)
        start = 0
        for (mean, stderr), tensor in zip(trace.by_tensor.values(), mlp.point, strict=True):
            block = mlp_exact.diag()[start : start + tensor.numel()].sum().item()
            assert abs(mean - block) < 4 * stderr + 1e-6
            start += tensor.numel()

    def test_spectral_density(self, mlp, mlp_exact):
        one = flatness.spectral_density(mlp, probes=1, generator=gen())
        assert one.values.max().item() == pytest.approx(1.13985, abs=1e-4)
        assert one.weights.sum().item() == pytest.approx(1, abs=1e-12)
        # A quadrature rule from one vector of signs gives that vector's quadratic forms: v^T H v / n and ||H v||^2 / n.
        probe = flatness.rademacher(torch.zeros(1210), generator=gen()).double()
        for power, form in ((1, probe @ mlp_exact @ probe), (2, (mlp_exact @ probe).square().sum())):
            assert 1210 * (one.weights * one.values**power).sum().item() == pytest.approx(form.item(), rel=1e-3)
        many = flatness.spectral_density(mlp, probes=20, generator=gen())
        assert many.weights.sum().item() == pytest.approx(1, abs=1e-12)
        assert torch.trapezoid(many.density, many.grid).item() == pytest.approx(1, abs=1e-4)
        exact = torch.linalg.eigvalsh(mlp_exact)
        for edge in (-0.1, 0.1):
            share = many.weights[many.values > edge].sum().item()
            assert share == pytest.approx((exact > edge).double().mean().item(), abs=0.03)

    def test_the_density_is_smoothed_by_a_hundredth_of_the_range(self, mlp):
        found = flatness.spectral_density(mlp, steps=5, probes=2, generator=gen())
        width = 0.01 * float(found.values.max() - found.values.min())
        same = flatness.spectral_density(mlp, steps=5, probes=2, bandwidth=width, generator=gen())
        assert torch.equal(found.grid, same.grid)
        assert torch.equal(found.density, same.density)
        assert float(found.grid[0]) == pytest.approx(float(found.values.min()) - 5 * width)


class TestEigenvalues:
    def test_multiplicities_and_negative_ends(self):
        landscape = quadratic(spectrum(-5, -5, -1, 0, 0, 2, 2, 2, 3, 3), torch.zeros(10, dtype=torch.float64))
        top = flatness.top_eigenvalues(landscape, 6, generator=gen())
        assert top.values.tolist() == pytest.approx([3, 3, 2, 2, 2, 0], abs=1e-6)
        low = flatness.top_eigenvalues(landscape, 3, end="min", generator=gen())
        assert low.values.tolist() == pytest.approx([-5, -5, -1], abs=1e-6)
        assert top.converged
        assert low.converged
        everything = flatness.top_eigenvalues(landscape, 10, generator=gen())
        assert everything.values.tolist() == pytest.approx([3, 3, 2, 2, 2, 0, 0, -1, -5, -5], abs=1e-6)

    @settings(deadline=None, max_examples=15)
    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.integers(0, 1000), st.data())
    def test_any_spectrum(self, eigenvalues, seed, data):
        k = data.draw(st.integers(1, len(eigenvalues)))
        landscape = quadratic(spectrum(*eigenvalues), torch.zeros(len(eigenvalues), dtype=torch.float64))
        top = flatness.top_eigenvalues(landscape, k, tol=1e-8, generator=gen(seed))
        assert top.values.tolist() == pytest.approx(sorted(eigenvalues, reverse=True)[:k], abs=1e-5)
        density = flatness.spectral_density(landscape, generator=gen(seed))
        assert density.weights.sum().item() == pytest.approx(1)

    def test_says_so_when_it_has_not_converged(self):
        landscape = quadratic(torch.arange(200.0).diag(), torch.zeros(200))
        top = flatness.top_eigenvalues(landscape, 2, max_steps=5, generator=gen())
        assert len(top.values) == 2
        assert not top.converged
        assert top.residuals.max() > 1
        # Each residual bounds the distance to an eigenvalue, here an integer.
        assert ((top.values - top.values.round()).abs() <= top.residuals).all()

    def test_flat_landscapes(self):
        linear = flatness.over_tensors(lambda w: w.sum(), torch.zeros(5))
        top = flatness.top_eigenvalues(linear, 2, generator=gen())
        assert top.values.tolist() == [0, 0]
        assert top.converged
        assert flatness.hutchinson_trace(linear, probes=3).mean == 0
        assert flatness.spectral_density(linear).weights.sum().item() == pytest.approx(1)

    def test_same_seed_same_bits(self, mlp):
        for measure in (flatness.top_eigenvalues, flatness.spectral_density):
            assert torch.equal(measure(mlp, generator=gen(3)).values, measure(mlp, generator=gen(3)).values)
        first, second, other = (flatness.hutchinson_trace(mlp, probes=4, generator=gen(s)) for s in (1, 1, 2))
        assert torch.equal(first.samples, second.samples)
        assert not torch.equal(first.samples, other.samples)

    def test_lanczos_basis_is_orthonormal_and_tridiagonalises(self):
        matrix = spectrum(*range(40)).float()
        tridiagonal, beta, basis = lanczos(lambda v: matrix @ v, torch.randn(40, generator=gen()), 25)
        assert beta > 0
        torch.testing.assert_close(basis @ basis.T, torch.eye(25), atol=1e-5, rtol=0)
        torch.testing.assert_close((basis @ matrix @ basis.T).double(), tridiagonal, atol=1e-4, rtol=0)

    def test_graph_is_freed(self, points):
        x, kept, model = points[0], [], nn.Linear(64, 10)

        class Saved:
            def __init__(self, tensor):
                self.tensor = tensor
                kept.append(weakref.ref(self))

        def loss(model):
            with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
                # No operation here saves its own output, which these hooks would turn into a cycle.
                return model(x).sin().square().mean()

        landscape = flatness.over_parameters(model, loss)
        gc.disable()
        try:
            flatness.top_eigenvalues(landscape, generator=gen())
            flatness.hutchinson_trace(landscape, probes=2, generator=gen())
            flatness.hvp(landscape, landscape.point)
            assert kept
            assert all(reference() is None for reference in kept)
        finally:
            gc.enable()

    def test_failures(self, mlp):
        for call, message in (
            (lambda: flatness.top_eigenvalues(mlp, 0), "k must"),
            (lambda: flatness.top_eigenvalues(mlp, 1211), "1210 dimensions"),
            (lambda: flatness.top_eigenvalues(mlp, end="largest"), "max, min"),
            (lambda: flatness.top_eigenvalues(mlp, max_steps=0), "max_steps"),
            (lambda: flatness.top_eigenvalues(mlp, tol=0), "tol"),
            (lambda: flatness.hutchinson_trace(mlp, probes=0), "probes"),
            (lambda: flatness.spectral_density(mlp, steps=0), "steps"),
            (lambda: flatness.spectral_density(mlp, bandwidth=-1), "bandwidth"),
            (lambda: flatness.sam_sharpness(mlp, -0.1), "rho"),
            (lambda: flatness.hvp(mlp, torch.ones(1210)), "shapes"),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        infinite = flatness.over_tensors(lambda w: w.abs().pow(1.5).sum(), torch.zeros(2))
        with pytest.raises(ValueError, match="second derivative"):
            flatness.top_eigenvalues(infinite)


class TestHvp:
    def test_quadratic_gives_its_matrix(self):
        matrix = torch.tensor([[2.0, -1.0, 0.5], [-1.0, 3.0, 0.0], [0.5, 0.0, -4.0]])
        for dtype in (torch.float32, torch.float64):
            landscape = quadratic(matrix.to(dtype), torch.ones(3, dtype=dtype))
            columns = [flatness.hvp(landscape, e)[0] for e in torch.eye(3)]
            assert torch.equal(torch.stack(columns), matrix.to(dtype))

    def test_symmetric_and_linear(self, mlp):
        u, v = (flatness.gaussian(mlp.point, generator=gen(seed)) for seed in (1, 2))

        def dot(a, b):
            return sum((p * q).sum().item() for p, q in zip(a, b, strict=True))

        hu, hv = flatness.hvp(mlp, u), flatness.hvp(mlp, v)
        assert dot(u, hv) == pytest.approx(dot(v, hu), abs=1e-5, rel=1e-4)
        combined = flatness.hvp(mlp, tuple(2 * p - 3 * q for p, q in zip(u, v, strict=True)))
        for h, p, q in zip(combined, hu, hv, strict=True):
            torch.testing.assert_close(h, 2 * p - 3 * q, atol=1e-5, rtol=1e-4)

    def test_over_inputs(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 3)).double()
        x = torch.rand(1, 4, dtype=torch.float64, generator=gen())

        def log_p(x):
            return flatness.log_density(model(x)).sum()

        exact = jacrev(jacrev(log_p))(x).reshape(4, 4)
        landscape = flatness.over_tensors(log_p, x)
        torch.testing.assert_close(flatness.hvp(landscape, torch.ones(1, 4))[0][0], exact.sum(1))
        top = flatness.top_eigenvalues(landscape, 4, generator=gen())
        torch.testing.assert_close(top.values, torch.linalg.eigvalsh(exact).flip(0), atol=1e-8, rtol=0)


class TestSamSharpness:
    def test_quadratic(self):
        w = torch.tensor([3.0, 4.0], dtype=torch.float64)
        bowl = flatness.over_tensors(lambda w: 0.5 * w @ w, w)
        # The gradient is w, of length 5: the step goes to length 5 + rho.
        assert flatness.sam_sharpness(bowl, 0.1) == pytest.approx(0.5 * (5.1**2 - 25))
        step = 0.1 * w**3 / (w**2).norm()
        assert flatness.sam_sharpness(bowl, 0.1, adaptive=True) == pytest.approx(
            float(0.5 * (w + step) @ (w + step)) - 12.5
        )
        assert flatness.sam_sharpness(bowl, 0.0) == 0
        assert flatness.sam_sharpness(flatness.over_tensors(lambda w: w @ w, torch.zeros(2))) == 0

    def test_logistic_regression_in_two_parameters(self):
        data = torch.tensor([[1.0, 2], [-1, 0.5], [0.3, -1.2], [2, 1]], dtype=torch.float64)
        y = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)
        w = torch.tensor([0.5, -0.3], dtype=torch.float64)
        landscape = flatness.over_tensors(lambda w: F.binary_cross_entropy_with_logits(data @ w, y), w)
        gradient = data.T @ (torch.sigmoid(data @ w) - y) / 4
        there = w + 0.05 * gradient / gradient.norm()
        wanted = landscape.value(there) - landscape.value()
        assert flatness.sam_sharpness(landscape, 0.05) == pytest.approx(wanted, rel=1e-12)

    def test_adaptive_does_not_see_rescaled_layers(self, points):
        x, y = points
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16, bias=False), nn.ReLU(), nn.Linear(16, 10, bias=False)).double()
        landscape = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x.double()), y))
        before = [flatness.sam_sharpness(landscape, 0.5, adaptive=flag) for flag in (True, False)]
        with torch.no_grad():
            model[0].weight.mul_(4), model[2].weight.div_(4)
        after = [flatness.sam_sharpness(landscape, 0.5, adaptive=flag) for flag in (True, False)]
        assert after[0] == pytest.approx(before[0], rel=1e-9)
        assert after[1] != pytest.approx(before[1], rel=0.1)

    def test_per_part_is_the_mean_of_the_parts(self, points, mlp_model):
        x, y = points
        losses = [lambda m, s=slice(i, i + 100): F.cross_entropy(m(x[s]), y[s]) for i in (0, 100, 200)]
        whole = flatness.over_parameters(mlp_model, losses)
        each = [flatness.sam_sharpness(flatness.over_parameters(mlp_model, loss)) for loss in losses]
        assert flatness.sam_sharpness(whole, per_part=True) == pytest.approx(sum(each) / 3)
        assert flatness.sam_sharpness(whole) < sum(each) / 3
