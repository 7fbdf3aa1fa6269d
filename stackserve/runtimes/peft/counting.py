"""What happens to each inference key, in the numbers of `stackserve.protocol`."""

from __future__ import annotations

from stackserve.protocol import (
    GAP_BOUNDS,
    OTHER_KEY,
    WAIT_BOUNDS,
    AdaptersSnapshot,
    KeyNumbers,
    ResidencyFacts,
    Tally,
)

MOST_KEYS = 1000
"""That are counted one by one; those that come later are counted together."""


class Counting:
    """Of the generation thread alone."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyNumbers] = {}
        self._loads = Tally.of(WAIT_BOUNDS)

    def of(self, worker_model: str) -> KeyNumbers:
        """The numbers of a model by its name in the worker."""
        key = public_name(worker_model)
        if key not in self._keys and len(self._keys) >= MOST_KEYS:
            key = OTHER_KEY
        return self._keys.setdefault(key, KeyNumbers(key))

    def loaded(self, worker_model: str, seconds: float, num_bytes: int) -> None:
        """An adapter has been read from its files."""
        numbers = self.of(worker_model)
        numbers.loads += 1
        numbers.load_seconds += seconds
        numbers.loaded_bytes += num_bytes
        self._loads.observe(WAIT_BOUNDS, seconds)

    def began(self, worker_model: str, waited: float, prompt_tokens: int) -> None:
        """A prompt is computed now, after so many seconds."""
        numbers = self.of(worker_model)
        numbers.prompt_tokens += prompt_tokens
        numbers.queue.observe(WAIT_BOUNDS, waited)

    def token(self, worker_model: str, seconds: float, *, first: bool) -> None:
        """A token, so long after the one before, or after the request."""
        numbers = self.of(worker_model)
        numbers.generated_tokens += 1
        if first:
            numbers.first_token.observe(WAIT_BOUNDS, seconds)
        else:
            numbers.gap.observe(GAP_BOUNDS, seconds)

    def finished(self, worker_model: str, outcome: str) -> None:
        """An answer has ended: stop, length, abort, error."""
        counts = self.of(worker_model).finished
        counts[outcome] = counts.get(outcome, 0) + 1

    def snapshot(self, residency: ResidencyFacts) -> AdaptersSnapshot:
        """The numbers as they are now, to keep."""
        keys = tuple(numbers.copy() for numbers in self._keys.values())
        return AdaptersSnapshot(keys, self._loads.copy(), residency)


def public_name(worker_model: str) -> str:
    """The inference key of a name in the worker, which has the adapter's digest after it."""
    return worker_model.partition("@")[0]
