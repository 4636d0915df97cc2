"""Certified bounds of a captured module over a perturbation set, by every method of linear relaxation.

    ibp             intervals, operator by operator
    forward         linear functions of the input, operator by operator
    backward        from the output back to the input; the relaxations need intervals of what is inside, which come from
                    ibp ("crown-ibp"), forward ("forward+backward") or backward passes of their own ("crown")
    alpha-crown     backward, with the free slopes optimised by gradient ascent

Xu et al. 2020 (arXiv 2002.12920); CROWN: Zhang et al. 2018; CROWN-IBP: Zhang et al. 2020; alpha-CROWN: Xu et al.
2021. All but the last are differentiable in parameters and inputs. The upper bound of C f is minus the lower one of
-C f, so C and -C travel together, and everything is written for lower bounds alone.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatlab import checks
from flatlab.bounds.errors import MemoryLimitExceeded, UnsupportedOperator
from flatlab.bounds.graph import Node, Program, Ref
from flatlab.bounds.interval import Interval
from flatlab.bounds.kinds import Bilinear, Linear, Pointwise, Rule, Site, samples_first
from flatlab.bounds.relax import SLOPES
from flatlab.bounds.rules import RULES
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.specs import Dense, Identity, Margins, Rows
from flatlab.bounds.weights import first_names

CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Bytes of coefficients that one backward pass may hold before its rows are split: on a CPU, what caches can use."""

INTERMEDIATE = ("crown", "ibp", "forward")
CONSTANT = ("clean", "sym_size", "zeros_like", "ones_like", "new_zeros", "new_ones")
"""Operators that no perturbation passes through."""


@dataclass(frozen=True, eq=False)
class LinearBound:
    """Affine functions of the inputs that bound <C, f> from below: <a_i, x_i> summed over inputs, plus bias.

    Attributes:
        a: one (S, B, *shape) for each perturbed input.
        bias: (S, B).
    """

    a: dict[int, Tensor]
    bias: Tensor


class Bounds:
    """Bounds of one batch. A cheap object: build one for each batch, or each step of training.

    Args:
        program: the captured module.
        inputs: the batch, a tensor or one for each input.
        sets: a set for each perturbed input, by position, or the set itself if there is one input; and for perturbed
            parameters, by name. Weights and biases of linear layers and convolutions may move in `LpBall`s.
        relu: the lower slope of ReLUs: adaptive, same-slope, zero-lb, one-lb or reversed-adaptive.
        chunk: most rows of one backward pass; None chooses by memory.
        memory_limit: bytes that coefficients at one node may need (backward, those of one row); None for no limit.
        sparse: bound only those neurons inside that are not known to be on or off.

    Raises:
        UnsupportedOperator: an operator that depends on the perturbation has no rule.
        ValueError: no perturbed input, a set that does not fit, BatchNorm in train mode with a batch of one.
    """

    def __init__(
        self,
        program: Program,
        inputs: Tensor | Sequence[Tensor],
        sets: Box | Mapping[int | str, Box],
        *,
        relu: str = "adaptive",
        chunk: int | None = None,
        memory_limit: int | None = None,
        sparse: bool = True,
    ) -> None:
        self.program, self.sparse = program, sparse
        self.inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        self.sets: dict[int | str, Box] = {0: sets} if isinstance(sets, Box) else dict(sets)
        self._first = first_names(program.model)
        self.sets = {self._first.get(key, key) if isinstance(key, str) else key: s for key, s in self.sets.items()}
        self.relu = checks.one_of("lower slope of ReLUs", relu, SLOPES)
        self.chunk = None if chunk is None else checks.at_least("chunk", chunk, 1)
        self.memory_limit = memory_limit
        self.batch = self._check()
        at = [self.sets[i].center if i in self.sets else x for i, x in enumerate(self.inputs)]
        self._values = program.leaves(at)
        for i, name in self._parameters().items():
            if name in self.sets:
                self._values[i] = self.sets[name].center  # the ball need not lie around the present value
        self.sites = self._sites()
        self._fill()
        self._cache: dict[tuple[str, bool], dict[int, Interval]] = {}
        self._lines: dict[int, tuple[Interval, Any]] = {}
        self._forward: dict[tuple[int, bool], Linear] = {}

    # --- what is asked --------------------------------------------------------------------------------------------

    def ibp(self, c: Tensor | Margins | None = None, *, keep: bool = True) -> tuple[Tensor, Tensor]:
        """Interval bounds of the output, or of C times it, for which C is merged into the last affine layers.

        Args:
            c: (B, S, K) or `Margins`; None for the output as it is.
            keep: hold the intervals inside, which other methods and another C ask for; otherwise each is freed once it
                has been used, where no gradient needs it.

        Returns:
            Lower and upper bounds, of the output's shape or (B, S).
        """
        found = self._intervals("ibp") if keep or torch.is_grad_enabled() else self._tail()
        if c is None:
            return self._checked(found[self.output].low, found[self.output].high)
        if any(site.weight is not None or site.bias is not None for site in self.sites.values()):
            return self._both(self._run(self.output, self._spec(c, found), found, stop=True))
        spread: list[Any] = []  # all that is passed is affine, so that both ends differ by what is added up here
        low = self._run(self.output, self._spec(c, found), found, stop=True, mirror=False, spread=spread).T
        return self._checked(low, low + (torch.cat(spread).T if spread else 0.0))

    def forward(self, c: Tensor | Margins | None = None) -> tuple[Tensor, Tensor]:
        """Bounds by linear functions that are carried forward, O(inputs) passes; `c` as in `ibp`."""
        found = self._intervals("forward")
        if c is None:
            return self._checked(found[self.output].low, found[self.output].high)
        line, pre = self._line(self.output), self.program.nodes[self.output].pre
        rows = self._spec(c).dense(self.batch, line.lb)
        plus, minus = rows.clamp(min=0), rows.clamp(max=0)

        def mix(low: Tensor, high: Tensor) -> Tensor:
            lo, hi = (samples_first(t, pre, self.batch) for t in (low, high))
            return torch.einsum("sbk,dbk->dbs", plus, lo) + torch.einsum("sbk,dbk->dbs", minus, hi)

        ends = lambda lo, hi: mix(lo[None], hi[None])[0]  # noqa: E731
        spec = Linear(mix(line.lw, line.uw), ends(line.lb, line.ub), mix(line.uw, line.lw), ends(line.ub, line.lb))
        box = self._concrete(spec, 1)
        return self._checked(box.low, box.high)

    def crown(self, c: Tensor | Margins | None = None, *, intermediate: str = "crown") -> tuple[Tensor, Tensor]:
        """Bounds by a backward pass.

        Args:
            c: (B, S, K) or `Margins`; None for the output as it is.
            intermediate: where the intervals inside come from: "crown", "ibp" or "forward".

        Returns:
            Lower and upper bounds, of the output's shape or (B, S).
        """
        found = self._intervals(checks.one_of("intermediate", intermediate, INTERMEDIATE))
        low, high = self._both(self._run(self.output, self._spec(c), found))
        if c is not None:
            return low, high
        return self.within(found[self.output], low, high)

    def within(self, known: Interval, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (B, numbers of a sample) of the output in its own shape, and nowhere wider than is known."""
        pre = self.program.nodes[self.output].pre
        box = known.meet(*(self._unflat(t, known.shape, pre) for t in (low, high)))
        return box.low, box.high

    def lower(self, c: Tensor | Margins, *, intermediate: str = "ibp") -> Tensor:
        """A lower bound of C f alone, at half the cost of both: (B, S, K) or `Margins` -> (B, S)."""
        found = self._intervals(checks.one_of("intermediate", intermediate, INTERMEDIATE))
        return self._run(self.output, self._spec(c), found, mirror=False).T

    def linear(self, c: Tensor | Margins | None = None, *, intermediate: str = "crown") -> LinearBound:
        """The affine function of the input below C f, of the rows of C and then of -C."""
        found = self._intervals(checks.one_of("intermediate", intermediate, INTERMEDIATE))
        total: list[Any] = [{}, 0.0]
        self._backward(self.output, self._spec(c), found, collect=total)
        return LinearBound(total[0], total[1])

    def alpha_crown(
        self,
        c: Tensor | Margins | None = None,
        *,
        iters: int = 20,
        lr: float = 0.1,
        joint: bool = False,
        decay: float = 0.98,
    ) -> tuple[Tensor, Tensor]:
        """`crown` with its free slopes optimised, for each row by itself.

        Args:
            c: as in `crown`.
            iters: steps of Adam, >= 1.
            lr: its learning rate, multiplied by `decay` after each step.
            joint: optimise the bounds inside as well, with slopes of their own: tighter, and far slower.
        """
        from flatlab.bounds.optimize import optimize  # it needs this class

        return optimize(self, c, iters=iters, lr=lr, joint=joint, decay=decay)

    # --- set-up ---------------------------------------------------------------------------------------------------

    @property
    def output(self) -> int:
        """The node of the output."""
        return self.program.output

    @property
    def _dtype(self) -> torch.dtype:
        given = (*self.inputs, *self.program.model.parameters())
        return next(x.dtype for x in given if x.is_floating_point())

    def _check(self) -> int:
        program = self.program
        if len(self.inputs) != len(program.inputs):
            raise ValueError(f"the module takes {len(program.inputs)} input(s), got {len(self.inputs)}")
        if program.model.training != program.training:
            mode = "train" if program.training else "eval"
            raise ValueError(f"the module was captured in {mode} mode and is not in it now: switch, or capture it anew")
        if not self.sets:
            raise ValueError("nothing is perturbed: give a set for at least one input or parameter")
        for key, region in self.sets.items():
            if isinstance(key, int):
                if not 0 <= key < len(self.inputs):
                    raise ValueError(f"there is no input {key}: the module takes {len(self.inputs)}")
                shape, dtype = self.inputs[key].shape, self.inputs[key].dtype
                if not dtype.is_floating_point:
                    raise TypeError(f"input {key} holds {dtype}: only floating-point inputs can be perturbed")
            else:
                if not isinstance(region, LpBall) or region.clip is not None:
                    raise ValueError(f"parameter {key!r} may be perturbed in an LpBall without clip only")
                parameter = dict(program.model.named_parameters()).get(key)
                if parameter is None:
                    raise ValueError(
                        f"the output does not use the perturbed parameter {key!r}: there is no parameter of this name"
                    )
                shape, dtype = parameter.shape, parameter.dtype
                if region.eps.ndim:
                    raise ValueError(f"the ball of parameter {key!r} needs one eps, got {region.eps.numel()}")
            if region.low.shape != shape:
                raise ValueError(f"the set of {key!r} has shape {tuple(region.low.shape)}, it needs {tuple(shape)}")
            if region.low.dtype != dtype:
                raise ValueError(f"the set of {key!r} holds {region.low.dtype}, it needs {dtype}: convert one of them")
        batch = int(self.inputs[0].shape[0])
        sizes = [x.shape[0] if x.ndim else 0 for x in self.inputs]
        if batch == 0 or any(size != batch for size in sizes):
            raise ValueError(f"dimension 0 of all inputs must be the same batch of one or more, got sizes {sizes}")
        norms = any(n.key == "clean" for n in program.nodes) and program.training
        if norms and batch == 1:
            raise ValueError("BatchNorm in train mode needs more than one sample: use model.eval(), or a larger batch")
        return batch

    def _sites(self) -> dict[int, Site]:
        """The operators that depend on what is perturbed."""
        sites: dict[int, Site] = {}
        hot: set[int] = {self.program.inputs[key] for key in self.sets if isinstance(key, int)}
        named = {key: region for key, region in self.sets.items() if isinstance(key, str)}
        parameters = self._parameters()
        used: set[str] = set()
        for index, node in enumerate(self.program.nodes):
            if node.leaf is not None or node.key in CONSTANT:
                continue
            mine = tuple(dict.fromkeys(i for i in node.inputs if i in hot))
            moved = {parameters[i] for i in node.inputs if parameters.get(i) in named}
            if not mine and not moved:
                continue
            if node.key not in RULES:
                raise UnsupportedOperator(
                    f"no rule bounds the operator {node.key!r} of node {node}. Add one line to flatlab/bounds/rules.py "
                    "(see its head), or rewrite the module with operators of flatlab.bounds.supported()"
                )
            if node.pre == 0:
                raise UnsupportedOperator(
                    f"{node} mixes the samples of a batch, or drops some: bounds hold for each sample by itself"
                )
            site = Site(node, self._values, mine, self.batch, self.relu)
            RULES[node.key].check(site)
            if moved:
                self._perturb(site, named, parameters, index)
                used |= moved
            sites[index] = site
            hot.add(index)
        idle = set(named) - used
        if idle:
            raise ValueError(f"the output does not use the perturbed parameter(s) {', '.join(sorted(idle))}")
        if self.output not in hot:
            raise ValueError("the output does not depend on what is perturbed")
        return sites

    def _parameters(self) -> dict[int, str]:
        """The nodes of the parameters, by the first name of each."""
        leaves = {i: node.leaf for i, node in enumerate(self.program.nodes) if node.leaf is not None}
        return {i: self._first[leaf[1]] for i, leaf in leaves.items() if leaf[0] == "parameter"}

    def _perturb(self, site: Site, named: Mapping[Any, Box], parameters: Mapping[int, str], index: int) -> None:
        """Note the balls of a linear layer's or a convolution's own parameters."""
        node = site.node
        if not site.hot and not self._has_samples(node.inputs[0]):
            raise UnsupportedOperator(f"{node} applies perturbed weights to a constant, the same for all samples")
        for position, argument in enumerate(node.args):
            name = parameters.get(argument.index) if isinstance(argument, Ref) else None
            if name not in named:
                continue
            if node.key not in ("linear", "conv2d") or position not in (1, 2):
                raise UnsupportedOperator(
                    f"parameter {name!r} is perturbed and used by {node}: only those of linear and conv2d may be"
                )
            if isinstance(node.args[4] if len(node.args) > 4 else 0, str):
                raise UnsupportedOperator(f"{node}: perturbed weights need a numeric padding")
            setattr(site, "weight" if position == 1 else "bias", named[name])
        if site.weight is None and site.bias is None:
            raise UnsupportedOperator(f"{node} takes perturbed parameters by keyword: give them by position")

    def _has_samples(self, index: int) -> bool:
        """Whether a value has one entry for each sample of the batch."""
        node = self.program.nodes[index]
        if node.leaf is not None:
            return node.leaf[0] in ("input", "batch")
        return any(self._has_samples(i) for i in node.inputs)

    def _fill(self) -> None:
        """Evaluate what is constant: the other arguments of the operators, and clean values."""
        wanted = {i for site in self.sites.values() for i in site.node.inputs if i not in self.sites}
        wanted -= {self.program.inputs[key] for key in self.sets if isinstance(key, int)}
        values = self.program.evaluate(wanted, dict(self._values))
        for i in wanted:
            self._values[i] = values[i]

    # --- intervals ------------------------------------------------------------------------------------------------

    def _rule(self, index: int) -> Rule:
        return RULES[self.program.nodes[index].key]

    def _intervals(self, kind: str) -> dict[int, Interval]:
        """The intervals of all perturbed nodes, by a method."""
        key = (kind, torch.is_grad_enabled())  # what was computed without a graph must not serve a gradient
        if key not in self._cache:
            self._cache[key] = {}
            self._grow(kind, self._cache[key])
        return self._cache[key]

    def _tail(self) -> dict[int, Interval]:
        """The intervals of the output and of what only affine operators separate from it."""
        if ("ibp", False) in self._cache:
            return self._cache["ibp", False]
        kept, left = {self.output}, [self.output]
        while left:
            index = left.pop()
            if index in self.sites and not self._relaxed(index):
                kept.update(self.sites[index].hot)
                left += self.sites[index].hot
        found: dict[int, Interval] = {}
        self._grow("ibp", found, kept=kept)
        return found

    def _grow(
        self, kind: str, found: dict[int, Interval], alphas: Any = None, kept: Collection[int] | None = None
    ) -> None:
        """Find the intervals of all nodes in turn; if `kept` is given, hold others only until their last use."""
        over = {} if kept is None else self._last_uses(kept)
        for key, region in self.sets.items():
            if isinstance(key, int):
                found[self.program.inputs[key]] = region.interval()
        demanding = self._demanding() if kind == "crown" else {}
        if kind == "forward":
            self._check_room(self._intervals("ibp"))
        for index, site in self.sites.items():
            x = [found[i] for i in site.hot]
            box = self._rule(index).interval(site, x)
            if site.node.hint is not None:
                how, of = site.node.hint
                box = box.meet(*how(found[of.index].low, found[of.index].high))
            if kind == "forward":
                box = box.meet(*self._ends(self._line(index, found), site.node.pre))
            elif index in demanding:
                if alphas is not None:
                    box = box.meet(alphas.base[index].low, alphas.base[index].high)
                box = self._tighten(index, box, found, demanding[index], alphas)
            found[index] = box
            for i in over.get(index, ()):
                del found[i]

    def _last_uses(self, kept: Collection[int]) -> dict[int, list[int]]:
        """Node -> those nodes, apart from `kept`, whose intervals it is the last to use."""
        last: dict[int, int] = {}
        for index, site in self.sites.items():
            hint = site.node.hint
            last |= dict.fromkeys(site.hot if hint is None else (*site.hot, hint[1].index), index)
        over: dict[int, list[int]] = {}
        for i in last.keys() - set(kept):
            over.setdefault(last[i], []).append(i)
        return over

    def _relaxed(self, index: int) -> bool:
        """Whether linear bounds of a node depend on intervals: it is not affine in what is perturbed."""
        site, rule = self.sites[index], self._rule(index)
        return rule.kind in ("pointwise", "reduction") or (isinstance(rule, Bilinear) and rule.both(site))

    def _demanding(self) -> dict[int, bool]:
        """Nodes whose intervals the relaxations use -> whether only those of open sign matter."""
        wanted: dict[int, bool] = {}
        for index, site in self.sites.items():
            rule = self._rule(index)
            tight = rule.needs(site) if isinstance(rule, Bilinear) else rule.tight
            for i in site.hot if tight else ():
                if i in self.sites:
                    wanted[i] = wanted.get(i, True) and site.node.key in ("relu", "leaky_relu")
        for index in reversed(self.sites):  # what follows exactly from another interval is as good as that one
            if wanted.get(index) is False and self._rule(index).settled:
                wanted |= dict.fromkeys((i for i in self.sites[index].hot if i in self.sites), False)
        return wanted

    def _tighten(self, index: int, box: Interval, found: dict[int, Interval], signs: bool, alphas: Any) -> Interval:
        """Bound a node by a backward pass of its own; where only signs matter, just what is open."""
        node = self.program.nodes[index]
        open_ = self._open(index, box, signs)
        rows = (open_.any(0) if alphas is None else alphas.rows(index, open_[0])).nonzero()[:, 0]
        if not len(rows) or self._settled(index):
            return box
        run = self._run(index, Identity(rows, open_.shape[1]), {**found, index: box}, alphas=alphas)
        full = [samples_first(t[None], node.pre, self.batch)[0] for t in (box.low, box.high)]
        own = open_[:, rows]  # a sample has the same bounds in any company
        lo = torch.where(own, run[: len(rows)].T, full[0][:, rows])
        hi = torch.where(own, -run[len(rows) :].T, full[1][:, rows])
        if alphas is not None:  # what is no better than what is known must feel the gradient, or it never becomes so
            lo = torch.maximum(lo, full[0][:, rows]).detach() + (lo - lo.detach())  # exact: the latter is 0
            hi = torch.minimum(hi, full[1][:, rows]).detach() + (hi - hi.detach())
        full = [t.index_copy(1, rows, new) for t, new in zip(full, (lo, hi), strict=True)]
        ends = [self._unflat(t, box.shape, node.pre) for t in full]
        return box.meet(*ends) if alphas is None else Interval(torch.minimum(*ends), torch.maximum(*ends))

    def open_rows(self, index: int, box: Interval, signs: bool) -> Tensor:
        """Which numbers of a sample a backward pass should bound, (N,): in any sample not a point, or of open sign."""
        return self._open(index, box, signs).any(0)

    def _open(self, index: int, box: Interval, signs: bool) -> Tensor:
        """Which numbers of each sample are no points, or of open sign where that is all that matters: (B, N)."""
        pre = self.program.nodes[index].pre
        low, high = (samples_first(t.detach()[None], pre, self.batch)[0] for t in (box.low, box.high))
        return (low < 0) & (high > 0) if signs and self.sparse else low < high

    def _settled(self, index: int) -> bool:
        """Whether no backward pass can improve an interval: of a function of one bounded value, or of an affine layer
        right behind a perturbed box or a constant, whether its weights move or not."""
        site, rule = self.sites[index], self._rule(index)
        if rule.settled or not site.hot or (isinstance(rule, Bilinear) and rule.itself(site)):
            return True
        boxes = {
            self.program.inputs[key]
            for key, region in self.sets.items()
            if isinstance(key, int)
            and (type(region) is Box or (isinstance(region, LpBall) and (region.p == math.inf or region.clip is None)))
        }
        return site.node.key in ("linear", "conv2d") and len(site.hot) == 1 and site.hot[0] in boxes

    def _line(self, index: int, found: dict[int, Interval] | None = None) -> Linear:
        """The linear bounds of a node, carried forward."""
        key = (index, torch.is_grad_enabled())
        if key in self._forward:
            return self._forward[key]
        if index in self.program.inputs:
            made = self._inputs_lines()[index]
        else:
            site = self.sites[index]
            known = self._intervals("forward") if found is None else found
            made = self._rule(index).forward(
                site, [known[i] for i in site.hot], [self._line(i, known) for i in site.hot]
            )
        self._forward[key] = made
        return made

    def _inputs_lines(self) -> dict[int, Linear]:
        """Each perturbed input as a linear function of all of them."""
        keys = [key for key in self.sets if isinstance(key, int)]
        if len(keys) < len(self.sets):
            raise NotImplementedError("forward bounds do not cover perturbed weights: use a backward method")
        sizes = [self.inputs[key][0].numel() for key in keys]
        made, start = {}, 0
        for key, size in zip(keys, sizes, strict=True):
            x = self.inputs[key]
            eye = x.new_zeros(sum(sizes), size)
            eye[start : start + size] = torch.eye(size, dtype=x.dtype, device=x.device)
            w = eye.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
            made[self.program.inputs[key]] = Linear(w, torch.zeros_like(x), w, torch.zeros_like(x))
            start += size
        return made

    def _concrete(self, line: Linear, pre: int) -> Interval:
        """The interval of linear bounds over the sets."""
        return Interval(*self._ends(line, pre))

    def _ends(self, line: Linear, pre: int) -> tuple[Tensor, Tensor]:
        shape = line.lb.shape
        ends = []
        for w, b, sign in ((line.lw, line.lb, 1), (line.uw, line.ub, -1)):
            rows = samples_first(w, pre, self.batch).permute(2, 1, 0) * sign  # (numbers, B, D)
            value, start = torch.zeros(rows.shape[:2], dtype=w.dtype, device=w.device), 0
            for key in (k for k in self.sets if isinstance(k, int)):
                x = self.inputs[key]
                part = rows[..., start : start + x[0].numel()].reshape(*rows.shape[:2], *x.shape[1:])
                value = value + self.sets[key].lower(part)
                start += x[0].numel()
            ends.append(self._unflat(sign * value.T, tuple(shape), pre) + b)
        return ends[0], ends[1]

    # --- backward -------------------------------------------------------------------------------------------------

    def _spec(self, c: Tensor | Margins | None, found: Mapping[int, Interval] | None = None) -> Rows:
        shape = (self._intervals("ibp") if found is None else found)[self.output].shape
        count = math.prod(shape) // self.batch
        if c is None:
            return Identity(torch.arange(count, device=self.inputs[0].device), count)
        if isinstance(c, Margins):
            if len(shape) != 2:
                raise ValueError(f"margins need an output (B, K), got {shape}")
            return c.check(self.batch, shape[1])
        if c.ndim != 3 or c.shape[0] != self.batch or c.shape[1] == 0 or c.shape[2] != count:
            raise ValueError(f"C must have shape (B, S, K) = ({self.batch}, S, {count}), got {tuple(c.shape)}")
        return Dense(c.transpose(0, 1).to(self._dtype))

    def _run(
        self,
        start: int,
        rows: Rows,
        found: dict[int, Interval],
        *,
        mirror: bool = True,
        stop: bool = False,
        alphas: Any = None,
        spread: list[Any] | None = None,
    ) -> Tensor:
        """Lower bounds (S, B) of the rows, and then of their negatives (2 S, B), a chunk at a time."""
        step = self._rows_at_once(start, found, mirror)
        if len(rows) <= step:
            return self._backward(start, rows, found, mirror=mirror, stop=stop, alphas=alphas, spread=spread)
        parts = [
            self._backward(
                start,
                rows.part(i, i + step),
                found,
                mirror=mirror,
                stop=stop,
                spread=spread,
                alphas=alphas and alphas.part(i, i + step),
            )
            for i in range(0, len(rows), step)
        ]
        if not mirror:
            return torch.cat(parts)
        halves = [part.chunk(2) for part in parts]
        return torch.cat([*(h[0] for h in halves), *(h[1] for h in halves)])

    def _check_room(self, found: dict[int, Interval]) -> None:
        """Raise MemoryLimitExceeded where linear functions of all inputs would need more than the limit at a node."""
        largest = max(found, key=lambda i: math.prod(found[i].shape))
        size = sum(self.inputs[key][0].numel() for key in self.sets if isinstance(key, int))
        need = math.prod(found[largest].shape) * size * 2 * torch.finfo(self._dtype).bits // 8
        if self.memory_limit is not None and need > self.memory_limit:
            raise MemoryLimitExceeded(
                f"linear functions of {size} inputs need {need:,} bytes at node {self.program.nodes[largest]}, over "
                f"the limit of {self.memory_limit:,}: bound a smaller batch, or by a backward method"
            )

    def _rows_at_once(self, start: int, found: dict[int, Interval], mirror: bool) -> int:
        largest = max((i for i in found if i <= start), key=lambda i: math.prod(found[i].shape))
        row = math.prod(found[largest].shape) * torch.finfo(self._dtype).bits // 8 * (2 if mirror else 1) * 3
        if self.memory_limit is not None and row > self.memory_limit:
            raise MemoryLimitExceeded(
                f"one row of coefficients needs {row:,} bytes at node {self.program.nodes[largest]}, over the limit of "
                f"{self.memory_limit:,}: bound a smaller batch, or raise memory_limit"
            )
        most = max(1, (self.memory_limit or CHUNK.get(self.inputs[0].device.type, 1 << 28)) // row)
        return most if self.chunk is None else min(most, self.chunk)

    def _backward(
        self,
        start: int,
        rows: Rows,
        found: dict[int, Interval],
        *,
        mirror: bool = True,
        stop: bool = False,
        alphas: Any = None,
        collect: list[Any] | None = None,
        spread: list[Any] | None = None,
    ) -> Tensor:
        """One backward pass.

        `stop`: end on intervals at the first operators that are not affine. `spread`: a list to which the distance of
        upper from lower bounds is added, one entry for each call.
        """
        wide: Tensor | float = 0.0
        pending, total = self._begin(start, rows, mirror, found)
        for index in range(start, -1, -1):
            a = pending.pop(index, None)
            if a is None:
                continue
            if index in self.program.inputs:
                if collect is not None:
                    collect[0][self.program.inputs.index(index)] = a
                else:
                    region = self.sets[self.program.inputs.index(index)]
                    low = region.lower(a)
                    total = total + low
                    wide = wide if spread is None else wide - region.lower(-a) - low
                continue
            site, rule = self.sites[index], self._rule(index)
            if stop and self._relaxed(index):
                pre, box = site.node.pre, found[index]
                flat = samples_first(a, pre, self.batch)
                c, r = (samples_first(t[None], pre, self.batch)[0] for t in (box.center, box.radius))
                radius = torch.einsum("sbn,bn->sb", flat.abs(), r)
                total = total + torch.einsum("sbn,bn->sb", flat, c) - radius
                wide = wide + 2 * radius
                continue
            x = [found[i] for i in site.hot]
            grads, bias = rule.backward(site, a, x, self._alpha(index, rule, x, found, alphas, start))
            for i, grad in zip(site.hot, grads, strict=True):
                pending[i] = pending[i] + grad if i in pending else grad
            total = total + bias
        if collect is not None:
            collect[1] = total
        if spread is not None:
            spread.append(wide if isinstance(wide, Tensor) else torch.zeros_like(total))
        return total if isinstance(total, Tensor) else torch.full((1, self.batch), float(total))

    def _begin(self, start: int, rows: Rows, mirror: bool, found: dict[int, Interval]) -> tuple[dict[int, Tensor], Any]:
        """The coefficients that a pass begins with. Rows of a linear layer are rows of its weight."""
        node, site = self.program.nodes[start], self.sites.get(start)
        plain = site is not None and node.key == "linear" and site.hot == (node.args[0].index,) and node.pre == 1
        plain = plain and found[start].shape[:-1] == (self.batch,)
        if plain and site is not None and site.weight is None and site.bias is None:
            a, total = rows.through(site.argument(1), site.argument(2, "bias"), self.batch)
            index = site.hot[0]
        else:
            flat = rows.dense(self.batch, found[start].low)
            shape = found[start].shape
            a = flat.reshape(len(rows), *shape) if node.pre == 1 else self._unflat_rows(flat, shape, node.pre)
            total, index = torch.zeros(len(rows), self.batch, dtype=flat.dtype, device=flat.device), start
        if mirror:
            a, total = torch.cat([a, -a]), torch.cat([total, -total])
        return {index: a}, total

    def _alpha(
        self, index: int, rule: Rule, x: list[Interval], found: dict[int, Interval], alphas: Any, start: int
    ) -> Any:
        """The free slopes of an operator, or its lines if they are fixed and have been computed."""
        if alphas is not None:
            return alphas.of(start, index)
        if not isinstance(rule, Pointwise):
            return None
        kept = self._lines.get(index)
        if kept is None or kept[0] is not x[0]:
            self._lines[index] = kept = (x[0], rule.relax(self.sites[index], x[0]))
        return kept[1]

    # --- shapes ---------------------------------------------------------------------------------------------------

    def _unflat(self, t: Tensor, shape: Sequence[int], pre: int = 1) -> Tensor:
        """(B, numbers of a sample) -> the shape of a node."""
        return self._unflat_rows(t[None], shape, pre)[0]

    def _unflat_rows(self, t: Tensor, shape: Sequence[int], pre: int) -> Tensor:
        if pre != 1:
            t = t.unflatten(2, (pre, -1)).transpose(1, 2)
        return t.reshape(t.shape[0], *shape)

    def _both(self, run: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and their negatives (2 S, B) -> lower and upper bounds (B, S)."""
        low, high = run.chunk(2)
        return self._checked(low.T, -high.T)

    def _checked(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            crossed = low - high > 1e-4 * (1 + low.abs() + high.abs())
            if bool(crossed.any()):
                raise RuntimeError(
                    f"internal error: a lower bound exceeds its upper bound by {float((low - high).max()):g}"
                )
        return low, high


def hot_nodes(bounds: Bounds) -> Iterator[Node]:
    """The operators that depend on what is perturbed, in order."""
    for site in bounds.sites.values():
        yield site.node
