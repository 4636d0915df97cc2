"""Laws of parameters of every kind: whatever their shape and layout, they move as plain, contiguous copies do."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

SHAPES = ((3, 4), (3, 2, 4, 2), (3,))
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda p: p.mT.contiguous().mT if p.ndim > 1 else p,
    "reversed": lambda p: p.permute(*reversed(range(p.ndim))).contiguous().permute(*reversed(range(p.ndim))),
    "channels last": lambda p: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p,
    "every second": lambda p: torch.stack([p, p + 1], dim=-1)[..., 0],
}
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = LAYOUTS | {
    "one number": lambda g: g.mean().expand_as(g),
    "one row": lambda g: g[:1].expand_as(g),
    "one column": lambda g: g[..., :1].expand_as(g),
}


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12)


def own_rows(case) -> dict[str, int]:
    return {"networks": case.networks} if case.networks > 1 else {}


def with_gradients(case, params: list[Tensor], t: int, laid: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """The closure of step t, after which every gradient is laid out in some way."""
    inner = case.closure(params, t)

    def closure() -> Tensor:
        loss = inner()
        for p in params:
            assert p.grad is not None
            p.grad = laid(p.grad)
        return loss

    return closure


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_of_every_layout_move_alike(case, layout: str) -> None:
    plain = case.params(shapes=SHAPES)
    laid = [LAYOUTS[layout](p.detach().clone()).requires_grad_() for p in plain]
    strides = [p.stride() for p in laid]
    assert strides != [p.stride() for p in plain]
    for params in (plain, laid):
        case.run(case.make(params), params, range(8))
    close(laid, plain)
    assert [p.stride() for p in laid] == strides


@pytest.mark.parametrize("layout", GRADIENTS)
def test_gradients_of_every_layout_move_alike(case, layout: str) -> None:
    plain, other = case.params(shapes=SHAPES), case.params(shapes=SHAPES)
    opt, twin = case.make(plain), case.make(other)
    for t in range(8):
        opt.step(with_gradients(case, plain, t, lambda g: GRADIENTS[layout](g).clone().contiguous()))
        twin.step(with_gradients(case, other, t, GRADIENTS[layout]))
    close(other, plain)


def test_a_scalar_moves_as_a_vector_of_one_number(case) -> None:
    if case.networks > 1:
        with pytest.raises(ValueError, match=r"networks=3|shape \(\)"):
            case.make([torch.zeros((), requires_grad=True)])
        return
    for shapes in ((), (3, 4)), ((),):
        scalars = case.params(shapes=shapes)
        vectors = [p.detach().clone().reshape(p.shape or (1,)).requires_grad_() for p in scalars]
        opts = [case.make(params) for params in (scalars, vectors)]
        for opt, params in zip(opts, (scalars, vectors), strict=True):
            case.run(opt, params, range(8))
        close([p.reshape(q.shape) for p, q in zip(scalars, vectors, strict=True)], vectors)
        assert scalars[0].shape == ()
        like = [v for v in opts[0].state[scalars[0]].values() if isinstance(v, Tensor) and v.dtype == scalars[0].dtype]
        assert case.stateless or any(v.shape == () for v in like)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_an_empty_parameter_is_no_burden(case, shape: tuple[int, ...]) -> None:
    shape = (3, *shape) if case.networks > 1 else shape
    plain, more = case.params(), case.params()
    with_empty = [more[0], torch.zeros(shape, dtype=torch.float64, requires_grad=True), *more[1:]]
    opt, twin = case.make(plain), case.make(with_empty)
    for t in range(8):
        opt.step(case.closure(plain, t))
        inner = case.closure(more, t)

        def closure(inner: Callable[[], Tensor] = inner) -> Tensor:
            with_empty[1].grad = torch.zeros_like(with_empty[1])
            return inner()

        twin.step(closure)
    close(more, plain)


def test_nothing_but_empty_parameters_is_no_error(case) -> None:
    shape = (3, 0) if case.networks > 1 else (0,)
    params = case.params(shapes=[shape])
    case.run(case.make(params), params, range(3))


class Tied(nn.Module):
    """One parameter under two names, and another one."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.inner = nn.ParameterList([nn.Parameter(w.detach().clone()) for w in weights])
        self.outer = self.inner[0]


def test_a_tied_parameter_takes_one_step(case) -> None:
    (params, opt), tied = case.built(), Tied(case.params())
    twins = list(tied.parameters())
    assert len(list(tied.named_parameters(remove_duplicate=False))) == len(twins) + 1
    case.run(opt, params, range(8))
    case.run(case.make(tied.named_parameters()), twins, range(8))
    close(twins, params)


def test_refuses_a_parameter_that_is_given_twice(own) -> None:
    p, q = own.params(shapes=[(3, 4), (3,)])
    opt = own.make([q])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this will be an error
        for entries in ([p, q, p], [("one", p), ("two", q), ("three", p)], [{"params": [p, q, p]}]):
            with pytest.raises(ValueError, match="given twice"):
                own.make(entries)
        with pytest.raises(ValueError, match="given twice"):
            opt.add_param_group({"params": [p, p]})
    assert len(opt.param_groups) == 1


def frozen_closure(case, params: list[Tensor], t: int, frozen: list[int]) -> Callable[[], Tensor]:
    for i, p in enumerate(params):
        p.requires_grad_(i not in frozen)
    return case.closure(params, t, idle=frozen)


SLEEP = {3: [1], 4: [1], 6: [0, 1], 7: [2]}


def test_frozen_and_thawed_it_goes_on_as_if_those_steps_had_not_been(by_group) -> None:
    """In a group of its own, so that no other gradient has a part in its norm."""
    params, apart = by_group.params(), by_group.params()
    opt = by_group.make([{"params": [p]} for p in params])
    singles = [by_group.make([p]) for p in apart]
    for t in range(12):
        asleep = SLEEP.get(t, [])
        opt.step(frozen_closure(by_group, params, t, asleep))
        by_group.closure(apart, t)()
        for i, single in enumerate(singles):
            if i not in asleep:
                single.step()
    close(params, apart)


def test_frozen_and_thawed_it_is_as_if_the_group_had_not_held_it(unremembering) -> None:
    case = unremembering
    (params, opt), (others, other) = case.built(), case.built()
    for t in range(12):
        asleep = SLEEP.get(t, [])
        opt.step(frozen_closure(case, params, t, asleep))
        other.param_groups[0]["params"] = [p for i, p in enumerate(others) if i not in asleep]
        inner = case.closure(others, t, idle=asleep)
        other.step(inner)
        other.param_groups[0]["params"] = others
    close(params, others)
