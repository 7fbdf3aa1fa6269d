"""A PostgreSQL of the tests' own, from the system's packages: on a Unix socket, without a network."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

SUPERUSER = "postgres"


def binaries() -> Path | None:
    """The folder of initdb and postgres; None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@dataclass
class Server:
    """A running server; each database that it gives is new."""

    socket: Path
    _made: Iterator[int] = field(default_factory=count)

    def new_database(self) -> str:
        """The SQLAlchemy URL of an empty database."""
        name = f"d{next(self._made)}"
        options = {"host": str(self.socket), "user": SUPERUSER, "dbname": "postgres"}
        with psycopg.connect(**options, autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{SUPERUSER}@/{name}?host={self.socket}"


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start a server from these binaries, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="ss-pg-", dir="/tmp") as written:
        root = Path(written)
        data = root / "data"
        make = (folder / "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "--no-sync")
        _run(root, *make)
        settings = {"listen_addresses": "", "unix_socket_directories": str(root), "fsync": "off"}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        control = (folder / "pg_ctl", "-D", data, "-w")
        _run(root, *control, "-o", options, "-l", data / "log", "start")
        try:
            yield Server(root)
        finally:
            _run(root, *control, "-m", "immediate", "stop")


def _run(folder: Path, *command: str | Path) -> None:
    """As root in a user namespace of its own, where it is called otherwise: PostgreSQL refuses root."""
    if os.geteuid() == 0:
        account = pwd.getpwnam(SUPERUSER)
        user = (f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}")
        command = ("unshare", "--user", *user, *command)
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
