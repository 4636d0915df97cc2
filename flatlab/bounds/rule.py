"""What a rule says of an operator: how intervals and linear functions pass through it.

    affine      z' = J z + c     backward: A' = A J by vmap(vjp), no code per operator; interval: J c -+ |J| r
    pointwise   al z + bl <= f(z) <= au z + bu     backward: A' = A+ al + A- au
    bilinear    McCormick's planes: f(x, y) >= f(x, y_l) + f(x_l, y) - f(x_l, y_l), and likewise above with y_u
    reduction   max: z_j of the largest lower end below, and above the largest upper end (or z_j if it dominates)

Only lower bounds are propagated backward: the upper bound of C f is minus the lower one of -C f. A+ and A- are the
positive and the negative part of A, whose shape is (S, *shape of the node): S rows for each sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Site
from flatlab.bounds.rows import Rows

Bound = tuple[list[Tensor], Tensor | float]
"""Coefficients for each hot input, and a constant (S, B)."""

MANY_ROWS = torch.channels_last
"""The memory order in which convolutions of many rows are fastest on a CPU."""


class Rule:
    """How bounds pass through an operator."""

    kind = ""
    slots = 1  # how many of the first arguments may depend on what is perturbed
    by_sign = False  # whether an input whose sign is known needs no relaxation, so that no better interval would help
    exact_on_boxes = False  # whether its interval is the best there is where its only perturbed argument is a box

    def relaxes(self, site: Site) -> bool:
        """Whether linear bounds depend on intervals: the operator is not affine in what is perturbed."""
        return True

    def needs(self, site: Site) -> bool:
        """Whether bounds become tighter as the intervals of the inputs do."""
        return True

    def settled(self, site: Site) -> bool:
        """Whether no backward pass can improve on `interval`."""
        return False

    def check(self, site: Site) -> None:
        """Raise UnsupportedOperator where the rule does not hold: of options, or of arguments that are perturbed."""
        if any(index in site.hot for index in site.node.beyond(self.slots)):
            raise UnsupportedOperator(
                f"{site.node} depends on what is perturbed by an argument that has no rule; only its first "
                f"{self.slots} may"
            )

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        """The operator's interval from those of its hot inputs."""
        raise NotImplementedError

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        """A lower bound of <a, z> as a function of the hot inputs.

        Args:
            a: coefficients (S, *shape of z).
            x: intervals of the hot inputs.
            alpha: what is free in the relaxation, (k, S, *shape of z) in [0, 1]; None for the default.
        """
        raise NotImplementedError

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        """Linear bounds of z from those of the hot inputs.

        Args:
            x: intervals of the hot inputs.
            lines: their linear bounds.
        """
        raise NotImplementedError

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        """What alpha is to begin with, (2, *shape); None if nothing is free."""
        return None

    def merge(self, site: Site, rows: Rows, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """Linear functions of the operator's value as functions of its input: coefficients (S, B, M), constants (S, B).

        Args:
            rows: the functions.
            shape: of the operator's value.

        Returns:
            None where there is no way that is quicker than `backward`.
        """
        return None
