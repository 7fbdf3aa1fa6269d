"""The worker's side of residency: weights in host memory and in slots, exactly as it is told.

Takes the place of vLLM's two LRU caches of adapters, which load from disk within a step and evict as
they think fit. `stackserve.engine.scheduler` decides; a step here only looks up who is where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

from stackserve.adapters.store import DIGEST, AdapterStore
from stackserve.engine import compat_adapters as compat
from stackserve.engine.adapter_host import Report
from stackserve.engine.lora_layer import SlottedLayer
from stackserve.engine.scheduling_options import SchedulingOptions
from stackserve.engine.stager import Stager
from stackserve.errors import ArtifactRejected
from stackserve_kernels import lora

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.0005
"""After each module that a stager's thread prepares: a step needs the interpreter's lock many times, and
waits for it each time that the thread has it.
"""


@dataclass(frozen=True, eq=False)
class HostWeights:
    """An adapter in host memory: for each of the model's LoRA modules what its slot will hold."""

    modules: dict[str, Any]
    """`PreparedWeights` for our layers, vLLM's weights for its own; None where there are none."""
    model: Any
    """vLLM's, for what is left in it."""


class SlotManager(LRUCacheWorkerLoRAManager):  # type: ignore[misc]  # vllm is untyped here
    """vLLM's manager of a worker's adapters, told by the scheduler; an `AdapterHost`."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)
        options = SchedulingOptions.from_config(vllm_config.additional_config)
        self._held: dict[int, HostWeights] = {}
        self._slot_of: dict[int, int] = {}
        self._told = False
        self._empty: set[tuple[str, int]] = set()
        """Slots of modules that vLLM computes in which nothing is."""
        self._stager: Stager[HostWeights] = Stager(self._read, options.stagers, _reason)

    # What the scheduler asks

    def stage(self, adapter_id: int, source: Any) -> None:
        self._told = True
        self._stager.stage(adapter_id, source)

    def poll(self) -> Sequence[Report]:
        reports = []
        for report, weights in self._stager.poll():
            if weights is not None:
                self._held[report.id] = weights
            reports.append(report)
        return reports

    def place(self, adapter_id: int, slot: int) -> None:
        self._fill(slot, self._held[adapter_id])
        self._name(slot, adapter_id)

    def clear(self, slot: int) -> None:
        self._fill(slot, None)
        self._name(slot, None)

    def drop(self, adapter_id: int) -> None:
        self._held.pop(adapter_id, None)

    # What vLLM asks

    def _apply_adapters(self, lora_requests: set[Any]) -> None:
        """Every adapter of a step has its slot already; only vLLM's warm-up brings its own."""
        strangers = {each for each in lora_requests if each.lora_int_id not in self._slot_of}
        if strangers and self._told:
            names = ", ".join(sorted(each.lora_name for each in strangers))
            raise RuntimeError(f"a step has adapters that are in no slot: {names}")
        if strangers:
            super()._apply_adapters(strangers)

    def remove_all_adapters(self) -> None:
        """After a warm-up; and when base weights are replaced, with which the slots' memory may be new."""
        super().remove_all_adapters()
        self._empty.clear()
        for adapter_id, slot in self._slot_of.items():
            self._fill(slot, self._held[adapter_id])
        compat.name_slots(self._adapter_manager, self._slot_of)

    def _read(self, source: Any) -> tuple[HostWeights, int]:
        """Read, check and prepare one adapter, in a stager's thread."""
        _verify(source)
        manager = self._adapter_manager
        model = compat.merged(manager, self._load_adapter(source))
        memory = lora.WeightMemory()
        modules: dict[str, Any] = {}
        num_bytes = 0
        for name, module in manager.modules.items():
            modules[name], more = self._prepare(name, module, model, memory)
            num_bytes += more
            time.sleep(PAUSE_SECONDS)
        compat.keep_full_modules_only(model)
        return HostWeights(modules, model), num_bytes + memory.unused

    def _prepare(
        self, name: str, module: Any, model: Any, memory: lora.WeightMemory
    ) -> tuple[Any, int]:
        """What an adapter has for one module, as `_fill` wants it, and its bytes."""
        weights = compat.weights_of(self._adapter_manager, model, name)
        if weights is None:
            return None, 0
        layer = module.punica_wrapper
        if isinstance(layer, SlottedLayer):
            prepared = layer.prepare(compat.slices_of(module, weights), memory)
            return prepared, prepared.num_bytes if prepared is not None else 0
        compat.check_module(self._adapter_manager, name, module, weights, model)
        return weights, compat.num_bytes_of(weights)

    def _name(self, slot: int, adapter_id: int | None) -> None:
        others = {each: at for each, at in self._slot_of.items() if at != slot}
        self._slot_of = others if adapter_id is None else {**others, adapter_id: slot}
        compat.name_slots(self._adapter_manager, self._slot_of)

    def _fill(self, slot: int, weights: HostWeights | None) -> None:
        """Let every layer's slot hold an adapter's weights, or nothing."""
        for name, module in self._adapter_manager.modules.items():
            of_module = weights.modules[name] if weights else None
            layer = module.punica_wrapper
            if isinstance(layer, SlottedLayer):
                layer.place(slot, of_module)
            else:
                self._fill_of_vllm(name, module, slot, of_module, weights and weights.model)

    def _fill_of_vllm(self, name: str, module: Any, slot: int, weights: Any, model: Any) -> None:
        """One slot of a module that vLLM computes; one that is empty already is not emptied again."""
        is_head = hasattr(module, "set_module_to_save")
        if weights is None and not is_head and (name, slot) in self._empty:
            return
        compat.set_module(self._adapter_manager, name, module, slot, weights, model)
        if hasattr(module.punica_wrapper, "load_slot"):
            module.punica_wrapper.load_slot(slot, lora.WeightMemory())
        (self._empty.add if weights is None else self._empty.discard)((name, slot))


def slots_of_worker(worker: Any) -> SlotManager:
    """The manager of one of vLLM's workers."""
    manager: SlotManager = worker.model_runner.lora_manager
    return manager


def _verify(source: Any) -> None:
    """Raise ArtifactRejected unless a stored adapter is what the digest in its name says."""
    digest = source.lora_name.rpartition("@")[2]
    folder = Path(source.lora_path)
    if DIGEST.fullmatch(digest) and folder.name == digest:
        AdapterStore(folder.parent).verify(digest)


def _reason(source: Any, error: BaseException) -> str:
    """What a client may read: no path of this machine."""
    if isinstance(error, ArtifactRejected):
        return error.message
    logger.warning("adapter %s could not be read", source.lora_name, exc_info=error)
    return f"{type(error).__name__}: {error}".replace(source.lora_path, "its folder")
