"""Clients that leave, in every window and in every way: the upstream hears of it, everything is given back, the record says 499.
And routes that read on, for as long as they may."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.ports import black_hole
from tests.kit.quiet import Samples, at_rest, nothing_went_wrong, total
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, chunk, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = "/v1/chat/completions"
DRAIN_BYTES = 65_536
DROPS = 500


def fin(client: RawClient) -> None:
    client.writer.close()


def reset(client: RawClient) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def half_close(client: RawClient) -> None:
    client.writer.write_eof()


async def gone(client: RawClient) -> None:
    """Wait until the gateway has let go of this client's connection, as the kernel's table tells."""
    here, there = (client.writer.get_extra_info(name)[1] for name in ("sockname", "peername"))
    theirs = f":{there:04X} ", f":{here:04X} "

    def let_go() -> bool:
        lines = Path("/proc/net/tcp").read_text().splitlines()
        return not any(
            theirs[0] in line and theirs[1] in line and line.index(theirs[0]) < line.index(theirs[1]) for line in lines
        )

    await eventually(let_go)


Leave = Callable[[RawClient], None]
LEAVES = [fin, reset, half_close]


class Stage:
    def __init__(self, gateway: RunningGateway, up: RawUpstream, early: RawUpstream) -> None:
        self.gateway = gateway
        self.up = up
        self.early = early
        self.at_rest: Samples = {}
        self._number = 0

    async def client(self) -> RawClient:
        return await RawClient.open(self.gateway.port)

    async def asks(
        self,
        client: RawClient,
        host: str = "up",
        path: str = CHAT,
        method: str = "POST",
        body: bytes = b"{}",
        length: int | None = None,
    ) -> str:
        """Send a request, return its id."""
        self._number += 1
        number = f"c-{self._number}"
        size = len(body) if length is None else length
        await client.send(
            f"{method} {path} HTTP/1.1\r\nHost: {host}.test\r\nx-request-id: {number}\r\nContent-Length: {size}\r\n\r\n".encode()
            + body
        )
        return number

    async def record(self, number: str) -> dict[str, Any]:
        return await self.gateway.record(lambda record: record["request_id"] == number)

    async def until(self, name: str, value: float, **labels: str) -> None:
        async def reached() -> bool:
            return total(await self.gateway.metrics(), name, **labels) == value

        await eventually(reached, 10)

    async def gave_all_back(self) -> None:
        """Tasks, files and connections are what they were before."""
        base = self.at_rest

        async def back() -> bool:
            now = await at_rest(self.gateway)
            return all(total(now, name) <= total(base, name) for name in ("streamgate_tasks", "process_open_fds"))

        await eventually(back, 10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as held:
        up = await held.enter_async_context(RawUpstream())
        early = await held.enter_async_context(RawUpstream(bodies="lazy"))
        hole = held.enter_context(black_hole())
        alone = {"max_idle": 0}
        services = {
            "up": {"url": up.url, "pool": alone},
            "early": {"url": early.url, "pool": alone},
            "hole": {"url": f"http://127.0.0.1:{hole}", "timeouts": {"connect": "60s"}},
            "again": {"url": up.url, "pool": alone},
            "one": {"url": up.url, "pool": alone, "max_in_flight": 1},
        }
        special: dict[str, dict[str, Any]] = {
            "again": {"retries": {"attempts": 2, "on": ["503"]}},
            "one": {"on_disconnect": "drain"},
        }
        config = {
            "gate": {"disconnect_drain": {"time": "1s", "bytes": "64KiB", "at_once": 2}},
            "services": [{"id": name, **service} for name, service in services.items()],
            "routes": [
                {
                    "id": name,
                    "match": {"paths": ["/*"], "hosts": [f"{name}.test"]},
                    "to": {"service": name},
                    **special.get(name, {}),
                }
                for name in services
            ]
            + [
                {
                    "id": name,
                    "match": {"paths": ["/*"], "hosts": [f"{name}.test"]},
                    "to": {"service": service},
                    "on_disconnect": "drain",
                }
                for name, service in (("drain", "up"), ("drain-early", "early"))
            ],
        }
        async with RunningGateway(tmp_path_factory.mktemp("cancel"), config) as gateway:
            stage = Stage(gateway, up, early)
            for host in ("up", "early"):  # what is made once is there
                client = await stage.client()
                await stage.asks(client, host)
                arrived = await getattr(stage, host).next_request()
                await arrived.send(STREAM + chunk(DONE) + LAST_CHUNK)
                await client.answer()
                client.writer.close()
            stage.at_rest = await at_rest(gateway)
            yield stage
            await at_rest(gateway)
        nothing_went_wrong(gateway)


async def left(stage: Stage, number: str, before: Samples, *, committed: bool = False, observed: int = 1) -> dict[str, Any]:
    """The record says that the client left; the time to the upstream's end was measured; nothing is held."""
    record = await stage.record(number)
    assert (record["state"], record["fault"]) == ("client_closed", "client_closed"), record
    assert record["status"] == (200 if committed else 499)
    await stage.gave_all_back()
    after = await stage.gateway.metrics()
    for name, more in (("streamgate_cancel_seconds_count", observed), ("streamgate_cancel_seconds_bucket", None)):
        if more is not None:
            assert total(after, name) - total(before, name) == more
    state = "streamgate_streams_total"
    assert total(after, state, state="client_closed") - total(before, state, state="client_closed") == 1
    attempts = "streamgate_attempts_total"
    assert total(after, attempts) - total(before, attempts) == record["attempts"]
    assert total(after, attempts, outcome="client_closed") - total(before, attempts, outcome="client_closed") <= 1
    return record


# -- the windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", LEAVES)
async def test_while_connecting(stage: Stage, leave: Leave) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client, "hole")
    await stage.until("streamgate_in_flight", 1, route="hole")
    leave(client)
    record = await left(stage, number, before)
    assert record["attempts"] == 1
    assert record["duration_ms"] < 30_000
    client.writer.close()


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/anything"])
async def test_while_the_head_is_awaited(stage: Stage, leave: Leave, path: str) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client, path=path)
    arrived = await stage.up.next_request()
    leave(client)
    await arrived.wait_closed()
    await left(stage, number, before)
    client.writer.close()


@pytest.mark.parametrize("leave", LEAVES)
async def test_while_the_first_chunk_is_awaited(stage: Stage, leave: Leave) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client)
    arrived = await stage.up.next_request()
    await arrived.send(STREAM)
    await stage.until("streamgate_upstream_connections", 1, service="up", state="active")
    leave(client)
    await arrived.wait_closed()
    await left(stage, number, before)
    client.writer.close()


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("path", [CHAT, "/events"])
async def test_in_the_middle_of_a_stream(stage: Stage, leave: Leave, path: str) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client, path=path)
    arrived = await stage.up.next_request()
    await arrived.send(STREAM + chunk(EVENT))
    assert (await client.head()).status == 200
    assert await client.chunk() == EVENT
    leave(client)
    await arrived.wait_closed()
    record = await left(stage, number, before, committed=True)
    assert record["bytes_out"] == len(EVENT)
    client.writer.close()


@pytest.mark.parametrize("leave", LEAVES)
async def test_in_the_middle_of_an_answer_that_is_no_stream(stage: Stage, leave: Leave) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client)
    arrived = await stage.up.next_request()
    await arrived.send(head(200, [("content-length", "1000")]) + b"half")
    assert (await client.head()).status == 200
    leave(client)
    await arrived.wait_closed()
    await left(stage, number, before, committed=True)
    client.writer.close()


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("host", ["early", "drain-early"])
async def test_in_the_middle_of_an_upload(stage: Stage, leave: Leave, host: str) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client, host, body=bytes(1_000), length=100_000)
    arrived = await stage.early.next_request()
    assert await arrived.read() == bytes(1_000)
    leave(client)
    await arrived.wait_closed()
    record = await left(stage, number, before)
    assert record["bytes_in"] == 1_000
    assert record["drained_bytes"] is None, "half a request has no answer worth reading on for"
    client.writer.close()


@pytest.mark.parametrize("leave", LEAVES)
async def test_while_another_attempt_is_waited_for(stage: Stage, leave: Leave) -> None:
    before = await stage.gateway.metrics()
    asked = len(stage.up.requests)
    client = await stage.client()
    number = await stage.asks(client, "again", method="GET", body=b"")
    arrived = await stage.up.next_request()
    await arrived.send(head(503, [("retry-after", "2"), ("content-length", "0")]))
    await stage.until(
        "streamgate_attempts_total", total(before, "streamgate_attempts_total", service="again") + 1, service="again"
    )
    leave(client)
    record = await left(stage, number, before)
    assert record["attempts"] == 1
    assert len(stage.up.requests) == asked + 1
    client.writer.close()


async def test_while_the_clients_buffer_is_full(stage: Stage) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    client.reader._limit = 1_024  # type: ignore[attr-defined]  # it stops reading
    number = await stage.asks(client, path="/large")
    arrived = await stage.up.next_request()
    sending = asyncio.create_task(arrived.send(head(200, [("content-length", "64000000")]) + bytes(64_000_000)))
    await client.head()
    await asyncio.wait([sending], timeout=0.5)
    assert not sending.done(), "nobody reads: its upstream has to wait"
    reset(client)
    await arrived.wait_closed()
    with pytest.raises(ConnectionError):
        await sending
    await left(stage, number, before, committed=True)


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize(
    ("path", "last"),
    [
        (CHAT, DONE),
        ("/v1/messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        ("/v1/responses", b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'),
    ],
)
async def test_after_the_terminal_event_leaving_is_success(stage: Stage, leave: Leave, path: str, last: bytes) -> None:
    before = await stage.gateway.metrics()
    client = await stage.client()
    number = await stage.asks(client, path=path)
    arrived = await stage.up.next_request()
    await arrived.send(STREAM + chunk(EVENT) + chunk(last))
    await client.head()
    said = b""
    while len(said) < len(EVENT + last):
        said += await client.chunk()
    assert said == EVENT + last
    leave(client)
    await arrived.wait_closed()
    record = await stage.record(number)
    assert (record["state"], record["fault"], record["status"]) == ("complete", None, 200)
    await stage.gave_all_back()
    after = await stage.gateway.metrics()
    assert total(after, "streamgate_cancel_seconds_count") == total(before, "streamgate_cancel_seconds_count")
    client.writer.close()


async def test_a_connection_that_says_nothing_and_leaves_is_no_exchange(stage: Stage) -> None:
    before = len(stage.gateway.records())
    for leave in LEAVES:
        client = await stage.client()
        leave(client)
        client.writer.close()
    await stage.gave_all_back()
    assert len(stage.gateway.records()) == before


# -- many at once ----------------------------------------------------------------------------------------------------------


async def test_five_hundred_clients_that_drop_at_random(stage: Stage) -> None:
    chance = random.Random(13)
    before = await stage.gateway.metrics()
    turn = asyncio.Semaphore(64)
    numbers: list[str] = []

    async def streams(arrived: Arrived) -> None:
        await asyncio.sleep(chance.random() * 0.01)
        await arrived.send(STREAM)
        for _ in range(chance.randrange(1, 30)):
            await arrived.send(chunk(EVENT))
            await asyncio.sleep(chance.random() * 0.004)
        await arrived.send(chunk(DONE) + LAST_CHUNK)

    async def drops() -> None:
        async with turn:
            client = await stage.client()
            host = chance.choice(["up", "up", "early", "drain", "hole"])
            upload = chance.random() < 0.2
            numbers.append(await stage.asks(client, host, body=bytes(100), length=10_000 if upload else None))
            await asyncio.sleep(chance.random() * 0.05)
            leave = chance.choice([fin, reset])
            leave(client)

    stage.up.answer_with(streams)
    stage.early.answer_with(streams)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(DROPS):
                group.create_task(drops())
        await eventually(lambda: set(numbers) <= {record["request_id"] for record in stage.gateway.records()}, 20)
        await stage.gave_all_back()
        await eventually(lambda: stage.up.open_connections == stage.early.open_connections == 0)
    finally:
        stage.up.answer_with(None)
        stage.early.answer_with(None)
    records = [record for record in stage.gateway.records() if record["request_id"] in set(numbers)]
    assert len(records) == DROPS
    assert {record["state"] for record in records} <= {"client_closed", "complete", "upstream_error"}
    broken = [record for record in records if record["state"] == "upstream_error"]
    assert not broken, broken[:3]
    after = await stage.gateway.metrics()
    assert total(after, "streamgate_streams_total") - total(before, "streamgate_streams_total") == DROPS
    tried = total(after, "streamgate_attempts_total") - total(before, "streamgate_attempts_total")
    assert tried == sum(record["attempts"] for record in records)


# -- reading on ------------------------------------------------------------------------------------------------------------


async def begun(stage: Stage, host: str = "drain") -> tuple[RawClient, str, Arrived]:
    """A stream that has begun, on a route that reads on."""
    client = await stage.client()
    number = await stage.asks(client, host)
    arrived = await stage.up.next_request()
    await arrived.send(STREAM + chunk(EVENT))
    await client.head()
    await client.chunk()
    return client, number, arrived


Wait = Callable[[], Awaitable[None]]


@pytest.mark.parametrize("leave", LEAVES)
async def test_the_upstream_is_read_to_its_end(stage: Stage, leave: Leave) -> None:
    client, number, arrived = await begun(stage)
    leave(client)
    await gone(client)
    for _ in range(10):
        await arrived.send(chunk(EVENT))
        await asyncio.sleep(0.005)
    await stage.until("streamgate_in_flight", 1, route="drain")
    assert not [record for record in stage.gateway.records() if record["request_id"] == number]
    await arrived.send(chunk(DONE) + LAST_CHUNK)
    record = await stage.record(number)
    assert (record["state"], record["drained_bytes"]) == ("client_closed", 10 * len(EVENT) + len(DONE))
    assert record["bytes_out"] == len(EVENT)
    await stage.gave_all_back()
    client.writer.close()


async def test_reading_on_from_before_the_first_byte(stage: Stage) -> None:
    client = await stage.client()
    number = await stage.asks(client, "drain")
    arrived = await stage.up.next_request()
    fin(client)
    await gone(client)
    assert arrived.connection.is_open
    await arrived.send(STREAM + chunk(EVENT) + chunk(DONE) + LAST_CHUNK)
    record = await stage.record(number)
    assert (record["state"], record["status"]) == ("client_closed", 499)
    assert record["drained_bytes"] == len(EVENT) + len(DONE)
    assert record["bytes_out"] == 0
    await stage.gave_all_back()


async def test_the_place_is_held_until_then(stage: Stage) -> None:
    client, number, arrived = await begun(stage, "one")
    fin(client)
    await arrived.send(chunk(EVENT))
    async with await stage.client() as other:
        await stage.asks(other, "one")
        response = await other.answer()
        assert response.status == 503
        assert response.header("retry-after") == "1"
        await arrived.send(chunk(DONE) + LAST_CHUNK)
        await stage.record(number)
        again = await stage.asks(other, "one")
        next_one = await stage.up.next_request()
        await next_one.send(STREAM + chunk(DONE) + LAST_CHUNK)
        assert (await other.answer()).body == DONE
        await stage.record(again)


async def test_reading_on_ends_with_its_bytes(stage: Stage) -> None:
    client, number, arrived = await begun(stage)
    fin(client)
    with pytest.raises((ConnectionError, AssertionError)):
        for _ in range(1_000):
            assert arrived.connection.is_open
            await arrived.send(chunk(bytes(1_024)))
            await asyncio.sleep(0.001)
    record = await stage.record(number)
    assert record["state"] == "client_closed"
    assert DRAIN_BYTES < record["drained_bytes"] < DRAIN_BYTES + 262_144
    await arrived.wait_closed()
    await stage.gave_all_back()


async def test_reading_on_ends_with_its_time(stage: Stage) -> None:
    client, number, arrived = await begun(stage)
    fin(client)
    while arrived.connection.is_open:
        try:
            await arrived.send(chunk(b": x\n\n"))
        except ConnectionError:
            break
        await asyncio.sleep(0.02)
    record = await stage.record(number)
    assert record["state"] == "client_closed"
    assert 900 < record["duration_ms"] < 10_000
    assert record["drained_bytes"] > 0
    await stage.gave_all_back()


async def test_one_more_than_are_read_on_is_cancelled_at_once(stage: Stage) -> None:
    opened = [await begun(stage) for _ in range(3)]
    for client, _, arrived in opened[:2]:
        fin(client)
        await gone(client)
        await arrived.send(chunk(EVENT))
    client, number, arrived = opened[2]
    fin(client)
    await arrived.wait_closed()
    assert (await stage.record(number))["drained_bytes"] is None
    for _, number, arrived in opened[:2]:
        assert arrived.connection.is_open
        await arrived.send(chunk(DONE) + LAST_CHUNK)
        assert (await stage.record(number))["drained_bytes"] == len(EVENT) + len(DONE)
    await stage.gave_all_back()
    client, number, arrived = await begun(stage)  # there is room again
    fin(client)
    await gone(client)
    assert arrived.connection.is_open
    await arrived.send(chunk(DONE) + LAST_CHUNK)
    assert (await stage.record(number))["drained_bytes"] == len(DONE)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_fails_while_it_is_read_on(stage: Stage, how: str) -> None:
    for committed in (True, False):
        if committed:
            client, number, arrived = await begun(stage)
        else:
            client = await stage.client()
            number = await stage.asks(client, "drain")
            arrived = await stage.up.next_request()
        fin(client)
        await gone(client)
        getattr(arrived, how)()
        record = await stage.record(number)
        assert (record["state"], record["drained_bytes"]) == ("client_closed", 0)
    await stage.gave_all_back()
