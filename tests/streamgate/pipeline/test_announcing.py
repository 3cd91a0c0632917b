"""A stream opened before its turn: what its client is told, what can still be answered, and how it ends when nothing can."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sessions.queue import Line, Slot, Waiter
from sessions.relay import Framing, Response
from streamgate.errors import QueueExpired
from streamgate.exchange import Dialect, Exchange
from streamgate.pipeline.announcing import Announcing
from streamgate.prompt import Prompt
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.streamgate.pipeline.bench import Client

FRAMING = Framing(head=b"HTTP/1.1 200 OK\r\n\r\n", chunked=False, open=False, stream=True, watched=True, adds=True)


class Listener(Client):
    """A client that may be behind."""

    behind = 0

    def waiting_bytes(self) -> int:
        return self.behind


class Stage:
    """One stream that waits behind the one that is served."""

    def __init__(self, *, every_s: float = 0.005, http10: bool = False) -> None:
        clock = ManualClock()
        self.line = Line(clock.now, capacity=1)
        self.slot: Any = self._enters()
        assert isinstance(self.slot, Slot)
        waiter = self._enters()
        assert isinstance(waiter, Waiter)
        self.client = Listener()
        self.client.loop = asyncio.get_running_loop()
        self.exchange = Exchange(
            method=b"POST", path=b"/v1/chat/completions", query=None, host=b"h", headers=[], http10=http10, started_at=clock.now()
        )  # fmt: skip
        self.exchange.dialect, self.exchange.request_id = Dialect.OPENAI, b"r-1"
        self.exchange.prompt = Prompt("tutor", "chat", stream=True)
        self.one = Announcing(self.exchange, self.client, self.line, waiter, every_s, clock)  # type: ignore[arg-type]  # of a link it wants what this has

    def _enters(self) -> Slot | Waiter:
        return self.line.enter("f", granted=lambda _slot: None, refused=lambda _fault: None)

    async def begun(self) -> tuple[bytes, bytes]:
        """(head, what was told) once it has been told twice."""
        await eventually(lambda: self.client.got.count(b": queue") > 1)
        self.one.stop()
        head, _, told = self.client.got.partition(b"\r\n\r\n")
        return head, told


async def test_nothing_is_told_before_the_first_interval_is_over() -> None:
    stage = Stage(every_s=5.0)
    assert (stage.client.got, stage.one.begun) == (b"", False)
    assert stage.one.break_off(QueueExpired()) is False
    stage.one.stop()
    assert stage.client.got == b""


async def test_then_the_head_of_a_stream_and_its_place_now_and_again() -> None:
    stage = Stage()
    head, told = await stage.begun()
    first, *fields = head.split(b"\r\n")
    assert first == b"HTTP/1.1 200 OK"
    assert {b"Content-Type: text/event-stream; charset=utf-8", b"Cache-Control: no-cache, no-transform", b"X-Accel-Buffering: no",
            b"x-request-id: r-1", b"x-streamgate-model: tutor", b"Transfer-Encoding: chunked"} <= set(fields)  # fmt: skip
    comment = b": queue position=1\n"
    assert told.startswith(b"13\r\n" + comment + b"\r\n" + b"13\r\n" + comment)
    assert (stage.exchange.status, stage.one.begun) == (200, True)


async def test_the_place_is_that_of_the_moment() -> None:
    stage = Stage()
    await eventually(lambda: b"position=1" in stage.client.got)
    stage.slot.release()
    stage.client.got = b""
    await eventually(lambda: b"position=0" in stage.client.got)
    stage.one.stop()


async def test_who_reads_nothing_is_told_nothing_more() -> None:
    stage = Stage()
    stage.client.behind = 1
    await eventually(lambda: stage.one.begun)
    await asyncio.sleep(0.02)
    assert b"queue position" not in stage.client.got
    stage.client.behind = 0
    await eventually(lambda: b"queue position" in stage.client.got)
    stage.one.stop()


async def test_after_the_end_nothing_is_told() -> None:
    stage = Stage()
    await stage.begun()
    said = stage.client.got
    await asyncio.sleep(0.02)
    assert stage.client.got == said


async def test_for_http_10_it_is_bare_and_ends_with_the_connection() -> None:
    stage = Stage(http10=True)
    head, told = await stage.begun()
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    assert told.startswith(b": queue position=1\n: queue")
    framing = stage.one.framing(FRAMING)
    assert (framing.head, framing.chunked, framing.open) == (b"", False, True)
    stage.client.got = b""
    assert stage.one.break_off(QueueExpired())
    assert stage.client.got.startswith(b"data: {") and stage.client.got.endswith(b"\n\n")


async def test_a_stream_goes_on_where_its_head_is_out_already() -> None:
    stage = Stage()
    await stage.begun()
    framing = stage.one.framing(FRAMING)
    assert (framing.head, framing.chunked, framing.open, framing.watched, framing.adds) == (b"", True, False, True, True)


def answered(status: int, kind: bytes) -> Response:
    return Response(status, b"", [(b"Content-Type", kind)], None, chunked=True, has_body=True)


@pytest.mark.parametrize(
    ("response", "takes"),
    [
        (answered(200, b"text/event-stream"), True),
        (answered(200, b"TEXT/Event-Stream; charset=utf-8"), True),
        (answered(200, b"application/json"), False),
        (answered(400, b"text/event-stream"), False),
        (answered(503, b"application/json"), False),
        (Response(200, b"", [], None, chunked=True, has_body=True), False),
    ],
)
async def test_only_a_stream_can_follow_once_it_has_begun(response: Response, *, takes: bool) -> None:
    stage = Stage()
    assert stage.one.takes(response)
    await stage.begun()
    assert stage.one.takes(response) is takes


async def test_what_goes_wrong_is_told_in_the_stream_which_ends_there() -> None:
    stage = Stage()
    await eventually(lambda: stage.one.begun)
    stage.client.got = b""
    assert stage.one.break_off(QueueExpired())
    size, _, rest = stage.client.got.partition(b"\r\n")
    event, end = rest[: int(size, 16)], rest[int(size, 16) :]
    assert event.startswith(b"data: {") and b"queue_timeout" in event and event.endswith(b"\n\n")
    assert end == b"\r\n0\r\n\r\n"
    await asyncio.sleep(0.02)
    assert stage.client.got.endswith(b"0\r\n\r\n")
