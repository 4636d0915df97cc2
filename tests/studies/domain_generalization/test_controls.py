"""Controls, variants and the choice of options of 06."""

import dataclasses

import numpy as np
import pytest

from flatlab import dg
from flatlab.studies.domain_generalization import controls, settings, tuning, variants, worlds
from flatlab.studies.domain_generalization.worlds import Method, Task, train_all

SHIFT = Task(
    "corrupted",
    (("clean",),),
    {"disjoint": False, "kinds": ("contrast", "blur")},
    "small_cnn",
    {"widths": (4, 4), "hidden": 8, "norm": "batch"},
    steps=12,
    eval_every=6,
)
ERM = Method("ERM", 1e-2)
CFG = dataclasses.replace(
    settings.QUICK,
    seeds=(0, 1),
    methods={
        "ERM": ERM,
        "SAM": Method("SAM", 0.1, {"rho": 0.3}),
        "UDIM": Method("UDIM", 0.2, {"rho_x": 2.0, "lam": 5.0}),
    },
    family={"ASAM": Method("ASAM", 0.4, {"rho": 0.7})},
    out_methods={"ERM": Method("ERM", 0.7)},
    shift_methods={"SAM": Method("SAM", 0.1, {"rho": 0.3}), "VREx": Method("VREx", 0.9)},
    photo_methods={"ERM": ERM, "SAM": Method("SAM", 0.9)},
    ablations=("norm term", "not perturbed"),
    rho_xs=(0.5, 8.0),
    lams=(0.1,),
    tuning_seeds=(100, 101),
    grids={label: {"lr": (1e-3, 1e-2), "weight_decay": (0.0, 0.1)} for label in ("ERM", "SAM", "UDIM", "ASAM")},
)


@pytest.fixture(scope="module")
def shift() -> worlds.Trained:
    return train_all(SHIFT, {"ERM": ERM, "low": Method("ERM", 1e-3)}, (2, 0))


def test_accuracy_by_severity_is_that_of_each_corruption(shift) -> None:
    found = controls.by_severity(shift, ["low", "ERM"], (1, 5))
    assert list(found) == ["low", "ERM"]
    assert found["ERM"].shape == (2, 2, 2)
    for i, seed in enumerate((2, 0)):
        for j, severity in enumerate((1, 5)):
            domains = dg.corrupted_digits(("contrast", "blur"), severity, disjoint=False, seed=seed)
            for label, values in found.items():
                model = shift.runs[label, seed][0].selected["iid"].model
                by_hand = [dg.domain_accuracy(model, domains[kind]) for kind in ("contrast", "blur")]
                assert values[i, j].tolist() == by_hand
    assert len(np.unique(found["ERM"])) > 4


def test_statistics_of_test_batches_are_compared_on_one_network(shift) -> None:
    found = controls.batch_statistics(shift, "ERM")
    assert list(found) == ["running", "batch"]
    for name, values in found.items():
        for seed, value in zip((2, 0), values, strict=True):
            parts = [dg.split_domain(shift.domains[seed][kind], seed=seed)[0] for kind in ("contrast", "blur")]
            model = shift.runs["ERM", seed][0].selected["iid"].model
            assert value == pytest.approx(np.mean([dg.domain_accuracy(model, p, statistics=name) for p in parts]))
            assert not any(module.training for module in model.modules())
    assert (found["running"] != found["batch"]).all()
    assert found["running"] == pytest.approx(shift.accuracy("ERM"))


def test_without_batch_norm_the_statistics_are_the_same(trained) -> None:
    found = controls.batch_statistics(trained, "SAM")
    assert found["running"].tolist() == found["batch"].tolist()


def test_a_step_costs_what_its_gradients_do(task, monkeypatch) -> None:
    made, get = [], dg.get_algorithm

    def noting(name):
        def build(*args, **hparams):
            made.append(hparams)
            return get(name)(*args, **hparams)

        return build

    monkeypatch.setattr(dg, "get_algorithm", noting)
    methods = {"ERM": ERM, "SAM": Method("SAM", 0.1), "UDIM": Method("UDIM", 0.1, {"rho_x": 3.0})}
    table, times = controls.costs(task, methods, 3, repeats=3)
    assert table["operations, ERM = 1"].tolist() == [1, pytest.approx(2), pytest.approx(6, abs=1)]
    assert table["time, ERM = 1"].iloc[0] == 1
    assert {name: values.shape for name, values in times.items()} == dict.fromkeys(methods, (3,))
    for label, values in times.items():
        assert table.loc[label, "ms a step"] == np.median(values)
        assert table.loc[label, "time, ERM = 1"] == pytest.approx(np.median(values) / np.median(times["ERM"]))
    assert made == [{}, {}, {"rho_x": 3.0 * worlds.pixels(task.load(3), ["0"])[1]}]


def test_times_are_milliseconds_of_one_step_of_methods_that_take_turns(task, monkeypatch) -> None:
    order: list[str] = []

    def seconds(step, device, *, repeats):
        order.append(f"{type(step.func.__self__).__name__} {repeats}")
        return [0.05, 0.03] * (repeats // 2)

    monkeypatch.setattr(controls.train, "seconds", seconds)
    _, times = controls.costs(task, {"ERM": ERM, "SAM": Method("SAM", 0.1)}, 0, repeats=2)
    assert order == ["ERM 10", "SAM 10"] * 2
    assert times["SAM"].tolist() == pytest.approx([40.0, 40.0])


def test_udim_on_another_base_has_the_radius_and_rate_of_that_base() -> None:
    found = variants.on_bases(CFG)
    assert list(found) == ["SAM", "SAM + UDIM", "ASAM", "ASAM + UDIM"]
    assert found["SAM"] == CFG.methods["SAM"]
    assert found["ASAM"] == CFG.family["ASAM"]
    own = {"rho_x": 2.0, "lam": 5.0}
    assert found["SAM + UDIM"] == Method("UDIM", 0.1, {**own, "base": "sam", "rho": 0.3})
    assert found["ASAM + UDIM"] == Method("UDIM", 0.4, {**own, "base": "asam", "rho": 0.7})


def test_ablations_and_dials_change_one_option_each() -> None:
    udim, several = CFG.methods["UDIM"], Method("UDIM", 0.8, {"rho_x": 3.0})
    cfg = dataclasses.replace(CFG, out_methods={"UDIM": several})
    assert variants.ablations(cfg) == {"norm term": several.but(terms="norm"), "not perturbed": several.but(rho_x=0.0)}
    assert variants.dials(CFG) == {
        "rho_x = 0.5": udim.but(rho_x=0.5), "rho_x = 8": udim.but(rho_x=8.0), "lam = 0.1": udim.but(lam=0.1)
    }  # fmt: skip
    for label, changed in variants.ABLATIONS.items():
        assert set(changed) <= set(dg.default_hparams("UDIM")), label


def test_options_go_to_the_optimizer_or_to_the_method() -> None:
    method = Method("UDIM", 0.2, {"lam": 5.0}, length=2)
    assert tuning.with_options(method, {"lr": 0.3, "weight_decay": 0.1, "rho_x": 4.0}) == Method(
        "UDIM", 0.3, {"lam": 5.0, "rho_x": 4.0}, 2, 0.1
    )
    assert tuning.with_options(method, {"lam": 1.0}) == Method("UDIM", 0.2, {"lam": 1.0}, 2)


@pytest.fixture
def peak(monkeypatch) -> list[tuple]:
    """Instead of trainings: accuracy falls with the distance of the rate from 0.1, and with weight decay."""
    asked: list[tuple] = []

    class Fake:
        def __init__(self, methods, seeds):
            (self.method,), self.seeds = methods.values(), seeds

        def accuracy(self, label):
            return np.full(len(self.seeds), 1 - abs(np.log10(self.method.lr) + 1) / 10 - self.method.weight_decay)

    def train_all(task, methods, seeds, **where):
        asked.append((task, methods, seeds, where))
        return Fake(methods, seeds)

    monkeypatch.setattr(tuning, "train_all", train_all)
    return asked


def test_a_grid_grows_until_the_best_is_inside(peak, task) -> None:
    methods = {"ERM": Method("ERM", 5.0), "SAM": Method("SAM", 5.0, {"rho": 0.3})}
    found = tuning.tune(task, methods, CFG.grids, (100, 101), root="here", device="cpu")
    assert found.best == {label: {"lr": 0.1, "weight_decay": 0.0} for label in methods}
    assert {trial.options["lr"] for trial in found.trials} == {1e-3, 1e-2, 0.1, 1.0}
    assert found.seeds == (100, 101)
    assert all(len(trial.scores) == 2 for trial in found.trials)
    assert {tuple(methods) for _, methods, _, _ in peak} == {("ERM",), ("SAM",)}
    assert all((of, seeds) == (task, (100, 101)) for of, _, seeds, _ in peak)
    assert all(where == {"root": "here", "device": "cpu"} for *_, where in peak)
    assert {given["SAM"].hparams["rho"] for _, given, _, _ in peak if "SAM" in given} == {0.3}


def test_retuned_settings_hold_what_was_found_for_every_use_of_a_method(peak) -> None:
    shown: list = []
    cfg = dataclasses.replace(CFG, tune=True)
    found = tuning.retuned(cfg, shown.append, root="there")
    assert [len(table) for table in shown] == [4 * 8, 8]
    assert {label: m.lr for label, m in found.methods.items()} == dict.fromkeys(("ERM", "SAM", "UDIM"), 0.1)
    assert found.methods["UDIM"].hparams == {"rho_x": 2.0, "lam": 5.0}
    assert {label: m.lr for label, m in found.family.items()} == {"ASAM": 0.1}
    assert {label: m.lr for label, m in found.out_methods.items()} == {"ERM": 0.1}
    assert {label: m.lr for label, m in found.shift_methods.items()} == {"SAM": 0.1, "VREx": 0.9}
    assert {label: m.lr for label, m in found.photo_methods.items()} == {"ERM": 0.1, "SAM": 0.9}, "SAM is another one"
    assert [of for of, *_ in peak[:-8]] == [cfg.development] * 32
    assert [of for of, *_ in peak[-8:]] == [cfg.development_out] * 8
    assert {where["root"] for *_, where in peak} == {"there"}
    assert (found.seeds, found.rho_xs) == (cfg.seeds, cfg.rho_xs)


def test_tuning_is_refused_before_it_begins(peak) -> None:
    assert tuning.retuned(CFG, print) is CFG
    with pytest.raises(ValueError, match=r"seeds \[101\] chose the options"):
        tuning.retuned(dataclasses.replace(CFG, tune=True, seeds=(7, 101)), print)
    for name in ("development", "development_out"):
        with pytest.raises(ValueError, match="domains of development.*use quick, cpu or real"):
            tuning.retuned(dataclasses.replace(CFG, tune=True, **{name: None}), print)
    assert not peak


def test_tuning_trains_on_domains_of_development(task) -> None:
    small = dataclasses.replace(task, sources=(("0",),), steps=6, eval_every=6)
    found = tuning.tune(small, {"ERM": ERM}, {"ERM": {"lr": (1e-9, 3e-2)}}, (100, 101))
    best = train_all(small, {"ERM": dataclasses.replace(ERM, lr=found.best["ERM"]["lr"])}, (100, 101))
    assert found.best["ERM"]["lr"] > 1e-9
    (trial,) = (trial for trial in found.trials if trial.options == found.best["ERM"])
    assert list(trial.scores) == best.accuracy("ERM").tolist()
