"""One answer as its script wants it: when it waits, where it breaks, what is counted."""

import asyncio
import json
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from streamgate.demo.dialects import Answer, Events, Stream, event
from streamgate.demo.ledger import Generation, Ledger
from streamgate.demo.script import Script

MALFORMED = '{"id":"scripted","choices":[{"index":0,"del'


class CutError(Exception):
    """Raised in mid-body, at which any ASGI server closes the connection without a proper end."""


class Performance:
    """An ASGI response that follows a script; `stream` is None for an answer that is not streamed."""

    def __init__(self, script: Script, ledger: Ledger, answer: Answer, stream: Stream | None = None) -> None:
        self._script = script
        self._ledger = ledger
        self._answer = answer
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Counted from here on, so that a reader who leaves before the head is seen too."""
        script = self._script
        if script.chunk_bytes is not None:
            send = _in_pieces(send, script.chunk_bytes)
        with self._ledger.generation() as generation:
            if await _left_within(receive, script.head_delay_ms):
                return
            if script.status is not None:
                generation.end("completed")
                await self._error(script.status)(scope, receive, send)
            elif self._stream is not None:
                play = _play(script, self._stream, generation)
                events = EventSourceResponse(play, ping=script.ping_ms / 1000, ping_message_factory=self._stream.ping)
                await events(scope, receive, send)
            else:
                await self._whole(generation, scope, receive, send)

    def _error(self, status: int) -> JSONResponse:
        headers = {} if self._script.retry_after is None else {"retry-after": self._script.retry_after}
        return JSONResponse(self._answer.refusal(status), status, headers)

    async def _whole(self, generation: Generation, scope: Scope, receive: Receive, send: Send) -> None:
        script, length = self._script, self._answer.length()
        if await _left_within(receive, script.first_delay_ms + script.open_delay_ms + script.delay_ms * length):
            return
        generation.token(length)
        if script.error_after is not None:
            generation.end("broken")
            await self._error(500)(scope, receive, send)
            return
        body = json.dumps(self._answer.whole(), ensure_ascii=False).encode()
        if script.malformed_after is not None:
            body = body[:-1]
        await send({
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        })  # fmt: skip
        if script.cut_after is not None or script.stall_after is not None:
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            if script.cut_after is not None:
                generation.end("broken")
                raise CutError
            await _left(receive)
            return
        generation.end("completed")
        await send({"type": "http.response.body", "body": body})


async def _play(script: Script, stream: Stream, generation: Generation) -> AsyncIterator[ServerSentEvent]:
    await asyncio.sleep(script.first_delay_ms / 1000)
    for each in stream.opening():
        yield each
    await asyncio.sleep(script.open_delay_ms / 1000)
    length = stream.length()
    for sent in range(length + 1):
        if sent == script.malformed_after:
            yield event(MALFORMED)
        if (ending := script.ending(sent)) is not None:
            for each in await _broken(ending, stream, generation):
                yield each
            return
        if sent < length:
            if sent:
                await asyncio.sleep(script.delay_ms / 1000)
            generation.token()
            for each in stream.token(sent):
                yield each
    *before, last = stream.closing()
    for each in before:
        yield each
    generation.end("completed")
    yield last


async def _broken(ending: str, stream: Stream, generation: Generation) -> Events:
    """What a broken stream still says. Raises CutError for a cut; a stall lasts until its task is cancelled."""
    if ending == "stall":
        await asyncio.Event().wait()
    generation.end("broken")
    if ending == "cut":
        raise CutError
    return stream.fault() if ending == "error" else []


async def _left(receive: Receive) -> None:
    """Until the reader has closed its connection. The request's body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _left_within(receive: Receive, time_ms: float) -> bool:
    """Wait; true as soon as the reader is gone, false when the time is over."""
    if time_ms <= 0:
        return False
    try:
        async with asyncio.timeout(time_ms / 1000):
            await _left(receive)
    except TimeoutError:
        return False
    return True


def _in_pieces(send: Send, size_bytes: int) -> Send:
    """A `send` that cuts every piece of a body into smaller ones of this size."""

    async def cut(message: Message) -> None:
        body = message.get("body", b"")
        while len(body) > size_bytes:
            await send({**message, "body": body[:size_bytes], "more_body": True})
            body = body[size_bytes:]
        await send({**message, "body": body} if "body" in message else message)

    return cut
