"""Exact policies: numbers worked out by hand, best-of-N, and what they refuse. Their laws are in tests/laws."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import rlhf

P = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
R = torch.tensor([0.9, 0.1, -0.5, -0.2], dtype=torch.float64)
POLICY = rlhf.SoftmaxPolicy(P.log())


def close(found, wanted, atol=1e-8) -> None:
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64), atol=atol, rtol=0
    )


def test_four_outputs_by_hand():
    close(POLICY.probs(), P)
    close(POLICY.expected(R), 0.27)
    close(POLICY.variance(R), 0.3081)
    close(POLICY.variance(R), 0.5 * sum(P[i] * P[j] * (R[i] - R[j]) ** 2 for i in range(4) for j in range(4)))
    gradient = POLICY.gradient(R)
    close(gradient, [0.252, -0.051, -0.154, -0.047])
    close(gradient.abs().sum(), 0.504)
    close(gradient.norm(), 0.30336447)
    close(rlhf.bounds.gradient(0.3081, tabular=True), 0.55506757)
    close(rlhf.bounds.gradient_sharp(0.3081), 0.39249204)
    close(torch.linalg.eigvalsh(POLICY.hessian(R)), [-0.13269910, -0.05264442, 0, 0.08534352])


@pytest.mark.parametrize("lam", [0.0, 0.2])
def test_hessian_of_a_softmax_in_closed_form(lam):
    ref = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    g = POLICY.gradient(R, lam, ref)
    wanted = g.diag() - g[:, None] * P - P[:, None] * g - lam * (P.diag() - P[:, None] * P)
    close(POLICY.hessian(R, lam, ref), wanted, atol=1e-14)


def test_a_table_of_one_position_is_a_softmax():
    table = rlhf.AutoregressiveTable(4, 1, [P.log()[None]])
    for method in ("expected", "variance", "gradient", "hessian"):
        close(getattr(table, method)(R), getattr(POLICY, method)(R), atol=1e-15)


def test_curvature_is_bounded_by_the_gradient_and_the_variance():
    g = torch.Generator().manual_seed(1)
    for outputs in (2, 3, 10, 40):
        policy = rlhf.SoftmaxPolicy(2 * torch.randn(300, outputs, generator=g, dtype=torch.float64))
        r = torch.rand(300, outputs, generator=g, dtype=torch.float64) * 2 - 1
        curvature = torch.linalg.matrix_norm(policy.hessian(r), 2)
        assert (curvature <= 3 * policy.gradient(r).norm(dim=-1)).all()
        assert (curvature <= rlhf.bounds.hessian(policy.variance(r))).all()


def test_the_sharp_bound_is_tight_at_two_even_outputs():
    even = rlhf.SoftmaxPolicy(torch.zeros(2))
    assert float(even.gradient(torch.tensor([1.0, -1.0])).norm()) == pytest.approx(rlhf.bounds.gradient_sharp(1.0))


def test_a_reference_that_underflows_is_no_trouble():
    far = rlhf.SoftmaxPolicy(torch.tensor([0.0, -900.0]))
    assert float(far.kl(far.log_probs())) == 0
    assert rlhf.gradient_flow(far, torch.tensor([0.0, 1.0]), 0.1, t_max=1.0, points=2).kl.isfinite().all()


# --- best of N --------------------------------------------------------------------------------------------------------


def brute_force(p, rm, r_g, n) -> float:
    """Over all K^n draws; of equally good ones the first is kept."""
    total = 0.0
    for draw in itertools.product(range(len(p)), repeat=n):
        best = max(draw, key=lambda y: float(rm[y]))
        total += float(torch.stack([p[y] for y in draw]).prod() * r_g[best])
    return total


def test_best_of_n_by_hand():
    assert rlhf.best_of_n(P, R, R, 4) == pytest.approx(0.79341)
    assert rlhf.best_of_n(P, R, R, 1) == pytest.approx(0.27)
    assert rlhf.best_of_n(P, R, R, 10_000) == pytest.approx(0.9)
    assert rlhf.best_of_n(P.float().log().softmax(0), R, R, 4) == pytest.approx(0.79341, rel=1e-5)  # single precision
    masked = torch.tensor([0.0, 0.5, 0.5, 0.0])
    assert rlhf.best_of_n(masked, R, R, 10_000) == pytest.approx(0.1)  # the best within the support


@pytest.mark.parametrize("rm", [[0.1, 0.5, 0.5, -1], [0, 0, 0, 0], [3, 2, 1, 0.0]])
def test_best_of_n_over_all_draws(rm):
    model = torch.tensor(rm, dtype=torch.float64)
    for n in (1, 2, 4):
        assert rlhf.best_of_n(P, model, R, n) == pytest.approx(brute_force(P, model, R, n), abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_only_ranks_count_and_the_truth_chooses_best(seed, n):
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(3, 7, generator=g, dtype=torch.float64).softmax(-1)
    truth, other = torch.rand(2, 3, 7, generator=g, dtype=torch.float64)
    perfect = rlhf.best_of_n(p, truth, truth, n)
    torch.testing.assert_close(rlhf.best_of_n(p, (5 * truth).exp() / 1000, truth, n), perfect)
    assert (rlhf.best_of_n(p, other, truth, n) <= perfect + 1e-12).all()


# --- bad input --------------------------------------------------------------------------------------------------------

NAN = torch.tensor([0.0, float("nan"), 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rlhf.SoftmaxPolicy(torch.tensor([0.0, -torch.inf])), "finite"),
        (lambda: rlhf.SoftmaxPolicy(torch.zeros(3, 0)), r"\(\.\.\., K\)"),
        (lambda: rlhf.AutoregressiveTable(2, 2, [torch.zeros(1, 2)]), "shapes"),
        (lambda: rlhf.AutoregressiveTable(2, 2, [torch.zeros(1, 2), torch.zeros(3, 2)]), "shapes"),
        (lambda: rlhf.AutoregressiveTable(2, 2, [torch.zeros(5, 1, 2), torch.zeros(2, 2)]), "leading axes"),
        (lambda: rlhf.AutoregressiveTable(0, 1, [torch.zeros(1, 0)]), "V must"),
        (lambda: POLICY.expected(NAN), "NaN"),
        (lambda: POLICY.variance(R[:3]), "K = 4"),
        (lambda: POLICY.gradient(torch.full((4,), torch.inf)), "infinity"),
        (lambda: POLICY.gradient(R, -0.1), "lam"),
        (lambda: POLICY.gradient(R, 0.1), "ref="),
        (lambda: POLICY.gradient(R, 0.1, torch.tensor([0.5, 0.5, 0, 0])), "infinite"),
        (lambda: POLICY.hessian(R, 0.1, torch.tensor([0.5, 0.6, 0.1, 0.1])), "sum to 1"),
        (lambda: POLICY.gradient(R, 0.1, torch.tensor([1.5, -0.5, 0.5, -0.5])), ">= 0"),
        (lambda: rlhf.best_of_n(P, R, R, 0), "n must"),
        (lambda: rlhf.best_of_n(P / 2, R, R, 2), "sum to 1"),
        (lambda: rlhf.best_of_n(P, R[:2], R, 2), "r_rm"),
        (lambda: rlhf.best_of_n(P, R, NAN, 2), "NaN"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
