"""What an objective says of itself is heard; what only looks like one is refused."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import bounds, defenses
from flatlab.models import Stacked, build, stack_models
from flatlab.train import Objective, Recipe, TrainingState, cross_entropy, fit, fit_seeds, next_token
from flatlab.train.objective import as_objective

RECIPE = Recipe(epochs=1, batch_size=100)
FULL_PRECISION = {"cure", "flat_adv", "flat_grad", "flat_joint", "flat_rand", "gradreg", "jacreg", "jem", "llr"}


def make(seed: int) -> nn.Module:
    return build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})


class Alone(Objective):
    """Takes one network at a time."""

    stacks = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        assert not isinstance(model, Stacked)
        return cross_entropy(model, x, y)


class Watch:
    """Notes whether several networks were trained as one module."""

    def __init__(self) -> None:
        self.stacked: list[bool] = []

    def on_step(self, state: TrainingState, loss: Tensor) -> None: ...

    def on_epoch(self, state: TrainingState) -> None:
        self.stacked.append(isinstance(state.model, Stacked))


def test_an_objective_that_does_not_stack_leads_to_one_network_at_a_time(digits) -> None:
    for objective, expected in ((Alone(), [False, False]), (cross_entropy, [True])):
        watch = Watch()
        fit_seeds(make, digits, objective, RECIPE, seeds=[0, 1], callbacks=[watch])
        assert watch.stacked == expected
    with pytest.raises(ValueError, match="network, optimizer or objective cannot be stacked"):
        fit_seeds(make, digits, Alone(), RECIPE, seeds=[0, 1], strategy="stacked")
    with pytest.raises(ValueError, match="takes one network at a time"):
        fit(stack_models([make(0), make(1)]), digits, Alone(), RECIPE, seeds=[0, 1])


def test_certified_training_of_several_seeds_needs_no_strategy(digits) -> None:
    recipe = Recipe(epochs=1, batch_size=400)
    nets = fit_seeds(make, digits, bounds.CertifiedTraining(bounds.Balls(0.01), kind="ibp"), recipe, seeds=[0, 1])
    for seed, net in enumerate(nets):
        alone = make(seed)
        fit(alone, digits, bounds.CertifiedTraining(bounds.Balls(0.01), kind="ibp"), recipe, seeds=seed)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(
    "perturbation", [bounds.Balls(0.1), bounds.ExchangedWords(torch.zeros(3, 1, dtype=torch.int64))], ids=["x", "words"]
)
def test_certified_training_says_that_it_neither_stacks_nor_takes_half_precision(perturbation) -> None:
    objective = bounds.CertifiedTraining(perturbation)
    assert (objective.stacks, objective.full_precision, objective.replays) == (False, True, 1)


@pytest.mark.parametrize("name", defenses.available())
def test_defenses_are_objectives_that_stack(name: str) -> None:
    defense = defenses.make(name, eps=0.1)
    assert as_objective(defense) is defense
    assert defense.stacks
    assert defense.full_precision == (name in FULL_PRECISION)
    assert defense.replays == (8 if name == "free" else 1)


def test_noise_does_not_come_from_the_generator_that_orders_the_batches(digits) -> None:
    told: list[int] = []

    class Told(Alone):
        def seeded(self, seeds, device="cpu") -> "Told":
            told.extend(seeds)
            return self

    fit(make(0), digits, Told(), RECIPE, seeds=[3])
    assert len(told) == 1
    assert told != [3]


@pytest.mark.parametrize("function", [cross_entropy, next_token])
def test_a_plain_function_has_all_the_defaults(function) -> None:
    objective = as_objective(function)
    assert (objective.stacks, objective.full_precision, objective.replays) == (True, False, 1)
    assert objective.seeded(3) is objective
    assert objective.state_dict() == {}
    assert repr(objective) == function.__name__


def test_what_is_only_half_an_objective_is_refused(digits) -> None:
    class Seeded:
        def seeded(self, seeds, device) -> "Seeded":
            return self

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float) -> Tensor:
            return F.cross_entropy(model(x), y)

    with pytest.raises(
        TypeError, match=r"Seeded has seeded, but is no Objective: derive it from flatlab.train.Objectiv"
    ):
        fit(make(0), digits, Seeded(), RECIPE)
    with pytest.raises(TypeError, match="str has no __call__"):
        as_objective("cross_entropy")


class _Offset(Objective):
    """Mean squared distance of the network's output, plus an offset of its own, from the target."""

    def __init__(self, networks: int = 1) -> None:
        self.offset = nn.Parameter(torch.zeros(networks, 1))

    def __call__(self, model, x, y, step_fraction=1.0):
        networks = len(self.offset)
        return (model(x).view(networks, -1) + self.offset - y.view(networks, -1)).square().mean()

    def __repr__(self):
        return "_Offset"

    def parameters(self):
        return [self.offset]

    def seeded(self, seeds, device="cpu"):
        self.last = _Offset(len(seeds))
        return self.last

    def state_dict(self):
        return {"offset": self.offset.detach()}

    def load_state_dict(self, state):
        self.offset.data.copy_(state["offset"])


class StopAfter(Watch):
    """Ends training after some epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch(self, state: TrainingState) -> None:
        state.stop = state.epoch == self.epochs


def test_what_an_objective_owns_is_trained_with_the_model(tmp_path) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    points = SimpleNamespace(x=x, y=torch.full((40,), 5))
    recipe = Recipe(epochs=6, batch_size=8, lr=0.1, optimizer=torch.optim.SGD)

    def network(seed):
        return build("mlp", (3,), 1, seed=seed, options={"widths": ()})

    goal = _Offset()
    both = fit_seeds(network, points, goal, recipe, seeds=[1, 2])
    learned = goal.last.offset
    assert learned.shape == (2, 1)
    assert (learned > 0.5).all()
    for index, seed in enumerate((1, 2)):
        (alone,) = fit_seeds(network, points, goal, recipe, seeds=[seed])
        torch.testing.assert_close(both[index].state_dict(), alone.state_dict())
        torch.testing.assert_close(learned[index], goal.last.offset[0])

    whole, halves = network(1), network(1)
    fit(whole, points, goal, recipe, seeds=1)
    wanted = goal.last.offset
    fit(halves, points, goal, recipe, seeds=1, checkpoint=tmp_path / "c", callbacks=[StopAfter(3)])
    again = network(1)
    fit(again, points, goal, recipe, seeds=1, checkpoint=tmp_path / "c")
    assert torch.equal(wanted, goal.last.offset)
    assert torch.equal(whole[-1].weight, again[-1].weight)
