"""An update of all groups at once: read what is new, judge it together, then tell each group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stackserve.control.deployment import Deployment
from stackserve.control.groups import StackedGroup
from stackserve.control.update import NotLive, clashes, difference
from stackserve.errors import StackserveError
from stackserve.settings import Settings


class Outcome(StrEnum):
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    NOT_LIVE = "not_live"
    """It stays as it was."""


@dataclass(frozen=True)
class GroupUpdate:
    """What an update did to a group; `sentence` is for the operator."""

    group: str
    outcome: Outcome
    sentence: str


async def update_groups(deployments: Sequence[Deployment], settings: Settings) -> list[GroupUpdate]:
    """Make running groups what `settings` say, as far as that can be done live; one call at a time.

    Costs one read of every adapter's bytes, also of those whose settings did not change: their files
    may have. Returns when each group's routes are the new ones; what is no longer served may still be
    finishing its requests.
    """
    written = {group.name: group for group in settings.groups}
    offered: dict[str, StackedGroup] = {}
    kept: dict[str, str] = {}

    async def read(deployment: Deployment) -> None:
        try:
            if deployment.name not in written:
                raise NotLive(
                    "it is no longer in the file", "it is served until the server restarts"
                )
            offered[deployment.name] = await deployment.read(written[deployment.name])
        except NotLive as error:
            kept[deployment.name] = str(error)
        except StackserveError as error:
            kept[deployment.name] = f"it could not be read: {error.message} ({error.code})"

    await asyncio.gather(*map(read, deployments))
    # From here until the last is told, nothing is awaited: they are judged as they are when they change.
    for deployment in deployments:
        if deployment.name in offered:
            try:
                offered[deployment.name] = deployment.fitted(offered[deployment.name])
            except NotLive as error:
                kept[deployment.name] = str(error)
    kept |= clashes(
        {each.name: each.settings for each in deployments},
        {name: group.settings for name, group in offered.items() if name not in kept},
    )
    before = {each.name: each.wanted for each in deployments}
    live = [each for each in deployments if each.name not in kept]
    for deployment in live:
        deployment.want(offered[deployment.name])
    await asyncio.gather(*(each.settled() for each in live))
    return [
        *(_done(each, before[each.name], offered[each.name]) for each in live),
        *(_kept(each, kept[each.name]) for each in deployments if each.name in kept),
        *(
            GroupUpdate(name, Outcome.NOT_LIVE, "it is new; restart the server to serve it")
            for name in written
            if name not in before
        ),
    ]


def _done(deployment: Deployment, old: StackedGroup | None, new: StackedGroup) -> GroupUpdate:
    changes = difference(old, new) if old else "read anew"
    status = deployment.status()
    sentence = f"{changes or 'nothing changed'}; {status.served} served"
    if status.refused:
        sentence += f", {len(status.refused)} refused"
    deployment.standing.note(sentence)
    return GroupUpdate(deployment.name, Outcome.UPDATED if changes else Outcome.UNCHANGED, sentence)


def _kept(deployment: Deployment, reason: str) -> GroupUpdate:
    sentence = f"not updated: {reason}"
    deployment.standing.note(sentence)
    return GroupUpdate(deployment.name, Outcome.NOT_LIVE, sentence)
