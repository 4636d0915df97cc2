"""Eigenvalues of games against whole Jacobians and closed forms, and the field against plain gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flatlab.gan import Game, game_eigenvalues, leading_eigenvalues


def small_game(width: int = 5, seed: int = 0) -> Game:
    """A GAN on eight points of the plane, with the loss that does not saturate."""
    torch.manual_seed(seed)
    d = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1)).double()
    g = nn.Sequential(nn.Linear(3, width), nn.LeakyReLU(0.2), nn.Linear(width, 2)).double()
    x, z = torch.randn(8, 2).double() + 1, torch.randn(8, 3).double()

    def loss_d(d, g) -> Tensor:
        return nn.functional.softplus(-d(x)).mean() + nn.functional.softplus(d(g(z))).mean()

    def loss_g(d, g) -> Tensor:
        return nn.functional.softplus(-d(g(z))).mean()

    return Game(d, g, loss_d, loss_g)


def dense(field, point: Tensor, scale: Tensor | float = 1.0) -> np.ndarray:
    """All eigenvalues, by falling real part, of a Jacobian built by reverse differentiation."""
    jacobian = torch.autograd.functional.jacobian(field, point)
    values = np.linalg.eigvals((torch.as_tensor(scale) * jacobian.T).T.numpy())
    return values[np.argsort(-values.real, kind="stable")]


def linear(values: Tensor, seed: int = 0):
    """A linear field with pairs of eigenvalues of real and imaginary parts (B, 2), whose vectors are not orthogonal."""
    matrix = torch.block_diag(*(torch.tensor([[real, part], [-part, real]]).double() for real, part in values.tolist()))
    size = len(matrix)
    mix = torch.eye(size) + 0.3 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) / size**0.5
    matrix = mix.double() @ matrix @ torch.linalg.inv(mix.double())
    return lambda z: matrix @ z, torch.zeros(size, dtype=torch.float64)


def same(got: Tensor, wanted: object, tol: float = 1e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=torch.complex128), rtol=tol, atol=tol)


def test_the_field_is_what_the_players_would_follow() -> None:
    game = small_game()
    got = game.field(game.point)
    d, g = game.discriminator, game.generator
    down_d = torch.autograd.grad(game.loss_d(d, g), list(d.parameters()))
    down_g = torch.autograd.grad(game.loss_g(d, g), list(g.parameters()))
    wanted = -torch.cat([part.flatten() for part in (*down_d, *down_g)])
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_the_field_moves_with_its_point_and_leaves_the_players_alone() -> None:
    game = small_game()
    point = game.point
    assert not point.requires_grad
    moved = point + 0.1
    there = game.field(moved)
    assert torch.equal(game.point, point)
    assert all(p.grad is None for p in (*game.discriminator.parameters(), *game.generator.parameters()))
    torch.nn.utils.vector_to_parameters(moved, [*game.discriminator.parameters(), *game.generator.parameters()])
    torch.testing.assert_close(game.field(game.point), there, rtol=1e-12, atol=1e-14)


def test_rates_belong_to_their_players() -> None:
    game = small_game()
    rates = game.rates(3.0, 0.5)
    size = sum(p.numel() for p in game.discriminator.parameters())
    assert rates.shape == game.point.shape
    assert (rates[:size] == 3).all()
    assert (rates[size:] == 0.5).all()


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0, 10.0])
def test_quadratic_game(tau: float) -> None:
    a, b, c = 1.0, 2.0, 0.5

    class Number(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.value * x

    one = torch.tensor(1.0)

    def payoff(d, g) -> Tensor:
        w, theta = d(one), g(one)
        return -a / 2 * theta**2 + b * theta * w - c / 2 * w**2

    game = Game(Number(0.3), Number(-0.7), lambda d, g: -payoff(d, g), payoff)
    values = leading_eigenvalues(game.field, game.point, k=2, scale=game.rates(tau, 1.0))
    same(values, game_eigenvalues(a, b, c, tau), 1e-12)


@pytest.mark.parametrize("width", [5, 64])  # 53 parameters: the whole Jacobian; 643: Arnoldi
@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_a_gan_against_its_whole_jacobian(width: int, ratio: float) -> None:
    game = small_game(width)
    scale = game.rates(ratio, 1.0)
    wanted = dense(game.field, game.point, scale)
    got = leading_eigenvalues(game.field, game.point, k=3, scale=scale)
    assert got.shape == (3,)
    assert got.real.tolist() == pytest.approx(wanted[:3].real.tolist(), rel=1e-5, abs=1e-8)
    got = leading_eigenvalues(game.field, game.point, k=2, which="LM", scale=scale)
    assert got.abs().tolist() == pytest.approx(sorted(abs(wanted))[:-3:-1], rel=1e-5)


def test_ends_of_a_known_spectrum() -> None:
    parts = torch.zeros(220, 2).double()
    parts[:, 0] = -torch.linspace(0.5, 3, 220)
    parts[:3] = torch.tensor([[0.5, 2.0], [0.2, 0.0], [-9.0, 1.0]])
    field, point = linear(parts)
    assert len(point) == 440
    same(leading_eigenvalues(field, point, k=4), [0.5 + 2j, 0.5 - 2j, 0.2, 0.2], 1e-5)
    same(leading_eigenvalues(field, point, k=1), [0.5 + 2j], 1e-5)
    same(leading_eigenvalues(field, point, k=2, which="LM"), [-9 + 1j, -9 - 1j])
    same(leading_eigenvalues(field, point, k=2, scale=torch.tensor(-2.0)), [18 + 2j, 18 - 2j])


def test_seeds_change_nothing_but_rounding() -> None:
    game = small_game(64)
    first, again, other = (leading_eigenvalues(game.field, game.point, k=3, seed=seed) for seed in (0, 0, 1))
    same(again, first, 1e-11)
    same(other, first, 1e-5)


def test_a_search_that_does_not_end_says_so() -> None:
    field, point = linear(torch.stack([torch.linspace(-1, 0, 300).double(), torch.zeros(300).double()], 1))
    with pytest.raises(RuntimeError, match=r"of 21 eigenvalues in 1 restarts of 84 vectors; raise max_products"):
        leading_eigenvalues(field, point, k=20, tol=1e-12, max_products=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": "SR"}, "unknown which 'SR'"),
        ({"k": 0}, "k must be an integer >= 1, got 0"),
        ({"k": 54}, r"k must be at most P .* got k=54 and shape \(53,\)"),
        ({"tol": 0.0}, "tol must be a finite number > 0"),
        ({"max_products": 0}, "max_products must be an integer >= 1"),
        ({"scale": float("inf")}, "scale \\* field must be finite"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict, message: str) -> None:
    game = small_game()
    assert len(game.point) == 53
    with pytest.raises(ValueError, match=message):
        leading_eigenvalues(game.field, game.point, **options)


def test_fields_that_do_not_fit_are_refused() -> None:
    point = torch.ones(4, dtype=torch.float64)
    for field in (lambda z: z[:3], lambda z: z / 0):
        with pytest.raises(ValueError, match=r"must be finite, of shape \(4,\)"):
            leading_eigenvalues(field, point, k=2)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        leading_eigenvalues(lambda z: z, point.view(2, 2))
