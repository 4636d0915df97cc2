"""Train and eval mode of a module: measure in eval mode, and leave every submodule as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Switch `model` to eval mode, and restore the flag of each submodule on the way out, also after an error."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in flags:
            module.training = training


def require_eval(model: nn.Module) -> None:
    """Raise RuntimeError if a layer whose output depends on the batch or on chance is in train mode.

    In train mode BatchNorm lets the samples of a batch see each other, and Dropout makes a measurement random.
    """
    for name, module in model.named_modules():
        batchwise = isinstance(module, _BatchNorm | _DropoutNd) or getattr(module, "depends_on_batch", False)
        if module.training and batchwise:
            raise RuntimeError(
                f"layer {name or 'model'!r} ({type(module).__name__}) is in train mode: call model.eval() first, "
                "or wrap the call in flatlab.modes.evaluating(model)"
            )
