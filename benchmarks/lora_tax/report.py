"""A run's readings as rows of a table, and as a file that the table can be made from again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.lora_tax.cells import BASELINE, TARGETS
from benchmarks.lora_tax.measure import Check, Reading
from benchmarks.machine import Provenance
from benchmarks.ratios import Ratio, Spread, paired_ratio, spread

COLUMNS = ("target", "tokens/s", "min to max", "ratio to base [95%]", "wrong answers")
WRONG = "wrong answers: rows that answered otherwise in the batch than alone, or otherwise in a later round."

SceneKey = tuple[str, str, int]


@dataclass(frozen=True)
class Summary:
    """One target in one scene, over all rounds. `wrong` is a sentence, empty when all is right."""

    phase: str
    ranks: str
    adapters: int
    target: str
    rounds: int
    speed: Spread
    ratio: Ratio | None
    checked: int
    wrong: str

    @property
    def scene(self) -> SceneKey:
        return self.phase, self.ranks, self.adapters


def summarise(readings: Sequence[Reading], checks: Sequence[Check]) -> tuple[Summary, ...]:
    """In the order in which the targets first appear in each scene."""
    speeds: dict[SceneKey, dict[str, dict[int, float]]] = {}
    for reading in readings:
        of_scene = speeds.setdefault((reading.phase, reading.ranks, reading.adapters), {})
        of_scene.setdefault(reading.target, {})[reading.round] = reading.tokens_per_second
    known = {(c.phase, c.ranks, c.adapters, c.target): c for c in checks}
    summaries = []
    for scene, targets in speeds.items():
        for target in (name for name in TARGETS if name in targets):
            check = known.get((scene[0], scene[1], scene[2], target))
            summaries.append(_summary(scene, target, targets, check))
    return tuple(summaries)


def _summary(
    scene: SceneKey, target: str, speeds: dict[str, dict[int, float]], check: Check | None
) -> Summary:
    own = speeds[target]
    return Summary(
        *scene,
        target,
        rounds=len(own),
        speed=spread(list(own.values())),
        ratio=paired_ratio(own, speeds.get(BASELINE, {})),
        checked=check.base_rows + check.adapter_rows if check else 0,
        wrong=what_is_wrong(check) if check else "",
    )


def what_is_wrong(check: Check) -> str:
    """The findings of a check in a few words, empty when there are none."""
    found = []
    if check.base_wrong:
        found.append(f"{check.base_wrong} of {check.base_rows} base rows")
    if check.adapter_wrong:
        found.append(f"{check.adapter_wrong} of {check.adapter_rows} adapter rows")
    if check.changed:
        found.append(f"{check.changed} rows between rounds")
    if not check.is_right and not found:
        found.append("adapters without effect")
    return ", ".join(found)


def table_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Cells of the table, with a heading and a line for each scene."""
    rows: list[tuple[str, ...]] = []
    last: SceneKey | None = None
    for each in summaries:
        if each.scene != last:
            phase, ranks, adapters = last = each.scene
            heading = f"[bold]{phase}, rank {ranks}, {adapters} adapters[/]"
            rows += [(), (heading, "", "", "", "")]
        rows.append(
            (
                f"  {each.target}",
                f"{each.speed.median:,.0f}",
                f"{each.speed.low:,.0f} to {each.speed.high:,.0f}",
                each.ratio.in_words if each.ratio else "",
                _answers(each),
            )
        )
    return rows


def _answers(summary: Summary) -> str:
    if summary.wrong:
        return f"[red]{summary.wrong}[/]"
    return f"none of {summary.checked}" if summary.checked else "not checked"


@dataclass(frozen=True)
class Recorded:
    """A run as results.json holds it."""

    provenance: Provenance
    settings: dict[str, Any]
    complete: bool
    failures: dict[str, str]
    readings: tuple[Reading, ...]
    checks: tuple[Check, ...]

    def write(self, path: Path) -> None:
        summary = [asdict(each) for each in summarise(self.readings, self.checks)]
        body = {"benchmark": "lora_tax", **asdict(self), "summary": summary}
        path.write_text(json.dumps(body, indent=1) + "\n")


def read_results(path: Path) -> tuple[Summary, ...]:
    """The summaries of a results.json, from its raw readings."""
    body = json.loads(path.read_text())
    readings = [Reading(**each | {"seconds": tuple(each["seconds"])}) for each in body["readings"]]
    return summarise(readings, [Check(**each) for each in body["checks"]])
