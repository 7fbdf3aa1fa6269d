"""How calls are timed: a plain clock on CPUs, replays of a CUDA graph on GPUs. And what they reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from benchmarks.lora_kernels.grid import Limits

Call = Callable[[], None]

BLOCK_SECONDS = 0.05
MOST_CALLS = 2000
GRAPH_CALLS = 16
"""At least so many calls in a CUDA graph."""

MOST_GRAPH_CALLS = 512
BEST_OF = 7


class Clock(Protocol):
    """Times the calls of one contender in one case; each call has weights of its own."""

    def seconds(self) -> float:
        """Of one call, the mean over a block of calls."""


class CpuClock:
    """Goes round the calls, a block at a time, and goes on where the last block stopped."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._next = 0
        self._block = 1
        self.seconds()  # warms up
        self._block = max(1, min(MOST_CALLS, int(BLOCK_SECONDS / self.seconds())))

    def seconds(self) -> float:
        calls, count = self._calls, len(self._calls)
        turn = [calls[(self._next + step) % count] for step in range(self._block)]
        self._next += self._block
        began = time.perf_counter()
        for call in turn:
            call()
        return (time.perf_counter() - began) / len(turn)


class CudaClock:
    """One graph of at least `GRAPH_CALLS` calls, over all the weights there are."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._count = min(MOST_GRAPH_CALLS, max(GRAPH_CALLS, len(calls)))
        turn = [calls[number % len(calls)] for number in range(self._count)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, and fills plans, before the capture
            for call in turn:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for call in turn:
                call()
        self._graph.replay()
        torch.cuda.synchronize()

    def seconds(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / self._count


def clock_for(device: str, calls: Sequence[Call]) -> Clock:
    return CudaClock(calls) if device == "cuda" else CpuClock(calls)


def measure_limits(device: str) -> Limits:
    """The best of several tries of a large copy, a large read, and a large bf16 product."""
    bytes_ = 2**28 if device == "cpu" else 2**32
    large = torch.ones(bytes_ // 4, dtype=torch.float32, device=device)
    copy = torch.empty_like(large)
    copied = 2 * bytes_ / _best(device, lambda: copy.copy_(large))
    read = bytes_ / _best(device, lambda: large.sum())
    size = 2048 if device == "cpu" else 8192
    left, right = (torch.ones(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    flops = 2 * size**3 / _best(device, lambda: left @ right)
    return Limits(bytes_per_second=max(copied, read), flops_per_second=flops)


def _best(device: str, work: Callable[[], object]) -> float:
    work()
    best = float("inf")
    for _ in range(BEST_OF):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
