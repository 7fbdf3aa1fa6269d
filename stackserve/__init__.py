"""stackserve: one LLM base, many LoRA fine-tunes, one engine, one endpoint."""

__version__ = "0.1.0"
