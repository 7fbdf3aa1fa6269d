"""What the gateway itself counts, for Prometheus. Labels take only configured names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stackserve.types import Target

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
NOBODY = "-"


class RequestTimer:
    """The clock of one request. `outcome` is `ok` or a stable code."""

    def __init__(self) -> None:
        self.group = NOBODY
        self.key = NOBODY
        self.outcome = "internal_error"
        self.began = time.perf_counter()
        self.first: float | None = None

    def name(self, target: Target) -> None:
        self.group, self.key = target.group, target.key

    def first_byte(self) -> None:
        if self.first is None:
            self.first = time.perf_counter()


class Metrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("group", "key")
        self._requests = Counter(
            "stackserve_requests",
            "Requests by how they ended",
            (*labels, "route", "outcome"),
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "stackserve_time_to_first_byte_seconds",
            "From the request's arrival to the first byte of its answer's body",
            labels,
            buckets=SECONDS,
            registry=self.registry,
        )
        self._duration = Histogram(
            "stackserve_request_seconds",
            "From the request's arrival to the last byte of its answer",
            labels,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "stackserve_requests_in_flight",
            "Requests that run or wait in a group's worker",
            ("group",),
            registry=self.registry,
        )
        self.ready = Gauge(
            "stackserve_group_ready",
            "1 while the group's worker answers",
            ("group",),
            registry=self.registry,
        )
        self.served = Gauge(
            "stackserve_group_models",
            "Models by whether they are served or refused",
            ("group", "state"),
            registry=self.registry,
        )
        self.updates = Counter(
            "stackserve_group_updates",
            "Updates of a group's members while it runs, by what came of them",
            ("group", "outcome"),
            registry=self.registry,
        )
        self.shadows = Counter(
            "stackserve_shadow_requests",
            "Copies of requests for an alias's shadow by how they ended",
            (*labels, "outcome"),
            registry=self.registry,
        )
        self.scrape_failures = Counter(
            "stackserve_worker_scrape_failures",
            "Scrapes to which a group's worker contributed nothing, because it did not answer",
            ("group",),
            registry=self.registry,
        )

    @contextmanager
    def request(self, route: str) -> Iterator[RequestTimer]:
        """Time a request and count it once, however it ends."""
        timer = RequestTimer()
        try:
            yield timer
        finally:
            labels = (timer.group, timer.key)
            self._requests.labels(*labels, route, timer.outcome).inc()
            self._duration.labels(*labels).observe(time.perf_counter() - timer.began)
            if timer.first is not None:
                self._first_byte.labels(*labels).observe(timer.first - timer.began)

    def render(self) -> bytes:
        """These as Prometheus text. May be called in any thread."""
        return generate_latest(self.registry)
