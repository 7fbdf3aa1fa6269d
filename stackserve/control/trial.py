"""A switch of a running deployment to another group, until it has passed or failed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from stackserve.control.groups import StackedGroup
from stackserve.errors import RolloutFailed


@dataclass(frozen=True)
class Trial:
    """`before` is wanted again when it fails."""

    before: StackedGroup
    verdict: asyncio.Future[None]

    def passed(self) -> None:
        if not self.verdict.done():
            self.verdict.set_result(None)

    def failed(self, failures: Mapping[str, str]) -> bool:
        """False when it had ended already."""
        if self.verdict.done():
            return False
        self.verdict.set_exception(RolloutFailed(failures))
        return True
