"""What happens to each inference key inside an engine, in numbers that a snapshot takes out.

An engine's scheduler owns one `AdapterMeters` and calls it as things happen. Memory, and the series that
Prometheus keeps of it, grow with the keys that are counted one by one, and no further.
"""

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
OUTCOMES = frozenset({"stop", "length", "abort", "error", "repetition"})
"""vLLM's finish reasons. Any other outcome counts as an error."""


class AdapterMeters:
    """Counts by inference key: all versions of a key, and the base by its own key. Every call is O(1).

    The first `most_keys` keys that anything happens to are counted one by one, in order of coming; a
    key that comes later is counted under `OTHER_KEY`, for as long as the worker lives. So sums over all
    keys are exact. All times are in seconds.
    """

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._most_keys = most_keys
        self._keys: dict[str, KeyNumbers] = {}
        self._other: KeyNumbers | None = None
        self._loads = Tally.of(WAIT_BOUNDS)

    def arrived(self, key: str) -> None:
        """A request has reached the engine."""
        self._of(key).arrived += 1

    def admitted(self, key: str, queue_seconds: float, prompt_tokens: int) -> None:
        """A request begins to be computed, for the first time: not after a preemption."""
        numbers = self._of(key)
        numbers.prompt_tokens += prompt_tokens
        numbers.queue.observe(WAIT_BOUNDS, queue_seconds)

    def generated(self, key: str, tokens: int, *, ttft: float | None, gap: float | None) -> None:
        """A request has been given tokens, at once.

        `ttft` with its first ones: the time since it arrived. `gap` with later ones: the time since
        those before. Several tokens at once, as speculative decoding gives, are one observation of the
        whole gap, as in `vllm:inter_token_latency_seconds`: that is the pause that a reader sees.
        """
        numbers = self._of(key)
        numbers.generated_tokens += tokens
        if ttft is not None:
            numbers.first_token.observe(WAIT_BOUNDS, ttft)
        if gap is not None:
            numbers.gap.observe(GAP_BOUNDS, gap)

    def finished(self, key: str, outcome: str) -> None:
        """A request is done, whether it was ever admitted or not; `outcome` is one of `OUTCOMES`."""
        counts = self._of(key).finished
        outcome = outcome if outcome in OUTCOMES else "error"
        counts[outcome] = counts.get(outcome, 0) + 1

    def hit(self, key: str) -> None:
        """A request's adapter was on the device when it arrived."""
        self._of(key).hits += 1

    def deferred(self, key: str) -> None:
        """It was not, so that the request has to wait for it."""
        self._of(key).deferred += 1

    def loaded(self, key: str, seconds: float, num_bytes: int) -> None:
        """An adapter's weights have been read into host memory, which took `seconds`."""
        numbers = self._of(key)
        numbers.loads += 1
        numbers.load_seconds += seconds
        numbers.loaded_bytes += num_bytes
        self._loads.observe(WAIT_BOUNDS, seconds)

    def load_failed(self, key: str) -> None:
        """An adapter could not be loaded."""
        self._of(key).load_failures += 1

    def evicted(self, key: str, tier: str) -> None:
        """An adapter has left a tier: its slot (`device`), or host memory (`host`)."""
        counts = self._of(key).evicted
        counts[tier] = counts.get(tier, 0) + 1

    def drained(self, key: str) -> None:
        """An adapter on the device has begun to drain, so that another gets its slot."""
        self._of(key).drains += 1

    def snapshot(self, residency: ResidencyFacts | None = None) -> AdaptersSnapshot:
        """The numbers as they are now, to keep: later calls do not change it. O(keys + adapters)."""
        if residency is not None:
            for each in (residency.base_key, *(facts.key for facts in residency.adapters)):
                self._of(each)
        keys = [numbers.copy() for numbers in self._keys.values()]
        if self._other is not None:
            keys.append(self._other.copy())
        return AdaptersSnapshot(tuple(keys), self._loads.copy(), residency)

    def _of(self, key: str) -> KeyNumbers:
        numbers = self._keys.get(key)
        if numbers is not None:
            return numbers
        if len(self._keys) < self._most_keys:
            return self._keys.setdefault(key, KeyNumbers(key))
        if self._other is None:
            self._other = KeyNumbers(OTHER_KEY)
        return self._other
