"""Measures behind the claims: how far the losses of two domains part near the weights, and how sharp each one is.

    I(w) = max over |d| <= rho of | L_target(w + d) - L_source(w + d) |

The maximum is taken over d = 0, over rho times the unit gradient of either loss in both signs, and over rho times
random unit directions: a lower bound of the true one. Random directions depend on the seed and the shapes of the
weights alone, so that networks of one architecture are measured along the same ones.

I grows with the confidence of a network, and a worse network may have less of it: read it beside accuracies, or at
matched temperatures, L being the cross-entropy of logits / temperature.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.dg.base import batch_norms, check_model, features_and_logits, resting_statistics
from flatlab.dg.domains import Domain
from flatlab.dg.head import head_moments, head_residuals
from flatlab.flatness import Landscape, gaussian, over_parameters, sam_sharpness
from flatlab.modes import evaluating
from flatlab.train.batches import as_float

Labelled = tuple[Tensor, Tensor]
"""Inputs (N, ...), floating, and labels (N,)."""


def domain_inconsistency(
    model: nn.Module,
    source: Labelled,
    target: Labelled,
    *,
    rho: float = 0.05,
    directions: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
) -> float:
    """I(w) of the head of this file, in nats, in eval mode; the model is left as it was.

    Args:
        model: any classifier.
        source: (x, y) of a domain that was trained on.
        target: (x, y) of another one.
        rho: radius in weight space, >= 0.
        directions: random ones, >= 0.
        temperature: what logits are divided by, > 0.
        seed: of the random directions.
    """
    checks.nonnegative("rho", rho)
    checks.at_least("directions", directions, 0)
    checks.positive("temperature", temperature)
    with evaluating(model):
        pair = [over_parameters(model, _loss(*data, temperature)) for data in (source, target)]
        generator = torch.Generator().manual_seed(seed)
        ways = [landscape.gradient() for landscape in pair]
        ways += [tuple(-t for t in way) for way in ways]
        ways += [gaussian(pair[0].point, generator=generator) for _ in range(directions)]
        found = [abs(pair[1].home() - pair[0].home())] + [_gap(pair, way, rho) for way in ways if rho]
    return max(found)


def domain_sharpness(
    model: nn.Module, domains: Mapping[str, Labelled], *, rho: float = 0.05, temperature: float = 1.0
) -> dict[str, float]:
    """How much the loss of each domain rises over one step of length rho along its gradient, in nats, in eval mode.

    Args:
        model: any classifier.
        domains: (x, y) by name.
        rho: length of the step, >= 0.
        temperature: what logits are divided by, > 0.
    """
    checks.positive("temperature", temperature)
    with evaluating(model):
        return {
            name: sam_sharpness(over_parameters(model, _loss(*data, temperature)), rho)
            for name, data in domains.items()
        }


def head_curvature(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The variance of the head's gradients over samples, and the diagonal of the head's Hessian: both (C*d + C,).

    The first stands for the second in Fishr and UDIM. The Hessian is exact: mean_i p_c (1 - p_c) h_j^2 for weights, and
    mean_i p_c (1 - p_c) for biases; it does not depend on labels.

    Args:
        model: with `.featurizer` and `.classifier`.
        x: inputs (N, ...), floating.
        y: labels (N,).
    """
    check_model(model)
    checks.labels(y, len(checks.inputs(x, box=False)))
    with evaluating(model), torch.no_grad():
        features, logits = features_and_logits(model, x)
        features, residual = head_residuals(features, logits, y)
        p = logits.to(features).softmax(1)
        mean, square = head_moments(features, residual, [len(x)])
        _, hessian = head_moments(features, (p * (1 - p)).sqrt(), [len(x)])
        return _flat(square - mean.square()), _flat(hessian)


def domain_accuracy(
    model: nn.Module, domain: Domain, *, statistics: str = "running", batch_size: int | None = None
) -> float:
    """The share of a domain's images that are classified correctly, in eval mode; those without finite logits are not.

    Args:
        model: a classifier; left as it was.
        domain: where the model is, or elsewhere.
        statistics: "running"; or "batch": BatchNorm normalises by the test batch, as it does in training, so that a
            prediction depends on the images beside it. This is a control and no way to predict.
        batch_size: images at once, batches being nearly equal; default 1024, or 100 for "batch".
    """
    checks.one_of("statistics", statistics, ("running", "batch"))
    usual = 100 if statistics == "batch" else 1024
    size = checks.at_least("batch_size", usual if batch_size is None else batch_size, 1)
    device = next(model.parameters()).device
    chunks = -(-len(domain) // size)
    with evaluating(model), torch.no_grad():
        for layer in batch_norms(model) if statistics == "batch" else ():
            layer.train()
        with resting_statistics(model):
            pairs = zip(domain.x.tensor_split(chunks), domain.y.tensor_split(chunks), strict=True)
            found = [_hits(model(as_float(x.to(device))), y.to(device)) for x, y in pairs]
    return int(torch.cat(found).sum()) / len(domain)


def _hits(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def _flat(moment: Tensor) -> Tensor:
    """(1, C, d + 1) in the order of weight and bias."""
    return torch.cat([moment[0, :, :-1].flatten(), moment[0, :, -1]])


def _loss(x: Tensor, y: Tensor, temperature: float) -> Callable[[nn.Module], Tensor]:
    checks.labels(y, len(checks.inputs(x, box=False)))
    return lambda model: F.cross_entropy(model(x) / temperature, y.long())


def _gap(pair: list[Landscape], way: tuple[Tensor, ...], rho: float) -> float:
    """How far the two losses are apart at distance rho along `way`, or where they are if it has no direction."""
    length = float(torch.linalg.vector_norm(torch.stack([t.norm() for t in way])))
    point = pair[0].displaced(way, rho / length if length > 0 else 0.0)
    return abs(pair[1].value(*point) - pair[0].value(*point))
