"""Planes of log p around inputs, slices of any landscape, and directions."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatlab import flatness


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images(points):
    x, y = points
    return x[:4].reshape(-1, 1, 8, 8), y[:4]


@pytest.fixture
def classifier(trained):
    return nn.Sequential(nn.Flatten(), trained).eval()


class TestLikelihoodPlane:
    def test_values_are_log_densities_on_the_grid(self, images, classifier):
        x, y = images
        d1 = flatness.gradient_sign(classifier, x, y)
        d2 = flatness.rademacher(x, generator=gen())
        plane = flatness.likelihood_plane(classifier, x, d1, d2, 0.3, n=5, normalize=None)
        assert plane.values.shape == (4, 5, 5)
        assert plane.a.tolist() == pytest.approx([-0.3, -0.15, 0, 0.15, 0.3])
        for s, i, j in ((0, 0, 4), (3, 1, 2), (2, 2, 2)):
            point = x[s] + float(plane.a[i]) * d1[s] + float(plane.b[j]) * d2[s]
            wanted = classifier(point[None]).logsumexp(1)[0]
            torch.testing.assert_close(plane.values[s, i, j], wanted.detach(), atol=1e-5, rtol=0)

    def test_normalisations(self, images, classifier):
        x, d1, d2 = (flatness.rademacher(images[0], generator=gen(seed)) for seed in range(3))
        raw = flatness.likelihood_plane(classifier, x, d1, d2, 0.3, n=5, normalize=None)
        peak = flatness.likelihood_plane(classifier, x, d1, d2, 0.3, n=5)
        center = flatness.likelihood_plane(classifier, x, d1, d2, 0.3, n=5, normalize="center")
        assert peak.values.amax((1, 2)).eq(0).all()
        assert center.values[:, 2, 2].eq(0).all()
        for plane in (peak, center):
            gap = raw.values - plane.values
            torch.testing.assert_close(gap, gap[:, :1, :1].expand_as(gap), atol=1e-4, rtol=0)

    def test_the_centre_of_a_plane_with_axes_of_different_lengths(self):
        plane = flatness.Plane(torch.arange(15.0).reshape(3, 5), torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 5))
        assert plane.normalized("center").values.tolist() == (torch.arange(15.0) - 7).reshape(3, 5).tolist()
        assert plane.normalized("peak").values.tolist() == (torch.arange(15.0) - 14).reshape(3, 5).tolist()

    def test_one_input_in_every_form(self, images, classifier):
        x, d2 = images[0][0], flatness.rademacher(images[0][0], generator=gen())
        d1 = flatness.gradient_sign(classifier, x[None], images[1][:1])
        forms = [
            flatness.likelihood_plane(classifier, x, d1[0], d2, 0.3, n=7),
            flatness.likelihood_plane(classifier, x[None], d1, d2[None], 0.3, n=7),
            flatness.likelihood_plane(classifier[1], x.flatten(), d1.flatten(), d2.flatten(), 0.3, n=7),
        ]
        assert all(form.values.shape == (7, 7) for form in forms)
        for form in forms[1:]:
            torch.testing.assert_close(form.values, forms[0].values, atol=1e-5, rtol=0)

    def test_batch_of_planes_is_the_planes_one_by_one(self, images, classifier):
        x, d1, d2 = (flatness.rademacher(images[0], generator=gen(seed)) for seed in range(3))
        together = flatness.likelihood_plane(classifier, x, d1, d2[0], 0.3, n=5, batch_size=17)
        alone = [flatness.likelihood_plane(classifier, x[i], d1[i], d2[0], 0.3, n=5).values for i in range(4)]
        torch.testing.assert_close(together.values, torch.stack(alone), atol=1e-5, rtol=0)

    def test_clip_bends_the_plane(self, images, classifier):
        x = torch.ones_like(images[0])
        d1, d2 = torch.ones_like(x), flatness.rademacher(x, generator=gen())
        plane = flatness.likelihood_plane(classifier, x, d1, d2, 0.3, n=5, normalize=None, clip=(0.0, 1.0))
        torch.testing.assert_close(plane.values[:, 4, 2], plane.values[:, 2, 2])
        straight = flatness.likelihood_plane(classifier, x, d1, d2, 0.3, n=5, normalize=None)
        assert (straight.values[:, 4, 2] - straight.values[:, 2, 2]).abs().min() > 0.01

    def test_other_fields(self, images, classifier):
        x, y = images
        d1, d2 = (flatness.rademacher(x, generator=gen(seed)) for seed in range(2))
        plane = flatness.likelihood_plane(classifier, x, d1, d2, 0.1, n=3, normalize=None, field="ce", y=y)
        wanted = F.cross_entropy(classifier(x), y, reduction="none").detach()
        torch.testing.assert_close(plane.values[:, 1, 1], wanted, atol=1e-5, rtol=0)

    def test_failures(self, images, classifier):
        x = images[0]
        d1, d2 = (flatness.rademacher(x, generator=gen(seed)) for seed in range(2))

        def plane(d1=d1, d2=d2, radius=0.3, model=classifier, x=x, **options):
            return flatness.likelihood_plane(model, x, d1, d2, radius, **{"n": 3, **options})

        with pytest.raises(ValueError, match="d1 must have shape"):
            plane(d1=d1[:2])
        with pytest.raises(ValueError, match="d2 is zero for batch index 2"):
            plane(d2=d2 * (torch.arange(4) != 2).reshape(4, 1, 1, 1))
        for parallel in (d1, -2 * d1):
            with pytest.raises(ValueError, match="parallel for batch index 0"):
                plane(d2=parallel)
        with pytest.raises(ValueError, match="NaN"):
            plane(d2=d2 * math.nan)
        for radius in (0.0, -1.0):
            with pytest.raises(ValueError, match="radius"):
                plane(radius=radius)
        with pytest.raises(ValueError, match="odd"):
            plane(n=4)
        with pytest.raises(ValueError, match="peak, center"):
            plane(normalize="maximum")
        with pytest.raises(ValueError, match="needs labels"):
            plane(field="joint")
        with pytest.raises(TypeError, match="floating"):
            plane(x=(x * 255).to(torch.uint8))
        with pytest.raises(RuntimeError, match="train mode"):
            plane(model=nn.Sequential(nn.Flatten(), nn.Dropout()))

        class Blind(nn.Module):
            def forward(self, x):
                return torch.where(x.flatten(1)[:, :1] > 5, math.nan, x.flatten(1))

        bad = x.clone()
        bad[3] = 10.0
        with pytest.raises(ValueError, match="batch index 3;"):
            plane(model=Blind(), x=bad, batch_size=5)


class TestSlices:
    A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)

    def landscape(self):
        return flatness.over_tensors(lambda w: 0.5 * w @ self.A @ w, torch.tensor([1.0, -1.0], dtype=torch.float64))

    def test_line_and_surface_of_a_quadratic(self):
        w, (d1, d2) = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        line = flatness.loss_line(self.landscape(), d1, 2.0, n=5)
        assert line.t.tolist() == [-2, -1, 0, 1, 2]
        assert line.values.tolist() == [float(0.5 * (w + t * d1) @ self.A @ (w + t * d1)) for t in line.t]
        plane = flatness.loss_surface(self.landscape(), d1, d2, (0.0, 1.0), n=3)
        for i in range(3):
            for j in range(3):
                v = w + plane.a[i] * d1 + plane.b[j] * d2
                assert plane.values[i, j].item() == pytest.approx(float(0.5 * v @ self.A @ v))
        assert plane.normalized("peak").values.max() == 0

    def test_path_between_two_networks(self, points, trained):
        x, y = points
        other = copy.deepcopy(trained)
        nn.init.normal_(other[0].weight, generator=gen())
        direction = [q.detach() - p.detach() for p, q in zip(trained.parameters(), other.parameters(), strict=True)]
        landscape = flatness.over_parameters(trained, lambda m: F.cross_entropy(m(x), y))
        line = flatness.loss_line(landscape, direction, (0.0, 1.0), n=3)
        assert line.values[0].item() == pytest.approx(F.cross_entropy(trained(x), y).item(), rel=1e-6)
        assert line.values[2].item() == pytest.approx(F.cross_entropy(other(x), y).item(), rel=1e-4)

    def test_surface_over_weights(self, points, trained):
        x, y = points
        landscape = flatness.over_parameters(trained, lambda m: F.cross_entropy(m(x), y))
        d1, d2 = (flatness.filter_normalized_direction(trained, generator=gen(seed)) for seed in range(2))
        plane = flatness.loss_surface(landscape, d1, d2, 0.5, n=3)
        moved = copy.deepcopy(trained)
        with torch.no_grad():
            for p, a, b in zip(moved.parameters(), d1, d2, strict=True):
                p.add_(a, alpha=-0.5).add_(b, alpha=0.5)
        assert plane.values[0, 2].item() == pytest.approx(F.cross_entropy(moved(x), y).item(), rel=1e-5)
        assert plane.values[1, 1].item() == landscape.value()

    def test_infinite_walls_are_values(self):
        landscape = flatness.over_tensors(lambda w: -torch.log(w).sum(), torch.ones(1, dtype=torch.float64))
        assert flatness.loss_line(landscape, torch.ones(1), (-1.0, 0.0), n=2).values.tolist() == [math.inf, 0.0]

    def test_failures(self):
        landscape, d = self.landscape(), torch.ones(2)
        with pytest.raises(ValueError, match=r"shapes \[\(3,\)\]"):
            flatness.loss_line(landscape, torch.ones(3))
        with pytest.raises(ValueError, match="zero"):
            flatness.loss_line(landscape, torch.zeros(2))
        with pytest.raises(ValueError, match="parallel"):
            flatness.loss_surface(landscape, d, -d)
        with pytest.raises(ValueError, match="low < high"):
            flatness.loss_line(landscape, d, (1.0, 1.0))
        with pytest.raises(ValueError, match="n must be"):
            flatness.loss_line(landscape, d, n=1)
        with pytest.raises(ValueError, match="its own point"):
            flatness.loss_line(flatness.over_tensors(lambda w: w.sum() * math.nan, d), d)


class TestDirections:
    def test_laws_are_reproducible_and_follow_their_like(self):
        like = (torch.zeros(3, 4), torch.zeros(5, dtype=torch.float64))
        for direction in (flatness.rademacher, flatness.gaussian):
            first, second = direction(like, generator=gen()), direction(like, generator=gen())
            assert [t.shape for t in first] == [t.shape for t in like]
            assert [t.dtype for t in first] == [t.dtype for t in like]
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        signs = flatness.rademacher(torch.zeros(10000), generator=gen())
        assert set(signs.tolist()) == {-1.0, 1.0}
        assert abs(signs.mean()) < 0.04
        normal = flatness.gaussian(torch.zeros(10000), generator=gen())
        assert abs(normal.mean()) < 0.04
        assert abs(normal.std() - 1) < 0.03

    def test_gradient_sign(self, points, trained):
        x, y = points
        direction = flatness.gradient_sign(trained, x, y, batch_size=77)
        leaf = x.clone().requires_grad_()
        F.cross_entropy(trained(leaf), y).backward(inputs=[leaf])
        assert torch.equal(direction, leaf.grad.sign())
        assert all(p.grad is None for p in trained.parameters())
        with pytest.raises(ValueError, match=r"0\.\.9"):
            flatness.gradient_sign(trained, x, y + 1)
        with pytest.raises(ValueError, match="labels"):
            flatness.gradient_sign(trained, x, y[:5])

    def test_filters_get_the_length_of_their_weights(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
        with torch.no_grad():
            model[0].weight[1] = 0
        direction = flatness.filter_normalized_direction(model, generator=gen())
        weights = list(model.parameters())
        assert [d.shape for d in direction] == [w.shape for w in weights]
        for d, w in zip(direction, weights, strict=True):
            if w.ndim < 2:
                assert d.eq(0).all()
            else:
                torch.testing.assert_close(d.flatten(1).norm(dim=1), w.detach().flatten(1).norm(dim=1))
        assert direction[0][1].eq(0).all()
        again = flatness.filter_normalized_direction(model, generator=gen())
        assert all(torch.equal(a, b) for a, b in zip(direction, again, strict=True))
        zero = [torch.zeros_like(w) for w in weights]
        assert all(d.eq(0).all() for d in flatness.filter_normalize(zero, weights))
        with pytest.raises(ValueError, match="differ in shape"):
            flatness.filter_normalize(direction[1:], weights)

    def test_slices_do_not_change_when_layers_are_rescaled_against_each_other(self, points, trained):
        x, y = points
        scaled = copy.deepcopy(trained)
        with torch.no_grad():
            scaled[0].weight.mul_(10), scaled[0].bias.mul_(10), scaled[2].weight.div_(10)
        values = []
        for model in (trained, scaled):
            direction = flatness.filter_normalized_direction(model, generator=gen())
            landscape = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))
            values.append(flatness.loss_line(landscape, direction, 1.0, n=5).values)
        torch.testing.assert_close(*values, rtol=1e-3, atol=1e-5)
