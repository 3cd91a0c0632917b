"""A relay driven by hand: what it tells its client, its upstream and its record, and when."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio

from sessions.relay import Again, Framing, Limits, Relay, Response
from sessions.watch import Watch
from streamgate.errors import (
    ClientClosed,
    ClientStalled,
    Fault,
    FirstByteTimeout,
    IdleTimeout,
    RequestTimeout,
    ShuttingDown,
    TotalTimeout,
    UpstreamFault,
    UpstreamReset,
    UpstreamTruncated,
)
from streamgate.exchange import Dialect, Exchange, State, Terminal
from tests.kit.clock import ManualClock

HEAD = b"HEAD\r\n\r\n"
PATHS = {
    Dialect.OPENAI: b"/v1/chat/completions",
    Dialect.RESPONSES: b"/v1/responses",
    Dialect.ANTHROPIC: b"/v1/messages",
    Dialect.PROBLEM: b"/events",
}
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = Framing(head=HEAD, chunked=True, open=False, stream=True, watched=True, adds=True)
EVENTS = Framing(head=HEAD, chunked=True, open=False, stream=True, watched=False, adds=True)
CHUNKED = Framing(head=HEAD, chunked=True, open=False, stream=False, watched=False, adds=False)
COUNTED = Framing(head=HEAD, chunked=False, open=False, stream=False, watched=False, adds=False)
OK = Response(200, b"OK", [], None, chunked=True, has_body=True)
LIMITS = Limits(first_byte_s=60, idle_s=20, total_s=None, body_s=5, write_s=7)


class FakeUpstream:
    def __init__(self) -> None:
        self.reading = True
        self.abandoned: list[float | None] = []

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abandon(self, gone_at: float | None = None) -> None:
        self.abandoned.append(gone_at)


class FakeClient:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.got = b""
        self.waiting = 0
        self.cuts = 0
        self.was_reset: bool | None = None

    def write(self, data: bytes) -> None:
        self.got += data

    def waiting_bytes(self) -> int:
        return self.waiting

    def cut(self, *, reset: bool) -> None:
        self.cuts += 1
        self.was_reset = reset


class FakeGuide:
    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self.again: Again | None = None
        self.firsts: list[tuple[float, bool]] = []
        self.gaps: list[float] = []

    def judge(self, response: Response) -> None:
        if self.again is not None:
            raise self.again

    def compose(self, response: Response) -> Framing:
        assert self.framing is not None
        return self.framing

    def interim(self, response: Response) -> bytes | None:
        return b"INTERIM %d\r\n\r\n" % response.status

    def trailer(self, trailers: Any) -> bytes:
        return b"".join(b"%b: %b\r\n" % pair for pair in trailers)

    def first(self, after_s: float, *, stream: bool) -> None:
        self.firsts.append((after_s, stream))

    def gap(self, gap_s: float) -> None:
        self.gaps.append(gap_s)


class Bench:
    """One relay with all its neighbours, on a loop whose time is the clock's."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.client = FakeClient()
        self.upstream = FakeUpstream()

    def open(
        self,
        framing: Framing = STREAM,
        dialect: Dialect = Dialect.OPENAI,
        limits: Limits = LIMITS,
        *,
        uploading: bool = False,
        begin: bool = True,
    ) -> Relay:
        self.guide = FakeGuide(framing)
        self.exchange = Exchange(
            method=b"POST", path=PATHS[dialect], query=None, host=b"a", headers=[], http10=False, started_at=self.clock.now()
        )
        self.exchange.dialect = dialect
        self.exchange.request_id = b"r-1"
        self.exchange.move(State.ADMITTED)
        self.exchange.move(State.SENDING)
        self.relay = Relay(self.exchange, self.client, limits, self.guide, Watch(self.clock.now))
        if begin:
            self.done = self.relay.begin(self.upstream, uploading=uploading)
        return self.relay

    def stream(self, *pieces: bytes, head: bool = True) -> None:
        """A head and what follows it, a read each."""
        if head:
            assert self.relay.on_head(OK)
            self.relay.flush()
        for piece in pieces:
            self.relay.on_body(piece)
            self.relay.flush()

    async def passes(self, seconds: float) -> None:
        """Let time pass, and the loop see it."""
        self.clock.advance(seconds)
        for _ in range(3):
            await asyncio.sleep(0)

    def fault(self) -> BaseException | None:
        """What the attempt ended with before commit."""
        assert self.done.done()
        return self.done.exception()

    def body(self) -> bytes:
        """The content that the client has, decoded; it must have ended."""
        pieces, ended = decoded(self.client.got)
        assert ended
        return b"".join(pieces)

    def ended(self, terminal: Terminal, fault: type[Fault] | None = None) -> None:
        """The exchange has ended so, and nothing that comes later changes or adds anything."""
        assert self.exchange.terminal is terminal
        assert type(self.exchange.fault) is (fault or type(None))
        assert self.done.done()
        said, cuts, first = self.client.got, self.client.cuts, self.exchange.fault
        for late in (
            lambda: self.relay.fail(IdleTimeout()),
            lambda: self.relay.on_lost(UpstreamReset()),
            lambda: self.relay.fail(ShuttingDown()),
            lambda: self.relay.client_gone(self.clock.now()),
        ):
            late()
            assert (self.client.got, self.client.cuts) == (said, cuts)
            assert (self.exchange.terminal, self.exchange.fault) == (terminal, first)


def decoded(got: bytes) -> tuple[list[bytes], bool]:
    """The chunks after the head, and whether the last one was there."""
    assert got.startswith(HEAD), got
    assert got.count(HEAD) == 1
    rest, pieces = got[len(HEAD) :], []
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert rest == b"\r\n", rest
            return pieces, True
        pieces.append(rest[:size])
        assert rest[size : size + 2] == b"\r\n"
        rest = rest[size + 2 :]
    return pieces, False


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    loop = asyncio.get_running_loop()
    real, loop.time = loop.time, clock.now  # type: ignore[method-assign]  # the loop's own notion of time, not ours
    try:
        yield Bench(clock)
    finally:
        loop.time = real  # type: ignore[method-assign]


# -- commit ----------------------------------------------------------------------------------------------------------------


async def test_nothing_is_committed_before_a_streams_first_byte(bench: Bench) -> None:
    bench.open()
    bench.stream()
    assert bench.client.got == b""
    assert not bench.exchange.committed
    bench.stream(EVENT, head=False)
    assert bench.exchange.committed
    assert decoded(bench.client.got) == ([EVENT], False)


async def test_any_other_head_goes_ahead_of_its_body(bench: Bench) -> None:
    bench.open(COUNTED)
    bench.stream()
    assert bench.client.got == HEAD
    assert bench.exchange.committed


async def test_head_and_body_of_one_read_are_one_write(bench: Bench) -> None:
    relay = bench.open(CHUNKED)
    relay.on_head(OK)
    relay.on_body(b"a")
    relay.on_body(b"b")
    relay.flush(ended=True)
    assert bench.client.got == HEAD + b"2\r\nab\r\n0\r\n\r\n"
    assert bench.upstream.abandoned == []
    bench.ended(Terminal.COMPLETE)


async def test_an_answer_without_a_body_is_its_head(bench: Bench) -> None:
    relay = bench.open(COUNTED)
    relay.on_head(OK)
    relay.flush(ended=True)
    assert bench.client.got == HEAD
    bench.ended(Terminal.COMPLETE)


async def test_trailers_follow_the_last_chunk(bench: Bench) -> None:
    for framing in (CHUNKED, STREAM):
        bench.client.got = b""
        relay = bench.open(framing)
        bench.stream(EVENT, DONE)
        relay.flush(ended=True, trailers=[(b"T", b"v")])
        assert bench.client.got.endswith(b"\r\n0\r\nT: v\r\n\r\n")
        assert bench.exchange.terminal is Terminal.COMPLETE


async def test_a_complete_stream_passes_as_it_came(bench: Bench) -> None:
    relay = bench.open()
    pieces = [EVENT[:9], EVENT[9:] + EVENT, DONE]
    bench.stream(*pieces)
    relay.flush(ended=True)
    assert decoded(bench.client.got) == (pieces, True)
    assert bench.exchange.bytes_out == sum(map(len, pieces))
    assert bench.exchange.status == 200
    bench.ended(Terminal.COMPLETE)


@pytest.mark.parametrize("last", [DONE, b""])
async def test_a_stream_of_one_read_ends_once(bench: Bench, last: bytes) -> None:
    relay = bench.open()
    relay.on_head(OK)
    relay.on_body(EVENT + last)
    relay.flush(ended=True)
    pieces, ended = decoded(bench.client.got)
    assert ended
    assert pieces[0] == EVENT + last
    assert len(pieces) == (1 if last else 2)


async def test_another_attempt_is_asked_for_before_commit_only(bench: Bench) -> None:
    relay = bench.open()
    bench.guide.again = Again("status_503", 0.1)
    assert relay.on_head(OK) is False
    assert isinstance(bench.fault(), Again)
    assert bench.upstream.abandoned == [None]
    assert bench.exchange.terminal is None
    bench.guide.again = None
    second = FakeUpstream()
    bench.done = relay.begin(second, uploading=False)
    bench.stream(EVENT, DONE)
    relay.flush(ended=True)
    assert bench.body() == EVENT + DONE
    assert second.abandoned == []
    bench.ended(Terminal.COMPLETE)


async def test_an_interim_answer_passes_and_commits_nothing(bench: Bench) -> None:
    relay = bench.open()
    relay.on_interim(Response(103, b"Early Hints", [], None, chunked=False, has_body=False))
    assert bench.client.got == b"INTERIM 103\r\n\r\n"
    assert not bench.exchange.committed
    bench.client.got = b""
    bench.stream(EVENT)
    relay.on_interim(Response(103, b"Early Hints", [], None, chunked=False, has_body=False))
    assert b"INTERIM" not in bench.client.got


async def test_times_of_tokens_are_told(bench: Bench) -> None:
    bench.open()
    await bench.passes(2)
    bench.stream(EVENT)
    await bench.passes(0.5)
    bench.stream(EVENT, head=False)
    assert bench.guide.firsts == [(2, True)]
    assert bench.guide.gaps == [0.5]
    assert bench.exchange.first_byte_at == bench.clock.now() - 0.5


async def test_each_attempt_begins_anew(bench: Bench) -> None:
    """Nothing of an attempt that failed is left: neither its time, nor its stream, nor its upload."""
    relay = bench.open(uploading=True)
    relay.upload_blocked(blocked=True)
    bench.stream()
    relay.fail(UpstreamReset())
    assert isinstance(bench.fault(), UpstreamReset)
    await bench.passes(50)
    bench.done = relay.begin(bench.upstream, uploading=True)
    await bench.passes(4.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert isinstance(bench.fault(), RequestTimeout), "it is the client that is waited for again"
    bench.done = relay.begin(bench.upstream, uploading=False)
    await bench.passes(59.9)
    assert not bench.done.done()
    bench.guide.framing = CHUNKED
    bench.stream(b"no stream this time")
    relay.flush(ended=True)
    assert bench.body() == b"no stream this time"
    bench.ended(Terminal.COMPLETE)


async def test_an_attempt_that_got_a_head_leaves_the_next_its_whole_first_byte(bench: Bench) -> None:
    relay = bench.open(COUNTED)
    assert relay.on_head(OK)
    relay.fail(UpstreamReset())
    bench.done = relay.begin(FakeUpstream(), uploading=False)
    await bench.passes(59.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert isinstance(bench.fault(), FirstByteTimeout)


async def test_the_head_of_an_attempt_that_failed_is_never_sent(bench: Bench) -> None:
    relay = bench.open(COUNTED)
    assert relay.on_head(OK)
    relay.fail(UpstreamReset())
    bench.done = relay.begin(FakeUpstream(), uploading=False)
    relay.on_interim(Response(103, b"Early Hints", [], None, chunked=False, has_body=False))
    relay.on_lost(UpstreamReset())
    assert isinstance(bench.fault(), UpstreamReset)
    assert bench.client.got == b"INTERIM 103\r\n\r\n"
    assert not bench.exchange.committed


async def test_an_interim_answer_to_a_client_that_left_is_not_written(bench: Bench) -> None:
    relay = bench.open()
    assert relay.let_go(bench.clock.now(), 1_000, 30)
    relay.on_interim(Response(103, b"Early Hints", [], None, chunked=False, has_body=False))
    assert bench.client.got == b""


# -- faults before commit --------------------------------------------------------------------------------------------------


async def test_a_fault_before_commit_is_left_to_others(bench: Bench) -> None:
    for fault in (UpstreamReset(), UpstreamTruncated(), ShuttingDown()):
        bench.client.got = b""
        relay = bench.open()
        bench.stream()
        if isinstance(fault, UpstreamFault):
            relay.on_lost(fault)
        else:
            relay.fail(fault)
        assert bench.fault() is fault
        assert (bench.client.got, bench.client.cuts) == (b"", 0)
        assert bench.exchange.terminal is None, "whether this is the end is not the relay's to say"


async def test_an_empty_stream_is_a_truncated_one_and_not_committed(bench: Bench) -> None:
    relay = bench.open()
    relay.on_head(OK)
    relay.flush(ended=True)
    assert isinstance(bench.fault(), UpstreamTruncated)
    assert bench.client.got == b""


async def test_a_part_that_was_not_committed_is_not_sent_with_the_next_attempt(bench: Bench) -> None:
    relay = bench.open()
    relay.on_head(OK)
    relay.on_body(b"of the first")
    relay.fail(UpstreamReset())
    assert isinstance(bench.fault(), UpstreamReset)
    bench.done = relay.begin(FakeUpstream(), uploading=False)
    bench.stream(EVENT)
    assert decoded(bench.client.got) == ([EVENT], False)


async def test_what_came_with_the_break_is_delivered_before_it(bench: Bench) -> None:
    """One read may bring the last good bytes and the first bad ones."""
    relay = bench.open()
    relay.on_head(OK)
    relay.on_body(EVENT)
    relay.on_lost(UpstreamFault())
    body = bench.body()
    assert body.startswith(EVENT)
    assert len(error_events(body)) == 1


# -- faults after commit ---------------------------------------------------------------------------------------------------


def error_events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) of every event that reports an error."""
    found = []
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        fields = dict(line.partition(b": ")[::2] for line in event.splitlines())
        data = fields.get(b"data", b"")
        if data.startswith(b"{"):
            try:
                told = json.loads(data)
            except ValueError:
                continue
            if fields.get(b"event") == b"error" or "error" in told:
                found.append((fields.get(b"event", b"").decode(), told))
    return found


FAULTS = [
    (UpstreamTruncated(), Terminal.UPSTREAM_TRUNCATED),
    (UpstreamFault(), Terminal.UPSTREAM_ERROR),
    (IdleTimeout(), Terminal.IDLE_TIMEOUT),
    (ShuttingDown(), Terminal.SHUTDOWN),
]


@pytest.mark.parametrize(("fault", "terminal"), FAULTS)
@pytest.mark.parametrize("dialect", list(Dialect))
async def test_one_error_in_the_clients_words_and_no_terminal_event(
    bench: Bench, dialect: Dialect, fault: Fault, terminal: Terminal
) -> None:
    relay = bench.open(EVENTS if dialect is Dialect.PROBLEM else STREAM, dialect)
    bench.stream(EVENT)
    relay.fail(fault)
    body = bench.body()
    assert body.startswith(EVENT)
    ((event, told),) = error_events(body)
    assert body.endswith(b"\n\n")
    assert not any(mark in body for mark in (b"[DONE]", b"message_stop", b"response.completed"))
    if dialect is Dialect.OPENAI:
        assert event == ""
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["code"] == str(terminal)
    elif dialect is Dialect.ANTHROPIC:
        assert (event, told["type"]) == ("error", "error")
        assert set(told["error"]) >= {"type", "message"}
    elif dialect is Dialect.RESPONSES:
        assert (event, told["type"], told["code"]) == ("error", "error", str(terminal))
    else:
        assert (event, told["code"], told["request_id"]) == ("error", str(terminal), "r-1")
    assert bench.upstream.abandoned
    assert bench.exchange.bytes_out == len(body)
    bench.ended(terminal, type(fault))


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.PROBLEM])
@pytest.mark.parametrize("size", [1, 2, 3, 9, len(EVENT) - 1])
@pytest.mark.parametrize("singly", [False, True])
async def test_an_error_never_continues_an_event_that_was_cut(
    bench: Bench, dialect: Dialect, size: int, *, singly: bool
) -> None:
    relay = bench.open(EVENTS if dialect is Dialect.PROBLEM else STREAM, dialect)
    part = EVENT[:size]
    bench.stream(EVENT, *([part[at : at + 1] for at in range(size)] if singly else [part]))
    relay.on_lost(UpstreamTruncated())
    body = bench.body()
    assert body.startswith(EVENT + part + b"\n\n")
    assert len(error_events(body)) == 1


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.PROBLEM])
async def test_at_a_boundary_no_empty_line_is_added(bench: Bench, dialect: Dialect) -> None:
    relay = bench.open(EVENTS if dialect is Dialect.PROBLEM else STREAM, dialect)
    bench.stream(*(EVENT[at : at + 1] for at in range(len(EVENT))))
    relay.on_lost(UpstreamTruncated())
    assert b"\n\n\n" not in bench.body(), "openai-python makes an event of an empty line once there were ids"


async def test_the_providers_own_error_stands_alone(bench: Bench) -> None:
    theirs = b'data: {"error":{"message":"overloaded"}}\n\n'
    for cut in (False, True):
        bench.client = FakeClient()
        relay = bench.open()
        bench.stream(EVENT, theirs)
        if cut:
            relay.on_lost(UpstreamTruncated())
        else:
            relay.flush(ended=True)
        assert bench.body() == EVENT + theirs
        assert bench.exchange.terminal is (Terminal.UPSTREAM_TRUNCATED if cut else Terminal.UPSTREAM_ERROR)


async def test_a_stream_that_ends_cleanly_without_its_terminal_event_is_truncated(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    relay.flush(ended=True)
    assert len(error_events(bench.body())) == 1
    bench.ended(Terminal.UPSTREAM_TRUNCATED, UpstreamTruncated)


async def test_a_stream_without_a_dialect_ends_as_its_framing_says(bench: Bench) -> None:
    relay = bench.open(EVENTS, Dialect.PROBLEM)
    bench.stream(b"data: half an eve")
    relay.flush(ended=True)
    assert bench.body() == b"data: half an eve"
    bench.ended(Terminal.COMPLETE)


@pytest.mark.parametrize("framing", [CHUNKED, COUNTED])
async def test_where_nothing_can_be_added_the_connection_is_cut(bench: Bench, framing: Framing) -> None:
    relay = bench.open(framing)
    bench.stream(b"half")
    said = bench.client.got
    relay.on_lost(UpstreamTruncated())
    assert bench.client.got == said, "no last chunk: it must not look whole"
    assert (bench.client.cuts, bench.client.was_reset) == (1, False)
    bench.ended(Terminal.UPSTREAM_TRUNCATED, UpstreamTruncated)


async def test_an_old_client_is_reset_for_it_takes_any_other_end_for_a_proper_one(bench: Bench) -> None:
    relay = bench.open(COUNTED)
    bench.exchange.http10 = True
    bench.stream(b"half")
    relay.on_lost(UpstreamTruncated())
    assert (bench.client.cuts, bench.client.was_reset) == (1, True)


async def test_a_counted_stream_is_cut_too(bench: Bench) -> None:
    relay = bench.open(Framing(head=HEAD, chunked=False, open=False, stream=True, watched=True, adds=True))
    bench.stream(EVENT)
    relay.on_lost(UpstreamTruncated())
    assert bench.client.got == HEAD + EVENT
    assert bench.client.cuts == 1


async def test_an_open_stream_gets_its_error_as_it_is(bench: Bench) -> None:
    relay = bench.open(Framing(head=HEAD, chunked=False, open=True, stream=True, watched=True, adds=True))
    bench.stream(EVENT)
    relay.on_lost(UpstreamTruncated())
    assert bench.client.got.startswith(HEAD + EVENT + b'data: {"error":')
    assert bench.client.cuts == 0


@pytest.mark.parametrize("fault", [UpstreamTruncated(), UpstreamFault()])
async def test_what_breaks_after_the_terminal_event_breaks_nothing(bench: Bench, fault: UpstreamFault) -> None:
    relay = bench.open()
    bench.stream(EVENT, DONE)
    relay.on_lost(fault)
    assert bench.body() == EVENT + DONE
    bench.ended(Terminal.COMPLETE)


async def test_an_upstream_that_does_not_end_after_the_terminal_event_is_let_go(bench: Bench) -> None:
    bench.open()
    bench.stream(EVENT, DONE)
    await bench.passes(LIMITS.idle_s or 0)
    assert bench.body() == EVENT + DONE
    assert bench.upstream.abandoned == [None]
    bench.ended(Terminal.COMPLETE)


async def test_a_length_that_promised_more_is_no_whole_answer_even_after_the_terminal_event(bench: Bench) -> None:
    relay = bench.open(Framing(head=HEAD, chunked=False, open=False, stream=True, watched=True, adds=True))
    bench.stream(EVENT, DONE)
    relay.on_lost(UpstreamTruncated())
    assert bench.client.cuts == 1, "the client would wait for the rest, or take the next answer for it"
    bench.ended(Terminal.COMPLETE)


async def test_an_open_stream_ends_with_its_connection_after_the_terminal_event(bench: Bench) -> None:
    relay = bench.open(Framing(head=HEAD, chunked=False, open=True, stream=True, watched=True, adds=True))
    bench.stream(EVENT, DONE)
    relay.on_lost(UpstreamTruncated())
    assert bench.client.got == HEAD + EVENT + DONE
    assert bench.client.cuts == 0
    bench.ended(Terminal.COMPLETE)


async def test_a_client_that_does_not_take_the_terminal_event_has_no_whole_answer(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT, DONE)
    bench.client.waiting = 70_000
    relay.client_paused()
    await bench.passes(LIMITS.write_s)
    assert bench.client.cuts == 1
    bench.ended(Terminal.CLIENT_CLOSED, ClientStalled)


# -- the watchdog ----------------------------------------------------------------------------------------------------------


async def test_first_byte_is_due_from_the_end_of_the_request(bench: Bench) -> None:
    bench.open()
    await bench.passes(59.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert isinstance(bench.fault(), FirstByteTimeout)
    assert bench.upstream.abandoned == [None]


async def test_a_head_is_not_yet_the_first_byte_of_a_stream(bench: Bench) -> None:
    bench.open()
    await bench.passes(50)
    bench.stream()
    await bench.passes(9.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert isinstance(bench.fault(), FirstByteTimeout)


async def test_interim_answers_do_not_put_off_the_first_byte(bench: Bench) -> None:
    relay = bench.open()
    for _ in range(12):
        await bench.passes(4.9)
        relay.on_interim(Response(102, b"Processing", [], None, chunked=False, has_body=False))
    await bench.passes(1.3)
    assert isinstance(bench.fault(), FirstByteTimeout)


async def test_silence_after_any_other_head_is_idleness(bench: Bench) -> None:
    bench.open(COUNTED)
    await bench.passes(15)
    bench.stream()
    await bench.passes(19.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert bench.client.cuts == 1
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


async def test_every_byte_puts_idleness_off(bench: Bench) -> None:
    bench.open()
    bench.stream()
    for _ in range(5):
        await bench.passes(19.9)
        bench.stream(EVENT, head=False)
    await bench.passes(19.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert len(error_events(bench.body())) == 1
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


async def test_idleness_is_watched_though_the_first_byte_had_more_time(bench: Bench) -> None:
    bench.open(limits=Limits(first_byte_s=1000, idle_s=2))
    bench.stream(EVENT)
    await bench.passes(2)
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


async def test_the_nearest_deadline_is_the_one(bench: Bench) -> None:
    bench.open(limits=Limits(first_byte_s=60, idle_s=2, total_s=30))
    bench.stream(EVENT)
    await bench.passes(2)
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


async def test_idleness_is_watched_again_when_the_client_goes_on(bench: Bench) -> None:
    relay = bench.open(limits=Limits(idle_s=2, write_s=1000))
    bench.stream(EVENT)
    relay.client_paused()
    await bench.passes(100)
    relay.client_resumed()
    await bench.passes(1.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


async def test_total_counts_from_the_beginning_whatever_comes(bench: Bench) -> None:
    bench.open(limits=Limits(first_byte_s=60, idle_s=20, total_s=30))
    bench.stream()
    for _ in range(3):
        await bench.passes(9.9)
        bench.stream(EVENT, head=False)
    assert not bench.done.done()
    await bench.passes(0.4)
    bench.ended(Terminal.UPSTREAM_ERROR, TotalTimeout)


async def test_total_before_commit(bench: Bench) -> None:
    bench.open(limits=Limits(first_byte_s=60, total_s=30))
    await bench.passes(30)
    assert isinstance(bench.fault(), TotalTimeout)


async def test_what_is_off_never_comes(bench: Bench) -> None:
    bench.open(limits=Limits(first_byte_s=None, idle_s=None))
    await bench.passes(100_000)
    bench.stream(EVENT)
    await bench.passes(100_000)
    await bench.passes(100_000)
    assert not bench.done.done()


async def test_a_body_that_does_not_come_is_the_clients_fault(bench: Bench) -> None:
    relay = bench.open(uploading=True)
    for _ in range(4):
        await bench.passes(4.9)
        relay.uploaded(finished=False)
    await bench.passes(5)
    fault = bench.fault()
    assert isinstance(fault, RequestTimeout)
    assert fault.close


async def test_after_the_upload_the_upstreams_time_begins(bench: Bench) -> None:
    relay = bench.open(uploading=True, limits=Limits(first_byte_s=2, body_s=30))
    await bench.passes(10)
    relay.uploaded(finished=True)
    await bench.passes(1.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert isinstance(bench.fault(), FirstByteTimeout)


async def test_a_body_that_is_not_taken_is_the_upstreams_fault(bench: Bench) -> None:
    relay = bench.open(uploading=True, limits=Limits(first_byte_s=2, body_s=30))
    await bench.passes(10)
    relay.upload_blocked(blocked=True)
    await bench.passes(1.9)
    relay.upload_blocked(blocked=False)
    await bench.passes(10)
    assert not bench.done.done()
    relay.upload_blocked(blocked=True)
    await bench.passes(2)
    assert isinstance(bench.fault(), FirstByteTimeout)


async def test_a_body_may_take_its_time_once_the_answer_has_begun(bench: Bench) -> None:
    bench.open(CHUNKED, uploading=True)
    bench.stream(b"early")
    await bench.passes(19.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


# -- the client ------------------------------------------------------------------------------------------------------------


async def test_a_full_client_stops_the_upstream_and_its_clock(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    await bench.passes(15)
    bench.client.waiting = 70_000
    relay.client_paused()
    assert not bench.upstream.reading
    for _ in range(10):
        await bench.passes(6)
        bench.client.waiting -= 1
    assert not bench.done.done(), "slow is not stalled, and the upstream's silence is ours"
    relay.client_resumed()
    assert bench.upstream.reading
    await bench.passes(19.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    bench.ended(Terminal.IDLE_TIMEOUT, IdleTimeout)


async def test_a_client_that_takes_nothing_is_cut(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    said = bench.client.got
    bench.client.waiting = 70_000
    relay.client_paused()
    await bench.passes(6.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    assert (bench.client.cuts, bench.client.was_reset) == (1, True)
    assert bench.client.got == said, "nothing more is written to somebody who does not read"
    assert bench.upstream.abandoned
    bench.ended(Terminal.CLIENT_CLOSED, ClientStalled)


async def test_a_client_that_stalls_after_moving_is_cut_in_time(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    bench.client.waiting = 70_000
    relay.client_paused()
    await bench.passes(6)
    bench.client.waiting = 60_000
    await bench.passes(1)
    await bench.passes(6.9)
    assert not bench.done.done()
    await bench.passes(0.1)
    bench.ended(Terminal.CLIENT_CLOSED, ClientStalled)


async def test_a_client_that_is_full_already_holds_the_next_attempt(bench: Bench) -> None:
    relay = bench.open(begin=False)
    relay.client_paused()
    bench.done = relay.begin(bench.upstream, uploading=False)
    assert not bench.upstream.reading
    relay.client_resumed()
    assert bench.upstream.reading


@pytest.mark.parametrize("sent", [(), (EVENT,)])
async def test_when_the_client_goes_its_upstream_goes_at_once(bench: Bench, sent: Iterable[bytes]) -> None:
    relay = bench.open()
    bench.stream(*sent)
    said = bench.client.got
    relay.client_gone(1234.5)
    assert bench.upstream.abandoned == [1234.5]
    assert bench.client.got == said
    assert bench.exchange.gone_at == 1234.5
    bench.ended(Terminal.CLIENT_CLOSED, ClientClosed)


async def test_leaving_after_the_terminal_event_is_success(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT, DONE)
    relay.client_gone(bench.clock.now())
    assert bench.upstream.abandoned == [None], "it is no cancel"
    bench.ended(Terminal.COMPLETE)


async def test_going_before_anything_was_asked(bench: Bench) -> None:
    relay = bench.open(begin=False)
    relay.client_gone(bench.clock.now())
    bench.done = relay.done
    assert bench.upstream.abandoned == []
    bench.ended(Terminal.CLIENT_CLOSED, ClientClosed)


# -- reading on ------------------------------------------------------------------------------------------------------------


async def test_what_is_read_on_is_written_nowhere(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    said, out = bench.client.got, bench.exchange.bytes_out
    first = bench.done
    assert relay.let_go(bench.clock.now(), 1_000, 30)
    first.cancel()  # as its task, which ends with the client's connection, does
    assert not relay.done.done()
    bench.stream(EVENT, DONE, head=False)
    relay.flush(ended=True)
    await relay.done
    assert bench.client.got == said
    assert bench.client.cuts == 0
    assert relay.drained_bytes == len(EVENT + DONE)
    assert bench.exchange.bytes_out == out
    assert bench.exchange.terminal is Terminal.CLIENT_CLOSED


async def test_reading_on_before_the_first_byte(bench: Bench) -> None:
    relay = bench.open()
    await bench.passes(15)
    assert relay.let_go(bench.clock.now(), 1_000, 30)
    assert relay.on_head(OK)
    await bench.passes(19.9)
    assert not relay.done.done()
    bench.guide.framing = None  # type: ignore[assignment]  # nobody is there to compose a head for
    bench.stream(EVENT, DONE)
    relay.flush(ended=True)
    await relay.done
    assert bench.client.got == b""
    assert relay.drained_bytes == len(EVENT + DONE)


@pytest.mark.parametrize("framing", [STREAM, CHUNKED])
async def test_reading_on_ends_with_its_bytes(bench: Bench, framing: Framing) -> None:
    relay = bench.open(framing)
    bench.stream(EVENT)
    said = bench.client.got
    assert relay.let_go(bench.clock.now(), len(EVENT), 30)
    bench.stream(EVENT, head=False)
    assert not bench.upstream.abandoned
    bench.stream(b"x", head=False)
    assert bench.upstream.abandoned
    assert relay.done.done()
    assert (bench.client.got, bench.client.cuts) == (said, 0)
    assert bench.exchange.terminal is Terminal.CLIENT_CLOSED


async def test_reading_on_after_the_terminal_event_has_nobody_to_cut(bench: Bench) -> None:
    relay = bench.open(Framing(head=HEAD, chunked=False, open=False, stream=True, watched=True, adds=True))
    bench.stream(EVENT)
    assert relay.let_go(bench.clock.now(), 1_000, 30)
    bench.stream(DONE, head=False)
    relay.on_lost(UpstreamTruncated())
    assert relay.done.done()
    assert bench.client.cuts == 0
    assert bench.exchange.terminal is Terminal.CLIENT_CLOSED


async def test_reading_on_ends_with_its_time(bench: Bench) -> None:
    relay = bench.open()
    await bench.passes(5)
    bench.stream(EVENT)
    assert relay.let_go(bench.clock.now(), 1_000, 10)
    for _ in range(9):
        await bench.passes(1)
        bench.stream(b": x\n\n", head=False)
    assert not relay.done.done()
    await bench.passes(1)
    assert relay.done.done()
    assert bench.upstream.abandoned
    assert bench.exchange.terminal is Terminal.CLIENT_CLOSED


async def test_reading_on_does_not_outlast_the_routes_own_total(bench: Bench) -> None:
    relay = bench.open(limits=Limits(total_s=7, idle_s=100))
    await bench.passes(5)
    bench.stream(EVENT)
    assert relay.let_go(bench.clock.now(), 1_000, 30)
    await bench.passes(2)
    assert relay.done.done()


async def test_a_full_client_that_leaves_does_not_hold_what_is_read_on(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    relay.client_paused()
    assert relay.let_go(bench.clock.now(), 1_000, 30)
    assert bench.upstream.reading
    await bench.passes(LIMITS.write_s)
    assert not relay.done.done()


async def test_there_is_nothing_to_read_on_for_before_the_request_is_sent_or_after_the_end(bench: Bench) -> None:
    assert not bench.open(begin=False).let_go(bench.clock.now(), 1_000, 30)
    assert not bench.open(uploading=True).let_go(bench.clock.now(), 1_000, 30)
    relay = bench.open()
    bench.stream(EVENT, DONE)
    relay.flush(ended=True)
    assert not relay.let_go(bench.clock.now(), 1_000, 30)
    assert bench.exchange.terminal is Terminal.COMPLETE


# -- the end ---------------------------------------------------------------------------------------------------------------


async def test_parting_ends_what_somebody_cut_short(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT)
    bench.done.cancel()
    relay.part()
    assert bench.upstream.abandoned == [None]
    await bench.passes(1000)
    assert bench.client.cuts == 0


async def test_parting_leaves_a_connection_alone_that_may_serve_another(bench: Bench) -> None:
    relay = bench.open()
    bench.stream(EVENT, DONE)
    relay.flush(ended=True)
    relay.part()
    assert bench.upstream.abandoned == []
    relay.client_paused()
    assert bench.upstream.reading, "it is not ours any more"
