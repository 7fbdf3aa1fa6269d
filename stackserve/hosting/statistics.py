"""What is counted of one model, as Triton's statistics call it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from stackserve.runtimes.protocol import Answer


@dataclass
class Duration:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass
class Statistics:
    """Of one version of a model since the server started; they only grow."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    rows: int = 0
    """Triton's inference_count."""
    executions: int = 0
    last_inference: float = 0.0
    """Seconds since the epoch."""
    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0
    evictions: int = 0

    def answered(self, answer: Answer, ns: int) -> None:
        """Count a request that took so long from its beginning to the answer."""
        if answer.status != 200:
            self.fail.add(ns)
            return
        self.success.add(ns)
        self.queue.add(answer.queue_ns)
        self.compute_input.add(answer.input_ns)
        self.compute_infer.add(answer.infer_ns)
        self.compute_output.add(answer.output_ns)
        self.rows += answer.rows
        self.executions += answer.leads
        self.last_inference = time.time()
