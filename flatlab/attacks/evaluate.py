"""Robust accuracy as the pointwise worst case over a suite of attacks, with checks against fooling oneself.

A sample counts as robust if it is classified correctly without an attack and under every attack. What is reported is
what a second pass over the stored adversarial inputs gives, after checking that they lie in ball and box.

Work is left out only where it cannot change a number: a sample misclassified without an attack is wrong under all, a
further restart runs on the samples that survived, and what is behind the masking flags, on survivors of everything.
Random starts are drawn for all samples on the CPU, so neither batch size, device nor survivors change them.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.attacks.arguments import batch, clean_logits, differentiable
from flatlab.attacks.robustness import AttackResult, RobustnessReport, masking_flags, reference_pgd
from flatlab.attacks.runners import (
    BOX,
    RUNNERS,
    Evaluation,
    accuracy_at_large_eps,
    drops_by_scale,
    share_without_gradient,
)
from flatlab.attacks.suites import AttackSpec, resolve

_ROWS = 512


def evaluate_robustness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    suite: str | Sequence[AttackSpec] = "fast",
    generator: torch.Generator | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    scale_probe: bool = False,
) -> RobustnessReport:
    """Attack `model` on (x, y) with every attack of a suite.

    The model is switched to eval mode and given back as it was, also after an error.

    Args:
        model: maps inputs (N, ...) in [0, 1] to logits (N, C), each row on its own. Not a stacked model.
        x: inputs (N, ...) in [0, 1], on the model's device.
        y: labels (N,), int64.
        eps: L_inf radius in units of x.
        suite: "fast", "standard", "strong", or a sequence of `AttackSpec`.
        generator: if given, the seed is drawn from it.
        seed: of all random draws; each attack has its own stream, so adding one changes no other.
        batch_size: rows per pass, default 512; changes nothing but time and memory.
        scale_probe: also run PGD-20 on 0.1 and 10 times the logits, on up to 256 survivors of the suite's
            cross-entropy PGD, and flag the model if either takes off more than 3 points: PGD was then not at its
            best on the logits as they are. Does not enter robust accuracy.

    Raises:
        TypeError, ValueError: bad inputs, labels, suite, non-finite logits, a loss that needs more classes.
        RuntimeError: predictions that depend on chance or on the batch, or an attack that left ball or box.
    """
    eps = checks.radius(eps)
    specs = resolve(suite)
    rows = _ROWS if batch_size is None else checks.at_least("batch_size", batch_size, 1)
    if generator is not None:
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with modes.evaluating(model):
        x, y = batch(model, x, y, BOX)
        with differentiable(x, y) as (x, y):
            return _evaluate(Evaluation(model, x, y, eps, rows, seed), specs, scale_probe)


def _evaluate(run: Evaluation, specs: tuple[AttackSpec, ...], scale_probe: bool) -> RobustnessReport:
    logits = clean_logits(run.model, run.x, run.y, run.rows)
    classes = logits.shape[1]
    for spec in specs:
        if classes < spec.classes_needed:
            raise ValueError(
                f"attack {spec.name!r} needs C >= {spec.classes_needed} classes, the model has C = {classes}; "
                "choose a suite with loss='margin' or 'ce'"
            )
    clean = logits.argmax(1) == run.y
    reverse = run.correct(run.x.flip(0), torch.arange(len(run.x) - 1, -1, -1, device=run.x.device)).flip(0)
    _require_same(clean, reverse, "at clean inputs in reverse order")

    robust, worst, results = clean.clone(), run.x.clone(), []
    for spec in specs:
        began = time.perf_counter()
        adv, claimed, after_restarts = RUNNERS[spec.kind](run, spec, clean)
        _require_inside(adv, run.x, run.eps, spec.name)
        correct = run.correct(adv) & clean
        _require_same(correct, claimed, f"at the stored inputs of {spec.name}")
        accuracy = float(correct.double().mean())
        newly = robust & ~correct
        worst[newly] = adv[newly]
        robust &= correct
        seconds = time.perf_counter() - began
        results.append(AttackResult(spec, correct.cpu(), (*after_restarts[:-1], accuracy), seconds))

    reference = reference_pgd(results) if scale_probe else None
    flags = masking_flags(
        results,
        zero_gradients=share_without_gradient(run),
        chance=1 / classes,
        large_eps_accuracy=accuracy_at_large_eps(run, robust),
        scale_drops=None if reference is None else drops_by_scale(run, reference.correct.to(run.x.device)),
    )
    return RobustnessReport(run.eps, run.seed, clean.cpu(), tuple(results), robust.cpu(), worst, flags)


def _require_same(first: Tensor, second: Tensor, where: str) -> None:
    # Rounding may turn a tie; a model that depends on chance or on its batch changes more than that.
    changed = int((first != second).sum())
    if changed > max(1, 0.001 * len(first)):
        raise RuntimeError(
            f"{changed} of {len(first)} predictions changed between two passes {where}: the model depends on chance "
            "or on the other samples of a batch, and has no well-defined robust accuracy"
        )


def _require_inside(adv: Tensor, x: Tensor, eps: float, name: str) -> None:
    excess = float((adv - x).abs().max()) - eps
    low, high = (float(bound) for bound in adv.aminmax())
    if not (excess <= 1e-6 and low >= -1e-6 and high <= 1 + 1e-6):  # written so that NaN fails too
        raise RuntimeError(f"{name} left its bounds: {excess:.2g} beyond eps = {eps:g}, values in [{low:g}, {high:g}]")
