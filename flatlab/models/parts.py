"""A classifier seen as two parts: features (N, d), and the linear layer that makes logits of them.

What is measured at the last layer alone (per-sample gradients, covariances of features) needs the features, and every
image network of `build` ends with a linear layer that can be told from the rest.
"""

from torch import Tensor, nn


class FeatureNet(nn.Module):
    """Logits = classifier(featurizer(x)), with the very layers of `model`: training one trains the other.

    The names in the `state_dict` depend on the architecture alone; they are not those of `model`. A network that has
    both parts already is taken at its word. Modes of the layers stay as they are.

    Attributes:
        featurizer: (N, ...) -> (N, d).
        classifier: the last `nn.Linear`, (N, d) -> (N, classes).

    Args:
        model: a chain of layers (`nn.Sequential`, nested or not) whose last one is an `nn.Linear`, or a network with
            the two attributes.

    Raises:
        TypeError: there is no such layer.
    """

    featurizer: nn.Module
    classifier: nn.Linear

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        featurizer, classifier = (getattr(model, name, None) for name in ("featurizer", "classifier"))
        if not (isinstance(featurizer, nn.Module) and isinstance(classifier, nn.Module)):
            layers = _layers(model)
            featurizer, classifier = nn.Sequential(*layers[:-1]), layers[-1]
            featurizer.training = model.training  # not train(), which would wake layers that were frozen in eval mode
        if not isinstance(classifier, nn.Linear):
            raise TypeError(
                f"no .classifier: {type(model).__name__} ends with {type(classifier).__name__}, not with nn.Linear; "
                "let a linear layer be the last of an nn.Sequential, or give the network .featurizer and .classifier"
            )
        self.featurizer, self.classifier = featurizer, classifier
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a chain, its last one opened if it is a chain itself; TypeError for a network of another kind."""
    layers = [model]
    while isinstance(layers[-1], nn.Sequential) and type(layers[-1]).forward is nn.Sequential.forward and layers[-1]:
        layers[-1:] = list(layers[-1])
    if len(layers) == 1 and layers[0] is model and not isinstance(model, nn.Linear):
        raise TypeError(
            f"no .featurizer and .classifier: {type(model).__name__} has neither both of them nor layers in an "
            "nn.Sequential to take them from; give it a .featurizer, x -> (N, d), and a .classifier, an nn.Linear"
        )
    return layers
