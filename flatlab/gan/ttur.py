"""Training a generator and a critic by alternating steps of Adam with a learning rate each (Heusel et al. 2017).

    critic      w <- w - Adam(lr_d, grad_w L_D(theta, w))        every step
    generator   theta <- theta - Adam(lr_g, grad_theta L_G(theta, w))        every n_critic-th step, after the critic

The theorem of the paper asks for rates that fall, the generator's faster than the critic's; all of its experiments, and
these, keep both constant. Where both players move, they share z and so one pass of the generator. Images and generated
images go through the critic in batches of their own where it normalises over batches.

    gan = TTUR(MLPGenerator(8), MLPDiscriminator(8), lr_g=5e-3, lr_d=1e-2)
    for _ in range(2000):
        losses = gan.step(draw(64))                          # (64, 1, 8, 8) in [-1, 1]
    images = to_uint8(gan.sample(1000))

S pairs of players of one architecture train side by side, each with its rates and its seed: give sequences of S modules
and of S numbers. Each then moves as it would alone.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatlab import checks
from flatlab.gan.losses import LOSSES
from flatlab.gan.penalties import between, one_centred, squared_slopes
from flatlab.models.stacked import stack_models, unstack
from flatlab.modes import evaluating
from flatlab.optim import StackedAdam
from flatlab.rng import SeedGenerators
from flatlab.train import Stepper, operations

Numbers = float | Sequence[float]


class TTUR:
    """Two players and their optimizers.

    Attributes:
        G, D: the players in training; of S pairs, S networks stacked in one module.
        ema: the running average of G's weights, or None.
        updates: calls of `step` so far.
        diverged: pair, by its place -> the update at which one of its losses was not finite. Of several pairs, its
            weights are NaN from then on, and the others train on. On a GPU this is known up to 20 updates later; see
            `check`.
    """

    def __init__(
        self,
        G: nn.Module | Sequence[nn.Module],
        D: nn.Module | Sequence[nn.Module],
        *,
        lr_g: Numbers,
        lr_d: Numbers,
        betas: tuple[float, float] = (0.5, 0.999),
        n_critic: int = 1,
        loss: str = "ns",
        gp: float = 10.0,
        r1: float = 0.0,
        r2: float = 0.0,
        ema: float | None = None,
        seed: int | Sequence[int] = 0,
    ) -> None:
        """Stack the players if there are several pairs, and make their optimizers.

        Args:
            G: the generator, (N, z_dim) -> (N, ...), which knows its `z_dim`; or S of them. One is trained in place,
                several are copied.
            D: the critic, (N, ...) -> (N,) or (N, 1); or S of them.
            lr_g, lr_d: learning rates, each one number or S.
            betas: of Adam, for both; WGAN-GP for images uses (0, 0.9).
            n_critic: steps of the critic for each of the generator.
            loss: one of `LOSSES`.
            gp: weight of the penalty on slopes that belongs to "wgan-gp"; other losses leave it out.
            r1, r2: weights of half the squared slopes at images and at generated images, with any loss.
            ema: share of the old average that a step of the generator keeps, such as 0.999; None for no average.
            seed: of z and of the places of penalties; or S of them. Pairs of one seed see the same numbers.

        Raises:
            ValueError: an argument out of range, sequences of other lengths, or a penalty on slopes for a critic with
                batch normalisation.
        """
        generators, critics = ([one] if isinstance(one, nn.Module) else list(one) for one in (G, D))
        self.count = len(generators)
        if not generators or len(critics) != self.count:
            raise ValueError(f"need as many critics as generators, at least one, got {len(critics)} and {self.count}")
        if not isinstance(z_dim := getattr(generators[0], "z_dim", None), int):
            raise ValueError("G has no z_dim, the number of numbers that it takes: set it, such as G.z_dim = 16")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}; (0.5, 0.999) is usual")
        self.z_dim, self.betas = checks.at_least("G.z_dim", z_dim, 1), betas
        self.n_critic, self.loss = checks.at_least("n_critic", n_critic, 1), checks.one_of("loss", loss, LOSSES)
        self.gp = checks.nonnegative("gp", gp) if loss == "wgan-gp" else 0.0
        self.r1, self.r2 = checks.nonnegative("r1", r1), checks.nonnegative("r2", r2)
        if ema is not None and not 0 <= ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {ema!r}; 0.999 is usual")
        self._like = copy.deepcopy((generators[0], critics[0]))
        self.G, self.D = ((one[0] if self.count == 1 else stack_models(one)) for one in (generators, critics))
        self.decay, self.ema = ema, None if ema is None else copy.deepcopy(self.G).requires_grad_(False)
        self._apart = any(isinstance(m, _BatchNorm) or getattr(m, "depends_on_batch", False) for m in self.D.modules())
        if self._apart and (self.gp or self.r1 or self.r2):
            raise ValueError("a critic with batch normalisation mixes samples: penalties need one without (norm=False)")
        self.critic = self._stepper(self.D, "lr_d", lr_d)
        self.generator = self._stepper(self.G, "lr_g", lr_g)
        seeds = [seed] * self.count if isinstance(seed, int) else [int(s) for s in seed]
        if len(seeds) != self.count:
            raise ValueError(f"seed must be one number or {self.count}, one for each pair, got {len(seeds)} of them")
        distinct = sorted(set(seeds))
        self._seeds = SeedGenerators(distinct, self.critic.device)
        self._place = torch.tensor([distinct.index(s) for s in seeds], device=self.critic.device)
        self._dtype = self.generator.parameters[0].dtype
        self.updates = 0
        self.diverged: dict[int, int] = {}

    def step(self, real: Tensor) -> dict[str, Tensor]:
        """One step of the critic and, at every n_critic-th call, one of the generator.

        Args:
            real: (N, ...), images in [-1, 1]; for S pairs S blocks of N rows, one after the other.

        Returns:
            The losses before the step, without a graph: "critic", and "generator" where it moved; scalars, or (S,).

        Raises:
            TrainingDiverged: a loss is not finite, of all pairs; `diverged` has the updates.
            ValueError: rows that do not divide into S blocks, samples of another shape than G's, or, at the first step,
                values outside [-1, 1].
        """
        if len(real) == 0 or len(real) % self.count:
            raise ValueError(f"real must be {self.count} equal block(s) of rows, got shape {tuple(real.shape)}")
        if self.updates == 0 and not (size := float(real.abs().max())) <= 1 + 1e-6:  # later looks would wait for a GPU
            raise ValueError(f"real must lie in [-1, 1], got values up to {size:g}; images in [0, 1] become 2 x - 1")
        moves = (self.updates + 1) % self.n_critic == 0
        z = self._draw(len(real), self.z_dim, normal=True)
        with torch.set_grad_enabled(moves):
            fake = self.G(z)
        if fake.shape != real.shape:
            raise ValueError(f"real must have the shape of G's samples {tuple(fake.shape)}, got {tuple(real.shape)}")
        self.updates += 1
        with self._noting():
            losses = {"critic": self.critic.step(lambda: self._critic_loss(real, fake.detach()))}
            if moves:
                with self._critic_at_rest():
                    losses["generator"] = self.generator.step(lambda: self._generator_loss(real, fake))
                self._average()
        return losses if self.count > 1 else {name: loss[0] for name, loss in losses.items()}

    def check(self) -> None:
        """Look at the losses since the last look, which `step` takes every 20th time on a GPU, and complete `diverged`.

        Raises:
            TrainingDiverged: as in `step`.
        """
        with self._noting():
            self.critic.check()
            self.generator.check()

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0, batch_size: int = 1000) -> Tensor:
        """Generated samples in eval mode, from the average where there is one: (n, ...), or (S, n, ...) of S pairs.

        Args:
            n: of each generator.
            seed: of z, which is the same for every generator and does not touch the training's own numbers.
            batch_size: of each generator at once.

        Raises:
            ValueError: a number below 1.
        """
        z = SeedGenerators(seed, self.critic.device).normal((checks.at_least("n", n, 1), self.z_dim)).to(self._dtype)
        with evaluating(self.ema or self.G) as G:
            parts = z.split(checks.at_least("batch_size", batch_size, 1))
            found = torch.cat([G(part.repeat(self.count, 1)).unflatten(0, (self.count, -1)) for part in parts], 1)
        return found if self.count > 1 else found[0]

    def players(self) -> list[nn.Module]:
        """The generators as modules of their own, averages where there are some, in the order of the pairs."""
        return unstack(self.ema or self.G, self._like[0])

    def operations(self, real: Tensor) -> tuple[int, int]:
        """Floating-point operations of one pair for a step of the critic alone, and for one of both players.

        They are counted of a pair by itself, on copies: counters take a stack's grouped convolutions for more.

        Args:
            real: a batch as for `step`; its first block is used.
        """
        G, D = copy.deepcopy(self._like)
        twin = TTUR(G, D, lr_g=1e-6, lr_d=1e-6, n_critic=2, loss=self.loss, gp=self.gp, r1=self.r1, r2=self.r2)
        block = real[: len(real) // self.count]
        return operations(lambda: twin.step(block)), operations(lambda: twin.step(block))

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, besides the settings.

        Raises:
            TrainingDiverged: as in `check`.
        """
        self.check()
        return {
            "G": self.G.state_dict(),
            "D": self.D.state_dict(),
            "ema": self.ema.state_dict() if self.ema else {},
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "random": self._seeds.state_dict(),
            "updates": self.updates,
            "diverged": dict(self.diverged),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned for players and settings of the same kind."""
        self.G.load_state_dict(state["G"])
        self.D.load_state_dict(state["D"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self._seeds.load_state_dict(state["random"])
        self.updates, self.diverged = state["updates"], dict(state["diverged"])

    def _critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        loss = self._pairs(LOSSES[self.loss].critic(*self._judge(real, fake)))
        if self.gp:
            e = self._draw(len(real), normal=False)
            loss = loss + self.gp * self._pairs(one_centred(self.D, between(real, fake, e)))
        for weight, x in ((self.r1, real), (self.r2, fake)):
            if weight:
                loss = loss + weight / 2 * self._pairs(squared_slopes(self.D, x))
        return loss

    def _generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        f = self.D(fake).flatten()
        if self.loss != "rpgan":
            return self._pairs(LOSSES[self.loss].generator(f, f))
        with torch.no_grad():
            d = self.D(real).flatten()
        return self._pairs(LOSSES[self.loss].generator(d, f))

    def _judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The critic's numbers for both batches; in one pass if it treats each sample by itself."""
        if self._apart:
            return self.D(real).flatten(), self.D(fake).flatten()
        blocks = [x.unflatten(0, (self.count, -1)) for x in (real, fake)]
        d, f = self.D(torch.cat(blocks, 1).flatten(0, 1)).reshape(self.count, 2, -1).unbind(1)
        return d.flatten(), f.flatten()

    def _pairs(self, losses: Tensor) -> Tensor:
        """The mean loss of each pair, (S,)."""
        return losses.view(self.count, -1).mean(1)

    def _draw(self, rows: int, *shape: int, normal: bool) -> Tensor:
        """(rows, *shape): for each pair a block of numbers of its seed."""
        per_seed = rows // self.count * len(self._seeds)
        drawn = (self._seeds.normal if normal else self._seeds.uniform)((per_seed, *shape)).to(self._dtype)
        if len(self._seeds) == self.count == 1:
            return drawn
        return drawn.unflatten(0, (len(self._seeds), -1))[self._place].flatten(0, 1)

    def _stepper(self, player: nn.Module, name: str, lr: Numbers) -> Stepper:
        rates = [lr] * self.count if isinstance(lr, int | float) else list(lr)
        if len(rates) != self.count:
            raise ValueError(f"{name} must be one number or {self.count}, one for each pair, got {len(rates)} of them")
        rates = [checks.positive(name, rate) for rate in rates]
        options = {"betas": self.betas}
        if self.count == 1:
            return Stepper(player.parameters(), torch.optim.Adam, lr=rates[0], options=options)
        first = next(player.parameters())
        return Stepper(
            player.parameters(),
            StackedAdam,
            lr=torch.tensor(rates, dtype=first.dtype, device=first.device),
            options=options,
            networks=self.count,
        )

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note who diverged meanwhile, and at which update; also if all have."""
        try:
            yield
        finally:
            for player, updates in ((self.critic, 1), (self.generator, self.n_critic)):
                for place, step in player.diverged.items():
                    self.diverged[place] = min(updates * step, self.diverged.get(place, updates * step))

    @contextmanager
    def _critic_at_rest(self) -> Iterator[None]:
        """Without gradients of the critic's weights, which the generator's step has no use for."""
        try:
            for p in self.critic.parameters:
                p.requires_grad_(False)
            yield
        finally:
            for p in self.critic.parameters:
                p.requires_grad_(True)

    @torch.no_grad()
    def _average(self) -> None:
        if self.ema is None or self.decay is None:
            return
        for mean, now in zip(self.ema.parameters(), self.G.parameters(), strict=True):
            mean.lerp_(now, 1 - self.decay)
        for kept, buffer in zip(self.ema.buffers(), self.G.buffers(), strict=True):
            kept.copy_(buffer)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1], clamped, as uint8 in 0..255, which is what features are taken of; back: x / 127.5 - 1."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
