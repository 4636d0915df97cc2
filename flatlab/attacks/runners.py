"""How an evaluation carries out an `AttackSpec`, and the measurements behind its masking flags."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlab.attacks.arguments import clean_logits, uniform_noise
from flatlab.attacks.ascent import SignAscent, zero_gradients
from flatlab.attacks.foolbox import foolbox_attack
from flatlab.attacks.losses import LOSSES, Objective
from flatlab.attacks.robustness import LARGE_EPS
from flatlab.attacks.square import square
from flatlab.attacks.suites import AttackSpec
from flatlab.attacks.targeted import dlr_targeted

BOX = (0.0, 1.0)
SURVIVORS_USED = 256
SCALES = (0.1, 10.0)

#: Adversarial inputs for all samples, whether each is still correct by the attack's own account, accuracy per restart.
Outcome = tuple[Tensor, Tensor, tuple[float, ...]]


@dataclass(frozen=True)
class Evaluation:
    """What all attacks of one evaluation are given: the samples, the radius, rows per pass and the seed."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    rows: int
    seed: int

    def generator(self, name: str) -> torch.Generator:
        """A CPU stream for the attack of that name."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))

    def correct(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Whether the prediction at each row of `x` is right; `index` says which samples the rows belong to."""
        y = self.y if index is None else self.y[index]
        return clean_logits(self.model, x, y, self.rows).argmax(1) == y if len(x) else y == y

    def ascent(self, objective: Objective, steps: int, *, eps: float | None = None, reach: float = 2.5) -> SignAscent:
        """An ascent in the ball.

        Args:
            objective: to maximise.
            steps: gradient steps.
            eps: radius; None for that of the evaluation.
            reach: sum of the lengths of the steps, in units of the radius.
        """
        radius = self.eps if eps is None else eps
        return SignAscent(self.model, objective, radius, reach * radius / steps, steps, BOX, warn=False)

    def attack(self, ascent: SignAscent, index: Tensor, delta: Tensor | None) -> Tensor:
        """Adversarial inputs (n, ...) for some of the samples: the last iterates of the ascent.

        Args:
            ascent: as `self.ascent` makes it.
            index: (n,) the samples.
            delta: where all samples start, relative to x (N, ...); None starts at x.
        """
        found = [self.x[:0]]
        for part in index.split(self.rows):
            x = self.x[part]
            found.append(ascent.run(x, self.y[part], ascent.begin(x, None if delta is None else delta[part])))
        return torch.cat(found)


def _fgsm(run: Evaluation, spec: AttackSpec, clean: Tensor) -> Outcome:
    return _survive(run, run.ascent(LOSSES[spec.loss], 1, reach=1.0), clean, [None])


def _pgd(run: Evaluation, spec: AttackSpec, clean: Tensor) -> Outcome:
    generator = run.generator(spec.name)
    starts = (uniform_noise(run.x, run.eps, generator) for _ in range(spec.restarts))
    return _survive(run, run.ascent(LOSSES[spec.loss], spec.steps), clean, starts)


def _survive(run: Evaluation, ascent: SignAscent, clean: Tensor, starts: Iterable[Tensor | None]) -> Outcome:
    adv, alive, accuracies = run.x.clone(), clean.nonzero().squeeze(1), []
    for delta in starts:
        adv[alive] = run.attack(ascent, alive, delta)
        alive = alive[run.correct(adv[alive], alive)]
        accuracies.append(len(alive) / len(run.x))
    return adv, torch.zeros_like(clean).index_fill_(0, alive, True), tuple(accuracies)


def _square(run: Evaluation, spec: AttackSpec, clean: Tensor) -> Outcome:
    adv = square(
        run.model,
        run.x,
        run.y,
        run.eps,
        queries=spec.queries,
        generator=run.generator(spec.name),
        batch_size=run.rows,
        clip=BOX,
    )
    return _judge(run, adv, clean)


def _dlr_targeted(run: Evaluation, spec: AttackSpec, clean: Tensor) -> Outcome:
    adv = dlr_targeted(
        run.model,
        run.x,
        run.y,
        run.eps,
        classes=spec.classes,
        steps=spec.steps,
        generator=run.generator(spec.name),
        batch_size=run.rows,
        clip=BOX,
    )
    return _judge(run, adv, clean)


def _foolbox(run: Evaluation, spec: AttackSpec, clean: Tensor) -> Outcome:
    devices = [run.x.device] if run.x.is_cuda else []
    with torch.random.fork_rng(devices=devices):  # foolbox draws from the global generator
        torch.manual_seed(run.generator(spec.name).initial_seed())
        parts = zip(run.x.split(run.rows), run.y.split(run.rows), strict=True)
        adv = torch.cat([foolbox_attack("LinfPGD", run.model, x, y, run.eps, steps=spec.steps) for x, y in parts])
    return _judge(run, adv, clean)


def _judge(run: Evaluation, adv: Tensor, clean: Tensor) -> Outcome:
    correct = run.correct(adv) & clean
    return adv, correct, (float(correct.double().mean()),)


RUNNERS: dict[str, Callable[[Evaluation, AttackSpec, Tensor], Outcome]] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "dlr_targeted": _dlr_targeted,
    "square": _square,
    "foolbox": _foolbox,
}


def share_without_gradient(run: Evaluation) -> float:
    """Share of samples whose cross-entropy has an exactly zero gradient at the clean input."""
    ascent = run.ascent(LOSSES["ce"], 1)
    parts = zip(run.x.split(run.rows), run.y.split(run.rows), strict=True)
    zero = [zero_gradients(ascent.gradient(x.clone(), y)[1]) for x, y in parts]
    return float(torch.cat(zero).double().mean())


def accuracy_at_large_eps(run: Evaluation, robust: Tensor) -> float:
    """Accuracy at eps = 0.5 by PGD-20: only survivors can be correct there; up to 256 of them stand for all."""
    survivors, used = _some_survivors(robust)
    if run.eps >= LARGE_EPS or not len(used):
        return len(survivors) / len(run.x)
    ascent = run.ascent(LOSSES["ce"], 20, eps=LARGE_EPS)
    delta = uniform_noise(run.x, LARGE_EPS, run.generator("large eps"))
    right = run.correct(run.attack(ascent, used, delta), used)
    return float(right.double().mean()) * len(survivors) / len(run.x)


def drops_by_scale(run: Evaluation, survived: Tensor) -> dict[float, float]:
    """Accuracy that PGD-20 on 0.1 and 10 times the logits takes from those that `survived` PGD on the logits as given.

    Up to 256 survivors stand for all. Only a drop counts: an honest model resists PGD on small logits *better*.
    """
    survivors, used = _some_survivors(survived)
    drops = {}
    for scale in SCALES if len(used) else ():
        delta = uniform_noise(run.x, run.eps, run.generator(f"scale {scale:g}"))
        right = run.correct(run.attack(run.ascent(_scaled(scale), 20), used, delta), used)
        drops[scale] = (1 - float(right.double().mean())) * len(survivors) / len(run.x)
    return drops


def _scaled(scale: float) -> Objective:
    plain = LOSSES["ce"]
    return Objective(
        lambda logits, y, targets: plain.value(scale * logits, y, targets),
        lambda logits, y, targets: plain.slope(scale * logits, y, targets),  # up to a factor that the sign drops
    )


def _some_survivors(mask: Tensor) -> tuple[Tensor, Tensor]:
    survivors = mask.nonzero().squeeze(1)
    return survivors, survivors[:: -(-len(survivors) // SURVIVORS_USED) or 1]
