"""One step for every kind of training: each kind is trained here for real, on a small problem."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import data
from flatlab.models import build
from flatlab.optim import SAM, AdamCM, StackedAdam
from flatlab.rng import SeedGenerators
from flatlab.train import Recipe, Stepper, TrainingDiverged, fit, resume_training, save_training

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(inputs: int, outputs: int, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(generator=generator(seed)).mul_(0.1)
        layer.bias.zero_()
    return layer


def state(*modules: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def rows(x: Tensor, y: object = None) -> object:
    return type("Rows", (), {"x": x, "y": y})()


class TestKindsOfTraining:
    def test_unlabelled_data(self):
        """An autoencoder with one hidden unit finds the line on which the data lie."""
        along = torch.randn(200, 1, generator=generator())
        net = nn.Sequential(linear(2, 1), linear(1, 2, seed=1))

        def reconstruct(model: nn.Module, x: Tensor, y: None, step_fraction: float) -> Tensor:
            assert y is None
            return (model(x) - x).square().mean()

        history = fit(
            net, rows(along * torch.tensor([0.6, 0.8])), reconstruct, Recipe(epochs=60, lr=0.03, batch_size=50)
        )
        assert history.losses[-1] < 1e-3 < 0.1 < history.losses[0]

    def test_a_domain_per_sample(self):
        """Group DRO's weights by domain: a rare domain whose labels are turned counts as much as the common one."""
        x = torch.randn(400, 2, generator=generator())
        domain = (torch.arange(400) % 8 == 0).long()
        label = (x[:, 0] > 0).long()
        inputs = torch.cat([x, domain[:, None].float()], 1)
        label = torch.where(domain == 1, (x[:, 1] > 0).long(), label)

        def by_domain(model: nn.Module, x: Tensor, y: tuple[Tensor, Tensor], step_fraction: float) -> Tensor:
            labels, domains = y
            losses = F.cross_entropy(model(x), labels, reduction="none")
            return torch.stack([losses[domains == d].mean() for d in (0, 1) if (domains == d).any()]).mean()

        net = build("mlp", (3,), 2, seed=0, options={"widths": (32,)})
        fit(net, rows(inputs, (label, domain)), by_domain, Recipe(epochs=40, lr=0.01))
        right = net(inputs).argmax(1) == label
        assert min(right[domain == d].float().mean() for d in (0, 1)) > 0.9

    def test_data_drawn_inside_the_loss(self):
        """A policy over three arms learns by REINFORCE from rollouts that it draws itself."""
        logits, draws = nn.Parameter(torch.zeros(3)), generator()
        player = Stepper([logits], torch.optim.SGD, lr=0.5, schedule="cosine", total_steps=200)

        def rollout() -> Tensor:
            arms = torch.multinomial(logits.detach().softmax(0), 32, replacement=True, generator=draws)
            reward = (arms == 2).float()
            return -((reward - reward.mean()) * logits.log_softmax(0)[arms]).mean()

        while player.steps < 200:
            player.step(rollout)
        assert logits.softmax(0)[2] > 0.9
        assert player.optimizer.param_groups[0]["lr"] < 1e-3 * 0.5

    def test_noise_drawn_inside_the_loss(self):
        """Evolution strategies on a quadratic: nothing but noise goes in."""
        point, draws = nn.Parameter(torch.tensor([3.0, -2.0])), generator()
        player = Stepper([point], torch.optim.Adam, lr=0.1, grad_clip=1.0)
        for _ in range(300):
            player.step(lambda: (point + 0.1 * torch.randn(16, 2, generator=draws)).square().sum(1).mean())
        assert point.norm() < 0.1


class Game:
    """A generator that moves noise to a Gaussian at (2, -1), against a critic that takes three steps for one of its.

    The objectives of WGAN-GP (Gulrajani et al. 2017), small enough to know how they end.
    """

    def __init__(self) -> None:
        self.rng = SeedGenerators(0)
        self.generator, critic = linear(2, 2), nn.Sequential(linear(2, 16, seed=1), nn.Tanh(), linear(16, 1, seed=2))
        self.critic = critic
        adam = {"optimizer": torch.optim.Adam, "options": {"betas": (0.0, 0.9)}}
        self.moves = Stepper(self.generator.parameters(), lr=0.03, schedule="cosine", total_steps=150, **adam)
        self.judges = Stepper(critic.parameters(), lr=0.05, grad_clip=5.0, **adam)
        self.parts = {"generator": self.generator, "critic": self.critic, "moves": self.moves, "judges": self.judges}
        self.parts |= {"rng": self.rng}

    def critic_loss(self) -> Tensor:
        real = self.rng.normal((64, 2)) + torch.tensor([2.0, -1.0])
        fake = self.generator(self.rng.normal((64, 2))).detach()
        between = fake.lerp(real, self.rng.uniform((64, 1))).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return (self.critic(fake) - self.critic(real)).mean() + (slope.norm(dim=1) - 1).square().mean()

    def generator_loss(self) -> Tensor:
        return -self.critic(self.generator(self.rng.normal((64, 2)))).mean()

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            for _ in range(3):
                self.judges.step(self.critic_loss)
            self.moves.step(self.generator_loss)


class TestTwoPlayers:
    def test_each_has_its_rate_and_its_number_of_steps(self):
        game = Game()
        game.play(150)
        assert (game.judges.steps, game.moves.steps) == (450, 150)
        weight, bias = game.generator.weight.detach(), game.generator.bias.detach()
        torch.testing.assert_close(bias, torch.tensor([2.0, -1.0]), rtol=0, atol=0.3)
        torch.testing.assert_close(weight @ weight.T, torch.eye(2), rtol=0, atol=0.4)
        assert game.judges.optimizer.param_groups[0]["lr"] == 0.05
        assert game.moves.optimizer.param_groups[0]["lr"] < 1e-4

    def test_a_game_resumes_bit_equal(self, tmp_path: Path):
        file, whole, first = tmp_path / "game.safetensors", Game(), Game()
        whole.play(20)
        first.play(7)
        assert not resume_training(file, first.parts)
        save_training(file, first.parts, settings={"rounds": 20})
        resumed = Game()
        resumed.play(3)  # whatever it was before does not matter
        assert resume_training(file, resumed.parts, settings={"rounds": 20})
        resumed.play(13)
        assert torch.equal(state(resumed.generator, resumed.critic), state(whole.generator, whole.critic))
        assert (resumed.judges.steps, resumed.moves.steps) == (60, 20)
        with pytest.raises(ValueError, match=r"other settings \(rounds\)"):
            resume_training(file, resumed.parts, settings={"rounds": 21})
        del resumed.parts["critic"]
        with pytest.raises(ValueError, match=r"other settings \(critic\)"):
            resume_training(file, resumed.parts, settings={"rounds": 20})


class TestStackedNetworks:
    """Three linear models side by side, with a loss for each: (3, D) weights, (3,) losses."""

    X = torch.randn(40, 4, generator=generator())
    Y = X @ torch.tensor([1.0, -2.0, 0.5, 3.0])

    def train(
        self, optimizer, start: Tensor, *, steps: int = 30, mean: bool = False
    ) -> tuple[Tensor, Stepper, list[Tensor]]:
        w, x, y = nn.Parameter(start.clone()), self.X.to(start.device), self.Y.to(start.device)
        player = Stepper([w], optimizer, lr=0.05, grad_clip=1.0, networks=len(start))

        def loss() -> Tensor:
            each = (w @ x.T - y).square().mean(1)
            return each.mean() if mean else each

        losses = [player.step(loss) for _ in range(30)]
        player.check()
        return w.detach(), player, losses

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("mean", [False, True])
    @pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam, AdamCM, SAM])
    def test_one_that_diverges_is_frozen_and_leaves_the_others_alone(self, optimizer, mean, device):
        start = torch.randn(3, 4, generator=generator(1)).to(device)
        healthy, _, expected = self.train(optimizer, start, mean=mean)  # as many networks: products round alike
        start[1, 2] = 1e30  # its square overflows
        found, player, losses = self.train(optimizer, start, mean=mean)
        assert player.diverged == {1: 1}
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], healthy[[0, 2]])
        assert not torch.equal(found[0], start[0])
        if not mean:
            assert torch.equal(torch.stack(losses)[:, [0, 2]], torch.stack(expected)[:, [0, 2]])

    def test_each_is_recorded_with_its_own_step(self):
        w, weights = nn.Parameter(torch.ones(3, 2)), torch.ones(3)
        player = Stepper([w], torch.optim.SGD, lr=0.1, networks=3)
        for step in range(1, 8):
            weights[0] = torch.nan if step >= 5 else 1.0
            weights[2] = torch.inf if step >= 3 else 1.0
            player.step(lambda: weights * w.square().sum(1))
        assert player.diverged == {2: 3, 0: 5}
        assert w[1].isfinite().all()
        weights[1] = torch.nan
        with pytest.raises(TrainingDiverged, match="the loss of all 3 networks became nan at step 8"):
            player.step(lambda: weights * w.square().sum(1))

    def test_its_gradient_is_that_of_its_own_loss(self):
        start = torch.randn(3, 4, generator=generator(1))
        by_each, _, _ = self.train(torch.optim.SGD, start, mean=False)
        by_mean, _, _ = self.train(torch.optim.SGD, start, mean=True)
        torch.testing.assert_close(by_each, by_mean)
        for index in range(3):
            alone, _, _ = self.train(torch.optim.SGD, start[[index]])
            torch.testing.assert_close(by_each[[index]], alone)


def test_a_single_network_that_diverges_is_an_error_and_stays_as_it_is() -> None:
    w = nn.Parameter(torch.ones(2))
    player = Stepper([w], torch.optim.SGD, lr=1.0)
    player.step(lambda: w.sum())
    with pytest.raises(TrainingDiverged, match=r"became inf at step 2 \(last finite loss 2\); lower lr"):
        player.step(lambda: w.sum() + torch.inf)
    assert player.diverged == {}
    assert w.tolist() == [-1.0, -1.0]


def test_losses_are_not_looked_at_unless_asked() -> None:
    w = nn.Parameter(torch.ones(2, 1))
    player = Stepper([w], torch.optim.SGD, lr=1.0, networks=2, check_finite=False)
    factor = torch.tensor([1.0, torch.nan])
    for _ in range(3):
        player.step(lambda: factor * w.sum(1))
    assert player.diverged == {}
    assert w[0].isfinite()


class Careless(torch.optim.SGD):
    """An optimizer that does not turn gradients on for its closure, as torch's own do."""

    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        super().step()
        return loss


@pytest.mark.parametrize("shape", [(1,), ()])
def test_gradients_are_on_whoever_calls(shape) -> None:
    w = nn.Parameter(torch.ones(1))
    player = Stepper([w], Careless, lr=0.5)
    with torch.no_grad():
        loss = player.step(lambda: (2 * w).reshape(shape))
    assert (loss.item(), w.item()) == (2.0, 0.0)
    assert not loss.requires_grad


def test_a_rate_may_be_changed_between_steps_and_is_kept(tmp_path: Path) -> None:
    w = nn.Parameter(torch.zeros(1))
    player = Stepper([w], torch.optim.SGD, lr=1.0, schedule="cosine", total_steps=4)
    places = []
    for lr in (1.0, 1.0, 10.0, 10.0):
        player.lr = lr
        player.step(lambda: -w.sum())
        places.append(w.item())
    expected = [1.0, 1.0 + 0.853553, 1.853553 + 5.0, 6.853553 + 1.464466]
    assert places == pytest.approx(expected, rel=1e-5)
    again = Stepper([w], torch.optim.SGD, lr=1.0, schedule="cosine", total_steps=4)
    again.load_state_dict(player.state_dict())
    assert (again.lr, again.steps, again.fraction) == (10.0, 4, 1.0)


def test_each_network_may_have_a_rate_of_its_own_which_checkpoints_keep(tmp_path: Path) -> None:
    def player() -> tuple[nn.Parameter, Stepper]:
        w = nn.Parameter(torch.zeros(3, 1))
        rates = torch.tensor([1.0, 0.1, 0.0])
        return w, Stepper([w], StackedAdam, lr=rates, schedule="cosine", total_steps=4, networks=3)

    def play(w: nn.Parameter, stepper: Stepper, steps: int) -> None:
        for _ in range(steps):
            stepper.step(lambda: -w.sum(1))

    w, stepper = player()
    play(w, stepper, 2)  # of Adam along a constant slope: each is as long as its rate
    torch.testing.assert_close(w.detach(), torch.tensor([[1.853553], [0.1853553], [0.0]]))
    stepper.lr = 10 * stepper.lr
    save_training(tmp_path / "file", {"stepper": stepper})
    v, again = player()
    assert resume_training(tmp_path / "file", {"stepper": again})
    v.data.copy_(w.data)
    play(w, stepper, 2)
    play(v, again, 2)
    assert torch.equal(v, w)
    torch.testing.assert_close(w.detach(), torch.tensor([[8.318020], [0.8318020], [0.0]]))
    state = again.state_dict()
    stepper.load_state_dict(state)
    for lr in (again.lr, stepper.lr):
        lr.zero_()
    assert state["lr"].tolist() == [10.0, 1.0, 0.0], "a state is a copy"


def test_bad_arguments() -> None:
    w = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="nothing to train"):
        Stepper([torch.zeros(1)], torch.optim.SGD, lr=1.0)
    with pytest.raises(ValueError, match="schedule 'cosine' needs total_steps"):
        Stepper([w], torch.optim.SGD, lr=1.0, schedule="cosine")
    with pytest.raises(ValueError, match="grad_clip must be a finite number > 0, got 0"):
        Stepper([w], torch.optim.SGD, lr=1.0, grad_clip=0)
    with pytest.raises(ValueError, match="networks must be an integer >= 1, got 0"):
        Stepper([w], torch.optim.SGD, lr=1.0, networks=0)


def test_a_data_set_with_domains_and_labels_of_other_lengths_is_refused() -> None:
    digits = data.load_images("digits", "train", limit=20)
    with pytest.raises(ValueError, match=r"labels must have shape \(20,\)"):
        fit(linear(2, 2), rows(digits.x, (digits.y, digits.y[:5])), lambda *_: torch.zeros(()), Recipe(epochs=1))
