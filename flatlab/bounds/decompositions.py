"""Operators without a rule, and what torch itself makes them of."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from flatlab.bounds.expansions import EXPANSIONS
from flatlab.bounds.nodes import Node
from flatlab.bounds.rules import RULES

CONSTANT = (
    "clean", "sym_size", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
)  # fmt: skip
"""Operators that no perturbation passes through."""


def without_rule(nodes: Sequence[Node], inputs: Iterable[int]) -> set[Any]:
    """The operators that depend on some inputs and have no rule.

    Args:
        nodes: in topological order.
        inputs: the nodes of the inputs that may be perturbed.
    """
    hot = set(inputs)
    found = set()
    for index, node in enumerate(nodes):
        if node.key not in CONSTANT and any(i in hot for i in node.inputs):
            hot.add(index)
            if node.key not in RULES:
                found.add(node.op)
    return found


def decompose(exported: Any, operators: set[Any]) -> Any:
    """An exported program in which operators are replaced by those that torch makes them of, where it knows.

    Args:
        exported: the program.
        operators: that are replaced, and with them all others for which there is neither rule nor expansion.
    """
    known = torch.export.default_decompositions()
    named = lambda op: op.overloadpacket.__name__  # noqa: E731
    taken = {op: known[op] for op in known if op in operators or named(op) not in (*RULES, *EXPANSIONS, *CONSTANT)}
    return exported.run_decompositions(taken)
