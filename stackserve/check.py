"""`stackserve check FILE`: everything that can be known about a configuration without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from stackserve.adapters import validate_source
from stackserve.configfile import load_settings
from stackserve.control.groups import StackedGroup, read_group
from stackserve.control.hosted_groups import HostedGroup, read_hosted
from stackserve.errors import ArtifactRejected
from stackserve.locations import locate
from stackserve.settings import GroupSettings

MIB = 2**20


def check(file: Path, overrides: Sequence[str] = ()) -> int:
    """Print what is right and wrong with each group; 0 when everything would be served, else 1."""
    settings = load_settings(file, overrides)
    console = Console(highlight=False, soft_wrap=True)
    good = True
    for hosted in settings.of_runtimes:
        found = read_hosted(hosted, partial(locate, config_file=file))
        _show_hosted(console, found)
        good = good and not found.refused
    for group in settings.stacked:
        try:
            read = _read(group, file, console)
        except ArtifactRejected as error:
            _print(console, "red", f"{group.name}: the base: {error.message} ({error.code})")
            good = False
            continue
        _show(console, read)
        good = good and not read.refused
    return 0 if good else 1


def _read(group: GroupSettings, file: Path, console: Console) -> StackedGroup:
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task(f"{group.name}: reading adapters", total=len(group.members))
        return read_group(
            group,
            partial(locate, config_file=file),
            validate_source,
            lambda done, total: bars.update(bar, completed=done),
        )


def _show(console: Console, group: StackedGroup) -> None:
    base = group.settings.base
    _print(console, "green", f"{group.name}: version {group.version}")
    _print(console, "", f"  {base.key}: the base, {group.base.architecture}")
    parts = {member.key: member.adapters for member in group.settings.members}
    for member in group.members:
        adapter = member.adapter
        _print(
            console,
            "",
            f"  {member.key}: {_sum(parts[member.key])}rank {adapter.rank}, {', '.join(adapter.target_modules)}, "
            f"{adapter.size_bytes / MIB:.1f} MiB, sha256 {adapter.digest[:12]}",
        )
    for refused in group.refused:
        _print(console, "red", f"  {refused.key}: {refused.message} ({refused.code})")


def _show_hosted(console: Console, group: HostedGroup) -> None:
    _print(console, "green", f"{group.name}: version {group.version}")
    for source in group.sources:
        _print(console, "", f"  {source.name}: {source.runtime}, {source.folder}")
    for refused in group.refused:
        _print(console, "red", f"  {refused.key}: {refused.message} ({refused.code})")


def _sum(parts: Mapping[str, float] | None) -> str:
    """`pirate x 0.7 + json x 1, `, or nothing for an adapter of its own."""
    return (
        " + ".join(f"{key} x {weight:g}" for key, weight in parts.items()) + ", " if parts else ""
    )


def _print(console: Console, style: str, line: str) -> None:
    console.print(Text(line, style))
