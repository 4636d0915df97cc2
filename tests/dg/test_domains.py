"""Domains: checks, splits, the three kinds made of digits, and sets read from small made-up files."""

import io
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flatlab.data import CORRUPTIONS, DataCorrupt, DataNotFound, cache, corrupt, load_images
from flatlab.data.registry import ENTRIES, Entry
from flatlab.dg import (
    DATASETS,
    Domain,
    coloured_digits,
    corrupted_digits,
    load_domains,
    rotated_digits,
    split_domain,
)

DATA = os.environ.get("FLATLAB_DATA", "")
MAKERS = {"rotated": rotated_digits, "coloured": coloured_digits, "corrupted": corrupted_digits}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch) -> None:
    """No test reads or writes a folder of the user."""
    monkeypatch.delenv("FLATLAB_DATA", raising=False)
    monkeypatch.setenv("FLATLAB_CACHE", str(tmp_path / "user-cache"))


def domain(counts: tuple[int, ...] = (6, 4), *, shuffle: int | None = None, names: bool = True) -> Domain:
    """Images each of which is one grey of its own, with so many of each class."""
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    if shuffle is not None:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(shuffle))]
    x = torch.arange(len(y), dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Domain(x, y, "toy", tuple("abcdefghij"[: len(counts)]) if names else ())


def rows(part: Domain) -> list[int]:
    return part.x[:, 0, 0, 0].tolist()


def originals() -> dict[bytes, list[int]]:
    """The labels of every different picture among the 1,797 digits."""
    found: dict[bytes, list[int]] = {}
    for split in ("train", "test"):
        images = load_images("digits", split)
        for x, y in zip(images.x, images.y.tolist(), strict=True):
            found.setdefault(x.numpy().tobytes(), []).append(y)
    return found


def pictures(images: Tensor) -> set[bytes]:
    return {x.numpy().tobytes() for x in images}


# Domain


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
def test_bytes_and_floats_make_a_domain(dtype: torch.dtype) -> None:
    made = Domain(torch.ones(3, 1, 2, 2, dtype=dtype), torch.tensor([0, 1, 1]), "d", ("a", "b"))
    assert (len(made), str(made)) == (3, "domain 'd'")
    assert made.subset(torch.tensor([True, False, True])).y.tolist() == [0, 1]
    assert Domain(made.x, made.y).classes == ()
    with pytest.raises(AttributeError):
        made.name = "other"  # type: ignore[misc]


X, Y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], Y), ValueError, r"domain 'd' needs x as a non-empty batch .*got shape \(1, 2, 2\)"),
        ((X[:0], Y[:0]), ValueError, "non-empty"),
        ((X * 255, Y), ValueError, r"must lie in \[0, 1\]"),
        ((X * math.nan, Y), ValueError, r"must lie in \[0, 1\]"),
        ((X.long(), Y), TypeError, "floating point"),
        ((X, Y.int()), TypeError, "domain 'd' needs labels y of dtype int64, got torch.int32"),
        ((X, Y[:2]), ValueError, r"shape \(3,\)"),
        ((X, Y + 1), ValueError, r"labels must lie in 0..1, got 1..2"),
        ((X, Y - 1), ValueError, r"labels must lie in 0..1, got -1..0"),
        ((X, Y - 1, ()), ValueError, "labels of domain 'd' must be >= 0, got -1"),
        ((X, Y, ["a", "b"]), ValueError, "must be a tuple of different names"),
        ((X, Y, ("a", "a")), ValueError, "must be a tuple of different names"),
    ],
    ids=["3-d", "empty", "255", "NaN", "int x", "int32", "short", "high", "low", "low unnamed", "list", "twice"],
)
def test_what_is_no_domain_is_refused(arguments, error: type[Exception], message: str) -> None:
    x, y, *classes = arguments
    with pytest.raises(error, match=message):
        Domain(x, y, "d", classes[0] if classes else ("a", "b"))


def test_at_most_keeps_order_and_proportions() -> None:
    few = domain((60, 40), shuffle=0).at_most(10)
    assert torch.bincount(few.y).tolist() == [6, 4]
    assert rows(few) == sorted(rows(few))
    whole = domain()
    assert whole.at_most(None) is whole.at_most(10) is whole.at_most(11) is whole
    with pytest.raises(ValueError, match="limit must be an integer >= 1, got 0"):
        whole.at_most(0)


# split_domain


@pytest.mark.parametrize("names", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("shuffle", [None, 1, 2], ids=["sorted", "permuted 1", "permuted 2"])
def test_a_split_is_disjoint_whole_and_stratified(shuffle: int | None, names: bool) -> None:
    whole = domain((50, 30, 20), shuffle=shuffle, names=names)
    train, held = split_domain(whole, 0.2, seed=3)
    assert torch.bincount(held.y).tolist() == [10, 6, 4]
    assert torch.bincount(train.y).tolist() == [40, 24, 16]
    assert sorted(rows(train) + rows(held)) == rows(whole)
    assert all(rows(part) == sorted(rows(part)) for part in (train, held))
    for part in (train, held):
        assert torch.equal(part.y, whole.y[rows(part)])
        assert (part.name, part.classes) == (whole.name, whole.classes)


def test_a_split_follows_from_its_seed_alone() -> None:
    whole = domain((50, 50))
    held = [rows(split_domain(whole, seed=seed)[1]) for seed in (0, 0, 1, 2)]
    torch.manual_seed(99)
    assert held[0] == held[1] == rows(split_domain(whole, seed=0)[1])
    assert len({tuple(h) for h in held}) == 3


@pytest.mark.parametrize(("count", "holdout", "size"), [(100, 0.29, 29), (100, 0.2, 20), (99, 0.2, 19), (5, 0.2, 1)])
def test_the_held_out_part_has_its_size(count: int, holdout: float, size: int) -> None:
    assert len(split_domain(domain((count,)), holdout, seed=0)[1]) == size


@pytest.mark.parametrize("holdout", [0.01, 0.2, 0.5, 0.99])
def test_every_class_is_in_both_parts(holdout: float) -> None:
    for part in split_domain(domain((90, 2, 3)), holdout, seed=0):
        assert part.y.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("whole", "holdout", "message"),
    [
        (domain((2, 2)), 0.2, "domain 'toy' has 4 sample.* needs at least 5"),
        (domain((9, 1)), 0.2, "class 'b' of domain 'toy' has 1 sample"),
        (domain((9, 0, 3)), 0.2, "class 'b' of domain 'toy' has 0 sample"),
        (domain((9, 1), names=False), 0.2, "class 1 of domain 'toy' has 1 sample"),
        (domain(), 0, r"holdout must be a fraction in \(0, 1\), got 0"),
        (domain(), 1.0, "got 1.0"),
        (domain(), math.nan, "got nan"),
    ],
    ids=["four", "one of a class", "none of a class", "unnamed class", "0", "1", "nan"],
)
def test_a_split_that_cannot_be_is_refused(whole: Domain, holdout: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_domain(whole, holdout, seed=0)


def test_without_names_a_label_may_be_missing() -> None:
    assert split_domain(domain((9, 0, 3), names=False), seed=0)[1].y.unique().tolist() == [0, 2]


# Digits


@pytest.mark.parametrize("kind", MAKERS)
def test_domains_of_digits_share_out_all_images_class_by_class(kind: str) -> None:
    made = MAKERS[kind]()
    assert sum(map(len, made.values())) == 1797
    sizes = [torch.bincount(d.y, minlength=len(d.classes)) for d in made.values()]
    if kind != "coloured":  # whose labels are flipped by chance
        spread = torch.stack(sizes)
        assert int((spread.amax(0) - spread.amin(0)).max()) <= 1
    assert max(map(len, made.values())) - min(map(len, made.values())) <= 1
    for name, one in made.items():
        assert (one.name, one.x.dtype, one.x.shape[2:]) == (name, torch.uint8, (8, 8))
        assert (one.x.float().flatten(1).std(1) > 0).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_domains_of_digits_follow_from_the_seed_alone(kind: str) -> None:
    one = MAKERS[kind](seed=1)
    torch.manual_seed(99)
    same, other = MAKERS[kind](seed=1), MAKERS[kind](seed=2)
    for name in one:
        assert torch.equal(one[name].x, same[name].x)
        assert torch.equal(one[name].y, same[name].y)
        assert not torch.equal(one[name].x, other[name].x)


@pytest.mark.parametrize("kind", MAKERS)
def test_domains_of_digits_can_be_limited_and_resized(kind: str) -> None:
    whole, made = MAKERS[kind](), MAKERS[kind](limit=40, size=12)
    assert list(made) == list(whole)
    assert all((len(d), d.x.shape[2:]) == (40, (12, 12)) for d in made.values())
    few = MAKERS[kind](limit=40)
    if kind == "rotated":
        assert all(pictures(few[name].x) <= pictures(whole[name].x) for name in whole)


def test_turned_images_are_those_of_the_set_disjoint_and_keep_their_labels() -> None:
    labels, seen = originals(), []
    for quarter, turned in enumerate(rotated_digits((0, 90, 180, 270), seed=5).values()):
        back = torch.rot90(turned.x, -quarter, (2, 3)).contiguous()  # bilinear is exact at quarter turns
        for x, y in zip(back, turned.y.tolist(), strict=True):
            assert y in labels[x.numpy().tobytes()]
        seen += [x.numpy().tobytes() for x in back]
    assert sorted(seen) == sorted(key for key, found in labels.items() for _ in found)


def test_a_turn_of_45_degrees_moves_a_point_counter_clockwise() -> None:
    from flatlab.dg.digits import _rotated

    x = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    x[0, 0, 16, 24:28] = 255  # to the right of the middle, 8 to 11 pixels away
    turned = _rotated(x, 45)[0, 0].double()
    places = torch.arange(33, dtype=torch.float64) - 16
    row, column = (float((turned.sum(d) * places).sum() / turned.sum()) for d in (1, 0))
    assert row == pytest.approx(-9.5 / math.sqrt(2), abs=0.1)  # rows count downwards
    assert column == pytest.approx(9.5 / math.sqrt(2), abs=0.1)
    assert float(turned.sum()) == pytest.approx(4 * 255, rel=0.15)  # a thin line is not kept exactly
    assert torch.equal(_rotated(x, 360), x)


def test_large_sets_are_turned_in_parts() -> None:
    from flatlab.dg.digits import _rotated

    x = load_images("digits", "train").x.repeat(4, 1, 1, 1)
    assert torch.equal(_rotated(x, 30)[-1200:], _rotated(x[:1200], 30))


def test_colour_and_shape_agree_as_often_as_they_should() -> None:
    labels = originals()
    for name, made in coloured_digits(seed=4).items():
        assert made.classes == ("0-4", "5-9")
        red, green, blue = made.x.flatten(2).sum(2).T
        assert int(blue.sum()) == 0
        assert ((red > 0) ^ (green > 0)).all(), "one colour each"
        shape = torch.tensor([max(labels[x.numpy().tobytes()]) >= 5 for x in made.x.sum(1, dtype=torch.uint8)])
        agree, clean = ((red > 0) == made.y.bool()).double(), (shape == made.y.bool()).double()
        for rate, wanted in ((agree, float(name)), (clean, 0.75)):
            error = math.sqrt(wanted * (1 - wanted) / len(made))
            assert abs(float(rate.mean()) - wanted) < 4 * error
        # given the label, colour and shape know nothing of each other
        assert abs(float(torch.corrcoef(torch.stack([agree, clean]))[0, 1])) < 4 / math.sqrt(len(made))


def test_colours_without_chance() -> None:
    for name, made in coloured_digits((1, 0), label_noise=0).items():
        red = made.x[:, 0].flatten(1).any(1)
        assert torch.equal(red.long(), made.y if name == "1" else 1 - made.y)


def test_corruptions_of_digits_are_those_of_the_data_room() -> None:
    made = corrupted_digits(severity=5, disjoint=False, seed=2)
    labels = originals()
    assert list(made) == ["clean", *CORRUPTIONS]
    assert pictures(made["clean"].x) <= labels.keys()
    assert abs(len(made["clean"]) - len(made["blur"])) <= 1
    others = [made[kind] for kind in CORRUPTIONS]
    assert all(torch.equal(one.y, others[0].y) for one in others), "the same images under every kind"
    assert not pictures(made["clean"].x) & pictures(corrupted_digits(["blur"], 1, seed=2)["blur"].x)
    apart, weak = corrupted_digits(severity=5, seed=2), corrupted_digits(severity=1, seed=2)
    for kind in ("blur", "contrast", "brightness", "pixelate"):
        assert len(apart[kind]) in (299, 300)
        assert not torch.equal(apart[kind].x, weak[kind].x)
        threes = [torch.frombuffer(bytearray(key), dtype=torch.uint8) for key, found in labels.items() if 3 in found]
        known = pictures(corrupt(torch.stack(threes).reshape(-1, 1, 8, 8), kind, 5))
        assert pictures(apart[kind].x[apart[kind].y == 3]) <= known


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rotated_digits(()), "angles must name at least one domain, and none twice, got none"),
        (lambda: rotated_digits((15, 15.0)), "none twice, got 15, 15"),
        (lambda: rotated_digits((math.inf,)), "finite numbers of degrees, got inf"),
        (lambda: rotated_digits(dataset="minst"), "unknown data set 'minst': choose one of digits, mnist; did you"),
        (lambda: rotated_digits(limit=0), "limit must be an integer >= 1, got 0"),
        (lambda: coloured_digits((0.9, 1.1)), r"agreements must be probabilities in \[0, 1\], got 1.1"),
        (lambda: coloured_digits(label_noise=-0.1), "label_noise must be .* got -0.1"),
        (lambda: coloured_digits((0.5, 0.5)), "none twice"),
        (lambda: corrupted_digits(["blurr"]), "unknown corruption 'blurr'.*did you mean 'blur'"),
        (lambda: corrupted_digits(["blur", "blur"]), "none twice"),
        (lambda: corrupted_digits(severity=0), "severity must be an integer in 1..5, got 0"),
        (lambda: load_domains("rotated"), "unknown set of domains 'rotated': choose one of rotated_digits"),
        (lambda: load_domains("cifar10_c", severity=6), "severity must be an integer in 1..5, got 6"),
        (lambda: load_domains("pacs", limit=0), "limit must be an integer >= 1, got 0"),
        (lambda: load_domains("pacs", kinds=["blur"]), "kinds are corruptions, which pacs does not have"),
    ],
)
def test_bad_options_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# load_domains, on small made-up files


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, values: list[int], side: int = 4) -> None:
    """Colour images of one grey each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(values):
        (folder / f"{number:03}.png").write_bytes(png(np.full((side, side, 3), value, np.uint8)))


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """MNIST, CIFAR-10 and PACS with a handful of images each, as folders."""
    root = tmp_path / "root"
    digits = tuple("0123456789")
    monkeypatch.setitem(ENTRIES, "mnist", Entry("", "", digits, 1, {"train": 60, "test": 40}))
    monkeypatch.setitem(ENTRIES, "cifar10", Entry("", "", digits, 3, {"train": 20, "test": 10}))
    pacs = {"art": 6, "photo": 12}
    monkeypatch.setitem(
        ENTRIES, "pacs", Entry("", "", ("dog", "cat"), 3, {"train": 18}, domain="domain", domains=tuple(pacs))
    )
    for digit in range(10):
        write(root / "mnist" / "train" / str(digit), [25 * digit + k for k in range(6)])
        write(root / "mnist" / "test" / str(digit), [25 * digit + 10 + k for k in range(4)])
        write(root / "cifar10" / "train" / str(digit), [20 * digit, 20 * digit + 1])
        write(root / "cifar10" / "test" / str(digit), [20 * digit + 10])
    for name, count in pacs.items():
        for label, kind in enumerate(("dog", "cat")):
            write(root / "pacs" / "train" / name / kind, [100 * label + len(name) + k for k in range(count // 2)])
    return root


@pytest.mark.parametrize("name", [n for n in DATASETS if n.endswith("digits")])
def test_digits_by_name_are_those_by_function(name: str) -> None:
    loaded, made = load_domains(name, seed=3, limit=50), MAKERS[name.split("_")[0]](seed=3, limit=50)
    assert list(loaded) == list(made)
    assert all(torch.equal(loaded[key].x, made[key].x) and torch.equal(loaded[key].y, made[key].y) for key in made)


@pytest.mark.parametrize("name", [n for n in DATASETS if n.endswith("mnist")])
def test_mnist_in_place_of_digits(name: str, small: Path) -> None:
    made = load_domains(name, root=small, seed=1)
    assert list(made) == list(load_domains(name.replace("mnist", "digits")))
    assert sum(map(len, made.values())) == 100, "training and test images"
    if name == "rotated_mnist":
        assert torch.equal(made["0"].x[:, 0, 2, 2] // 25, made["0"].y)
        middles = [value for one in made.values() for value in one.x[:, 0, 2, 2].tolist()]
        assert len(set(middles)) == 100, "disjoint"
    few = load_domains(name, root=small, limit=10, size=8)
    assert all((len(one), one.x.shape[2:]) == (10, (8, 8)) for one in few.values())


def test_kinds_and_severity_reach_the_digits() -> None:
    made = load_domains("corrupted_digits", kinds=["contrast"], severity=5, seed=1)
    assert list(made) == ["clean", "contrast"]
    assert torch.equal(made["contrast"].x, corrupted_digits(["contrast"], 5, seed=1)["contrast"].x)


def test_pacs_by_domain(small: Path) -> None:
    made = load_domains("pacs", root=small)
    assert {name: len(one) for name, one in made.items()} == {"art": 6, "photo": 12}
    for name, one in made.items():
        assert (one.name, one.classes) == (name, ("dog", "cat"))
        assert ((one.x[:, 0, 0, 0] >= 100).long() == one.y).all()
        assert set(one.x[:, 0, 0, 0].tolist()) == {
            100 * label + len(name) + k for label in (0, 1) for k in range(len(one) // 2)
        }
    few = load_domains("pacs", root=small, limit=4, size=2)
    assert [torch.bincount(one.y).tolist() for one in few.values()] == [[2, 2], [2, 2]]
    assert few["art"].x.shape == (4, 3, 2, 2)


def test_office_home_from_folders(tmp_path: Path) -> None:
    base = tmp_path / "office_home"
    write(base / "Real World" / "Chair", [10, 11, 12], side=5)
    write(base / "Real World" / "Bed", [20, 21], side=7)
    write(base / "Art" / "Desk", [30, 31])
    write(base / "Art" / "Bed", [22])
    (base / ".hidden" / "Chair").mkdir(parents=True)
    made = load_domains("office_home", root=tmp_path, size=6)
    assert list(made) == ["Art", "Real World"]
    for name, one in made.items():
        assert (one.name, one.classes) == (name, ("Bed", "Chair", "Desk")), "one list of classes for all domains"
        assert one.x.shape[1:] == (3, 6, 6)
    assert list(zip(made["Art"].y.tolist(), made["Art"].x[:, 0, 0, 0].tolist(), strict=True)) == [
        (0, 22), (2, 30), (2, 31)
    ]  # fmt: skip
    assert made["Real World"].y.tolist() == [0, 0, 1, 1, 1]
    assert len(load_domains("office_home", root=tmp_path, size=6, limit=2)["Real World"]) == 2
    with pytest.raises(ValueError, match="pass size="):
        load_domains("office_home", root=tmp_path)


def npy(root: Path, count: int = 10, kinds: tuple[str, ...] = ("fog", "gaussian_noise")) -> Path:
    """CIFAR-10-C with `count` images a severity: red is the number of the image, green ten times the severity."""
    folder = root / "CIFAR-10-C"
    folder.mkdir(parents=True, exist_ok=True)
    x = np.zeros((5, count, 4, 6, 3), np.uint8)
    x[..., 0] = np.arange(count)[:, None, None]
    x[..., 1] = 10 * np.arange(1, 6)[:, None, None, None]
    x[..., 2] = np.arange(4)[:, None]  # blue is the row
    for number, kind in enumerate(kinds):
        np.save(folder / f"{kind}.npy", (x + number * np.uint8(100)).reshape(-1, 4, 6, 3))
    np.save(folder / "labels.npy", np.tile(np.arange(count) % 10, 5).astype(np.int32))
    return folder


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_cifar10_c_from_its_files(small: Path, severity: int) -> None:
    npy(small)
    made = load_domains("cifar10_c", root=small, severity=severity)
    assert list(made) == ["clean", "fog", "gaussian_noise"]
    assert len(made["clean"]) == 20, "the training images"
    fog = made["fog"]
    assert fog.x.shape == (10, 3, 4, 6)
    assert fog.x[:, 0, 0, 0].tolist() == fog.y.tolist() == list(range(10))
    assert (fog.x[:, 1] == 10 * severity).all()
    assert torch.equal(fog.x[0, 2, :, 0], torch.arange(4, dtype=torch.uint8))
    assert torch.equal(made["gaussian_noise"].x, fog.x + 100)
    fog.x[0] = 7  # a copy: the file stays as it was
    assert load_domains("cifar10_c", root=small, kinds=["fog"], severity=severity)["fog"].x[0, 1, 0, 0] == 10 * severity
    few = load_domains("cifar10_c", root=small, kinds=["fog"], severity=severity, limit=5, size=3)
    assert list(few) == ["clean", "fog"]
    assert few["fog"].x.shape == (5, 3, 3, 3)
    assert few["fog"].x[:, 0, 0, 0].tolist() == few["fog"].y.tolist()


def test_cifar10_c_is_made_of_the_test_images_where_its_files_are_absent(small: Path) -> None:
    made = load_domains("cifar10_c", root=small, severity=4, seed=1)
    assert list(made) == ["clean", *CORRUPTIONS]
    test = load_images("cifar10", "test", root=small)
    assert len(made["clean"]) == 20
    for kind in CORRUPTIONS:
        assert torch.equal(made[kind].y, test.y)
    assert torch.equal(made["brightness"].x, corrupt(test.x, "brightness", 4))
    again, other = (load_domains("cifar10_c", root=small, severity=4, seed=seed)["noise"].x for seed in (1, 2))
    assert torch.equal(made["noise"].x, again)
    assert not torch.equal(again, other)
    assert list(load_domains("cifar10_c", root=small, kinds=["blur"])) == ["clean", "blur"]


class Trap:
    """Would make a folder if it were unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("bare", [True, False], ids=["a pickle", "an array of objects"])
def test_nothing_is_unpickled(small: Path, bare: bool) -> None:
    folder, sprung = npy(small), small / "sprung"
    if bare:
        (folder / "fog.npy").write_bytes(pickle.dumps(Trap(str(sprung))))
    else:
        np.save(folder / "fog.npy", np.array([Trap(str(sprung))], dtype=object), allow_pickle=True)
    with pytest.raises(DataCorrupt, match=r"fog.npy cannot be read"):
        load_domains("cifar10_c", root=small)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "labels.npy").unlink(), DataNotFound, "labels.npy is not there"),
        (lambda f: (f / "fog.npy").write_bytes(b"\x93NUMPY"), DataCorrupt, "fog.npy cannot be read"),
        (lambda f: np.save(f / "fog.npy", np.zeros((50, 4, 6, 3))), DataCorrupt, r"uint8 \(5 M, H, W, 3\).*float64"),
        (lambda f: np.save(f / "fog.npy", np.zeros((45, 4, 6, 3), np.uint8)), DataCorrupt, r"labels \(50,\)"),
        (lambda f: np.save(f / "labels.npy", np.full(50, 10)), ValueError, "labels must lie in 0..9"),
        (lambda f: [path.unlink() for path in f.iterdir()], DataNotFound, "has no KIND.npy"),
    ],
    ids=["no labels", "truncated", "floats", "too few", "wrong labels", "empty"],
)
def test_damaged_files_are_named(small: Path, damage, error: type[Exception], message: str) -> None:
    damage(npy(small))
    with pytest.raises(error, match=message):
        load_domains("cifar10_c", root=small)


def test_what_is_not_there_is_named(small: Path, tmp_path: Path) -> None:
    npy(small)
    with pytest.raises(DataNotFound, match="no blur.npy; it has fog, gaussian_noise"):
        load_domains("cifar10_c", root=small, kinds=["blur"])
    with pytest.raises(DataNotFound, match="Office-Home is not under .*office_home; expected DOMAIN/CLASS"):
        load_domains("office_home", root=tmp_path)
    with pytest.raises(DataNotFound, match="'cifar10'"):
        load_domains("cifar10_c", root=tmp_path / "nowhere")


# The real sets


@pytest.mark.skipif(not DATA, reason="FLATLAB_DATA is not set")
@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("pacs", 16, {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}),
        ("rotated_mnist", None, dict.fromkeys(["0", "15", "30", "45"], 17_500)),
        ("cifar10_c", None, {"clean": 50_000, **dict.fromkeys(CORRUPTIONS, 10_000)}),
    ],
)
def test_real_sets(name: str, size: int | None, expected: dict[str, int], monkeypatch) -> None:
    monkeypatch.setattr(cache, "folders", lambda root: (cache.home(),))
    try:
        made = load_domains(name, root=DATA, size=size)
    except DataNotFound as error:
        pytest.skip(str(error))
    if (Path(DATA) / "CIFAR-10-C").is_dir() and name == "cifar10_c":
        pytest.skip("the published files are there, with kinds of their own")
    assert {key: len(one) for key, one in made.items()} == expected
    for one in made.values():
        split_domain(one, seed=0)
