"""What an adapter wrote into the KV cache is never read by a request of another adapter or the base.

Attention multiplies the values of a block's unwritten slots by weights of zero, and 0 · NaN is NaN: so
what lies in a block from before matters although it is masked. An adapter whose weights are not finite,
or overflow, would spoil whoever gets its blocks next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stackserve.engine import compat_kv as compat


class TaintedBlocks:
    """The KV blocks that an adapter's request may have written to since they were last zeroed.

    Ids are those of one pool, so there are never more of them than blocks.
    """

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def taint(self, blocks: Iterable[int]) -> None:
        """An adapter's request may write to these from now on."""
        self._ids.update(blocks)

    def among(self, blocks: Iterable[int]) -> set[int]:
        """Those of `blocks` that are tainted."""
        return self._ids.intersection(blocks)

    def cleaned(self, blocks: Iterable[int]) -> None:
        """These are zeroed before anything reads them."""
        self._ids.difference_update(blocks)


class CleanBlocks:
    """Before a vLLM scheduler among the base classes: has tainted blocks zeroed when they are given out.

    Blocks are tainted in the step that gives them to an adapter's request, so it does not matter how
    the request loses them (finished, aborted, preempted, out of a sliding window), nor that a step in
    flight still writes to them. The worker zeroes them at the start of the step that gives them out
    again; steps run in order, so no older step still reads them. A block that this step fills up
    needs no zeroing: each layer writes before it reads. It stays tainted.

    Overrides `Scheduler._update_after_schedule`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tainted = TaintedBlocks()

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        super()._update_after_schedule(scheduler_output)  # type: ignore[misc]
        if not compat.zeroes_on_request(self):
            return
        dirty = self._tainted.among(scheduler_output.new_block_ids_to_zero or ())
        if dirty:
            dirty &= compat.blocks_with_room(self, scheduler_output)
            self._tainted.cleaned(dirty)
        scheduler_output.new_block_ids_to_zero = sorted(dirty) or None
        self._tainted.taint(compat.blocks_of_adapters(self, scheduler_output))
