"""The worker's end of the socket to the gateway."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence

import msgspec

from stackserve.runtimes.protocol import HEAD, Question, Reply, frame

BUFFER = 256 * 1024

Part = bytes | bytearray | memoryview


class Link:
    """Read by one thread, written by any."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._reader = self._socket.makefile("rb", buffering=BUFFER)
        self._decoder = msgspec.msgpack.Decoder(Question)
        self._writing = threading.Lock()

    def frames(self) -> Iterator[tuple[Question, bytes]]:
        """What the gateway asks, with its body, until it is gone."""
        while len(head := self._reader.read(HEAD.size)) == HEAD.size:
            message_bytes, body_bytes = HEAD.unpack(head)
            message = self._reader.read(message_bytes)
            body = self._reader.read(body_bytes) if body_bytes else b""
            yield self._decoder.decode(message), body

    def send(self, reply: Reply, body: Sequence[Part] = ()) -> None:
        """With all of its body, however long the gateway takes to read it."""
        head = frame(reply, sum(map(len, body)))
        with self._writing:
            if sum(map(len, body)) < BUFFER:
                self._socket.sendall(b"".join((head, *body)))
                return
            self._socket.sendall(head)
            for part in body:
                self._socket.sendall(part)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()
