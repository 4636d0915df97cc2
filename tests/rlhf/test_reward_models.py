"""Preference pairs, what a reward model computes, and that it learns the order of pairs."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flatlab.rlhf import RewardModel, TinyGPT, bradley_terry_loss, preference_pairs, train_reward_model
from flatlab.train import Recipe

SYMBOLS, PAD, LIKED = 7, 6, 2


def trunk(seed: int = 0, *, context: int = 12) -> TinyGPT:
    torch.manual_seed(seed)
    return TinyGPT(SYMBOLS, width=16, layers=1, heads=2, context=context)


def texts(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(SYMBOLS - 1, shape, generator=torch.Generator().manual_seed(seed))


def gold(x: Tensor) -> Tensor:
    """How often one token is there."""
    return (x == LIKED).sum(1).float()


def first(x: Tensor) -> Tensor:
    return x[:, 0].float()


# --- pairs ------------------------------------------------------------------------------------------------------------

ON, OFF = texts(40, 2, 8), texts(40, 2, 8) + 100  # whoever made a text can be told from its tokens


def from_on(pairs: Tensor) -> Tensor:
    """For which prompts both texts are the policy's, (P,)."""
    mine = (pairs < 100).flatten(1)
    assert torch.equal(mine.any(1), mine.all(1))
    return mine[:, 0]


def same_texts(pairs: Tensor, source: Tensor) -> bool:
    """Whether each pair holds the two texts of its row in the source."""
    straight, crossed = (pairs == source).flatten(1).all(1), (pairs == source.flip(1)).flatten(1).all(1)
    return bool((straight | crossed).all())


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.25, 10), (0.5, 20), (0.99, 40), (1.0, 40)])
def test_a_fraction_of_the_prompts_has_the_policys_texts(fraction: float, count: int) -> None:
    before = ON.clone(), OFF.clone()
    pairs = preference_pairs(ON, OFF, first, fraction, seed=0)
    mine = from_on(pairs)
    assert pairs.shape == ON.shape
    assert int(mine.sum()) == count
    assert same_texts(pairs[mine], ON[mine])
    assert same_texts(pairs[~mine], OFF[~mine])
    assert (first(pairs[:, 0]) >= first(pairs[:, 1])).all()
    assert torch.equal(ON, before[0])
    assert torch.equal(OFF, before[1])


def test_the_better_text_is_first_and_ties_keep_their_order() -> None:
    on = torch.tensor([[[1, 0], [2, 0]], [[2, 0], [1, 0]], [[3, 0], [3, 1]], [[3, 1], [3, 0]]])
    pairs = preference_pairs(on, on, first, 0.5, seed=0)
    assert pairs.tolist() == [[[2, 0], [1, 0]], [[2, 0], [1, 0]], [[3, 0], [3, 1]], [[3, 1], [3, 0]]]


def test_larger_fractions_hold_the_smaller_ones() -> None:
    masks = [from_on(preference_pairs(ON, OFF, first, f / 8, seed=3)) for f in range(9)]
    for smaller, larger in itertools.pairwise(masks):
        assert (smaller <= larger).all()
        assert smaller.sum() < larger.sum()
    assert not torch.equal(masks[4], torch.arange(40) < 20)
    assert torch.equal(masks[4], from_on(preference_pairs(ON, OFF, first, 0.5, seed=3)))
    assert not torch.equal(masks[4], from_on(preference_pairs(ON, OFF, first, 0.5, seed=4)))


def test_gold_sees_whole_texts_only_once() -> None:
    seen = []

    def judge(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x[:, -1].float()

    pairs = preference_pairs(ON, OFF, judge, 1.0, seed=0)
    assert len(seen) == 1
    assert torch.equal(seen[0].view_as(ON), ON)
    assert (pairs[:, 0, -1] >= pairs[:, 1, -1]).all()


def with_row(value: float) -> Callable[[Tensor], Tensor]:
    """A reward that is wrong for text 5."""
    return lambda x: torch.where(torch.arange(len(x)) == 5, value, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preference_pairs(ON, OFF, first, -0.1, 0), r"on_policy_fraction must lie in \[0, 1\], got -0.1"),
        (lambda: preference_pairs(ON, OFF, first, 1.1, 0), "on_policy_fraction"),
        (lambda: preference_pairs(ON, OFF, first, float("nan"), 0), "on_policy_fraction"),
        (lambda: preference_pairs(ON, OFF[1:], first, 0.5, 0), r"\(P, 2, T\), got \(40, 2, 8\) and \(39, 2, 8\)"),
        (lambda: preference_pairs(ON[:, 0], OFF[:, 0], first, 0.5, 0), r"\(P, 2, T\)"),
        (lambda: preference_pairs(texts(4, 3, 8), texts(4, 3, 8), first, 0.5, 0), r"\(P, 2, T\)"),
        (lambda: preference_pairs(ON[:0], OFF[:0], first, 0.5, 0), r"\(P, 2, T\)"),
        (lambda: preference_pairs(ON, OFF, lambda x: x[1:, 0], 0.5, 0), r"each of 80 texts, got shape \(79,\)"),
        (lambda: preference_pairs(ON, OFF, lambda x: x, 0.5, 0), r"gold must return one number.*\(80, 8\)"),
        (lambda: preference_pairs(ON, OFF, with_row(float("nan")), 0.5, 0), "gold returned nan for text 5"),
        (lambda: preference_pairs(ON, OFF, with_row(-torch.inf), 0.5, 0), "gold returned -inf for text 5"),
    ],
)
def test_bad_pairs(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- what a reward model computes -------------------------------------------------------------------------------------


def by_hand(model: RewardModel, text: Tensor) -> Tensor:
    """The reward of one text without padding, (T,)."""
    hidden = model.trunk.hidden(text[None])[0]
    pooled = hidden.mean(0) if model.pool == "mean" else hidden[-1]
    return pooled @ model.score.weight[0] + model.score.bias[0]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_rewards_by_hand_and_padding_counts_for_nothing(pool: str) -> None:
    model = RewardModel(trunk(), pool=pool, pad=PAD)
    torch.nn.init.constant_(model.score.bias, 0.7)
    x = texts(5, 8)
    padded = x.clone()
    padded[0, :3] = padded[1, 5:] = padded[2, :2] = padded[2, 7:] = PAD
    cut = [x[0, 3:], x[1, :5], x[2, 2:7], x[3], x[4]]
    found, wanted = model(padded), torch.stack([by_hand(model, text) for text in cut])
    assert found.shape == (5,)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert ((model(x) - found)[:3].abs() > 1e-4).all()
    longer = torch.cat([padded, torch.full((5, 4), PAD)], 1)
    torch.testing.assert_close(model(longer), found, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(longer.roll(4, 1)), found, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(padded[:, :3], padded[:, 3:])[1:], found[1:], rtol=0, atol=1e-6)
    without = RewardModel(trunk(), pool=pool)
    without.load_state_dict(model.state_dict())
    torch.testing.assert_close(without(x), torch.stack([by_hand(model, text) for text in x]), rtol=0, atol=1e-6)


def test_the_two_ways_of_pooling_differ() -> None:
    one, other = RewardModel(trunk()), RewardModel(trunk(), pool="last")
    assert not torch.allclose(one(ON[:, 0]), other(ON[:, 0]))
    assert torch.equal(one(ON[:, 0]), RewardModel(trunk(), pool="mean")(ON[:, 0]))


def test_a_reward_model_has_a_copy_of_the_trunk_and_a_head_of_its_seed() -> None:
    init = trunk()
    model, other, again = RewardModel(init, seed=1), RewardModel(init, seed=2), RewardModel(init, seed=1)
    assert torch.equal(model.score.weight, again.score.weight)
    assert not torch.equal(model.score.weight, other.score.weight)
    assert model.score.bias.tolist() == [0]
    assert 0.5 < model.score.weight.norm().item() < 1.5
    before = model(ON[:, 0])
    with torch.no_grad():
        init.embedding.weight.add_(1)
    assert torch.equal(model(ON[:, 0]), before)


# --- training ---------------------------------------------------------------------------------------------------------

RECIPE = Recipe(epochs=6, batch_size=32, lr=3e-3, optimizer=torch.optim.AdamW, schedule="constant")


def easy(seed: int, count: int = 256) -> Tensor:
    """Pairs of texts in which one has more of the liked token."""
    on = texts(2 * count, 2, 8, seed=seed)
    pairs = preference_pairs(on, on, gold, 1.0, seed=0)
    return pairs[gold(pairs[:, 0]) > gold(pairs[:, 1])][:count]


def trained(seed: int = 0, **options: Any) -> RewardModel:
    return train_reward_model(easy(0), trunk(), recipe=RECIPE, seed=seed, **options)


@torch.no_grad()
def gaps(model: RewardModel, pairs: Tensor) -> Tensor:
    return model(pairs[:, 0]) - model(pairs[:, 1])


@torch.no_grad()
def loss(model: RewardModel, pairs: Tensor) -> float:
    return float(bradley_terry_loss(model(pairs[:, 0]), model(pairs[:, 1]), 0.0))


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_training_learns_the_order(pool: str) -> None:
    before, init = RewardModel(trunk(), pool=pool), trunk()
    weights, mode = copy.deepcopy(init.state_dict()), init.training
    model = train_reward_model(easy(0), init, recipe=RECIPE, pool=pool, pad=PAD)
    held_out = easy(1, 400)
    assert loss(model, easy(0)) < 0.5 * loss(before, easy(0))
    assert loss(model, held_out) < 0.7 * loss(before, held_out)
    assert float((gaps(model, held_out) > 0).float().mean()) > 0.85
    assert all(torch.equal(value, weights[name]) for name, value in init.state_dict().items())
    assert init.training == mode
    assert (model.pool, model.pad) == (pool, PAD)
    assert not any(module.training for module in model.modules())


def test_the_default_recipe_is_one_epoch() -> None:
    before, model = RewardModel(trunk()), train_reward_model(easy(0), trunk())
    assert loss(model, easy(0)) < loss(before, easy(0))
    explicit = Recipe(epochs=1, batch_size=64, lr=1e-3, optimizer=torch.optim.AdamW, schedule="constant")
    same = train_reward_model(easy(0), trunk(), recipe=explicit)
    assert torch.equal(model(ON[:, 0]), same(ON[:, 0]))


def test_a_step_by_hand() -> None:
    pairs, margins, by_hand = easy(0, 32), torch.arange(32.0) / 8, RewardModel(trunk())
    once = Recipe(epochs=1, batch_size=32, lr=0.5, optimizer=torch.optim.SGD, schedule="constant", grad_clip=None)
    model = train_reward_model(pairs, trunk(), center=0.3, margin=margins, recipe=once)
    bradley_terry_loss(by_hand(pairs[:, 0]), by_hand(pairs[:, 1]), 0.3, margins).backward()
    for mine, start in zip(model.parameters(), by_hand.parameters(), strict=True):
        step = 0 if start.grad is None else 0.5 * start.grad  # the trunk's own head has none
        torch.testing.assert_close(mine, start - step, rtol=0, atol=1e-6)


def test_a_seed_is_a_head_and_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model, same, other = trained(), trained(), trained(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert not torch.equal(model(ON[:, 0]), other(ON[:, 0]))
    untrained = train_reward_model(easy(0), trunk(), recipe=Recipe(epochs=0), seed=1)
    assert torch.equal(untrained.score.weight, RewardModel(trunk(), seed=1).score.weight)
    seen, forward = [], RewardModel.forward

    def recording(self: RewardModel, x: Tensor) -> Tensor:
        seen.append(x.clone())
        return forward(self, x)

    monkeypatch.setattr(RewardModel, "forward", recording)
    for seed in (0, 0, 1):
        train_reward_model(easy(0), trunk(), recipe=Recipe(epochs=1, batch_size=256), seed=seed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_the_centre_draws_rewards_to_zero() -> None:
    pairs = easy(0)
    sums = {
        center: trained(center=center)(pairs.flatten(0, 1)).view(-1, 2).sum(1).square().mean().item()
        for center in (0.0, 0.01, 1.0)
    }
    assert sums[1.0] < 0.5 * sums[0.01] < sums[0.0]


def test_a_margin_widens_the_gap() -> None:
    pairs = easy(0)
    plain, wide = trained(), trained(margin=3.0)
    assert float(gaps(wide, pairs).mean()) > float(gaps(plain, pairs).mean()) + 0.5
    none = trained(margin=0.0)
    assert torch.equal(gaps(none, pairs), gaps(plain, pairs))
    assert torch.equal(gaps(trained(margin=torch.full((256,), 3.0)), pairs), gaps(wide, pairs))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RewardModel(trunk(), pool="first"), "pool.*mean, last"),
        (lambda: RewardModel(trunk(), pad=PAD)(torch.tensor([[1, 2], [PAD, PAD]])), "row 1 holds nothing but padding"),
        (lambda: RewardModel(trunk())(texts(2, 8), texts(2, 5)), "13 tokens do not fit into context=12"),
        (lambda: RewardModel(trunk())(OFF[:, 0]), r"tokens 0\.\.6 of the vocabulary"),
        (lambda: train_reward_model(texts(4, 3, 8), trunk()), r"\(P, 2, T\) with P >= 1, got \(4, 3, 8\)"),
        (lambda: train_reward_model(texts(4, 8), trunk()), r"\(P, 2, T\) with P >= 1"),
        (lambda: train_reward_model(ON[:0], trunk()), r"\(P, 2, T\) with P >= 1"),
        (lambda: train_reward_model(OFF, trunk()), "of the vocabulary"),
        (lambda: train_reward_model(ON, trunk(), center=-1.0), "center"),
        (lambda: train_reward_model(ON, trunk(), margin=torch.zeros(3)), r"margin must be a number or \(40,\)"),
        (lambda: train_reward_model(ON, trunk(), margin=float("nan")), "margin"),
    ],
)
def test_bad_reward_models(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
