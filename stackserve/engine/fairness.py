"""Who comes next: a counter of tokens served for each tenant, the smallest first.

The Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): of
tenants that always have requests waiting, each gets tokens in proportion to its weight, whatever it
sends. A tenant that comes back after a pause starts where the others are, so that it can neither save
up nor owe. Instead of the least counter of all who wait we use that of who was served last, as
start-time fair queueing does: it takes no search.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

PROMPT_COST = 1.0
OUTPUT_COST = 2.0
"""An output token takes a step, a prompt token a part of one."""
MOST_IDLE = 10_000
"""Idle tenants whose counters are kept; older ones are forgotten, and start anew."""


@dataclass(slots=True)
class _Account:
    served: float = 0.0
    """Tokens by cost, divided by the tenant's weight."""
    weight: float = 1.0
    requests: int = 0
    """Those that wait or run."""


class FairShares:
    """The counters. Every call is O(1). Grows with the tenants that have requests, plus `MOST_IDLE`."""

    def __init__(self) -> None:
        self._active: dict[str, _Account] = {}
        self._idle: OrderedDict[str, _Account] = OrderedDict()
        self._weights: dict[str, float] = {}
        self._floor = 0.0

    def set_weight(self, tenant: str, weight: float) -> None:
        """A tenant of weight 2 gets twice the tokens of one of weight 1. ValueError unless positive."""
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"weight {weight} of {tenant} must be a positive number")
        if weight == 1.0:
            self._weights.pop(tenant, None)
        else:
            self._weights[tenant] = weight
        for accounts in (self._active, self._idle):
            if tenant in accounts:
                accounts[tenant].weight = weight

    def arrived(self, tenant: str) -> None:
        """The tenant has one request more."""
        account = self._active.get(tenant)
        if account is None:
            account = self._idle.pop(tenant, None)
            account = account or _Account(weight=self._weights.get(tenant, 1.0))
            account.served = max(account.served, self._floor)
            self._active[tenant] = account
        account.requests += 1

    def finished(self, tenant: str) -> None:
        """The tenant has one request less."""
        account = self._active[tenant]
        account.requests -= 1
        if account.requests == 0:
            del self._active[tenant]
            self._idle[tenant] = account
            if len(self._idle) > MOST_IDLE:
                self._idle.popitem(last=False)

    def admitted(self, tenant: str, prompt_tokens: int) -> None:
        """A request of the tenant starts."""
        self._floor = max(self._floor, self._active[tenant].served)
        self._charge(tenant, PROMPT_COST * prompt_tokens)

    def returned(self, tenant: str, prompt_tokens: int) -> None:
        """What `admitted` was told did not happen."""
        self._charge(tenant, -PROMPT_COST * prompt_tokens)

    def generated(self, tenant: str, tokens: int) -> None:
        """The tenant was given tokens. Those of requests that are gone count for nobody."""
        self._charge(tenant, OUTPUT_COST * tokens)

    def served(self, tenant: str) -> float:
        """The tenant's counter; the one with the smallest is next. KeyError without requests."""
        return self._active[tenant].served

    def _charge(self, tenant: str, cost: float) -> None:
        account = self._active.get(tenant)
        if account is not None:
            account.served += cost / account.weight
