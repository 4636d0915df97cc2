"""The energy reading of logits, and the flatness of log p over inputs: closed forms, invariants, failures."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from flatlab import flatness
from flatlab.flatness import measures


class Logits(nn.Module):
    """A model given by a function of its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_net(dimensions=64, classes=10, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(dimensions, 64), nn.Softplus(), nn.Linear(64, classes)).double().eval()


W = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
ONE_CLASS = Logits(lambda x: (x @ W + 0.7)[:, None])
TWO_CLASSES = Logits(lambda x: torch.stack([x @ W, -(x @ W)], 1))
ORIGIN = torch.zeros(2, 3, dtype=torch.float64)


class TestEnergy:
    def test_identities(self):
        model = smooth_net(6, 4)
        x, x2 = torch.rand(2, 5, 6, dtype=torch.float64, generator=gen())
        y = torch.tensor([0, 1, 2, 3, 0])
        logits, logits2 = model(x), model(x2)
        ce = F.cross_entropy(logits, y, reduction="none")
        torch.testing.assert_close(ce, flatness.joint_energy(logits, y) - flatness.energy(logits), atol=1e-12, rtol=0)
        # KL(p || p') = sum_y p(y) [E(x', y) - E(x, y)] + E(x) - E(x'): what TRADES penalises is a gap of energies.
        p = logits.softmax(1)
        kl = (p * (logits.log_softmax(1) - logits2.log_softmax(1))).sum(1)
        gap = (p * (logits - logits2)).sum(1) + flatness.energy(logits) - flatness.energy(logits2)
        torch.testing.assert_close(kl, gap, atol=1e-12, rtol=0)
        # The gradient of log p is J^T p.
        rows = x.clone().requires_grad_()
        gradient = torch.autograd.grad(flatness.log_density(model(rows)).sum(), rows)[0]
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row: model(row)))(x)
        torch.testing.assert_close(gradient, torch.einsum("ncd,nc->nd", jacobian, p), atol=1e-12, rtol=0)

    @settings(deadline=None, max_examples=20)
    @given(st.lists(st.floats(-50, 50), min_size=4, max_size=4), st.lists(st.floats(-50, 50), min_size=4, max_size=4))
    def test_log_density_changes_no_more_than_the_logits(self, a, b):
        a, b = torch.tensor([a, b], dtype=torch.float64)[:, None]
        change = (flatness.log_density(a) - flatness.log_density(b)).abs()
        assert change <= (a - b).abs().max() + 1e-12

    def test_large_logits_do_not_overflow(self):
        assert flatness.log_density(torch.tensor([[1000.0, 1000.0]])).item() == pytest.approx(1000 + math.log(2))

    def test_relative_log_likelihood_is_a_difference_of_log_densities(self):
        x = torch.rand(4, 3, dtype=torch.float64, generator=gen())
        delta = flatness.relative_log_likelihood(ONE_CLASS, x, x[:1])
        torch.testing.assert_close(delta, (x - x[:1]) @ W)
        with pytest.raises(ValueError, match="x0"):
            flatness.relative_log_likelihood(ONE_CLASS, x, x[:2])

    def test_margin(self):
        logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
        assert flatness.margin(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]
        with pytest.raises(ValueError, match="2 classes"):
            flatness.margin(logits[:, :1], torch.tensor([0, 0]))

    def test_bad_shapes_and_labels(self):
        with pytest.raises(ValueError, match=r"\(N, C\)"):
            flatness.log_density(torch.zeros(3))
        with pytest.raises(ValueError, match=r"\(N, C\)"):
            flatness.log_density(torch.zeros(3, 0))
        with pytest.raises(ValueError, match=r"0\.\.1"):
            flatness.joint_energy(torch.zeros(2, 2), torch.tensor([0, 2]))


class TestClosedForms:
    def test_linear_log_density(self):
        for name, wanted in (("max", 0.3), ("final", 0.3), ("mean", 0.16875)):
            result = flatness.likelihood_flatness(ONE_CLASS, ORIGIN, 0.1, exact=True, reduce=name)
            assert result.per_sample.tolist() == pytest.approx([wanted] * 2, abs=1e-12)
            assert result.mean == pytest.approx(wanted, abs=1e-12)
            assert result.stderr == 0
        assert flatness.worst_case_flatness(ONE_CLASS, ORIGIN, 0.1).mean == pytest.approx(0.6, abs=1e-12)
        assert flatness.gradient_flatness(ONE_CLASS, ORIGIN, 0.1).mean == pytest.approx(0.6, abs=1e-12)
        assert flatness.gradient_flatness(ONE_CLASS, ORIGIN, 0.1, p=2).mean == pytest.approx(0.1 * math.sqrt(14))

    def test_drawn_directions_agree_with_enumeration(self):
        for name, wanted, prototype in (("max", 0.3, 0.2994), ("mean", 0.16875, 0.1684)):
            result = flatness.likelihood_flatness(
                ONE_CLASS, ORIGIN[:1], 0.1, directions=4000, reduce=name, generator=gen()
            )
            assert abs(result.mean - wanted) < 4 * result.stderr
            assert abs(result.mean - prototype) < 4 * result.stderr
            # Var |w.d| = 14 - 9 over the sign vectors, times (eps)^2 or (9/16 eps)^2
            assert result.stderr == pytest.approx(math.sqrt(5 / 4000) * wanted / 3, rel=0.05)

    def test_log_cosh_is_not_a_matter_of_gradients(self):
        result = flatness.likelihood_flatness(TWO_CLASSES, ORIGIN, 0.1, exact=True)
        assert result.mean == pytest.approx(0.06698921, abs=1e-8)
        assert flatness.gradient_flatness(TWO_CLASSES, ORIGIN, 0.1, p=1).mean == 0
        assert flatness.gradient_flatness(TWO_CLASSES, ORIGIN, 0.1, p=2).mean == 0
        worst = flatness.worst_case_flatness(TWO_CLASSES, ORIGIN, 0.1, generator=gen())
        assert worst.mean == pytest.approx(math.log(math.cosh(0.6)), abs=1e-9)

    def test_worst_case_stays_in_the_box_if_asked(self):
        model = Logits(lambda x: x @ torch.ones(3, 1, dtype=torch.float64))
        result = flatness.worst_case_flatness(model, ORIGIN, 0.1, clip=(0.0, 0.05))
        assert result.mean == pytest.approx(0.15)

    def test_worst_case_looks_both_ways(self):
        # Convex and symmetric about -1: downhill from 0 the change is smaller than uphill, and the mirror image.
        for sign in (1.0, -1.0):
            model = Logits(lambda x, sign=sign: sign * (x + 1).square())
            x = torch.zeros(1, 1, dtype=torch.float64)
            assert flatness.worst_case_flatness(model, x, 0.5).mean == pytest.approx(1.25)

    @pytest.mark.parametrize(("law", "wanted"), [("gaussian", math.sqrt(2 / math.pi)), ("uniform", 0.5)])
    def test_other_laws(self, law, wanted):
        model = Logits(lambda x: x)
        result = flatness.likelihood_flatness(model, torch.zeros(1, 1), 0.1, law=law, directions=4000, generator=gen())
        assert abs(result.mean - 0.1 * wanted) < 4 * result.stderr

    def test_adversarial_direction_climbs_the_field(self):
        result = flatness.likelihood_flatness(ONE_CLASS, ORIGIN, 0.1, law="adversarial", signed=True)
        assert result.mean == pytest.approx(0.6)
        y = torch.tensor([0, 1])
        x = ORIGIN + 0.1
        for field, wanted in (("joint", [0.6, 0.6]), ("margin", [1.2, 1.2])):
            climbed = flatness.likelihood_flatness(
                TWO_CLASSES, x, 0.1, law="adversarial", field=field, y=y, signed=True
            )
            assert climbed.per_sample.tolist() == pytest.approx(wanted)

    def test_signed_changes_cancel_where_the_field_is_linear(self):
        for name in ("max", "mean", "final"):
            result = flatness.likelihood_flatness(ONE_CLASS, ORIGIN, 0.1, exact=True, signed=True, reduce=name)
            assert result.mean == pytest.approx(0, abs=1e-12)

    def test_fields_against_their_definitions(self):
        model, x = smooth_net(3, 4), torch.rand(2, 3, dtype=torch.float64, generator=gen())
        y, signs = torch.tensor([1, 3]), torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).double()

        def margin(logits):
            one_hot = F.one_hot(y, 4).bool()
            return logits[one_hot] - logits.masked_fill(one_hot, -1e9).amax(1)

        definitions = {
            "lse": lambda logits: logits.exp().sum(1).log(),
            "joint": lambda logits: logits[[0, 1], y],
            "ce": lambda logits: -logits.softmax(1)[[0, 1], y].log(),
            "margin": margin,
        }
        for field, of in definitions.items():
            steps = torch.stack(
                [torch.stack([(of(model(x + a * d)) - of(model(x))).abs() for a in (0.1, 0.2)]).amax(0) for d in signs]
            )
            result = flatness.likelihood_flatness(model, x, 0.2, radii=2, exact=True, field=field, y=y)
            torch.testing.assert_close(result.per_sample, steps.mean(0).detach(), atol=1e-12, rtol=0)
        # Phi is below the same with the largest change of any logit.
        largest = torch.stack(
            [torch.stack([(model(x + a * d) - model(x)).abs().amax(1) for a in (0.1, 0.2)]).amax(0) for d in signs]
        )
        lse = flatness.likelihood_flatness(model, x, 0.2, radii=2, exact=True)
        assert (lse.per_sample <= largest.mean(0) + 1e-12).all()


class TestInvariants:
    def test_khintchine_band(self):
        model, x = smooth_net(), torch.rand(20, 64, dtype=torch.float64, generator=gen())
        phi = flatness.likelihood_flatness(model, x, 1e-3, directions=300, generator=gen())
        ratio = phi.per_sample / flatness.gradient_flatness(model, x, 1e-3, p=2).per_sample
        assert ((ratio > 0.7071 - 0.12) & (ratio < 1)).all()
        assert ratio.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)

    def test_flat_models(self, points, trained):
        x = points[0][:20]
        constant = Logits(lambda x: torch.ones(len(x), 3) * 2)
        normalised = Logits(lambda x: trained(x).log_softmax(1))
        assert torch.equal(normalised(x).argmax(1), trained(x).argmax(1))
        for model, bound in ((constant, 0.0), (normalised, 1e-6)):
            assert flatness.likelihood_flatness(model, x, 0.1, generator=gen()).per_sample.max() <= bound
            assert flatness.worst_case_flatness(model, x, 0.1, generator=gen()).per_sample.max() <= bound
        assert flatness.gradient_flatness(constant, x, 0.1).mean == 0
        assert flatness.likelihood_flatness(trained, x, 0.1, generator=gen()).mean > 0.05

    def test_zero_radius(self, points, trained):
        x = points[0][:5]
        for measure in (flatness.likelihood_flatness, flatness.worst_case_flatness, flatness.gradient_flatness):
            assert measure(trained, x, 0.0).per_sample.eq(0).all()

    def test_grows_with_the_radius_where_grids_nest(self, points, trained):
        x = points[0][:20]
        phis = [
            flatness.likelihood_flatness(trained, x, 0.02 * m, radii=m, generator=gen()).per_sample
            for m in (1, 2, 4, 8)
        ]
        for small, large in itertools.pairwise(phis):
            assert (large >= small - 1e-6).all()

    def test_random_directions_do_not_beat_the_worst_case(self, points, trained):
        x = points[0][:50]
        phi = flatness.likelihood_flatness(trained, x, 0.1, generator=gen())
        worst = flatness.worst_case_flatness(trained, x, 0.1, generator=gen())
        assert (phi.per_sample <= worst.per_sample).all()
        assert worst.mean > 3 * phi.mean

    def test_more_restarts_never_find_less(self, points, trained):
        x = points[0][:20]
        one, three = (
            flatness.worst_case_flatness(trained, x[:1], 0.3, steps=3, restarts=r, generator=gen()) for r in (1, 3)
        )
        assert (three.per_sample >= one.per_sample - 1e-6).all()

    def test_constant_shift_and_class_order(self, points, trained):
        x = points[0][:20]
        order = torch.randperm(10, generator=gen())
        reference = flatness.likelihood_flatness(trained, x, 0.1, generator=gen()).per_sample
        for function in (lambda x: trained(x) + 3.0, lambda x: trained(x)[:, order]):
            phi = flatness.likelihood_flatness(Logits(function), x, 0.1, generator=gen()).per_sample
            torch.testing.assert_close(phi, reference, atol=1e-5, rtol=0)

    def test_gauge_and_scale(self, points, trained):
        """Phi sees what predictions ignore, Phi_m does not."""
        x, y = points[0][:40], points[1][:40]
        gauged = Logits(lambda x: trained(x) + 20 * x.square().sum(1, keepdim=True))
        phi = [
            flatness.likelihood_flatness(m, x, 0.1, generator=gen()).mean
            for m in (Logits(lambda x: 0.1 * trained(x)), trained, Logits(lambda x: 3 * trained(x)), gauged)
        ]
        assert phi[0] < phi[1] < phi[2]
        assert phi[3] > 2 * phi[1]
        for labels in (y, None):
            reference = flatness.margin_flatness(trained, x, 0.1, y=labels, generator=gen())
            for model in (gauged, Logits(lambda x: 3 * trained(x)), Logits(lambda x: trained(x).log_softmax(1))):
                result = flatness.margin_flatness(model, x, 0.1, y=labels, generator=gen())
                torch.testing.assert_close(result.per_sample, reference.per_sample, atol=1e-5, rtol=1e-3)
                assert result.stderr == pytest.approx(reference.stderr, rel=1e-3)

    def test_margin_flatness_of_a_linear_model(self):
        x = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 0.05]], dtype=torch.float64)  # margins 1.2 and 0.3, mean 0.75
        result = flatness.margin_flatness(TWO_CLASSES, x, 0.1, exact=True)
        assert result.per_sample.tolist() == pytest.approx([0.6 / 0.75] * 2)
        assert math.isnan(flatness.margin_flatness(Logits(lambda x: torch.zeros(len(x), 2)), x, 0.1).mean)

    @pytest.mark.parametrize("law", ["rademacher", "gaussian", "uniform"])
    def test_same_seed_same_bits(self, points, trained, law):
        x = points[0][:9]
        first, second, other = (
            flatness.likelihood_flatness(trained, x, 0.1, law=law, generator=gen(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(first.per_sample, second.per_sample)
        assert not torch.equal(first.per_sample, other.per_sample)

    @pytest.mark.parametrize("law", ["rademacher", "gaussian", "adversarial"])
    def test_batches_do_not_matter(self, points, trained, law):
        x, y = points[0][:150], points[1][:150]
        options = {"law": law, "field": "margin", "y": y, "directions": 7, "radii": 3}
        whole = flatness.likelihood_flatness(trained, x, 0.1, generator=gen(), **options)
        for size in (1, 11, 64, 10000):
            split = flatness.likelihood_flatness(trained, x, 0.1, generator=gen(), batch_size=size, **options)
            torch.testing.assert_close(split.per_sample, whole.per_sample, atol=1e-5, rtol=0)
            assert split.stderr == pytest.approx(whole.stderr, rel=1e-3)
        fewer = flatness.likelihood_flatness(trained, x[:4], 0.1, generator=gen(), **options | {"y": y[:4]})
        torch.testing.assert_close(fewer.per_sample, whole.per_sample[:4], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("law", ["rademacher", "gaussian", "uniform"])
    def test_directions_belong_to_the_index_of_a_sample(self, law):
        model = Logits(lambda x: x)
        x = torch.zeros(30, 3)
        options = {"law": law, "directions": 1, "radii": 1}
        whole = flatness.likelihood_flatness(model, x, 0.1, generator=gen(), **options).per_sample
        for n in (1, 5, 6, 17):
            fewer = flatness.likelihood_flatness(model, x[:n], 0.1, generator=gen(), **options).per_sample
            torch.testing.assert_close(fewer, whole[:n])

    def test_batches_do_not_matter_to_the_worst_case(self, points, trained):
        x = points[0][:30]
        for measure in (flatness.worst_case_flatness, flatness.gradient_flatness):
            options = {"generator": gen()} if measure is flatness.worst_case_flatness else {}
            whole = measure(trained, x, 0.1, **options)
            options = {"generator": gen()} if measure is flatness.worst_case_flatness else {}
            split = measure(trained, x, 0.1, batch_size=7, **options)
            torch.testing.assert_close(split.per_sample, whole.per_sample, atol=1e-4, rtol=0)

    def test_many_samples_in_several_blocks(self, monkeypatch, points, trained):
        x = points[0]
        whole = flatness.likelihood_flatness(trained, x, 0.1, directions=3, generator=gen())
        monkeypatch.setattr(measures, "_KEPT_AT_ONCE", 1)
        blocks = flatness.likelihood_flatness(trained, torch.cat([x, x]), 0.1, directions=3, generator=gen())
        torch.testing.assert_close(blocks.per_sample[:300], whole.per_sample, atol=1e-5, rtol=0)
        bad = torch.cat([x, x])
        bad[599] = math.nan
        with pytest.raises(ValueError, match="batch index 599"):
            flatness.likelihood_flatness(trained, bad, 0.1, directions=3)

    def test_precisions_see_the_same_directions(self, points, trained):
        x = points[0][:10]
        single = flatness.likelihood_flatness(trained, x, 0.1, law="gaussian", generator=gen())
        double = copy.deepcopy(trained).double()
        precise = flatness.likelihood_flatness(double, x.double(), 0.1, law="gaussian", generator=gen())
        assert precise.per_sample.dtype == torch.float64
        torch.testing.assert_close(single.per_sample.double(), precise.per_sample, atol=1e-4, rtol=0)

    def test_standard_error_covers_the_spread_between_seeds(self, points, trained):
        x = points[0][:20]
        results = [flatness.likelihood_flatness(trained, x, 0.1, generator=gen(seed)) for seed in range(30)]
        spread = torch.tensor([r.mean for r in results]).std().item()
        assert 0.6 < results[0].stderr / spread < 1.6
        assert math.isnan(flatness.likelihood_flatness(trained, x, 0.1, directions=1).stderr)

    def test_leaves_no_trace(self, points, trained):
        before = {name: value.clone() for name, value in trained.state_dict().items()}
        x = points[0][:5].clone().requires_grad_()
        with torch.no_grad():  # callers often are inside no_grad
            flatness.worst_case_flatness(trained, x, 0.1)
            flatness.likelihood_flatness(trained, x, 0.1, law="adversarial")
        assert x.grad is None
        assert x.requires_grad
        assert all(p.grad is None and p.requires_grad for p in trained.parameters())
        assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


MEASURES = [
    flatness.likelihood_flatness,
    flatness.worst_case_flatness,
    flatness.gradient_flatness,
    flatness.margin_flatness,
]


class TestFailures:
    @pytest.mark.parametrize("measure", MEASURES)
    def test_common_errors(self, measure, trained):
        x = torch.rand(4, 64)
        with pytest.raises(ValueError, match="eps must be a finite number >= 0"):
            measure(trained, x, -0.1)
        with pytest.raises(ValueError, match="eps"):
            measure(trained, x, math.nan)
        with pytest.raises(TypeError, match="floating"):
            measure(trained, (x * 255).to(torch.uint8), 0.1)
        with pytest.raises(ValueError, match="non-empty"):
            measure(trained, x[:0], 0.1)
        with pytest.raises(ValueError, match=r"\(4, C\)"):
            measure(Logits(lambda x: x.sum(1)), x, 0.1)
        with pytest.raises(ValueError, match="batch_size"):
            measure(trained, x, 0.1, batch_size=0)
        blind = Logits(lambda x: torch.where(x[:, :1] > 2, math.nan, trained(x)))
        x[2] = 3.0
        with pytest.raises(ValueError, match="batch index 2;"):
            measure(blind, x, 0.1)
        with pytest.raises(ValueError, match="labels must have shape"):
            measure(trained, x, 0.1, y=torch.zeros(3, dtype=torch.int64))
        noisy = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8))
        with pytest.raises(RuntimeError, match="train mode"):
            measure(noisy, x, 0.1)
        measure(noisy.eval(), x, 0.1)

    @pytest.mark.parametrize("samples_per_block", [1, 3])
    def test_a_step_into_infinity_names_its_sample(self, monkeypatch, samples_per_block):
        monkeypatch.setattr(measures, "_DRAWN_AT_ONCE", 1)
        monkeypatch.setattr(measures, "_KEPT_AT_ONCE", 2 * samples_per_block)
        model = Logits(lambda x: torch.where(x[:, :1] > 1, math.inf, x))
        x = torch.tensor([[0.0], [0.0], [0.95]])
        for size in (None, 1, 3):
            with pytest.raises(ValueError, match="batch index 2;"):
                flatness.likelihood_flatness(model, x, 0.1, radii=2, exact=True, batch_size=size)

    def test_nan_weights(self, points):
        model = nn.Linear(64, 10)
        nn.init.constant_(model.weight, math.nan)
        with pytest.raises(ValueError, match="batch index 0"):
            flatness.likelihood_flatness(model, points[0], 0.1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"directions": 0}, "directions must be an integer >= 1"),
            ({"radii": 0}, "radii must be an integer >= 1"),
            ({"law": "radamacher"}, "did you mean 'rademacher'"),
            ({"reduce": "min"}, "max, mean, final"),
            ({"field": "logp"}, "lse, joint, ce, margin"),
            ({"field": "margin"}, "needs labels"),
            ({"field": "ce"}, "needs labels"),
            ({"field": "joint", "y": torch.tensor([0, 10])}, r"0\.\.9"),
            ({"exact": True}, "at most 12 dimensions"),
        ],
    )
    def test_options(self, trained, options, message):
        with pytest.raises(ValueError, match=message):
            flatness.likelihood_flatness(trained, torch.rand(2, 64), 0.1, **options)

    def test_exact_means_signs(self):
        with pytest.raises(ValueError, match="rademacher"):
            flatness.likelihood_flatness(ONE_CLASS, ORIGIN, 0.1, exact=True, law="gaussian")

    def test_other_options(self, trained):
        x = torch.rand(2, 64)
        for options in ({"steps": 0}, {"restarts": 0}, {"step_size": 0.0}, {"field": "ce"}):
            with pytest.raises(ValueError, match=next(iter(options.keys()))):
                flatness.worst_case_flatness(trained, x, 0.1, **options)
        with pytest.raises(ValueError, match="p must be 1 or 2"):
            flatness.gradient_flatness(trained, x, 0.1, p=3)
        with pytest.raises(ValueError, match="2 classes"):
            flatness.margin_flatness(ONE_CLASS, ORIGIN, 0.1)
        with pytest.warns(UserWarning, match="/255"):
            flatness.gradient_flatness(trained, x, 8)
