"""Prometheus' text format, written line by line.

With a thousand keys the engines' metrics are up to 70,000 lines: tens of milliseconds so, hundreds with a
metrics library. All lines of a metric must stand together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stackserve.protocol import Tally

Sample = tuple[str, float]
"""The labels as `labels` writes them, and the value."""


def labels(**values: object) -> str:
    """Labels as they stand between the braces."""
    return ",".join(f'{name}="{_escape(str(value))}"' for name, value in values.items())


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> Iterator[str]:
    """The lines of a counter or gauge."""
    yield f"# HELP {name} {about}\n# TYPE {name} {kind}\n"
    for at, value in samples:
        yield f"{name}{{{at}}} {value}\n"


def histogram(
    name: str, about: str, bounds: tuple[float, ...], tallies: Iterable[tuple[str, Tally]]
) -> Iterator[str]:
    """The lines of a histogram. A tally without observations is left out: of many keys most are idle."""
    yield f"# HELP {name} {about}\n# TYPE {name} histogram\n"
    limits = [*map(repr, map(float, bounds)), "+Inf"]
    for at, tally in tallies:
        if not any(tally.counts):
            continue
        seen = 0
        for limit, count in zip(limits, tally.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{{at},le="{limit}"}} {seen}\n'
        yield f"{name}_sum{{{at}}} {tally.sum}\n{name}_count{{{at}}} {seen}\n"
