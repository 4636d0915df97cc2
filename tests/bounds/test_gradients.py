"""Gradients of what bounds are made of, and that computing without them changes nothing."""

import torch
from torch import Tensor, nn

from flatlab.bounds import Bounds, LpBall, Program
from flatlab.bounds.interval_linear import interval_linear
from flatlab.bounds.softmax import log_softmax_interval


def test_log_softmax_of_points_has_the_gradient_of_log_softmax() -> None:
    """Also where the others are as good as one of them alone, and rounding decides whether their sum exceeds it."""
    x = torch.randn(200, 4, dtype=torch.float64)
    x[:, 3] -= 60
    x[:, :3] *= torch.tensor([1.0, 10.0]).repeat(100)[:, None]
    x.requires_grad_()
    weight = torch.randn(4, dtype=torch.float64)
    wanted = torch.autograd.grad((x.log_softmax(1) @ weight).sum(), x)[0]
    for end in log_softmax_interval(x, x, 1):
        torch.testing.assert_close(torch.autograd.grad((end @ weight).sum(), x)[0], wanted)


def test_intervals_are_the_same_with_and_without_gradients() -> None:
    """Absolute weights share one piece of memory where no gradient needs them."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 40), Scaled(40))
    x = torch.rand(2, 1, 6, 6)
    program = Program(model, x)

    def all_intervals() -> list[Tensor]:
        found = Bounds(program, x, LpBall(x, 0.1)).intervals.by("ibp")
        return [end.detach().clone() for box in found.values() for end in (box.low, box.high)]

    with torch.no_grad():
        without = all_intervals()
    for a, b in zip(all_intervals(), without, strict=True):
        assert torch.equal(a, b)


def test_intervals_behind_a_linear_layer_have_first_and_second_derivatives() -> None:
    double = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    arguments = double(2, 3, 4), double(2, 3, 4), double(5, 4), double(5)
    assert torch.autograd.gradcheck(interval_linear, arguments)
    assert torch.autograd.gradgradcheck(interval_linear, arguments)
    assert torch.autograd.gradcheck(lambda c, r, w: interval_linear(c, r, w, None), arguments[:3])
    low, weight = torch.rand(3, 4), torch.randn(5, 4)
    center, radius = interval_linear(low, low / 2, weight, None)
    torch.testing.assert_close(center, low @ weight.T)
    torch.testing.assert_close(radius, low @ weight.abs().T / 2)


class Scaled(nn.Module):
    """Times a weight of each number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight
