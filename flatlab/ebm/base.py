"""What every way to train an energy-based model has in common.

A model is any callable f: (N, ...) -> (N,), the log of an unnormalized density: p(x) = exp f(x) / Z (energy E = -f).

    out = loss(f, x, generator=g)          # one network, in a loop of your own
    out.loss.backward()

    fit(net, data, ebm.objective(loss), recipe)        # one network, or S stacked ones, in flatlab's loop

Losses keep S networks apart: everything they hold or return has a first axis of S, one running log Z among it.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.ebm.noise import CachedNoise, NoiseLike, check_noise, draw
from flatlab.ebm.tilted import TiltedModel
from flatlab.rng import SeedGenerators

Energy = Callable[[Tensor], Tensor]
Draws = torch.Generator | SeedGenerators | None
_PATIENCE = 50  # steps in a row with hardly one effective draw, before a warning


@dataclass(frozen=True)
class LossOutput:
    """What a loss says of a batch: scalars for one network, (S,) for S of them. All but `loss` are detached.

    Attributes:
        loss: to be differentiated; its value need not be that of the objective.
        nll: estimate of the mean negative log-likelihood of the batch, in nats; NaN for losses that know no log Z.
        log_z: the loss's estimate of log Z; NaN likewise.
        ess: effective draws (sum w)^2 / sum w^2 of the importance weights w = exp(f - log q), in [1, n_noise].
        max_weight: the largest share of one draw in the sum of weights.
    """

    loss: Tensor
    nll: Tensor
    log_z: Tensor
    ess: Tensor
    max_weight: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> "LossOutput":
        """The same with every tensor changed."""
        return LossOutput(*(change(value) for value in vars(self).values()))


@dataclass(eq=False)
class EnergyLoss(ABC):
    """A loss of energy-based models; a subclass is one file with its formula in `compute`."""

    memory: ClassVar[tuple[str, ...]] = ()
    """Attributes (Tensor or None) that live from step to step; those that are Parameters are trained with the model."""

    def __call__(self, f: Energy, x: Tensor, generator: torch.Generator | None = None) -> LossOutput:
        """The loss of one network on one batch, in the dtype of x.

        Args:
            f: (N, ...) -> (N,), log of the unnormalized density.
            x: data (B, ...).
            generator: of all random numbers; None takes torch's own.

        Raises:
            TypeError: data that are not floating point.
            ValueError: an empty batch, energies that are not finite or not of shape (N,), data of another shape than
                the noise, noise of zero density at a data point where the loss needs it.
        """
        return self.compute(f, checked(x), generator, 1, strict=True).each(lambda value: value.squeeze(0))

    @abstractmethod
    def compute(self, f: Energy, x: Tensor, draws: Draws, networks: int, *, strict: bool = False) -> LossOutput:
        """The losses (S,) of S networks side by side.

        Args:
            f: (S*N, ...) -> (S*N,), rows laid out network by network.
            x: data (S*B, ...).
            draws: the generator of one network, or one for each.
            networks: S.
            strict: make energies that are not finite an error; a training loop sees to them by itself.
        """

    def parameters(self) -> list[nn.Parameter]:
        """What is trained beside the model: the learned log Z of a loss that has one."""
        held = (getattr(self, name) for name in self.memory)
        return [value for value in held if isinstance(value, nn.Parameter)]

    def fresh(self, networks: int, device: torch.device | str = "cpu") -> Self:
        """The loss with the same settings at the start of a training of so many networks."""
        made = replace(self)
        for name, value in ((name, getattr(made, name)) for name in self.memory):
            if isinstance(value, nn.Parameter):
                setattr(made, name, nn.Parameter(torch.zeros(networks, 1, device=device)))
        return made

    def reset(self) -> None:
        """Forget what was learned and averaged, as after a change of the model or of the noise."""
        for name, value in vars(self.fresh(1)).items():
            if isinstance(held := getattr(self, name), nn.Parameter):
                held.data.zero_()  # in place: an optimizer holds it
            else:
                setattr(self, name, value)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, besides the settings."""
        held = {name: getattr(self, name) for name in self.memory}
        return {name: value.detach().clone() for name, value in held.items() if value is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where the loss that gave this `state_dict` stood; ValueError for another loss's."""
        if unknown := sorted(state.keys() - set(self.memory)):
            raise ValueError(f"the state has entries {', '.join(unknown)}, which {type(self).__name__} does not know")
        for name in self.memory:
            value, held = state.get(name), getattr(self, name)
            if not isinstance(held, nn.Parameter):
                setattr(self, name, None if value is None else value.clone())
            elif value is None or value.shape != held.shape:
                found = "none" if value is None else f"one of shape {tuple(value.shape)}"
                raise ValueError(f"{type(self).__name__} has a {name} of shape {tuple(held.shape)}, the state {found}")
            else:
                held.data.copy_(value)  # in place, as in `reset`


@dataclass(eq=False)
class NoiseLoss(EnergyLoss):
    """A loss that compares data with draws of a noise distribution q of known density.

    Args:
        noise: q, positive wherever the model is; it has `.sample(n, generator=)` and `.log_prob(x)`.
        n_noise: draws for each batch of one network.
    """

    noise: NoiseLike
    _: KW_ONLY
    n_noise: int = 512

    compares: ClassVar[bool] = False
    """Whether the loss needs the density of the noise at the data: f - log q there, and not f alone."""

    def __post_init__(self) -> None:
        check_noise(self.noise)
        checks.at_least("n_noise", self.n_noise, 1)
        self._thin: Tensor | int = 0
        self._warned = False

    @property
    def looks_back(self) -> bool:
        """Whether `look_back` has anything to do."""
        return False

    @abstractmethod
    def from_ratios(self, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (S,), to be differentiated, and the estimates of log Z (S,).

        Args:
            data: f - log q at the data (S, B); without log q, a constant here, where the loss does not compare.
            noise: log weights f - log q at the draws (S, n_noise).
        """

    def look_back(self, f: Energy, y: Tensor, log_q: Tensor, networks: int) -> None:
        """Called with the draws (S*n_noise, ...) and their log q before each `from_ratios`."""

    def compute(self, f: Energy, x: Tensor, draws: Draws, networks: int, *, strict: bool = False) -> LossOutput:
        generators = draws.generators if isinstance(draws, SeedGenerators) else [draws]
        # Of a model that is a tilt of this very noise, f - log q is the tilt: cheaper, and exact.
        known = self.noise.noise if isinstance(self.noise, CachedNoise) else self.noise
        tilt = f.tilt if isinstance(f, TiltedModel) and f.base is known else None
        if tilt and not self.looks_back:
            y = torch.cat([self.noise.sample(self.n_noise, generator=generator) for generator in generators]).to(x)
            log_q = y.new_zeros(len(y))  # which nobody asks for
        else:
            parts = [draw(self.noise, self.n_noise, generator) for generator in generators]
            y, log_q = (torch.cat(values).to(x) for values in zip(*parts, strict=True))
        matching(x, y)
        self.look_back(f, y, log_q, networks)
        rows = torch.cat([block(x, networks), block(y, networks)], 1).flatten(0, 1)
        values = block(energies(tilt or f, rows, strict=strict), networks)
        data, noise = values.split([values.shape[1] - self.n_noise, self.n_noise], 1)
        shift = self._log_q(x, networks) if tilt or self.compares else torch.zeros_like(data, requires_grad=False)
        if tilt is None:
            data, noise = data - shift, noise - block(log_q, networks)
        loss, log_z = self.from_ratios(data, noise)
        with torch.no_grad():
            shares = noise.softmax(1)
            ess, nll = 1 / shares.square().sum(1), log_z - (data + shift).mean(1)
        self._watch(ess)
        # A copy: the optimizer moves a learned log Z in place, under whoever keeps this output.
        return LossOutput(loss, nll, log_z.detach().clone(), ess, shares.amax(1))

    def _log_q(self, x: Tensor, networks: int) -> Tensor:
        """The noise's log density at the data, (S, B)."""
        with torch.no_grad():
            found = self.noise.log_prob(x)
        if self.compares and bool((found == -torch.inf).any()):
            raise ValueError(
                f"the noise has zero density at data row {int((found == -torch.inf).nonzero()[0])}, where "
                f"{type(self).__name__} needs it: take one that covers the data"
            )
        return block(found, networks)

    def _watch(self, ess: Tensor) -> None:
        """Warn once if the noise does not cover the model; on a GPU, where looking waits, every fiftieth step looks."""
        if self.n_noise < 4 or self._warned:
            return
        self._thin = torch.where(ess < 2, self._thin + 1, 0)
        self._steps = getattr(self, "_steps", 0) + 1
        if (ess.device.type == "cpu" or self._steps % _PATIENCE == 0) and int(self._thin.amax()) >= _PATIENCE:
            self._warned = True
            warnings.warn(
                f"fewer than 2 effective of {self.n_noise} draws for {_PATIENCE} steps: the noise does not cover the "
                "model; widen it, cap the model, or draw more",
                stacklevel=4,
            )


def checked(x: Tensor) -> Tensor:
    """Return a batch of data (B, ...) of floating point, at least one; TypeError or ValueError otherwise."""
    if not x.is_floating_point():
        raise TypeError(f"data must be floating point, got {x.dtype}; dequantize integers first (ebm.dequantize)")
    if x.ndim < 1 or len(x) == 0:
        raise ValueError(f"data must be a non-empty batch (B, ...), got shape {tuple(x.shape)}")
    return x


def matching(x: Tensor, y: Tensor) -> Tensor:
    """Return draws y (N, ...) of a noise, or ValueError unless they have the shape of the data x (B, ...)."""
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"the noise has shape {tuple(y.shape[1:])} a sample, the data {tuple(x.shape[1:])}: fit the noise to such "
            "data, or reshape them"
        )
    return y


def energies(f: Energy, x: Tensor, *, strict: bool = True) -> Tensor:
    """f(x), or ValueError unless it has shape (N,) and, if `strict`, is finite."""
    values = f(x)
    if values.shape != (len(x),):
        cure = "; squeeze it" if values.shape == (len(x), 1) else ""
        raise ValueError(f"f must return one number a row, shape ({len(x)},), got {tuple(values.shape)}{cure}")
    if strict and not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise ValueError(
            f"f returned {float(values[row].detach()):g} at row {row} of {len(values)}, data first: energies must be "
            "finite; lower the learning rate, or cap the model (TiltedModel(..., cap=))"
        )
    return values


def block(rows: Tensor, networks: int) -> Tensor:
    """(S*N, ...) -> (S, N, ...)."""
    return rows.reshape(networks, len(rows) // networks, *rows.shape[1:])


def capped_exp(u: Tensor, limit: float) -> Tensor:
    """exp(u) up to `limit`, and its tangent beyond: finite, convex, and never without a gradient."""
    bound = u.clamp(max=limit)
    return bound.exp() * (1 + u - bound)
