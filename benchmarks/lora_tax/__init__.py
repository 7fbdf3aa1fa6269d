"""What adapters cost a whole engine: `python -m benchmarks.lora_tax`."""
