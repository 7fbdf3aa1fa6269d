"""The adapter folder: its two files are opened once, never through a link, never a pipe."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stackserve.adapters.codes import Code
from stackserve.adapters.strict_json import shown
from stackserve.errors import ArtifactRejected

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)

MAX_CONFIG_BYTES = 1 << 20
MAX_ENTRIES = 1000
CHUNK_BYTES = 1 << 20
# O_NONBLOCK: opening a pipe or a device must never wait for its other end.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class FileDigest:
    """One of an adapter's two files: size in bytes and sha256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class OpenAdapter:
    """Descriptors of an adapter's two files, and the sizes they had when they were opened."""

    config_fd: int
    weights_fd: int
    config_size: int
    weights_size: int

    @property
    def size(self) -> int:
        return self.config_size + self.weights_size

    def by_name(self) -> tuple[tuple[str, int], ...]:
        return ((CONFIG_FILE, self.config_fd), (WEIGHTS_FILE, self.weights_fd))


@contextmanager
def open_adapter(folder: Path, max_bytes: int) -> Iterator[OpenAdapter]:
    """Open `folder`'s two files, after refusing links, pickles, special files and excess size."""
    with ExitStack() as descriptors:
        folder_fd = _open_folder(folder)
        descriptors.callback(os.close, folder_fd)
        _check_entries(folder_fd)
        config_fd = open_regular(CONFIG_FILE, folder_fd)
        descriptors.callback(os.close, config_fd)
        weights_fd = open_regular(WEIGHTS_FILE, folder_fd)
        descriptors.callback(os.close, weights_fd)
        config_size, weights_size = os.fstat(config_fd).st_size, os.fstat(weights_fd).st_size
        if config_size > MAX_CONFIG_BYTES:
            raise ArtifactRejected(
                Code.CONFIG_TOO_LARGE,
                f"{CONFIG_FILE} has {config_size} bytes, more than the {MAX_CONFIG_BYTES} allowed;"
                " save the adapter again with PEFT.",
            )
        check_size(config_size + weights_size, max_bytes)
        yield OpenAdapter(config_fd, weights_fd, config_size, weights_size)


def check_size(size: int, max_bytes: int) -> None:
    """Refuse an adapter whose two files together are over the limit."""
    if size > max_bytes:
        raise ArtifactRejected(
            Code.ADAPTER_TOO_LARGE,
            f"The adapter has {size} bytes, more than the {max_bytes} allowed; "
            "train it with a lower rank or raise the limit.",
        )


def open_regular(name: str, folder_fd: int) -> int:
    """A read descriptor of the regular file `name` in a folder; the caller closes it."""
    try:
        fd = os.open(name, READ_FLAGS | os.O_NOFOLLOW, dir_fd=folder_fd)
    except OSError as error:
        raise _open_refusal(name, error) from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _not_regular(name)


@contextmanager
def reading(name: str, code: Code = Code.FILE_UNREADABLE) -> Iterator[None]:
    """Turn an operating system error of a read of `name` into a refusal with `code`."""
    try:
        yield
    except OSError as error:
        raise ArtifactRejected(
            code, f"{name} cannot be read ({error.strerror}); check its permissions and the disk."
        ) from error


def read_whole(fd: int, limit: int, *, name: str, code: Code) -> bytes:
    """All bytes of a file from its start; more than `limit` of them is refused with `code`."""
    data = bytearray()
    while len(data) <= limit:
        chunk = os.pread(fd, min(CHUNK_BYTES, limit + 1 - len(data)), len(data))
        if not chunk:
            return bytes(data)
        data += chunk
    raise ArtifactRejected(code, f"{name} has more than the {limit} bytes allowed; write it again.")


def digest_file(fd: int, name: str) -> FileDigest:
    """Hash a file from its start to its present end."""
    digest, size = hashlib.sha256(), 0
    while chunk := os.pread(fd, CHUNK_BYTES, size):
        digest.update(chunk)
        size += len(chunk)
    return FileDigest(name, size, digest.hexdigest())


def read_config(opened: OpenAdapter) -> bytes:
    """All of an open adapter's configuration."""
    with reading(CONFIG_FILE):
        return read_whole(
            opened.config_fd, MAX_CONFIG_BYTES, name=CONFIG_FILE, code=Code.CONFIG_TOO_LARGE
        )


def digest_files(opened: OpenAdapter) -> tuple[FileDigest, ...]:
    """Both files of an open adapter, hashed."""
    files = []
    for name, fd in opened.by_name():
        with reading(name):
            files.append(digest_file(fd, name))
    return tuple(files)


def adapter_digest(files: tuple[FileDigest, ...]) -> str:
    """The identity of an adapter: sha256 of a manifest with a line `name size sha256` per file.

    The manifest starts with the line `stackserve-adapter-v1`; files are in the order of their
    names; every line ends with a newline.
    """
    lines = ["stackserve-adapter-v1"]
    lines += [f"{file.name} {file.size} {file.sha256}" for file in sorted(files, key=_name)]
    return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()


def _name(file: FileDigest) -> str:
    return file.name


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, READ_FLAGS | os.O_DIRECTORY)
    except PermissionError as error:
        raise ArtifactRejected(
            Code.FILE_UNREADABLE, "The adapter folder cannot be opened; check its permissions."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: NUL or a lone surrogate in the path
        raise ArtifactRejected(
            Code.FOLDER_MISSING,
            "The adapter folder does not exist or is not a folder; "
            f"give a folder that contains {CONFIG_FILE} and {WEIGHTS_FILE}.",
        ) from error


def _check_entries(folder_fd: int) -> None:
    """Refuse links, and weights in a pickle format. Other files are never read, so may stay."""
    with reading("The adapter folder"), os.scandir(folder_fd) as entries:
        for count, entry in enumerate(entries, start=1):
            if count > MAX_ENTRIES:
                raise ArtifactRejected(
                    Code.TOO_MANY_FILES,
                    f"The adapter folder has more than {MAX_ENTRIES} entries; "
                    "keep only the files of one adapter in it.",
                )
            if entry.is_symlink():
                raise _symlink(entry.name)
            if _is_pickled_weights(entry.name):
                raise ArtifactRejected(
                    Code.PICKLE_WEIGHTS,
                    f"{shown(entry.name)} is a pickle, which can run code when it is loaded; "
                    f"save the adapter as {WEIGHTS_FILE} and remove this file.",
                )


def _is_pickled_weights(name: str) -> bool:
    lowered = name.lower()
    return lowered.startswith("adapter_model") and lowered.endswith(PICKLE_SUFFIXES)


def _open_refusal(name: str, error: OSError) -> ArtifactRejected:
    if error.errno == errno.ENOENT:
        return ArtifactRejected(
            Code.FILE_MISSING,
            f"{name} is missing from the adapter folder; save the adapter again with PEFT.",
        )
    if error.errno == errno.ELOOP:
        return _symlink(name)
    if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a driver
        return _not_regular(name)
    return ArtifactRejected(
        Code.FILE_UNREADABLE,
        f"{name} cannot be opened ({error.strerror}); check its permissions and the disk.",
    )


def _symlink(name: str) -> ArtifactRejected:
    return ArtifactRejected(
        Code.SYMLINK,
        f"{shown(name)} is a symbolic link; copy the real files (`cp -rL`) into the folder.",
    )


def _not_regular(name: str) -> ArtifactRejected:
    return ArtifactRejected(
        Code.NOT_A_REGULAR_FILE,
        f"{name} is not a regular file; replace it with the file which PEFT saves.",
    )
