"""The gateway's end of the socket to a runtime worker: questions, and the answer to each."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

import msgspec

from stackserve.runtimes.protocol import HEAD, MOST_MESSAGE, Cancel, Question, Reply, Started, frame

logger = logging.getLogger(__name__)


class ChannelClosed(Exception):
    """The worker is gone, or cannot be understood; what was asked of it is not answered."""


class Channel(asyncio.Protocol):
    """Owned by the worker's supervisor. Its questions are bounded by who asks: see the gate."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = self._loop.create_future()
        self.started.add_done_callback(
            lambda started: started.exception()
        )  # it may interest nobody
        self.closed = asyncio.Event()
        self.on_close: Callable[[], None] = lambda: None
        """Called before anybody who waits hears of it."""
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Reply, bytes]]] = {}
        self._drained = asyncio.Event()
        self._received = bytearray()
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._transport: asyncio.Transport | None = None

    @property
    def unsent(self) -> int:
        """Bytes that the worker has not read yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    async def ask(
        self, question: Callable[[int], Question], body: bytes = b""
    ) -> tuple[Reply, bytes]:
        """`question` is made with the id that it shall have. Raises ChannelClosed; cancelled, the worker
        is told that nobody waits any more.
        """
        if self._transport is None or self.closed.is_set():
            raise ChannelClosed
        number = next(self._ids)
        waiting: asyncio.Future[tuple[Reply, bytes]] = self._loop.create_future()
        self._waiting[number] = waiting
        head = frame(question(number), len(body))
        try:
            self._transport.writelines((head, body) if body else (head,))
            return await waiting
        except asyncio.CancelledError:
            if not self.closed.is_set():
                self._transport.write(frame(Cancel(number)))
            raise
        finally:
            self._waiting.pop(number, None)
            if not self._waiting:
                self._drained.set()

    async def drained(self) -> None:
        """Wait until nobody waits for an answer."""
        while self._waiting:
            self._drained.clear()
            await self._drained.wait()

    def close(self) -> None:
        """Whoever waits is told so at once."""
        if not self.closed.is_set():
            self.closed.set()
            if self._transport is not None:
                self._transport.abort()
            self.on_close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ChannelClosed())
            if not self.started.done():
                self.started.set_exception(ChannelClosed())

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) - start >= HEAD.size:
            message_bytes, body_bytes = HEAD.unpack_from(received, start)
            body = start + HEAD.size + message_bytes
            end = body + body_bytes
            if message_bytes > MOST_MESSAGE:
                logger.error("a runtime worker wrote what is no frame")
                self.close()
                return
            if len(received) < end:
                break
            self._hear(received[start + HEAD.size : body], bytes(received[body:end]))
            start = end
        del received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def _hear(self, message: bytearray, body: bytes) -> None:
        try:
            reply = self._decoder.decode(message)
        except msgspec.MsgspecError as error:
            logger.error("a runtime worker wrote what is no message: %s", error)
            self.close()
            return
        if isinstance(reply, Started):
            if not self.started.done():
                self.started.set_result(reply)
            return
        waiting = self._waiting.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result((reply, body))
