"""Fingerprints: equal things have one in every process, different things do not."""

import functools
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import bounds, defenses
from flatlab.rng import SeedGenerators
from flatlab.train import Objective, Recipe, crop_flip, cross_entropy, fingerprint, fit
from flatlab.train.content import checksum

THINGS = """
import functools, threading
from dataclasses import dataclass
from typing import Any
import numpy as np, torch
from torch import nn
from flatlab.train import Objective, crop_flip

WEIGHTS = {"a": 0.5, "b": [1, 2.0]}
LOCK = threading.Lock()

def helper(x):
    return x * WEIGHTS["a"] if x in {"many", "strings", "in", "a", "set"} else 2

def outer(scale, names=frozenset({"x", "y", "z"})):
    def inner(model, x, y, step_fraction=1.0):
        with LOCK:
            return sum((scale * helper(model(part)) for part in x), start=0)
    return inner

class Weighted(Objective):
    def __init__(self, net):
        self.net, self.kinds, self.rng = net, {"p", "q", "r"}, torch.Generator()
        self.call = lambda x: self.net(x)
    def __call__(self, model, x, y, step_fraction=1.0):
        return self.call(model(x)).sum()

@dataclass
class Schedule:
    rate: Any = lambda step: 0.5 / step

torch.manual_seed(0)
ALL = [
    outer(0.5), functools.partial(crop_flip, pad=3), Weighted(nn.Sequential(nn.Linear(3, 2), nn.GELU())), Schedule(),
    Schedule, torch.arange(6.0).view(2, 3).T, [np.arange(4), {1: (None, "text", b"bytes", 2j)}], torch.relu, helper,
    outer(0.5, {"u", "v"}).__call__, np.array(["a", None], dtype=object), torch.float16,
]
"""


def test_equal_things_have_one_fingerprint_in_every_process(tmp_path: Path) -> None:
    """Sets are in another order there, and all lies at other addresses."""
    (tmp_path / "things.py").write_text(THINGS)
    code = "import things; from flatlab.train import fingerprint; print(*map(fingerprint, things.ALL), sep='\\n')"
    said = []
    for seed, before in (("0", ""), ("1", "x = [object() for _ in range(10**5)]; ")):
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", before + code], capture_output=True, text=True, check=True, env=environment
        )
        said.append(done.stdout.splitlines())
    assert said[0] == said[1]
    assert len(set(said[0])) == len(said[0]) == 12


def module(source: str, name: str = "study") -> ModuleType:
    """A module made of a few lines, as a notebook is."""
    made = ModuleType(name)
    exec(compile("import torch.nn.functional as F\n" + source, name, "exec"), vars(made))
    return made


def function(source: str) -> Callable[..., Any]:
    return module(source).f


SOURCES = {
    "a constant": ("def f(x): return 2 * x", "def f(x): return 3 * x"),
    "its type": ("def f(x): return x + 1", "def f(x): return x + 1.0"),
    "an operator": ("def f(x): return x + 1", "def f(x): return x - 1"),
    "a method": ("def f(x): return x.sum()", "def f(x): return x.mean()"),
    "a function of another module": ("def f(x): return F.relu(x)", "def f(x): return F.gelu(x)"),
    "a default": ("def f(x, a=1): return a", "def f(x, a=2): return a"),
    "a default by name": ("def f(x, *, a=1): return a", "def f(x, *, a=2): return a"),
    "a value of the module": ("W = 0.1\ndef f(x): return W * x", "W = 0.2\ndef f(x): return W * x"),
    "a table of the module": ("W = {'a': 1}\ndef f(x): return W['a']", "W = {'a': 2}\ndef f(x): return W['a']"),
    "a value used in a lambda": (
        "W = 1\ndef f(x): return map(lambda z: W, x)",
        "W = 2\ndef f(x): return map(lambda z: W, x)",
    ),
    "a helper": ("def g(x): return x\ndef f(x): return g(x)", "def g(x): return -x\ndef f(x): return g(x)"),
    "a helper's helper": (
        "W = 1\ndef h(x): return W\ndef g(x): return h(x)\ndef f(x): return g(x)",
        "W = 2\ndef h(x): return W\ndef g(x): return h(x)\ndef f(x): return g(x)",
    ),
    "a closure": (
        "def o(a):\n    def i(x): return a\n    return i\nf = o(1)",
        "def o(a):\n    def i(x): return a\n    return i\nf = o(2)",
    ),
    "a nested function": (
        "def f(x):\n    def g(): return 1\n    return g()", "def f(x):\n    def g(): return 2\n    return g()",
    ),
    "what is caught": (
        "def f(x):\n    try: return g(x)\n    except TypeError: return 1",
        "def f(x):\n    try: return g(x)\n    except ValueError: return 1",
    ),
    "its name": ("def g(x): return x\nf = g", "def h(x): return x\nf = h"),
    "a method of its class": (
        "class A:\n    def __call__(self, x): return x\nf = A()",
        "class A:\n    def __call__(self, x): return -x\nf = A()",
    ),
    "a property of its class": (
        "class A:\n    @property\n    def a(self): return 1\nf = A()",
        "class A:\n    @property\n    def a(self): return 2\nf = A()",
    ),
    "a base of its class": (
        "class B:\n    a = 1\nclass A(B): pass\nf = A()", "class B:\n    a = 2\nclass A(B): pass\nf = A()",
    ),
    "an attribute": (
        "class A:\n    def __init__(self, a): self.a = a\nf = A(1)",
        "class A:\n    def __init__(self, a): self.a = a\nf = A(2)",
    ),
    "a slot": (
        "class A:\n    __slots__ = ('a',)\nf = A(); f.a = 1", "class A:\n    __slots__ = ('a',)\nf = A(); f.a = 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SOURCES)
def test_code_counts_by_what_it_does(what: str) -> None:
    one, other = SOURCES[what]
    assert fingerprint(function(one)) == fingerprint(function(one))
    assert fingerprint(function(one)) != fingerprint(function(other))


def test_names_of_places_and_documentation_do_not_count() -> None:
    plain = "def f(x, a=1):\n    y = x\n    return y"
    for same in ("\n\n" + plain, "def f(x, a=1):\n    'Said.'\n    z = x\n    return z  # so", plain + "\nU = 3"):
        assert fingerprint(function(same)) == fingerprint(function(plain))


def test_what_is_used_of_other_modules_counts_by_name() -> None:
    source = "def f(x): return g(x)"
    one, other = function(source), function(source)
    one.__globals__["g"] = module("def g(x): return x", "elsewhere").g
    other.__globals__["g"] = module("def g(x): return -x", "elsewhere").g
    assert fingerprint(one) == fingerprint(other)
    other.__globals__["g"] = module("def g(x): return x", "somewhere").g
    assert fingerprint(one) != fingerprint(other)


X = torch.arange(24.0).view(2, 3, 4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X, X.nextafter(X + 1)),
        (X, X.double()),
        (X, X.view(3, 2, 4)),
        (X, X.transpose(0, 1)),
        (X.numpy(), X.numpy() + 1),
        (functools.partial(crop_flip, pad=4), functools.partial(crop_flip, pad=3)),
        (functools.partial(crop_flip, pad=4), crop_flip),
        ([1, 2], [2, 1]),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"a": True}),
        ({1, 2}, {1, 3}),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Sequential(nn.Flatten(), nn.ReLU())),
        (defenses.make("pgd_at", eps=0.1), defenses.make("pgd_at", eps=0.2)),
        (defenses.make("pgd_at", eps=0.1), defenses.make("trades", eps=0.1)),
        (torch.optim.Adam, torch.optim.AdamW),
        (None, False),
        (0.0, -0.0),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),
)
def test_values_count_by_content(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint([one]) != fingerprint([other])


def test_fingerprints_can_be_read() -> None:
    assert fingerprint(X) == f"float32 (2, 3, 4) {zlib.crc32(X.numpy().tobytes()):08x}"
    for value in (crop_flip, functools.partial(crop_flip, pad=3)):
        assert fingerprint(value).startswith("flatlab.train.augment.crop_flip ")
    assert fingerprint(defenses.make("std", eps=0)).startswith("flatlab.defenses.std.Std ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool, torch.int64])
def test_checksums_are_those_of_the_bytes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flatlab.train.content._ROWS", 5)  # several pieces
    x = torch.randint(0, 2, (6, 3, 2)).to(dtype)
    for view in (
        x,
        x.transpose(0, 2),
        x[::2],
        x[:, 1],
        x[3, 1, 1],
        x[:0],
        x[:, :0],
        x.unfold(0, 2, 1),
        x.expand(6, 3, 2),
    ):
        assert checksum(view) == zlib.crc32(bytes(view.flatten().contiguous().view(torch.uint8).tolist()))
    assert checksum(x.to_sparse()) == checksum(x)
    assert fingerprint(x.to("meta")) == f"{str(dtype)[6:]} (6, 3, 2)"


def test_values_that_hold_themselves() -> None:
    def loop(n: int) -> list[Any]:
        inner: list[Any] = [n]
        inner.append(inner)
        return inner

    assert fingerprint(loop(1)) == fingerprint(loop(1)) != fingerprint(loop(2))
    assert fingerprint([loop(1)] * 2) == fingerprint([loop(1), loop(1)])


def test_where_a_generator_stands_is_state() -> None:
    for make in (lambda: torch.Generator(), lambda: np.random.default_rng(3), lambda: SeedGenerators([3, 4])):
        used, fresh = make(), make()
        if isinstance(used, torch.Generator):
            torch.rand(3, generator=used)
        elif isinstance(used, SeedGenerators):
            used.normal((2, 3))
        else:
            used.random(3)
        assert fingerprint(used) == fingerprint(fresh)


class Centred(Objective):
    """Keeps a running mean, which is state, and a width, which is not."""

    def __init__(self, width: float) -> None:
        self.width, self.centre = width, torch.zeros(())

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        self.centre = self.centre + 1
        return F.cross_entropy(model(x), y) * self.width

    def state_dict(self) -> dict[str, Tensor]:
        return {"centre": self.centre}


@dataclass
class Watched:
    width: float
    seen: list[float] = field(default_factory=list, compare=False)
    cache: dict[str, float] = field(default_factory=dict, init=False)


def test_the_state_of_an_objective_and_fields_that_are_not_compared_do_not_count() -> None:
    one, other = Centred(1.0), Centred(1.0)
    other.centre = torch.ones(())
    assert fingerprint(one) == fingerprint(other) != fingerprint(Centred(2.0))
    watched = Watched(1.0, seen=[3.0])
    watched.cache["a"] = 1.0
    assert fingerprint(watched) == fingerprint(Watched(1.0)) != fingerprint(Watched(2.0))


@pytest.mark.parametrize("name", [*defenses.available(), "certified", "plain"])
def test_training_on_an_objective_does_not_change_what_it_is(name: str) -> None:
    def make() -> Any:
        if name == "certified":
            return bounds.CertifiedTraining(bounds.Balls(0.01), kind="ibp")
        return cross_entropy if name == "plain" else defenses.make(name, eps=0.1)

    g = torch.Generator().manual_seed(0)
    data = type("Data", (), {"x": torch.rand(8, 1, 4, 4, generator=g), "y": torch.arange(8) % 3})()
    used, net = make(), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    before = fingerprint(used)
    fit(net, data, used, Recipe(epochs=1, batch_size=4))
    assert fingerprint(used) == before == fingerprint(make())
