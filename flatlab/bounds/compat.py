"""The names that users of auto_LiRPA know, so that a script runs after a change of its imports. What is different:

state       nothing stays on nodes: method="backward" after a call with IBP=True computes its own intervals (ask for
            "CROWN-IBP" to have those of IBP). Only x=None refers back, to the inputs of the last call
widths      what is inside is never wider than its interval, and products, S-shapes, softmax and perturbed weights
            have other lines: bounds are equal or, as a rule, tighter
alpha       both sides are optimised in one run, with the bounds inside unless fix_interm_bounds is True
nothing     perturbed is an error, and so is an operator or an option without a rule
return_A    holds every perturbed input; needed_A_dict may be left out. lbias and ubias hold all that is constant
weights     a ball around each of them, with bounds for each sample: average_A has no effect
absent      loss fusion as an option (see `flatlab.bounds.fused_ce`), bounds of inner nodes, dynamic forward bounds,
            constraints, branch and bound
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.bounds.engine import Bounds, LinearBound
from flatlab.bounds.graph import Program
from flatlab.bounds.relax import SLOPES
from flatlab.bounds.sets import Box, L0Ball, LpBall, Synonyms

METHODS = {
    "ibp": ("IBP", "interval"),
    "crown": ("CROWN", "backward"),
    "crown-ibp": ("CROWN-IBP", "IBP+backward", "IBP+CROWN"),
    "forward": ("forward",),
    "forward+backward": ("forward+backward", "forward+CROWN"),
    "alpha-crown": ("alpha-CROWN", "CROWN-Optimized"),
}
"""Method of `flatlab.bounds.compute_bounds` -> its names here, in any case of letters."""

_NAMES = {name.lower(): method for method, names in METHODS.items() for name in names}
_INSIDE = {"crown": "crown", "crown-ibp": "ibp", "forward+backward": "forward"}

OPTIONS = ("relu", "sparse_intermediate_bounds", "crown_batch_size", "optimize_bound_args")
"""Bound options that matter."""

NO_EFFECT = (
    "conv_mode", "sparse_conv_intermediate_bounds", "sparse_intermediate_bounds_with_ibp", "sparse_features_alpha",
    "sparse_spec_alpha", "minimum_sparsity", "use_full_conv_alpha", "verbosity", "deterministic", "matmul", "softmax",
    "fixed_reducemax_index",
)  # fmt: skip
"""Bound options that say how something is computed there, and are accepted."""

_ALPHA = {"iteration": 20, "lr_alpha": 0.25, "lr_decay": 0.98, "fix_interm_bounds": False}
_ALPHA_NO_EFFECT = (
    "init_alpha",
    "keep_best",
    "early_stop_patience",
    "start_save_best",
    "optimizer",
    "use_shared_alpha",
)

_CALL_NO_EFFECT = ("needed_A_dict", "reuse_ibp", "reuse_alpha", "average_A", "cache_bounds", "no_replicas")
_CALL_ABSENT = (
    "final_node_name", "interm_bounds", "reference_bounds", "intermediate_constr", "alpha_idx", "aux_reference_bounds",
    "need_A_only", "cutter", "decision_thresh", "update_mask", "ibp_nodes",
)  # fmt: skip


class Perturbation:
    """What may happen to a tensor. Attributes may be changed between calls."""

    def region(self, x: Tensor, aux: Any = None) -> Box:
        """The set around x; `aux` as given to `BoundedModule.compute_bounds`."""
        raise NotImplementedError


class PerturbationLpNorm(Perturbation):
    """An Lp ball, or a box.

    Args:
        eps: radius, a number, or for p = inf a tensor that broadcasts against the input.
        norm: p = 1, 2 or inf.
        x_L, x_U: for p = inf, the ends of a box (B, ...), instead of x - eps and x + eps; else without effect.
    """

    def __init__(
        self, eps: Any = 0, norm: float = math.inf, x_L: Tensor | None = None, x_U: Tensor | None = None
    ) -> None:
        self.eps, self.norm, self.x_L, self.x_U = eps, norm, x_L, x_U

    def set_eps(self, eps: Any) -> None:
        """Change the radius."""
        self.eps = eps

    def region(self, x: Tensor, aux: Any = None) -> Box:
        box = self.norm == math.inf and not (self.x_L is None and self.x_U is None)
        if self.eps is None and not (box and self.x_L is not None and self.x_U is not None):
            raise ValueError("PerturbationLpNorm needs eps, or both x_L and x_U with norm=inf")
        if not box:
            return LpBall(x, self.eps, self.norm)
        low = x - self.eps if self.x_L is None else _plain(self.x_L)
        high = x + self.eps if self.x_U is None else _plain(self.x_U)
        return Box(*(end.to(x).expand_as(x) for end in (low, high)))

    def __repr__(self) -> str:
        return f"PerturbationLpNorm(norm={self.norm}, eps={self.eps})"


class PerturbationL0Norm(Perturbation):
    """At most `eps` numbers of an input change, each to anything in [0, 1].

    Args:
        eps: how many.
        ratio: in (0, 1], how far towards 0 or 1 they may go, as a share of the way.
    """

    def __init__(self, eps: int, x_L: Tensor | None = None, x_U: Tensor | None = None, ratio: float = 1.0) -> None:
        self.eps, self.x_L, self.x_U, self.ratio = eps, x_L, x_U, ratio

    def region(self, x: Tensor, aux: Any = None) -> Box:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio!r}")
        ball = L0Ball(x, math.ceil(self.eps))
        for end in ("low", "high"):
            object.__setattr__(ball, end, x + self.ratio * (getattr(ball, end) - x))
        return ball

    def __repr__(self) -> str:
        return f"PerturbationL0Norm(eps={self.eps})"


class PerturbationSynonym(Perturbation):
    """At most `budget` words of a sentence are replaced by one of their candidates.

    Args:
        budget: how many.
        eps: in [0, 1], how far candidates lie from the word, as a share of the way.
        use_simple: let all words change, whatever the budget.
        candidates: vectors (B, T, K, D) for an input (B, T, D); or give aux=(candidates, mask) to `compute_bounds`.
        mask: which of them exist, bool (B, T, K); None for all.
    """

    def __init__(
        self,
        budget: int,
        eps: float = 1.0,
        use_simple: bool = False,
        *,
        candidates: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.budget, self.eps, self.use_simple, self.candidates, self.mask = budget, eps, use_simple, candidates, mask

    def region(self, x: Tensor, aux: Any = None) -> Box:
        candidates, mask = (self.candidates, self.mask) if aux is None else aux
        if candidates is None:
            raise ValueError(
                "PerturbationSynonym needs the candidates' vectors (B, T, K, D): give candidates= and mask=, or "
                "aux=(candidates, mask) to compute_bounds"
            )
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps must lie in [0, 1], got {self.eps!r}")
        mask = torch.ones(candidates.shape[:3], dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        budget = x.shape[1] if self.use_simple else self.budget
        return Synonyms(x, x[:, :, None] + self.eps * (candidates - x[:, :, None]), mask, budget)

    def __repr__(self) -> str:
        return f"PerturbationSynonym(budget={self.budget}, eps={self.eps})"


class BoundedTensor(Tensor):
    """A tensor that carries what may happen to it, `ptb`. What is computed from it is an ordinary tensor.

    Args:
        x: the tensor, in whose graph the new one stays.
        ptb: a `Perturbation`, or None.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    ptb: Perturbation | None

    @staticmethod
    def __new__(cls, x: Any, ptb: Perturbation | None = None) -> "BoundedTensor":
        return torch.as_tensor(x).as_subclass(Tensor).as_subclass(cls)

    def __init__(self, x: Any, ptb: Perturbation | None = None) -> None:
        self.ptb = _perturbation(ptb)

    def __deepcopy__(self, memo: dict[int, Any]) -> "BoundedTensor":
        return memo.setdefault(
            id(self), BoundedTensor(copy.deepcopy(_plain(self), memo), copy.deepcopy(self.ptb, memo))
        )

    def to(self, *args: Any, **kwargs: Any) -> "BoundedTensor":
        """As of a tensor, and with the perturbation, whose own tensors follow when bounds are computed."""
        return BoundedTensor(super().to(*args, **kwargs), self.ptb)

    def clone(self, *args: Any, **kwargs: Any) -> "BoundedTensor":
        """As of a tensor, and with the same perturbation."""
        return BoundedTensor(super().clone(*args, **kwargs), self.ptb)


class BoundedParameter(nn.Parameter):
    """A parameter that carries what may happen to it: the weight or bias of a linear layer or a convolution.

    Args:
        data: its value.
        ptb: a `PerturbationLpNorm` with a number for eps; None leaves it alone.
    """

    ptb: Perturbation | None

    def __new__(cls, data: Tensor, ptb: Perturbation | None = None, requires_grad: bool = True) -> "BoundedParameter":
        made = super().__new__(cls, data, requires_grad)
        made.ptb = _perturbation(ptb)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "BoundedParameter":
        if id(self) not in memo:
            memo[id(self)] = BoundedParameter(self.data.clone(), self.ptb, self.requires_grad)
        return memo[id(self)]


class BoundedModule(nn.Module):
    """A module with bounds. Its parameters, submodules and mode are those of the module, under the same names.

    Args:
        model: the module; it is used, not copied. Attributes that are not found here are looked up in it.
        global_input: an example of its input, or a tuple of them; batch size and values do not matter.
        bound_opts: "relu" (or "activation_bound_option"), the lower slope of ReLUs by its name in
            `flatlab.bounds.relax.SLOPES`; "sparse_intermediate_bounds", whether to bound inside only what is of open
            sign; "crown_batch_size", most rows of one backward pass; "optimize_bound_args", a dict with "iteration",
            "lr_alpha", "lr_decay" and "fix_interm_bounds". Those of `NO_EFFECT` are accepted.
        device: where to move the module; None or "auto" leaves it.
        verbose: without effect.

    Raises:
        ValueError: an unknown option, or a value that it cannot have.
        UnsupportedOperator, RuntimeError: the module cannot be captured, see `Program`.
    """

    def __init__(
        self,
        model: nn.Module,
        global_input: Tensor | Sequence[Tensor],
        bound_opts: Mapping[str, Any] | None = None,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__()
        model = model._original if isinstance(model, BoundedModule) else model
        self.__dict__["_original"] = model
        for shared in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[shared] = getattr(model, shared)
        if device not in (None, "auto"):
            model.to(device)
        self._programs: dict[Any, Program] = {}
        self._last: tuple[Tensor, ...] = _tuple(global_input)
        self._count = len(self._last)
        self.bound_opts: dict[str, Any] = {}
        self.set_bound_opts(bound_opts or {})
        example = next((p for p in model.parameters()), self._last[0])
        self._program(tuple(_example(_plain(x).to(example.device)) for x in self._last))

    def set_bound_opts(self, bound_opts: Mapping[str, Any]) -> None:
        """Change some options; those of "optimize_bound_args" one by one."""
        given = dict(bound_opts)
        if "activation_bound_option" in given:
            given["relu"] = given.pop("activation_bound_option")
        for name in given:
            checks.one_of("bound option", name, (*OPTIONS, "activation_bound_option", *NO_EFFECT))
        alpha = dict(given.pop("optimize_bound_args", {}))
        for name in alpha:
            checks.one_of("option of optimize_bound_args", name, (*_ALPHA, *_ALPHA_NO_EFFECT))
        checks.one_of("lower slope of ReLUs", given.get("relu", "adaptive"), SLOPES)
        self.bound_opts |= given
        self.bound_opts["optimize_bound_args"] = self.bound_opts.get("optimize_bound_args", {}) | alpha

    @property
    def input_name(self) -> list[str]:
        """Names of the inputs, as in the dict of return_A."""
        return [f"/input.{i}" for i in range(self._count)]

    @property
    def output_name(self) -> list[str]:
        """Names of the outputs, of which there is one."""
        return ["/output"]

    def forward(self, *inputs: Tensor, method_opt: str = "forward", **options: Any) -> Any:
        """The module's output; or with method_opt="compute_bounds" what that method returns."""
        if checks.one_of("method_opt", method_opt, ("forward", "compute_bounds")) == "compute_bounds":
            return self.compute_bounds(**({"x": inputs} if inputs else {}) | options)
        _refuse(options)
        self._last = inputs
        return self._original(*map(_plain, inputs))

    def compute_bounds(
        self,
        x: Tensor | Sequence[Tensor] | None = None,
        aux: Any = None,
        C: Tensor | None = None,
        method: str | None = "backward",
        IBP: bool = False,
        forward: bool = False,
        bound_lower: bool = True,
        bound_upper: bool = True,
        return_A: bool = False,
        **options: Any,
    ) -> Any:
        """Bounds of the output, or of C times it, over all that is perturbed.

        Args:
            x: the input, or one for each of the module's; `BoundedTensor`s are perturbed. None for those of the last
                call, of forward or of this method.
            aux: candidates and mask of a `PerturbationSynonym`.
            C: (B, S, K), with K numbers of a sample's output; None for the output as it is.
            method: a name in `METHODS`; None with IBP=True for IBP, with forward=True for forward.
            IBP, forward: where a backward method takes the bounds inside from; by default from backward passes.
            bound_lower, bound_upper: which sides are wanted.
            return_A: return a dict, too: [output_name[0]][input_name[i]] -> lA, lbias, uA, ubias, with
                lA (B, S, *shape of a sample of input i) and lbias (B, S). Summed over perturbed inputs,
                lA x + lbias <= C f(x) <= uA x + ubias on the set. Backward methods only.
            options: further ones that are known there are accepted where they do not change what is bounded.

        Returns:
            Lower and upper bounds, (B, S) with C, else of the output's shape, and None for a side that is not wanted.
            They are differentiable, save those of alpha-CROWN.

        Raises:
            ValueError: an unknown method, no side, nothing perturbed, a C or a set that does not fit.
            UnsupportedOperator, DomainError: see `Bounds`.
        """
        _refuse(options)
        how = _method(method, IBP, forward)
        if not (bound_lower or bound_upper):
            raise ValueError("at least one of bound_lower and bound_upper must be True")
        if return_A and how in ("ibp", "forward"):
            raise ValueError(f"return_A needs a method with a backward pass, such as CROWN, got {method!r}")
        given = self._last if x is None else _tuple(x)
        if not given:
            raise ValueError("there was no call with an input yet: give x")
        inputs = tuple(map(_plain, given))
        sets = self._sets(given, aux)
        if return_A and not any(isinstance(key, int) for key in sets):
            raise ValueError("return_A needs a perturbed input: functions of weights are not offered")
        self._last = given
        most = self.bound_opts.get("crown_batch_size")
        bounds = (_Recorded if return_A else Bounds)(
            self._program(inputs),
            inputs,
            sets,
            relu=self.bound_opts.get("relu", "adaptive"),
            chunk=None if most in (None, math.inf) else most,
            sparse=bool(self.bound_opts.get("sparse_intermediate_bounds", True)),
        )
        one = bound_lower != bound_upper and how in _INSIDE and C is not None and not return_A
        low: Tensor | None
        high: Tensor | None
        if how == "ibp":
            low, high = bounds.ibp(C, keep=False)
        elif how == "forward":
            low, high = bounds.forward(C)
        elif one and C is not None:  # half the work
            side = bounds.lower(C if bound_lower else -C, intermediate=_INSIDE[how])
            low, high = (side, None) if bound_lower else (None, -side)
        elif how == "alpha-crown":
            alpha = _ALPHA | self.bound_opts["optimize_bound_args"]
            with torch.no_grad():
                low, high = bounds.alpha_crown(
                    C,
                    iters=alpha["iteration"],
                    lr=alpha["lr_alpha"],
                    decay=alpha["lr_decay"],
                    joint=not alpha["fix_interm_bounds"],
                )
        else:
            low, high = bounds.crown(C, intermediate=_INSIDE[how])
        sides = low if bound_lower else None, high if bound_upper else None
        if not isinstance(bounds, _Recorded):
            return sides
        return *sides, self._functions(bounds.best(), bound_lower, bound_upper)

    def train(self, mode: bool = True) -> "BoundedModule":
        """The mode of the module."""
        self._original.train(mode)
        return self

    @property
    def training(self) -> bool:
        """Whether the module is in train mode."""
        return self._original.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_original" in self.__dict__:
            self._original.training = mode

    def _apply(self, fn: Any, recurse: bool = True) -> "BoundedModule":
        self._original._apply(fn, recurse)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "_original" not in self.__dict__:
                raise
            return getattr(self._original, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_programs": {}, "_last": ()}  # a copy captures anew

    def _program(self, inputs: tuple[Tensor, ...]) -> Program:
        """The module as captured in its present mode, for inputs of these shapes."""
        key = tuple(m.training for m in self._original.modules()), tuple((x.shape[1:], x.dtype) for x in inputs)
        found = self._programs.get(key)
        if found is None or found.batch not in (None, len(inputs[0])):
            self._programs[key] = found = Program(self._original, *inputs)
            while len(self._programs) > 8:
                self._programs.pop(next(iter(self._programs)))
        return found

    def _sets(self, given: Sequence[Tensor], aux: Any) -> dict[int | str, Box]:
        sets: dict[int | str, Box] = {}
        for key, x in (*enumerate(given), *self._original.named_parameters()):
            ptb = getattr(x, "ptb", None)
            if isinstance(ptb, Perturbation):
                sets[key] = ptb.region(_plain(x), aux if isinstance(ptb, PerturbationSynonym) else None)
        if not sets:
            raise ValueError("nothing is perturbed: give BoundedTensor(x, ptb), or a model with a BoundedParameter")
        return sets

    def _functions(self, found: LinearBound, lower: bool, upper: bool) -> dict[str, dict[str, dict[str, Any]]]:
        """The dict of return_A."""
        bias = found.bias.chunk(2)
        made = {}
        for i, a in sorted(found.a.items()):
            below, above = (half.transpose(0, 1) for half in a.chunk(2))
            made[self.input_name[i]] = {
                "lA": below if lower else None,
                "uA": -above if upper else None,
                "lbias": bias[0].T if lower else None,
                "ubias": -bias[1].T if upper else None,
            }
        return {self.output_name[0]: made}


class _Recorded(Bounds):
    """Bounds that keep, for each row of the output and each sample, the affine function behind the best one."""

    _kept: LinearBound | None = None
    _least: Tensor

    def _run(self, start: int, *args: Any, **options: Any) -> Tensor:
        if start != self.output:
            return super()._run(start, *args, **options)
        self._functions: list[LinearBound] = []
        self._lowest: list[Tensor] = []
        low = super()._run(start, *args, **options)
        parts = self._functions
        a = {i: _halves([part.a[i] for part in parts]) for i in parts[0].a}
        bias, least = _halves([part.bias for part in parts]), _halves(self._lowest)
        kept = self._kept
        if kept is not None:
            better = least > self._least
            wide = lambda t: better.reshape(*better.shape, *[1] * (t.ndim - 2))  # noqa: E731
            a = {i: torch.where(wide(t), t, kept.a[i]) for i, t in a.items()}
            bias, least = torch.where(better, bias, kept.bias), torch.where(better, least, self._least)
        self._kept, self._least = LinearBound(a, bias), least
        return low

    def _backward(self, start: int, *args: Any, **options: Any) -> Tensor:
        if start != self.output:
            return super()._backward(start, *args, **options)
        total: list[Any] = [{}, 0.0]
        super()._backward(start, *args, **options | {"collect": total})
        low = total[1] + sum(self.sets[i].lower(a) for i, a in total[0].items())
        keep = torch.Tensor.detach if options.get("alphas") is not None else (lambda t: t)
        self._functions.append(LinearBound({i: keep(a) for i, a in total[0].items()}, keep(total[1])))
        self._lowest.append(keep(low))
        return low

    def best(self) -> LinearBound:
        """The functions of C f, and then of -C f."""
        assert self._kept is not None
        return self._kept


def _halves(parts: Sequence[Tensor]) -> Tensor:
    """Rows and their negatives in chunks, (2 s, B, ...) each -> all rows, and then all negatives."""
    halves = [part.chunk(2) for part in parts]
    return torch.cat([*(h[0] for h in halves), *(h[1] for h in halves)])


def _method(method: str | None, ibp: bool, forward: bool) -> str:
    """The name that `flatlab.bounds.compute_bounds` has for a method."""
    if method is None and not (ibp or forward):
        raise ValueError("method=None needs IBP=True or forward=True: bounds of an earlier call are not kept")
    names = {name.lower(): name for several in METHODS.values() for name in several}
    given = ("ibp" if ibp else "forward") if method is None else method.lower()
    if given not in names:
        checks.one_of("method", str(method), names.values())
    found = _NAMES[given]
    if found != "crown":
        return found
    return "crown-ibp" if ibp else "forward+backward" if forward else found


def _refuse(options: Mapping[str, Any]) -> None:
    """Raise where an option of a call would change what is bounded, or is not known."""
    for name, value in options.items():
        if name not in (*_CALL_NO_EFFECT, *_CALL_ABSENT):
            raise TypeError(f"unexpected argument {name!r}{checks.nearest(name, (*_CALL_NO_EFFECT, *_CALL_ABSENT))}")
        if name in _CALL_ABSENT and value not in (None, False):
            raise ValueError(f"{name} is not offered here: leave it out, or use flatlab.bounds.Bounds")


def _perturbation(ptb: Any) -> Perturbation | None:
    if ptb is not None and not isinstance(ptb, Perturbation):
        raise TypeError(f"ptb must be a perturbation of flatlab.bounds.compat or None, got {type(ptb).__name__}")
    return ptb


def _tuple(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def _plain(x: Tensor) -> Tensor:
    """Without the perturbation, in the same graph."""
    return x.as_subclass(Tensor) if isinstance(x, BoundedTensor) else x


def _example(x: Tensor) -> Tensor:
    """An example that may be any piece of memory (torch.empty_like), made harmless."""
    if not x.is_floating_point() or bool((x.abs() < 1e4).all()):
        return x.detach()
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
