"""Trainings of 06: who trains on what, with which options, and how accuracies are put together."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from flatlab import dg
from flatlab.data import DataNotFound
from flatlab.studies.domain_generalization import worlds
from flatlab.studies.domain_generalization.worlds import Method, Task, Trained


def domain(name: str, *, size: int = 200, scale: int = 256) -> dg.Domain:
    g = torch.Generator().manual_seed(len(name))
    x = torch.randint(scale, (size, 1, 4, 4), generator=g, dtype=torch.uint8)
    return dg.Domain(x, torch.arange(size) % 2, name, ("no", "yes"))


@pytest.fixture
def calls(monkeypatch) -> list[tuple[tuple, dict]]:
    """The trainings that are asked for, none of which is made."""
    found: list[tuple[tuple, dict]] = []
    monkeypatch.setattr(worlds.dg, "train_domains", lambda *args, **kwargs: found.append((args, kwargs)))
    return found


def run(iid: dict[str, float], last: dict[str, float], *, val: float = 0.5, seed: int = 0) -> dg.RunResult:
    """A training that ended with these accuracies."""
    chosen = {
        rule: dg.Selection(1, val + (rule == "last"), 0.0, nn.Linear(1, 1), accuracies)
        for rule, accuracies in (("iid", iid), ("last", last))
    }
    return dg.RunResult("ERM", seed, ("s",), tuple(iid), chosen, [], None, None)


def of_one_target(**accuracies: list[float]) -> Trained:
    runs = {(label, s): [run({"t": a}, {"t": 1 - a})] for label, of in accuracies.items() for s, a in enumerate(of)}
    return Trained(Task("rotated", (("s",),)), tuple(range(len(next(iter(accuracies.values()))))), {}, runs)


def test_pixels_are_those_of_all_sources_between_0_and_1() -> None:
    domains = {name: domain(name, scale=s) for name, s in (("a", 256), ("bb", 40), ("ccc", 256))}
    together = np.concatenate([domains[name].x.numpy().ravel() for name in ("a", "bb")]) / 255
    mean, sd = worlds.pixels(domains, ["a", "bb"])
    assert mean == pytest.approx(together.mean())
    assert sd == pytest.approx(together.std(), rel=1e-3)
    floats = {name: dataclasses.replace(one, x=one.x.float() / 255) for name, one in domains.items()}
    assert worlds.pixels(floats, ["a", "bb"]) == pytest.approx((mean, sd), rel=1e-5)


def test_the_length_of_a_perturbation_is_scaled_once_and_only_where_there_is_one(task, calls) -> None:
    methods = {"E": Method("ERM", 0.1), "S": Method("SAM", 0.1, {"rho": 0.2}), "U": Method("UDIM", 0.1, {"rho_x": 3.0})}
    for _ in range(2):
        worlds.train_all(task, methods, (4,))
    domains, sources = task.load(4), [args[2] for args, _ in calls]
    assert sources == [("0",), ("45", "15")] * 6
    given = [kwargs["hparams"] for _, kwargs in calls[:6]]
    assert given[:4] == [{}, {}, {"rho": 0.2}, {"rho": 0.2}]
    assert given[4:] == [{"rho_x": 3.0 * worlds.pixels(domains, of)[1]} for of in task.sources]
    assert [kwargs["hparams"] for _, kwargs in calls[6:]] == given
    assert methods["U"].hparams == {"rho_x": 3.0}


def test_a_training_gets_what_task_and_method_say(task, calls) -> None:
    other = dataclasses.replace(
        task,
        batch_size=18,
        eval_every=7,
        optimizer="sgd",
        schedule="cosine",
        augment=True,
        batch_norm="frozen",
        steps=30,
    )
    worlds.train_all(task, {"plain": Method("SAM", 0.1)}, (4,))
    worlds.train_all(other, {"other": Method("ERM", 0.3, length=1.5, weight_decay=0.2)}, (5,), device="cpu")
    (first, kwargs), (second, _), (third, others), _ = calls
    assert (first[0], third[0]) == ("SAM", "ERM")
    assert [set(args[3]) for args in (first, second, third)] == [{"15", "45"}, {"0"}, {"15", "45"}]
    names = ("steps", "lr", "seed", "batch_size", "eval_every", "schedule", "batch_norm")
    assert [kwargs[name] for name in names] == [20, 0.1, 4, 32, 10, "constant", "running"]
    assert [others[name] for name in names] == [45, 0.3, 5, 18, 7, "cosine", "frozen"]
    assert kwargs["augment"] is None
    assert others["augment"] is worlds.train.crop_flip
    adam, sgd = (kw["optimizer"]([torch.zeros(1, requires_grad=True)], lr=0.5) for kw in (kwargs, others))
    assert isinstance(adam, torch.optim.Adam)
    assert isinstance(sgd, torch.optim.SGD)
    (one,), (two,) = adam.param_groups, sgd.param_groups
    assert (one["weight_decay"], two["weight_decay"], two["momentum"], two["lr"]) == (0, 0.2, 0.9, 0.5)


def test_all_methods_of_a_seed_begin_with_one_network(task, calls) -> None:
    worlds.train_all(task, {"E": Method("ERM", 0.1), "U": Method("UDIM", 0.3, {"rho_x": 3.0}, length=2)}, (4, 6))
    nets = [kwargs["make_model"](kwargs["seed"]) for args, kwargs in calls if args[2] == ("0",)]
    flat = [nn.utils.parameters_to_vector(net.parameters()) for net in nets]  # E 4, E 6, U 4, U 6
    assert torch.equal(flat[0], flat[2])
    assert torch.equal(flat[1], flat[3])
    assert not torch.equal(flat[0], flat[1])


def test_a_network_standardises_by_its_sources_alone(task) -> None:
    domains = task.load(0)
    x = domains["45"].x.float() / 255
    first = task.network_of(0, domains, ["45"]).featurizer[0]
    assert float(first(x).mean()) == pytest.approx(0, abs=1e-5)
    assert float(first(x).std()) == pytest.approx(1, abs=1e-5)
    assert abs(float(first(domains["0"].x.float() / 255).std()) - 1) > 1e-3
    coloured = Task("coloured", (("0.9", "0.8"),), network_options={"widths": (8,)})
    domains = coloured.load(0)
    net = coloured.network_of(0, domains, ["0.9", "0.8"])
    assert net(domains["0.1"].x[:5].float() / 255).shape == (5, 2)


def test_domains_come_by_name_with_the_options_of_the_task() -> None:
    task = Task("corrupted", (("clean",),), {"kinds": ("blur", "contrast"), "disjoint": False, "severity": 5})
    domains = task.load(2)
    assert list(domains) == ["clean", "blur", "contrast"]
    weak = task.load(2, severity=1)
    assert torch.equal(weak["clean"].x, domains["clean"].x)
    assert weak["contrast"].x.float().std() > domains["contrast"].x.float().std()
    assert not torch.equal(task.load(3)["clean"].x, domains["clean"].x)
    by_name = Task("rotated_digits", (("0",),), {"limit": 40}).load(0)
    assert {len(one) for one in by_name.values()} == {40}
    with pytest.raises(DataNotFound, match="nowhere"):
        Task("office_home", (("Art",),)).load(0, "/nowhere")


def test_accuracy_is_the_mean_over_all_targets_of_a_seed_in_the_order_of_seeds() -> None:
    seven = [run({"x": 0.1, "y": 0.3}, {"x": 0.2, "y": 0.2}, val=0.4), run({"x": 0.8}, {"x": 0.9}, val=0.6)]
    two = [run({"x": 0.5, "y": 0.5}, {"x": 0.0, "y": 0.1}, val=0.1), run({"x": 0.2}, {"x": 0.2}, val=0.2)]
    trained = Trained(Task("rotated", (("s",),)), (7, 2), {}, {("A", 7): seven, ("A", 2): two, ("B", 7): two})
    assert trained.labels == ["A", "B"]
    assert trained.targets() == ["x", "y"]
    assert trained.accuracy("A") == pytest.approx([0.4, 0.4])
    assert trained.accuracy("A", "last") == pytest.approx([1.3 / 3, 0.1])
    assert trained.accuracy("A", target="x") == pytest.approx([0.45, 0.35])
    assert trained.accuracy("A", "last", "y") == pytest.approx([0.2, 0.1])
    assert trained.validation("A") == pytest.approx([0.5, 0.15])
    rows = trained.rows()
    assert len(rows) == 3 * 3 * 2
    assert rows.method.tolist() == ["A"] * 12 + ["B"] * 6
    assert rows[rows.rule == "iid"].test[:3].tolist() == [0.1, 0.3, 0.8]


def test_networks_are_trained_for_every_method_seed_and_entry_of_sources(trained) -> None:
    assert (trained.labels, trained.targets()) == (["ERM", "SAM", "UDIM"], ["15", "45", "0"])
    assert trained.seeds == (3, 1) == tuple(trained.domains)
    for (label, seed), runs in trained.runs.items():
        assert [one.sources for one in runs] == [("0",), ("45", "15")]
        assert {(one.algorithm, one.seed, one.history[-1]["step"]) for one in runs} == {(label, seed, 20)}
    by_hand = [
        np.mean([a for one in trained.runs["SAM", s] for a in one.selected["iid"].targets.values()]) for s in (3, 1)
    ]
    assert trained.accuracy("SAM").tolist() == by_hand
    assert len(set(np.concatenate([trained.accuracy(label) for label in trained.labels]))) > 3


def test_differences_are_paired_over_seeds_and_corrected_by_holm() -> None:
    accuracies = {
        "base": [0.50, 0.61, 0.70, 0.55, 0.64],
        "much": [0.60, 0.72, 0.79, 0.66, 0.77],
        "some": [0.52, 0.69, 0.72, 0.53, 0.70],
        "same": [0.50, 0.61, 0.70, 0.55, 0.64],
    }
    table = worlds.differences(of_one_target(**accuracies), "base")
    assert table.index.tolist() == ["much", "some", "same"]
    assert table.index.name == "less base"
    tests = {name: ttest_rel(accuracies[name], accuracies["base"]) for name in ("much", "some")}
    for name, test in tests.items():
        ends = test.confidence_interval(0.95)
        assert table.loc[name, ["value", "low", "high"]].tolist() == pytest.approx(
            [np.subtract(accuracies[name], accuracies["base"]).mean(), ends.low, ends.high]
        )
    by_hand = [3 * tests["much"].pvalue, 2 * tests["some"].pvalue, 1.0]
    assert table["p, Holm"].tolist() == pytest.approx(by_hand, rel=0.02)
    assert table.loc["same", "value"] == 0
    last = worlds.differences(of_one_target(**accuracies), "base", rule="last")
    assert last["value"].tolist() == pytest.approx((-table["value"]).tolist())


def test_one_image_of_each_class_is_shown_of_every_domain() -> None:
    x = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1) * 51
    a = dg.Domain(x, torch.tensor([2, 0, 0, 1, 2, 1]), "a", ("p", "q", "r"))
    b = dataclasses.replace(a, x=x.flip(0), name="b")
    shown = worlds.one_of_each({"a": a, "b": b})
    assert shown.flatten().tolist() == pytest.approx([0.2, 0.6, 0.0, 0.8, 0.4, 1.0])
    two = worlds.one_of_each({"b": b}, each=2)
    assert two.flatten().tolist() == pytest.approx([0.8, 0.6, 0.4, 0.0, 1.0, 0.2])


def test_methods_say_what_they_are_and_are_changed_as_copies() -> None:
    method = Method("UDIM", 0.01, {"rho": 0.05, "rho_x": 2.0})
    assert str(method) == "UDIM, lr 0.01, rho 0.05, rho_x 2.0"
    assert str(dataclasses.replace(method, length=1.5, weight_decay=0.1)).endswith(", weight decay 0.1, steps 1.5x")
    other = method.but(rho_x=1.0, lam=3.0)
    assert other.hparams == {"rho": 0.05, "rho_x": 1.0, "lam": 3.0}
    assert method.hparams == {"rho": 0.05, "rho_x": 2.0}


def test_a_network_of_timm_gets_its_own_statistics_and_a_head_of_the_seed(monkeypatch) -> None:
    asked = []

    class Body(nn.Sequential):
        num_features = 6
        pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}  # noqa: RUF012

    def create_model(name, **options):
        asked.append((name, options))
        return Body(nn.Flatten(), nn.Linear(48, 6))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    task = Task("coloured", (("0.9",),), network="timm/tiny", network_options={"pretrained": False})
    domains = {"0.9": dg.Domain(torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 2, 3]), "0.9", tuple("abcd"))}
    torch.manual_seed(0)
    net, again, other = (task.network_of(seed, domains, ["0.9"]) for seed in (1, 1, 2))
    assert asked[0] == ("tiny", {"num_classes": 0, "pretrained": False})
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0)), "nothing was drawn"
    x = domains["0.9"].x
    white = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(net(x), net.classifier(net.featurizer[1](white)))
    assert net(x).shape == (4, 4)
    assert torch.equal(net(x), again(x))
    assert not torch.equal(net.classifier.weight, other.classifier.weight)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm/tiny needs timm: pip install timm"):
        task.network_of(0, domains, ["0.9"])
