"""Optimizers with a memory of past gradients or momenta: the machinery that Adam and SGD share.

    a_t = x_t + kappa mean(B_t)          x_t: the gradient (critical gradients) or the momentum (critical momenta)
    B_{t+1} = B_t with x_t in place of the item of lowest priority, if ||g_t|| exceeds that priority

One decision holds for all tensors of a parameter group (with norm="parameter": for each tensor by itself); see
`flatlab.optim.memory_slots`. `flatlab.optim.memory_update` computes the aggregate a_t.

Cost: a step does not depend on the capacity C. Tensors on the CPU that are large are updated in chunks that stay in the
cache, small ones together in flat arrays (`flatlab.optim.flat_state`); views of all of them are made once.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks
from flatlab.optim.declared_options import declared_options, take_options
from flatlab.optim.flat_state import FlatState
from flatlab.optim.groups import check_once, check_stacked, fill_options
from flatlab.optim.memory_slots import MemorySlots
from flatlab.optim.memory_stats import memory_statistics
from flatlab.optim.memory_update import Number, StepPlan, UpdateChunk

CHUNK = 1 << 18  # numbers of a large tensor that are updated at a time: fewer cost more in calls than caches save
SMALL = {"cpu": 1 << 15, "cuda": 1 << 20}  # tensors below this size are updated together


@dataclass(eq=False)
class MemoryGroup:
    """Parameters of one parameter group that began together: their items share slots, and are taken or dropped as one.

    The optimizer's state of a parameter says under "memory_group" which one it belongs to.
    """

    params: list[Tensor]
    slots: MemorySlots
    flat_states: list[FlatState] = field(default_factory=list)


@declared_options
class MemoryOptimizer(Optimizer):
    """Base of AdamCM, AdamCG, SGDCM and SGDCG, and the options that all of them have.

    A subclass adds its options, names the moments that it keeps and writes `_rule`.

    Args:
        params: parameters, named parameters or groups of them; every group has a memory of its own.
        capacity: slots C of the memory; 0 for none. A step costs the same for every C; the state grows with it.
        decay: what priorities are multiplied with each step, in (0, 1]. At 0.7 the memory is nearly always the last C
            items; 0.99 keeps old items of large gradients.
        kappa: weight of the memory; 0 computes as if there were none.
        aggregate: "mean" x + kappa mean(B), "sum" x + kappa sum(B), "average" (x + kappa sum(B)) / (1 + kappa |B|).
        policy: "priority", or "fifo" for the last C items.
        norm: priority is the norm of the group's gradient ("global"), the sum of its tensors' norms ("sum"), or each
            tensor's own, with decisions of its own ("parameter"). Clipped gradients have clipped norms.
        decoupled_weight_decay: weight decay as in AdamW; otherwise an L2 term in the gradient, which has no part in
            the priority.
        buffer_dtype: dtype of the stored items, such as torch.bfloat16; None for that of the moments.
        resum_every: recompute the running sum of the memory every so many steps; 0 for never. In float32 its drift
            stays below 1e-4 of the sum over thousands of steps.
        networks: S if every parameter stacks S networks along dimension 0: each then has its own norm and memory.
        foreach: True to update all tensors together, False one by one, None to choose by size.
        maximize: ascend.
        capturable: keep step and learning rate on the device, for CUDA graphs and torch.compile.
        differentiable: not supported.

    Raises:
        ValueError: an option out of range (named with its bound), complex parameters, or one given twice in a group.
        RuntimeError: differentiable=True.
    """

    params: Any
    _: KW_ONLY
    capacity: int = 5
    decay: float = 0.7
    kappa: float = 1.0
    aggregate: str = "mean"
    policy: str = "priority"
    norm: str = "global"
    decoupled_weight_decay: bool = False
    buffer_dtype: torch.dtype | None = None
    resum_every: int = 0
    networks: int | None = None
    foreach: bool | None = None
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False

    stacks = True  # networks stacked along dimension 0 are optimised as if each were alone, with networks=S

    def __post_init__(self) -> None:
        defaults = take_options(self)
        params = defaults.pop("params")
        if defaults.pop("differentiable"):
            raise RuntimeError("differentiable=True is not supported: the memory is updated in place")
        self._memory_groups: dict[int, MemoryGroup] = {}
        self._scratch: dict[Any, Tensor] = {}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fill_options(self)
        self._memory_groups, self._scratch = {}, {}
        self._share_slots()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; the group has a memory of its own."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
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
            memories = self._present(group)
            for memory, norm in zip(memories, self._norms(group, memories), strict=True):
                memory.slots.step.add_(1)
                plan = self._plan(group, memory, norm)
                for flat_state in memory.flat_states:
                    self._update(plan, flat_state)
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
        self._share_slots()

    # --- for subclasses -----------------------------------------------------------------------------------------------

    def _moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def _rule(self, plan: StepPlan, chunk: UpdateChunk) -> None:
        """Update the buffers of a chunk, and move its target."""
        raise NotImplementedError

    def _check_group(self, group: dict[str, Any]) -> None:
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
        if any(p.is_complex() for p in group["params"]):
            raise ValueError("complex parameters are not supported: pass torch.view_as_real(parameter)")
        check_once(group["params"])
        check_stacked(group["params"], group["networks"])

    # --- one step -----------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    def _present(self, group: dict[str, Any]) -> list[MemoryGroup]:
        """The memory groups of those parameters of a group that have gradients."""
        present = [p for p in group["params"] if p.grad is not None]
        if not present:
            return []
        self._start(group, [p for p in present if not self.state[p]])
        members: dict[int, list[Tensor]] = {}
        for p in present:
            members.setdefault(self.state[p]["memory_group"], []).append(p)
        if len(present) < len(group["params"]):  # parameters without a gradient keep their slots as they are
            absent = {self.state[p]["memory_group"] for p in group["params"] if p.grad is None and p in self.state}
            for label in absent & set(members):
                moved = members.pop(label)
                members[self._separate(moved)] = moved
                self._memory_groups.pop(label, None)
        return [self._memory_group(group, label, params) for label, params in members.items()]

    def _start(self, group: dict[str, Any], new: list[Tensor]) -> None:
        """Give parameters that have their first gradient empty slots, together if they can share them."""
        together: dict[Any, list[Tensor]] = {}
        for index, p in enumerate(new):
            alone = index if group["norm"] == "parameter" else None
            together.setdefault((p.device, p.dtype, alone), []).append(p)
        for (device, dtype, _), params in together.items():
            networks, capacity = group["networks"] or 1, group["capacity"]
            dtype = torch.float64 if dtype == torch.float64 else torch.float32
            step = torch.zeros((), device=device if group["capturable"] else "cpu")
            empty = torch.zeros(networks, capacity, dtype=dtype, device=device)
            slots = {"priority": empty, "born": torch.zeros_like(empty, dtype=torch.float32)}
            slots["accepted"] = torch.zeros(networks, dtype=torch.int64, device=device)
            label = self._next_label()
            for p in params:
                self.state[p].update(memory_group=label, step=step, **slots)

    def _separate(self, params: list[Tensor]) -> int:
        """Make some parameters of a memory group a group of their own, with equal slots so far; returns its label."""
        label = self._next_label()
        copies = {name: self.state[params[0]][name].clone() for name in MemorySlots.NAMES}
        for p in params:
            self.state[p].update(memory_group=label, **copies)
        return label

    def _next_label(self) -> int:
        return 1 + max((state.get("memory_group", -1) for state in self.state.values()), default=-1)

    def _share_slots(self) -> None:
        """Let parameters of one memory group share their slots again, after loading or copying gave each its own."""
        first: dict[int, dict[str, Any]] = {}
        for state in self.state.values():
            if "memory_group" in state:
                shared = first.setdefault(state["memory_group"], {n: state[n].clone() for n in MemorySlots.NAMES})
                state.update(shared)

    def _memory_group(self, group: dict[str, Any], label: int, params: list[Tensor]) -> MemoryGroup:
        """The memory group of this label, from the last step if nothing about it has changed."""
        known = self._memory_groups.get(label)
        if (
            known is not None
            and len(known.params) == len(params)
            and all(a is b for a, b in zip(known.params, params, strict=True))
            and known.slots.held_by(self.state[params[0]])
            and all(flat_state.is_current() for flat_state in known.flat_states)
        ):
            return known
        memory = MemoryGroup(params, MemorySlots.of(self.state[params[0]]))
        for part in _parts(params, group["foreach"]):
            flat_state = FlatState(part, [self.state[p] for p in part], group["networks"] or 1)
            for name in self._moments(group):
                flat_state.add(name, flat_state.dtype)
            if group["capacity"]:
                flat_state.add("memory_sum", flat_state.dtype)
                flat_state.add("memory", group["buffer_dtype"] or flat_state.dtype, (group["capacity"],))
            memory.flat_states.append(flat_state)
        self._memory_groups[label] = memory
        return memory

    def _norms(self, group: dict[str, Any], memories: Sequence[MemoryGroup]) -> list[Tensor | None]:
        """The gradient norm (S,) that decides on each memory's item; None without a memory."""
        if not group["capacity"] or not memories:
            return [None] * len(memories)
        grads = [cast(Tensor, p.grad) for memory in memories for p in memory.params]
        if group["networks"] is not None:
            each = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1, dtype=_wide(g)) for g in grads])
        else:
            each = torch.stack(_foreach_norm(grads))[:, None]
        if group["norm"] == "parameter":
            return list(each)
        whole = each.sum(dim=0) if group["norm"] == "sum" else torch.linalg.vector_norm(each, dim=0)
        return [whole.to(memory.slots.priority) for memory in memories]

    def _plan(self, group: dict[str, Any], memory: MemoryGroup, norm: Tensor | None) -> StepPlan:
        slots, capturable = memory.slots, group["capturable"]
        step: Number = slots.step.double() if capturable else float(slots.step)
        lr: Number = group["lr"] if capturable else float(group["lr"])
        known = not (capturable or group["networks"] or torch.compiler.is_compiling())
        fused = known and slots.priority.device.type == "cpu"
        if norm is None:
            return StepPlan(group, step, lr, 0.0, None, None, False, fused, slots.step)
        filled = slots.filled[:, None].double()
        slot, taken = slots.admit(norm, decay=group["decay"], policy=group["policy"])
        weight = group["kappa"] / filled.clamp(min=1) if group["aggregate"] == "mean" else group["kappa"]
        scale = 1 / (1 + group["kappa"] * filled) if group["aggregate"] == "average" else None
        if not fused:
            return StepPlan(group, step, lr, weight, scale, slot, taken, False, slots.step)
        return StepPlan(group, step, lr, float(weight), scale, int(slot), bool(taken), True, slots.step)

    def _update(self, plan: StepPlan, flat: FlatState) -> None:
        """Take the step for the parameters of one `FlatState`."""
        group = plan.group
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            torch._foreach_mul_(flat.params, 1 - plan.lr * group["weight_decay"])
        grads = flat.flatten([cast(Tensor, p.grad) for p in flat.params])
        if group["maximize"]:
            grads = grads.neg()
        coupled = group["weight_decay"] and not group["decoupled_weight_decay"]
        if not flat.in_place:
            flat.target.zero_()
        weights = (flat.target if flat.in_place else flat.flatten(flat.params)) if coupled else None
        for chunk in flat.chunks(CHUNK if plan.fused else 0, unbind=plan.fused):
            start, stop = chunk.start, chunk.stop
            old, scratch = None if weights is None else weights[:, start:stop], self._workspace(grads, stop - start)
            self._rule(plan, UpdateChunk(chunk.target, old, grads[:, start:stop], scratch, chunk.buffers))
        every = group["resum_every"]
        if every and group["capacity"] and plan.step % every == 0:
            total = flat.buffers["memory_sum"]
            total.copy_(flat.buffers["memory"].sum(0, dtype=total.dtype))
        flat.move()

    def _workspace(self, like: Tensor, width: int) -> Tensor:
        """Uninitialised (S, width) to compute in; kept, so that on a CPU it stays in the cache."""
        kind = (like.device, like.dtype, like.shape[0])
        if kind not in self._scratch or self._scratch[kind].shape[1] < width:
            self._scratch[kind] = like.new_empty(like.shape[0], width)
        return self._scratch[kind][:, :width]

    def _stats(self, group: dict[str, Any]) -> dict[str, Any]:
        members: dict[int, list[dict[str, Any]]] = {}
        for p in group["params"]:
            if p in self.state:
                members.setdefault(self.state[p]["memory_group"], []).append(self.state[p])
        if not members or not group["capacity"]:
            return {}
        found = memory_statistics(max(members.values(), key=len), group["networks"] or 1)
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


def _foreach_norm(grads: list[Tensor]) -> list[Tensor]:
    """Euclidean norm of each tensor, in float32 at least, on the device of the first; those of one kind in one call."""
    if len({(g.device, g.dtype) for g in grads}) == 1:
        return list(torch._foreach_norm(grads, 2, dtype=_wide(grads[0])))
    wide = max((_wide(g) for g in grads), key=lambda dtype: dtype.itemsize)
    return [torch.linalg.vector_norm(g, dtype=wide).to(grads[0].device) for g in grads]


def _parts(params: list[Tensor], foreach: bool | None) -> list[list[Tensor]]:
    """Which tensors are updated together: small ones (foreach=None), all of them (True) or each by itself (False)."""
    if foreach:
        return [params]
    limit = SMALL.get(params[0].device.type, 1 << 20) if foreach is None else 0
    small = [p for p in params if p.numel() < limit]
    return ([small] if small else []) + [[p] for p in params if p.numel() >= limit]
