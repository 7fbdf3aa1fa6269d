"""Logging of the gateway: its own lines to the terminal, each worker's output to a bounded file."""

from __future__ import annotations

import logging
from collections import OrderedDict
from logging.handlers import RotatingFileHandler
from pathlib import Path

from stackserve.errors import ConfigError

FILE_BYTES = 10 * 2**20
FILES_KEPT = 2
MOST_OPEN = 64
WORKERS = "stackserve.worker"


def set_up_logging(level: str, log_folder: Path, *, echo_workers: bool) -> None:
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
    workers = logging.getLogger(WORKERS)
    workers.propagate = echo_workers
    workers.setLevel(logging.INFO)
    workers.addHandler(WorkerFiles(log_folder))


class WorkerFiles(logging.Handler):
    """Writes each line of a worker to its group's file; groups come and go while the server runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.INFO)
        self._folder = folder
        self._open: OrderedDict[str, RotatingFileHandler] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's lock."""
        self._file(record.name.removeprefix(f"{WORKERS}.")).emit(record)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
        super().close()

    def _file(self, group: str) -> RotatingFileHandler:
        handler = self._open.pop(group, None)
        if handler is None:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            handler = RotatingFileHandler(
                worker_log(self._folder, group), maxBytes=FILE_BYTES, backupCount=FILES_KEPT
            )
        self._open[group] = handler
        return handler


def worker_log(log_folder: Path, group: str) -> Path:
    """The file that a group's worker output goes to."""
    return log_folder / f"{group}.log"
