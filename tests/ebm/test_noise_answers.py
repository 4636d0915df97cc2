"""Noise distributions: known answers, what the fits do, and what is refused."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from torch import Tensor

from flatlab import ebm
from flatlab.ebm import BoxNoise, CachedNoise, DefensiveNoise, GaussianNoise, GMMNoise, StudentNoise

DOUBLE = torch.float64


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(200, 3, generator=seeded(), dtype=DOUBLE) @ tensor([[1.0, 0, 0], [0.5, 0.8, 0], [2, -0.3, 0.4]])
AT = torch.randn(30, 3, generator=seeded(1), dtype=DOUBLE) * 3


def test_densities_are_scipys() -> None:
    mean, cov = X.mean(0), X.T.cov(correction=0)
    at, m, c = AT.numpy(), mean.numpy(), cov.numpy()
    for ours, theirs in (
        (GaussianNoise.fit(X), stats.multivariate_normal(m, c)),
        (GaussianNoise.standard(3, 2.0).double(), stats.multivariate_normal(cov=4 * torch.eye(3).numpy())),
        (StudentNoise(mean, cov, 3.5), stats.multivariate_t(m, c, df=3.5)),
        (StudentNoise.fit(X, df=8), stats.multivariate_t(m, c * 6 / 8, df=8)),
    ):
        torch.testing.assert_close(ours.log_prob(AT), torch.as_tensor(theirs.logpdf(at)))
    theirs = stats.uniform(-2, 3).logpdf(at).sum(1)
    torch.testing.assert_close(BoxNoise(-2, 1, 3).log_prob(AT), torch.as_tensor(theirs))
    assert -math.inf in theirs
    assert (theirs > -math.inf).any()


def test_factor_of_a_float32_covariance_is_not_lost_to_rounding() -> None:
    cov = torch.tensor([[0.3, 0.458257], [0.458257, 0.7]])  # of correlation 1 - 1.2e-6
    narrow, wide = GaussianNoise(torch.zeros(2), cov), GaussianNoise(torch.zeros(2), cov.double())
    torch.testing.assert_close(narrow.log_prob(AT[:, :2]), wide.log_prob(AT[:, :2]), rtol=1e-4, atol=0)


def test_mixture_is_scikit_learns() -> None:
    theirs = GaussianMixture(3, reg_covar=0.01, random_state=2).fit(X.numpy())
    ours = GMMNoise.fit(X, 3, seed=2, reg=0.01)
    torch.testing.assert_close(ours.log_prob(AT), torch.as_tensor(theirs.score_samples(AT.numpy())))
    assert GMMNoise.fit(X.float(), 3).means.dtype == torch.float32


def test_fit_to_whitened_data_costs_what_the_normal_distribution_must() -> None:
    x = torch.randn(300, 16, generator=seeded(), dtype=DOUBLE).cumsum(1) + 5
    z = ebm.Whitening.fit(x).transform(x)
    assert -GaussianNoise.fit(z).log_prob(z).mean() == pytest.approx(8 * (1 + math.log(2 * math.pi)), abs=1e-9)
    assert 8 * (1 + math.log(2 * math.pi)) == pytest.approx(22.7030, abs=5e-5)


def test_shrinkage_keeps_the_trace() -> None:
    full, shrunk = (noise.tril @ noise.tril.mT for noise in (GaussianNoise.fit(X), GaussianNoise.fit(X, shrink=0.25)))
    torch.testing.assert_close(shrunk, 0.75 * full + 0.25 * full.trace() / 3 * torch.eye(3, dtype=DOUBLE))


def test_t_of_many_degrees_of_freedom_is_normal_in_float32() -> None:
    x = AT[:, :2].float()
    t = StudentNoise(torch.zeros(2), torch.eye(2), 1e7)
    torch.testing.assert_close(t.log_prob(x), GaussianNoise.standard(2).log_prob(x), rtol=1e-3, atol=1e-3)


def test_edges_of_a_box() -> None:
    noise = BoxNoise(torch.tensor([0.0, 1.0]), 3)
    x = torch.tensor([[0.0, 1.0], [3.0, 3.0], [3.1, 2.0], [1.0, 0.9], [math.inf, 2.0], [math.nan, 2.0]])
    x.requires_grad_()
    found = noise.log_prob(x)
    torch.testing.assert_close(found[:5], -torch.tensor([6.0, 6, math.inf, math.inf, math.inf]).log().abs())
    assert found[5].isnan()
    assert BoxNoise(-0.1, tensor([1.0, 2.0])).lo.tolist() == [-0.1, -0.1], (
        "a number is as exact as the tensor beside it"
    )
    (gradient,) = torch.autograd.grad(found[:5].sum(), x)
    assert torch.equal(gradient[:4], torch.zeros(4, 2))


def test_defensive_mixture_takes_its_share_and_bounds_weights() -> None:
    q, wide = GaussianNoise.standard(1, 0.1).double(), BoxNoise(tensor([-9.0]), tensor([9.0]))
    noise = DefensiveNoise(q, wide, 0.2)
    far = (noise.sample(10_000, generator=seeded()).abs() > 1).double().mean()
    assert far == pytest.approx(0.2 * 8 / 9, abs=4 * math.sqrt(0.18 * 0.82 / 10_000))
    x = torch.linspace(-9, 9, 500, dtype=DOUBLE)[:, None]
    p = GaussianNoise(tensor([4.0]), tensor([[1.0]])).log_prob(x)
    assert (p - noise.log_prob(x)).max() < (p - wide.log_prob(x)).max() - math.log(0.2) + 1e-6
    assert (p - q.log_prob(x)).max() > 100


ROUNDED = torch.cat([X[:, :2], X[:, :1] + X[:, 1:2]], 1).float()
EYE, PLANE = torch.eye(2), GaussianNoise.standard(2)
REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "constant coordinate": (lambda: GaussianNoise.fit(torch.cat([X, 0 * X[:, :1] + 0.1], 1)), "singular.*shrink"),
    "only a constant": (lambda: GaussianNoise.fit(torch.full((7, 1), 0.1)), "singular"),
    "repeated coordinate": (lambda: StudentNoise.fit(X[:, [0, 1, 1]].float()), "singular"),
    "sum of others, rounded": (lambda: GaussianNoise.fit(ROUNDED), "singular"),
    "too few rows": (lambda: GaussianNoise.fit(X[:3]), "singular.*fewer dims"),
    "one row": (lambda: GaussianNoise.fit(X[:1]), "N >= 2"),
    "flat data": (lambda: GaussianNoise.fit(X[:, 0]), r"\(N, D\)"),
    "NaN": (lambda: GaussianNoise.fit(X.clone().fill_(math.nan)), "NaN"),
    "shrink": (lambda: GaussianNoise.fit(X, shrink=1.5), "shrink is a share"),
    "scale": (lambda: GaussianNoise.standard(2, -1.0), "scale must be a finite number > 0"),
    "asymmetric": (lambda: GaussianNoise(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
    "infinite": (lambda: GaussianNoise(torch.zeros(2), EYE * math.inf), "not finite"),
    "indefinite": (lambda: GaussianNoise(torch.zeros(2), -EYE), "singular"),
    "shapes": (lambda: GaussianNoise(torch.zeros(3), EYE), r"\(D,\) and \(D, D\), got \(3,\) and \(2, 2\)"),
    "batch": (lambda: StudentNoise(torch.zeros(1, 2), EYE[None], 5.0), r"got \(1, 2\)"),
    "weights": (lambda: GMMNoise(torch.tensor([0.5, 0.6]), torch.zeros(2, 2), torch.stack([EYE] * 2)), "sum 1"),
    "negative weight": (lambda: GMMNoise(torch.tensor([1.5, -0.5]), EYE, torch.stack([EYE] * 2)), ">= 0"),
    "k": (lambda: GMMNoise.fit(X[:4], 5), "k=5 components need as many rows, got 4"),
    "df": (lambda: StudentNoise(torch.zeros(2), EYE, 0.0), "df must be"),
    "df of fit": (lambda: StudentNoise.fit(X, df=2.0), "df must be > 2"),
    "box": (lambda: BoxNoise(1.0, 1.0, 2), "lo must be below hi"),
    "box without dim": (lambda: BoxNoise(0.0, 1.0), "dim=D"),
    "box of two sizes": (lambda: BoxNoise(torch.zeros(2), torch.ones(2), 3), "dim=3"),
    "infinite box": (lambda: BoxNoise(0.0, math.inf, 2), "finite"),
    "no share": (lambda: DefensiveNoise(PLANE, PLANE, 0.0), "share"),
    "whole share": (lambda: DefensiveNoise(PLANE, PLANE, 1.0), r"share must lie in \(0, 1\), got 1.0"),
    "two shapes": (lambda: DefensiveNoise(PLANE, BoxNoise(0, 1, 3)), r"one shape, got \(2,\) and \(3,\)"),
    "empty cache": (lambda: CachedNoise(PLANE, 0), "size must be an integer >= 1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_names_the_cure(case: str) -> None:
    call, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_shrinkage_cures_a_singular_covariance() -> None:
    noise = GaussianNoise.fit(X[:3].float(), shrink=0.1)
    assert noise.log_prob(AT.float()).isfinite().all()
