"""Optimizers with a memory of past gradients or momenta: the machinery that Adam and SGD share.

    a_t = x_t + kappa mean(B_t)          x_t: the gradient (critical gradients) or the momentum (critical momenta)
    B_{t+1} = B_t with x_t in place of the item of lowest priority, if ||g_t|| exceeds that priority

The aggregate is formed before x_t enters the memory, and one decision holds for all tensors of a parameter group (with
norm="parameter": for each tensor by itself). See `flatlab.optim.ledger` for the decision.

Cost: a running sum of the memory makes a step independent of the capacity C. Tensors on the CPU that are large are
updated in blocks that stay in the cache, small ones together in one flat array (`flatlab.optim.arena`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks
from flatlab.optim import ledger
from flatlab.optim.arena import Arena
from flatlab.optim.ledger import Ledger

BLOCK = 1 << 18  # numbers of a large tensor that are updated at a time: fewer cost more in calls than caches save
SMALL = {"cpu": 1 << 15, "cuda": 1 << 20}  # tensors below this size are updated together

Number = float | Tensor  # read on the host, or (S, 1) on the device


@dataclass(frozen=True, eq=False)
class Plan:
    """What one step does to the tensors of one cohort.

    Attributes:
        group: the parameter group.
        step: number of this step, from 1; a tensor if capturable.
        lr: the learning rate.
        weight: what the running sum of the memory is multiplied with.
        scale: what the sum of item and weighted memory is multiplied with; None for 1.
        slot, taken: where the item goes, and whether it does; None without a memory.
        fused: whether everything is known on the host, and torch's fused kernels for the CPU may be used.
        count: `step` as the tensor that those kernels take.
    """

    group: dict[str, Any]
    step: Number
    lr: Number
    weight: Number
    scale: Number | None
    slot: int | Tensor | None
    taken: bool | Tensor
    fused: bool
    count: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """A piece of an arena, all tensors (S, K).

    Attributes:
        target: what the update is added to: the parameters themselves, or zeros that are added to them later.
        weights: the parameters, where an L2 term needs them.
        g: the gradient.
        u: scratch.
        buffers: the state; "memory" is a tuple of C slots if the plan was read on the host, else one tensor (C, S, K).
    """

    target: Tensor
    weights: Tensor | None
    g: Tensor
    u: Tensor
    buffers: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.buffers[name]

    def move(self, u: Tensor, d: Tensor | None, s: Number) -> None:
        """target <- target - s u / d, in place; no d means 1."""
        if isinstance(s, Tensor):
            self.target.sub_((u if d is None else u / d) * s)
        elif d is None:
            self.target.add_(u, alpha=-s)
        else:
            self.target.addcdiv_(u, d, value=-s)


@dataclass(eq=False)
class Cohort:
    """Parameters of one group that began together: they share a ledger, and lie in a few arenas."""

    params: list[Tensor]
    ledger: Ledger
    arenas: list[Arena] = field(default_factory=list)


class MemoryOptimizer(Optimizer):
    """Base of AdamCM, AdamCG, SGDCM and SGDCG. A subclass names its buffers and writes `_rule`."""

    stacks = True  # networks stacked along dimension 0 are optimised as if each were alone, with networks=S

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if defaults.pop("differentiable"):
            raise RuntimeError("differentiable=True is not supported: the memory is updated in place")
        self._cohorts: dict[int, Cohort] = {}
        self._scratch: dict[Any, Tensor] = {}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._cohorts, self._scratch = {}, {}
        self._tie()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; the group has a memory of its own."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except (ValueError, RuntimeError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure`, if given, computes loss and gradients first, and its loss is returned.

        Raises:
            RuntimeError: a sparse gradient; nothing has changed then.
        """
        if closure is not None and not callable(closure):
            raise TypeError(f"closure must be callable, got {type(closure).__name__}")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(p.grad.is_sparse for group in self.param_groups for p in group["params"] if p.grad is not None):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; use torch.optim.SparseAdam")
        for group in self.param_groups:
            cohorts = self._prepare(group)
            norms = self._norms(group, cohorts)
            for cohort, norm in zip(cohorts, norms, strict=True):
                cohort.ledger.step.add_(1)
                plan = self._plan(group, cohort, norm)
                for arena in cohort.arenas:
                    self._advance(plan, arena)
        return loss

    def memory_stats(self) -> list[dict[str, Any]]:
        """What the memory of each parameter group holds.

        Returns:
            One dict a group; numbers, or lists of S numbers if networks are stacked. filled, accepted and refused count
            items; mean_age is in steps; priority_min and priority_max are over filled slots; `cancellation` is
            ||mean(B)|| / mean ||b|| (1 if all items agree, 0 if they cancel) and `cosine` the angle between the first
            moment and mean(B). NaN where the memory is empty. If parameters of a group began at different times, the
            numbers are those of the largest part. An empty dict before the first step.
        """
        return [self._stats(group) for group in self.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but every buffer comes back in the dtype in which it was saved."""
        saved: dict[str, Any] = {}
        hook = self.register_load_state_dict_pre_hook(lambda _, final: saved.update(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        ids = [index for group in saved["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(ids, params, strict=True):
            for name, value in saved["state"].get(index, {}).items():
                if torch.is_tensor(value) and name != "step":
                    self.state[p][name] = value.to(device=p.device)
        self._tie()

    # --- for subclasses -----------------------------------------------------------------------------------------------

    def _buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def _rule(self, plan: Plan, block: Block) -> None:
        """Update the buffers of a block, and move its target."""
        raise NotImplementedError

    def _check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option out of range."""
        if not isinstance(group["lr"], Tensor):
            checks.nonnegative("lr", group["lr"])
        for name in ("weight_decay", "kappa"):
            checks.nonnegative(name, group[name])
        checks.at_least("capacity", group["capacity"], 0)
        checks.at_least("resum_every", group["resum_every"], 0)
        if not 0 < group["decay"] <= 1:
            raise ValueError(f"decay must lie in (0, 1], got {group['decay']!r}")
        for name, choices in CHOICES.items():
            if name in group:
                checks.one_of(name, group[name], choices)
        if group["buffer_dtype"] is not None and not group["buffer_dtype"].is_floating_point:
            raise ValueError(f"buffer_dtype must be a floating-point dtype, got {group['buffer_dtype']}")
        if group["capturable"] and (group["resum_every"] or group.get("init") == "official"):
            raise ValueError("capturable=True excludes resum_every and init='official', which look at the step")
        rows = group["networks"]
        for index, p in enumerate(group["params"]):
            if p.is_complex():
                raise ValueError("complex parameters are not supported: pass torch.view_as_real(parameter)")
            if rows is not None and (p.ndim == 0 or p.shape[0] != checks.at_least("networks", rows, 1)):
                raise ValueError(f"networks={rows}, but parameter {index} of the group has shape {tuple(p.shape)}")

    def _aggregate(self, plan: Plan, item: Tensor, block: Block) -> Tensor:
        """item + kappa mean(B); the item then enters the memory. Without a memory it is the item itself."""
        if plan.slot is None:
            return item
        total, memory = block["memory_sum"], block["memory"]
        if isinstance(plan.weight, Tensor):
            aggregate = torch.addcmul(item, total, plan.weight.to(item))
        else:
            aggregate = torch.add(item, total, alpha=plan.weight, out=block.u)
        if plan.scale is not None:
            aggregate.mul_(plan.scale)
        if isinstance(plan.slot, Tensor):
            rows = torch.arange(len(total), device=total.device)
            old = memory[plan.slot, rows]
            new = torch.where(cast(Tensor, plan.taken)[:, None], item.to(memory.dtype), old)
            memory[plan.slot, rows] = new
            total.add_(new).sub_(old)
        elif plan.taken:
            total.sub_(memory[plan.slot])
            total.add_(memory[plan.slot].copy_(item))
        return aggregate

    def _average(self, plan: Plan, g: Tensor, rate: float, block: Block) -> Tensor:
        """`_aggregate` of the first moment m <- rate m + (1 - rate) g, in fewer passes where possible."""
        moment = block["exp_avg"]
        plain = plan.scale is not None or not (plan.fused and plan.taken and rate)
        if plain or block["memory"][0].dtype != moment.dtype:
            return self._aggregate(plan, moment.lerp_(g, 1 - rate), block)
        total, slot = block["memory_sum"], block["memory"][plan.slot]
        # One pass makes m and, as the step of a parameter, sum + m; then m + weight sum lies between m and sum + m.
        torch._fused_sgd_(
            *([total], [g], [moment]),
            lr=-1.0,
            momentum=rate,
            dampening=rate,
            weight_decay=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )
        aggregate = torch.lerp(moment, total, plan.weight, out=block.u)
        total.sub_(slot)
        slot.copy_(moment)
        return aggregate

    # --- one step -----------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    def _prepare(self, group: dict[str, Any]) -> list[Cohort]:
        """The cohorts of those parameters of a group that have gradients."""
        present = [p for p in group["params"] if p.grad is not None]
        if not present:
            return []
        self._begin(group, [p for p in present if not self.state[p]])
        members: dict[int, list[Tensor]] = {}
        for p in present:
            members.setdefault(self.state[p]["cohort"], []).append(p)
        if len(present) < len(group["params"]):  # parameters that sit out this step keep the ledger as it is
            absent = {self.state[p]["cohort"] for p in group["params"] if p.grad is None and p in self.state}
            for label in absent & set(members):
                moved = members.pop(label)
                members[self._split(moved)] = moved
                self._cohorts.pop(label, None)
        return [self._cohort(group, label, params) for label, params in members.items()]

    def _begin(self, group: dict[str, Any], new: list[Tensor]) -> None:
        """Give parameters that have their first gradient a ledger, together if they can share one."""
        together: dict[Any, list[Tensor]] = {}
        for index, p in enumerate(new):
            alone = index if group["norm"] == "parameter" else None
            together.setdefault((p.device, p.dtype, alone), []).append(p)
        for (device, dtype, _), params in together.items():
            rows, slots = group["networks"] or 1, group["capacity"]
            dtype = torch.float64 if dtype == torch.float64 else torch.float32
            step = torch.zeros((), device=device if group["capturable"] else "cpu")
            empty = torch.zeros(rows, slots, dtype=dtype, device=device)
            books = {"priority": empty, "born": torch.zeros_like(empty, dtype=torch.float32)}
            books["accepted"] = torch.zeros(rows, dtype=torch.int64, device=device)
            label = self._label()
            for p in params:
                self.state[p].update(cohort=label, step=step, **books)

    def _split(self, params: list[Tensor]) -> int:
        """Give some parameters of a cohort a ledger of their own, equal so far; returns its label."""
        label = self._label()
        copies = {name: self.state[params[0]][name].clone() for name in ("step", *ledger.NAMES)}
        for p in params:
            self.state[p].update(cohort=label, **copies)
        return label

    def _label(self) -> int:
        return 1 + max((state.get("cohort", -1) for state in self.state.values()), default=-1)

    def _tie(self) -> None:
        """Let parameters of one cohort share one ledger again, after it was copied."""
        first: dict[int, dict[str, Any]] = {}
        for state in self.state.values():
            if "cohort" in state:
                shared = first.setdefault(state["cohort"], {n: state[n].clone() for n in ("step", *ledger.NAMES)})
                state.update(shared)

    def _cohort(self, group: dict[str, Any], label: int, params: list[Tensor]) -> Cohort:
        """The cohort of this label, from the last step if nothing about it has changed."""
        known = self._cohorts.get(label)
        if (
            known is not None
            and len(known.params) == len(params)
            and all(a is b for a, b in zip(known.params, params, strict=True))
            and all(arena.valid() for arena in known.arenas)
        ):
            return known
        state = self.state[params[0]]
        cohort = Cohort(params, Ledger(state["step"], *(state[name] for name in ledger.NAMES)))
        for part in _parts(params, group["foreach"]):
            arena = Arena(part, [self.state[p] for p in part], group["networks"] or 1)
            for name in self._buffers(group):
                arena.adopt(name, arena.dtype)
            if group["capacity"]:
                arena.adopt("memory_sum", arena.dtype)
                arena.adopt("memory", group["buffer_dtype"] or arena.dtype, (group["capacity"],))
            cohort.arenas.append(arena)
        self._cohorts[label] = cohort
        return cohort

    def _norms(self, group: dict[str, Any], cohorts: Sequence[Cohort]) -> list[Tensor | None]:
        """The gradient norm (S,) that decides on each cohort's item; None without a memory."""
        if not group["capacity"] or not cohorts:
            return [None] * len(cohorts)
        grads = [cast(Tensor, p.grad) for cohort in cohorts for p in cohort.params]
        if group["networks"] is not None:
            each = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1, dtype=_wide(g)) for g in grads])
        else:
            each = torch.stack([n.to(grads[0].device) for n in _foreach_norm(grads)])[:, None]
        if group["norm"] == "parameter":
            return list(each)
        whole = each.sum(dim=0) if group["norm"] == "sum" else torch.linalg.vector_norm(each, dim=0)
        return [whole.to(cohort.ledger.priority) for cohort in cohorts]

    def _plan(self, group: dict[str, Any], cohort: Cohort, norm: Tensor | None) -> Plan:
        book, capturable = cohort.ledger, group["capturable"]
        step: Number = book.step.double() if capturable else float(book.step)
        lr: Number = group["lr"] if capturable else float(group["lr"])
        known = not (capturable or group["networks"] or torch.compiler.is_compiling())
        fused = known and book.priority.device.type == "cpu"
        if norm is None:
            return Plan(group, step, lr, 0.0, None, None, False, fused, book.step)
        filled = book.filled[:, None].double()
        slot, taken = book.offer(norm, decay=group["decay"], policy=group["policy"])
        weight = group["kappa"] / filled.clamp(min=1) if group["aggregate"] == "mean" else group["kappa"]
        scale = 1 / (1 + group["kappa"] * filled) if group["aggregate"] == "average" else None
        if not fused:
            return Plan(group, step, lr, weight, scale, slot, taken, False, book.step)
        return Plan(group, step, lr, float(weight), scale, int(slot), bool(taken), True, book.step)

    def _advance(self, plan: Plan, arena: Arena) -> None:
        """Take the step for the parameters of one arena."""
        group = plan.group
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            torch._foreach_mul_(arena.params, 1 - plan.lr * group["weight_decay"])
        grads, alias = arena.gather([cast(Tensor, p.grad) for p in arena.params]), arena.alias()
        if group["maximize"]:
            grads = grads.neg()
        coupled = group["weight_decay"] and not group["decoupled_weight_decay"]
        weights = (arena.gather(arena.params) if alias is None else alias) if coupled else None
        target = torch.zeros_like(grads) if alias is None else alias
        pieces = arena.pieces(BLOCK if plan.fused else grads.shape[1], unbind=plan.fused)
        sizes = [piece.stop - piece.start for piece in pieces]
        olds = [None] * len(pieces) if weights is None else weights.split(sizes, dim=1)
        scratch, cut = self._workspace(grads, max(sizes)), torch.split_with_sizes
        cuts = zip(pieces, cut(target, sizes, 1), cut(grads, sizes, 1), olds, sizes, strict=True)
        for piece, moved, g, old, size in cuts:
            self._rule(plan, Block(moved, old, g, scratch[:, :size], piece.buffers))
        every = group["resum_every"]
        if every and group["capacity"] and plan.step % every == 0:
            total = arena.flats["memory_sum"]
            total.copy_(arena.flats["memory"].sum(0, dtype=total.dtype))
        if alias is None:
            torch._foreach_add_(arena.params, [v.to(arena.params[0].dtype) for v in arena.views(target)])

    def _workspace(self, like: Tensor, width: int) -> Tensor:
        """Uninitialised (S, width) to compute in; kept, so that on a CPU it stays in the cache."""
        kind = (like.device, like.dtype, like.shape[0])
        if kind not in self._scratch or self._scratch[kind].shape[1] < width:
            self._scratch[kind] = like.new_empty(like.shape[0], width)
        return self._scratch[kind]

    def _stats(self, group: dict[str, Any]) -> dict[str, Any]:
        members: dict[int, list[dict[str, Any]]] = {}
        for p in group["params"]:
            if p in self.state:
                members.setdefault(self.state[p]["cohort"], []).append(self.state[p])
        if not members or not group["capacity"]:
            return {}
        states = max(members.values(), key=len)
        first, rows = states[0], group["networks"] or 1
        book = Ledger(first["step"], *(first[name] for name in ledger.NAMES))
        filled = book.filled.to(first["priority"].dtype)
        held = torch.arange(book.capacity, device=filled.device) < filled[:, None]
        slots = torch.cat([s["memory"].reshape(book.capacity, rows, -1).to(filled.dtype) for s in states], dim=2)
        moment = torch.cat([s["exp_avg"].reshape(rows, -1).to(filled.dtype) for s in states], dim=1)
        mean = slots.sum(0) / filled[:, None]
        length = torch.linalg.vector_norm(slots, dim=2).sum(0) / filled
        nan = torch.full_like(book.priority, math.nan)
        low = torch.where(held, book.priority, math.inf).amin(1) + 0 * filled / filled
        high = torch.where(held, book.priority, -math.inf).amax(1) + 0 * filled / filled
        found = {
            "filled": book.filled,
            "accepted": book.accepted,
            "refused": (book.step.to(book.accepted.device) - book.accepted).long(),
            "mean_age": torch.where(held, book.step.to(nan) - book.born.to(nan), nan).nanmean(1),
            "priority_min": low,
            "priority_max": high,
            "cancellation": torch.linalg.vector_norm(mean, dim=1) / length,
            "cosine": torch.nn.functional.cosine_similarity(moment, mean, dim=1),
        }
        return {name: value.tolist() if group["networks"] else value.item() for name, value in found.items()}


CHOICES = {
    "memory": ("momentum", "gradient"),
    "aggregate": ("mean", "sum", "average"),
    "policy": ("priority", "fifo"),
    "norm": ("global", "sum", "parameter"),
    "init": ("paper", "official", "corrected"),
    "second_moment": ("aggregate", "gradient"),
}


def _wide(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _foreach_norm(grads: list[Tensor]) -> Iterable[Tensor]:
    """Euclidean norm of each tensor, in float32 at least; tensors of one device and dtype in one call."""
    if len({(g.device, g.dtype) for g in grads}) == 1:
        return torch._foreach_norm(grads, 2, dtype=_wide(grads[0]))
    wide = max((_wide(g) for g in grads), key=lambda dtype: dtype.itemsize)
    return [torch.linalg.vector_norm(g, dtype=wide) for g in grads]


def _parts(params: list[Tensor], foreach: bool | None) -> list[list[Tensor]]:
    """Which tensors are updated together: small ones (foreach=None), all of them (True) or each by itself (False)."""
    if foreach:
        return [params]
    limit = SMALL.get(params[0].device.type, 1 << 20) if foreach is None else 0
    small = [p for p in params if p.numel() < limit]
    return ([small] if small else []) + [[p] for p in params if p.numel() >= limit]
