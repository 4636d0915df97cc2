"""Recurrent layers and their cells, step by step."""

from collections.abc import Sequence
from typing import Any

from flatlab.bounds.expansions.registry import expansion
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


@expansion("lstm")
def _lstm(
    emit: Emitter, x: Ref, state: Any, weights: Any, bias: bool, layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    plain = isinstance(state, list | tuple) and isinstance(weights, list | tuple)  # else the sequences are packed
    count = layers * (2 if bidirectional else 1) * (4 if bias else 2)  # more weights are of projections
    if not plain or len(weights) != count or (train and dropout and layers > 1):
        return NotImplemented

    time, each, ways = (1 if batch_first else 0), (4 if bias else 2), (2 if bidirectional else 1)
    steps = [emit.select(x, time, t) for t in range(x.shape[time])]
    last: list[list[Ref]] = [[], []]
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            row = layer * ways + way
            w = [*weights[row * each : (row + 1) * each], None, None]
            h, c = (emit.select(s, 0, row) for s in state)
            run = []
            for z in steps[:: -1 if way else 1]:
                h, c = _lstm_cell(emit, z, (h, c), *w[:4])
                run.append(h)
            outputs.append(run[:: -1 if way else 1])
            last[0].append(h)
            last[1].append(c)
        steps = [step[0] if ways == 1 else emit.cat(list(step), 1) for step in zip(*outputs, strict=True)]
    return [emit.stack(steps, time), *(emit.stack(part, 0) for part in last)]


@expansion("lstm_cell")
def _lstm_cell(emit: Emitter, x: Ref, state: Sequence[Any], w: Any, u: Any, b: Any = None, d: Any = None) -> list[Ref]:
    i, f, g, o = emit.chunk(emit.add(emit.linear(x, w, b), emit.linear(state[0], u, d)), 4, 1)
    c = emit.add(emit.mul(emit.sigmoid(f), state[1]), emit.mul(emit.sigmoid(i), emit.tanh(g)))
    return [emit.mul(emit.sigmoid(o), emit.tanh(c)), c]


@expansion("gru_cell")
def _gru_cell(emit: Emitter, x: Ref, h: Any, w: Any, u: Any, b: Any = None, d: Any = None) -> Ref:
    xr, xz, xn = emit.chunk(emit.linear(x, w, b), 3, 1)
    hr, hz, hn = emit.chunk(emit.linear(h, u, d), 3, 1)
    z = emit.sigmoid(emit.add(xz, hz))
    n = emit.tanh(emit.add(emit.mul(emit.sigmoid(emit.add(xr, hr)), hn), xn))
    return emit.add(n, emit.mul(z, emit.sub(h, n)))


@expansion("rnn_tanh_cell")
def _rnn_tanh_cell(emit: Emitter, x: Ref, h: Any, w: Any, u: Any, b: Any = None, d: Any = None) -> Ref:
    return emit.tanh(emit.add(emit.linear(x, w, b), emit.linear(h, u, d)))


@expansion("rnn_relu_cell")
def _rnn_relu_cell(emit: Emitter, x: Ref, h: Any, w: Any, u: Any, b: Any = None, d: Any = None) -> Ref:
    return emit.relu(emit.add(emit.linear(x, w, b), emit.linear(h, u, d)))
