"""A module with bounds, under the names of auto_LiRPA; the head of this package says what is different here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.bounds.auto_lirpa.perturbations import BoundedParameter, BoundedTensor, PerturbationSynonym, plain
from flatlab.bounds.backward_pass import LinearFunction
from flatlab.bounds.bounds import INSIDE, Bounds
from flatlab.bounds.capture import Program
from flatlab.bounds.relax import SLOPES
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.slopes import Ascent

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
        self._program(tuple(_example(plain(x).to(example.device)) for x in self._last))

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
        return self._original(*map(plain, inputs))

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
        inputs = tuple(map(plain, given))
        sets, weights = self._sets(given, aux)
        if return_A and not sets:
            raise ValueError("return_A needs a perturbed input: functions of weights are not offered")
        self._last = given
        most = self.bound_opts.get("crown_batch_size")
        bounds = Bounds(
            self._program(inputs),
            inputs,
            sets,
            weights=weights,
            relu=self.bound_opts.get("relu", "adaptive"),
            chunk=None if most in (None, math.inf) else most,
            sparse=bool(self.bound_opts.get("sparse_intermediate_bounds", True)),
            keep=False,
        )
        alpha = _ALPHA | self.bound_opts["optimize_bound_args"]
        ascent = Ascent(alpha["iteration"], alpha["lr_alpha"], alpha["lr_decay"], not alpha["fix_interm_bounds"])
        if return_A:
            low, high, function = bounds.certificate(how, C, ascent=ascent)
            sides = low if bound_lower else None, high if bound_upper else None
            return *sides, self._functions(function, bound_lower, bound_upper)
        if C is not None and bound_lower != bound_upper and how in INSIDE:  # half the work
            side = bounds.lower(how, C if bound_lower else -C, ascent=ascent)
            return (side, None) if bound_lower else (None, -side)
        low, high = bounds.compute(how, C, ascent=ascent)
        return low if bound_lower else None, high if bound_upper else None

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

    def _sets(self, given: Sequence[Tensor], aux: Any) -> tuple[dict[int, Box], dict[str, LpBall]]:
        """The sets of perturbed inputs and of perturbed parameters."""
        sets: dict[int, Box] = {}
        for i, x in enumerate(given):
            if isinstance(x, BoundedTensor) and x.ptb is not None:
                sets[i] = x.ptb.region(plain(x), aux if isinstance(x.ptb, PerturbationSynonym) else None)
        weights: dict[str, LpBall] = {}
        for name, p in self._original.named_parameters():
            if isinstance(p, BoundedParameter) and p.ptb is not None:
                ball = p.ptb.region(p)
                if not isinstance(ball, LpBall):
                    raise ValueError(f"parameter {name!r} may be perturbed by a PerturbationLpNorm with eps only")
                weights[name] = ball
        if not sets and not weights:
            raise ValueError("nothing is perturbed: give BoundedTensor(x, ptb), or a model with a BoundedParameter")
        return sets, weights

    def _functions(self, found: LinearFunction, lower: bool, upper: bool) -> dict[str, dict[str, dict[str, Any]]]:
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


def _tuple(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def _example(x: Tensor) -> Tensor:
    """An example that may be any piece of memory (torch.empty_like), made harmless."""
    if not x.is_floating_point() or bool((x.abs() < 1e4).all()):
        return x.detach()
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
