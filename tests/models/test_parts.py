"""Group normalisation in the residual networks, and networks seen as features and a linear layer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from flatlab.models import FeatureNet, available, build, stack_models, stackable, unstack

SMALL = {
    "mlp": {"widths": (8,)},
    "small_cnn": {"widths": (4, 4), "hidden": 8},
    "cnn7": {"width": 4, "hidden": 8},
    "preact_resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "widen": 1},
    "densenet": {"growth": 4, "hidden": 8},
    "resnext": {"width": 4, "hidden": 8},
}
RESNETS = ("preact_resnet18", "wide_resnet")
GROUPED = [(name, {**SMALL[name], "norm": "group"}) for name in RESNETS]
NETWORKS = [(name, SMALL[name]) for name in available()] + GROUPED
NETWORKS += [("wide_resnet", {**SMALL["wide_resnet"], "pooling": False, "hidden": 8}), ("mlp", {"widths": ()})]
every_network = pytest.mark.parametrize(("name", "options"), NETWORKS)


def network(name: str, options: dict, seed: int = 1) -> nn.Module:
    return build(name, (3, 16, 16), 5, seed=seed, options=options).double()


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@every_network
def test_the_parts_make_the_logits_of_the_whole(name: str, options: dict) -> None:
    model = network(name, options).eval()
    net, x = FeatureNet(model), images()
    features = net.featurizer(x)
    assert features.shape == (4, net.classifier.in_features)
    assert torch.equal(net.classifier(features), model(x))
    assert torch.equal(net(x), model(x))


@every_network
def test_parameters_and_buffers_are_shared_and_have_a_gradient(name: str, options: dict) -> None:
    model = network(name, options)
    net = FeatureNet(model)
    assert [id(p) for p in net.parameters()] == [id(p) for p in model.parameters()]
    assert [id(b) for b in net.buffers()] == [id(b) for b in model.buffers()]
    net(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    with torch.no_grad():
        net.classifier.bias += 1
    assert torch.equal(net.eval()(images()), model.eval()(images()))


@every_network
def test_a_state_can_be_kept_and_given_to_another(name: str, options: dict) -> None:
    first, second = (FeatureNet(network(name, options, seed)).eval() for seed in (1, 2))
    state = first.state_dict()
    assert {key.split(".")[0] for key in state} <= {"featurizer", "classifier"}
    assert not torch.equal(first(images()), second(images()))
    second.load_state_dict(state)
    assert torch.equal(first(images()), second(images()))
    assert list(FeatureNet(first).state_dict()) == list(state), "seen as parts twice is the same as once"


@every_network
def test_the_graph_of_the_parts_holds_for_other_batches(name: str, options: dict) -> None:
    net = FeatureNet(network(name, options)).eval()
    graph = torch.export.export(net, (images(3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    torch.testing.assert_close(graph.module()(images(7)), net(images(7)))


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "cnn7"])
def test_a_network_can_still_be_stacked_after_it_was_seen_as_parts(name: str) -> None:
    models = [network(name, SMALL[name], seed).eval() for seed in (1, 2)]
    expected = torch.cat([model(images()) for model in models])
    for model in models:
        FeatureNet(model)
    assert stackable(models[0])
    stacked = stack_models(models)
    torch.testing.assert_close(stacked(images().repeat(2, 1, 1, 1)), expected)
    torch.testing.assert_close(unstack(stacked, models[0])[1](images()), expected[4:])


def test_modes_of_the_layers_stay_as_they_are() -> None:
    model = network("cnn7", SMALL["cnn7"]).train()
    frozen = next(layer for layer in model if isinstance(layer, nn.BatchNorm2d)).eval()
    net = FeatureNet(model)
    assert (net.training, net.featurizer.training, frozen.training) == (True, True, False)
    assert not FeatureNet(model.eval()).featurizer.training
    assert not FeatureNet(model).training


def test_nested_chains_and_networks_with_both_parts() -> None:
    inner = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3)))
    model, x = nn.Sequential(nn.Flatten(), inner), torch.rand(5, 1, 2, 3)
    net = FeatureNet(model)
    assert net.classifier is inner[2][1]
    assert torch.equal(net(x), model(x))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.featurizer, self.classifier = nn.Flatten(), nn.Linear(6, 3)

    own = Own()
    assert FeatureNet(own).classifier is own.classifier
    assert FeatureNet(own).featurizer is own.featurizer
    alone = nn.Linear(6, 3)
    assert torch.equal(FeatureNet(alone)(x.flatten(1)), alone(x.flatten(1)))


class Doubled(nn.Sequential):
    """A chain in name: its forward is another one."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Half(nn.Module):
    """Has a classifier, which is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.featurizer, self.classifier = nn.Flatten(), nn.ReLU()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "^no .classifier: Sequential ends with ReLU, not with nn.Linear"),
        (Half(), "^no .classifier: Half ends with ReLU"),
        (nn.Bilinear(2, 2, 2), "^no .featurizer and .classifier: Bilinear has neither"),
        (Doubled(nn.Linear(2, 2)), "^no .featurizer and .classifier: Doubled has neither"),
        (nn.Sequential(), "^no .featurizer and .classifier: Sequential has neither"),
        (nn.Sequential(nn.Linear(2, 2), Doubled(nn.Linear(2, 2))), "^no .classifier: Sequential ends with Doubled"),
    ],
    ids=["no linear layer", "own", "no chain", "own forward", "empty", "own forward inside"],
)
def test_what_is_missing_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        FeatureNet(model)


@pytest.mark.parametrize(("name", "options"), GROUPED)
def test_with_group_norm_an_image_does_not_see_its_batch(name: str, options: dict) -> None:
    grouped, batched = network(name, options).train(), network(name, SMALL[name]).train()
    x = images()
    torch.testing.assert_close(grouped(x[:1]), grouped(x)[:1])
    assert not torch.allclose(copy.deepcopy(batched)(x[:1]), batched(x)[:1])
    assert torch.equal(grouped(x), grouped.eval()(x))
    assert not list(grouped.buffers()) or all("mean" in key or "std" in key for key, _ in grouped.named_buffers())


@pytest.mark.parametrize("name", RESNETS)
def test_norms_differ_in_the_norm_alone(name: str) -> None:
    def layers(model: nn.Module) -> list[type]:
        return [type(layer) for layer in model.modules()]

    plain, batched, grouped = (
        network(name, {**SMALL[name], **norm}) for norm in ({}, {"norm": "batch"}, {"norm": "group"})
    )
    assert torch.equal(plain(images()), batched(images()))
    assert nn.BatchNorm2d in layers(plain)
    assert [nn.GroupNorm if kind is nn.BatchNorm2d else kind for kind in layers(plain)] == layers(grouped)
    for one, two in zip(plain.parameters(), grouped.parameters(), strict=True):
        assert torch.equal(one, two), "the same initial weights"


def test_groups_divide_the_channels() -> None:
    for width, groups in ((4, 4), (8, 8), (12, 4), (3, 1), (64, 8)):
        with torch.device("meta"):
            model = build("preact_resnet18", (3, 16, 16), 5, options={"width": width, "norm": "group"})
        first = next(layer for layer in model.modules() if isinstance(layer, nn.GroupNorm))
        assert (first.num_groups, first.num_channels) == (groups, width)


@pytest.mark.parametrize("name", RESNETS)
def test_an_unknown_norm_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="unknown norm 'groups': choose one of batch, group; did you mean 'group'"):
        network(name, {"norm": "groups"})
