"""The registry, the ramp, seeds and states."""

import pytest
import torch
from torch import nn

from flatlab import defenses
from flatlab.train import Recipe, fit


def test_make_names_the_nearest_defense_and_hyperparameter() -> None:
    with pytest.raises(ValueError, match=r"unknown defense 'trade'.*pgd_at.*did you mean 'trades'"):
        defenses.make("trade", eps=0.1)
    with pytest.raises(ValueError, match=r"unknown hyperparameter of trades 'bta'.*steps.*did you mean 'beta'"):
        defenses.make("trades", eps=0.1, bta=3.0)


def test_hyperparameters_reach_the_defense_and_show() -> None:
    assert repr(defenses.make("trades", eps=0.2, beta=1.5)) == "Trades(eps=0.2, ramp=0.0, beta=1.5, steps=7, alpha=2.5)"


def test_eps_in_8_bit_units_is_noticed() -> None:
    with pytest.warns(UserWarning, match="8/255"):
        defenses.make("pgd_at", eps=8)


@pytest.mark.parametrize(("fraction", "radius"), [(0.0, 0.0), (0.1, 0.02), (0.5, 0.1), (0.9, 0.1)])
def test_ramp(fraction: float, radius: float) -> None:
    assert defenses.make("std", eps=0.1, ramp=0.5).radius_at(fraction) == pytest.approx(radius)


def test_no_ramp_is_full_radius_from_the_first_step() -> None:
    assert defenses.make("std", eps=0.1).radius_at(0.0) == 0.1


def test_ramp_over_more_than_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ramp.*\[0, 1\]"):
        defenses.make("std", eps=0.1, ramp=1.5)


def test_a_seeded_copy_shares_neither_generators_nor_memory() -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    defense = defenses.make("jem", eps=0.1, buffer_size=10, steps=1)
    expected = defense.seeded(3)(model, x, y)
    defense(model, x, y)
    copy = defense.seeded(3)
    assert copy.buffer is None
    assert torch.equal(copy(model, x, y), expected)
    assert copy.buffer_size == 10


def test_chains_run_in_eval_mode_and_count_no_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    defenses.make("jem", eps=0.1, buffer_size=10, steps=3)(model, torch.rand(5, 1, 2, 2), torch.zeros(5).long())
    assert model[1].num_batches_tracked == 2, "the data and the samples, once each"
    assert model.training


def test_a_state_of_another_defense_or_seed_count_is_refused() -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    jem = defenses.make("jem", eps=0.1, buffer_size=10, steps=1)
    jem(model, x, y)
    with pytest.raises(ValueError, match="buffer, which PgdAt does not know"):
        defenses.make("pgd_at", eps=0.1).load_state_dict(jem.state_dict())
    with pytest.raises(ValueError, match=r"1 generator\(s\), these are 2"):
        defenses.make("jem", eps=0.1).seeded([0, 1]).load_state_dict(jem.state_dict())


@pytest.mark.parametrize("name", ["free", "jem", "trades"])
def test_trains_and_continues_from_a_checkpoint(name: str, tmp_path) -> None:
    g = torch.Generator().manual_seed(0)
    data = type("Data", (), {"x": torch.rand(40, 1, 4, 4, generator=g), "y": torch.arange(40) % 3})()
    hyper = {"jem": {"buffer_size": 20, "steps": 2}, "free": {"m": 2}}.get(name, {})

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    class Stop:
        def on_step(self, state, loss) -> None:
            pass

        def on_epoch(self, state) -> None:
            state.stop = state.epoch == 1

    defense = defenses.make(name, eps=0.1, **hyper)
    recipe = Recipe(epochs=3, batch_size=16)
    whole, parts = network(), network()
    history = fit(whole, data, defense, recipe)
    assert history.steps == 9 * defense.replays
    fit(parts, data, defense, recipe, checkpoint=tmp_path / "run.safetensors", callbacks=[Stop()])
    fit(parts, data, defense, recipe, checkpoint=tmp_path / "run.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
