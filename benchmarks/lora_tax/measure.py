"""One target in one scene: batches built, warmed up, timed, and their answers checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.engines import Answers, Engine, Row
from benchmarks.lora_tax.cells import Phase, rows_to_check

CHECKED_ROWS = 4
CHECKED_TOKENS = 16
TRIES = 3


class TooNoisy(Exception):
    """The long run was not slower than the short one, again and again."""


@dataclass(frozen=True)
class Reading:
    """One target's speed in one round; the seconds are those of each batch that was timed."""

    phase: str
    ranks: str
    adapters: int
    target: str
    round: int
    tokens_per_second: float
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Check:
    """How many rows answered otherwise in a batch than alone, of how many compared.

    `changed` rows answered otherwise in a later round than in the first. `without_effect` adapter
    rows answered alone as the base does alone.
    """

    phase: str
    ranks: str
    adapters: int
    target: str
    base_rows: int
    base_wrong: int
    adapter_rows: int
    adapter_wrong: int
    changed: int
    without_effect: int

    @property
    def is_right(self) -> bool:
        """An adapter without effect on one prompt is possible, on all of them it was not applied."""
        unused = self.adapter_rows > 0 and self.without_effect == self.adapter_rows
        return not (self.base_wrong or self.adapter_wrong or self.changed or unused)


Solo = dict[tuple[Row, int], tuple[int, ...]]
"""What an engine answered to a row alone."""


@dataclass
class Cell:
    """A target's batch in one scene. `solo` belongs to the engine, and is shared by its cells."""

    engine: Engine
    phase: Phase
    rows: tuple[Row, ...]
    solo: Solo
    first: tuple[tuple[int, ...], ...] = ()
    wrong: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)

    def prepare(self) -> None:
        """Load adapters, warm every shape, and ask the sampled rows alone."""
        self.engine.generate(self.rows, 1)
        self.first = self._long().tokens
        for row in self.checked_rows:
            self._alone(self.rows[row])
            if self.phase.is_decode and self.rows[row].adapter:
                self._alone(Row(self.rows[row].prompt))
        self._compare(self.first)

    def measure(self) -> tuple[float, tuple[float, ...]]:
        """Tokens per second, and the seconds behind it. An untimed batch wakes the engine first."""
        self.engine.settle()
        self.engine.generate(self.rows, 1)
        if not self.phase.is_decode:
            answers = self._long()
            self._compare(answers.tokens)
            return self.phase.counted_tokens / answers.seconds, (answers.seconds,)
        for _ in range(TRIES):
            short, long = self.engine.generate(self.rows, 1), self._long()
            self._compare(long.tokens)
            if long.seconds > short.seconds:
                rate = self.phase.counted_tokens / (long.seconds - short.seconds)
                return rate, (short.seconds, long.seconds)
        raise TooNoisy("the machine is too busy: a long run took no longer than a short one")

    @property
    def checked_rows(self) -> tuple[int, ...]:
        return rows_to_check(len(self.rows), CHECKED_ROWS)

    def counts(self) -> dict[str, int]:
        """The counts of a `Check`."""
        adapted = {row for row in self.checked_rows if self.rows[row].adapter}
        plain = set(self.checked_rows) - adapted
        return {
            "base_rows": len(plain),
            "base_wrong": len(plain & self.wrong),
            "adapter_rows": len(adapted),
            "adapter_wrong": len(adapted & self.wrong),
            "changed": len(self.changed),
            "without_effect": sum(map(self._has_no_effect, adapted)),
        }

    def _long(self) -> Answers:
        tokens = self.phase.output_tokens
        return self.engine.generate(self.rows, tokens + 1 if self.phase.is_decode else tokens)

    def _alone(self, row: Row) -> tuple[int, ...]:
        tokens = min(CHECKED_TOKENS, self.phase.output_tokens)
        if (row, tokens) not in self.solo:
            self.solo[row, tokens] = self.engine.generate([row], tokens).tokens[0]
        return self.solo[row, tokens]

    def _compare(self, answers: Sequence[tuple[int, ...]]) -> None:
        for row in self.checked_rows:
            alone = self._alone(self.rows[row])
            if answers[row][: len(alone)] != alone:
                self.wrong.add(row)
        pairs = enumerate(zip(answers, self.first, strict=True))
        self.changed.update(row for row, (now, first) in pairs if now != first)

    def _has_no_effect(self, row: int) -> bool:
        if not self.phase.is_decode:
            return False  # one token says little
        return self._alone(self.rows[row]) == self._alone(Row(self.rows[row].prompt))
