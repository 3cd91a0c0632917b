"""A seat: told at once or later, everything once and in order, as slow as its rider; and a relay that rides in one."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sessions.relay import Framing, Limits, Relay, Response
from sessions.seats import BEHIND_BYTES, Rider, Seat
from sessions.watch import Watch
from streamgate.errors import UpstreamFault, UpstreamReset
from streamgate.exchange import Dialect, Exchange, State, Terminal
from streamgate.headers import Headers
from tests.kit.clock import ManualClock

OK = Response(200, b"OK", [], None, chunked=True, has_body=True)


class FakeRider:
    """Writes down what it is told; ``pause_after`` flushes its client's buffer is full."""

    def __init__(self, *, wants: bool = True) -> None:
        self.told: list[Any] = []
        self.wants = wants
        self.seat: Seat | None = None
        self.pause_after: int | None = None

    def on_head(self, response: Response) -> bool:
        self.told.append(response.status)
        return self.wants

    def on_body(self, data: bytes) -> None:
        self.told.append(data)

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        self.told.append(("ended", trailers) if ended else "flush")
        if self.pause_after is not None and self.seat is not None:
            self.pause_after -= 1
            if self.pause_after <= 0:
                self.seat.pause_reading()

    def on_lost(self, fault: UpstreamFault) -> None:
        self.told.append(fault)

    @property
    def body(self) -> bytes:
        return b"".join(one for one in self.told if isinstance(one, bytes))


class FakeRow:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def left(self, seat: Seat, gone_at: float | None) -> None:
        assert seat.gone
        self.said.append(("left", gone_at))

    def fell_behind(self, seat: Seat) -> None:
        self.said.append("behind")

    def caught_up(self, seat: Seat) -> None:
        self.said.append("caught up")


def seated(**more: Any) -> tuple[FakeRow, Seat, FakeRider]:
    row = FakeRow()
    seat = Seat(row, **more)
    rider = FakeRider()
    rider.seat = seat
    seat.ride(rider)
    return row, seat, rider


def test_what_comes_is_passed_on_at_once() -> None:
    row, seat, rider = seated()
    seat.on_head(OK)
    seat.on_body(b"a")
    seat.on_body(b"b")
    seat.flush()
    seat.flush(ended=True, trailers=[(b"x", b"y")])
    assert rider.told == [200, b"a", b"b", "flush", ("ended", [(b"x", b"y")])]
    assert row.said == [("left", None)]


def test_what_came_before_the_rider_sat_down_is_told_first() -> None:
    row = FakeRow()
    seat = Seat(row, head=OK, beginning=[b"a", b"b"])
    seat.on_body(b"c")
    seat.flush()
    rider = FakeRider()
    seat.ride(rider)
    seat.on_body(b"d")
    seat.flush()
    assert rider.told == [200, b"a", b"b", b"c", "flush", b"d", "flush"]


def test_an_answer_may_be_over_before_the_rider_sits_down() -> None:
    for end in (("ended", None), UpstreamReset()):
        row = FakeRow()
        seat = Seat(row)
        seat.on_head(OK)
        seat.on_body(b"a")
        if isinstance(end, UpstreamFault):
            seat.on_lost(end)
        else:
            seat.flush(ended=True)
        assert row.said == []
        rider = FakeRider()
        seat.ride(rider)
        assert rider.told == [200, b"a", "flush", end]
        assert row.said == [("left", None)]


def test_a_paused_rider_hears_nothing_until_it_has_room() -> None:
    row, seat, rider = seated()
    seat.on_head(OK)
    seat.on_body(b"a")
    seat.pause_reading()
    seat.flush()  # what it was given is still written
    seat.on_body(b"b")
    seat.flush()
    seat.flush(ended=True)
    assert rider.told == [200, b"a", "flush"]
    seat.resume_reading()
    assert rider.told == [200, b"a", "flush", b"b", "flush", ("ended", None)]
    assert row.said == [("left", None)]


def test_a_replay_stops_where_the_clients_buffer_is_full() -> None:
    row = FakeRow()
    seat = Seat(row, head=OK, beginning=[b"%03d" % number + b"x" * 9_997 for number in range(20)])
    rider = FakeRider()
    rider.seat, rider.pause_after = seat, 1
    seat.ride(rider)
    assert 65_536 <= len(rider.body) < 75_537
    seat.on_body(b"last")
    for _ in range(2):
        assert b"last" not in rider.body
        seat.resume_reading()
    assert rider.body.endswith(b"xlast")
    assert len(rider.body) == 200_004


def test_a_client_that_takes_everything_at_once_hears_it_in_order() -> None:
    seat = Seat(FakeRow(), head=OK, beginning=[b"a" * 65_536, b"b"])

    class Quick(FakeRider):
        def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
            super().flush(ended=ended, trailers=trailers)
            seat.pause_reading()
            seat.resume_reading()

    rider = Quick()
    seat.ride(rider)
    assert rider.told == [200, b"a" * 65_536, "flush", b"b", "flush"]


def test_only_one_that_is_far_behind_slows_the_call_down() -> None:
    row, seat, _ = seated()
    seat.pause_reading()
    seat.on_body(b"x" * BEHIND_BYTES)
    assert row.said == []
    seat.on_body(b"x")
    seat.on_body(b"x")
    assert row.said == ["behind"]
    seat.resume_reading()
    assert row.said == ["behind", "caught up"]
    seat.pause_reading()
    seat.on_body(b"x" * BEHIND_BYTES + b"x")
    seat.abandon(3.0)
    assert row.said == ["behind", "caught up", "behind", "caught up", ("left", 3.0)]


def test_who_left_hears_nothing_more_and_leaves_once() -> None:
    row, seat, rider = seated()
    seat.abandon(1.0)
    seat.abandon(2.0)
    seat.on_head(OK)
    seat.on_body(b"a" * 300_000)
    seat.flush()
    seat.on_lost(UpstreamReset())
    seat.resume_reading()
    assert rider.told == []
    assert row.said == [("left", 1.0)]


def test_a_rider_that_does_not_want_the_rest_has_left() -> None:
    row = FakeRow()
    seat = Seat(row, head=OK, beginning=[b"a"])
    rider = FakeRider(wants=False)
    seat.ride(rider)
    seat.on_body(b"b")
    assert rider.told == [200]
    assert row.said == [("left", None)]


@given(st.lists(st.sampled_from(["body", "flush", "pause", "resume", "ride", "full"]), max_size=40), st.booleans())
def test_in_any_order_everything_is_told_once_and_in_order(events: list[str], lost: bool) -> None:
    row = FakeRow()
    seat, rider = Seat(row), FakeRider()
    rider.seat = seat
    sent = b""
    riding = paused = False
    for number, event in enumerate(events):
        if event == "body":
            piece = b"<%d>" % number
            sent += piece
            seat.on_body(piece)
        elif event == "flush":
            seat.flush()
        elif event == "pause":
            seat.pause_reading()
            paused = True
        elif event == "resume":
            rider.pause_after = None
            paused = False
            seat.resume_reading()
        elif event == "full":
            rider.pause_after = 1
            paused = True  # at the latest with the next flush
        elif not riding:
            riding = True
            seat.ride(rider)
        assert sent.startswith(rider.body)
        if riding and not paused:
            assert rider.body == sent
    fault = UpstreamReset()
    if lost:
        seat.on_lost(fault)
    else:
        seat.flush(ended=True)
    rider.pause_after = None
    if not riding:
        seat.ride(rider)
    seat.resume_reading()
    assert rider.body == sent
    assert rider.told[-1] == (fault if lost else ("ended", None))
    assert row.said == [("left", None)]


# -- a relay rides ---------------------------------------------------------------------------------------------------------


class Wire:
    """A client and its guide: an event stream is composed, and written to nobody."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data

    def waiting_bytes(self) -> int:
        return 0

    def cut(self, *, reset: bool) -> None:
        self.got += b"<cut>"

    def judge(self, response: Response) -> None: ...
    def compose(self, response: Response) -> Framing:
        return Framing(head=b"HEAD ", chunked=False, open=True, stream=True, watched=True, adds=True)

    def interim(self, response: Response) -> bytes | None:
        return None

    def trailer(self, trailers: Headers) -> bytes:
        return b""

    def first(self, after_s: float, *, stream: bool) -> None: ...
    def gap(self, gap_s: float) -> None: ...


def riding(wire: Wire) -> tuple[Relay, Exchange]:
    exchange = Exchange(
        method=b"POST", path=b"/v1/chat/completions", query=None, host=b"a", headers=[], http10=False, started_at=0.0
    )
    exchange.dialect = Dialect.OPENAI
    exchange.move(State.ADMITTED)
    exchange.move(State.SENDING)
    return Relay(exchange, wire, Limits(), wire, Watch(ManualClock().now)), exchange


async def test_a_relay_rides_as_on_a_connection() -> None:
    row, wire = FakeRow(), Wire()
    seat = Seat(row, head=OK, beginning=[b'data: {"choices":[]}\n\n'])
    relay, exchange = riding(wire)
    rider: Rider = relay
    done = relay.begin(seat, uploading=False)
    seat.ride(rider)
    relay.client_paused()
    seat.on_body(b"data: [DONE]\n\n")
    seat.flush()
    seat.flush(ended=True)
    assert wire.got == b'HEAD data: {"choices":[]}\n\n'
    relay.client_resumed()
    await done
    assert wire.got.endswith(b"data: [DONE]\n\n")
    assert exchange.terminal is Terminal.COMPLETE
    assert row.said == [("left", None)]


async def test_a_relay_whose_client_leaves_gives_its_seat_back() -> None:
    row, wire = FakeRow(), Wire()
    seat = Seat(row, head=OK)
    relay, exchange = riding(wire)
    done = relay.begin(seat, uploading=False)
    seat.ride(relay)
    relay.client_gone(7.0)
    assert row.said == [("left", 7.0)]
    assert exchange.terminal is Terminal.CLIENT_CLOSED
    await asyncio.wait_for(done, 5)


async def test_a_relay_is_told_that_the_call_broke_off() -> None:
    row, wire = FakeRow(), Wire()
    seat = Seat(row)
    relay, _ = riding(wire)
    done = relay.begin(seat, uploading=False)
    seat.ride(relay)
    fault = UpstreamReset()
    seat.on_lost(fault)
    assert done.exception() is fault
    assert row.said == [("left", None)]
