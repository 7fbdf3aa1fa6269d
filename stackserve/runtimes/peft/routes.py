"""The worker's HTTP: OpenAI's routes, and those about adapters of `stackserve.protocol`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stackserve.protocol import ADAPTERS_PATH, AdapterSpec, key_of
from stackserve.runtimes.peft.adapters import AdapterRefused
from stackserve.runtimes.peft.answers import DONE, Answer, Choice, error_body, event, json_answer
from stackserve.runtimes.peft.bodies import (
    AnyBody,
    BadRequest,
    ChatBody,
    read_chat,
    read_completion,
    sampling_of,
)
from stackserve.runtimes.peft.foundation import Foundation
from stackserve.runtimes.peft.generation import Generation
from stackserve.runtimes.peft.prompts import chat_prompt, completion_prompts
from stackserve.runtimes.peft.residency import UnknownModel
from stackserve.runtimes.peft.rows import Failure, Piece, Row
from stackserve.runtimes.peft.text import Text

GONE = 499
"""The status of an answer that nobody reads."""


@dataclass(frozen=True)
class Asked:
    """A request's rows, and what they tell, in the order in which it happens: row number and piece."""

    rows: Sequence[Row]
    told: asyncio.Queue[tuple[int, Piece | Failure]]

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        for row in self.rows:
            row.cancelled = True

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """All pieces, until each row has its end. Raises BadRequest with the status of a failure."""
        left = len(self.rows)
        while left:
            index, piece = await self.told.get()
            if isinstance(piece, Failure):
                raise BadRequest(piece.message, status=piece.status)
            left -= piece.finish is not None
            yield index, piece


class Api:
    """Answers requests with what the generation thread makes."""

    def __init__(self, foundation: Foundation, generation: Generation, seed: int) -> None:
        self._foundation = foundation
        self._generation = generation
        self._shared = torch.Generator().manual_seed(seed)
        """Of all requests without a seed; only the generation thread draws from it."""

    def app(self) -> Starlette:
        """The application."""
        one = f"{ADAPTERS_PATH}/{{name}}"
        return Starlette(
            routes=[
                Route("/health", _health),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route(ADAPTERS_PATH, self._snapshot, methods=["GET"]),
                Route(ADAPTERS_PATH, self._add, methods=["PUT"]),
                Route(one, self._remove, methods=["DELETE"]),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        try:
            body = read_chat(await request.body())
            prompt = await asyncio.to_thread(chat_prompt, body, self._foundation.tokenizer)
            return await self._answer(request, body, [prompt])
        except BadRequest as error:
            return _refusal(error)

    async def _complete(self, request: Request) -> Response:
        try:
            body = read_completion(await request.body())
            base = self._foundation
            prompts = await asyncio.to_thread(
                completion_prompts, body, base.tokenizer, base.vocabulary
            )
            return await self._answer(request, body, prompts)
        except BadRequest as error:
            return _refusal(error)

    async def _answer(
        self, request: Request, body: AnyBody, prompts: list[tuple[int, ...]]
    ) -> Response:
        asked = self._ask(body, prompts)
        answer = Answer(
            key_of(body.model),
            sum(map(len, prompts)),
            self._foundation.tokenizer,
            chat=isinstance(body, ChatBody),
        )
        pieces = asked.pieces()
        try:
            # Until there is a token, a failure still has a status.
            first = await _unless_gone(request, anext(pieces))
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                events = _events(asked, answer, first, pieces, usage=bool(usage))
                return StreamingResponse(events, media_type="text/event-stream")
            choices = await _unless_gone(request, _collected(asked, first, pieces))
            return json_answer(answer.whole(choices))
        except ClientDisconnect:
            asked.cancel()
            return Response(status_code=GONE)
        except BaseException:
            asked.cancel()
            raise

    def _ask(self, body: AnyBody, prompts: list[tuple[int, ...]]) -> Asked:
        """Have the prompts answered. Raises BadRequest."""
        if not self._generation.adapters.knows(body.model):
            raise BadRequest(f"The model `{body.model}` does not exist.", "model", 404)
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[tuple[int, Piece | Failure]] = asyncio.Queue()
        rows = [self._row(body, prompt, n, loop, told) for n, prompt in enumerate(prompts)]
        for row in rows:
            self._generation.answer(row)
        return Asked(rows, told)

    def _row(
        self,
        body: AnyBody,
        prompt: tuple[int, ...],
        number: int,
        loop: asyncio.AbstractEventLoop,
        told: asyncio.Queue[tuple[int, Piece | Failure]],
    ) -> Row:
        base = self._foundation
        sampling = sampling_of(body, base.defaults, len(prompt), base.max_model_len)
        own = sampling.seed is not None
        generator = torch.Generator().manual_seed(sampling.seed or 0) if own else self._shared
        return Row(
            model=body.model,
            prompt=prompt,
            sampling=sampling,
            text=Text(base.tokenizer, sampling.stop, sampling.include_stop),
            ends=base.ends,
            tell=lambda piece: _tell(loop, told, (number, piece)),
            generator=generator,
        )

    async def _snapshot(self, _: Request) -> Response:
        snapshot = self._generation.between_steps(self._generation.snapshot)
        return json_answer(await asyncio.wrap_future(snapshot))

    async def _add(self, request: Request) -> Response:
        adapters = self._generation.adapters
        try:
            spec = msgspec.json.decode(await request.body(), type=AdapterSpec)
            await asyncio.wrap_future(self._generation.between_steps(lambda: adapters.add(spec)))
        except msgspec.MsgspecError as error:
            return _adapter_refusal(400, "bad_adapter_spec", str(error))
        except AdapterRefused as error:
            return _adapter_refusal(422, "adapter_load_failed", str(error))
        return Response(status_code=204)

    async def _remove(self, request: Request) -> Response:
        name = request.path_params["name"]
        adapters = self._generation.adapters
        try:
            await asyncio.wrap_future(self._generation.between_steps(lambda: adapters.forget(name)))
        except UnknownModel:
            message = f"no adapter is called {name} here"
            return _adapter_refusal(404, "unknown_adapter", message)
        return Response(status_code=204)


async def _health(_: Request) -> Response:
    return Response()


def _tell(
    loop: asyncio.AbstractEventLoop,
    told: asyncio.Queue[tuple[int, Piece | Failure]],
    news: tuple[int, Piece | Failure],
) -> None:
    """From the generation thread to the loop, which may have ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(told.put_nowait, news)


async def _events(
    asked: Asked,
    answer: Answer,
    first: tuple[int, Piece],
    pieces: AsyncIterator[tuple[int, Piece]],
    *,
    usage: bool,
) -> AsyncIterator[bytes]:
    choices = [Choice() for _ in asked.rows]
    try:
        for index in range(len(choices)):
            for opening in answer.opening(index):
                yield opening
        async for index, piece in _chained(first, pieces):
            choices[index].add(piece)
            if (part := answer.part(index, piece)) is not None:
                yield part
        if usage:
            yield answer.usage(choices)
        yield DONE
    except BadRequest as error:  # the status is sent
        yield event(error_body(error.status, error.message))
        yield DONE
    finally:
        asked.cancel()


async def _collected(
    asked: Asked, first: tuple[int, Piece], pieces: AsyncIterator[tuple[int, Piece]]
) -> list[Choice]:
    choices = [Choice() for _ in asked.rows]
    async for index, piece in _chained(first, pieces):
        choices[index].add(piece)
    return choices


async def _chained(
    first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    yield first
    async for each in rest:
        yield each


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of the work. Raises ClientDisconnect, and stops it, when the client goes before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def _refusal(error: BadRequest) -> Response:
    return json_answer(error_body(error.status, error.message, error.param), error.status)


def _adapter_refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
