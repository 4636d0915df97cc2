"""Geometry of scalar landscapes, in any space: slices, curvature, sharpness, and the likelihood over inputs.

A landscape is a scalar function over a space and a point of that space. State the function as a closure, so that any
loss and any structure of data will do; the space is made of inputs (`over_tensors`), of the parameters of a module
(`over_parameters`), or of both. Everything below then works on it:

    from torch.nn.functional import cross_entropy
    from flatlab import flatness

    weights = flatness.over_parameters(model.eval(), lambda m: cross_entropy(m(x), y))
    flatness.top_eigenvalues(weights, k=3).values            # of the Hessian; end="min" for the other end
    flatness.hutchinson_trace(weights, probes=200)           # mean, stderr, by_tensor["0.weight"]
    flatness.spectral_density(weights).density
    flatness.sam_sharpness(weights, rho=0.05)
    d1, d2 = (flatness.filter_normalized_direction(model, generator=g) for _ in range(2))
    flatness.loss_surface(weights, d1, d2, 1.0).values       # and loss_line(weights, d1)

    batches = [lambda m, b=b: cross_entropy(m(b[0]), b[1]) for b in loader]
    flatness.over_parameters(model, batches)                 # their mean, one batch in memory at a time
    flatness.over_parameters(policy, lambda p: reward(p.sample_logits(prompts)).mean())        # a reward
    flatness.over_parameters(nn.ModuleList([g, d]), lambda both: gan_loss(*both), only=names)  # one player of a game
    flatness.over_tensors(lambda theta: nce(theta), theta)   # two numbers
    flatness.over_parameters(model, lambda m, x: cross_entropy(m(x), y), joint=[x])            # weights times inputs

    flatness.weight_attack(model, x, y, rho=0.05)            # each weight matrix in a ball of its own; random_gap

Over inputs, where each sample has a landscape of its own, the measures take a model and a batch and return per-sample
results: `likelihood_flatness`, `worst_case_flatness`, `gradient_flatness`, `margin_flatness`, `likelihood_plane`.

What is proven rather than measured is `flatlab.bounds.certified_flatness`, for the balls of `weight_attack`: SAM's step
of the same length never leaves them, so that sam_sharpness <= certified_flatness(...).gap for the mean cross-entropy.

Models are in eval mode (RuntimeError for BatchNorm or Dropout in train mode), and are left exactly as they were found.
Weights of half precision are measured at their values, in float32: rounding would drown differences and curvature.
"""

from flatlab.flatness.directions import (
    filter_normalize,
    filter_normalized_direction,
    gaussian,
    gradient_sign,
    rademacher,
)
from flatlab.flatness.hessian import Hessian, hvp
from flatlab.flatness.lanczos import Eigenvalues, top_eigenvalues
from flatlab.flatness.landscape import Landscape, over_parameters, over_tensors
from flatlab.flatness.likelihood import energy, joint_energy, log_density, margin, relative_log_likelihood
from flatlab.flatness.measures import FlatnessResult, likelihood_flatness, margin_flatness
from flatlab.flatness.plane import likelihood_plane
from flatlab.flatness.sharpness import sam_sharpness
from flatlab.flatness.slices import Line, Plane, loss_line, loss_surface
from flatlab.flatness.spectrum import SpectralDensity, Trace, hutchinson_trace, spectral_density
from flatlab.flatness.weight_attack import layer_weights, random_gap, weight_attack
from flatlab.flatness.worst_case import gradient_flatness, worst_case_flatness

__all__ = [
    "Eigenvalues",
    "FlatnessResult",
    "Hessian",
    "Landscape",
    "Line",
    "Plane",
    "SpectralDensity",
    "Trace",
    "energy",
    "filter_normalize",
    "filter_normalized_direction",
    "gaussian",
    "gradient_flatness",
    "gradient_sign",
    "hutchinson_trace",
    "hvp",
    "joint_energy",
    "layer_weights",
    "likelihood_flatness",
    "likelihood_plane",
    "log_density",
    "loss_line",
    "loss_surface",
    "margin",
    "margin_flatness",
    "over_parameters",
    "over_tensors",
    "rademacher",
    "random_gap",
    "relative_log_likelihood",
    "sam_sharpness",
    "spectral_density",
    "top_eigenvalues",
    "weight_attack",
    "worst_case_flatness",
]
