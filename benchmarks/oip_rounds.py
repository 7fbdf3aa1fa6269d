"""The turns: each server in turn gets the same load, for a short time, again and again."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.http_load import Floats, Outcome, Plan, poisson_times, put_load
from benchmarks.oip_answers import OK, Verdict, judge
from benchmarks.oip_memory import cpu_seconds, machine_seconds
from benchmarks.oip_models import (
    Encoding,
    Request,
    ZooModel,
    small_requests,
    zipf_order,
    zoo_requests,
)
from benchmarks.oip_servers import Server

CONNECTIONS = 16
SPARE_CONNECTIONS = 64
"""In an open loop more, so that a request seldom waits for one."""
WARM_SECONDS = 0.3
"""Of each turn, not counted."""
ORDER = 20_000
PLAIN, BATCHED = "plain", "batched"
WORKERS_OWN = ("queue", "compute_input", "compute_infer", "compute_output")
"""The durations of Triton's statistics that do not belong to the server in front of the worker."""


@dataclass(frozen=True)
class Cell:
    """One kind of request."""

    model: str
    rows: int
    encoding: Encoding

    @property
    def title(self) -> str:
        batching = "batching" if self.model == BATCHED else "no batching"
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"{self.encoding}, {rows}, {batching}"


BATCH = 8
"""Rows of a request in the cells with batching."""
CELLS = (
    Cell(PLAIN, 1, Encoding.JSON),
    Cell(PLAIN, 1, Encoding.BINARY),
    Cell(BATCHED, BATCH, Encoding.JSON),
    Cell(BATCHED, BATCH, Encoding.BINARY),
)
HALF_LOAD_CELLS = CELLS[:2]
ZIPF = "Zipf"


@dataclass(frozen=True)
class Reading:
    """One turn of one server. Latencies in seconds; `own` is the mean that its worker needed of them,
    the wait in the worker's queue included, where the server tells it.
    """

    part: str
    cell: str
    target: str
    round: int
    rate: float
    p50: float
    p99: float
    generator_cpu: float
    elsewhere: float
    """Cores that neither the server nor the generator used: what other programs took from both."""
    verdict: Verdict
    own: float | None = None

    @property
    def added_p99(self) -> float | None:
        """What the server in front of the worker adds, at the most: the 99th percentile of latencies
        over the worker's mean, so that the worker's own outliers count against it, too.
        """
        return None if self.own is None else self.p99 - self.own


THROUGHPUT, HALF_LOAD = "throughput", "half load"


def throughput_turns(servers: Sequence[Server], rounds: int, seconds: float) -> Iterator[Reading]:
    """As many requests as each server takes from `CONNECTIONS` callers."""
    for number in range(rounds):
        for cell in CELLS:
            requests = small_requests(cell.model, cell.rows, cell.encoding)
            order = random_order(len(requests), ORDER, seed=number)
            for server in in_turn(servers, number):
                if cell.encoding in server.target.encodings:
                    plan = plan_of(server, requests, seconds, order)
                    yield read(THROUGHPUT, cell.title, server, number, requests, plan)


def half_load_turns(
    servers: Sequence[Server], rates: dict[tuple[str, str], float], rounds: int, seconds: float
) -> Iterator[Reading]:
    """Half as many as each server took, at random times. `rates`: what it took, by cell and name."""
    for number in range(rounds):
        for cell in HALF_LOAD_CELLS:
            requests = small_requests(cell.model, cell.rows, cell.encoding)
            for server in in_turn(servers, number):
                rate = rates.get((cell.title, server.name))
                if rate is None:
                    continue
                times = poisson_times(rate / 2, WARM_SECONDS + seconds, seed=number)
                order = random_order(len(requests), len(times), seed=number)
                plan = plan_of(server, requests, seconds, order, times)
                before = worker_time(server, cell.model)
                reading = read(HALF_LOAD, cell.title, server, number, requests, plan)
                yield with_own(reading, before, worker_time(server, cell.model))


def zipf_turns(
    servers: Sequence[Server], zoo: Sequence[ZooModel], rounds: int, seconds: float
) -> Iterator[Reading]:
    """Requests to many models, some of them popular; every round has the same favourites."""
    requests = zoo_requests(zoo)
    order = zipf_order(len(zoo), ORDER * rounds, seed=0)
    for number in range(rounds):
        mine = order[number * ORDER : (number + 1) * ORDER]
        for server in in_turn(servers, number):
            plan = plan_of(server, requests, seconds, mine)
            yield read(ZIPF, ZIPF, server, number, requests, plan)


def in_turn(servers: Sequence[Server], number: int) -> Sequence[Server]:
    """Another one begins each round."""
    first = number % len(servers)
    return (*servers[first:], *servers[:first])


def random_order(requests: int, length: int, seed: int) -> npt.NDArray[np.uint32]:
    """Indices of the requests, each as likely as the others."""
    return np.random.default_rng(seed).integers(0, requests, length).astype(np.uint32)


def plan_of(
    server: Server,
    requests: Sequence[Request],
    seconds: float,
    order: npt.NDArray[np.uint32],
    times: Floats | None = None,
) -> Plan:
    """For `seconds` after the warm-up; with `times` an open loop."""
    connections = CONNECTIONS if times is None else SPARE_CONNECTIONS
    sent = [each.sent for each in requests]
    return Plan(server.port, connections, WARM_SECONDS + seconds, sent, order, times)


def read(
    part: str, cell: str, server: Server, number: int, requests: Sequence[Request], plan: Plan
) -> Reading:
    """Put the load, and judge every answer, those of the warm-up too."""
    before = machine_seconds() - cpu_seconds(server.process)
    outcome = put_load(plan)
    others = machine_seconds() - cpu_seconds(server.process) - before
    return Reading(
        part,
        cell,
        server.name,
        number,
        *figures(outcome, plan.seconds),
        generator_cpu=outcome.generator_cpu,
        elsewhere=max(0.0, others / outcome.seconds - outcome.generator_cpu),
        verdict=judge(outcome.kinds, requests),
    )


def figures(outcome: Outcome, seconds: float) -> tuple[float, float, float]:
    """Answers per second, and the median and 99th percentile of what they took, after the warm-up.
    Only answers with status 200 count; without any the latencies are NaN.
    """
    ended = outcome.began + outcome.took
    good = outcome.status == OK
    in_time = good & (ended >= WARM_SECONDS) & (ended < seconds)
    took = outcome.took[good & (outcome.began >= WARM_SECONDS)]
    if not len(took):
        return 0.0, float("nan"), float("nan")
    p50, p99 = np.percentile(took, (50, 99))
    return float(np.sum(in_time)) / (seconds - WARM_SECONDS), float(p50), float(p99)


@dataclass(frozen=True)
class WorkerTime:
    """Requests so far, and the seconds that the worker had them."""

    requests: int
    seconds: float


def worker_time(server: Server, model: str) -> WorkerTime | None:
    """As /v2/models/{m}/stats tells it; None where there is none."""
    if not server.target.has_statistics:
        return None
    told = server.told(f"/v2/models/{model}/stats")
    stats = told["model_stats"][0]["inference_stats"]
    nanoseconds = sum(int(stats[name]["ns"]) for name in WORKERS_OWN)
    return WorkerTime(int(stats["success"]["count"]), nanoseconds / 1e9)


def with_own(reading: Reading, before: WorkerTime | None, after: WorkerTime | None) -> Reading:
    if before is None or after is None or after.requests == before.requests:
        return reading
    own = (after.seconds - before.seconds) / (after.requests - before.requests)
    return replace(reading, own=own)


def most_taken(readings: Sequence[Reading]) -> dict[tuple[str, str], float]:
    """The median rate by cell and target, of those that answered at all."""
    rates: dict[tuple[str, str], list[float]] = {}
    for each in readings:
        if each.part == THROUGHPUT and each.rate:
            rates.setdefault((each.cell, each.target), []).append(each.rate)
    return {place: statistics.median(values) for place, values in rates.items()}
