"""The engine worker of stacked groups that vLLM cannot serve: Hugging Face transformers with PEFT.

It keeps `stackserve.protocol` as the vLLM worker does, slower, for more architectures and adapter kinds.
"""
