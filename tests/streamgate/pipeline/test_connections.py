"""Connections to upstreams: what they read, when they may serve again, and how few are kept."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from routers.pools import Endpoint
from sessions.relay import Relay, Response
from streamgate.errors import (
    ConnectTimeout,
    Fault,
    Unreachable,
    UpstreamFault,
    UpstreamMalformed,
    UpstreamReset,
    UpstreamTruncated,
)
from streamgate.headers import Headers
from streamgate.pipeline.connections import Connection, KeepAlive, Keeper
from tests.kit.clock import ManualClock
from tests.kit.ports import HOST, black_hole, refused_port
from tests.kit.upstream import RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, answer, chunk, chunked, head

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Heard(Relay):
    """What a connection tells its relay."""

    def __init__(self, *, takes: bool = True) -> None:  # a relay's own making is not what is tried here
        self.takes = takes
        self.interims: list[int] = []
        self.heads: list[Response] = []
        self.body = b""
        self.trailers: Headers | None = None
        self.ends = 0
        self.faults: list[Fault] = []
        self.blocked: list[bool] = []

    def on_interim(self, response: Response) -> None:
        self.interims.append(response.status)

    def on_head(self, response: Response) -> bool:
        self.heads.append(response)
        return self.takes

    def on_body(self, data: bytes) -> None:
        self.body += data

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        self.ends += ended
        self.trailers = trailers or self.trailers

    def on_lost(self, fault: UpstreamFault) -> None:
        self.faults.append(fault)

    def upload_blocked(self, *, blocked: bool) -> None:
        self.blocked.append(blocked)

    @property
    def told(self) -> tuple[Any, ...]:
        """Everything, to be compared."""
        heads = [(one.status, one.reason, tuple(one.headers), one.length, one.chunked, one.has_body) for one in self.heads]
        return self.interims, heads, self.body, self.trailers, self.ends, [type(fault) for fault in self.faults]


class Wire(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = False
        self.reading = True
        self.unread = -1

    def write(self, data: Any) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def fileno(self) -> int:
        """Of the socket that there is not."""
        return self.unread


class Desk:
    """A keeper and one connection of it, fed by hand."""

    def __init__(self, max_idle: int = 64) -> None:
        self.clock = ManualClock()
        self.keeper = Keeper(
            Endpoint(HOST, 9), service="s", tls=None, server_name=None, keep_alive=KeepAlive(max_idle, 55.0), now=self.clock.now
        )
        self.connection = Connection(self.keeper)
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    def asks(self, *, head_only: bool = False, takes: bool = True, sent: bool = True) -> Heard:
        heard = Heard(takes=takes)
        self.connection.serve(heard, head_only=head_only, on_drained=None)
        if sent:
            self.connection.send(GET, last=True)
        return heard

    def reads(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.wire.aborted:
                self.connection.data_received(piece)

    def ends(self, error: Exception | None = None) -> None:
        self.connection.connection_lost(error)

    @property
    def kept(self) -> bool:
        return self.keeper.counts() == (0, 1)


@pytest_asyncio.fixture
async def desk() -> Desk:
    return Desk()


def cuts(data: bytes, places: Iterable[int]) -> list[bytes]:
    marks = sorted(place % (len(data) + 1) for place in places)
    return [part for start, stop in zip([0, *marks], [*marks, len(data)], strict=True) if (part := data[start:stop])]


# -- reading ---------------------------------------------------------------------------------------------------------------

WHOLE = {
    "counted": answer(b"hello", headers=[("a", "b")]),
    "empty": answer(b""),
    "chunked": chunked(b"he", b"llo"),
    "with trailers": head(200, [("transfer-encoding", "chunked")]) + chunk(b"hello") + b"0\r\nDigest: x\r\nT: v\r\n\r\n",
    "with extensions": head(200, [("transfer-encoding", "chunked")]) + b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "after interims": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified, with the length of what it is not": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE)
async def test_an_answer_is_the_same_however_it_is_cut(raw: bytes) -> None:
    def told(pieces: list[bytes]) -> tuple[Any, ...]:
        desk = Desk()
        heard = desk.asks()
        desk.reads(*pieces)
        assert desk.kept
        assert not desk.wire.aborted
        return heard.told

    whole = told([raw])
    assert whole[4] == 1
    assert whole[5] == []
    assert told([raw[at : at + 1] for at in range(len(raw))]) == whole
    for at in range(1, len(raw)):
        assert told([raw[:at], raw[at:]]) == whole


async def test_what_it_says_of_an_answer(desk: Desk) -> None:
    heard = desk.asks()
    desk.reads(b"HTTP/1.1 418 I'm a teapot\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 3\r\n\r\nabc")
    assert heard.heads == [
        Response(
            418, b"I'm a teapot", [(b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"Content-Length", b"3")], 3,
            chunked=False, has_body=True,
        )
    ]  # fmt: skip
    assert heard.body == b"abc"


async def test_one_connection_reads_one_answer_after_another_and_none_into_the_next() -> None:
    desk = Desk()
    for number, raw in enumerate([*WHOLE.values()] * 3):
        assert number == 0 or desk.keeper._idle.pop() is desk.connection
        heard = desk.asks()
        desk.reads(raw)
        alone = Desk()
        heard_alone = alone.asks()
        alone.reads(raw)
        assert heard.told == heard_alone.told
        assert desk.kept
    assert desk.connection.uses == len(WHOLE) * 3


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["at once", "after an interim"])
@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"1.2"])
async def test_an_answer_of_another_version_is_none(before: bytes, version: bytes) -> None:
    raw = before + b"HTTP/%b 200 OK\r\nContent-Length: 5\r\n\r\nhello" % version
    for place in range(len(raw)):
        desk = Desk()
        heard = desk.asks()
        desk.reads(*cuts(raw, [place]))
        assert [type(fault) for fault in heard.faults] == [UpstreamMalformed]
        assert (heard.body, desk.wire.aborted) == (b"", True)


@pytest.mark.parametrize("raw", [answer(b"hello")[:-5], head(200, [("transfer-encoding", "chunked")]), head(200)])
async def test_an_answer_to_head_has_no_body_whatever_it_announces(desk: Desk, raw: bytes) -> None:
    heard = desk.asks(head_only=True)
    desk.reads(raw)
    assert (heard.ends, heard.body) == (1, b"")
    assert heard.heads[0].has_body is False
    if raw != head(200):
        assert desk.kept
        desk.keeper._idle.pop()
        again = desk.asks()
        desk.reads(answer(b"next"))
        assert again.body == b"next"


async def test_a_body_without_length_ends_with_its_connection(desk: Desk) -> None:
    heard = desk.asks()
    desk.reads(head(200) + b"a", b"b")
    assert heard.ends == 0
    desk.ends()
    assert (heard.body, heard.ends, heard.faults) == (b"ab", 1, [])
    assert desk.keeper.counts() == (0, 0)


# -- what breaks -----------------------------------------------------------------------------------------------------------

BREAKS = {
    "before a byte": (b"", UpstreamReset),
    "in the head": (b"HTTP/1.1 200 OK\r\nA: ", UpstreamReset),
    "after an interim": (b"HTTP/1.1 103 Early Hints\r\n\r\n", UpstreamReset),
    "after the head": (head(200, [("content-length", "5")]), UpstreamTruncated),
    "in a counted body": (head(200, [("content-length", "5")]) + b"hell", UpstreamTruncated),
    "in a chunk": (head(200, [("transfer-encoding", "chunked")]) + b"5\r\nhell", UpstreamTruncated),
    "between chunks": (head(200, [("transfer-encoding", "chunked")]) + chunk(b"hello"), UpstreamTruncated),
    "in the trailers": (head(200, [("transfer-encoding", "chunked")]) + b"0\r\nA: b\r\n", UpstreamTruncated),
}


@pytest.mark.parametrize(("raw", "kind"), BREAKS.values(), ids=BREAKS)
async def test_where_it_was_closed_makes_the_difference(desk: Desk, raw: bytes, kind: type[Fault]) -> None:
    heard = desk.asks()
    desk.reads(*([raw] if raw else []))
    desk.ends()
    assert [type(fault) for fault in heard.faults] == [kind]
    assert heard.ends == 0
    assert desk.connection.closed


@pytest.mark.parametrize(("raw", "kind"), BREAKS.values(), ids=BREAKS)
async def test_a_reset_is_no_end(raw: bytes, kind: type[Fault]) -> None:
    for start in (raw, head(200) + b"until closed"):
        desk = Desk()
        heard = desk.asks()
        desk.reads(*([start] if start else []))
        desk.ends(ConnectionResetError())
        assert [type(fault) for fault in heard.faults] == [
            UpstreamReset if kind is UpstreamReset and start is raw else UpstreamFault
        ]
        assert heard.ends == 0


@pytest.mark.parametrize(
    ("said", "kind"), [(answer(b"too large", 413), None), (answer(b"cut")[:-1], UpstreamFault), (b"", UpstreamReset)]
)
async def test_what_was_said_before_a_reset_is_heard(desk: Desk, said: bytes, kind: type[Fault] | None) -> None:
    """An upstream that answers and closes with the request half read: our next write fails, its answer lies there unread."""
    desk.wire.unread, writing = os.pipe()
    os.write(writing, said)
    os.close(writing)
    heard = desk.asks(sent=False)
    desk.ends(BrokenPipeError())
    os.close(desk.wire.unread)
    assert [type(fault) for fault in heard.faults] == ([] if kind is None else [kind])
    assert heard.ends == (kind is None)
    assert desk.keeper.counts() == (0, 0)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=4), st.booleans())
def test_rubbish_never_raises_and_never_makes_an_answer_of_two(rubbish: bytes, places: list[int], after_head: bool) -> None:
    async def fed() -> None:
        desk = Desk()
        heard = desk.asks()
        start = head(200, [("transfer-encoding", "chunked")]) if after_head else b""
        desk.reads(*cuts(start + rubbish, places))
        if not desk.wire.aborted:
            desk.ends()
        assert heard.ends + len(heard.faults) <= 1
        assert len(heard.heads) <= 1

    asyncio.run(fed())


async def test_what_is_malformed_ends_the_connection_and_says_why_to_the_record_alone(desk: Desk) -> None:
    heard = desk.asks()
    desk.reads(b"SSH-2.0-secret\r\n\r\n")
    (fault,) = heard.faults
    assert isinstance(fault, UpstreamMalformed)
    assert fault.note
    assert "secret" not in fault.note + fault.message
    assert desk.wire.aborted


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        head(200, [("transfer-encoding", "gzip, chunked")]),
        head(200, [("transfer-encoding", "identity")]),
    ],
)
async def test_what_was_not_asked_for_is_malformed(desk: Desk, raw: bytes) -> None:
    heard = desk.asks()
    desk.reads(raw)
    assert [type(fault) for fault in heard.faults] == [UpstreamMalformed]
    assert (heard.heads, heard.interims) == ([], [])
    assert desk.wire.aborted


@pytest.mark.parametrize("piece", [b"X-A: b\r\n" * 100, b"y" * 1_000])
async def test_a_head_that_does_not_end_is_not_waited_for(desk: Desk, piece: bytes) -> None:
    heard = desk.asks()
    desk.reads(b"HTTP/1.1 200 OK\r\nZ: ", *[piece] * 200)
    assert [type(fault) for fault in heard.faults] == [UpstreamMalformed]


async def test_trailers_that_do_not_end_are_not_kept(desk: Desk) -> None:
    heard = desk.asks()
    desk.reads(head(200, [("transfer-encoding", "chunked")]) + b"0\r\n", *[b"X-A: %b\r\n" % (b"b" * 1_000)] * 200)
    assert [type(fault) for fault in heard.faults] == [UpstreamMalformed]


async def test_many_answers_are_no_long_one(desk: Desk) -> None:
    """What may be so long is one head, or the trailers of one answer."""
    start = head(200, [("transfer-encoding", "chunked"), ("x", "y" * 3_000)])
    for number in range(40):
        assert number == 0 or desk.keeper._idle.pop() is desk.connection
        heard = desk.asks()
        desk.reads(start[:2_000], start[2_000:], b"0\r\n", b"T: %b\r\n" % (b"z" * 3_000), b"\r\n")
        assert (heard.ends, heard.faults) == (1, [])


async def test_a_long_body_in_many_pieces_is_no_long_head(desk: Desk) -> None:
    heard = desk.asks()
    desk.reads(head(200, [("content-length", "1000000")]), *[bytes(1_000)] * 1_000)
    assert (len(heard.body), heard.ends) == (1_000_000, 1)


# -- when it may serve again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        answer(b"a", headers=[("connection", "close")]),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        answer(b"a") + b"more",
        answer(b"a") + answer(b"b"),
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_what_may_not_be_used_again_is_not(desk: Desk, raw: bytes) -> None:
    heard = desk.asks()
    desk.reads(raw)
    assert heard.ends == 1
    assert desk.wire.aborted
    assert not desk.keeper._idle


async def test_an_answer_before_the_request_was_sent_whole(desk: Desk) -> None:
    heard = desk.asks(sent=False)
    desk.connection.send(GET[:10], last=False)
    desk.reads(answer(b"early", 413))
    assert heard.ends == 1
    assert desk.wire.aborted


async def test_bytes_that_nobody_asked_for_end_it(desk: Desk) -> None:
    desk.asks()
    desk.reads(answer(b"a"))
    assert desk.kept
    desk.reads(answer(b"poison"))
    assert desk.wire.aborted
    desk.ends()
    assert desk.keeper.counts() == (0, 0)


async def test_an_answer_that_is_not_taken_leaves_nothing_behind(desk: Desk) -> None:
    heard = desk.asks(takes=False)
    desk.reads(answer(b"body", 503))
    assert (heard.body, heard.ends) == (b"", 0)
    assert not desk.kept


async def test_an_abandoned_one_says_nothing_more_and_when_it_ended(desk: Desk) -> None:
    heard = desk.asks()
    told: list[float] = []
    desk.connection.on_cancelled = told.append
    desk.reads(head(200, [("content-length", "5")]))
    desk.connection.abandon(12.5)
    assert desk.wire.aborted
    desk.connection.data_received(b"hello")
    desk.ends()
    assert (heard.body, heard.ends, heard.faults) == (b"", 0, [])
    assert told == [12.5]


async def test_it_is_read_from_again_by_whoever_is_next(desk: Desk) -> None:
    desk.asks()
    desk.connection.pause_reading()
    assert not desk.wire.reading
    desk.connection.resume_reading()
    desk.reads(answer(b"a"))
    desk.connection.pause_reading()  # the client's buffer was full with the last of it
    assert desk.wire.reading


async def test_blocked_writing_is_told(desk: Desk) -> None:
    heard = Heard()
    drained: list[bool] = []
    desk.connection.serve(heard, head_only=False, on_drained=lambda: drained.append(True))
    desk.connection.pause_writing()
    assert desk.connection.blocked
    desk.connection.resume_writing()
    assert not desk.connection.blocked
    assert (heard.blocked, drained) == ([True, False], [True])


# -- a keeper, over real sockets -------------------------------------------------------------------------------------------


class Shop:
    """A keeper in front of a real upstream."""

    def __init__(self, upstream: RawUpstream, **options: Any) -> None:
        self.clock = ManualClock()
        self.keeper = keeper_of(upstream.port, self.clock, **options)

    async def used(self) -> Connection:
        """A connection that has served once and was given back."""
        connection = self.keeper.take() or await self.keeper.connect(5)
        heard = Heard()
        connection.serve(heard, head_only=False, on_drained=None)
        connection.send(GET, last=True)
        await eventually(lambda: heard.ends)
        return connection


def keeper_of(
    port: int, clock: ManualClock, *, tls: ssl.SSLContext | None = None, name: str | None = None, **keep: Any
) -> Keeper:
    return Keeper(
        Endpoint(HOST, port, tls=tls is not None),
        service="s",
        tls=tls,
        server_name=name,
        keep_alive=KeepAlive(**keep),
        now=clock.now,
    )


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as upstream:
        upstream.answer_with(lambda _: answer(b"ok"))
        yield upstream


async def test_what_was_given_back_is_taken_again(upstream: RawUpstream) -> None:
    shop = Shop(upstream)
    first = await shop.used()
    assert shop.keeper.counts() == (0, 1)
    assert await shop.used() is first
    assert len(upstream.connections) == 1
    shop.keeper.retire()
    await eventually(lambda: shop.keeper.counts() == (0, 0))


async def test_the_newest_is_taken_first(upstream: RawUpstream) -> None:
    shop = Shop(upstream)
    connections = [await shop.keeper.connect(5) for _ in range(3)]
    for connection in connections:
        shop.clock.advance(1)
        shop.keeper.give_back(connection)
    assert [shop.keeper.take() for _ in range(4)] == [*reversed(connections), None]
    shop.keeper.retire()


async def test_one_that_is_too_old_is_closed_instead(upstream: RawUpstream) -> None:
    shop = Shop(upstream, idle_s=10)
    await shop.used()
    shop.clock.advance(9.9)
    again = shop.keeper.take()
    assert again is not None
    shop.keeper.give_back(again)
    shop.clock.advance(10)
    assert shop.keeper.take() is None
    await upstream.connections[0].wait_closed()
    await eventually(lambda: shop.keeper.counts() == (0, 0))


async def test_the_old_are_closed_though_nobody_asks(upstream: RawUpstream) -> None:
    shop = Shop(upstream, idle_s=0.05)
    await shop.used()
    shop.clock.advance(1)
    await upstream.connections[0].wait_closed()
    await eventually(lambda: shop.keeper.counts() == (0, 0))


async def test_no_more_are_kept_than_may_be(upstream: RawUpstream) -> None:
    shop = Shop(upstream, max_idle=2)
    connections = [await shop.keeper.connect(5) for _ in range(5)]
    assert shop.keeper.counts() == (5, 0)
    for connection in connections:
        shop.keeper.give_back(connection)
    await eventually(lambda: shop.keeper.counts() == (0, 2))
    await eventually(lambda: upstream.open_connections == 2)
    shop.keeper.retire()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_one_that_the_upstream_has_ended_is_not_taken(upstream: RawUpstream, how: str) -> None:
    shop = Shop(upstream)
    await shop.used()
    getattr(upstream.connections[0], how)()
    await eventually(lambda: shop.keeper.take() is None or shop.keeper._idle)
    assert shop.keeper.take() is None


async def test_one_with_something_to_say_is_not_taken(upstream: RawUpstream) -> None:
    shop = Shop(upstream)
    connection = await shop.used()
    assert connection._transport is not None
    connection._transport.pause_reading()  # the loop has not got round to it
    await upstream.connections[0].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await eventually(connection.is_stale)
    assert shop.keeper.take() is None


async def test_retired_it_keeps_none_and_lets_the_busy_finish(upstream: RawUpstream) -> None:
    shop = Shop(upstream)
    busy, idle = await shop.keeper.connect(5), await shop.keeper.connect(5)
    shop.keeper.give_back(idle)
    shop.keeper.retire()
    await eventually(lambda: shop.keeper.counts() == (1, 0))
    heard = Heard()
    busy.serve(heard, head_only=False, on_drained=None)
    busy.send(GET, last=True)
    await eventually(lambda: heard.ends)
    await eventually(lambda: shop.keeper.counts() == (0, 0))


# -- connecting ------------------------------------------------------------------------------------------------------------


async def test_a_refused_connection_is_told_as_such() -> None:
    with refused_port() as port:
        keeper = keeper_of(port, ManualClock())
        with pytest.raises(Unreachable) as caught:
            await keeper.connect(5)
    assert not isinstance(caught.value, ConnectTimeout)
    assert str(port) in caught.value.note
    assert str(port) not in caught.value.message
    assert keeper.counts() == (0, 0)


async def test_connecting_has_a_deadline() -> None:
    with black_hole() as port:
        keeper = keeper_of(port, ManualClock())
        with pytest.raises(ConnectTimeout):
            await keeper.connect(0.05)
        assert keeper.counts() == (0, 0)


async def test_connecting_that_is_cancelled_leaves_nothing(upstream: RawUpstream) -> None:
    with black_hole() as port:
        keeper = keeper_of(port, ManualClock())
        task = asyncio.ensure_future(keeper.connect(None))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert keeper.counts() == (0, 0)
    shop = Shop(upstream)
    for turns in range(12):
        task = asyncio.ensure_future(shop.keeper.connect(5))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        if isinstance(results[0], Connection):
            results[0].abandon()
    await eventually(lambda: shop.keeper.counts() == (0, 0))
    await eventually(lambda: upstream.open_connections == 0)


async def test_a_certificate_that_is_not_believed_is_told_as_such() -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.issue_cert(HOST).configure_cert(serving)
    trusting = ssl.create_default_context()
    ours.configure_trust(trusting)
    async with RawUpstream(tls=serving) as upstream:
        keeper = keeper_of(upstream.port, ManualClock(), tls=trusting)
        with pytest.raises(Unreachable, match="TLS") as caught:
            await keeper.connect(5)
        assert "VERIFY" in caught.value.note
        theirs.configure_trust(trusting)
        with pytest.raises(Unreachable, match="TLS"):
            await keeper_of(upstream.port, ManualClock(), tls=trusting, name="other.example").connect(5)
        connection = await keeper.connect(5)
        heard = Heard()
        upstream.answer_with(lambda _: head(200, [("transfer-encoding", "chunked")]) + chunk(b"safe") + LAST_CHUNK)
        connection.serve(heard, head_only=False, on_drained=None)
        connection.send(GET, last=True)
        await eventually(lambda: heard.ends)
        assert heard.body == b"safe"
        keeper.retire()


async def test_what_does_not_speak_tls_is_not_waited_for_without_end() -> None:
    with socket.create_server((HOST, 0)) as silent:
        keeper = keeper_of(silent.getsockname()[1], ManualClock(), tls=ssl.create_default_context())
        with pytest.raises(ConnectTimeout):
            await keeper.connect(0.1)
        assert keeper.counts() == (0, 0)
