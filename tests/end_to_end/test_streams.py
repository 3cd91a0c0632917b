"""Every recorded stream of the corpus through the running gateway: byte for byte, however its upstream cuts it, and recorded as
what it was."""

import asyncio
import base64
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.kit.client import RawClient, Response
from tests.kit.corpora import corpus
from tests.kit.gateway import RunningGateway
from tests.kit.quiet import at_rest, nothing_went_wrong, total
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, chunk, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_A_TIME = 16
SMALL_BYTES = 3_000
REFRAMED = {"anthropic": "/v1/messages", "openai.responses": "/v1/responses", "azure": "/v1/responses"}
OTHERS = ("google", "amazon-bedrock", "cohere")
ERROR_PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
ENDS_IN_AN_ERROR = (
    "test_groq/test_tool_use_failed_error_streaming.yaml#0",
    "test_groq/test_tool_use_failed_error_streaming_with_text.yaml#0",
)


@dataclass(frozen=True)
class Stream:
    """One recorded answer and where it was given."""

    id: str
    method: str
    path: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def state(self) -> str:
        """How it ends: all were recorded whole, two with an error of their provider's in them."""
        return "upstream_error" if self.id.endswith(ENDS_IN_AN_ERROR) else "complete"


def _rows(name: str) -> Iterator[dict[str, Any]]:
    for line in (corpus("llm-streams") / name).read_text().splitlines():
        yield json.loads(line)


def streams() -> list[Stream]:
    found = []
    for file in ("recorded-a.jsonl", "recorded-b.jsonl", "reframed-events.jsonl"):
        for row in _rows(file):
            body = row["body"].encode() if row.get("body") is not None else base64.b64decode(row["body_b64"])
            path = row["path"] or _path_of(row)
            headers = (("content-type", row["content_type"]),)
            found.append(Stream(row["id"], row["method"], path, row["status"], headers, body))
    return found


def _path_of(row: dict[str, Any]) -> str:
    """Where a reframed stream would have been given."""
    if row["api"] in OTHERS or "realtime" in row["id"]:
        return "/v1/other"
    return REFRAMED.get(row["api"], "/v1/completions" if "/completion/" in row["id"] else "/v1/chat/completions")


def errors() -> list[Stream]:
    return [
        Stream(row["id"], "POST", ERROR_PATHS.get(row["provider"], "/v1/other"), row["status"], tuple(row["headers"].items()),
               row["body"].encode())
        for row in _rows("errors.jsonl")
    ]  # fmt: skip


# -- how an upstream may send it -------------------------------------------------------------------------------------------

Pieces = list[bytes]
Sent = tuple[bytes, Pieces, bool]
"""The head, what is written after it piece by piece, and whether the connection is closed then."""


def _head(stream: Stream, *more: tuple[str, str]) -> bytes:
    return head(stream.status, [*stream.headers, *more])


def _chunks(stream: Stream, parts: list[bytes]) -> Sent:
    return _head(stream, ("transfer-encoding", "chunked")), [*(chunk(part) for part in parts if part), LAST_CHUNK], False


def whole(stream: Stream, _: random.Random) -> Sent:
    start, pieces, _ended = _chunks(stream, [stream.body])
    return b"", [start + b"".join(pieces)], False


def counted(stream: Stream, chance: random.Random) -> Sent:
    parts = _random(stream.body, chance, 4)
    return _head(stream, ("content-length", str(len(stream.body)))), parts, False


def until_closed(stream: Stream, chance: random.Random) -> Sent:
    return _head(stream, ("connection", "close")), _random(stream.body, chance, 4), True


def between_cr_and_lf(stream: Stream, _: random.Random) -> Sent:
    return _chunks(stream, re.split(rb"(?<=\r)(?=\n)|(?<=\n)(?=\r)", stream.body))


def inside_characters(stream: Stream, _: random.Random) -> Sent:
    return _chunks(stream, re.split(rb"(?<=[\xc2-\xf4])|(?<=\xf0[\x90-\xbf])", stream.body))


def inside_chunks(stream: Stream, chance: random.Random) -> Sent:
    """The chunk coding itself cut anywhere: in sizes, in line ends, in the last chunk."""
    start, pieces, _ = _chunks(stream, _random(stream.body, chance, 6))
    return b"", _random(start + b"".join(pieces), chance, 30), False


def bytewise(stream: Stream, _: random.Random) -> Sent:
    return _chunks(stream, [stream.body[at : at + 1] for at in range(len(stream.body))])


def coding_bytewise(stream: Stream, chance: random.Random) -> Sent:
    start, pieces, _ = _chunks(stream, _random(stream.body, chance, 3))
    raw = start + b"".join(pieces)
    return b"", [raw[at : at + 1] for at in range(len(raw))], False


def _random(data: bytes, chance: random.Random, cuts: int) -> list[bytes]:
    places = sorted(chance.sample(range(1, len(data)), min(cuts, len(data) - 1))) if len(data) > 1 else []
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


Way = Callable[[Stream, random.Random], Sent]
WAYS: list[Way] = [whole, counted, until_closed, between_cr_and_lf, inside_characters, inside_chunks]
SMALL_WAYS: list[Way] = [bytewise, coding_bytewise]


class Stage:
    """The gateway, and the upstream that plays what the request names."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.plays: dict[str, Sent] = {}
        self.left = asyncio.Semaphore(AT_A_TIME)

    async def play(self, arrived: Arrived) -> None:
        """Answer with the play that the request asks for."""
        start, pieces, closes = self.plays[arrived.request.header("x-play") or ""]
        if start:
            await arrived.send(start)
        for piece in pieces:
            await arrived.send(piece)
            await asyncio.sleep(0)
        if closes:
            arrived.close()

    async def ask(self, number: str, stream: Stream, sent: Sent) -> Response:
        self.plays[number] = sent
        async with self.left, await RawClient.open(self.gateway.port) as client:
            request = f"{stream.method} {stream.path} HTTP/1.1\r\nHost: a\r\nx-request-id: {number}\r\nx-play: {number}\r\n"
            length = "Content-Length: 2\r\n\r\n{}" if stream.method == "POST" else "\r\n"
            await client.send((request + length).encode())
            return await client.answer(timeout=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with RawUpstream() as upstream:
        config = {
            "services": [{"id": "up", "url": upstream.url}],
            "routes": [{"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "up"}}],
        }
        async with RunningGateway(tmp_path_factory.mktemp("streams"), config) as gateway:
            stage = Stage(gateway)
            upstream.answer_with(stage.play)
            yield stage
            await at_rest(gateway)
        nothing_went_wrong(gateway)


async def _replayed(stage: Stage, name: str, found: list[Stream], way: Way) -> None:
    """Each of them passes as it is, and its record says what it was."""
    before = await stage.gateway.metrics()
    chance = random.Random(5)
    numbered = {f"{name}-{number}": stream for number, stream in enumerate(found)}

    async def one(number: str, stream: Stream) -> None:
        response = await stage.ask(number, stream, way(stream, chance))
        assert response.body == stream.body, (stream.id, way.__name__, response.body[-300:], stream.body[-300:])
        assert response.status == stream.status
        for key, value in stream.headers:
            assert response.header(key) == value, stream.id

    async with asyncio.TaskGroup() as group:
        for number, stream in numbered.items():
            group.create_task(one(number, stream))
    after = await at_rest(stage.gateway)
    records: dict[str, dict[str, Any]] = {}

    def all_recorded() -> bool:
        records.update((record["request_id"], record) for record in stage.gateway.records())
        return numbered.keys() <= records.keys()

    await eventually(all_recorded)
    for number, stream in numbered.items():
        record = records[number]
        assert record["state"] == stream.state, (stream.id, record)
        assert record["bytes_out"] == len(stream.body), stream.id
        assert record["attempts"] == 1
    for state in ("complete", "upstream_error"):
        counted = total(after, "streamgate_streams_total", state=state) - total(before, "streamgate_streams_total", state=state)
        assert counted == sum(stream.state == state for stream in found)


@pytest.mark.parametrize("way", WAYS)
async def test_every_recorded_stream_passes_byte_for_byte(stage: Stage, way: Way) -> None:
    found = streams()
    assert len(found) == 338
    await _replayed(stage, way.__name__, found, way)


@pytest.mark.parametrize("way", SMALL_WAYS)
async def test_small_streams_pass_though_every_byte_comes_alone(stage: Stage, way: Way) -> None:
    small = [stream for stream in streams() if len(stream.body) < SMALL_BYTES]
    assert len(small) > 50
    await _replayed(stage, way.__name__, small[:60], way)


@pytest.mark.parametrize("way", [whole, counted, inside_chunks])
async def test_every_recorded_error_answer_passes_as_it_is(stage: Stage, way: Way) -> None:
    found = errors()
    assert len(found) == 42
    await _replayed(stage, f"error-{way.__name__}", found, way)


async def test_what_tells_clients_when_to_come_back_passes(stage: Stage) -> None:
    said = (("content-type", "application/json"), ("retry-after", "17"), ("retry-after-ms", "16500"), ("x-should-retry", "true"),
            ("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "6m0s"))  # fmt: skip
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/other"):
        for status in (429, 500, 529):
            stream = Stream("limited", "POST", path, status, said, b'{"error":{"message":"slow down"}}')
            response = await stage.ask(f"limited-{status}-{path.replace('/', '.')}", stream, counted(stream, random.Random(1)))
            assert (response.status, response.body) == (status, stream.body)
            assert [response.header(key) for key, _ in said] == [value for _, value in said]
            assert response.header("x-streamgate-attempts") == (None if path == "/v1/other" else "1")
