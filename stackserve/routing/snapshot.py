"""The routing table: an immutable snapshot that the control plane swaps in one assignment."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from types import MappingProxyType
from typing import TypeVar

from stackserve.errors import MemberRefused, UnknownDeployment, UnknownModel
from stackserve.routing.gate import Gate
from stackserve.routing.policy import Alias, choose
from stackserve.types import Refusal, Target

T = TypeVar("T")

MAX_HINTS = 3
MAX_SHOWN = 64
MAX_COMPARED = 500
"""An unknown name costs at most this many comparisons, however many are served."""


@dataclass(frozen=True)
class Way:
    """Where one request goes: to a target, through its group's gate. `alias` is the key by which it was
    chosen, if so, and `shadow` another target that gets a copy.
    """

    target: Target
    gate: Gate
    alias: str | None = None
    shadow: Target | None = None


@dataclass(frozen=True)
class ServedAlias:
    """An alias of whose members one at least is served; `targets` are the group's by their keys."""

    group: str
    alias: Alias
    targets: Mapping[str, Target]

    @property
    def key(self) -> str:
        return self.alias.key

    @property
    def model_id(self) -> str:
        return full_name(self)

    def way(self, gate: Gate, draw: float) -> Way:
        """That of a request which drew this number, at least 0 and below 1."""
        target = self.targets[choose(self.alias, draw)]
        shadow = self.targets[self.alias.shadow] if self.alias.shadow else None
        return Way(target, gate, self.key, shadow if shadow != target else None)


@dataclass(frozen=True)
class GroupRoutes:
    """What one group serves; its aliases as configured, whatever is served of them. `pending` are names
    whose adapters are still being read.

    A group with an `address`, the OCID of its deployment, is asked there by keys and model ids, which
    others may use too; under the names that all share it has `<group>/<key>` alone, so that nobody's
    deployment can change what another one's names mean.
    """

    gate: Gate
    targets: tuple[Target, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    pending: tuple[str, ...] = ()
    address: str | None = None
    aliases: tuple[Alias, ...] = ()

    @cached_property
    def names(self) -> Names:
        """What may be written in `model` where only this group is meant."""
        return Names(
            {name: each for each in self.targets for name in _names_of(each)},
            {name: each for each in self.served_aliases for name in _names_of(each)},
            {name: each for each in self._all_refusals for name in _names_of(each)},
            dict.fromkeys(self.pending, self.gate.group),
        )

    @cached_property
    def shared_names(self) -> Names:
        """What may be written in `model` where any group can be meant."""
        if self.address is None:
            return self.names
        return Names(
            {full_name(each): each for each in self.targets},
            {full_name(each): each for each in self.served_aliases},
            {full_name(each): each for each in self._all_refusals},
            {},
        )

    @cached_property
    def served_aliases(self) -> tuple[ServedAlias, ...]:
        """Those of whose members at least one is served, without the others."""
        targets = {each.key: each for each in self.targets}
        return tuple(
            ServedAlias(self.gate.group, alias, targets)
            for alias in (each.among(targets.keys()) for each in self.aliases)
            if alias is not None
        )

    @cached_property
    def _all_refusals(self) -> tuple[Refusal, ...]:
        """Of members, and of aliases that have no other members."""
        served = {each.key for each in self.served_aliases}
        codes = {each.key: each.code for each in self.refusals}
        lost = (alias for alias in self.aliases if alias.key not in served)
        return (*self.refusals, *(_refused(self.gate.group, alias, codes) for alias in lost))


@dataclass(frozen=True)
class Names:
    """What names mean: a target, an alias, a refusal, or a group that is still being read."""

    targets: Mapping[str, Target]
    aliases: Mapping[str, ServedAlias]
    refusals: Mapping[str, Refusal]
    pending: Mapping[str, str]


@dataclass(frozen=True)
class RoutingSnapshot:
    """Every name that a client may write in `model`, and what it means at this moment."""

    groups: Mapping[str, GroupRoutes]
    names: Names = field(init=False)
    addresses: Mapping[str, str] = field(init=False)
    """The group of a deployment's OCID."""

    def __post_init__(self) -> None:
        shared = [group.shared_names for group in self.groups.values()]
        names = Names(
            _joined(each.targets for each in shared),
            _joined(each.aliases for each in shared),
            _joined(each.refusals for each in shared),
            _joined(each.pending for each in shared),
        )
        addressed = {group.address: name for name, group in self.groups.items() if group.address}
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "addresses", MappingProxyType(addressed))

    def resolve(self, name: str, draw: float = 0) -> Way:
        """The target that `name` means; of an alias, what `draw` chooses, at least 0 and below 1. Never a
        guess, and never the base for an unknown name.

        Raises UnknownModel with near matches, MemberRefused, or GroupNotReady.
        """
        return self._resolve(name, self.names, draw)

    def resolve_at(self, address: str, name: str | None, draw: float = 0) -> Way:
        """The target that `name` means to a deployment; without a name, its base.

        Raises UnknownDeployment, and what `resolve` raises.
        """
        if address not in self.addresses:
            raise UnknownDeployment(f"no deployment {address[:128]} is served here")
        group = self.groups[self.addresses[address]]
        if name is not None:
            return self._resolve(name, group.names, draw)
        if not group.targets:
            raise group.gate.not_ready()
        return Way(group.targets[0], group.gate)

    def _resolve(self, name: str, names: Names, draw: float) -> Way:
        if target := names.targets.get(name):
            return Way(target, self.groups[target.group].gate)
        if alias := names.aliases.get(name):
            return alias.way(self.groups[alias.group].gate, draw)
        if refusal := names.refusals.get(name):
            raise MemberRefused(
                f"model {refusal.key} is configured but not served: {refusal.message} "
                f"({refusal.code})"
            )
        if group := names.pending.get(name):
            raise self.groups[group].gate.not_ready()
        raise UnknownModel(f"no model {_shown(name)!r} is served here{_hint(name, names)}")

    def with_group(self, name: str, routes: GroupRoutes) -> RoutingSnapshot:
        """This snapshot with one group added or replaced."""
        return RoutingSnapshot(MappingProxyType({**self.groups, name: routes}))

    def without_group(self, name: str) -> RoutingSnapshot:
        """This snapshot without one group."""
        others = {group: routes for group, routes in self.groups.items() if group != name}
        return RoutingSnapshot(MappingProxyType(others))


def _joined(parts: Iterable[Mapping[str, T]]) -> Mapping[str, T]:
    joined: dict[str, T] = {}
    for part in parts:
        joined |= part
    return MappingProxyType(joined)


def full_name(model: Target | ServedAlias | Refusal) -> str:
    """Its name beside all groups' models."""
    return f"{model.group}/{model.key}"


def _names_of(model: Target | ServedAlias | Refusal) -> tuple[str, str, str]:
    return model.key, model.model_id, full_name(model)


def _refused(group: str, alias: Alias, codes: Mapping[str, str]) -> Refusal:
    """An alias without members that are served is refused as they are."""
    reasons = [f"{each.key} ({codes.get(each.key, 'not served')})" for each in alias.members]
    message = f"None of its members is served: {', '.join(reasons)}."
    return Refusal(group, alias.key, f"{group}/{alias.key}", "alias_refused", message)


def _hint(name: str, names: Names) -> str:
    candidates = list(islice(chain(names.targets, names.aliases), MAX_COMPARED))
    near = difflib.get_close_matches(name[:MAX_SHOWN], candidates, n=MAX_HINTS)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return "; GET /v1/models lists what is"


def _shown(name: str) -> str:
    return name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "…"


class Routes:
    """The current snapshot. Written by the control plane, read by every request."""

    def __init__(self) -> None:
        self.current = RoutingSnapshot({})

    def publish(self, group: str, routes: GroupRoutes) -> None:
        self.current = self.current.with_group(group, routes)

    def remove(self, group: str) -> None:
        """From now on nobody knows the group's names."""
        self.current = self.current.without_group(group)
