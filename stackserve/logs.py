"""Logging of the gateway: its own lines to the terminal, each worker's output to a bounded file."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from stackserve.errors import ConfigError

FILE_BYTES = 10 * 2**20
FILES_KEPT = 2
WORKERS = "stackserve.worker"


def set_up_logging(level: str, log_folder: Path, groups: list[str], *, echo_workers: bool) -> None:
    """Send the gateway's records to standard error and the workers' lines to `log_folder`.

    Each group's file is bounded to `FILE_BYTES`, with `FILES_KEPT` older ones beside it.
    """
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        log_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the logs' folder {log_folder} cannot be made: {error.strerror}; "
            "set XDG_STATE_HOME to a folder that can be written to"
        ) from None
    logging.getLogger(WORKERS).propagate = echo_workers
    for group in groups:
        handler = RotatingFileHandler(
            worker_log(log_folder, group), maxBytes=FILE_BYTES, backupCount=FILES_KEPT, delay=True
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger(f"{WORKERS}.{group}")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)


def worker_log(log_folder: Path, group: str) -> Path:
    """The file that a group's worker output goes to."""
    return log_folder / f"{group}.log"
