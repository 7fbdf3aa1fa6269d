"""An update of all groups at once: read what is new, judge it together, then tell each group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stackserve.control.deployment import Deployment
from stackserve.control.groups import StackedGroup
from stackserve.control.hosted import HostedDeployment
from stackserve.control.update import Named, NotLive, changed_options, clashes, difference
from stackserve.errors import StackserveError
from stackserve.runtime_settings import RuntimeGroupSettings
from stackserve.settings import Settings

LIVE = ("members", "batching", "max_in_flight")
"""What a running group of models of other frameworks can follow."""


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
    written = {group.name: group for group in settings.stacked}
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
        *(_done(each, _changes(before[each.name], offered[each.name])) for each in live),
        *(_kept(each, kept[each.name]) for each in deployments if each.name in kept),
        *(_new(name) for name in written if name not in before),
    ]


async def update_hosted(
    hosted: Sequence[HostedDeployment], stacked: Sequence[Deployment], settings: Settings
) -> list[GroupUpdate]:
    """Make running groups of other frameworks what `settings` say: their members, and how many requests
    they take. Costs a look at every member's files.
    """
    written = {group.name: group for group in settings.of_runtimes}
    every: list[Deployment | HostedDeployment] = [*hosted, *stacked]
    running: dict[str, Named] = {each.name: each.settings for each in every}
    offered = {each.name: written[each.name] for each in hosted if each.name in written}
    clash = clashes(running, offered)
    updates = []
    for deployment in hosted:
        if deployment.name not in offered:
            reason = "it is no longer in the file; it is served until the server restarts"
            updates.append(_kept(deployment, reason))
        elif deployment.name in clash:
            updates.append(_kept(deployment, clash[deployment.name]))
        else:
            updates.append(await _update(deployment, offered[deployment.name]))
    return [*updates, *(_new(name) for name in written if name not in running)]


async def _update(deployment: HostedDeployment, settings: RuntimeGroupSettings) -> GroupUpdate:
    fixed = [
        option
        for option in changed_options(deployment.name, deployment.settings, settings)
        if option.rpartition(".")[2] not in LIVE
    ]
    if fixed:
        return _kept(deployment, f"{', '.join(fixed)} changed; restart the server for it")
    return _done(deployment, await deployment.update(settings))


def _new(name: str) -> GroupUpdate:
    return GroupUpdate(name, Outcome.NOT_LIVE, "it is new; restart the server to serve it")


def _changes(old: StackedGroup | None, new: StackedGroup) -> str:
    return difference(old, new) if old else "read anew"


def _done(deployment: Deployment | HostedDeployment, changes: str) -> GroupUpdate:
    status = deployment.status()
    sentence = f"{changes or 'nothing changed'}; {status.served} served"
    if status.refused:
        sentence += f", {len(status.refused)} refused"
    deployment.standing.note(sentence)
    return GroupUpdate(deployment.name, Outcome.UPDATED if changes else Outcome.UNCHANGED, sentence)


def _kept(deployment: Deployment | HostedDeployment, reason: str) -> GroupUpdate:
    sentence = f"not updated: {reason}"
    deployment.standing.note(sentence)
    return GroupUpdate(deployment.name, Outcome.NOT_LIVE, sentence)
