"""What vLLM's scheduler does for its callers, checked of whichever scheduler is put in its place.

`python -m tests.engine.scheduler_checks FILE` runs all and writes which failed, and how, as JSON.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.engine import (
    scheduler_adapters,
    scheduler_cache,
    scheduler_crowd,
    scheduler_ends,
    scheduler_numbers,
    scheduler_order,
    scheduler_sessions,
)
from tests.engine.scheduler_cases import CHECKS, Start
from tests.tiny_models import write_base

SCHEDULERS = ("vllm", "stackserve")
"""Names in `scheduler_setup.MAKE`."""
TOPICS = (
    scheduler_order,
    scheduler_cache,
    scheduler_ends,
    scheduler_sessions,
    scheduler_numbers,
    scheduler_adapters,
    scheduler_crowd,
)
"""They put their checks on the list."""
MODEL = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}


def cases() -> Iterator[tuple[str, str, str, int]]:
    """Each with its id, its scheduler, its check, and how many steps may be in flight."""
    for scheduler in SCHEDULERS:
        for name, each in CHECKS.items():
            if not (each.beyond_vllm and scheduler == "vllm"):
                for in_flight in each.in_flight:
                    yield f"{scheduler}-{name}-{in_flight}", scheduler, name, in_flight


def starter(base: Path, scheduler: str, in_flight: int) -> Start:
    # Late, because vllm takes long to import and whoever wants the list alone needs none of it.
    from tests.engine.scheduler_harness import Harness
    from tests.engine.scheduler_setup import MAKE, Settings

    return lambda **settings: Harness(
        MAKE[scheduler], base, Settings(in_flight=in_flight, **settings)
    )


def main(file: str) -> None:
    outcomes: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        base = write_base(Path(folder, "base"), MODEL)
        for case, scheduler, name, in_flight in cases():
            try:
                CHECKS[name].run(starter(base, scheduler, in_flight))
            except Exception:  # noqa: BLE001  # the other checks say something too
                outcomes[case] = traceback.format_exc()
            else:
                outcomes[case] = ""
    Path(file).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1])
