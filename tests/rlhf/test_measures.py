"""Measures of rewards, the two losses, and correlations: known answers, invariances, and what they refuse."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import rlhf

SMALL = torch.tensor([[1.0, 3], [2, 2], [0, 4]])


def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    """A ground truth and a reward model, (5, 10) each."""
    g = torch.Generator().manual_seed(0)
    r = torch.randn(5, 10, generator=g)
    return r, r + torch.randn(5, 10, generator=g)


# --- variance ---------------------------------------------------------------------------------------------------------


def test_variance_by_hand():
    assert rlhf.prompt_variances(SMALL, normalize=False).tolist() == [2, 0, 8]
    assert rlhf.prompt_variances(SMALL, normalize=False, ddof=0).tolist() == [1, 0, 4]
    assert rlhf.reward_variance(SMALL) == pytest.approx(5 / 3)
    assert rlhf.reward_variance(SMALL, ddof=0) == pytest.approx(1.0)
    normalizer = rlhf.RewardNormalizer.fit(SMALL)
    assert normalizer.shift == -2
    assert 1 / normalizer.scale == pytest.approx(1.41421356)
    assert rlhf.within_share(SMALL) == pytest.approx(1.0)  # all prompts have one mean


def test_variances_of_standardized_rewards():
    r, _ = noisy()
    normalizer = rlhf.RewardNormalizer.fit(r)
    assert (-normalizer.shift, 1 / normalizer.scale) == pytest.approx((0.0488, 1.0873), abs=1e-4)
    assert rlhf.prompt_variances(r).tolist() == pytest.approx([0.7539, 0.8069, 0.9747, 0.3553, 2.1659], abs=1e-4)
    assert rlhf.reward_variance(r) == pytest.approx(1.0113, abs=1e-4)


def test_total_variance_is_within_plus_between():
    r, _ = noisy()
    within = r.double().var(1, correction=0).mean()
    between = r.double().mean(1).var(correction=0)
    assert rlhf.within_share(r) == pytest.approx(float(within / (within + between)))


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-100, 100))
@settings(deadline=None, max_examples=30)
def test_what_variance_sees(seed, scale, offset):
    r = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert rlhf.reward_variance(scale * r + offset) == pytest.approx(rlhf.reward_variance(r), rel=1e-6)
    prompts = torch.arange(6.0)[:, None] * 10
    assert rlhf.within_share(r + prompts) < rlhf.within_share(r)
    torch.testing.assert_close(rlhf.RewardNormalizer.fit(r, within=True).transform(r).var(1).mean().item(), 1.0)
    assert rlhf.reward_variance(r + 1e7) == pytest.approx(rlhf.reward_variance(r), rel=1e-6)


def test_ten_samples_a_prompt_are_unbiased():
    r = torch.randn(500, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = rlhf.prompt_variances(r, normalize=False)
    error = math.sqrt(2 / 9 / 500)
    assert abs(float(found.mean()) - 1) < 3 * error
    assert float(found.std()) / math.sqrt(500) == pytest.approx(error, rel=0.2)


def test_the_normalizer_travels():
    r, _ = noisy()
    normalizer = rlhf.RewardNormalizer.fit(r)
    again = rlhf.RewardNormalizer(**normalizer.state_dict())
    assert torch.equal(again.transform(r), normalizer.transform(r))
    assert again.transform(r).dtype == torch.float32


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_accuracy_by_hand():
    gold = torch.tensor([0.9, 0.1, -0.5, -0.2])
    assert rlhf.ranking_accuracy(torch.tensor([0.2, 0.2, -1, 0]), gold) == pytest.approx(5 / 6)
    assert rlhf.ranking_accuracy(torch.zeros(4), gold) == 0
    assert rlhf.ranking_accuracy(torch.zeros(4), torch.ones(4)) == 1
    rm = torch.tensor([[0.1, 0.5, 0.5, -1], [3, 2, 1, 0], [0, 0, 0, 0]])
    truth = torch.tensor([[0.0, 1, 2, -1], [0, 1, 2, 3], [0, 0, 1, 2]])
    assert rlhf.prompt_accuracies(rm, truth).tolist() == pytest.approx([5 / 6, 0, 1 / 6])
    assert rlhf.ranking_accuracy(rm, truth) == pytest.approx(1 / 3)
    assert rlhf.prompt_accuracies(rm, truth, torch.tensor([[1, 2]])).tolist() == [0, 0, 0]
    assert rlhf.prompt_accuracies(rm, truth, torch.tensor([[0, 1], [1, 0]])).tolist() == [1, 0, 1]


def test_accuracies_of_noisy_rewards():
    r, q = noisy()
    assert rlhf.prompt_accuracies(q, r).tolist() == pytest.approx([0.6, 0.8667, 0.7111, 0.6222, 0.7556], abs=1e-4)


def test_accuracy_under_a_policy_weighs_pairs():
    r, q = noisy()
    p = torch.randn(5, 10, generator=torch.Generator().manual_seed(2)).softmax(-1)
    pairs = torch.combinations(torch.arange(10), 2)
    found = rlhf.prompt_accuracies(q, r, weights=p[:, pairs[:, 0]] * p[:, pairs[:, 1]])
    for i in range(5):
        weights = [(p[i, a] * p[i, b], (r[i, a] - r[i, b]).sign() == (q[i, a] - q[i, b]).sign()) for a, b in pairs]
        expected = sum(w for w, right in weights if right) / sum(w for w, _ in weights)
        assert float(found[i]) == pytest.approx(float(expected), rel=1e-5)


@given(st.integers(0, 10_000), st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_what_accuracy_sees(seed, scale):
    g = torch.Generator().manual_seed(seed)
    rm, gold = torch.randn(2, 4, 6, generator=g, dtype=torch.float64)
    offsets = torch.randn(4, 1, generator=g, dtype=torch.float64)
    found = rlhf.prompt_accuracies(rm, gold)
    assert torch.equal(rlhf.prompt_accuracies(gold, rm), found)
    assert torch.equal(rlhf.prompt_accuracies(scale * rm + offsets, gold), found)
    torch.testing.assert_close(rlhf.prompt_accuracies(-rm, gold), 1 - found)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_bradley_terry_by_hand():
    def loss(chosen: float, rejected: float, **options) -> float:
        return float(rlhf.bradley_terry_loss(torch.tensor([chosen]), torch.tensor([rejected]), **options))

    assert loss(0.3, 0.3, center=0.0) == pytest.approx(math.log(2))
    assert loss(2.0, 1.0, center=0.0) == pytest.approx(0.31326169)
    assert loss(2.0, 1.0) == pytest.approx(0.40326169)
    assert loss(2.0, 1.0, center=0.0, margin=1.0) == pytest.approx(math.log(2))
    assert loss(2.0, 1.0, center=0.0, margin=torch.tensor([1.0])) == pytest.approx(math.log(2))
    assert loss(7.0, 6.0, center=0.0) == pytest.approx(loss(2.0, 1.0, center=0.0))
    assert loss(7.0, 6.0) > loss(2.0, 1.0)
    assert loss(-2000.0, 2000.0, center=0.0) == pytest.approx(4000)


def test_bradley_terry_gradient():
    chosen, rejected = torch.tensor([[1.0, 0.2], [0.4, 0.9]], dtype=torch.float64).requires_grad_().unbind(0)
    rlhf.bradley_terry_loss(chosen, rejected, center=0.0).backward(inputs=[leaf := chosen._base])
    push = torch.sigmoid(rejected - chosen).detach() / 2
    torch.testing.assert_close(leaf.grad, torch.stack([-push, push]))


def test_kl_estimates_and_their_gradients():
    """Over all outputs of a policy: k1 and k3 are unbiased; as losses they pull where the docstring says."""
    theta = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    logp = theta.log_softmax(-1)
    p = logp.exp().detach()
    forward, backward = (logp.exp() * (logp - ref)).sum(), (ref.exp() * (ref - logp)).sum()
    towards = {"k1": torch.zeros(3, dtype=torch.float64)}
    towards["k2"], towards["k3"] = (torch.autograd.grad(kl, theta, retain_graph=True)[0] for kl in (forward, backward))
    for kind, wanted in towards.items():
        estimate = rlhf.kl_penalty(logp, ref, kind)
        (found,) = torch.autograd.grad((p * estimate).sum(), theta, retain_graph=True)
        torch.testing.assert_close(found, wanted, atol=1e-14, rtol=0)
        assert torch.equal(rlhf.kl_penalty(ref, ref, kind), torch.zeros_like(ref))
        assert kind == "k1" or (estimate >= 0).all()
        if kind != "k2":
            assert (p * estimate).sum().item() == pytest.approx(forward.item())
    assert (rlhf.kl_penalty(logp, ref, "k1") < 0).any()
    assert float(rlhf.kl_penalty(torch.tensor(1e-4), torch.tensor(0.0), "k3")) == pytest.approx(5e-9, rel=1e-2)


# --- correlations -----------------------------------------------------------------------------------------------------


def test_correlation_table():
    rng = np.random.default_rng(0)
    rows = [dict(zip(("variance", "accuracy", "gain"), rng.normal(size=3).tolist(), strict=True)) for _ in range(6)]
    table = rlhf.correlation_table(rows, ["variance", "accuracy"], ["gain"])
    assert table.shape == (2, 7)
    for row in table.itertuples():
        x, y = ([r[name] for r in rows] for name in (row.measure, row.target))
        assert row.pearson == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
        assert row.spearman == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        assert (1 - row.spearman) * 35 == pytest.approx(round((1 - row.spearman) * 35))  # all that n = 6 allows
        null = [scipy.stats.pearsonr(x, order).statistic for order in itertools.permutations(y)]
        assert row.pearson_p == pytest.approx(np.mean(np.abs(null) >= abs(row.pearson) - 1e-12))
        assert 1 / 720 <= row.spearman_p <= 1
        assert row.n == 6


def test_no_correlation_is_not_zero():
    rows = [{"a": 1.0, "b": float(i), "c": float(-i)} for i in range(4)]
    with pytest.warns(UserWarning, match="constant column"):
        table = rlhf.correlation_table(rows, ["a", "b"], ["c"])
    assert table.pearson.isna().tolist() == table.spearman_p.isna().tolist() == [True, False]
    assert table.spearman[1] == pytest.approx(-1)
    with pytest.warns(UserWarning, match="fewer than three"):
        assert rlhf.correlation_table(rows[:2], ["b"], ["c"]).spearman.isna().all()


# --- bad input --------------------------------------------------------------------------------------------------------

R, NAN = torch.zeros(2, 3), torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
ONE = torch.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rlhf.reward_variance(torch.ones(3, 4)), "reward model is constant"),
        (lambda: rlhf.within_share(torch.full((7, 11), 0.1, dtype=torch.float64)), "reward model is constant"),
        (lambda: rlhf.RewardNormalizer.fit(torch.tensor([[1.0, 1], [2, 2]]), within=True), "within prompts"),
        (lambda: rlhf.reward_variance(NAN), "NaN"),
        (lambda: rlhf.reward_variance(torch.ones(4)), "prompts, k"),
        (lambda: rlhf.reward_variance(torch.randn(4, 1)), "k >= 2"),
        (lambda: rlhf.reward_variance(torch.randn(0, 3)), "K >= 1"),
        (lambda: rlhf.reward_variance(torch.randn(4, 3), ddof=2), "ddof"),
        (lambda: rlhf.ranking_accuracy(R, R[:, :2]), "one shape"),
        (lambda: rlhf.ranking_accuracy(NAN, NAN), "NaN"),
        (lambda: rlhf.ranking_accuracy(R, R, torch.tensor([[0, 3]])), "indices"),
        (lambda: rlhf.ranking_accuracy(R, R, torch.tensor([[0, -1]])), "indices"),
        (lambda: rlhf.ranking_accuracy(R, R, torch.tensor([0, 1])), "indices"),
        (lambda: rlhf.ranking_accuracy(R, R, weights=torch.ones(2)), "weights"),
        (lambda: rlhf.ranking_accuracy(R, R, weights=torch.tensor([0.0, 0, 0])), "weights"),
        (lambda: rlhf.ranking_accuracy(R, R, weights=torch.tensor([1.0, 1, -1])), "weights"),
        (lambda: rlhf.bradley_terry_loss(ONE, ONE[:1]), r"\(N,\)"),
        (lambda: rlhf.bradley_terry_loss(ONE[:0], ONE[:0]), "N >= 1"),
        (lambda: rlhf.bradley_terry_loss(ONE * torch.inf, ONE), "finite"),
        (lambda: rlhf.bradley_terry_loss(ONE, ONE, center=-1.0), "center"),
        (lambda: rlhf.bradley_terry_loss(ONE, ONE, margin=torch.ones(3)), "margin"),
        (lambda: rlhf.kl_penalty(ONE, ONE, "k4"), "kind"),
        (lambda: rlhf.kl_penalty(ONE, ONE[:1]), "one shape"),
        (lambda: rlhf.correlation_table([{"a": 1.0}], ["a"], ["b"]), "column"),
        (lambda: rlhf.correlation_table([{"a": float("nan")}] * 3, ["a"], ["a"]), "NaN"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
