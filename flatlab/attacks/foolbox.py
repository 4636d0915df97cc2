"""Attacks of the foolbox library (Rauber et al. 2020) on a model of ours: a second opinion on our own.

Three things make foolbox disagree with other libraries, and all are set explicitly here: its step (eps / 30 per step by
default), its bounds, and a model left in train mode. foolbox calls `.backward()`, which would write to the `.grad` of
every parameter; parameters are frozen during the attack, and given back as they were.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.attacks.arguments import batch, differentiable
from flatlab.attacks.pgd import pgd

if TYPE_CHECKING:
    import foolbox

_NAMES = ("LinfPGD", "LinfAdamPGD")


def foolbox_attack(
    attack: "str | foolbox.attacks.Attack",
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int | None = None,
    abs_stepsize: float | None = None,
    random_start: bool | None = None,
) -> Tensor:
    """Adversarial inputs (N, ...) in [0, 1] found by foolbox, clipped to its ball.

    Args:
        attack: "LinfPGD", "LinfAdamPGD", or a ready foolbox attack, which then carries its own options.
        model: maps inputs (N, ...) in [0, 1] to logits (N, C); BatchNorm and Dropout must be in eval mode.
        x: inputs (N, ...) in [0, 1].
        y: labels (N,), int64.
        eps: radius, in the norm of the attack; 0 returns x.
        steps: for a named attack; default 20.
        abs_stepsize: for a named attack, in units of x; default 2.5 * eps / steps, and not foolbox's own.
        random_start: for a named attack; default True. Draws come from the global generator: seed it.

    Raises:
        ImportError: foolbox is not installed.
        ValueError: unknown name, options beside a ready attack, bad inputs.
        RuntimeError: clean accuracy through foolbox's wrapper differs from the model's own.
    """
    eps = checks.radius(eps)
    fb = _import_foolbox()
    options = {"steps": steps, "abs_stepsize": abs_stepsize, "random_start": random_start}
    if not isinstance(attack, str) and any(value is not None for value in options.values()):
        given = ", ".join(name for name, value in options.items() if value is not None)
        raise ValueError(f"a ready foolbox attack carries its own options: set {given} where it is built")
    ready: Any = _named(fb, attack, eps, steps, abs_stepsize, random_start) if isinstance(attack, str) else attack
    x, y = batch(model, x, y, (0.0, 1.0))
    if eps == 0:
        return x.clone()

    device = next((parameter.device for parameter in model.parameters()), x.device)
    with modes.evaluating(model), _frozen(model), differentiable(x, y) as (x, y):
        wrapped = fb.PyTorchModel(_Called(model).eval(), bounds=(0, 1), device=device)
        _require_agreement(model, wrapped, x, y)
        _, clipped, _ = ready(wrapped, x, y, epsilons=eps)
    return clipped.detach()


def disagreement(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int = 20, seed: int = 0) -> float:
    """The share of inputs on which PGD of ours and of foolbox, from the same global seed, end in different classes.

    Both run in float64, on a copy of the model. In float32 the loss of a confident network underflows; the signs of its
    gradient are then rounding noise, which differs between two ways to write the same loss, and between processors.

    Args:
        model, x, y, eps: as in `foolbox_attack`.
        steps: of both, each of length 2.5 eps / steps.
        seed: of the global generator, which foolbox draws from.
    """
    model, x = copy.deepcopy(model).double(), x.double()
    torch.manual_seed(seed)
    ours = pgd(model, x, y, eps, steps=steps)
    torch.manual_seed(seed)
    theirs = foolbox_attack("LinfPGD", model, x, y, eps, steps=steps)
    with torch.no_grad():
        return float((modes.call(model, ours).argmax(1) != modes.call(model, theirs).argmax(1)).double().mean())


class _Called(nn.Module):
    """A model that is given its inputs in its own dtype."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return modes.call(self.model, x)


def _import_foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:
        raise ImportError("foolbox_attack needs the foolbox package: pip install foolbox") from error
    return foolbox


def _named(
    fb: Any, name: str, eps: float, steps: int | None, abs_stepsize: float | None, random_start: bool | None
) -> Any:
    build = getattr(fb.attacks, checks.one_of("foolbox attack", name, _NAMES))
    count = checks.at_least("steps", 20 if steps is None else steps, 1)
    step = 2.5 * eps / count if abs_stepsize is None else checks.positive("abs_stepsize", abs_stepsize)
    return build(steps=count, abs_stepsize=step, random_start=True if random_start is None else random_start)


def _require_agreement(model: nn.Module, wrapped: Any, x: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        own = checks.logits(modes.call(model, x), len(x))
        checks.labels(y, len(x), own.shape[1])
        theirs = wrapped(x)
    if not torch.equal(own.argmax(1), theirs.argmax(1)):
        before, after = ((logits.argmax(1) == y).double().mean() for logits in (own, theirs))
        raise RuntimeError(
            f"clean accuracy is {float(before):.4f} from the model and {float(after):.4f} through foolbox's wrapper: "
            "predictions depend on chance or on preprocessing outside the model"
        )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside, each as before outside."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
