"""Many adapters and few slots: vLLM's own scheduler against stackserve's, under the same traffic."""
