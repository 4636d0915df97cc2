"""The optimizers that test_optimizer_*.py put through their laws, each in several settings.

A test that asks for one of the names in `WANTED` runs once for every case of that kind, and for no other: a law that
does not concern a case has no item for it. torch's own Adam and SGD are
among the cases: a law that they break is not a law.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from flatlab.optim.adam_cm import AdamCG, AdamCM
from flatlab.optim.memory import MemoryOptimizer
from flatlab.optim.normalized_sgd import NormalizedSGD
from flatlab.optim.sam import ASAM, GSAM, SAGM, SAM
from flatlab.optim.sgd_cm import SGDCG, SGDCM
from flatlab.optim.stacked_adam import StackedAdam

SHAPES = ((3, 4), (3, 2), (3,))
Closure = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """An optimizer class in one setting, and a small problem for it.

    The loss of step t is  sum <c_t, p> + |p|^2 / 2  over the parameters p, with drawn c_t: its gradient c_t + p depends
    on where it is taken, as the sharpness-aware optimizers need, and its scale rises and falls, as memories need.
    """

    cls: type[torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    two_pass: bool = False
    control: bool = False

    def __str__(self) -> str:
        shown = [f"{key}={getattr(value, '__name__', value)}" for key, value in self.options.items()]
        return "-".join([("torch." if self.control else "") + self.cls.__name__, *shown])

    @property
    def networks(self) -> int:
        return int(self.options.get("networks") or 1)

    @property
    def arguments(self) -> set[str]:
        """The options of the class and, if it has one, of the optimizer that it builds on."""
        classes = [self.cls, self.base] if self.two_pass else [self.cls]
        return {name for cls in classes for name in inspect.signature(cls).parameters} - {"params", "base_options"}

    @property
    def capturable(self) -> bool:
        """Whether a step can be one on the device alone: some options look at the step's number."""
        plain = not self.options.get("resum_every") and self.options.get("init") != "official"
        return plain and "capturable" in self.arguments

    @property
    def base(self) -> type[torch.optim.Optimizer]:
        return self.options.get("base_optimizer", torch.optim.SGD if self.two_pass else self.cls)

    @property
    def torch_base(self) -> bool:
        """Whether the parameters are moved by an optimizer of torch's."""
        return self.base.__module__.startswith("torch")

    @property
    def remembers(self) -> bool:
        """Whether it has a memory of gradients or momenta."""
        return issubclass(self.cls, MemoryOptimizer)

    @property
    def stateless(self) -> bool:
        """Whether a step depends on nothing but weights and gradients."""
        return self.base is NormalizedSGD or (self.base is torch.optim.SGD and not self.options.get("momentum"))

    def make(self, params: Iterable[Any], **options: Any) -> Any:
        return self.cls(params, **{"lr": 0.01, **self.options, **options})

    def params(self, dtype: torch.dtype = torch.float64, shapes: Iterable[tuple[int, ...]] = SHAPES) -> list[Tensor]:
        g = torch.Generator().manual_seed(7)
        return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]

    def built(self, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[list[Tensor], Any]:
        """Fresh parameters and an optimizer over them."""
        params = self.params(dtype)
        return params, self.make(params, **options)

    def closure(self, params: list[Tensor], t: int, *, sign: float = 1.0, idle: Iterable[int] = ()) -> Closure:
        """What computes the loss of step t and its gradient; parameters in `idle` take no part."""
        skipped, coefficients = set(idle), []
        for i, p in enumerate(params):
            coefficients.append(_coefficient(tuple(p.shape), t, i).to(p))

        def closure() -> Tensor:
            for p in params:
                p.grad = None
            pairs = zip(coefficients, params, strict=True)
            terms = [(c * p).sum() + p.square().sum() / 2 for i, (c, p) in enumerate(pairs) if i not in skipped]
            loss = sign * torch.stack([term.double() for term in terms]).sum()
            loss.backward()
            return loss

        return closure

    def run(self, opt: Any, params: list[Tensor], steps: Iterable[int], **how: Any) -> list[Tensor]:
        """Take the steps of these numbers; returns the losses."""
        return [opt.step(self.closure(params, t, **how)).detach() for t in steps]

    @staticmethod
    def frozen(opt: Any, params: Iterable[Tensor] = ()) -> dict[str, Any]:
        """All that an optimizer holds, and parameters, in a form that == compares to the last bit."""
        return dict(_leaves("", {"params": list(params), **opt.state_dict()}))


@functools.cache
def _coefficient(shape: tuple[int, ...], t: int, i: int) -> Tensor:
    c = torch.randn(shape, generator=torch.Generator().manual_seed(100 * t + i), dtype=torch.float64)
    return c * (1 + 0.9 * math.sin(t))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key in value:
            yield from _leaves(f"{path}/{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(f"{path}/{i}", item)
    elif isinstance(value, Tensor):
        yield path, (value.dtype, tuple(value.shape), str(value.detach().tolist()))
    else:
        yield path, str(value)


def _memory_cases() -> Iterator[Case]:
    adam: list[dict[str, Any]] = [{}, {"capacity": 0}, {"capacity": 1}, {"policy": "fifo"}, {"decay": 0.99}]
    adam += [{"memory": "gradient"}, {"aggregate": "sum", "kappa": 0.5}, {"aggregate": "average"}]
    adam += [{"norm": "sum"}, {"norm": "parameter"}, {"init": "official"}, {"init": "corrected"}]
    adam += [{"nesterov": True}, {"nesterov": True, "init": "corrected", "networks": 3}]
    adam += [{"second_moment": "gradient"}, {"amsgrad": True}, {"resum_every": 3}, {"buffer_dtype": torch.bfloat16}]
    adam += [{"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": False}]
    adam += [{"foreach": True}, {"foreach": False}, {"maximize": True}, {"capturable": True}]
    adam += [{"foreach": False, "norm": "sum", "amsgrad": True, "buffer_dtype": torch.bfloat16}]
    adam += [{"networks": 3}, {"networks": 3, "norm": "parameter", "foreach": False}, {"networks": 3, "decay": 0.99}]
    yield from (Case(AdamCM, options) for options in adam)
    yield from (Case(AdamCG, options) for options in ({}, {"weight_decay": 0.1}, {"networks": 3}))
    sgd: list[dict[str, Any]] = [{}, {"policy": "fifo"}, {"weight_decay": 0.1}, {"momentum": 0.0}]
    sgd += [{"foreach": False, "resum_every": 3}, {"networks": 3}, {"buffer_dtype": torch.bfloat16}]
    yield from (Case(SGDCM, options) for options in sgd)
    yield from (Case(SGDCG, options) for options in ({}, {"foreach": False}, {"networks": 3}))


def _sharpness_cases() -> Iterator[Case]:
    for cls in (SAM, ASAM, GSAM, SAGM):
        yield Case(cls, {"momentum": 0.9}, two_pass=True)
        yield Case(cls, {"base_optimizer": torch.optim.Adam}, two_pass=True)
        yield Case(cls, {"base_optimizer": AdamCM}, two_pass=True)
        yield Case(cls, {"momentum": 0.9, "networks": 3}, two_pass=True)
    yield Case(SAM, {"rho": 0.0, "weight_decay": 0.1}, two_pass=True)
    yield Case(SAM, {"adaptive": True, "eta": 0.01, "base_optimizer": AdamCM, "networks": 3}, two_pass=True)


def _normalized_cases() -> Iterator[Case]:
    options: list[dict[str, Any]] = [{}, {"networks": 3}, {"networks": 3, "foreach": False}, {"maximize": True}]
    yield from (Case(NormalizedSGD, given) for given in options)


def _stacked_cases() -> Iterator[Case]:
    """With one rate, for which the laws ask; rates of their own are in tests/optim/test_stacked_adam.py."""
    options: list[dict[str, Any]] = [{}, {"networks": 3, "weight_decay": 0.1}, {"foreach": False}, {"maximize": True}]
    yield from (Case(StackedAdam, given) for given in options)


CASES = [
    Case(torch.optim.Adam, control=True),
    Case(torch.optim.Adam, {"amsgrad": True, "foreach": True, "weight_decay": 0.1}, control=True),
    Case(torch.optim.SGD, {"momentum": 0.9}, control=True),
    Case(torch.optim.SGD, {"momentum": 0.9, "foreach": True, "weight_decay": 0.1}, control=True),
    *_memory_cases(),
    *_sharpness_cases(),
    *_normalized_cases(),
    *_stacked_cases(),
]
# Compiling takes a second or two: a few settings stand for all.
COMPILED = [
    Case(torch.optim.Adam, {"foreach": False}, control=True),
    Case(AdamCM, {"capturable": True}),
    Case(AdamCM, {"capturable": True, "networks": 3, "norm": "parameter"}),
    Case(AdamCG, {"capturable": True}),
    Case(SGDCM, {"capturable": True}),
    Case(SGDCG, {"capturable": True, "policy": "fifo"}),
    Case(NormalizedSGD, {"networks": 3}),
]


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    """All of them, the controls included."""
    return CASES


WANTED: dict[str, Callable[[Case], bool]] = {
    "case": lambda case: True,
    "own": lambda case: not case.control,
    "one_pass": lambda case: not case.two_pass,
    # normalized steps have one norm over all groups
    "by_group": lambda case: not case.two_pass and case.cls is not NormalizedSGD,
    "two_pass": lambda case: case.two_pass,
    "memory": lambda case: case.remembers,
    # neither the class nor its base has one
    "unremembering": lambda case: not issubclass(case.base, MemoryOptimizer) and not case.remembers,
    # torch's bases have a fused kernel of their own, for which they may be asked
    "unfused": lambda case: not case.control and not case.torch_base,
    # torch's SGD takes sparse gradients
    "dense": lambda case: case.two_pass or case.cls is not torch.optim.SGD,
    "takes_complex": lambda case: not issubclass(case.base, MemoryOptimizer),
    "refuses_complex": lambda case: issubclass(case.base, MemoryOptimizer),
    "descending": lambda case: not case.options.get("maximize"),
    "captured": lambda case: not case.two_pass and case.capturable,
    "captured_memory": lambda case: case.remembers and case.capturable,
    "uncaptured_memory": lambda case: case.remembers and not case.capturable,
    # torch fills groups when unpickling only
    "fills_loaded": lambda case: not case.control,
    "compiled": lambda case: False,  # COMPILED instead
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, wanted in WANTED.items():
        if name in metafunc.fixturenames:
            cases = COMPILED if name == "compiled" else [case for case in CASES if wanted(case)]
            assert cases, f"no optimizer is {name}"
            metafunc.parametrize(name, cases, ids=str)
