"""JEM: the replay buffer and the contrastive term."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import defenses
from flatlab.defenses.jem import Jem


class Slope(nn.Module):
    """Logits (s + w.x, s + w.x): LSE f = w.x + log 2, with gradient w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.w)[:, None].expand(-1, 2)


X = torch.rand(6, 1, 1, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def jem(**hyper) -> Jem:
    made = defenses.make("jem", **{"eps": 0.1, "buffer_size": 10, "steps": 4, "reinit": 0.0, "std": 0.0, **hyper})
    assert isinstance(made, Jem)
    return made


def test_chains_climb_the_density_and_go_back_to_their_place() -> None:
    defense = jem(lr=0.05)
    defense.sample(Slope(), X)
    assert defense.buffer is not None
    before = defense.buffer.clone()
    samples = defense.sample(Slope(), X)
    moved = (defense.buffer - before).flatten(1)
    changed = moved.abs().sum(1) > 0
    assert int(changed.sum()) == 6, "as many distinct chains as rows"
    torch.testing.assert_close(moved[changed], torch.tensor([0.2, -0.4]).expand(6, 2))
    assert {tuple(row) for row in samples.flatten(1).tolist()} == {
        tuple(r) for r in defense.buffer[changed].flatten(1).tolist()
    }


def test_the_buffer_starts_uniform() -> None:
    defense = jem(lr=1e-12, buffer_size=2000)
    defense.sample(Slope(), X)
    assert defense.buffer is not None
    assert defense.buffer.shape == (2000, 1, 1, 2)
    assert 0 <= defense.buffer.min() < 0.01
    assert 0.99 < defense.buffer.max() <= 1
    assert defense.buffer.mean() == pytest.approx(0.5, abs=0.03)


def test_reinitialized_chains_start_in_the_box() -> None:
    defense = jem(lr=1e-12, buffer_size=6, reinit=0.25)
    fresh, total = 0, 0
    for _ in range(200):
        defense.buffer = torch.full((6, 1, 1, 2), 5.0)
        fresh += int((defense.sample(Slope(), X).flatten(1) <= 1.001).all(1).sum())
        total += 6
    assert fresh / total == pytest.approx(0.25, abs=0.05)


def test_langevin_noise_accumulates_over_steps() -> None:
    defense = jem(lr=1e-12, buffer_size=4000, steps=9, std=0.1)
    x = X[:1].expand(4000, -1, -1, -1)
    defense.buffer = torch.zeros(4000, 1, 1, 2)
    assert defense.sample(Slope(), x).std() == pytest.approx(0.3, rel=0.05)


def test_each_seed_keeps_its_own_chains() -> None:
    both, alone = jem().seeded([3, 4]), jem().seeded(4)
    other = torch.rand(6, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        together = both.sample(Slope(), torch.cat([X, other]))
        torch.testing.assert_close(together[6:], alone.sample(Slope(), other))
    assert both.buffer is not None
    torch.testing.assert_close(both.buffer[10:], alone.buffer)


def test_objective_is_cross_entropy_plus_contrast_of_densities() -> None:
    model, defense, twin = Slope(), jem(sigma=0.0, weight=2.0, l2=0.5), jem(sigma=0.0)
    samples, loss = twin.sample(model, X), defense(model, X, Y)
    fake, real = model(samples).logsumexp(1), model(X).logsumexp(1)
    penalty = 2.0 * (fake - real).mean() + 0.5 * (fake.square() + real.square()).mean()
    torch.testing.assert_close(loss, F.cross_entropy(model(X), Y) + penalty)


def test_samples_carry_no_gradient_of_the_chain() -> None:
    model = Slope()
    samples = jem().sample(model, X)
    assert not samples.requires_grad
    loss = jem(sigma=0.0)(model, X, Y)
    (found,) = torch.autograd.grad(loss, model.w)
    expected = (samples.mean(0) - X.mean(0)).flatten()  # the classes are equal, so the cross-entropy is flat
    torch.testing.assert_close(found, expected)


def test_misfits_are_refused() -> None:
    defense = jem()
    with pytest.raises(ValueError, match="buffer_size=10 is smaller than the batch of 12"):
        defense(Slope(), X.repeat(2, 1, 1, 1), Y.repeat(2))
    defense(Slope(), X, Y)
    with pytest.raises(ValueError, match="seeded"):
        defense(nn.Flatten(), torch.rand(6, 3), Y)
    with pytest.raises(ValueError, match="reinit"):
        jem(reinit=1.5)
