"""The options of a stacked group's engine: vLLM's, and those that its other runtime takes too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

from stackserve.server_settings import Section

OF_BOTH_RUNTIMES = frozenset({
    "runtime", "dtype", "max_model_len", "max_num_seqs", "adapter_slots", "seed", "max_in_flight",
    "max_adapter_mib", "start_timeout_seconds",
})  # fmt: skip
"""Engine options that mean something whatever the runtime; the others are vLLM's."""


class EngineSettings(Section):
    runtime: Literal["vllm", "transformers"] = Field(
        "vllm",
        description="`transformers` (with PEFT) serves architectures and adapter kinds that vLLM does "
        "not, slower.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Number format of weights and KV cache; `auto` is the base's own."
    )
    runner: Literal["generate", "pooling"] = Field(
        "generate", description="`generate` serves chat and completions, `pooling` embeddings."
    )
    max_model_len: int | None = Field(
        None, ge=16, description="Longest prompt plus answer, in tokens. By default the base's."
    )
    max_num_seqs: int = Field(32, ge=1, le=4096, description="Sequences computed in one step.")
    max_num_batched_tokens: int | None = Field(
        None, ge=16, description="Tokens computed in one step; longer prompts go in chunks."
    )
    max_rank: Literal["auto", 1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        "auto", description="Rank of an adapter slot; `auto` is the smallest that fits all members."
    )
    adapter_slots: int | None = Field(
        None, ge=1, le=512,
        description="Adapters on the device at once. By default one for each member, at most 8.",
    )  # fmt: skip
    adapters_per_batch: int | None = Field(
        None, ge=1, le=512,
        description="Adapters that share one batch. By default as many as there are slots.",
    )  # fmt: skip
    adapter_memory_gib: float = Field(
        4, gt=0, description="Host memory for adapters, those on the device included."
    )
    adapter_threads: int = Field(
        2, ge=1, le=64, description="Adapters that are read from disk at once."
    )
    starvation_seconds: float = Field(
        2, ge=0,
        description="An adapter that has waited so long for a slot is given that of another, which "
        "finishes what it runs and takes nothing new.",
    )  # fmt: skip
    min_residency_seconds: float = Field(
        0.5, ge=0, description="How long an adapter keeps its slot before it must make room so."
    )
    kv_cache_gib: float | None = Field(
        None, gt=0,
        description="Memory for the KV cache. By default 1 GiB on CPUs; on GPUs what is left of "
        "gpu_memory_utilization.",
    )  # fmt: skip
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Part of a GPU's memory that this engine may take."
    )
    tensor_parallel_size: int = Field(1, ge=1, le=64, description="GPUs that share each layer.")
    prefix_caching: bool = Field(True, description="Reuse the KV cache of equal beginnings.")
    enforce_eager: bool = Field(False, description="No CUDA graphs: slower, starts sooner.")
    seed: int = Field(0, ge=0, description="Seed of sampling where a request gives none.")
    tool_call_parser: str | None = Field(
        None, description="vLLM tool parser (`hermes`, …); enables `tool_choice: auto`."
    )
    max_in_flight: int = Field(
        256, ge=1, le=100_000,
        description="Requests taken at once, running and queued; more are answered 429.",
    )  # fmt: skip
    max_adapter_mib: int = Field(1024, ge=1, description="Largest adapter file, in MiB.")
    start_timeout_seconds: float = Field(
        900, gt=0, description="An engine that is not ready by then is restarted."
    )
    vllm_args: dict[str, JsonValue] = Field(
        {}, description="Further options of vLLM's engine, as in `vllm serve`, without the dashes."
    )

    @field_validator("vllm_args")
    @classmethod
    def _leaves_the_scheduler(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in value:
            if name.replace("-", "_") in ("scheduler_cls", "additional_config"):
                raise PydanticCustomError(
                    "taken", "{name} is set by stackserve; leave it out", {"name": name}
                )
        return value

    @model_validator(mode="after")
    def _has_options_of_its_runtime(self) -> EngineSettings:
        if self.runtime == "vllm":
            return self
        fields = type(self).model_fields
        foreign = sorted(
            name
            for name in self.model_fields_set - OF_BOTH_RUNTIMES
            if getattr(self, name) != fields[name].default
        )
        if foreign:
            raise PydanticCustomError(
                "of_vllm",
                "{options} mean nothing to the runtime transformers; leave them out",
                {"options": ", ".join(foreign)},
            )
        return self

    @model_validator(mode="after")
    def _batch_fits_the_slots(self) -> EngineSettings:
        slots, batch = self.adapter_slots, self.adapters_per_batch
        if slots is not None and batch is not None and batch > slots:
            raise PydanticCustomError(
                "batch_over_slots",
                "adapters_per_batch is {batch}, more than the {slots} adapter_slots; "
                "raise the one or lower the other",
                {"batch": batch, "slots": slots},
            )
        return self
