"""What parameter groups of every optimizer here obey: options that later versions added, and which parameters fit."""

from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks


def fill_options(optimizer: Optimizer) -> None:
    """Give groups that were unpickled or loaded the options that they lack, with their defaults.

    torch adds `differentiable` to the defaults then, from where it spread into groups; no group here has that option.
    """
    optimizer.defaults.pop("differentiable", None)
    for group in optimizer.param_groups:
        group.pop("differentiable", None)
        for name, value in optimizer.defaults.items():
            group.setdefault(name, value)


def check_once(params: list[Tensor]) -> None:
    """Raise ValueError if a parameter of a group is given twice, for it would be moved twice; torch only warns."""
    first: dict[int, int] = {}
    for index, p in enumerate(params):
        if first.setdefault(id(p), index) != index:
            raise ValueError(
                f"parameters {first[id(p)]} and {index} of the group are one tensor, given twice: give it once, as "
                "model.parameters() does for tied weights"
            )


def check_stacked(params: list[Tensor], networks: int | None) -> None:
    """Raise ValueError unless every parameter stacks `networks` networks along dimension 0; None asks for nothing."""
    if networks is None:
        return
    for index, p in enumerate(params):
        if p.ndim == 0 or p.shape[0] != networks:
            raise ValueError(f"networks={networks}, but parameter {index} of the group has shape {tuple(p.shape)}")
    checks.at_least("networks", networks, 1)
