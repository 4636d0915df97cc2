"""The spectrum of a game: whether two players with given rates can settle at a point.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", section 2. The
players follow the flow z' = s * F(z) of z = (w, theta), product by element, with

    F(z) = (-grad_w L_D(w, theta), -grad_theta L_G(w, theta))         s = (rates of D, rates of G)

The flow is locally attracted to a stationary point if every eigenvalue of its Jacobian s F'(z) has a negative real
part; one with a positive real part and the pair of rates cannot settle there. F' is not symmetric, and it is large: its
products with vectors come from forward over reverse differentiation, its extreme eigenvalues from the Arnoldi method.

Training stops at no stationary point of a real game. The eigenvalues then say how the field changes around the point:
the growth of a small difference between two runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flatlab import checks

Field = Callable[[Tensor], Tensor]
Player = Callable[[Tensor], Tensor]
Loss = Callable[[Player, Player], Tensor]
_DENSE = 300  # up to this size the whole Jacobian costs less than the search


@dataclass(frozen=True, eq=False)
class Game:
    """Two networks and their losses as one vector field.

    Networks must compute without randomness and without batch statistics. Use float64: eigenvalues near zero decide.

    Attributes:
        discriminator, generator: the players; they are left as they are.
        loss_d, loss_g: map (D, G), two functions of a batch, to a scalar. What they need of data and latent vectors
            is theirs and stays the same from call to call.
    """

    discriminator: nn.Module
    generator: nn.Module
    loss_d: Loss
    loss_g: Loss

    @property
    def point(self) -> Tensor:
        """The parameters now, the discriminator's first: (P,)."""
        return torch.cat([p.detach().flatten() for player in self._players for p in player.parameters()])

    def rates(self, lr_d: float, lr_g: float) -> Tensor:
        """(P,): `lr_d` for each parameter of the discriminator, `lr_g` for each of the generator."""
        pair = zip(self._players, (lr_d, lr_g), strict=True)
        return torch.cat([torch.full_like(p, lr).flatten() for player, lr in pair for p in player.parameters()])

    def field(self, point: Tensor) -> Tensor:
        """F (P,) at `point` (P,): what each player would follow with rate one."""
        parts = iter(point.split([p.numel() for player in self._players for p in player.parameters()]))
        w, theta = ({k: next(parts).view_as(p) for k, p in player.named_parameters()} for player in self._players)

        def descent(loss: Callable[[dict[str, Tensor]], Tensor], own: dict[str, Tensor]) -> list[Tensor]:
            return [-gradient.flatten() for gradient in torch.func.grad(loss)(own).values()]

        d, g = self._players
        field_d = descent(lambda own: self.loss_d(_with(d, own), _with(g, theta)), w)
        field_g = descent(lambda own: self.loss_g(_with(d, w), _with(g, own)), theta)
        return torch.cat(field_d + field_g)

    @property
    def _players(self) -> tuple[nn.Module, nn.Module]:
        return self.discriminator, self.generator


def leading_eigenvalues(
    field: Field,
    point: Tensor,
    *,
    k: int = 6,
    which: str = "LR",
    scale: Tensor | None = None,
    seed: int = 0,
    tol: float = 1e-6,
    max_products: int = 5000,
) -> Tensor:
    """Eigenvalues at one end of the spectrum of the Jacobian of scale * field at a point.

    Args:
        field: differentiable, (P,) to (P,), computed by operations that `torch.func` knows; such as `Game.field`.
        point: (P,), float64 for values near zero that can be believed.
        k: how many.
        which: "LR", those with the largest real part; or "LM", with the largest modulus.
        scale: (P,) or a number, by which the field is multiplied: rates, or Adam's rates over the root of its second
            moment. None is one.
        seed: of the vector that the search starts from; the same seed gives the same values but for rounding, which
            depends on where in memory the vectors lie.
        tol: error allowed, relative to the eigenvalue.
        max_products: Jacobian-vector products to spend, roughly, before giving up.

    Returns:
        (k,) complex128 on the CPU, by falling real part ("LR") or modulus ("LM"). Complex ones come in pairs, the one
        with the positive imaginary part first; the last may be half of a pair.

    Raises:
        ValueError: a number out of bounds, shapes that do not fit, a field that is not finite.
        RuntimeError: not found within `max_products`; raise it, or ask for fewer.
    """
    checks.one_of("which", which, ("LR", "LM"))
    checks.positive("tol", tol)
    checks.at_least("max_products", max_products, 1)
    size = len(point) if point.ndim == 1 else 0
    if checks.at_least("k", k, 1) > size:
        raise ValueError(f"k must be at most P for a point (P,), got k={k} and shape {tuple(point.shape)}")
    factor = torch.ones_like(point) if scale is None else torch.as_tensor(scale).to(point).expand_as(point)
    here = field(point)
    if here.shape != point.shape or not bool((here * factor).isfinite().all()):
        raise ValueError(f"scale * field must be finite, of shape {tuple(point.shape)}; got shape {tuple(here.shape)}")

    def product(vector: Tensor) -> Tensor:
        return factor * torch.func.jvp(field, (point,), (vector,))[1]

    if size <= max(_DENSE, k + 3):
        columns = torch.vmap(product)(torch.eye(size, dtype=point.dtype, device=point.device))
        values = torch.linalg.eigvals(columns.T.double().cpu())
    else:
        values = _arnoldi(product, point, k, which, seed, tol, max_products)
    rank = values.real if which == "LR" else values.abs()
    # Rounding parts a pair's real parts or moduli, which would leave its order to chance.
    digits = rank.abs().max().clamp(min=1e-300) * 1e-10
    order = sorted(range(len(values)), key=lambda i: (-float((rank[i] / digits).round()), -float(values[i].imag)))
    return values[torch.tensor(order[:k])]


def _with(module: nn.Module, parameters: dict[str, Tensor]) -> Player:
    """The module as a function that computes with the given parameters instead of its own."""
    return lambda x: torch.func.functional_call(module, parameters, (x,))


def _arnoldi(
    product: Callable[[Tensor], Tensor], like: Tensor, k: int, which: str, seed: int, tol: float, max_products: int
) -> Tensor:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs  # here: the room needs torch alone

    def matvec(vector: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(vector.reshape(-1).copy()).to(like)).double().cpu().numpy()

    size = len(like)
    operator = LinearOperator((size, size), matvec=matvec, dtype="float64")
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    count = k + 1  # one more than asked for, so that no pair is parted at the end
    # A game's spectrum is crowded near zero: a basis larger than ARPACK's own saves products.
    basis = min(size, max(60, 4 * count))
    restarts = max(1, max_products // (basis - count))
    try:
        values = eigs(
            operator, count, which=which, v0=start, ncv=basis, tol=tol, maxiter=restarts, return_eigenvectors=False
        )
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"found {len(error.eigenvalues)} of {count} eigenvalues in {restarts} restarts of {basis} vectors; "
            "raise max_products, or ask for fewer"
        ) from error
    return torch.from_numpy(values)
