"""Upstreams that fail, in every way and at every moment: what the client is told, in its own words and in time, and how each is
recorded."""

import asyncio
import json
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.kit.client import RawClient, Response, frame
from tests.kit.gateway import RunningGateway
from tests.kit.ports import black_hole, refused_port
from tests.kit.quiet import at_rest, nothing_went_wrong, total
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, MalformedError, chunk, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "responses": "/v1/responses", "plain": "/events"}
AI = ("openai", "anthropic", "responses")
EVENTS = {
    "openai": [b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\xc5\x81\xc3\xb3d\xc5\xba"}}]}\n\n'] * 3,
    "anthropic": [
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
    ],
    "responses": [
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n',
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n',
    ],
    "plain": [b"id: 1\ndata: one\n\n", b"id: 2\ndata: two\n\n"],
}
TERMINAL = (b"[DONE]", b"message_stop", b"response.completed")
STREAM_HEAD = head(200, [("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked")])
BODY_HEAD = head(200, [("content-type", "application/json"), ("content-length", "20")])
CHUNKED_HEAD = head(200, [("content-type", "application/json"), ("transfer-encoding", "chunked")])
HALF = b'{"half":'

Play = Callable[[Arrived, str], Awaitable[None]]


class Told(NamedTuple):
    """What a client got, and what the record of it says."""

    dialect: str
    response: Response | None
    """None when the connection ended before there was one."""
    broken: str | None
    """Why the body could not be read to its end."""
    record: dict[str, Any]


class Stage:
    def __init__(self, gateway: RunningGateway, hosts: list[str]) -> None:
        self.gateway = gateway
        self.hosts = hosts
        self.plays: dict[str, tuple[Play, str]] = {}
        self.closings: list[str] = []
        self._number = 0

    async def play(self, arrived: Arrived) -> None:
        play, dialect = self.plays[arrived.request.header("x-play") or ""]
        await play(arrived, dialect)
        self.closings.append(await arrived.wait_closed(20) if arrived.connection.is_open else "closed here")

    async def ask(self, dialect: str, play: Play | None, host: str = "up", method: str = "POST") -> Told:
        self._number += 1
        number = f"q-{self._number}"
        if play is not None:
            self.plays[number] = (play, dialect)
        async with await RawClient.open(self.gateway.port) as client:
            await client.send(
                f"{method} {PATHS[dialect]} HTTP/1.1\r\nHost: {host}.test\r\nx-play: {number}\r\nx-request-id: {number}\r\n"
                "Content-Length: 15\r\n\r\n".encode()
                + b'{"stream":true}'
            )
            response, broken = await read(client)
        record = await self.gateway.record(lambda record: record["request_id"] == number)
        return Told(dialect, response, broken, record)

    async def ask_all(self, play: Play | None, host: str = "up", dialects: Any = tuple(PATHS)) -> list[Told]:
        """Every dialect at once; the metric says of all of them what their records say."""
        before = await self.gateway.metrics()
        told = await asyncio.gather(*(self.ask(dialect, play, host) for dialect in dialects))
        after = await at_rest(self.gateway)
        for state in {one.record["state"] for one in told}:
            more = total(after, "streamgate_streams_total", state=state) - total(
                before, "streamgate_streams_total", state=state
            )
            assert more == sum(one.record["state"] == state for one in told)
        return told


async def read(client: RawClient) -> tuple[Response | None, str | None]:
    """The answer as far as it can be read. Nothing may come after a whole one."""
    try:
        async with asyncio.timeout(20):
            while (response := await client.head()).status < 200:
                pass
            frame(response, head_only=False, http10=False)
            pieces: list[bytes] = []
            try:
                if response.framing == "chunked":
                    while piece := await client.chunk():
                        pieces.append(piece)
                    response.trailers = await client.trailers()
                else:
                    length = int(response.header("content-length") or "0")
                    while (left := length - sum(map(len, pieces))) and (piece := await client.reader.read(left)):
                        pieces.append(piece)
                    if left:
                        return response, f"{left} bytes are missing"
            except (asyncio.IncompleteReadError, MalformedError, ConnectionError) as error:
                return response, str(error) or type(error).__name__
            finally:
                response.body = b"".join(pieces)
            return response, None
    except EOFError:
        return None, "no answer"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as held:
        up = await held.enter_async_context(RawUpstream())
        early = await held.enter_async_context(RawUpstream(bodies="lazy"))
        slam = await held.enter_async_context(RawUpstream("slam"))
        deaf = await held.enter_async_context(RawUpstream("deaf", receive_bytes=4096))
        services = {
            "up": {"url": up.url},
            "quick": {"url": up.url, "timeouts": {"first_byte": "400ms", "idle": "400ms"}},
            "short": {"url": up.url, "timeouts": {"first_byte": "10s", "idle": "10s", "total": "600ms"}},
            "early": {"url": early.url},
            "slam": {"url": slam.url},
            "deaf": {"url": deaf.url, "timeouts": {"first_byte": "400ms"}},
            "refused": {"url": f"http://127.0.0.1:{held.enter_context(refused_port())}"},
            "hole": {"url": f"http://127.0.0.1:{held.enter_context(black_hole())}", "timeouts": {"connect": "300ms"}},
            "nobody": {"url": "http://no-such-host.invalid:80"},
            "empty": {"endpoints": [{"url": up.url, "weight": 0}]},
        }
        config = {
            "gate": {"timeouts": {"write": "1s"}},
            "services": [{"id": name, **service} for name, service in services.items()],
            "routes": [
                {"id": name, "match": {"paths": ["/*"], "hosts": [f"{name}.test"]}, "to": {"service": name}}
                for name in services
            ],
        }
        async with RunningGateway(tmp_path_factory.mktemp("faults"), config) as gateway:
            stage = Stage(gateway, list(services))
            up.answer_with(stage.play)
            early.answer_with(stage.play)
            yield stage
            await at_rest(gateway)
        nothing_went_wrong(gateway)


# -- what a client must be told --------------------------------------------------------------------------------------------


def refused(told: Told, status: int, code: str, state: str, fault: str, *, retryable: bool = True) -> None:
    """A whole answer in the client's words with all that belongs to it, and its record."""
    response = told.response
    assert response is not None, told
    assert told.broken is None, told
    assert response.status == status, (told.dialect, response, told.record)
    body = json.loads(response.body)
    if told.dialect == "plain":
        assert response.header("content-type") == "application/problem+json"
        assert body["code"] == code
        assert body["status"] == status
        assert body["retryable"] is retryable
        assert body["request_id"] == told.record["request_id"]
        assert response.header("x-streamgate-service") is None
    else:
        assert response.header("content-type") == "application/json"
        assert response.header("x-streamgate-service") == told.record["service"]
        assert response.header("x-streamgate-attempts") == (str(told.record["attempts"]) if told.record["service"] else None)
        if told.dialect == "anthropic":
            assert body["type"] == "error"
            assert set(body["error"]) >= {"type", "message"}
        else:
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["code"] == code
    assert response.header("cache-control") == "no-store"
    assert response.header("x-request-id") == told.record["request_id"]
    assert (response.header("proxy-status") or "").startswith("streamgate; error=")
    assert "127.0.0.1" not in response.body.decode(), "no address of an upstream in what outsiders read"
    if retryable:
        assert 1 <= int(response.header("retry-after") or "") <= 60
        assert 1000 <= int(response.header("retry-after-ms") or "") <= 60_000
    elif told.dialect != "plain":
        assert response.header("x-should-retry") == "false"
    record = told.record
    assert (record["status"], record["state"], record["fault"]) == (status, state, fault), record
    assert record["bytes_out"] == 0


def broke_in_band(told: Told, sent: bytes, state: str) -> None:
    """All that came, then one error and a proper end; never a terminal event."""
    response = told.response
    assert response is not None, told
    assert (response.status, told.broken) == (200, None), told
    assert response.body.startswith(sent), (response.body, sent)
    assert not any(mark in response.body for mark in TERMINAL)
    rest = response.body[len(sent) :]
    assert rest.startswith(b"\n\n") is not (not sent or sent.endswith(b"\n\n")), (
        "at an event's boundary, and nothing where there is one"
    )
    fields = dict(line.partition(b": ")[::2] for line in rest.strip().splitlines())
    data = json.loads(fields[b"data"])
    assert fields.get(b"event") == (None if told.dialect == "openai" else b"error")
    code = {"openai": lambda: data["error"]["code"], "anthropic": lambda: state}.get(told.dialect, lambda: data["code"])()
    assert code == state
    assert rest.count(b"data:") == 1
    assert (told.record["status"], told.record["state"]) == (200, state)
    assert told.record["bytes_out"] == len(response.body)


def was_cut(told: Told, sent: bytes, state: str) -> None:
    """What came, and an end that nobody can take for a proper one."""
    assert told.response is not None
    assert told.broken is not None, told.response
    assert sent.startswith(told.response.body)
    assert (told.record["status"], told.record["state"]) == (200, state)


# -- before there is a connection ------------------------------------------------------------------------------------------


async def test_refused(stage: Stage) -> None:
    for told in await stage.ask_all(None, "refused"):
        refused(told, 502, "upstream_unreachable", "upstream_error", "upstream_unreachable")
        assert told.record["attempts"] == 1


async def test_a_name_that_is_nobodys(stage: Stage) -> None:
    for told in await stage.ask_all(None, "nobody"):
        refused(told, 502, "upstream_unreachable", "upstream_error", "upstream_unreachable")


async def test_a_connection_that_is_never_made(stage: Stage) -> None:
    for told in await stage.ask_all(None, "hole"):
        refused(told, 504, "upstream_timeout", "upstream_error", "connect_timeout")


async def test_a_service_without_an_endpoint(stage: Stage) -> None:
    for told in await stage.ask_all(None, "empty"):
        refused(told, 503, "no_healthy_upstream", "upstream_error", "no_healthy_upstream")


async def test_accepted_and_closed(stage: Stage) -> None:
    for told in await stage.ask_all(None, "slam"):
        refused(told, 502, "upstream_unreachable", "upstream_error", "upstream_reset")
        assert told.record["attempts"] == 1, "a POST that may have arrived is not sent twice"


# -- before there is a head ------------------------------------------------------------------------------------------------


async def closes(arrived: Arrived, _: str) -> None:
    arrived.close()


async def resets(arrived: Arrived, _: str) -> None:
    arrived.reset()


def says(data: bytes, then: Play | None = None) -> Play:
    """Sends these bytes; then closes, resets, or waits."""

    async def play(arrived: Arrived, dialect: str) -> None:
        await arrived.send(data)
        if then is not None:
            await then(arrived, dialect)

    return play


@pytest.mark.parametrize("host", ["up", "early"], ids=["after the body", "before the body is read"])
@pytest.mark.parametrize("play", [closes, resets, says(b"HTTP/1.1 200 O", closes), says(b"HTTP/1.1 200 OK\r\nA: b", resets)])
async def test_closed_or_reset_before_the_head(stage: Stage, play: Play, host: str) -> None:
    for told in await stage.ask_all(play, host):
        refused(told, 502, "upstream_unreachable", "upstream_error", "upstream_reset")
        assert told.record["attempts"] == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    ],
)
async def test_silent_before_the_head_ends(stage: Stage, sent: bytes) -> None:
    stage.closings.clear()
    for told in await stage.ask_all(says(sent), "quick"):
        refused(told, 504, "upstream_timeout", "upstream_error", "first_byte_timeout")
    await eventually(lambda: len(stage.closings) == len(PATHS))


async def test_a_body_that_is_never_read(stage: Stage) -> None:
    async with await RawClient.open(stage.gateway.port) as client:
        size = 32_000_000
        start = f"POST /events HTTP/1.1\r\nHost: deaf.test\r\nx-request-id: deaf\r\nContent-Length: {size}\r\n\r\n".encode()
        sending = asyncio.create_task(client.send(start + bytes(size)))
        response = await client.answer()
        assert response.status == 504
        assert response.closes, "the rest of the body stands between this answer and another request"
        sending.cancel()
    record = await stage.gateway.record(lambda record: record["request_id"] == "deaf")
    assert (record["state"], record["fault"]) == ("upstream_error", "first_byte_timeout")


MALFORMED = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "an HTTP/2 preface": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "a status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "a space in a name": b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n",
    "a bare CR": b"HTTP/1.1 200 OK\r\nA: b\rX-Injected: c\r\nContent-Length: 0\r\n\r\n",
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "a hexadecimal length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "a length beyond all": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 60) for n in range(2_000)),
    "a field without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    "interim heads without end": b"HTTP/1.1 102 Processing\r\n\r\n" * 8_000,
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_http_is_no_answer(stage: Stage, raw: bytes) -> None:
    for told in await stage.ask_all(says(raw)):
        refused(told, 502, "upstream_malformed", "upstream_error", "upstream_malformed", retryable=False)


# -- after the head, before the first byte ---------------------------------------------------------------------------------

MISSING = {
    "closed": (closes, "upstream_truncated", "upstream_truncated"),
    "reset": (resets, "upstream_error", "upstream_error"),
    "ended": (says(LAST_CHUNK), "upstream_truncated", "upstream_truncated"),
    "a broken chunk": (says(b"zz\r\n"), "upstream_error", "upstream_malformed"),
    "a bare LF": (says(b"3\nabc\n0\n\n"), "upstream_error", "upstream_malformed"),
}


@pytest.mark.parametrize(("then", "state", "fault"), MISSING.values(), ids=MISSING)
async def test_a_stream_that_fails_before_its_first_byte(stage: Stage, then: Play, state: str, fault: str) -> None:
    for told in await stage.ask_all(says(STREAM_HEAD, then), dialects=AI):
        refused(told, 502, fault, state, fault, retryable=fault != "upstream_malformed")


async def test_a_stream_that_is_silent_after_its_head(stage: Stage) -> None:
    stage.closings.clear()
    for told in await stage.ask_all(says(STREAM_HEAD), "quick"):
        if told.dialect == "plain":
            broke_in_band(told, b"", "idle_timeout")
        else:
            refused(told, 504, "upstream_timeout", "upstream_error", "first_byte_timeout")
    await eventually(lambda: len(stage.closings) == len(PATHS))


async def test_total_before_the_first_byte(stage: Stage) -> None:
    for told in await stage.ask_all(says(b""), "short"):
        refused(told, 504, "upstream_timeout", "upstream_error", "total_timeout")


# -- in the middle of a stream ---------------------------------------------------------------------------------------------


def begins(part: bytes | None = None, *, then: Play | None = None, raw: bytes = b"") -> Play:
    """The first events whole, then a part of one, then bytes of the coding itself, then an end."""

    async def play(arrived: Arrived, dialect: str) -> None:
        events = EVENTS[dialect]
        await arrived.send(STREAM_HEAD + b"".join(map(chunk, events)) + (chunk(part) if part else b"") + raw)
        if then is not None:
            await then(arrived, dialect)

    return play


PART = b'data: {"choices":[{"delta":{"content":"\xe6\x9d'
BREAKS = {
    "cut between chunks": (begins(then=closes), b"", "upstream_truncated"),
    "cut in a chunk": (begins(then=closes, raw=b"40\r\n" + PART), PART, "upstream_truncated"),
    "cut in a chunk size": (begins(then=closes, raw=b"4"), b"", "upstream_truncated"),
    "cut in an event": (begins(PART, then=closes), PART, "upstream_truncated"),
    "cut after a line": (begins(b"data: x\n", then=closes), b"data: x\n", "upstream_truncated"),
    "cut in the last chunk": (begins(then=closes, raw=b"0\r\n"), b"", "upstream_truncated"),
    "reset": (begins(then=resets), b"", "upstream_error"),
    "reset in an event": (begins(PART, then=resets), PART, "upstream_error"),
    "no chunk size": (begins(raw=b"zz\r\nabc\r\n"), b"", "upstream_error"),
    "a chunk longer than its size": (begins(raw=b"3\r\nabcdef\r\n"), b"abc", "upstream_error"),
    "rubbish in an event": (begins(PART, raw=b"-1\r\n"), PART, "upstream_error"),
}


@pytest.mark.parametrize(("play", "part", "state"), BREAKS.values(), ids=BREAKS)
async def test_a_stream_that_breaks(stage: Stage, play: Play, part: bytes, state: str) -> None:
    for told in await stage.ask_all(play):
        broke_in_band(told, b"".join(EVENTS[told.dialect]) + part, state)


@pytest.mark.parametrize("part", [b"", PART])
async def test_a_stream_that_ends_cleanly_without_its_terminal_event(stage: Stage, part: bytes) -> None:
    for told in await stage.ask_all(begins(part, raw=LAST_CHUNK)):
        sent = b"".join(EVENTS[told.dialect]) + part
        if told.dialect == "plain":
            assert told.response is not None
            assert (told.response.body, told.record["state"]) == (sent, "complete"), "it has no terminal event to miss"
        else:
            broke_in_band(told, sent, "upstream_truncated")


@pytest.mark.parametrize("part", [b"", PART])
async def test_a_stream_that_stalls(stage: Stage, part: bytes) -> None:
    stage.closings.clear()
    for told in await stage.ask_all(begins(part), "quick"):
        broke_in_band(told, b"".join(EVENTS[told.dialect]) + part, "idle_timeout")
    await eventually(lambda: len(stage.closings) == len(PATHS))


async def test_a_stream_that_takes_too_long(stage: Stage) -> None:
    async def goes_on(arrived: Arrived, dialect: str) -> None:
        await arrived.send(STREAM_HEAD)
        while arrived.connection.is_open:
            await arrived.send(chunk(EVENTS[dialect][0]))
            await asyncio.sleep(0.05)

    for told in await stage.ask_all(goes_on, "short"):
        assert told.response is not None
        sent = told.response.body[: told.response.body.rindex(b"\n\n", 0, -2) + 2]
        broke_in_band(told, sent, "upstream_error")
        assert told.record["fault"] == "total_timeout"


async def test_a_counted_stream_cannot_be_added_to(stage: Stage) -> None:
    start = head(200, [("content-type", "text/event-stream"), ("content-length", "5000")])
    for then, state in ((closes, "upstream_truncated"), (resets, "upstream_error")):
        for told in await stage.ask_all(says(start + EVENTS["openai"][0], then)):
            was_cut(told, EVENTS["openai"][0], state)


async def test_a_compressed_stream_cannot_be_added_to(stage: Stage) -> None:
    start = head(200, [("content-type", "text/event-stream"), ("content-encoding", "gzip"), ("transfer-encoding", "chunked")])
    for told in await stage.ask_all(says(start + chunk(b"\x1f\x8b"), closes)):
        was_cut(told, b"\x1f\x8b", "upstream_truncated")


async def test_the_connection_serves_the_next_request_after_a_stream_broke(stage: Stage) -> None:
    for dialect in PATHS:
        stage.plays["again"] = (begins(PART, then=closes), dialect)
        async with await RawClient.open(stage.gateway.port) as client:
            for _ in range(3):
                response = await client.ask(
                    f"POST {PATHS[dialect]} HTTP/1.1\r\nHost: up.test\r\nx-play: again\r\n\r\n".encode()
                )
                assert response.body.startswith(b"".join(EVENTS[dialect]) + PART + b"\n\n")
                assert not response.closes


# -- answers that are no streams -------------------------------------------------------------------------------------------

HALVES = {
    "counted, closed": (says(BODY_HEAD + HALF, closes), "upstream_truncated"),
    "counted, reset": (says(BODY_HEAD + HALF, resets), "upstream_error"),
    "chunked, closed": (says(CHUNKED_HEAD + chunk(HALF), closes), "upstream_truncated"),
    "chunked, closed in a chunk": (says(CHUNKED_HEAD + b"20\r\n" + HALF, closes), "upstream_truncated"),
    "chunked, reset": (says(CHUNKED_HEAD + chunk(HALF), resets), "upstream_error"),
    "chunked, malformed": (says(CHUNKED_HEAD + chunk(HALF) + b"zz\r\n"), "upstream_error"),
}


@pytest.mark.parametrize(("play", "state"), HALVES.values(), ids=HALVES)
async def test_half_an_answer_is_never_a_whole_one(stage: Stage, play: Play, state: str) -> None:
    for told in await stage.ask_all(play):
        was_cut(told, HALF, state)


@pytest.mark.parametrize("start", [BODY_HEAD, CHUNKED_HEAD])
@pytest.mark.parametrize("half", [b"", HALF])
async def test_an_answer_that_stalls(stage: Stage, start: bytes, half: bytes) -> None:
    stage.closings.clear()
    body = half if start is BODY_HEAD or not half else chunk(half)
    for told in await stage.ask_all(says(start + body), "quick"):
        was_cut(told, half, "idle_timeout")
    await eventually(lambda: len(stage.closings) == len(PATHS))


async def test_half_an_answer_to_http10_is_never_a_whole_one(stage: Stage) -> None:
    """Its body ends with the connection, so that only a reset tells a cut from an end."""
    stage.plays["old"] = (says(CHUNKED_HEAD + chunk(HALF), closes), "plain")
    async with await RawClient.open(stage.gateway.port) as client:
        await client.send(b"GET /x HTTP/1.0\r\nHost: up.test\r\nx-play: old\r\nx-request-id: old\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await client.reader.read()
    record = await stage.gateway.record(lambda record: record["request_id"] == "old")
    assert record["state"] == "upstream_truncated"


async def test_a_stream_to_http10_ends_in_its_error(stage: Stage) -> None:
    for dialect in PATHS:
        stage.plays["old-stream"] = (begins(then=closes), dialect)
        async with await RawClient.open(stage.gateway.port) as client:
            await client.send(
                f"POST {PATHS[dialect]} HTTP/1.0\r\nHost: up.test\r\nConnection: keep-alive\r\nx-play: old-stream\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            said = await client.closed()
        body = said.partition(b"\r\n\r\n")[2]
        sent = b"".join(EVENTS[dialect])
        assert body.startswith(sent)
        assert b"upstream_truncated" in body[len(sent) :] or dialect == "anthropic"
        assert b"error" in body[len(sent) :]


async def test_an_answer_that_ends_with_its_connection_is_whole(stage: Stage) -> None:
    start = head(200, [("content-type", "application/json"), ("connection", "close")])
    for told in await stage.ask_all(says(start + b"{}", closes)):
        assert told.response is not None
        assert (told.response.body, told.broken, told.record["state"]) == (b"{}", None, "complete")


# -- what breaks after the end breaks nothing ------------------------------------------------------------------------------

ENDS = {
    "openai": b"data: [DONE]\n\n",
    "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "responses": b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n',
}


@pytest.mark.parametrize("then", [closes, resets, says(b"zz\r\n"), says(b"")], ids=["closed", "reset", "malformed", "silent"])
async def test_after_the_terminal_event_the_answer_is_whole(stage: Stage, then: Play) -> None:
    async def play(arrived: Arrived, dialect: str) -> None:
        await arrived.send(STREAM_HEAD + b"".join(map(chunk, [*EVENTS[dialect], ENDS[dialect]])))
        await then(arrived, dialect)

    for told in await stage.ask_all(play, "quick", AI):
        assert told.response is not None
        assert told.broken is None
        assert told.response.body == b"".join(EVENTS[told.dialect]) + ENDS[told.dialect]
        assert (told.record["state"], told.record["fault"]) == ("complete", None)


async def test_a_providers_own_error_stands_alone(stage: Stage) -> None:
    theirs = {
        "openai": b'data: {"error":{"message":"overloaded","code":502}}\n\n',
        "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        "responses": b'event: error\ndata: {"type":"error","code":"server_error","message":"x"}\n\n',
    }

    async def play(arrived: Arrived, dialect: str) -> None:
        await arrived.send(STREAM_HEAD + chunk(EVENTS[dialect][0]) + chunk(theirs[dialect]) + LAST_CHUNK)

    for told in await stage.ask_all(play, dialects=AI):
        assert told.response is not None
        assert told.response.body == EVENTS[told.dialect][0] + theirs[told.dialect]
        assert (told.record["state"], told.broken) == ("upstream_error", None)


# -- 1xx -------------------------------------------------------------------------------------------------------------------


async def test_interim_answers_pass_and_save_nobody(stage: Stage) -> None:
    stage.plays["hints"] = (says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), "plain")
    async with await RawClient.open(stage.gateway.port) as client:
        response = await client.ask(b"GET /x HTTP/1.1\r\nHost: quick.test\r\nx-play: hints\r\n\r\n")
        assert [(one.status, one.header("link")) for one in response.interim][:1] == [(103, "</a>")]
        assert response.status == 504


# -- clients that read slowly, or not at all -------------------------------------------------------------------------------


async def _small_reader(port: int) -> RawClient:
    """A client whose receive buffer is small, so that what it does not read waits in the gateway."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return RawClient(*await asyncio.open_connection(sock=sock, limit=1_024))


def floods(size: int) -> Play:
    async def play(arrived: Arrived, _: str) -> None:
        await arrived.send(head(200, [("content-type", "application/octet-stream"), ("content-length", str(size))]))
        try:
            for _piece in range(size // 65_536):
                await arrived.send(bytes(65_536))
        except ConnectionError:
            pass

    return play


async def test_a_reader_that_takes_nothing_is_cut(stage: Stage) -> None:
    stage.closings.clear()
    stage.plays["stalled"] = (floods(64_000_000), "plain")
    async with await _small_reader(stage.gateway.port) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: up.test\r\nx-play: stalled\r\nx-request-id: stalled\r\n\r\n")
        record = await stage.gateway.record(lambda record: record["request_id"] == "stalled")
        assert (record["state"], record["fault"], record["status"]) == ("client_closed", "client_stalled", 200)
        assert record["bytes_out"] < 16_000_000, "its upstream was not read any further"
        await eventually(lambda: stage.closings)


async def test_a_reader_that_takes_little_is_not_cut(stage: Stage) -> None:
    stage.plays["slow"] = (floods(64_000_000), "plain")
    async with await _small_reader(stage.gateway.port) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: up.test\r\nx-play: slow\r\nx-request-id: slow\r\n\r\n")
        for _ in range(16):  # 4 s in all, with a deadline of 1 s
            await client.reader.read(4_096)
            await asyncio.sleep(0.25)
        assert not [record for record in stage.gateway.records() if record["request_id"] == "slow"]
    record = await stage.gateway.record(lambda record: record["request_id"] == "slow")
    assert (record["state"], record["fault"]) == ("client_closed", "client_closed")


@pytest.mark.parametrize("size", [60_000, 400_000])
async def test_a_client_that_asks_on_without_reading_is_not_answered_without_end(stage: Stage, size: int) -> None:
    asked = 0

    async def counts(arrived: Arrived, _: str) -> None:
        nonlocal asked
        asked += 1
        await arrived.send(head(200, [("content-length", str(size))]) + bytes(size))

    stage.plays["greedy"] = (counts, "plain")
    request = b"GET /x HTTP/1.1\r\nHost: up.test\r\nx-play: greedy\r\n\r\n"
    many = 20_000_000 // size
    async with await _small_reader(stage.gateway.port) as client:
        await client.send(request * many)
        await _settled(lambda: asked)
        assert 1 < asked < many // 2, f"{asked} answers of {size} bytes wait for a client that reads none"
        async with await RawClient.open(stage.gateway.port) as other:
            for _ in range(3):
                assert len((await other.ask(request)).body) == size, "the connections that served it are good for others"
        poll = select.poll()
        poll.register(client.writer.get_extra_info("socket"), select.POLLERR)
        await eventually(lambda: poll.poll(0))  # nobody waits for it for longer than gate.timeouts.write


async def _settled(figure: Callable[[], int]) -> None:
    """Until it has stayed the same for a while."""
    last, same = -1, 0
    while same < 30:
        await asyncio.sleep(0.01)
        same = same + 1 if figure() == last else 0
        last = figure()


async def test_a_connection_is_good_for_another_after_a_slow_reader(stage: Stage) -> None:
    """A pooled connection whose last answer was larger than its client's buffer must still be read from."""
    size = 900_000

    async def large(arrived: Arrived, _: str) -> None:
        await arrived.send(head(200, [("content-length", str(size))]) + bytes(size))

    stage.plays["large"] = (large, "plain")
    request = b"GET /x HTTP/1.1\r\nHost: up.test\r\nx-play: large\r\n\r\n"
    for _ in range(5):
        async with await _small_reader(stage.gateway.port) as slow, await RawClient.open(stage.gateway.port) as other:
            await slow.send(request)
            answers = asyncio.create_task(slow.answer())
            for _again in range(5):
                assert len((await other.ask(request)).body) == size
            assert len((await answers).body) == size
