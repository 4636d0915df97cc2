"""FID of samples and of statistics: known answers, peers' numbers, batches and merges, files, bad input, warnings."""

import contextlib
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flatlab.metrics import FIDStats, fid, fid_bias, frechet_distance, merge

few_rows = pytest.mark.filterwarnings("ignore:FID of")


def draws(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated features (n, d) with another mean and covariance for each seed."""
    g = torch.Generator().manual_seed(seed)
    mix, shift = torch.randn(d, d, generator=g, dtype=torch.float64), torch.randn(d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov()


def legacy(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.RandomState(seed).randn(n, d)  # what the peers' numbers were made with


@few_rows
def test_known_answer() -> None:
    """Means (.5, 1) and (2, 3); the covariances diag(1/3, 4/3) and four times that: 6.25 + 5/3."""
    a = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
    assert fid(a, 2 * a + 1) == pytest.approx(6.25 + 5 / 3, rel=1e-14)
    assert fid(torch.ones(3, 2), torch.zeros(4, 2)) == 2, "constant features"


def test_numbers_of_pytorch_fid_and_torchmetrics() -> None:
    a, b = legacy(0, 500, 16), 1.3 * legacy(1, 500, 16) + 0.25
    assert fid(a, b) == pytest.approx(3.1304210637, abs=1e-10)
    assert fid(FIDStats().update(a), torch.tensor(b)) == pytest.approx(3.1304210637, abs=1e-10)


@few_rows
def test_a_number_of_pytorch_fid_for_singular_covariances() -> None:
    a, b = legacy(2, 12, 32), abs(legacy(3, 20, 32))
    assert fid(a, b) == pytest.approx(49.8167246, abs=1e-6)
    assert fid(FIDStats().update(a), FIDStats().update(b)) == pytest.approx(49.8167246, abs=1e-5)


@few_rows
@pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 1), (200, 40, 20), (3, 40, 8), (4, 5, 12), (8, 8, 8)])
def test_agrees_with_the_distance_of_the_moments(n: int, m: int, d: int) -> None:
    a, b = draws(n, d, 1), draws(m, d, 2)
    assert fid(a, b) == pytest.approx(frechet_distance(*moments(a), *moments(b)), rel=1e-5)
    mean, covariance = moments(a)
    expected = float(mean.square().sum() + (3 - 1) ** 2 * covariance.reshape(d, d).trace())
    assert fid(a, 3 * (a - mean)) == pytest.approx(expected, rel=1e-10)


@few_rows
@pytest.mark.parametrize(("n", "d"), [(40, 6), (5, 20), (2, 2)])
def test_no_distance_between_a_sample_and_itself(n: int, d: int) -> None:
    a = draws(n, d)
    assert 0 <= fid(a, a) < 1e-9
    assert 0 <= fid(a, a.flip(0)) < 1e-9
    stats = FIDStats().update(a)
    assert 0 <= fid(stats, stats) < 1e-6 * float(stats.cov.trace())


@few_rows
def test_computes_in_double_precision() -> None:
    """A mean far from 0 would drown the covariance in float32, and whole numbers are features as well."""
    a = torch.arange(12).reshape(6, 2) % 5 + 10_000
    expected = fid((a - 10_000).double(), (2 * (a - 10_000)).double())
    assert fid(a.float(), (2 * a - 10_000).float()) == pytest.approx(expected, rel=1e-9)
    assert fid(a, (2 * a - 10_000).numpy()) == pytest.approx(expected, rel=1e-9)


def test_few_rows_are_warned_of_with_the_size_of_the_bias() -> None:
    a, b = draws(25, 3, 1), draws(200, 3, 2)
    bias = fid_bias(a.T.cov(), 25, 200)
    with pytest.warns(UserWarning, match=f"FID of 25 rows of 3 features is too high, by about {bias:.3g} if") as caught:
        fid(a, b)
    assert caught[0].filename == __file__
    assert "singular" not in str(caught[0].message)
    with pytest.warns(UserWarning, match=r"25 rows.*take at least 30 rows"):
        fid(b, a)
    for rows, singular in ((3, True), (4, False)):
        with pytest.warns(UserWarning, match="FID of") as caught:
            fid(a[:rows], FIDStats().update(b))
        assert ("singular" in str(caught[0].message)) is singular
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid(a, b, warn=False)
        fid(b[:30], b)


def splits(rows: Tensor, cuts: list[int]) -> list[Tensor]:
    return [part for part in rows.tensor_split(sorted(cuts)) if len(part)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=6), st.sampled_from([0.0, 1e3, 1e8]), st.integers(1, 4))
def test_batches_do_not_matter_even_far_from_zero(cuts: list[int], far: float, d: int) -> None:
    rows = draws(60, d, 1) + far
    exact = rows - far  # loses nothing: the nearest representable rows, moved back
    stats = FIDStats()
    for part in splits(rows, cuts):
        stats.update(part)
    assert stats.n == 60
    expected = exact.T.cov().reshape(d, d)
    torch.testing.assert_close(stats.cov, expected, rtol=0, atol=1e-12 * float(expected.diagonal().max()) + 1e-13)
    torch.testing.assert_close(stats.mean - far, exact.mean(0), rtol=0, atol=1e-15 * far + 1e-12)
    one = FIDStats().update(rows)
    torch.testing.assert_close(stats.cov, one.cov, rtol=0, atol=1e-12 * float(one.cov.diagonal().max()))
    parts = [FIDStats("net").update(part) for part in splits(rows, cuts)]
    merged = FIDStats()
    for part in parts:
        merged = merge(merged, part)
    assert (merged.n, merged.extractor) == (60, "net")
    torch.testing.assert_close(merged.cov, one.cov, rtol=0, atol=1e-12 * float(one.cov.diagonal().max()))
    torch.testing.assert_close(merged.mean, one.mean, rtol=1e-14, atol=1e-12)


def test_no_graph_is_kept() -> None:
    stats = FIDStats().update(draws(9, 3).requires_grad_())
    assert not stats.mean.requires_grad
    assert not stats.cov.requires_grad


def test_merging_leaves_the_parts_alone() -> None:
    a, b = FIDStats("net").update(draws(9, 3)), FIDStats().update(draws(7, 3, 1))
    before = [(part.n, part.mean.clone(), part.cov.clone()) for part in (a, b)]
    merged = merge(a, b).update(draws(5, 3, 2))
    assert merged.n == 21
    for part, (n, mean, cov) in zip((a, b), before, strict=True):
        assert part.n == n
        assert torch.equal(part.mean, mean)
        assert torch.equal(part.cov, cov)
    empty = merge(a, FIDStats())
    empty.update(draws(5, 3, 2))
    assert (a.n, empty.n) == (9, 14)
    assert torch.equal(a.cov, before[0][2])
    assert merge(FIDStats(), FIDStats()).n == 0


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_a_bad_batch_is_refused_whole(first: bool) -> None:
    stats, good = FIDStats(), draws(10, 3)
    if not first:
        stats.update(good)
    broken = draws(4, 3, 1)
    broken[3, 2] = math.nan
    bad = [(broken, "batch holds NaN"), (good[0], r"batch must be features \(N, D\)"), (good[:0], "rows of batch")]
    bad += [] if first else [(good[:, :2], "earlier and batch must have the same features, got 3 and 2 columns")]
    for batch, problem in bad:
        with pytest.raises(ValueError, match=problem):
            stats.update(batch)
    if first:
        assert stats.n == 0
        stats.update(good)
    assert stats.n == 10
    torch.testing.assert_close(stats.cov, good.T.cov())
    torch.testing.assert_close(stats.mean, good.mean(0))


def test_too_few_rows_for_moments() -> None:
    with pytest.raises(ValueError, match="the number of rows so far must be an integer >= 1, got 0"):
        _ = FIDStats().mean
    one = FIDStats().update(draws(1, 3))
    assert one.mean.shape == (3,)
    with pytest.raises(ValueError, match="the number of rows so far must be an integer >= 2, got 1"):
        fid(one, draws(50, 3))


def test_a_file_holds_it_all(tmp_path: Path) -> None:
    stats, path = FIDStats("net 0123").update(draws(40, 3)), tmp_path / "new" / "stats"
    stats.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["stats"], "no suffix added, nothing left behind"
    found = FIDStats.load(path)
    assert (found.n, found.extractor) == (40, "net 0123")
    assert torch.equal(found.mean, stats.mean)
    torch.testing.assert_close(found.cov, stats.cov, rtol=1e-14, atol=0)
    both = FIDStats("net 0123").update(draws(40, 3)).update(draws(30, 3, 1))
    torch.testing.assert_close(found.update(draws(30, 3, 1)).cov, both.cov, rtol=1e-12, atol=1e-12)
    with np.load(path) as file:
        assert sorted(file) == ["extractor", "mu", "n", "sigma"]
        assert (file["mu"].dtype, file["sigma"].shape) == (np.float64, (3, 3))


def test_files_of_pytorch_fid_can_be_compared_but_not_added_to(tmp_path: Path) -> None:
    rows, path = draws(40, 3), tmp_path / "theirs.npz"
    np.savez(path, mu=rows.mean(0).numpy(), sigma=np.cov(rows.numpy(), rowvar=False))
    theirs = FIDStats.load(path)
    assert (theirs.n, theirs.extractor) == (None, "")
    assert fid(theirs, draws(50, 3, 1)) == pytest.approx(fid(rows, draws(50, 3, 1)), rel=1e-10)
    with pytest.warns(UserWarning, match="FID of 20 rows"):
        fid(draws(20, 3), theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fid(theirs, theirs) < 1e-9
    for add in (lambda: theirs.update(rows), lambda: merge(theirs, FIDStats()), lambda: merge(FIDStats(), theirs)):
        with pytest.raises(ValueError, match="n is not known"):
            add()
    theirs.save(tmp_path / "again.npz")
    again = FIDStats.load(tmp_path / "again.npz")
    assert again.n is None
    assert torch.equal(again.cov, theirs.cov)


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    FIDStats().update(draws(40, 3)).save(path)
    whole = path.read_bytes()

    def refused(problem: str = "") -> None:
        with pytest.raises(ValueError, match=rf"stats\.npz is damaged or holds no statistics.*{problem}"):
            FIDStats.load(path)

    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused()
    refusals = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):  # and nothing else
            assert FIDStats.load(path).n in (40, None), "changed: a time of writing, or the name of n"
            refusals -= 1
        refusals += 1
    assert refusals > 0.5 * len(whole) / 7
    eye = np.eye(3)
    for arrays, problem in (
        ({"mu": np.zeros(3)}, "sigma"),
        ({"mu": np.zeros(2), "sigma": eye}, r"sigma must be \(2, 2\)"),
        ({"mu": np.zeros((3, 1)), "sigma": eye}, r"mu must be \(D,\)"),
        ({"mu": np.full(3, np.nan), "sigma": eye}, "mu must be .*finite"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)}, "sigma holds NaN"),
        ({"mu": np.zeros(3), "sigma": eye, "n": 1}, "n must be an integer >= 2, got 1"),
        ({"mu": np.array([None] * 3), "sigma": eye}, "allow_pickle"),
    ):
        np.savez(path, **arrays)
        refused(problem)
    with path.open("wb") as file:
        np.save(file, eye)
    refused()
    np.savez_compressed(path, mu=np.zeros(3), sigma=np.random.default_rng(0).normal(size=(3, 3)))
    packed = path.read_bytes()
    start = 30 + len("mu.npy") + int.from_bytes(packed[28:30], "little")  # of the first array's compressed bytes
    path.write_bytes(packed[:start] + b"\xff" + packed[start + 1 :])
    refused("decompressing")
    path.unlink()
    path.mkdir()
    refused("directory")
    with pytest.raises(FileNotFoundError):
        FIDStats.load(tmp_path / "missing.npz")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stats.npz"
    FIDStats("old").update(draws(4, 3)).save(path)

    def full(file: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"cannot write .*stats\.npz"):
        FIDStats("new").update(draws(4, 3)).save(path)
    assert FIDStats.load(path).extractor == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_features_of_other_networks_are_not_compared() -> None:
    a, b = FIDStats("a").update(draws(40, 3)), FIDStats("b").update(draws(40, 3))
    for compare in (fid, merge):
        with pytest.raises(ValueError, match="features of 'a' and of 'b' cannot be compared"):
            compare(a, b)
    assert fid(a, FIDStats().update(draws(40, 3))) < 1e-9
    assert merge(FIDStats(), b).extractor == "b"


@few_rows
def test_bad_features_are_refused() -> None:
    a, broken = draws(5, 3), draws(5, 3)
    broken[2, 1] = math.nan
    with pytest.raises(ValueError, match="^fake holds NaN or infinity"):
        fid(a, broken)
    with pytest.raises(ValueError, match="^real holds NaN or infinity"):
        fid(broken / 0, a)
    with pytest.raises(ValueError, match="the number of rows of fake must be an integer >= 2, got 1"):
        fid(a, a[:1])
    with pytest.raises(ValueError, match="real and fake must have the same features, got 3 and 2 columns"):
        fid(a, a[:, :2])
    with pytest.raises(ValueError, match=r"real must be features \(N, D\)"):
        fid(a[0], a)
    with pytest.raises(ValueError, match=r"with D >= 1, got shape \(5, 0\)"):
        fid(a[:, :0], a[:, :0])
    with pytest.raises(ValueError, match="a and b must have the same features, got 3 and 2 columns"):
        merge(FIDStats().update(a), FIDStats().update(a[:, :2]))
    with pytest.raises(TypeError, match="real must be an array or a tensor of real numbers, got str"):
        fid("features.npz", a)
