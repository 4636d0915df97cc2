"""An optimizer around another one: both share one list of parameter groups and one state.

Schedulers, checkpoints and `zero_grad` therefore act on both, whichever of the two they were given.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from flatlab import checks
from flatlab.optim.groups import check_once

BaseOptimizer = Callable[..., Optimizer] | Optimizer
"""An optimizer class (or any function that builds one from parameters and options), or an instance."""


class Wrapper(Optimizer):
    """Shares `param_groups` and `state` with `base`, and adds options of its own to the groups.

    Args:
        params: tensors, named tensors or dicts; for an instance exactly the parameters that it holds.
        base_optimizer: a class, or an instance.
        own: the defaults of this wrapper's options.
        networks: how many stacked networks the parameters hold, along dim 0; None: one.
        base_options: for the class.

    In a group an option goes by its own name, unless the base has one of that name: then by `sam_<name>`
    (`sam_rho` over Adadelta, `sam_alpha` over RMSprop).
    """

    stacks = True

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer,
        own: Mapping[str, Any],
        *,
        networks: int | None,
        base_options: Mapping[str, Any],
    ) -> None:
        self.base: Optimizer
        self.networks = None if networks is None else checks.at_least("networks", networks, 1)
        entries = params if isinstance(params, Tensor) else list(params)
        base = _build(entries, base_optimizer, base_options, self.networks)
        self._keys = {name: f"sam_{name}" if name in base.defaults else name for name in own}
        defaults = {**base.defaults, **{self._keys[name]: value for name, value in own.items()}}
        if isinstance(base_optimizer, Optimizer):
            _adopt(entries, base, set(self._keys.values()))
        # Not Optimizer.__init__, which would make groups and a state of its own; this makes the hooks alone.
        super().__setstate__({"defaults": defaults, "base": base})
        self._fill_groups()
        for group in self.param_groups:
            self._check_group(group)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the base optimizer."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the base optimizer."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    def option(self, group: Mapping[str, Any], name: str) -> Any:
        """The value in `group` of this wrapper's option `name`."""
        return group.get(self._keys[name], self.defaults[self._keys[name]])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to this optimizer and to its base."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        params = param_group["params"]
        if not isinstance(params, Tensor | set):
            param_group["params"] = list(params)
        self._check_group({**self._own_defaults(), **param_group, "params": _tensors([param_group])})
        for key, value in self._own_defaults().items():
            param_group.setdefault(key, value)
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, and this wrapper's options in the groups."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        saved = self.base.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            saved = after(self, saved) or saved
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict` of this optimizer; that of a bare base will do, and keeps the options here."""
        own = [{key: group[key] for key in self._own_defaults() if key in group} for group in self.param_groups]
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        self.base.load_state_dict(state_dict)
        for group, options in zip(self.param_groups, own, strict=True):
            for key, value in options.items():
                group.setdefault(key, value)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("defaults", "base", "networks", "_keys")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._fill_groups()

    def __repr__(self) -> str:
        return f"{type(self).__name__} over {self.base!r}"

    def _own_defaults(self) -> dict[str, Any]:
        return {key: self.defaults[key] for key in self._keys.values()}

    def _fill_groups(self) -> None:
        for group in self.param_groups:
            for key, value in self._own_defaults().items():
                group.setdefault(key, value)

    def _check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError for an option out of range, a parameter given twice or, if stacked, of a wrong dimension."""
        check_once(group["params"])
        if self.networks is None:
            return
        names = group.get("param_names", range(len(group["params"])))
        for name, param in zip(names, group["params"], strict=False):
            if param.ndim == 0 or param.shape[0] != self.networks:
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(param.shape)}, but networks={self.networks} needs "
                    f"({self.networks}, ...): stack the networks, or leave networks=None for a single one"
                )


def _build(entries: Any, base_optimizer: BaseOptimizer, options: Mapping[str, Any], networks: int | None) -> Optimizer:
    """The base optimizer, built or taken as it is; errors for one that cannot be a base."""
    if isinstance(base_optimizer, Optimizer):
        if options:
            raise ValueError(
                f"options {sorted(options)} were given beside an instance of {type(base_optimizer).__name__}: "
                "give them to the instance, or pass the class"
            )
        base = base_optimizer
        held = base.defaults.get("networks", networks) if getattr(base, "stacks", False) else networks
        if held != networks:
            raise ValueError(f"the base optimizer has networks={held}, not {networks}: give both the same")
    elif callable(base_optimizer):
        if networks is not None and getattr(base_optimizer, "stacks", False):
            options = {"networks": networks, **options}
        base = base_optimizer(entries, **options)
    else:
        base = base_optimizer
    if not isinstance(base, Optimizer):
        raise TypeError(f"base_optimizer must be an optimizer class or instance, got {base_optimizer!r}")
    if isinstance(base, Wrapper | LBFGS) or base.defaults.get("differentiable"):
        raise ValueError(
            f"{type(base).__name__} cannot be the base: it must step once from given gradients, without a closure, "
            "a second perturbation or differentiable=True"
        )
    return base


def _adopt(entries: Any, base: Optimizer, own: set[str]) -> None:
    """Check that `entries` are the parameters of the instance `base`; copy our options of groups into its groups."""
    given, held = {id(p) for p in _tensors(entries)}, {id(p) for p in _tensors(base.param_groups)}
    if given != held:
        raise ValueError(
            f"params has {len(given)} tensors and the base optimizer {len(held)}, of which {len(given & held)} are the "
            "same: an instance must hold exactly the parameters given here"
        )
    for entry in entries:
        if not isinstance(entry, dict) or any(entry is group for group in base.param_groups):
            continue
        members = {id(p) for p in _tensors([entry])}
        match = [g for g in base.param_groups if {id(p) for p in g["params"]} == members]
        options = {key: value for key, value in entry.items() if key not in ("params", "param_names")}
        if not match or options.keys() - own:
            raise ValueError(
                f"a group with options {sorted(options)} does not fit the base optimizer: beside an instance, groups "
                f"must be its own groups and may set only {sorted(own)}"
            )
        match[0].update(options)


def _tensors(entries: Iterable[Any]) -> list[Tensor]:
    """The tensors in parameters as torch takes them: tensors, (name, tensor), or dicts of those."""
    found: list[Tensor] = []
    for entry in entries:
        if isinstance(entry, dict):
            inside = entry["params"]
            found += _tensors([inside] if isinstance(inside, Tensor) else inside)
        else:
            found.append(entry[1] if isinstance(entry, tuple) else entry)
    return found
