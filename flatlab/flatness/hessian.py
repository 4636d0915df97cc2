"""The Hessian of a landscape as a linear operator, by differentiating twice.

    H v = d/dw ( grad L(w) . v )            at the landscape's point (Pearlmutter 1994)

The graph of the gradient is built once and lives no longer than the operator; a landscape of several functions
rebuilds it for one function at a time instead. PyHessian keeps that graph inside `.grad`, where nothing frees it.
Networks of ReLUs are piecewise linear: this Hessian is that of the loss through the linear pieces.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flatlab.flatness.landscape import Function, Landscape, Point, finite


def hvp(landscape: Landscape, vector: Tensor | Sequence[Tensor]) -> Point:
    """The product of the Hessian at the landscape's point with `vector`, shaped like the point."""
    product = Hessian(landscape) @ flatten(landscape.direction(vector))
    return unflatten(product, landscape.point)


class Hessian:
    """The Hessian at a landscape's point: `hessian @ v` for flat vectors v (n,). Costs two backward passes a product.

    Raises:
        ValueError: if the landscape is not finite at its point, or does not depend on it.
    """

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        self.size = landscape.size
        if len(landscape.functions) > 1:
            landscape.home()
            self._kept = None
        else:
            value, self._kept = self._gradient(landscape.functions[0])
            finite(float(value.detach()))

    def __matmul__(self, vector: Tensor) -> Tensor:
        pieces = unflatten(vector, self.landscape.point)
        if self._kept is not None:
            return self._product(*self._kept, pieces)
        total = torch.zeros_like(vector)
        for function in self.landscape.functions:
            total.add_(self._product(*self._gradient(function)[1], pieces), alpha=1 / len(self.landscape.functions))
        return total

    def _gradient(self, function: Function) -> tuple[Tensor, tuple[Point, Point]]:
        """The value of a function, and its gradient with the leaves that it was taken at."""
        leaves = tuple(tensor.detach().requires_grad_() for tensor in self.landscape.point)
        value, gradient = self.landscape.differentiate(function, leaves, create_graph=True)
        return value, (leaves, gradient)

    def _product(self, leaves: Point, gradient: Point, vector: Point) -> Tensor:
        # Where the function is linear in a tensor, its gradient is a constant and has no graph.
        curved = [(g, v) for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
        if not curved:
            return torch.zeros_like(flatten(vector))
        outputs, weights = zip(*curved, strict=True)
        kept = self._kept is not None
        return flatten(torch.autograd.grad(outputs, leaves, weights, retain_graph=kept, materialize_grads=True))


def flatten(point: Sequence[Tensor]) -> Tensor:
    """The coordinates of a point as one vector (n,)."""
    return torch.cat([tensor.reshape(-1) for tensor in point])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> Point:
    """A vector (n,) as tensors shaped like those of `like`."""
    pieces = vector.split([tensor.numel() for tensor in like])
    return tuple(piece.reshape(tensor.shape) for piece, tensor in zip(pieces, like, strict=True))
