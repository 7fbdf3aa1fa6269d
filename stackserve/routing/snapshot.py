"""The routing table: an immutable snapshot that the control plane swaps in one assignment."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

from stackserve.errors import MemberRefused, UnknownModel
from stackserve.routing.gate import Gate
from stackserve.types import Refusal, Target

MAX_HINTS = 3
MAX_SHOWN = 64
MAX_COMPARED = 500
"""An unknown name costs at most this many comparisons, however many are served."""


@dataclass(frozen=True)
class GroupRoutes:
    """What one group serves. `pending` are names whose adapters are still being read; `address` is the
    OCID of the deployment, if it has one.
    """

    gate: Gate
    targets: tuple[Target, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    pending: tuple[str, ...] = ()
    address: str | None = None


@dataclass(frozen=True)
class RoutingSnapshot:
    """Every name that a client may write in `model`, and what it means at this moment."""

    groups: Mapping[str, GroupRoutes]
    targets: Mapping[str, Target] = field(init=False)
    refusals: Mapping[str, Refusal] = field(init=False)
    pending: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        targets: dict[str, Target] = {}
        refusals: dict[str, Refusal] = {}
        pending: dict[str, str] = {}
        for name, group in self.groups.items():
            pending |= dict.fromkeys(group.pending, name)
            for target in group.targets:
                targets[target.key] = targets[target.model_id] = target
            for refusal in group.refusals:
                refusals[refusal.key] = refusals[refusal.model_id] = refusal
        object.__setattr__(self, "targets", MappingProxyType(targets))
        object.__setattr__(self, "refusals", MappingProxyType(refusals))
        object.__setattr__(self, "pending", MappingProxyType(pending))

    def resolve(self, name: str) -> tuple[Target, Gate]:
        """The target that `name` means. Never a guess, and never the base for an unknown name.

        Raises UnknownModel with near matches, MemberRefused, or GroupNotReady.
        """
        if target := self.targets.get(name):
            return target, self.groups[target.group].gate
        if refusal := self.refusals.get(name):
            raise MemberRefused(
                f"model {refusal.key} is configured but not served: {refusal.message} "
                f"({refusal.code})"
            )
        if group := self.pending.get(name):
            raise self.groups[group].gate.not_ready()
        raise UnknownModel(f"no model {_shown(name)!r} is served here{self._hint(name)}")

    def with_group(self, name: str, routes: GroupRoutes) -> RoutingSnapshot:
        """This snapshot with one group added or replaced."""
        return RoutingSnapshot(MappingProxyType({**self.groups, name: routes}))

    def without_group(self, name: str) -> RoutingSnapshot:
        """This snapshot without one group."""
        others = {group: routes for group, routes in self.groups.items() if group != name}
        return RoutingSnapshot(MappingProxyType(others))

    def _hint(self, name: str) -> str:
        candidates = list(islice(self.targets, MAX_COMPARED))
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
