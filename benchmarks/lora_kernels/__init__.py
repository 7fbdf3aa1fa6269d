"""The LoRA op alone against its floor: `python -m benchmarks.lora_kernels`."""
