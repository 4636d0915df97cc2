"""Extreme eigenvalues of a Hessian by the Lanczos method with full reorthogonalisation.

    H q_j = b_{j-1} q_{j-1} + a_j q_j + b_j q_{j+1}         T = tridiag(b, a, b)

Eigenvalues of T (Ritz values) approach the extreme ones of H. One run sees a single copy of a multiple eigenvalue, so
runs are repeated from fresh random vectors orthogonal to the eigenvectors already found, until the best value left is
no better than those; a Rayleigh-Ritz step over all that was found gives values, vectors and true residuals.

A Ritz value is right long before its vector: with residual r, at distance g from the rest of the spectrum, it is off by
at most r^2 / g (Kato and Temple). A single value without its vector comes from one run that ends when that is small.

"max" means the algebraically largest; power iteration (PyHessian) finds the largest in absolute value instead, which
may be the negative end of the spectrum.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flatlab import checks
from flatlab.flatness.directions import draw
from flatlab.flatness.hessian import Hessian
from flatlab.flatness.landscape import Landscape

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenvalues at one end of a Hessian's spectrum.

    Attributes:
        values: (k,) float64, from the end inwards, repeated by multiplicity.
        residuals: (k,) the norms of H v - value v for the unit eigenvectors; an eigenvalue lies within each.
        converged: whether every residual is below the tolerance and no value at this end was left out; for one value
            without its vector, whether its error is.
        products: Hessian-vector products spent.
        vectors: (k, n) unit eigenvectors, or None if not asked for.
    """

    values: Tensor
    residuals: Tensor
    converged: bool
    products: int
    vectors: Tensor | None = field(repr=False, default=None)


def top_eigenvalues(
    landscape: Landscape,
    k: int = 1,
    *,
    end: str = "max",
    vectors: bool = False,
    max_steps: int = 100,
    tol: float | None = None,
    generator: torch.Generator | None = None,
) -> Eigenvalues:
    """The k largest ("max") or smallest ("min") eigenvalues of the Hessian at the landscape's point.

    Args:
        k: number of eigenvalues, counted with multiplicity.
        end: "max" or "min", in algebraic order.
        vectors: also return the eigenvectors.
        max_steps: Lanczos steps per run; as many vectors of the landscape's size are kept in memory.
        tol: a pair counts as found once its residual is below tol times the largest absolute Ritz value, by default
            1e-4. For k = 1 without vectors, once the estimated error of the value is, by default 1e-5; eigenvalues
            closer to each other than the residual may then pass for one.
        generator: where starting vectors come from.
    """
    checks.one_of("end", end, ("max", "min"))
    checks.at_least("k", k, 1)
    checks.at_least("max_steps", max_steps, 1)
    value_only = k == 1 and not vectors
    tol = (1e-5 if value_only else 1e-4) if tol is None else checks.positive("tol", tol)
    if k > landscape.size:
        raise ValueError(f"k must be at most the {landscape.size} dimensions of the landscape, got {k}")
    hessian, sign, like = Hessian(landscape), 1.0 if end == "max" else -1.0, landscape.point[0]
    products = 0

    def operator(vector: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return sign * (hessian @ vector)

    if value_only:
        start = draw("gaussian", (hessian.size,), like, generator)
        tridiagonal, beta, _ = lanczos(operator, start, max_steps, stop=lambda t, b: value_settled(t, b, tol))
        theta, residuals, _ = ritz_pairs(tridiagonal, beta)
        return Eigenvalues(sign * theta[:1], residuals[:1], value_settled(tridiagonal, beta, tol), products)

    found, values, scale, complete = like.new_zeros(0, hessian.size), torch.zeros(0, dtype=torch.float64), 0.0, False
    # A run adds at least one pair, and eigenvalues of multiplicity up to k take k runs and one more to know it.
    for _ in range(2 * k + 2):
        wanted = max(1, k - len(found))
        start = draw("gaussian", (hessian.size,), like, generator)

        def enough(tridiagonal: Tensor, beta: float, wanted: int = wanted) -> bool:
            theta, residuals, _ = ritz_pairs(tridiagonal, beta)
            return len(theta) >= wanted and bool(residuals[:wanted].max() <= tol * theta.abs().max())

        tridiagonal, beta, basis = lanczos(operator, start, max_steps, orthogonal_to=found, stop=enough)
        theta, _, weights = ritz_pairs(tridiagonal, beta)
        scale = max(scale, float(theta.abs().max()))
        if len(found) >= k and theta[0] <= values[k - 1] + tol * scale:
            complete = True
            break
        wanted = min(wanted, len(theta))
        found = torch.cat([found, weights[:, :wanted].T.to(basis) @ basis])
        values = torch.cat([values, theta[:wanted]]).sort(descending=True).values
        if len(found) == hessian.size or (k == 1 and len(found)):  # a first run misses copies, never the extreme value
            complete = True
            break

    found = torch.linalg.qr(found.T).Q.T
    images = torch.stack([operator(vector) for vector in found])
    exact, rotation = torch.linalg.eigh((found @ images.T).double())
    order = exact.argsort(descending=True)[:k]
    pairs = rotation[:, order].T.to(found)
    eigenvectors, images = pairs @ found, pairs @ images
    residuals = (images - exact[order].to(images)[:, None] * eigenvectors).norm(dim=1).double().cpu()
    # Twice the tolerance: the residuals that ended a run are estimates within their deflated space.
    converged = complete and bool(residuals.max() <= 2 * tol * scale)
    return Eigenvalues(sign * exact[order].cpu(), residuals, converged, products, eigenvectors if vectors else None)


def lanczos(
    operator: Operator,
    start: Tensor,
    steps: int,
    *,
    orthogonal_to: Tensor | None = None,
    stop: Callable[[Tensor, float], bool] | None = None,
) -> tuple[Tensor, float, Tensor]:
    """Lanczos steps with a symmetric operator, fully reorthogonalised.

    Args:
        operator: maps (n,) to (n,). start: (n,), any length but zero.
        steps: upper bound; the run ends early where the space it explores is invariant.
        orthogonal_to: (m, n) orthonormal vectors to stay orthogonal to.
        stop: asked after each step with (T, b) whether that is enough.

    Returns:
        T (m, m) in float64 on the CPU, the last b (0.0 for an invariant subspace), and the basis (m, n).
    """
    fixed = start.new_zeros(0, len(start)) if orthogonal_to is None else orthogonal_to
    steps = min(steps, len(start) - len(fixed))
    basis = start.new_empty(steps, len(start))
    alphas: list[float] = []
    betas: list[float] = []
    vector, scale = _unit(_project(start, fixed)), 0.0
    for step in range(steps):
        basis[step] = vector
        image = operator(vector)
        alpha = float(image @ vector)
        if alpha != alpha:
            raise ValueError("a Hessian-vector product is NaN: the second derivative does not exist at this point")
        alphas.append(alpha)
        rest = _project(image, basis[: step + 1], fixed)
        beta = float(rest.norm())
        scale = max(scale, abs(alpha), beta)
        if beta <= max(1e-10, 10 * torch.finfo(start.dtype).eps * scale) or step + 1 == len(start) - len(fixed):
            beta = 0.0
        betas.append(beta)
        if beta == 0.0 or (stop and stop(_tridiagonal(alphas, betas), beta)):
            break
        vector = _unit(rest)
    return _tridiagonal(alphas, betas), betas[-1], basis[: len(alphas)]


def ritz_pairs(tridiagonal: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values (m,) in falling order, their residuals (m,), and their coordinates in the basis as columns (m, m)."""
    theta, weights = torch.linalg.eigh(tridiagonal)
    theta, weights = theta.flip(0), weights.flip(1)
    return theta, beta * weights[-1].abs(), weights


def value_settled(tridiagonal: Tensor, beta: float, tol: float) -> bool:
    """Whether the largest Ritz value is off by at most tol times the largest absolute one, as far as a run can tell.

    The bound r^2 / g takes g to the second Ritz value, which may rise by its residual. Eigenvalues that the run does
    not tell apart yet pass for one of small residual, but then their value still rises: the last step must not have
    added more than the tolerance.

    Args:
        tridiagonal: T (m, m).
        beta: the last b, 0 for an invariant subspace.
        tol: the tolerance.
    """
    if beta == 0 or len(tridiagonal) == 1:
        return beta == 0
    theta, residuals, _ = ritz_pairs(tridiagonal, beta)
    allowed, residual = tol * float(theta.abs().max()), float(residuals[0])
    gap = float(theta[0] - theta[1] - residuals[1])
    if residual > allowed and not residual**2 <= allowed * gap:
        return False
    return float(theta[0] - torch.linalg.eigvalsh(tridiagonal[:-1, :-1])[-1]) <= allowed


def _tridiagonal(alphas: list[float], betas: list[float]) -> Tensor:
    diagonal = torch.tensor(alphas, dtype=torch.float64).diag()
    off = torch.tensor(betas[: len(alphas) - 1], dtype=torch.float64)
    return diagonal + off.diag(1) + off.diag(-1) if len(off) else diagonal


def _project(vector: Tensor, *spaces: Tensor) -> Tensor:
    """`vector` without its components in each space; twice, since once leaves a remainder as large as rounding."""
    for space in (*spaces, *spaces):
        vector = vector - space.T @ (space @ vector)
    return vector


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()
