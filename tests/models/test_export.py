"""Every network that maps inputs to logits can be captured as a graph that holds for batches of any size."""

import warnings

import pytest
import torch

from flatlab.models import available, build

SMALL = {
    "mlp": {"widths": (8,)},
    "small_cnn": {"kernel": 3, "strides": (1, 2), "widths": (4, 4), "hidden": 8},
    "cnn7": {"width": 4, "hidden": 8},
    "preact_resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "widen": 1, "pooling": False, "hidden": 8},
    "densenet": {"growth": 4, "hidden": 8},
    "resnext": {"width": 4, "hidden": 8},
}
SENTENCES = [(name, {}) for name in available("sentence")] + [
    ("text_transformer", {"norm": "full", "pooling": "first", "layers": 2}),
    ("text_lstm", {"pooling": "last"}),
]
CASES = [(name, (3, 16, 16), SMALL[name]) for name in available()] + [("mlp", (2,), {"fourier": 4})]
CASES += [(name, (6, 8), {"vocabulary": 20, **options}) for name, options in SENTENCES]


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_a_captured_graph_holds_for_other_batches_and_leaves_the_model_alone(name, shape, options) -> None:
    model = build(name, shape, 5, seed=1, options=options).eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes self.lstm._flat_weights")
        graph = torch.export.export(model, (torch.rand(3, *shape),), dynamic_shapes=dynamic)
    x = torch.rand(7, *shape)
    torch.testing.assert_close(graph.module()(x), model(x))
    assert "dropout" not in str(graph.graph)
    fresh = build(name, shape, 5, seed=1, options=options).eval()
    with torch.no_grad():
        for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
            one.mul_(1.5)
            two.mul_(1.5)
    assert torch.equal(model(x), fresh(x))
