"""Counts, inside each worker process, how often adapters are read and how often a slot is filled.

vLLM mixes `LoadCounter` into its worker (`worker_extension_cls`) after plug-ins and before a model is
loaded. Touches: `WorkerLoRAManager._load_adapter` and `LoRAModelManager.activate_adapter`, which it
wraps; with stackserve's scheduler `SlotManager.place`.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

PLUGIN = "stackserve.engine.plugin"

_counts = {"reads": 0, "placed": 0}
_lock = threading.Lock()


class LoadCounter:
    """`collective_rpc("count_loads")` gives the counts since the start."""

    def count_loads(self) -> dict[str, int]:
        return dict(_counts)


def _add(name: str) -> None:
    with _lock:  # ours reads in several threads
        _counts[name] += 1


def _count_vllm() -> None:
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.worker_manager import WorkerLoRAManager

    load, activate = WorkerLoRAManager._load_adapter, LoRAModelManager.activate_adapter

    def load_adapter(manager: Any, request: Any) -> Any:
        _add("reads")
        return load(manager, request)

    def activate_adapter(manager: Any, lora_id: int) -> bool:
        filled: bool = activate(manager, lora_id)
        if filled:
            _add("placed")
        return filled

    # Who asks whether vLLM's own is already wrapped must still find what it left there.
    activate_adapter.__dict__.update(getattr(activate, "__dict__", {}))
    WorkerLoRAManager._load_adapter = load_adapter
    LoRAModelManager.activate_adapter = activate_adapter


def _count_stackserve() -> None:
    from stackserve.engine.adapter_slots import SlotManager

    fill = SlotManager.place

    def place(manager: Any, adapter_id: int, slot: int) -> None:
        fill(manager, adapter_id, slot)
        _add("placed")

    SlotManager.place = place  # type: ignore[method-assign, assignment]


_count_vllm()
if PLUGIN in sys.modules:
    _count_stackserve()
