"""The routing table: an immutable snapshot that the control plane swaps in one assignment."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

from stackserve.errors import MemberRefused, UnknownDeployment, UnknownModel
from stackserve.routing.gate import Gate
from stackserve.types import Refusal, Target

T = TypeVar("T")

MAX_HINTS = 3
MAX_SHOWN = 64
MAX_COMPARED = 500
"""An unknown name costs at most this many comparisons, however many are served."""


@dataclass(frozen=True)
class GroupRoutes:
    """What one group serves. `pending` are names whose adapters are still being read.

    A group with an `address`, the OCID of its deployment, is asked there by keys and model ids, which
    others may use too; under the names that all share it has `<group>/<key>` alone, so that nobody's
    deployment can change what another one's names mean.
    """

    gate: Gate
    targets: tuple[Target, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    pending: tuple[str, ...] = ()
    address: str | None = None

    @cached_property
    def names(self) -> Names:
        """What may be written in `model` where only this group is meant."""
        targets = {name: each for each in self.targets for name in _names_of(each)}
        refusals = {name: each for each in self.refusals for name in _names_of(each)}
        return Names(targets, refusals, dict.fromkeys(self.pending, self.gate.group))

    @cached_property
    def shared_names(self) -> Names:
        """What may be written in `model` where any group can be meant."""
        if self.address is None:
            return self.names
        targets = {full_name(each): each for each in self.targets}
        return Names(targets, {full_name(each): each for each in self.refusals}, {})


@dataclass(frozen=True)
class Names:
    """What names mean: a target, a refusal, or a group that is still being read."""

    targets: Mapping[str, Target]
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
            _joined(each.refusals for each in shared),
            _joined(each.pending for each in shared),
        )
        addressed = {group.address: name for name, group in self.groups.items() if group.address}
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "addresses", MappingProxyType(addressed))

    def resolve(self, name: str) -> tuple[Target, Gate]:
        """The target that `name` means. Never a guess, and never the base for an unknown name.

        Raises UnknownModel with near matches, MemberRefused, or GroupNotReady.
        """
        return self._resolve(name, self.names)

    def resolve_at(self, address: str, name: str | None) -> tuple[Target, Gate]:
        """The target that `name` means to a deployment; without a name, its base.

        Raises UnknownDeployment, and what `resolve` raises.
        """
        if address not in self.addresses:
            raise UnknownDeployment(f"no deployment {address[:128]} is served here")
        group = self.groups[self.addresses[address]]
        if name is not None:
            return self._resolve(name, group.names)
        if not group.targets:
            raise group.gate.not_ready()
        return group.targets[0], group.gate

    def _resolve(self, name: str, names: Names) -> tuple[Target, Gate]:
        if target := names.targets.get(name):
            return target, self.groups[target.group].gate
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


def full_name(model: Target | Refusal) -> str:
    """Its name beside all groups' models."""
    return f"{model.group}/{model.key}"


def _names_of(model: Target | Refusal) -> tuple[str, str, str]:
    return model.key, model.model_id, full_name(model)


def _hint(name: str, names: Names) -> str:
    candidates = list(islice(names.targets, MAX_COMPARED))
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
