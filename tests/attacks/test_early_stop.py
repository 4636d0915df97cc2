"""PGD without the samples that are fooled already: what it finds, and that a sample goes its own way."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import attacks

EPS = 0.1


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(1) != y


def close(a: Tensor, b: Tensor) -> float:
    """The share of samples that are the same to rounding."""
    return float((a - b).abs().flatten(1).amax(1).le(1e-6).double().mean())


@pytest.mark.parametrize(("restarts", "eps"), [(1, EPS), (2, 0.05)])
def test_early_stop_is_as_strong_as_the_worst_of_all_iterates(std, digits, restarts, eps) -> None:
    x, y = digits
    steps, random = 20, seeded()
    starts = [torch.rand(x.shape, generator=random) * (2 * eps) - eps for _ in range(restarts)]
    expected, found = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for delta in starts:
        adv = (x + delta).clamp(0, 1)
        for step in range(steps + 1):
            here = adv.clone().requires_grad_()
            logits = std(here)
            fresh = (logits.argmax(1) != y) & ~found & (step < steps)
            expected[fresh] = adv[fresh]
            found |= fresh
            if step < steps:
                (slope,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), here)
                adv = (x + (adv + 2.5 * eps / steps * slope.sign() - x).clamp(-eps, eps)).clamp(0, 1)
        found |= wrong(std, adv, y)
    stopped = attacks.pgd(std, x, y, eps, steps=steps, early_stop=True, restarts=restarts, generator=seeded())
    assert torch.equal(wrong(std, stopped, y), found)
    assert found.any()
    assert not found.all()
    early = found & (expected != x).flatten(1).any(1)
    assert (stopped[early] - expected[early]).abs().flatten(1).amax(1).le(
        1e-6
    ).float().mean() > 0.99  # but for rounding


def test_early_stop_of_a_sample_does_not_depend_on_its_company(std, digits) -> None:
    x, y = digits
    start = torch.rand(x.shape, generator=seeded()) * (2 * EPS) - EPS
    together = attacks.pgd(std, x, y, EPS, start=start, early_stop=True)
    for rows in (slice(0, 300, 7), slice(0, 40), slice(299, 300)):
        apart = attacks.pgd(std, x[rows], y[rows], EPS, start=start[rows], early_stop=True)
        assert close(apart, together[rows]) >= 0.97  # but for rounding
        assert torch.equal(wrong(std, apart, y[rows]), wrong(std, together[rows], y[rows]))


def test_later_steps_and_restarts_are_taken_by_fewer_samples(std, digits) -> None:
    x, y = digits
    rows: list[int] = []
    handle = std.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        attacks.pgd(std, x, y, EPS, steps=40, restarts=2, early_stop=True, generator=seeded())
    finally:
        handle.remove()
    first, second = rows[:40], rows[41:81]
    assert rows[0] == len(x)
    for steps in (first, second):
        assert steps == sorted(steps, reverse=True)
    survivors = int((~wrong(std, attacks.pgd(std, x, y, EPS, steps=40, early_stop=True, generator=seeded()), y)).sum())
    assert second[0] == survivors
    assert first[-1] * 0.9 <= survivors + 1
