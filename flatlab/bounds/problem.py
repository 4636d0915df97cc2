"""What is asked: a program, a batch, the sets in which inputs and parameters move, and which operators they reach."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flatlab import checks
from flatlab.bounds.capture import Program
from flatlab.bounds.decompositions import CONSTANT
from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.nodes import Ref, Site, reach
from flatlab.bounds.relax import SLOPES
from flatlab.bounds.rule import Rule
from flatlab.bounds.rules import RULES
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.weights import SUPPORTED, first_names


class Problem:
    """A checked question; arguments and errors are those of `flatlab.bounds.Bounds`.

    Attributes:
        program, inputs: as given, the inputs as a tuple.
        sets: the perturbed inputs, by position.
        weights: the perturbed parameters, by the first of their names.
        batch: the number of samples.
        sites: the operators that depend on what is perturbed, by their node.
    """

    def __init__(
        self,
        program: Program,
        inputs: Tensor | Sequence[Tensor],
        sets: Box | Mapping[int, Box] | None,
        weights: Mapping[str, LpBall] | None,
        *,
        relu: str,
    ) -> None:
        self.program = program
        self.inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        self.sets: dict[int, Box] = {0: sets} if isinstance(sets, Box) else dict(sets or {})
        first = first_names(program.model)
        self.weights = {first.get(name, name): ball for name, ball in (weights or {}).items()}
        self.relu = checks.one_of("lower slope of ReLUs", relu, SLOPES)
        self.batch = self._check()
        at = [self.sets[i].center if i in self.sets else x for i, x in enumerate(self.inputs)]
        self._values = program.leaves(at)
        self._parameters = {  # node -> first name
            i: first[node.leaf[1]]
            for i, node in enumerate(program.nodes)
            if node.leaf is not None and node.leaf[0] == "parameter"
        }
        for i, name in self._parameters.items():
            if name in self.weights:
                self._values[i] = self.weights[name].center  # the ball need not lie around the present value
        self.sites = self._find_sites()
        self._evaluate_constants()

    # --- what passes ask ------------------------------------------------------------------------------------------

    @property
    def output(self) -> int:
        """The node of the output."""
        return self.program.output

    @property
    def dtype(self) -> torch.dtype:
        """Of the bounds."""
        given = (*self.inputs, *self.program.model.parameters())
        return next(x.dtype for x in given if x.is_floating_point())

    def pre(self, index: int) -> int:
        """How many numbers of a node's value lie before the samples in memory."""
        return self.program.nodes[index].pre

    def rule(self, index: int) -> Rule:
        """The rule of a perturbed operator."""
        return RULES[self.program.nodes[index].key]

    def relaxes(self, index: int) -> bool:
        """Whether linear bounds of a perturbed operator depend on intervals."""
        return self.rule(index).relaxes(self.sites[index])

    def settled(self, index: int) -> bool:
        """Whether no backward pass can improve an interval: of a function of one bounded value, or of an affine layer
        right behind a perturbed box or a constant, whether its weights move or not."""
        site, rule = self.sites[index], self.rule(index)
        if rule.settled(site) or not site.hot:
            return True
        exact = {self.program.inputs[i] for i, region in self.sets.items() if region.exact_behind_affine}
        return rule.exact_on_boxes and len(site.hot) == 1 and site.hot[0] in exact

    def demanding(self) -> dict[int, bool]:
        """Nodes whose intervals the relaxations use -> whether only those of open sign matter."""
        wanted: dict[int, bool] = {}
        for index, site in self.sites.items():
            rule = self.rule(index)
            for i in site.hot if rule.needs(site) else ():
                if i in self.sites:
                    wanted[i] = wanted.get(i, True) and rule.by_sign
        for index in reversed(self.sites):  # what follows exactly from another interval is as good as that one
            if wanted.get(index) is False and self.rule(index).settled(self.sites[index]):
                wanted |= dict.fromkeys((i for i in self.sites[index].hot if i in self.sites), False)
        return wanted

    def behind(self, start: int) -> list[int]:
        """The perturbed operators that a node's value depends on, itself included."""
        return sorted(reach([start], lambda index: (i for i in self.sites[index].hot if i in self.sites)))

    # --- set-up ---------------------------------------------------------------------------------------------------

    def _check(self) -> int:
        """Raise where something does not fit; return the batch size."""
        program = self.program
        if len(self.inputs) != len(program.inputs):
            raise ValueError(f"the module takes {len(program.inputs)} input(s), got {len(self.inputs)}")
        if program.model.training != program.training:
            mode = "train" if program.training else "eval"
            raise ValueError(f"the module was captured in {mode} mode and is not in it now: switch, or capture it anew")
        if not self.sets and not self.weights:
            raise ValueError("nothing is perturbed: give a set for at least one input or parameter")
        for i, region in self.sets.items():
            if not 0 <= i < len(self.inputs):
                raise ValueError(f"there is no input {i}: the module takes {len(self.inputs)}")
            if not self.inputs[i].is_floating_point():
                raise TypeError(f"input {i} holds {self.inputs[i].dtype}: only floating-point inputs can be perturbed")
            if self.inputs[i].ndim == 1:
                raise ValueError(
                    f"input {i} has shape {tuple(self.inputs[i].shape)}, without a dimension for the batch: give "
                    "x[None] for one sample, or x[:, None] for one number a sample"
                )
            _fits(f"{i}", region, self.inputs[i])
        parameters = dict(program.model.named_parameters()) if self.weights else {}
        for name, ball in self.weights.items():
            if not isinstance(ball, LpBall) or ball.clip is not None:
                raise ValueError(f"parameter {name!r} may be perturbed in an LpBall without clip only")
            if name not in parameters:
                raise ValueError(
                    f"the output does not use the perturbed parameter {name!r}: there is no parameter of this name"
                )
            if ball.eps.ndim:
                raise ValueError(f"the ball of parameter {name!r} needs one eps, got {ball.eps.numel()}")
            _fits(repr(name), ball, parameters[name])
        batch = int(self.inputs[0].shape[0])
        sizes = [x.shape[0] if x.ndim else 0 for x in self.inputs]
        if batch == 0 or any(size != batch for size in sizes):
            raise ValueError(f"dimension 0 of all inputs must be the same batch of one or more, got sizes {sizes}")
        norms = any(n.key == "clean" for n in program.nodes) and program.training
        if norms and batch == 1:
            raise ValueError("BatchNorm in train mode needs more than one sample: use model.eval(), or a larger batch")
        return batch

    def _find_sites(self) -> dict[int, Site]:
        """The operators that depend on what is perturbed."""
        sites: dict[int, Site] = {}
        hot: set[int] = {self.program.inputs[i] for i in self.sets}
        used: set[str] = set()
        for index, node in enumerate(self.program.nodes):
            if node.leaf is not None or node.key in CONSTANT:
                continue
            mine = tuple(dict.fromkeys(i for i in node.inputs if i in hot))
            moved = {self._parameters[i] for i in node.inputs if self._parameters.get(i) in self.weights}
            if not mine and not moved:
                continue
            if node.key not in RULES:
                raise UnsupportedOperator(
                    f"no rule bounds the operator {node.key!r} of node {node}. Add one line to flatlab/bounds/rules.py "
                    "(see its head), or rewrite the module with operators of flatlab.bounds.supported()"
                )
            if node.pre == 0:
                raise UnsupportedOperator(
                    f"{node} mixes the samples of a batch, or drops some: bounds hold for each sample by itself, and "
                    "dimension 0 of every input is the batch (x[None] is a batch of one)"
                )
            site = Site(node, self._values, mine, self.batch, self.relu)
            RULES[node.key].check(site)
            if moved:
                self._perturb(site)
                used |= moved
            sites[index] = site
            hot.add(index)
        idle = set(self.weights) - used
        if idle:
            raise ValueError(f"the output does not use the perturbed parameter(s) {', '.join(sorted(idle))}")
        if self.output not in hot:
            raise ValueError("the output does not depend on what is perturbed")
        return sites

    def _perturb(self, site: Site) -> None:
        """Note the balls of a linear layer's or a convolution's own parameters."""
        node = site.node
        if not site.hot and not self._has_samples(node.inputs[0]):
            raise UnsupportedOperator(f"{node} applies perturbed weights to a constant, the same for all samples")
        for position, argument in enumerate(node.args):
            name = self._parameters.get(argument.index) if isinstance(argument, Ref) else None
            if name not in self.weights:
                continue
            if node.key not in SUPPORTED or position not in (1, 2):
                raise UnsupportedOperator(
                    f"parameter {name!r} is perturbed and used by {node}: only those of linear and conv2d may be"
                )
            if position == 1:
                site.weight = self.weights[name]
            else:
                site.bias = self.weights[name]
        if not site.parameters_move:
            raise UnsupportedOperator(f"{node} takes perturbed parameters by keyword: give them by position")

    def _has_samples(self, index: int) -> bool:
        """Whether a value has one entry for each sample of the batch."""
        node = self.program.nodes[index]
        if node.leaf is not None:
            return node.leaf[0] in ("input", "batch")
        return any(self._has_samples(i) for i in node.inputs)

    def _evaluate_constants(self) -> None:
        """Evaluate the other arguments of the operators, and clean values."""
        wanted = {i for site in self.sites.values() for i in site.node.inputs if i not in self.sites}
        wanted -= {self.program.inputs[i] for i in self.sets}
        values = self.program.evaluate(wanted, dict(self._values))
        for i in wanted:
            self._values[i] = values[i]


def _fits(name: str, region: Box, what: Tensor) -> None:
    if region.low.shape != what.shape:
        raise ValueError(f"the set of {name} has shape {tuple(region.low.shape)}, it needs {tuple(what.shape)}")
    if region.low.dtype != what.dtype:
        raise ValueError(f"the set of {name} holds {region.low.dtype}, it needs {what.dtype}: convert one of them")
