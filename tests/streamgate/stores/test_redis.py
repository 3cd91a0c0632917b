"""Redis answers, or it does not, and nobody waits for it longer than they said."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trustme

from streamgate.stores.redis import MOST_AT_ONCE, Script, Store, StoreAway
from tests.kit.clock import ManualClock
from tests.kit.ports import HOST, black_hole, refused_port
from tests.kit.redis_server import RedisServer
from tests.kit.wait import eventually

SUM = Script("return {KEYS[1], ARGV[1] + ARGV[2]}")
LONG_S = 10.0
SHORT_S = 0.02


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as one:
        yield one


@asynccontextmanager
async def store_at(url: str, *, now: Callable[[], float] = time.monotonic, **how: Any) -> AsyncIterator[Store]:
    how.setdefault("deadline_s", LONG_S)
    store = Store(url, now=now, **how)
    try:
        yield store
    finally:
        await store.close()


async def fail(store: Store, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(StoreAway):
            await store.command("PING")


# --- what it does ------------------------------------------------------------------------------------------------------


async def test_a_script_is_run_by_its_digest_and_sent_when_it_is_not_known(server: RedisServer) -> None:
    async with store_at(server.url) as store:
        assert await store.run(SUM, ("k",), (1, 2)) == [b"k", 3]
        assert await store.run(SUM, ("k",), (1, "3")) == [b"k", 4]
        commands = await server.ask("INFO", "commandstats")
        assert "cmdstat_eval:calls=1," in commands
        assert "cmdstat_evalsha:calls=2," in commands
        await server.ask("SCRIPT", "FLUSH")
        assert await store.run(SUM, ("k",), (2, 2.5)) == [b"k", 4]
        statistics = store.statistics()
        assert (statistics.calls, statistics.failures, statistics.last_error) == (3, 0, None)


async def test_a_script_is_read_from_its_file() -> None:
    assert "redis.call" in Script.file("slots.lua").text


async def test_commands_are_sent_as_they_are(server: RedisServer) -> None:
    async with store_at(server.url.removesuffix("0") + "3") as store:
        assert await store.command("SET", "a", b"\r\n\0", "PX", 60_000) is True
        assert await store.command("GET", "a") == b"\r\n\0"
        assert await store.command("GET", "b") is None
        assert "db3:keys=1" in await server.ask("INFO", "keyspace")


async def test_keys_lie_in_a_part_of_their_own() -> None:
    async with store_at("redis://h") as store, store_at("redis://h", namespace="eu.prod-1") as other:
        assert store.key("answer", "r_1") == "streamgate:answer:r_1"
        assert other.key("answer", "r_1") == "streamgate:eu.prod-1:answer:r_1"


async def test_a_unix_socket_will_do(server: RedisServer) -> None:
    async with store_at(f"unix://{server.socket}") as store:
        assert await store.command("ECHO", "x") == b"x"
        assert store.place == str(server.socket)


async def test_tls_is_spoken_and_the_certificate_looked_at(server: RedisServer, tmp_path: Any) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(HOST, server.port)
        await asyncio.gather(pump(reader, ours), pump(theirs, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(relay, HOST, 0, ssl=context) as front:
        url = f"rediss://{HOST}:{front.sockets[0].getsockname()[1]}/0"
        async with store_at(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}") as store:
            assert await store.command("ECHO", "x") == b"x"
        async with store_at(url) as store:
            await fail(store)


# --- when it is away ---------------------------------------------------------------------------------------------------


async def test_nothing_is_connected_before_the_first_call_and_redis_may_come_later(server: RedisServer) -> None:
    server.kill()
    await server.ended()
    clock = ManualClock()
    async with store_at(server.url, now=clock.now) as store:
        assert store.statistics().calls == 0
        await fail(store)
        assert store.statistics().last_error == "ConnectionError"
        await server.start()
        assert await store.command("ECHO", "x") == b"x"


async def test_a_port_that_refuses_and_one_that_is_silent_are_away() -> None:
    with refused_port() as port:
        async with store_at(f"redis://{HOST}:{port}") as store:
            await fail(store)
            assert (store.statistics().failures, store.statistics().late) == (1, 0)
    with black_hole() as port:
        async with store_at(f"redis://{HOST}:{port}", deadline_s=SHORT_S) as store:
            await fail(store)
            assert (store.statistics().failures, store.statistics().late) == (1, 1)


async def test_a_frozen_redis_costs_the_deadline_three_times_and_then_nothing(server: RedisServer) -> None:
    clock, told = ManualClock(), []
    async with store_at(
        server.url, now=clock.now, deadline_s=SHORT_S, on_change=lambda away, kind: told.append((away, kind))
    ) as store:
        await eventually(lambda: answers(store))
        late = store.statistics().late
        server.freeze()
        await fail(store, 3)
        assert told == [(True, "Deadline")]
        calls = store.statistics().calls
        await fail(store, 50)
        assert store.statistics().calls == calls
        assert (store.statistics().refused, store.statistics().breaker, store.statistics().late) == (50, "open", late + 3)
        clock.advance(1.0)
        await fail(store, 2)  # one that finds out
        assert store.statistics().calls == calls + 1
        server.thaw()
        await eventually(lambda: clock.advance(1.0) and answers(store))
        assert told == [(True, "Deadline"), (False, "")]
        assert store.statistics().breaker == "closed"


async def answers(store: Store) -> bool:
    try:
        return bool(await store.command("ECHO", "x") == b"x")
    except StoreAway:
        return False


async def test_after_a_restart_it_is_found_again(server: RedisServer) -> None:
    clock = ManualClock()
    async with store_at(server.url, now=clock.now) as store:
        assert await asyncio.gather(*(store.command("ECHO", number) for number in range(20))) == [b"%d" % n for n in range(20)]
        server.kill()
        await server.ended()
        await fail(store, 3)
        await server.start()
        clock.advance(1.0)
        assert await asyncio.gather(*(store.run(SUM, ("k",), (1, number)) for number in range(1))) == [[b"k", 1]]
        failures = store.statistics().failures
        assert await asyncio.gather(*(store.command("ECHO", number) for number in range(20))) == [b"%d" % n for n in range(20)]
        assert store.statistics().failures == failures  # no connection of before is used


async def test_what_redis_refuses_is_a_failure_and_no_reason_to_leave_it(server: RedisServer) -> None:
    async with store_at(server.url) as store:
        await server.ask("SET", "text", "x")
        for _ in range(5):
            with pytest.raises(StoreAway, match="^ResponseError$"):
                await store.command("INCR", "text")
        assert (store.statistics().breaker, store.statistics().failures) == ("closed", 5)
        assert await store.command("GET", "text") == b"x"


async def test_too_many_at_once_are_refused(server: RedisServer) -> None:
    async with store_at(server.url) as store:
        await store.command("PING")
        server.freeze()
        asked = [asyncio.ensure_future(store.command("PING")) for _ in range(MOST_AT_ONCE)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(StoreAway, match="too many"):
            await store.command("PING")
        assert store.statistics().refused == 1
        server.thaw()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_the_caller_goes_on_at_the_deadline_and_the_call_goes_on_without_it(server: RedisServer) -> None:
    async with store_at(server.url, deadline_s=SHORT_S) as store:
        await eventually(lambda: answers(store))
        server.freeze()
        much_longer = asyncio.ensure_future(asyncio.sleep(25 * SHORT_S))
        with pytest.raises(StoreAway, match="^Deadline$"):
            await store.command("SET", "a", 1)
        assert not much_longer.done()
        server.thaw()

        async def done() -> bool:
            return bool(await server.ask("GET", "a") == "1")

        await eventually(done)


async def test_a_call_is_made_once() -> None:
    connections = 0

    def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(slam, HOST, 0) as front:
        async with store_at(f"redis://{HOST}:{front.sockets[0].getsockname()[1]}") as store:
            await fail(store)
            assert connections == 1


# --- callers leave -----------------------------------------------------------------------------------------------------


async def test_the_reply_of_a_caller_who_left_is_nobody_elses(server: RedisServer) -> None:
    async with store_at(server.url) as store:
        await store.command("PING")
        server.freeze()
        leaving = asyncio.ensure_future(store.command("ECHO", "theirs"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        asked = asyncio.ensure_future(store.command("ECHO", "ours"))
        server.thaw()
        assert await asked == b"ours"
        await eventually(lambda: store.statistics().calls == 3)
        assert store.statistics().failures == 0


async def test_a_late_reply_is_nobody_elses(server: RedisServer) -> None:
    clock = ManualClock()
    async with store_at(server.url, now=clock.now, deadline_s=SHORT_S) as store:
        await eventually(lambda: answers(store))
        server.freeze()
        for number in range(3):
            with pytest.raises(StoreAway, match="Deadline"):
                await store.command("ECHO", f"late-{number}")
        server.thaw()
        clock.advance(1.0)
        await eventually(lambda: clock.advance(1.0) and answers(store))
        assert await store.command("ECHO", "ours") == b"ours"


async def test_everybody_who_stays_gets_their_own(server: RedisServer) -> None:
    chance = Random(7)
    async with store_at(server.url) as store:
        for _ in range(10):
            asked = {number: asyncio.ensure_future(store.command("ECHO", number)) for number in range(60)}
            for turn in range(4):
                for number in chance.sample(sorted(asked), 8):
                    asked[number].cancel()
                await asyncio.sleep(0 if turn % 2 else 0.0005)
            for number, call in asked.items():
                try:
                    assert await call == b"%d" % number
                except asyncio.CancelledError:
                    pass
        assert store.statistics().failures == 0


async def test_a_caller_who_finds_out_and_leaves_does_not_keep_the_breaker_open(server: RedisServer) -> None:
    clock = ManualClock()
    async with store_at(server.url, now=clock.now) as store:
        server.kill()
        await server.ended()
        await fail(store, 3)
        await server.start()
        clock.advance(1.0)
        finding_out = asyncio.ensure_future(store.command("PING"))
        await asyncio.sleep(0)
        assert store.statistics().breaker == "half_open"
        finding_out.cancel()
        await eventually(lambda: store.statistics().breaker == "closed")


async def test_closing_ends_what_is_under_way_and_leaves_redis(server: RedisServer) -> None:
    async with store_at(server.url) as store:
        await asyncio.gather(*(store.command("PING") for _ in range(3)))
        assert len((await server.ask("CLIENT", "LIST")).splitlines()) == 4
        server.freeze()
        asked = asyncio.ensure_future(store.command("PING"))
        await asyncio.sleep(0.01)
        await store.close()
        with pytest.raises(StoreAway, match="closed"):
            await asked
        with pytest.raises(StoreAway, match="closed"):
            await store.command("PING")
        server.thaw()

        async def alone() -> bool:
            return len((await server.ask("CLIENT", "LIST")).splitlines()) == 1

        await eventually(alone)


# --- what is written in a URL ------------------------------------------------------------------------------------------


async def test_a_password_is_used_and_never_told() -> None:
    async with RedisServer() as server:
        await server.ask("CONFIG", "SET", "requirepass", "s3cr3t!")
        async with store_at(f"redis://:s3cr3t!@{HOST}:{server.port}/0") as store:
            assert await store.command("ECHO", "x") == b"x"
            assert store.place == f"{HOST}:{server.port}"
            assert "s3cr3t" not in f"{store!r} {vars(store)} {store.statistics()}"
        async with store_at(f"redis://:wr0ng-s3cr3t@{HOST}:{server.port}/0") as store:
            with pytest.raises(StoreAway, match="^AuthenticationError$") as told:
                await store.command("PING")
            assert told.value.__cause__ is None
            assert "s3cr3t" not in repr(told.value) + str(store.statistics())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://:s3cr3t@h", "write redis://HOST:PORT/DB"),
        ("redis://:s3cr3t@h:port", "write redis://HOST:PORT/DB"),
        ("redis://:s3cr3t@[h", "write redis://HOST:PORT/DB"),
        ("redis://h/0?password=s3cr3t&protocol=3", r"sets protocol; it may set db, password"),
        ("redis://h/0?password=s3cr3t&socket_timeout=9&x=", "sets socket_timeout, x;"),
        ("redis://h/0?password=s3cr3t&db=first", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as told:
        Store(url, now=time.monotonic)
    assert "s3cr3t" not in str(told.value)
    assert told.value.__suppress_context__ or told.value.__context__ is None


@pytest.mark.parametrize("namespace", ["a b", "a:b", "ä", "x" * 65, "a\n"])
def test_a_namespace_is_a_plain_word(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Store("redis://h", now=time.monotonic, namespace=namespace)
