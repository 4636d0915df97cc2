"""Rows of a map's numbers by their places, so that a pass computes windows of the maps behind alone.

Each place of each sample becomes a sample of its own: coefficients are (rows of a place, places B, C, h, w), and the
operators' rules work on windows as they do on maps. A place with many rows comes several times, one with few has rows
of zeros; what lies outside of a map has coefficients of zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import Site
from flatlab.bounds.pointwise import Pointwise
from flatlab.bounds.problem import Problem
from flatlab.bounds.relax import Lines
from flatlab.bounds.sets import Box
from flatlab.bounds.windows import KERNELS, Plan, Window

PLACE = 0.5
"""What a place costs besides its rows, such as taking windows of lines from their maps, in rows."""


@dataclass(frozen=True, eq=False)
class Places:
    """The rows of a pass, with their negatives, by place.

    Attributes:
        plan: how far windows go.
        batch: B.
        y, x: where the places are (P,).
        channel: of each row (S,), in the order of the places.
        place, slot: where each row is among the places, and among the rows of its place (S,).
        back: the rows' own order (S,).
        most: rows of a place, R.
    """

    plan: Plan
    batch: int
    y: Tensor
    x: Tensor
    channel: Tensor
    place: Tensor
    slot: Tensor
    back: Tensor
    most: int

    @staticmethod
    def of(plan: Plan, start: int, index: Tensor, most: int) -> "Places":
        """Those of some numbers of a map.

        Args:
            plan: how far windows go from it.
            start: its node.
            index: the numbers (S,), as of a sample without its shape.
            most: the largest R.
        """
        batch, _, height, width = plan.shapes[start]
        position = index % (height * width)
        order = position.argsort(stable=True)
        at, count = position[order].unique_consecutive(return_counts=True)
        sizes = torch.arange(1, min(int(count.max()), most) + 1, device=index.device)
        times = (count[:, None] + sizes - 1) // sizes  # how often each place comes, for each R
        best = int((times.sum(0) * (sizes + PLACE)).argmin())
        often, size = times[:, best], best + 1
        rank = torch.arange(len(index), device=index.device) - (count.cumsum(0) - count).repeat_interleave(count)
        place = (often.cumsum(0) - often).repeat_interleave(count) + rank // size
        at = at.repeat_interleave(often)
        channel = index[order] // (height * width)
        return Places(plan, batch, at // width, at % width, channel, place, rank % size, order.argsort(), size)

    def __len__(self) -> int:
        return len(self.y)

    def parts(self, step: int) -> Iterator[tuple["Places", slice, slice]]:
        """Some places at a time: those, which rows are theirs, and which places they are."""
        for start in range(0, len(self), step):
            places = slice(start, min(start + step, len(self)))
            ends = torch.searchsorted(self.place, torch.tensor([places.start, places.stop], device=self.place.device))
            rows = slice(*ends.tolist())
            some = {name: getattr(self, name)[rows] for name in ("channel", "slot")}
            part = replace(
                self, y=self.y[places], x=self.x[places], place=self.place[rows] - start, back=self.back[:0], **some
            )
            yield part, rows, places

    # --- coefficients ---------------------------------------------------------------------------------------------

    def begin(self, start: int, like: Tensor) -> Tensor:
        """The rows and their negatives, (2 R, P B, C, 1, 1)."""
        a = like.new_zeros(2, self.most, len(self), self.plan.shapes[start][1])
        a[0, self.slot, self.place, self.channel] = 1.0
        a[1] = -a[0]
        return a[:, :, :, None].expand(-1, -1, -1, self.batch, -1).reshape(2 * self.most, -1, a.shape[3], 1, 1)

    def rows(self, t: Tensor) -> Tensor:
        """Of each row and of its negative: (2 R, P B, ...) -> (2 S, B, ...)."""
        parts = t.reshape(2, self.most, len(self), self.batch, *t.shape[2:])
        return parts[:, self.slot, self.place].flatten(0, 1)

    def carry(self, a: Tensor, source: int, target: int) -> Tensor:
        """Coefficients that an operator's rule gave its input, as they are kept for that input.

        Args:
            a: (2 R, P B, C, h, w).
            source: the operator's node.
            target: the input's node.
        """
        window, wanted = self.plan.sites[source][1], self.plan.windows.get(target)
        if window != self.plan.windows[source]:
            inside = self._inside(window, self.plan.shapes[target], a.dtype)
            if inside is not None:
                a = a * inside if torch.is_grad_enabled() else a.mul_(inside)
        if wanted is None:
            return self.spread(a, window, target)
        before = [wanted.lead[i] - window.lead[i] for i in range(2)]
        after = [wanted.size[i] - window.size[i] - before[i] for i in range(2)]
        sides = [before[1], after[1], before[0], after[0]]
        return F.pad(a, sides) if any(sides) else a

    def spread(self, a: Tensor, window: Window, index: int) -> Tensor:
        """Coefficients of windows of a node written out in full: (2 R, P B, C, h, w) -> (2 S, B, C, H, W)."""
        shape = self.plan.shapes[index]
        rows = self.rows(a.flatten(3))
        y, x = self._at(window, shape)
        at = (y[:, :, None] * shape[3] + x[:, None, :]).flatten(1)[self.place].repeat(2, 1)
        full = rows.new_zeros(*rows.shape[:3], shape[2] * shape[3])
        return full.scatter_add(3, at[:, None, None].expand_as(rows), rows).unflatten(3, shape[2:])

    # --- what rules need ------------------------------------------------------------------------------------------

    def operator(
        self, problem: Problem, index: int, found: Mapping[int, Interval], alpha: Tensor | None
    ) -> tuple[Site, list[Interval]]:
        """An operator as it acts on windows, and the intervals of its inputs there.

        Args:
            problem: whose operator it is.
            index: its node.
            found: intervals of maps.
            alpha: its slopes; None for the default ones.
        """
        site, rule = problem.sites[index], problem.rule(index)
        node, window = self.plan.sites[index]
        x: list[Interval] = [_Part(self, found[i], window) for i in site.hot]
        values, lines = site.values, None
        if node.key not in KERNELS:
            values = {
                i: self._constant(site.values[i], self.plan.shapes[index], window)
                for i in site.node.inputs
                if i not in site.hot
            }
        if isinstance(rule, Pointwise) and alpha is None:
            kept = rule.kept(site, found[site.hot[0]])
            some = iter(self.pick([t for t in kept if t is not None], window))
            lines = x[0], cast(Lines, tuple(None if t is None else next(some) for t in kept))
        return replace(site, node=node, values=values, batch=len(self) * self.batch, lines=lines), x

    def lower(self, a: Tensor, region: Box, index: int) -> Tensor:
        """The least value over the set of an input's node: (2 R, P B, C, h, w) -> (2 R, P B)."""
        window = self.plan.windows[index]
        return region.map(lambda t: self.pick([t], window)[0]).lower(a)

    def slopes(self, first: Tensor, index: int) -> Tensor:
        """Slopes (k, B, C, H, W) of a node to begin with -> those of each row, (k, 2 R, P, B, C, h, w)."""
        part = torch.stack(self.pick(list(first), self.plan.windows[index])).unflatten(1, (len(self), self.batch))
        return part[:, None].expand(-1, 2 * self.most, *part.shape[1:])

    def pick(self, maps: list[Tensor], window: Window) -> list[Tensor]:
        """Windows of maps: (B, C, H, W) each -> (P B, C, h, w) each; numbers outside are those of the border."""
        table, origin = torch.cat(maps, 1), []
        for dim, at in enumerate((self.y, self.x)):  # whatever the places see, in turn
            step, lead, size = window.step[dim], window.lead[dim], window.size[dim]
            first, last = at.aminmax()
            origin.append(at - first)
            reached = torch.arange(int(first) * step - lead, int(last) * step - lead + size, device=at.device)
            table = table.index_select(2 + dim, reached.clamp(0, table.shape[2 + dim] - 1))
        for dim in (2, 3):
            table = table.unfold(dim, window.size[dim - 2], window.step[dim - 2])
        views = table.permute(2, 3, 0, 1, 4, 5)
        if 2 * len(self) < views.shape[0] * views.shape[1]:
            found = views[origin[0], origin[1]]
        else:  # most places are wanted
            found = views.flatten(0, 1).index_select(0, origin[0] * views.shape[1] + origin[1])
        return list(found.flatten(0, 1).split([t.shape[1] for t in maps], 1))

    def _constant(self, value: Any, shape: tuple[int, ...], window: Window) -> Any:
        """A constant of an operator on maps of a shape, where it differs from place to place."""
        if not isinstance(value, Tensor):
            return value
        sizes = (1,) * (4 - value.ndim) + tuple(value.shape)
        return self.pick([value.expand(shape)], window)[0] if max(sizes[0], *sizes[2:]) > 1 else value

    def _at(self, window: Window, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows (P, h) and columns (P, w) of each window, those outside of the map moved to its border."""
        y, x = self._unbounded(window)
        return y.clamp(0, shape[2] - 1), x.clamp(0, shape[3] - 1)

    def _unbounded(self, window: Window) -> tuple[Tensor, Tensor]:
        ends = []
        for at, step, lead, size in zip((self.y, self.x), window.step, window.lead, window.size, strict=True):
            ends.append((at * step - lead)[:, None] + torch.arange(size, device=at.device))
        return ends[0], ends[1]

    def _inside(self, window: Window, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """1 where windows lie on the map, and 0 elsewhere, (P B, 1, h, w); None if all of them do."""
        y, x = self._unbounded(window)
        down, across = (y >= 0) & (y < shape[2]), (x >= 0) & (x < shape[3])
        if bool(down.all()) and bool(across.all()):
            return None
        inside = (down[:, :, None] & across[:, None, :]).to(dtype)
        return inside.repeat_interleave(self.batch, 0)[:, None]


class _Part(Interval):
    """Windows of an interval of maps, taken when they are asked for."""

    def __init__(self, places: Places, whole: Interval, window: Window) -> None:
        super().__init__()
        self._take = lambda: places.pick([whole.low, whole.high], window)
        self._shape = len(places) * places.batch, whole.shape[1], *window.size

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def low(self) -> Tensor:
        if self._low is None:
            self._low, self._high = self._take()
        return self._low

    @property
    def high(self) -> Tensor:
        self.low  # noqa: B018
        assert self._high is not None
        return self._high
