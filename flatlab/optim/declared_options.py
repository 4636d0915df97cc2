"""Options of a family of optimizers, stated once: a class adds its own to those of its base, or changes defaults."""

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

from torch.optim import Optimizer

T = TypeVar("T", bound=Optimizer)


@dataclass_transform(eq_default=False)
def declared_options(cls: type[T]) -> type[T]:
    """Class decorator: annotated names of the class are its options, the arguments of its constructor.

    They are inherited as the fields of a dataclass are, and the constructor hands them to `__post_init__` as attributes
    that it must take away (`take_options`): the values that count are those in the parameter groups, which may differ
    from group to group and change from step to step, so an optimizer has no attribute of that name.
    """
    made = dataclasses.dataclass(eq=False, repr=False)(cls)
    for name in inspect.get_annotations(made):
        if name in vars(made):
            delattr(made, name)  # the default; the constructor keeps it
    return made


def take_options(optimizer: Optimizer) -> dict[str, Any]:
    """The options that the constructor has just set, by name, no longer attributes of the optimizer."""
    return {field.name: vars(optimizer).pop(field.name) for field in dataclasses.fields(optimizer)}  # type: ignore[arg-type]
