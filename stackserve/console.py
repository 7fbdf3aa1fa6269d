"""What the terminal shows while groups start: a spinner with the step and the seconds, or plain lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from rich.console import Console
from rich.status import Status
from rich.text import Text

from stackserve.app import Gateway
from stackserve.control.states import DeploymentState, DeploymentStatus

REDRAW_SECONDS = 0.5

console = Console(stderr=True, highlight=False)


async def show_start(gateway: Gateway) -> list[DeploymentStatus]:
    """Show the groups until each answers or has failed; how they then are."""
    seen: dict[str, str] = {}
    with Status("", console=console) as spinner:
        while True:
            statuses = gateway.statuses()
            waiting = [status for status in statuses if status.is_loading]
            _print_settled(statuses, seen)
            if not waiting:
                return statuses
            if console.is_terminal:
                spinner.update(Text(";  ".join(map(_line, waiting))))
            else:
                _print_steps(waiting, seen)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gateway.changed(), REDRAW_SECONDS)


def _line(status: DeploymentStatus) -> str:
    return f"{status.group}: {status.detail} ({status.seconds_in_state:.0f} s)"


def _print_steps(waiting: Sequence[DeploymentStatus], seen: dict[str, str]) -> None:
    for status in waiting:
        if seen.get(status.group) != status.detail:
            seen[status.group] = status.detail
            console.print(Text(f"{status.group}: {status.detail}"), soft_wrap=True)


def _print_settled(statuses: Sequence[DeploymentStatus], seen: dict[str, str]) -> None:
    for status in statuses:
        if status.is_loading or seen.get(status.group) == status.state:
            continue
        seen[status.group] = status.state
        for refused in status.refused:
            console.print(
                Text(f"{refused.key} is not served: {refused.message} ({refused.code})", "red")
            )
        if status.state is DeploymentState.READY:
            console.print(Text(f"{status.group} is ready: {status.served} models", "green"))
        else:
            console.print(Text(f"{status.group} {status.state}: {status.detail}", "red"))
