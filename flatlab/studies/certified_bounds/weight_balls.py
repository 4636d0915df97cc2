"""Training on few images by ordinary, sharpness-aware and certified ways, and how flat the result is."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import bounds, data, flatness, models, optim, train
from flatlab.studies.certified_bounds.settings import CertifiedBounds, Flat


def few(cfg: CertifiedBounds, pool: data.ImageSet, seed: int) -> data.ImageSet:
    """`cfg.shots` images of each class, others for each seed."""
    return pool.subset(pool.stratified(cfg.shots * len(pool.classes), seed=seed))


def fit_flat(
    cfg: CertifiedBounds, way: Flat, shown: data.ImageSet, seed: int, *, decay: float, device: torch.device
) -> dict[str, nn.Module | None]:
    """Train a perceptron on a few images.

    Args:
        cfg: the recipe, and the level of training loss at which networks are compared.
        way: how.
        shown: the images.
        seed: of weights and noise.
        decay: weight decay, in place of the way's.
        device: where to train.

    Returns:
        "end": the network; "level": the network as it was after the first epoch in which its loss came down to the
        level, or None if it never did.
    """
    shape, classes = tuple(shown.x.shape[1:]), len(shown.classes)
    build = lambda s: models.build("mlp", shape, classes, seed=s, options={"widths": (64, 64)})  # noqa: E731
    options = {"weight_decay": decay} | ({"rho": way.rho} if way.rho else {})
    recipe = dataclasses.replace(cfg.flat_recipe, options=options, optimizer=optim.SAM if way.rho else torch.optim.SGD)
    goal: train.Objective | Callable[[nn.Module, Tensor, Any, float], Tensor] = train.cross_entropy
    if way.weight_eps:
        balls, ramp = bounds.Balls(weight_eps=way.weight_eps), train.Ramp(1.0, 0.1, 0.6)
        goal = bounds.CertifiedTraining(balls, kind="crown-ibp", ramp=ramp)
    below = train.FirstBelow(build(seed), *shown.float(device), cfg.level)
    end = train.fit_seeds(build, shown, goal, recipe, seeds=(seed,), device=device, callbacks=[below])[0]
    return {"end": end, "level": below.models.get(seed)}


def decay_score(
    cfg: CertifiedBounds,
    pool: data.ImageSet,
    name: str,
    options: dict[str, Any],
    seeds: Sequence[int],
    *,
    device: torch.device,
) -> list[float]:
    """For `flatlab.train.sweep`, with the first two put in: the cross-entropy on held-out training images, in nats.

    Args:
        cfg: the ways to train, and how many images are held out.
        pool: training images, which are split.
        name, options, seeds: of a way; the options are {"decay": ...}.
        device: where to train.
    """
    (way,) = (way for way in cfg.flat if way.name == name)
    rest, held = data.holdout(pool, cfg.held_out, seed=0)
    found = [fit_flat(cfg, way, few(cfg, rest, s), s, **options, device=device)["end"] for s in seeds]
    return [train.evaluate_loss(net, *held.float(device)).loss for net in found if net is not None]


def flatness_report(
    model: nn.Module, x: Tensor, y: Tensor, rho: float, *, generator: torch.Generator | None = None
) -> dict[str, float]:
    """How far the mean cross-entropy can rise within balls of radius rho around the weights, from all sides.

    Args:
        model, x, y, rho: as in `flatlab.bounds.certified_flatness`.
        generator: of the attack's and of random directions.

    Returns:
        In nats: "train loss" at the weights, "certified loss", "attack gap", "SAM step" (one step along the joint
        gradient), "random gap", and "excess", by which the attack exceeds the certificate: never more than rounding.
    """
    proof = bounds.certified_flatness(model, x, y, rho)
    gap = flatness.weight_attack(model, x, y, rho, generator=generator) - proof.loss
    names = flatness.layer_weights(model)
    space = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y), only=names)
    return {
        "train loss": proof.loss,
        "certified loss": proof.certified_loss,
        "attack gap": gap,
        "SAM step": flatness.sam_sharpness(space, rho),
        "random gap": flatness.random_gap(model, x, y, rho, generator=generator),
        "excess": gap - proof.gap,
    }


def flat_row(
    model: nn.Module | None, shown: tuple[Tensor, Tensor], tested: tuple[Tensor, Tensor], rho: float, *, seed: int
) -> dict[str, Any]:
    """All that is measured of one network.

    Args:
        model: None if it never came down to the level: nothing is right then, and losses are missing.
        shown, tested: images and labels that it was trained on, and others.
        rho: as in `flatness_report`.
        seed: of the attack.

    Returns:
        "right", truth values (N,) of the tested images; "lost", by how much less it is after rounding the weights to
        three bits, (N,) in {-1, 0, 1}; and a `flatness_report`.
    """
    if model is None:
        return {"right": np.zeros(len(tested[1]), dtype=bool)}
    right, rounded = (train.evaluate_samples(net, *tested)[1] for net in (model, models.round_weights(model, 3)))
    row: dict[str, Any] = {"right": right.bool().numpy(), "lost": (right - rounded).numpy()}
    return row | flatness_report(model, *shown, rho, generator=torch.Generator().manual_seed(seed))


def rows(
    cfg: CertifiedBounds,
    pool: data.ImageSet,
    tested: tuple[Tensor, Tensor],
    decays: Mapping[str, Mapping[str, float]],
    *,
    device: torch.device,
) -> list[dict[str, Any]]:
    """A `flat_row` of each way and seed, at the end of training and at the level.

    Args:
        cfg: the ways, the seeds and the radius that is tested.
        pool: training images, of which each seed is shown a few.
        tested: test images and labels, on the device.
        decays: name of a way -> {"decay": its weight decay}.
        device: where to train.

    Returns:
        Rows that begin with "way", "seed" and "at", which is "end" or "level".
    """
    made = []
    for way, seed in itertools.product(cfg.flat, cfg.flat_seeds):
        shown = few(cfg, pool, seed)
        for at, net in fit_flat(cfg, way, shown, seed, **decays[way.name], device=device).items():
            found = flat_row(net, shown.float(device), tested, cfg.ball, seed=seed)
            made.append({"way": way.name, "seed": seed, "at": at} | found)
    return made
