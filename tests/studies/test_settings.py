"""Presets: resolved and shape-checked, the ones too large to run here included."""

import sys
import types
from pathlib import Path

import pytest
import torch

from flatlab import attacks, data, defenses, dg, gan, models, optim, studies, train
from flatlab.names import PRESETS
from flatlab.runner import notebooks, params
from flatlab.studies.certified_bounds import claims as certified_claims
from flatlab.studies.certified_bounds import settings as certified_bounds
from flatlab.studies.compositional_ebm import planar
from flatlab.studies.critical_momenta import claims as momenta_claims
from flatlab.studies.critical_momenta import settings as critical_momenta
from flatlab.studies.domain_generalization import variants
from flatlab.studies.likelihood_landscapes import settings as likelihood_landscapes
from flatlab.studies.reward_variance import settings as reward_variance
from flatlab.studies.two_time_scale_gan import claims as gan_claims
from flatlab.studies.two_time_scale_gan import training

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("preset", studies.presets("likelihood_landscapes"))
def test_every_preset_is_complete_and_fits_its_data(preset: str) -> None:
    cfg = studies.resolve("likelihood_landscapes", preset)
    assert cfg.dataset in data.available()
    assert cfg.suite in attacks.SUITES
    assert {"std", "pgd_at", "flat_rand"} <= set(cfg.names)
    assert not set(cfg.seeds) & set(cfg.selection_seeds), "reported seeds must not be those of the selection"
    assert not set(cfg.second_seeds) & {*cfg.seeds, *cfg.selection_seeds}, "the second split has seeds of its own"
    for method in cfg.methods:
        defenses.make(method.defense, eps=cfg.eps, **method.options)
        for options in cfg.choices(method.name):
            defenses.make(method.defense, eps=cfg.eps, **options)
    shape, classes = {"digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10)}[cfg.dataset]
    with torch.device("meta"):
        network = models.build(cfg.model, shape, classes, options=cfg.model_options).eval()
        assert network(torch.rand(2, *shape)).shape == (2, classes)


def test_the_weights_in_use_are_among_those_that_were_tried() -> None:
    for name, options in likelihood_landscapes.WEIGHTS.items():
        assert options in studies.resolve("likelihood_landscapes", "cpu").choices(name)


@pytest.mark.parametrize("preset", studies.presets("critical_momenta"))
def test_every_preset_of_critical_momenta_fits_its_data(preset: str) -> None:
    cfg = studies.resolve("critical_momenta", preset)
    assert cfg.dataset in data.available()
    assert {"adam", "cm"} <= set(cfg.images) & set(cfg.texts) & set(cfg.continual)
    assert not set(cfg.seeds) & set(cfg.tuning_seeds), "reported seeds must not be those of the tuning"
    variants = {name for base in cfg.variants for name in (base, f"{base}_cm")}
    tasks = (("images", {*cfg.images, *variants}), ("texts", cfg.texts), ("continual", cfg.continual))
    for task, names in tasks:
        assert set(names) <= set(cfg.tuned[task])
    assert set(cfg.many) <= set(cfg.images)
    assert set(cfg.tuned["escape"].values()) <= set(cfg.rates)
    shape, classes = {
        "digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100)
    }[cfg.dataset]  # fmt: skip
    with torch.device("meta"):
        network = models.build(cfg.model, shape, classes, options=cfg.model_options).eval()
        assert network(torch.rand(2, *shape)).shape == (2, classes)
        reader = models.build(cfg.text_model, (cfg.length,), 50, options=cfg.text_options).eval()
        assert reader(torch.zeros(2, cfg.length, dtype=torch.int64)).shape == (2, cfg.length, 50)


SHAPES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "tiny_imagenet": ((3, 64, 64), 200),
    "imagenet64": ((3, 64, 64), 1000),
}


@pytest.mark.parametrize("preset", studies.presets("certified_bounds"))
def test_every_preset_of_certified_bounds_fits_its_data(preset: str) -> None:
    cfg = studies.resolve("certified_bounds", preset)
    assert {"natural", "ibp", "fused"} <= set(cfg.kinds)
    assert not set(cfg.seeds + cfg.flat_seeds) & set(cfg.tuning_seeds), "reported seeds must not be those of the tuning"
    assert list(cfg.classes) == sorted(cfg.classes)
    for task in (*cfg.tasks, *cfg.others, *cfg.large):
        shape, classes = SHAPES[task.dataset]
        ramp = train.Ramp(task.eps_train, task.start, task.length)
        assert ramp(1.0) == task.eps_train >= task.eps
        assert set(task.rates) <= set(cfg.kinds)
        with torch.device("meta"):
            network = models.build(task.model, shape, classes, options=task.options).eval()
            assert network(torch.rand(2, *shape)).shape == (2, classes)
    with torch.device("meta"):
        reader = models.build(
            "text_transformer", cfg.word_shape, 2, options={"vocabulary": 60, **cfg.word_model}
        ).eval()
        assert reader(torch.rand(2, *cfg.word_shape)).shape == (2, 2)
    for network in cfg.networks:
        assert network.model in (*models.available(), *models.available("sentence"))
    assert len({claim.id for claim in certified_claims.CLAIMS}) == len(certified_claims.CLAIMS)


def test_every_method_of_critical_momenta_can_be_made() -> None:
    for method in critical_momenta.METHODS.values():
        optim.make_optimizer(method.optimizer, [torch.zeros(2, requires_grad=True)], lr=0.1, **method.options)
    assert len({claim.id for claim in momenta_claims.CLAIMS}) == len(momenta_claims.CLAIMS)


def test_tuned_rates_are_inside_grids_that_may_have_grown() -> None:
    for task, rates in critical_momenta.TUNED.items():
        grid = critical_momenta.GRID.get(task, critical_momenta.GRID["toys"])
        assert all(min(grid) / 10 <= rate <= max(grid) * 10 for rate in rates.values())


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_chosen_rates_of_certified_bounds_are_inside_grids_that_may_have_grown(preset: str) -> None:
    cfg, grid = studies.resolve("certified_bounds", preset), certified_bounds.GRID
    rates = {"images": [task.rates.get(kind, task.recipe.lr) for task in cfg.tasks for kind in cfg.kinds]}
    rates |= {"words": list(cfg.word_rates.values()), "decay": [way.weight_decay for way in cfg.flat]}
    for name, chosen in rates.items():
        assert all(min(grid[name]) / 32 <= rate <= max(grid[name]) * 32 for rate in chosen)


def test_overrides_are_checked_by_name_and_type() -> None:
    cfg = studies.resolve("likelihood_landscapes", "quick", eps=0.2, seeds=2, test_limit=None)
    assert (cfg.eps, cfg.seeds, cfg.test_limit) == (0.2, (0, 1), None)
    assert studies.resolve("likelihood_landscapes", "quick", seeds=[4, 5]).seeds == (4, 5)
    assert studies.resolve("likelihood_landscapes", "quick", eps=1).eps == 1.0
    with pytest.raises(ValueError, match="no setting 'seds'; did you mean 'seeds'"):
        studies.resolve("likelihood_landscapes", "quick", seds=3)
    with pytest.raises(TypeError, match="'eps' must be float, got '0.1'"):
        studies.resolve("likelihood_landscapes", "quick", eps="0.1")
    with pytest.raises(TypeError, match="'test_limit' must be int or NoneType"):
        studies.resolve("likelihood_landscapes", "quick", test_limit=True)
    with pytest.raises(ValueError, match="seeds must be an integer >= 1, got 0"):
        studies.resolve("likelihood_landscapes", "quick", seeds=0)
    with pytest.raises(ValueError, match="unknown preset 'qick'.*did you mean 'quick'"):
        studies.resolve("likelihood_landscapes", "qick")
    with pytest.raises(ValueError, match="unknown study"):
        studies.resolve("landscapes", "quick")


def test_a_preset_that_a_study_lacks_is_named_with_those_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(likelihood_landscapes, "REAL", raising=False)
    assert studies.presets("likelihood_landscapes") == ("quick", "cpu", "gpu", "full")
    with pytest.raises(ValueError, match="^likelihood_landscapes has no preset 'real'; it has quick, cpu, gpu, full$"):
        studies.resolve("likelihood_landscapes", "real")
    monkeypatch.setattr(likelihood_landscapes, "REAL", likelihood_landscapes.CPU, raising=False)
    assert studies.presets("likelihood_landscapes") == ("quick", "cpu", "real", "gpu", "full")
    assert studies.resolve("likelihood_landscapes", "real") == likelihood_landscapes.CPU


@pytest.mark.parametrize("study", studies.available())
def test_the_notebook_says_which_presets_its_study_has(study: str) -> None:
    (path,) = NOTEBOOKS.glob(f"*_{study}.ipynb")
    said = params.presets(params.of(notebooks.load(path), path.stem))
    assert said == studies.presets(study), f"the comment of `preset` in {path.name}"
    for preset in said:
        studies.resolve(study, preset)


def test_the_first_notebook_runs_with_every_preset() -> None:
    first = notebooks.load(NOTEBOOKS / "00_start_here.ipynb")
    assert params.presets(params.of(first, "00_start_here")) == PRESETS


@pytest.mark.parametrize("preset", studies.presets("reward_variance"))
def test_every_preset_of_reward_variance_fits_together(preset: str) -> None:
    cfg = studies.resolve("reward_variance", preset)
    assert not set(cfg.seeds) & set(cfg.tuning_seeds), "reported seeds must not be those of the tuning"
    assert cfg.text in data.text.TEXTS
    assert cfg.batch % cfg.k == 0
    assert cfg.scored <= cfg.prompts
    assert cfg.moments[-1] == cfg.steps
    assert set(reward_variance.PAPER) | {"gold"} <= set(cfg.runs["rloo", "sgd"]) <= set(reward_variance.TEACHERS)
    assert all(
        run in cfg.rates and set(teachers) <= set(reward_variance.TEACHERS) for run, teachers in cfg.runs.items()
    )
    length = cfg.prompt + cfg.response
    for options in cfg.policies.values():
        with torch.device("meta"):
            policy = models.build("char_gpt", (length,), 60, options=options)
            assert policy(torch.zeros(2, length, dtype=torch.int64)).shape == (2, length, 60)


@pytest.mark.parametrize("preset", studies.presets("compositional_ebm"))
def test_every_preset_of_compositional_ebm_fits_together(preset: str) -> None:
    cfg = studies.resolve("compositional_ebm", preset)
    assert not set(cfg.seeds) & set(cfg.tuning_seeds), "reported seeds must not be those of the tuning"
    assert set(cfg.planar_sets) <= set(data.DENSITIES)
    assert {"NCE", "MECO", "MECO, gamma 1", "PCD"} <= set(cfg.planar_methods) <= set(cfg.planar_rates)
    assert {"wide", "narrow + wide"} <= set(cfg.planar_noises) <= set(planar.NOISES)
    assert {("NCE", q) for q in cfg.noises} | {("MECO", q) for q in cfg.noises} <= set(cfg.image_rates)
    assert {4.0, 8.0} <= set(cfg.race_distances) & set(cfg.distances)
    assert {1.0, 4.0, 8.0} <= set(cfg.widths)
    assert cfg.images in data.available()
    assert cfg.dims <= {"digits": 61, "mnist": 717, "cifar10": 3072}[cfg.images]
    with torch.device("meta"):
        for dims, options in ((2, cfg.planar_net), (cfg.dims, cfg.image_net)):
            network = models.build("mlp", (dims,), 1, options=options)
            assert network(torch.zeros(3, dims)).shape == (3, 1)


def small_domains(task) -> dict[str, dg.Domain]:
    """Noise under the names, of the shape and with the classes of the task's domains."""
    options, digits = task.options, task.options.get("dataset", "digits")
    corrupted = ("clean", *options.get("kinds", data.CORRUPTIONS))
    names, channels, size, classes = {
        "rotated": ([f"{angle:g}" for angle in options.get("angles", ())], 1, SHAPES[digits][0][-1], 10),
        "coloured": (("0.9", "0.8", "0.1"), 3, SHAPES[digits][0][-1], 2),
        "corrupted": (corrupted, 1, SHAPES[digits][0][-1], 10),
        "cifar10_c": (corrupted, 3, 32, 10),
        "pacs": (("art_painting", "cartoon", "photo", "sketch"), 3, 227, 7),
    }[task.domains]
    shape, y = (2, channels, *[options.get("size", size)] * 2), torch.arange(2)
    return {name: dg.Domain(torch.rand(shape), y, name, tuple(map(str, range(classes)))) for name in names}


def body_of_timm(name: str, *, num_classes: int, pretrained: bool, drop_rate: float) -> torch.nn.Module:
    assert (name, num_classes, pretrained, drop_rate) == ("resnet50", 0, True, 0.0)
    body = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    body.num_features, body.pretrained_cfg = 5, {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    return body


@pytest.mark.parametrize("preset", studies.presets("domain_generalization"))
def test_every_preset_of_domain_generalization_fits_its_data(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=body_of_timm))
    cfg = studies.resolve("domain_generalization", preset)
    assert not set(cfg.seeds) & set(cfg.tuning_seeds), "reported seeds must not be those of the tuning"
    assert max(cfg.few, cfg.photo_seeds) <= len(cfg.seeds)
    tasks = [cfg.single, cfg.out, cfg.shift, cfg.normed, cfg.photos, cfg.coloured, cfg.development, cfg.development_out]
    for task in filter(None, tasks):
        domains = small_domains(task)
        for sources in task.sources:
            assert set(sources) < set(domains), "sources are domains, and a target is left"
            assert task.batch_size >= 2 * len(sources)
            with torch.device("meta"):
                network = task.network_of(0, domains, sources).eval()
                first = domains[sources[0]]
                assert network(torch.rand(first.x.shape)).shape == (2, len(first.classes))
        assert task.eval_every <= task.steps
        assert train.schedule(task.schedule)
    assert all(len(set(small_domains(cfg.out)) - set(sources)) == 1 for sources in cfg.out.sources)
    assert all(len(sources) == 1 for sources in cfg.single.sources)
    assert set(cfg.severities) <= set(range(1, 6))
    assert set(cfg.ablations) <= set(variants.ABLATIONS)
    assert {"ERM", "ERM, 6x steps", "SAM", "UDIM", "adversarial"} <= set(cfg.methods)
    assert {"ERM", "SAM", "UDIM"} <= set(cfg.out_methods) & set(cfg.shift_methods)
    assert cfg.photos is None or {"SAM", "UDIM"} <= set(cfg.photo_methods)
    single = {**cfg.methods, **cfg.family}
    made = variants.ablations(cfg) | variants.on_bases(cfg) | variants.dials(cfg)
    net = models.FeatureNet(models.build("mlp", (1, 2, 2), 3, options={"widths": (4,)}))
    for methods in (single, cfg.out_methods, cfg.shift_methods, cfg.photo_methods, cfg.coloured_methods, made):
        for label, method in methods.items():
            unknown = set(method.hparams) - set(dg.default_hparams(method.algorithm))
            assert not unknown, f"{label} has no {unknown}"
            dg.get_algorithm(method.algorithm)(net, torch.optim.SGD(net.parameters(), method.lr), **method.hparams)
    if cfg.development is not None:
        assert {*single, *cfg.out_methods} <= set(cfg.grids)
        for label, method in (single | cfg.out_methods).items():
            known = {"lr", "weight_decay", *dg.default_hparams(method.algorithm)}
            assert set(cfg.grids[label]) <= known, label
        for task, ours in ((cfg.development, cfg.single), (cfg.development_out, cfg.out)):
            domains = small_domains(task)
            chosen_by = {name for sources in task.sources for name in set(domains) - set(sources)}
            assert not chosen_by & set(small_domains(ours)), "no target may choose options"


@pytest.mark.parametrize("preset", studies.presets("two_time_scale_gan"))
def test_every_preset_of_two_time_scale_gan_fits_its_data(preset: str) -> None:
    cfg = studies.resolve("two_time_scale_gan", preset)
    assert cfg.images in data.available()
    assert cfg.text_set in data.text.TEXTS
    assert cfg.other is None or cfg.other[0] in data.available()
    assert not set(cfg.seeds) & set(cfg.select_seeds), "reported seeds must not be those that choose pairs"
    assert not {*cfg.seeds, *cfg.select_seeds} & set(cfg.tuning_seeds), "nor those of the tuning"
    assert max(cfg.conv_seeds if cfg.conv else 0, cfg.wgan.seeds, cfg.text.seeds, cfg.spectrum_seeds) <= len(cfg.seeds)
    shape, classes = SHAPES[cfg.images]
    shape = (shape[0], cfg.size, cfg.size) if cfg.size else shape
    letters = (len(training.SYMBOLS), cfg.length)
    plans = [(cfg.grid, shape), (cfg.conv, shape), (cfg.wgan.plan, shape), (cfg.spectrum, shape)]
    for plan, wanted in [*((plan, one) for plan, one in plans if plan), (cfg.text.plan, letters)]:
        with torch.device("meta"):
            G, D = training.players(plan, wanted, "meta")(0)
            samples = G(torch.zeros(2, plan.z_dim))
            assert samples.shape == (2, *wanted)
            assert D(samples).flatten().shape == (2,)
        mixes = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in D.modules())
        assert not (mixes and plan.options.get("loss") == "wgan-gp"), "penalties allow no batch normalisation"
    with torch.device("meta"):
        judge = models.build(cfg.judge_model, shape, classes, options=cfg.judge_options).eval()
        assert judge(torch.rand(2, *shape)).shape == (2, classes)
    for plan in filter(None, (cfg.grid, cfg.conv, cfg.spectrum)):
        assert list(plan.at) == sorted(set(plan.at)), "looks rise"
        assert len(set(plan.pairs)) == len(plan.pairs)
        arms = [arm for arm, belongs in gan.ARMS.items() if any(belongs(*pair) for pair in plan.pairs)]
        assert {"one rate", "two rates"} <= set(arms)
        assert plan is not cfg.grid or set(arms) == set(gan.ARMS), "pairs in either direction"
    for arms, several in ((cfg.wgan, "5:1"), (cfg.text, "10:1")):
        assert list(arms.giga) == sorted(set(arms.giga)), "looks rise"
        assert list(arms.arms) == [several, "1:1, 3x", "1:1"]
        for name, arm in arms.arms.items():
            assert arm.n_critic == int(name.split(":")[0])
            assert arm.lr_d / arm.lr_g == pytest.approx(3 if name == "1:1, 3x" else 1)
            assert min(arms.tried) / 10 <= arm.lr_g <= max(arms.tried) * 10, "inside a grid that may have grown"
    assert list(cfg.grams) == sorted(cfg.grams)
    assert cfg.grams[-1] <= cfg.length
    assert list(cfg.bias_sizes) == sorted(cfg.bias_sizes)
    assert len({claim.id for claim in gan_claims.CLAIMS}) == len(gan_claims.CLAIMS)


def test_the_grid_is_a_product() -> None:
    assert studies.resolve("likelihood_landscapes", "cpu").choices("std") == [{}]
    assert {"weight": 10.0} in studies.resolve("likelihood_landscapes", "cpu").choices("flat_rand")


def test_methods_by_kind_and_seeds_of_another_run() -> None:
    cfg = studies.resolve("likelihood_landscapes", "quick")
    assert cfg.of_kind("flat", "adversarial") == ["fgsm_at", "pgd_at", "trades", "flat_rand", "flat_grad", "flat_joint"]
    other = cfg.shifted(2)
    assert (other.seeds, other.second_seeds) == ((2020, 2021, 2022, 2023), (2040, 2041, 2042))
    assert other.selection_seeds == cfg.selection_seeds
    assert cfg.shifted(0) == cfg
