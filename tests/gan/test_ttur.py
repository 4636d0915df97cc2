"""Two players: against a bare loop of torch, side by side against alone, resumed against whole, and what diverges."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flatlab import gan
from flatlab.gan import TTUR, to_uint8
from flatlab.models import unstack
from flatlab.train import TrainingDiverged, resume_training, save_training

SIDE, Z, ROWS = 8, 3, 6


@dataclass(frozen=True)
class Case:
    """Options of `TTUR`, and whether the players are convolutional ones with batch normalisation.

    A bias in front of a batch normalisation has a gradient of rounding errors alone, which Adam makes larger.
    """

    options: dict[str, Any] = field(default_factory=dict)
    conv: bool = False

    @property
    def tol(self) -> float:
        return 1e-7 if self.conv else 1e-9

    def pair(self, seed: int) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(seed)
        if self.conv:
            return gan.DCGANGenerator(SIDE, 1, Z, 2).double(), gan.DCGANDiscriminator(SIDE, 1, 2).double()
        return gan.MLPGenerator(SIDE, 1, Z, 5).double(), gan.MLPDiscriminator(SIDE, 1, 5).double()


CASES = {
    "ns": Case({"ema": 0.7}),
    "ns, conv": Case({"ema": 0.9, "n_critic": 2}, conv=True),
    "wgan-gp": Case({"loss": "wgan-gp", "gp": 7.0, "n_critic": 3, "betas": (0.0, 0.9), "ema": 0.5}),
    "hinge, r1": Case({"loss": "hinge", "r1": 0.5, "n_critic": 2}),
    "rpgan, r1 r2": Case({"loss": "rpgan", "r1": 0.3, "r2": 0.2}),
    "rpgan, conv": Case({"loss": "rpgan"}, conv=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def batches(count: int, pairs: int = 1, seed: int = 9) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.rand(pairs * ROWS, 1, SIDE, SIDE, generator=draws).double() * 2 - 1 for _ in range(count)]


def penalty(D: nn.Module, x: Tensor) -> Tensor:
    """Squared slopes, by the book."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return slope.flatten(1).square().sum(1)


def by_hand(
    G: nn.Module, D: nn.Module, real: Sequence[Tensor], *, lr_g: float, lr_d: float, seed: int, options: dict[str, Any]
) -> tuple[list[dict[str, float]], nn.Module]:
    """A bare loop over plain Adam: losses of each step, and the averaged generator."""
    given = {
        "betas": (0.5, 0.999),
        "n_critic": 1,
        "loss": "ns",
        "gp": 10.0,
        "r1": 0.0,
        "r2": 0.0,
        "ema": None,
    } | options
    draws, kind = torch.Generator().manual_seed(seed), given["loss"]
    move_g, move_d = (
        torch.optim.Adam(player.parameters(), lr, betas=given["betas"]) for player, lr in ((G, lr_g), (D, lr_d))
    )
    mean, history = copy.deepcopy(G), []
    for k, x in enumerate(real, 1):
        fake = G(torch.randn(len(x), Z, generator=draws).double())
        d, f = D(x).flatten(), D(fake.detach()).flatten()
        loss = {
            "ns": -F.logsigmoid(d) - F.logsigmoid(-f),
            "wgan-gp": f - d,
            "hinge": (1 - d).clamp(min=0) + (1 + f).clamp(min=0),
            "rpgan": -F.logsigmoid(d - f),
        }[kind].mean()
        if kind == "wgan-gp":
            e = torch.rand(len(x), generator=draws).double().view(-1, 1, 1, 1)
            slopes = (penalty(D, x + e * (fake.detach() - x)) + 1e-12).sqrt()
            loss = loss + given["gp"] * (slopes - 1).square().mean()
        if given["r1"] or given["r2"]:
            loss = loss + given["r1"] / 2 * penalty(D, x).mean() + given["r2"] / 2 * penalty(D, fake).mean()
        move_d.zero_grad()
        loss.backward(inputs=list(D.parameters()))
        move_d.step()
        history.append({"critic": loss.item()})
        if k % given["n_critic"] == 0:
            f = D(fake).flatten()
            d = D(x).flatten() if kind == "rpgan" else f
            loss = {"ns": -F.logsigmoid(f), "rpgan": -F.logsigmoid(f - d)}.get(kind, -f).mean()
            move_g.zero_grad()
            loss.backward(inputs=list(G.parameters()))
            move_g.step()
            history[-1]["generator"] = loss.item()
            if given["ema"] is None:
                mean.load_state_dict(G.state_dict())
            else:
                with torch.no_grad():
                    for old, new in zip(mean.parameters(), G.parameters(), strict=True):
                        old.copy_(given["ema"] * old + (1 - given["ema"]) * new)
                    for old, new in zip(mean.buffers(), G.buffers(), strict=True):
                        old.copy_(new)
    return history, mean


def close(found: nn.Module, wanted: nn.Module, tol: float) -> None:
    torch.testing.assert_close(found.state_dict(), wanted.state_dict(), rtol=tol, atol=tol)


def equal(found: Any, wanted: Any) -> None:
    """Bit for bit, in nested dicts and lists."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            equal(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            equal(one, other)
    elif isinstance(wanted, Tensor):
        assert torch.equal(found, wanted)
    else:
        assert found == wanted


@every_case
def test_a_pair_moves_as_in_a_bare_loop(case: Case) -> None:
    real = batches(6)
    players = TTUR(*case.pair(0), lr_g=0.02, lr_d=0.05, seed=4, **case.options)
    losses = [players.step(x) for x in real]
    G, D = case.pair(0)
    wanted, mean = by_hand(G, D, real, lr_g=0.02, lr_d=0.05, seed=4, options=case.options)
    for found, hand in zip(losses, wanted, strict=True):
        assert {name: value.item() for name, value in found.items()} == pytest.approx(hand, rel=1e-8, abs=1e-9)
        assert not any(value.requires_grad or value.ndim for value in found.values())
    close(players.G, G, case.tol)
    close(players.D, D, case.tol)
    close(players.players()[0], mean, case.tol)
    assert (players.updates, players.ema is None) == (6, "ema" not in case.options)


@every_case
def test_pairs_side_by_side_move_as_each_alone(case: Case) -> None:
    rates_g, rates_d, seeds = (0.02, 0.01, 0.03), (0.05, 0.002, 0.01), (5, 0, 5)
    real = batches(5, pairs=3)
    made = [case.pair(seed) for seed in (0, 1, 2)]
    G, D = zip(*made, strict=True)
    stack = TTUR(G, D, lr_g=rates_g, lr_d=rates_d, seed=seeds, **case.options)
    found = [stack.step(x) for x in real]
    for place, (g, d) in enumerate(made):
        alone = TTUR(g, d, lr_g=rates_g[place], lr_d=rates_d[place], seed=seeds[place], **case.options)
        for x, stacked in zip(real, found, strict=True):
            for name, loss in alone.step(x[place * ROWS : (place + 1) * ROWS]).items():
                torch.testing.assert_close(stacked[name][place], loss, rtol=1e-9, atol=1e-9)
        close(stack.players()[place], alone.players()[0], case.tol)
        close(unstack(stack.D, d)[place], d, case.tol)
        torch.testing.assert_close(stack.sample(4)[place], alone.sample(4), rtol=1e-7, atol=1e-7)


def test_pairs_of_one_seed_see_the_same_numbers() -> None:
    g, d = CASES["wgan-gp"].pair(0)
    players = TTUR([g] * 3, [d] * 3, lr_g=0.01, lr_d=0.01, loss="wgan-gp", seed=[7, 2, 7])
    x = batches(1)[0]
    for _ in range(2):
        losses = players.step(torch.cat([x] * 3))
        for loss in losses.values():
            assert loss[0] == pytest.approx(loss[2].item(), rel=1e-12)
            assert abs(loss[0] - loss[1]) > 1e-9


@pytest.mark.parametrize("cut", [1, 4, 5])
@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("name", ["ns, conv", "wgan-gp", "rpgan, r1 r2"])
def test_two_halves_are_the_whole_bit_for_bit(name: str, pairs: int, cut: int, tmp_path: Path) -> None:
    case, real, file = CASES[name], batches(7, pairs), tmp_path / "game.safetensors"

    def players(seed: int) -> TTUR:
        G, D = zip(*(case.pair(seed + place) for place in range(pairs)), strict=True)
        rates = [0.01, 0.02][:pairs]
        return TTUR(G, D, lr_g=rates, lr_d=rates[::-1], seed=list(range(pairs)), **case.options)

    whole, first, second = players(0), players(0), players(50)
    wanted = [whole.step(x) for x in real]
    assert not resume_training(file, {"players": first})
    for x in real[:cut]:
        first.step(x)
        first.sample(3)  # leaves the training's numbers alone
    save_training(file, {"players": first})
    second.step(real[-1])  # whatever it was before does not matter
    assert resume_training(file, {"players": second})
    equal([second.step(x) for x in real[cut:]], wanted[cut:])
    states = second.state_dict(), whole.state_dict()
    for state in states:
        for player in ("generator", "critic"):
            del state[player]["optimizer"]["param_groups"]  # whose options torch completes when it loads
    equal(*states)
    equal(second.sample(5), whole.sample(5))


class TestDivergence:
    """By a NaN among the images of one pair, or by a rate that throws weights out of float32."""

    def players(self, pairs: int = 3, **options: Any) -> TTUR:
        made = [CASES["ns"].pair(seed) for seed in range(pairs)]
        G, D = zip(*((g.float(), d.float()) for g, d in made), strict=True)
        return TTUR(G, D, **({"lr_g": 0.01, "lr_d": 0.01, "seed": list(range(pairs))} | options))

    def images(self, steps: int, *, bad: dict[int, int] | None = None, pairs: int = 3) -> list[Tensor]:
        """`bad`: pair -> the update from which on it meets a NaN."""
        found = [x.float() for x in batches(steps, pairs)]
        for place, update in (bad or {}).items():
            for x in found[update - 1 :]:
                x[place * ROWS] = torch.nan
        return found

    def test_one_of_several_is_noted_and_the_others_train_on(self) -> None:
        players, others = self.players(ema=0.5), self.players(ema=0.5)
        for x, clean in zip(self.images(5, bad={1: 3}), self.images(5), strict=True):
            losses, wanted = players.step(x), others.step(clean)
        assert players.diverged == {1: 3}
        assert losses["critic"].isnan().tolist() == losses["generator"].isnan().tolist() == [False, True, False]
        equal(losses["critic"][[0, 2]], wanted["critic"][[0, 2]])
        equal(players.sample(4)[[0, 2]], others.sample(4)[[0, 2]])
        assert players.sample(4)[1].isnan().all()

    def test_all_of_several(self) -> None:
        players = self.players()
        real = self.images(6, bad={0: 4, 1: 2, 2: 5})
        for x in real[:4]:
            players.step(x)
        with pytest.raises(TrainingDiverged, match="all 3 networks became nan at step 5"):
            players.step(real[4])
        assert players.diverged == {0: 4, 1: 2, 2: 5}
        assert players.updates == 5

    def test_one_alone(self) -> None:
        players = self.players(pairs=1, n_critic=2)
        real = self.images(3, bad={0: 3}, pairs=1)
        for x in real[:2]:
            players.step(x)
        assert players.diverged == {}
        with pytest.raises(TrainingDiverged, match="became nan at step 3"):
            players.step(real[2])
        assert players.diverged == {0: 3}

    def test_the_generator_first_counts_in_updates(self) -> None:
        """The critic's fourth step throws it out of float32: the generator, in its second, meets that first."""
        for pairs in (1, 2):
            players = self.players(pairs=pairs, n_critic=2)
            for k, x in enumerate(self.images(5, pairs=pairs), 1):
                if k == 4:
                    players.critic.lr = 1e38 if pairs == 1 else torch.tensor([0.01, 1e38])
                try:
                    players.step(x)
                except TrainingDiverged:
                    break
            assert players.diverged == {pairs - 1: 4}
            assert all(p.requires_grad for p in players.D.parameters())

    def test_it_is_kept_in_a_state(self, tmp_path: Path) -> None:
        players, again, file = self.players(), self.players(), tmp_path / "game.safetensors"
        for x in self.images(3, bad={2: 2}):
            players.step(x)
        save_training(file, {"players": players})
        resume_training(file, {"players": again})
        assert again.diverged == {2: 2}
        assert again.sample(2).isnan().flatten(1).all(1).tolist() == [False, False, True]

    def test_late_looks_find_the_right_update(self) -> None:
        """As on a GPU, where losses are looked at every 20 steps."""
        for end in ("check", "state_dict"):
            players = self.players(n_critic=2)
            for player in (players.critic, players.generator):
                player.device = torch.device("meta")
            for x in self.images(7, bad={0: 3, 2: 4}):
                players.step(x)
            assert players.diverged == {}
            getattr(players, end)()
            assert players.diverged == {0: 3, 2: 4}
        for x in self.images(1, bad={0: 1, 1: 1, 2: 1}):
            players.step(x)
        with pytest.raises(TrainingDiverged):
            players.check()
        assert players.diverged == {0: 3, 1: 8, 2: 4}


class Looks(TorchDispatchMode):
    """Counts numbers that are read out of tensors other than an optimizer's counters, which live on the CPU."""

    def __init__(self, counters: Sequence[Tensor]) -> None:
        super().__init__()
        self.counters, self.found = {counter.data_ptr() for counter in counters}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.found += reads and args[0].data_ptr() not in self.counters
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("pairs", [1, 3])
@every_case
def test_no_step_on_a_gpu_waits_for_a_number(case: Case, pairs: int) -> None:
    G, D = zip(*(case.pair(seed) for seed in range(pairs)), strict=True)
    players = TTUR(G, D, lr_g=0.01, lr_d=0.01, seed=[0] * pairs, **case.options)
    real = batches(8, pairs)
    for x in real[:3]:
        players.step(x)
    steppers = players.critic, players.generator
    counters = [state["step"] for player in steppers for state in player.optimizer.state.values()]
    with Looks(counters) as looks:
        players.step(real[3])
        assert looks.found > 0, "a CPU's losses are looked at at once"
        for player in steppers:
            player.device = torch.device("meta")  # what a stepper asks to know whether a look is free
        looks.found = 0
        for x in real[4:]:
            players.step(x)
    assert looks.found == 0


class TestSamples:
    def test_they_come_from_the_average_in_eval_mode(self) -> None:
        case = CASES["ns, conv"]
        players = TTUR(*case.pair(0), lr_g=0.05, lr_d=0.01, **case.options)
        for x in batches(4):
            players.step(x)
        mean = players.players()[0].eval()
        z = torch.randn(7, Z, generator=torch.Generator().manual_seed(3)).double()
        found = players.sample(7, seed=3)
        torch.testing.assert_close(found, mean(z), rtol=1e-12, atol=1e-12)
        assert found.shape == (7, 1, SIDE, SIDE)
        assert not found.requires_grad
        assert (players.sample(7, seed=3, batch_size=3) - found).abs().max() < 1e-12
        assert (players.sample(7, seed=4) - found).abs().min() > 0
        assert (players.G.eval()(z) - found).abs().max() > 1e-4
        assert all(module.training for module in players.ema.modules())

    def test_all_pairs_are_shown_the_same_z(self) -> None:
        g, d = CASES["ns"].pair(0)
        players = TTUR([g] * 3, [d] * 3, lr_g=0.01, lr_d=0.01, seed=[0, 1, 2])
        found = players.sample(5, batch_size=2)
        assert found.shape == (3, 5, 1, SIDE, SIDE)
        torch.testing.assert_close(found[1], found[0])
        torch.testing.assert_close(found[0], players.players()[2](
            torch.randn(5, Z, generator=torch.Generator().manual_seed(0)).double()
        ))  # fmt: skip


def test_operations_by_hand() -> None:
    """A product of (B, in) and (in, out) takes 2 B in out; the gradients for weights and for inputs cost as much."""
    width, rows, pixels = 5, ROWS, SIDE * SIDE
    layers_g, layers_d = [Z * width, width * width, width * pixels], [pixels * width, width * width, width]
    g, d = 2 * rows * sum(layers_g), 2 * rows * sum(layers_d)
    first_g, first_d = 2 * rows * layers_g[0], 2 * rows * layers_d[0]
    alone = g + 2 * (3 * d - first_d)  # of real and generated rows; the first layer has no gradient for its inputs
    both = alone + 2 * g - first_g + 2 * d  # no gradient for the critic's weights
    pair = CASES["ns"].pair(0)
    for players in (
        TTUR(*pair, lr_g=0.1, lr_d=0.1),
        TTUR([pair[0]] * 3, [pair[1]] * 3, lr_g=0.1, lr_d=0.1, n_critic=5),
    ):
        before = copy.deepcopy(players.state_dict())
        assert players.operations(batches(1, players.count)[0]) == (alone, both)
        equal(players.state_dict(), before)
    penalised = TTUR(*pair, lr_g=0.1, lr_d=0.1, loss="wgan-gp").operations(batches(1)[0])
    assert penalised[0] > 1.3 * alone
    assert penalised[1] - penalised[0] == both - alone
    without = TTUR(*pair, lr_g=0.1, lr_d=0.1, loss="wgan-gp", gp=0.0).operations(batches(1)[0])
    assert without == (alone, both)


def test_the_generator_makes_no_graph_where_it_does_not_move() -> None:
    g, d = CASES["ns"].pair(0)
    graphs: list[bool] = []
    g.register_forward_hook(lambda module, inputs, images: graphs.append(images.requires_grad))
    players = TTUR(g, d, lr_g=0.1, lr_d=0.1, n_critic=3)
    for x in batches(4):
        players.step(x)
    assert graphs == [False, False, True, False]


def test_one_pair_is_trained_in_place_and_several_are_copied() -> None:
    g, d = CASES["ns"].pair(0)
    before = copy.deepcopy((g, d))
    TTUR([g, g], [d, d], lr_g=0.1, lr_d=0.1).step(batches(1, 2)[0])
    close(g, before[0], 0)
    close(d, before[1], 0)
    players = TTUR(g, d, lr_g=0.1, lr_d=0.1)
    assert (players.G is g, players.D is d) == (True, True)


def test_frozen_layers_stay_frozen() -> None:
    for pairs in (1, 2):
        g, d = CASES["ns"].pair(0)
        d[1].requires_grad_(False)
        before = d[1].weight.clone()
        players = TTUR([g] * pairs, [d] * pairs, lr_g=0.1, lr_d=0.1)
        for x in batches(2, pairs):
            players.step(x)
        frozen = unstack(players.D, d)[0][1] if pairs > 1 else d[1]
        assert torch.equal(frozen.weight, before)
        assert [p.requires_grad for p in players.D.parameters()] == [False, False, True, True, True, True]


def test_bytes_and_back() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_uint8(codes.to(dtype) / 127.5 - 1), codes)
    assert to_uint8(torch.tensor([-1.0, -0.999, 0.9999, 1.0, 1.5, -3.0])).tolist() == [0, 0, 255, 255, 255, 0]
    assert to_uint8(torch.tensor([0.5, -0.25])).tolist() == [191, 96]
