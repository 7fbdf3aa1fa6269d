"""The cost of one `schedule()` over the number of requests that wait for an adapter without a slot."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.adapters.measure import percentile
from benchmarks.adapters.record import Reading, Record
from benchmarks.adapters.scenes import RANK_16, Part
from benchmarks.adapters.sessions import Workshop
from benchmarks.adapters.sizes import Sizes
from benchmarks.adapters.variants import Variant, settings_of
from benchmarks.engines import Engine, EngineFailed, running_engine
from benchmarks.progress import Steps

CHILD = "benchmarks.adapters.schedule_child"


@dataclass(frozen=True)
class Case:
    """So many blocked requests, spread evenly over so many adapters."""

    blocked: int
    adapters: int

    @property
    def title(self) -> str:
        return schedule_title(self.blocked, self.adapters)


def schedule_title(blocked: int, adapters: int) -> str:
    if not blocked:
        return "none blocked"
    return f"{blocked:,} blocked, {adapters:,} {'adapter' if adapters == 1 else 'adapters'}"


def cases_of(sizes: Sizes) -> tuple[Case, ...]:
    """Spread over more adapters than requests is spread over as many as requests."""
    cases = [
        Case(blocked, max(1, min(adapters, blocked)))
        for blocked in sizes.blocked
        for adapters in sizes.distinct
    ]
    return tuple(dict.fromkeys(cases))


def schedulers_of(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """The others have vLLM's scheduler too."""
    return tuple(v for v in variants if v in (Variant.STOCK, Variant.STACKSERVE))


def count_cases(workshop: Workshop, sizes: Sizes) -> int:
    return len(schedulers_of(workshop.variants)) * len(cases_of(sizes)) * workshop.rounds


def time_schedule(workshop: Workshop, sizes: Sizes, record: Record, steps: Steps) -> None:
    """Fill the record: in each round every case of one variant, then of the other."""
    with ExitStack() as stack:
        desks: dict[Variant, Engine] = {}
        for variant in schedulers_of(workshop.variants):
            shape = workshop.shape(RANK_16, sizes.slots)
            settings = settings_of(variant, str(workshop.base), shape, workshop.eager)
            log = workshop.logs / f"{variant}-schedule.log"
            desks[variant] = stack.enter_context(running_engine(settings, log, CHILD))
        for round_ in range(workshop.rounds):
            for variant, desk in desks.items():
                for case in cases_of(sizes):
                    steps.begin(f"schedule, {case.title}: round {round_ + 1}, {variant}")
                    engine = f"{variant}, schedule()"
                    if engine not in record.failures:
                        try:
                            _case(desk, case, sizes.steps, round_, variant, record)
                        except EngineFailed as failed:
                            record.failures[engine] = str(failed)
                    steps.done()


def _case(
    desk: Engine, case: Case, steps: int, round_: int, variant: Variant, record: Record
) -> None:
    desk.settle()
    reply = desk.ask({"blocked": case.blocked, "adapters": case.adapters, "steps": steps})
    figures = {
        "schedule_p50": percentile(reply["seconds"], 50),
        "schedule_max": max(reply["seconds"]),
        "add": reply["add_seconds"] / case.blocked if case.blocked else float("nan"),
        "rows": sum(reply["scheduled"]) / steps,
    }
    record.readings.append(Reading(Part.SCHEDULE, case.title, variant, round_, figures))
