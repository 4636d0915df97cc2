"""The robust evaluation: what it counts, what it re-checks, and when it says that gradients are masked."""

import pytest
import torch
from torch import nn

from flatlab import attacks
from flatlab.attacks import AttackResult, AttackSpec, masking_flags, robustness

EPS = 0.1
SHORT = (
    AttackSpec("FGSM", "fgsm"),
    AttackSpec("PGD", "pgd", steps=10, restarts=2),
    AttackSpec("DLR", "pgd", steps=10, loss="dlr"),
    AttackSpec("Square", "square", queries=100),
)


def raised(outcome: attacks.RobustnessReport) -> set[str]:
    return {flag.name for flag in outcome.flags if flag.raised}


@pytest.fixture(scope="module")
def outcome(std, digits) -> attacks.RobustnessReport:
    return attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT)


def test_worst_case_is_pointwise(outcome):
    masks = torch.stack([*outcome.correct.values(), outcome.clean_correct])
    assert torch.equal(outcome.robust_correct, masks.all(dim=0))
    assert outcome.robust <= min(outcome.accuracies.values()) < outcome.clean
    assert all((mask <= outcome.clean_correct).all() for mask in outcome.correct.values())
    assert {name: float(mask.double().mean()) for name, mask in outcome.correct.items()} == outcome.accuracies


def test_stored_inputs_reproduce_the_number(outcome, std, digits):
    x, y = digits
    with torch.no_grad():
        right = std(outcome.worst_inputs).argmax(1) == y
    assert torch.equal(right & outcome.clean_correct, outcome.robust_correct)
    assert (outcome.worst_inputs - x).abs().max() <= EPS + 1e-7
    assert outcome.worst_inputs.min() >= 0
    assert outcome.worst_inputs.max() <= 1


def test_single_attacks_agree_with_the_evaluation(outcome, std, digits, accuracy):
    x, y = digits
    assert outcome.accuracies["FGSM"] == accuracy(std, attacks.fgsm(std, x, y, EPS), y)
    pgd = accuracy(
        std, attacks.pgd(std, x, y, EPS, steps=10, restarts=2, generator=torch.Generator().manual_seed(1)), y
    )
    assert outcome.accuracies["PGD"] == pytest.approx(pgd, abs=0.02)  # other starts


def test_restarts_on_survivors_change_no_number(outcome, std, digits):
    x, y = digits
    spec = SHORT[1]
    from flatlab.attacks.runners import Evaluation

    run = Evaluation(std, x, y, EPS, 512, 0)
    generator = run.generator(spec.name)
    alive = outcome.clean_correct.clone()
    shares = []
    for _ in range(2):
        start = torch.rand(x.shape, generator=generator) * (2 * EPS) - EPS
        adv = attacks.pgd(std, x, y, EPS, steps=10, start=start)
        with torch.no_grad():
            alive &= std(adv).argmax(1) == y
        shares.append(float(alive.double().mean()))
    assert torch.equal(alive, outcome.correct["PGD"])
    assert outcome.attacks[1].after_restarts == tuple(shares)


def test_rows_are_plain(outcome):
    rows = outcome.rows()
    assert [row["attack"] for row in rows] == ["clean", "FGSM", "PGD", "DLR", "Square", "worst case"]
    assert rows[-1]["accuracy"] == outcome.robust
    assert {type(value) for row in rows for value in row.values()} <= {str, float, int}
    assert outcome.configs["Square"]["queries"] == 100
    assert all(seconds > 0 for seconds in outcome.seconds.values())


def test_seed_decides_and_batch_size_does_not(outcome, std, digits):
    again = attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT)
    assert all(torch.equal(again.correct[name], mask) for name, mask in outcome.correct.items())
    assert torch.equal(again.worst_inputs, outcome.worst_inputs)
    chunked = attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT, batch_size=64)
    for name, mask in outcome.correct.items():
        assert (chunked.correct[name] != mask).sum() <= 2, name  # rounding only
    other = attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT, seed=1)
    assert not torch.equal(other.worst_inputs, outcome.worst_inputs)
    alone = attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT[1:2])
    assert torch.equal(alone.correct["PGD"], outcome.correct["PGD"])  # its own stream
    drawn = [
        attacks.evaluate_robustness(std, *digits, EPS, suite="fast", generator=torch.Generator().manual_seed(3)).seed
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


def test_named_suites(std, pgd_at, digits):
    x, y = digits[0][:100], digits[1][:100]
    fast, strong = (attacks.evaluate_robustness(pgd_at, x, y, EPS, suite=name) for name in ("fast", "strong"))
    assert list(fast.accuracies) == ["FGSM", "PGD-20", "PGD-20 DLR"]
    assert list(strong.accuracies)[-2:] == ["Square-500", "PGD-50 DLR-T"]
    assert set(attacks.SUITES) == {"fast", "standard", "strong"}
    assert strong.robust <= fast.robust
    assert strong.robust > attacks.evaluate_robustness(std, x, y, EPS, suite="fast").robust + 0.2


def test_honest_models_raise_no_flag(std, pgd_at, digits):
    for model in (std, pgd_at):
        found = attacks.evaluate_robustness(model, *digits, EPS, suite="standard", scale_probe=True)
        assert not found.masked, found.reasons
        assert len(found.flags) == 9


def test_saturated_logits_raise_flags(std, digits, scaled):
    found = attacks.evaluate_robustness(scaled(std, 30.0), *digits, EPS, suite=SHORT, scale_probe=True)
    assert {"zero gradients", "Square", "DLR", "large eps", "logit scale 0.1"} <= raised(found)
    assert found.masked
    assert any("zero input gradient: gradients look masked" in reason for reason in found.reasons)
    assert len(found.reasons) == len(raised(found))
    # Shrunken logits weaken PGD too, and ten times the logits undo that.
    small = attacks.evaluate_robustness(scaled(std, 0.1), *digits, EPS, suite=SHORT, scale_probe=True)
    assert {"DLR", "logit scale 10"} <= raised(small)


class Quantised(nn.Module):
    """Rounds inputs to eight levels, without a straight-through gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 7).round() / 7)


class Wiggled(nn.Module):
    """Adds a fast, tiny wave to its input: gradients are large, and point anywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x + 0.02 * torch.sin(2000 * x))


def test_quantised_inputs_raise_flags(std, digits):
    found = attacks.evaluate_robustness(Quantised(std), *digits, EPS, suite=SHORT)
    assert {"zero gradients", "Square", "large eps"} <= raised(found)


def test_shattered_gradients_raise_flags(std, digits):
    found = attacks.evaluate_robustness(Wiggled(std), *digits, EPS, suite=SHORT)
    assert "Square" in raised(found)
    assert "zero gradients" not in raised(found)


def test_flags_by_hand():
    def result(spec: AttackSpec, correct: int, first: float = 0.0) -> AttackResult:
        mask = torch.arange(100) < correct
        return AttackResult(spec, mask, (first, correct / 100) if first else (correct / 100,), 0.0)

    results = [result(SHORT[0], 50), result(SHORT[1], 52, 0.56), result(SHORT[2], 49), result(SHORT[3], 50)]
    flags = {flag.name: flag for flag in masking_flags(results, zero_gradients=0.01, chance=0.1)}
    assert {name: flag.raised for name, flag in flags.items()} == {
        "zero gradients": False,
        "FGSM": True,  # 52 - 50 > 1
        "Square": False,  # 52 - 50 is not more than 2
        "DLR": False,  # 52 - 49 is not more than 3
        "restarts of PGD": True,  # 56 - 52 > 3
    }
    more = masking_flags(
        results[:1], zero_gradients=0.02, chance=0.1, large_eps_accuracy=0.1, scale_drops={0.1: 0.031, 10.0: 0.03}
    )
    assert [flag.raised for flag in more] == [True, False, True, False]
    assert robustness.reference_pgd(results[:1]) is None


def test_mode_is_restored(digits):
    x, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10)).train()
    model[2].eval()
    running = model[1].running_mean.clone()
    attacks.evaluate_robustness(model, x, y, EPS, suite=SHORT[:2])
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert torch.equal(model[1].running_mean, running)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="non-finite logits, first at batch index 0"):
        attacks.evaluate_robustness(model, x, y, EPS)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_zero_eps_gives_clean_accuracy(std, digits):
    found = attacks.evaluate_robustness(std, *digits, 0.0, suite=SHORT)
    assert found.robust == found.clean == min(found.accuracies.values())


def test_models_that_depend_on_chance_or_batch_are_refused(std, digits):
    class Noisy(nn.Module):
        def forward(self, x):
            return std(x) + 20 * torch.randn(len(x), 10)

    class Centred(nn.Module):
        def forward(self, x):
            return std(x + (x[:1] - 0.5))

    for model in (Noisy(), Centred()):
        with pytest.raises(RuntimeError, match="depends on chance or on the other samples"):
            attacks.evaluate_robustness(model, *digits, EPS)


def test_an_attack_out_of_bounds_is_caught(std, digits, monkeypatch):
    from flatlab.attacks import runners

    def outside(run, spec, clean):
        return run.x + 2 * run.eps, clean, (1.0,)

    monkeypatch.setitem(runners.RUNNERS, "fgsm", outside)
    with pytest.raises(RuntimeError, match=r"FGSM left its bounds: 0.1 beyond eps"):
        attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT[:1])

    def liar(run, spec, clean):
        return run.x, torch.zeros_like(clean), (0.0,)

    monkeypatch.setitem(runners.RUNNERS, "fgsm", liar)
    with pytest.raises(RuntimeError, match="predictions changed between two passes at the stored inputs of FGSM"):
        attacks.evaluate_robustness(std, *digits, EPS, suite=SHORT[:1])


def test_foolbox_in_a_suite(std, digits, outcome):
    pytest.importorskip("foolbox")
    state = torch.get_rng_state()
    found = attacks.evaluate_robustness(std, *digits, EPS, suite=(AttackSpec("fb", "foolbox", steps=10),))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.accuracies["fb"] == pytest.approx(outcome.attacks[1].after_restarts[0], abs=0.02)


def test_suites_are_checked(std, digits):
    def evaluate(suite):
        return attacks.evaluate_robustness(std, *digits, EPS, suite=suite)

    with pytest.raises(ValueError, match=r"unknown suite 'fst'.*did you mean 'fast'"):
        evaluate("fst")
    with pytest.raises(ValueError, match="empty"):
        evaluate(())
    with pytest.raises(ValueError, match="'FGSM' appears twice"):
        evaluate(SHORT[:1] * 2)
    with pytest.raises(TypeError, match="AttackSpec"):
        evaluate([{"kind": "pgd"}])
    with pytest.raises(ValueError, match="unknown attack kind 'pdg'"):
        AttackSpec("x", "pdg")
    with pytest.raises(ValueError, match="steps of attack 'x' must be an integer >= 1"):
        AttackSpec("x", "pgd", steps=0)
    with pytest.raises(ValueError, match="unknown loss 'kl'"):
        AttackSpec("x", "pgd", loss="kl")
    x, y = digits
    binary = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match=r"'PGD-20 DLR' needs C >= 3 classes, the model has C = 2.*margin"):
        attacks.evaluate_robustness(binary, x, y % 2, EPS, suite="fast")
    margins = (AttackSpec("PGD", "pgd", loss="margin"), AttackSpec("Square", "square", queries=5))
    attacks.evaluate_robustness(binary, x, y % 2, EPS, suite=margins)


def test_drops_by_scale_are_shares_of_all_samples() -> None:
    from flatlab.attacks.runners import Evaluation, drops_by_scale

    model = torch.nn.Linear(1, 2)  # class 0 above 1/2
    model.load_state_dict({"weight": torch.tensor([[1.0], [-1.0]]), "bias": torch.tensor([-0.5, 0.5])})
    x, y = torch.full((8, 1), 0.55), torch.zeros(8, dtype=torch.int64)
    survived = torch.arange(8) < 2  # so says an attack; all samples can in fact be fooled
    found = drops_by_scale(Evaluation(model.eval(), x, y, 0.1, 512, 0), survived)
    assert found == {0.1: 0.25, 10.0: 0.25}
    assert drops_by_scale(Evaluation(model, x, y, 0.0, 512, 0), survived) == {0.1: 0.0, 10.0: 0.0}
    assert drops_by_scale(Evaluation(model, x, y, 0.1, 512, 0), survived & False) == {}
