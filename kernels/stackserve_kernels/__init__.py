"""Kernels of stackserve. Imports torch, and nothing of stackserve or vllm."""
