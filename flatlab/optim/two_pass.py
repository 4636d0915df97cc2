"""The step that sharpness-aware optimizers share: descend along the gradient that is found at a nearby worse point.

    g0    = grad L(w)                                 first pass
    eps   = rho T^2 g0 / (||T g0|| + 1e-12) - a g0    T = 1, or |w| + eta if adaptive; a = 0 but for SAGM
    g1    = grad L(w + eps)                           second pass, on the same batch
    w     <- base optimizer at w, with a mix of g1 and g0

Norms run over all groups together, or over each of S stacked networks by itself; rho, eta and a are those of the group.
The old weights are copied back: subtracting eps would leave rounding errors. With `maximize` in the base the
objective gets worse against the gradient, and so eps changes its sign.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.optim import norms
from flatlab.optim.norms import Bucket
from flatlab.optim.running_stats import RunningStats
from flatlab.optim.wrapper import BaseOptimizer, Wrapper

_DELTA = 1e-12  # added to norms: a gradient of zero then gives a perturbation of zero
_RUNNING = ("first", "both")


@dataclass
class _Ascent:
    """What the first pass leaves behind for the second: nothing of it outlives the step."""

    buckets: list[Bucket]
    saved: list[list[Tensor]]
    gradients: dict[Tensor, Tensor]  # first gradients by parameter, where they are mixed into the last
    statistics: RunningStats | None
    not_finite: Tensor | None = None  # where the first gradient is not finite: a scalar, or (S,)
    perturbed: bool = True


class TwoPass(Wrapper):
    """An optimizer whose step takes two gradients, the base of SAM, ASAM, GSAM and SAGM, and their constructor.

    A subclass says how the gradients are mixed, and gives the names and defaults of its options in `own_options`.

    Args:
        params: tensors, named tensors, or dicts with options of their own, also those of `own_options`.
        base_optimizer: an optimizer class, or an instance that holds exactly these parameters. Groups and state are
            shared with it, so a scheduler may be given either. Bases that need a closure (LBFGS) are refused.
        model: the network. Given, its BatchNorm running statistics come from the first pass only; None leaves them
            to be updated in both.
        running_stats: "first", or "both" to update them twice although `model` is given.
        networks: S if every parameter has shape (S, ...), one slice for each of S networks: each has its own norm.
        options: those of the method; any other goes to the base class, such as lr. Not with an instance.

    Raises:
        ValueError, TypeError: an option out of range, a parameter given twice, an instance with other parameters, a
            base that cannot be one.
        RuntimeError: sparse gradients; calls of `first_step`, `second_step` and `step` out of order.
    """

    own_options: ClassVar[Mapping[str, Any]]
    """The options of the method, which may differ between groups, with their defaults."""

    remembers: ClassVar[Mapping[str, float]] = {}
    """What the method writes into each group besides, and what it is in the beginning."""

    mixes = False  # whether the final gradient needs the first one

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # What help() and editors show: the options of the method by name, as if it had a constructor of its own.
        params, base, *shared, rest = list(inspect.signature(TwoPass.__init__).parameters.values())[1:]
        own = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in cls.own_options.items()
        ]
        cls.__signature__ = inspect.Signature([params, base, *own, *shared, rest.replace(name="base_options")])

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.SGD,
        *,
        model: nn.Module | None = None,
        running_stats: str = "first",
        networks: int | None = None,
        **options: Any,
    ) -> None:
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
        self.model, self.running_stats = model, checks.one_of("running_stats", running_stats, _RUNNING)
        self._ascent: _Ascent | None = None
        own = {name: options.pop(name, default) for name, default in self.own_options.items()}
        own |= self.remembers
        super().__init__(params, base_optimizer, own, networks=networks, base_options=options)
        for group in self.param_groups:
            self._schedule(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Both passes and the update; returns the loss of the first pass.

        Args:
            closure: computes the loss, calls backward and returns the loss. It is called twice, and must use the same
                batch both times. Gradients are zeroed, in place, before each call, so that it need not do so: what
                they held before the step does not count, and a batch in parts is accumulated inside of the closure.
                None only finishes a manual loop, after `restore`.
        """
        if closure is None:
            self._base_step()
            return None
        if not callable(closure):
            raise TypeError(f"closure must be callable, got {type(closure).__name__}")
        self._require_unperturbed("step(closure)")
        loss = self._gradients_of(closure)
        self.first_step()
        try:
            self._gradients_of(closure)
        except BaseException:
            self._restore_weights()
            self._ascent = None
            raise
        self.restore()
        self._base_step()
        return loss

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, scale: float | Tensor = 1.0) -> None:
        """Move the weights to w + eps, by the gradients that the first backward pass left.

        Args:
            zero_grad: set the gradients to None afterwards.
            scale: what the loss was multiplied by, `scaler.get_scale()` with a GradScaler; only SAGM depends on it.

        Raises:
            RuntimeError: the weights are perturbed already, or a gradient is sparse; nothing has changed then.
        """
        self._require_unperturbed("first_step()")
        if not isinstance(scale, Tensor):
            checks.positive("scale", scale)
        buckets = norms.gradient_buckets(self.param_groups, type(self).__name__)
        for group in self.param_groups:
            self._schedule(group)
        statistics = None
        if self.model is not None and self.running_stats == "first":
            statistics = RunningStats(self.model)
        saved = [[param.clone() for param in bucket.params] for bucket in buckets]
        self._ascent = _Ascent(buckets, saved, self._first_gradients(buckets), statistics)
        try:
            self._ascent.not_finite = self._ascend(buckets, scale)
        except BaseException:
            self._restore_weights()
            self._ascent = None
            raise
        self._ascent.buckets = [Bucket(b.group, b.sources, b.params, []) for b in buckets]  # lets the gradients go
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Put weights and running statistics back, and the final gradient into `.grad`; nothing if that is done.

        A manual loop needs it before `scaler.unscale_` and `scaler.step`, and after an exception in the second pass.
        """
        if self._ascent is None:
            return
        self._restore_weights()
        buckets = norms.gradient_buckets(self.param_groups, type(self).__name__)
        gradients, self._ascent.gradients = self._ascent.gradients, {}
        if gradients:
            self._mix(buckets, [[gradients.get(p) for p in bucket.sources] for bucket in buckets])
        not_finite, self._ascent.not_finite = self._ascent.not_finite, None
        if not_finite is not None and buckets:
            norms.nan_where_(buckets[0].grads[0], not_finite)

    def second_step(self, zero_grad: bool = False) -> None:
        """Come back to w and let the base optimizer step with the gradients of the second backward pass.

        Args:
            zero_grad: set the gradients to None afterwards.
        """
        if self._ascent is None:
            raise RuntimeError("second_step() without a first_step() before it: call first_step() after the first pass")
        self.restore()
        self.step()
        if zero_grad:
            self.zero_grad()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to this optimizer and to its base."""
        self._require_unperturbed("add_param_group()")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict` of this optimizer; that of a bare base will do, and keeps the options here."""
        self._require_unperturbed("load_state_dict()")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self._require_unperturbed("copying or pickling")
        return {**super().__getstate__(), "model": self.model, "running_stats": self.running_stats, "_ascent": None}

    def _gradients_of(self, closure: Callable[[], Any]) -> Any:
        """Run the closure for gradients that are its alone; in place, for a replayed graph writes where they are."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if grads:
            torch._foreach_zero_(grads)
        with torch.enable_grad():
            return closure()

    def _schedule(self, group: dict[str, Any]) -> None:
        """Set the options of `group` that change from step to step."""

    def _pull_back(self, group: dict[str, Any]) -> float:
        """The coefficient a of g0 in eps."""
        return 0.0

    def _mix(self, buckets: list[Bucket], first: list[list[Tensor | None]]) -> None:
        """Turn the second gradients in `buckets` into the final ones, in place; `first` has None where g0 is not."""

    def _first_gradients(self, buckets: list[Bucket]) -> dict[Tensor, Tensor]:
        """Copies of the first gradients, where the final one needs them: the second pass may overwrite `.grad`."""
        if not self.mixes:
            return {}
        return {p: g.clone() for b in buckets for p, g in zip(b.sources, b.grads, strict=True)}

    def _ascend(self, buckets: list[Bucket], scale: float | Tensor) -> Tensor | None:
        """Add eps to the weights; a network whose gradient is not finite stays where it is. Returns which ones."""
        if not buckets:
            return None
        sizes = [self._weight_sizes(bucket) for bucket in buckets]
        slopes = [
            bucket.grads if size is None else list(torch._foreach_mul(size, norms.at_least_float32(bucket.grads)))
            for bucket, size in zip(buckets, sizes, strict=True)
        ]
        length = norms.norm(slopes, self.networks)
        not_finite = ~length.isfinite()
        for bucket, size, slope in zip(buckets, sizes, slopes, strict=True):
            sign = -1.0 if bucket.group.get("maximize", False) else 1.0
            reach = sign * self.option(bucket.group, "rho") / (length + _DELTA)
            pull = sign * self._pull_back(bucket.group) / scale
            if size is None:
                eps = norms.scaled(slope, reach - pull)
            else:
                eps = norms.scaled(slope, reach)
                torch._foreach_mul_(eps, size)
                if self._pull_back(bucket.group):
                    torch._foreach_sub_(eps, norms.scaled(bucket.grads, pull + torch.zeros_like(length)))
            norms.zero_where_(eps, not_finite)
            torch._foreach_add_(bucket.params, eps)
        return not_finite

    def _weight_sizes(self, bucket: Bucket) -> list[Tensor] | None:
        """T of the adaptive methods, |w| + eta; None stands for 1."""
        if not self.option(bucket.group, "adaptive"):
            return None
        sizes = torch._foreach_abs(norms.at_least_float32(bucket.params))
        torch._foreach_add_(sizes, self.option(bucket.group, "eta"))
        return list(sizes)

    def _restore_weights(self) -> None:
        """Undo what `first_step` did to weights and running statistics, whatever happened in between."""
        ascent = self._ascent
        if ascent is None or not ascent.perturbed:
            return
        for bucket, saved in zip(ascent.buckets, ascent.saved, strict=True):
            torch._foreach_copy_(bucket.params, saved)
        if ascent.statistics is not None:
            ascent.statistics.restore()
        ascent.perturbed, ascent.buckets, ascent.saved, ascent.statistics = False, [], [], None

    def _base_step(self) -> None:
        """The base optimizer's step, at the old weights."""
        if self._ascent is None:
            raise RuntimeError(
                f"{type(self).__name__}.step() needs a closure, which it calls twice: step(closure). Without one, call "
                "first_step() after the first backward pass and second_step() after the second"
            )
        self._require_unperturbed("step()")
        self._ascent = None
        self.base.step()

    def _require_unperturbed(self, what: str) -> None:
        if self._ascent is not None and self._ascent.perturbed:
            raise RuntimeError(
                f"{what} while the weights are perturbed by first_step(): call second_step() to finish the step, or "
                "restore() to put the weights back"
            )

    def _check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError or TypeError for an option of the group that is out of range."""
        super()._check_group(group)
        for name in self._keys:
            if name in _CHECKS:
                _CHECKS[name](name, self.option(group, name))


def _flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "rho": checks.nonnegative,
    "eta": checks.nonnegative,
    "alpha": checks.nonnegative,
    "adaptive": _flag,
}
