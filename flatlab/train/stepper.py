"""One optimizer step: learning rate, loss, gradient, clipping, update, and a look at whether the loss is finite.

All training in this package is a short loop over a `Stepper`; a loop of your own is as short:

    player = Stepper(model.parameters(), torch.optim.Adam, lr=1e-3, schedule="cosine", total_steps=1000)
    while player.steps < 1000:
        x = draw(64)
        loss = player.step(lambda: -model.log_prob(x).mean())

What is trained is up to the loss: labels, none, or data that it draws itself. Two players are two steppers, each with
its rate and as many steps a round as it needs. A stepper has a state, as modules and optimizers do:
`save_training(path, {"model": model, "player": player})` keeps all that exact resuming needs.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flatlab import checks
from flatlab.train import schedules, stacking

OptimizerFactory = Callable[..., torch.optim.Optimizer]
_CHECK_EVERY = 20  # steps between looks at the loss on a GPU, where each look waits for the device


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class Stepper:
    """Takes the optimizer steps of one network, of S stacked ones, or of any tensors that are trained together.

    Of S stacked networks, one whose loss is no longer finite is frozen: its weights become NaN and stay so, which
    nothing can take for a trained network, and `diverged` says at which step. The others train on as if it had never
    been there, if the optimizer keeps networks apart (`flatlab.train.stacking`).

    Attributes:
        optimizer: made from the factory.
        lr: the peak learning rate, of all networks or a tensor (S,) of their own; a loop may change it between steps.
        steps: taken so far.
        diverged: network, by its place in the stack -> the step at which its loss was not finite.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        optimizer: OptimizerFactory,
        *,
        lr: float | Tensor,
        options: Mapping[str, Any] | None = None,
        schedule: str = "constant",
        total_steps: int | None = None,
        grad_clip: float | None = None,
        amp: bool = False,
        networks: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Make the optimizer.

        Args:
            parameters: what is trained; those that require no gradient are left out.
            optimizer: a torch optimizer class, called as optimizer(parameters, lr=lr, **options); one that says
                `stacks = True` is told of stacked networks as well, with networks=S.
            lr: the peak learning rate; a tensor (S,) with an optimizer that takes one for each network, such as
                `flatlab.optim.StackedAdam`.
            options: further options of the optimizer, such as {"momentum": 0.9}.
            schedule: name of a schedule in `flatlab.train.schedules`.
            total_steps: of the whole training; schedules other than "constant" need it.
            grad_clip: largest norm of one network's gradient, or None.
            amp: bfloat16 autocast of the loss on a GPU.
            networks: S if every parameter stacks S networks along dimension 0; None for one network.
            check_finite: look at the losses; otherwise training goes on whatever they are, and nothing is frozen.

        Raises:
            ValueError: nothing to train, a number out of bounds, or a schedule without `total_steps`.
        """
        self.parameters = [p for p in parameters if p.requires_grad]
        if not self.parameters:
            raise ValueError("parameters holds none that requires a gradient: there is nothing to train")
        if total_steps is None and schedule != "constant":
            raise ValueError(f"schedule {schedule!r} needs total_steps, the number of steps of the whole training")
        self.count = 1 if networks is None else checks.at_least("networks", networks, 1)
        self.total_steps = None if total_steps is None else checks.at_least("total_steps", total_steps, 0)
        self.grad_clip = None if grad_clip is None else checks.positive("grad_clip", grad_clip)
        self.lr, self.check_finite = lr, check_finite
        self.device = self.parameters[0].device
        self.amp = amp and self.device.type == "cuda"
        self.optimizer = stacking.make(optimizer, self.parameters, lr=lr, options=options or {}, networks=networks)
        self.steps = 0
        self.diverged: dict[int, int] = {}
        self._schedule = schedules.schedule(schedule)
        self._unseen: list[tuple[int, Tensor]] = []  # (step, loss) since the last look
        self._last_finite = math.nan

    @property
    def fraction(self) -> float:
        """Part of the training done, in [0, 1]; 1 if `total_steps` is not known."""
        return self.steps / self.total_steps if self.total_steps else 1.0

    def step(self, loss_fn: Callable[[], Tensor]) -> Tensor:
        """Take one step.

        Args:
            loss_fn: returns the loss of each network (S,), or their mean as a scalar; called twice by optimizers that
                take two gradients. The mean alone does not tell who diverged: that is then seen by weights and
                gradients, and the mean stays NaN.

        Returns:
            What `loss_fn` returned before the step, detached.

        Raises:
            TrainingDiverged: the loss is not finite, of all networks; names the step and the last finite loss. On a
                GPU up to 20 steps later.
        """
        rate = self.lr * self._schedule(self.fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        def closure() -> Tensor:
            for p in self.parameters:  # what optimizer.zero_grad() does, in a tenth of its time
                p.grad = None
            with torch.enable_grad():
                with self._autocast():
                    loss = loss_fn()
                # The sum over the networks: each gets its own gradient.
                (loss.sum() if loss.ndim else loss * self.count).backward()
            if self.grad_clip is not None:
                self._clip(self.grad_clip)
            return loss

        # Every torch optimizer takes a closure; those that need two gradients per step call it twice.
        loss = self.optimizer.step(closure)  # type: ignore[arg-type]
        assert isinstance(loss, Tensor)
        self.steps += 1
        loss = loss.detach()
        if self.check_finite:
            self._unseen.append((self.steps, loss))
            if self.device.type == "cpu" or len(self._unseen) >= _CHECK_EVERY:
                self.check()
        return loss

    def check(self) -> None:
        """Look at the losses since the last look: freeze networks that diverged, or raise TrainingDiverged."""
        unseen, self._unseen = self._unseen, []
        for step, loss in unseen:
            value = float(loss.mean() if loss.ndim else loss)
            if math.isfinite(value):
                self._last_finite = value
            else:
                self._freeze(step, loss, value)

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, besides the settings and the parameters themselves."""
        self.check()
        return {
            "optimizer": self.optimizer.state_dict(),
            "lr": copy.deepcopy(self.lr),
            "steps": self.steps,
            "diverged": dict(self.diverged),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        lr = state["lr"]
        self.lr = lr.to(self.device, copy=True) if isinstance(lr, Tensor) else lr
        self.steps, self.diverged = state["steps"], dict(state["diverged"])
        self._unseen.clear()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.amp else nullcontext()

    def _clip(self, limit: float) -> None:
        """Scale each network's gradient down to norm `limit`."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.count == 1:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, torch.nn.utils.get_total_norm(grads))
            return
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))

    def _freeze(self, step: int, loss: Tensor, value: float) -> None:
        """Set the weights of the networks that diverged to NaN; raise if none is left, or if it is not known which."""
        bad = loss.isfinite().logical_not() if loss.ndim else self._non_finite()
        known = len(self.diverged)
        self.diverged = dict.fromkeys(bad.nonzero().flatten().tolist(), step) | self.diverged
        if len(self.diverged) in (0, self.count) or self.count == 1:
            of = "" if self.total_steps is None else f" of {self.total_steps}"
            whose = f" of all {self.count} networks" if 1 < self.count == len(self.diverged) else ""
            raise TrainingDiverged(
                f"the loss{whose} became {value} at step {step}{of} (last finite loss {self._last_finite:.4g}); "
                "lower lr, or set grad_clip"
            )
        if len(self.diverged) > known:
            with torch.no_grad():
                for p in self.parameters:
                    p[list(self.diverged)] = math.nan

    def _non_finite(self) -> Tensor:
        """Which networks have weights or gradients whose norm is not finite, (S,) bool."""
        tensors = [t.detach() for p in self.parameters for t in (p, p.grad) if t is not None]
        return torch.stack([t.reshape(self.count, -1).norm(dim=1) for t in tensors]).isfinite().all(dim=0).logical_not()
