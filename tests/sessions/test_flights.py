"""Which requests may share a generation, and how one is shared: from its beginning, by whoever is there, until the last has left."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sessions.flights import KEPT_BYTES, Flight, Flights, FlightStatistics, flight_key
from sessions.relay import Response
from sessions.seats import BEHIND_BYTES, Seat
from streamgate.errors import UpstreamFault, UpstreamReset
from streamgate.headers import Headers

CHAT, COMPLETIONS, MESSAGES = b"/v1/chat/completions", b"/v1/completions", b"/v1/messages"
RESPONSES, EMBEDDINGS = b"/v1/responses", b"/v1/embeddings"
OK = Response(200, b"OK", [], None, chunked=True, has_body=True)
KEY = b"key"


def key(body: Any, path: bytes = CHAT, principal: str = "p") -> bytes | None:
    return flight_key(path, body if isinstance(body, bytes) else json.dumps(body).encode(), principal)


# -- which -----------------------------------------------------------------------------------------------------------------

ASKED = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
FIXED = {**ASKED, "temperature": 0}


@pytest.mark.parametrize("written", [b"0", b"0.0", b"-0.0", b"0.00", b"0e3", b"0.0E-2"])
def test_temperature_zero_however_written(written: bytes) -> None:
    assert key(b'{"temperature": %b}' % written)


@pytest.mark.parametrize("written", [b"0.1", b"1", b"null", b'"0"', b"1e-9", b"0.01", b"[0]", b"false"])
def test_any_other_temperature_is_a_dice(written: bytes) -> None:
    assert key(b'{"temperature": %b}' % written) is None


@pytest.mark.parametrize(
    ("written", "may"),
    [(b"7", True), (b"-7", True), (b"0", True), (b"null", False), (b'"7"', False), (b"7.5", False), (b"true", False)],
)
def test_a_seed_is_a_whole_number(written: bytes, may: bool) -> None:
    assert (key(b'{"seed": %b, "temperature": 1}' % written) is not None) is may


def test_without_either_only_embeddings_are_bound_to_be_the_same() -> None:
    assert key(ASKED) is None
    assert key({"input": "a"}, EMBEDDINGS)
    assert key({"input": "a", "temperature": 0}, b"/v1/images/generations") is None


MAY = [{"n": 1}, {"n": None}, {"store": False}, {"store": None}, {"background": False}, {"previous_response_id": None}, {"tools": []},
       {"tools": None}, {"tools": [{"type": "function"}, {"type": "custom"}, {"name": "x"}]}, {"mcp_servers": []}, {"stream": True}]  # fmt: skip
MAY_NOT = [{"n": 2}, {"n": 1.0}, {"store": True}, {"background": True}, {"previous_response_id": "r"}, {"conversation": "c"},
           {"conversation": {"id": "c"}}, {"container": "c"}, {"mcp_servers": [{"url": "x"}]}, {"web_search_options": {}},
           {"tools": [{"type": "function"}, {"type": "web_search"}]}, {"tools": [{"type": "mcp"}]}, {"tools": "all"}, {"tools": [1]},
           {"tools": [{"type": None}]}]  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
def test_what_leaves_something_behind_or_depends_on_it_is_not_shared(path: bytes) -> None:
    for extra in MAY:
        assert key({**FIXED, **extra}, path), extra
    for extra in MAY_NOT:
        assert key({**FIXED, **extra}, path) is None, extra


def test_responses_are_stored_unless_they_say_otherwise() -> None:
    assert key(FIXED, RESPONSES) is None
    assert key({**FIXED, "store": None}, RESPONSES) is None
    assert key({**FIXED, "store": False}, RESPONSES)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"temperature":0',
        b'{"temperature":0,"temperature":0}',
        b'{"temperature":0,"Temperature":1}',
        b'{"temperature":0,"a":"\xff"}',
        b'{"temperature":0,"tools":' + b"[" * 100_000,
    ],
    ids=range(7),
)
def test_what_readers_may_read_differently_is_not_shared(body: bytes) -> None:
    assert key(body) is None


def test_the_order_of_members_does_not_matter_and_everything_else_does() -> None:
    body = {"model": "m", "temperature": 0, "user": "u", "stream": True, "messages": [1]}
    assert key(body) == key(dict(reversed(body.items())))
    differing = [
        key({**body, name: other})
        for name, other in [
            ("model", "n"),
            ("user", "v"),
            ("stream", False),
            ("messages", [2]),
            ("temperature", 0.0),
            ("metadata", {}),
            ("stream_options", {}),
        ]
    ]
    all_of_them = [
        key(body),
        *differing,
        key(body, COMPLETIONS),
        key(body, principal="q"),
        key({name: value for name, value in body.items() if name != "user"}),
    ]
    assert None not in all_of_them
    assert len(set(all_of_them)) == len(all_of_them)


def test_pieces_do_not_run_into_each_other() -> None:
    assert key(b'{"temperature":0,"a":"b"}', principal="x") != key(b'{"temperature":0,"a":"b"}', principal="x/v1")
    assert key(b'{"temperature":0,"a1":1}') != key(b'{"temperature":0,"a":11}')
    assert key(b'{"temperature":0,"ab":1}') != key(b'{"temperature":0,"a":1}')
    assert key(b'{"temperature":0,"a":11,"b":1}') != key(b'{"temperature":0,"a":1,"b":11}')


def test_names_that_are_no_characters_are_names() -> None:
    assert key(b'{"temperature":0,"\\ud800":1}', principal="\ud800")


@given(
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=4),
)
def test_keys_are_equal_where_requests_are(one: dict[str, int], other: dict[str, int]) -> None:
    keys = [key({**body, "temperature": 0}) for body in (one, other)]
    if None not in keys:
        assert (keys[0] == keys[1]) == ({**one, "temperature": 0} == {**other, "temperature": 0})


# -- how -------------------------------------------------------------------------------------------------------------------


class FakeSource:
    def __init__(self) -> None:
        self.reading = True
        self.abandoned: list[float | None] = []

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abandon(self, gone_at: float | None = None) -> None:
        self.abandoned.append(gone_at)


class FakeRider:
    def __init__(self, *, wants: bool = True) -> None:
        self.body = b""
        self.flushes = 0
        self.heads: list[int] = []
        self.ends: list[Any] = []
        self.wants = wants

    def on_head(self, response: Response) -> bool:
        self.heads.append(response.status)
        return self.wants

    def on_body(self, data: bytes) -> None:
        self.body += data

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        self.flushes += 1
        if ended:
            self.ends.append(trailers)

    def on_lost(self, fault: UpstreamFault) -> None:
        self.ends.append(fault)


def aboard(flights: Flights, name: bytes = KEY) -> tuple[Flight, Seat, FakeRider]:
    flight, seat = flights.join(name)
    rider = FakeRider()
    if seat.first:
        flight.source = FakeSource()
    seat.ride(rider)
    return flight, seat, rider


def source(flight: Flight) -> FakeSource:
    assert isinstance(flight.source, FakeSource)
    return flight.source


def test_the_first_makes_the_call_and_the_others_do_not() -> None:
    flights = Flights()
    flight, first, _ = aboard(flights)
    other, second, _ = aboard(flights)
    assert flight is other
    assert (first.first, second.first) == (True, False)
    apart, third, _ = aboard(flights, b"other")
    assert apart is not flight
    assert third.first
    assert flights.statistics() == FlightStatistics(flying=2, riding=3, started=2, shared=1)


def test_who_comes_later_hears_the_beginning_first() -> None:
    flights = Flights()
    flight, _, first = aboard(flights)
    assert flight.on_head(OK)
    flight.on_body(b"a")
    flight.on_body(b"b")
    flight.flush()
    _, _, second = aboard(flights)
    assert (second.heads, second.body, second.flushes) == ([200], b"ab", 1)
    flight.on_body(b"c")
    flight.flush()
    flight.flush(ended=True, trailers=[(b"x", b"y")])
    for rider in (first, second):
        assert (rider.heads, rider.body, rider.ends) == ([200], b"abc", [[(b"x", b"y")]])


@pytest.mark.parametrize("lost", [False, True])
def test_when_it_has_ended_the_next_one_asks_anew(lost: bool) -> None:
    flights = Flights()
    flight, _, rider = aboard(flights)
    call = source(flight)
    fault = UpstreamReset()
    if lost:
        flight.on_lost(fault)
    else:
        flight.flush(ended=True)
    assert rider.ends == [fault if lost else None]
    assert call.abandoned == []  # it is over by itself
    again, seat, _ = aboard(flights)
    assert seat.first
    assert again is not flight
    assert flights.statistics() == FlightStatistics(flying=1, riding=1, started=2, shared=0)


def test_while_the_end_is_told_nobody_can_join() -> None:
    flights = Flights()
    flight, seat = flights.join(KEY)
    joined: list[Flight] = []

    class Hasty(FakeRider):
        def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
            joined.append(flights.join(KEY)[0])

    seat.ride(Hasty())
    flight.flush(ended=True)
    assert joined[0] is not flight


def test_the_last_to_leave_takes_the_call_along() -> None:
    flights = Flights()
    flight, first, _ = aboard(flights)
    _, second, rider = aboard(flights)
    call = source(flight)
    first.abandon(1.0)
    assert call.abandoned == []
    assert flight.on_head(OK)
    assert rider.heads == [200]
    second.abandon(2.0)
    assert call.abandoned == [2.0]
    assert not flight.on_head(OK)
    assert flights.join(KEY)[1].first
    assert flights.statistics().flying == 1


def test_past_what_is_kept_newcomers_start_their_own() -> None:
    flights = Flights()
    flight, _, rider = aboard(flights)
    flight.on_head(OK)
    flight.on_body(b"x" * KEPT_BYTES)
    assert flight.boarding
    _, _, second = aboard(flights)
    assert len(second.body) == KEPT_BYTES
    flight.on_body(b"y")
    assert not flight.boarding
    other, seat, _ = aboard(flights)
    assert seat.first
    flight.flush(ended=True)
    assert rider.body == second.body == b"x" * KEPT_BYTES + b"y"
    assert flights.join(KEY)[0] is other  # the end of the one did not end the other
    assert flights.statistics().flying == 1


def test_one_that_is_slow_costs_a_buffer_and_then_slows_the_call() -> None:
    flights = Flights()
    flight, slow, behind = aboard(flights)
    _, other, ahead = aboard(flights)
    call = source(flight)
    slow.pause_reading()
    other.pause_reading()
    flight.on_body(b"x" * BEHIND_BYTES)
    assert call.reading
    flight.on_body(b"y")
    assert not call.reading
    other.resume_reading()
    assert not call.reading
    assert len(ahead.body) == BEHIND_BYTES + 1
    assert behind.body == b""
    slow.resume_reading()
    assert call.reading
    assert behind.body == ahead.body


def test_when_the_slow_one_leaves_the_call_goes_on() -> None:
    flights = Flights()
    flight, slow, _ = aboard(flights)
    aboard(flights)
    call = source(flight)
    slow.pause_reading()
    flight.on_body(b"x" * (BEHIND_BYTES + 1))
    assert not call.reading
    slow.abandon()
    assert call.reading
    assert call.abandoned == []


def test_one_that_does_not_want_the_answer_leaves_it_to_the_others() -> None:
    flights = Flights()
    flight, seat = flights.join(KEY)
    _, _, other = aboard(flights)
    flight.source = FakeSource()
    seat.ride(FakeRider(wants=False))
    assert flight.on_head(OK)
    assert len(flight) == 1
    assert other.heads == [200]


class AnyOrder(RuleBasedStateMachine):
    """Riders that come, pause and leave at any time, while calls stream, end and break off."""

    def __init__(self) -> None:
        super().__init__()
        self.flights = Flights()
        self.sent: dict[Flight, bytes] = {}
        self.under_way: list[Flight] = []
        self.riders: list[tuple[Flight, Seat, FakeRider]] = []
        self.paused: set[Seat] = set()
        self.calls: dict[Flight, FakeSource] = {}
        self.count = 0

    @rule(name=st.sampled_from([b"a", b"b"]))
    def join(self, name: bytes) -> None:
        flight, seat, rider = aboard(self.flights, name)
        if seat.first:
            assert flight not in self.calls
            self.calls[flight] = source(flight)
            self.under_way.append(flight)
            self.sent[flight] = b""
        assert flight in self.under_way
        assert rider.body == self.sent[flight]
        self.riders.append((flight, seat, rider))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), size=st.sampled_from([1, 1_000, 100_000]))
    def stream(self, data: st.DataObject, size: int) -> None:
        flight = data.draw(st.sampled_from(self.under_way))
        if not self.calls[flight].reading:
            return
        self.count += 1
        piece = b"%d" % self.count + b"." * size
        self.sent[flight] += piece
        flight.on_body(piece)
        flight.flush()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), lost=st.booleans())
    def end(self, data: st.DataObject, lost: bool) -> None:
        flight = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(flight)
        if lost:
            flight.on_lost(UpstreamReset())
        else:
            flight.flush(ended=True)

    @precondition(lambda self: self.riders)
    @rule(data=st.data(), what=st.sampled_from(["pause", "resume", "leave"]))
    def ride(self, data: st.DataObject, what: str) -> None:
        one = data.draw(st.sampled_from(self.riders))
        flight, seat, _ = one
        if what == "pause":
            seat.pause_reading()
            self.paused.add(seat)
        elif what == "resume":
            self.paused.discard(seat)
            seat.resume_reading()
        else:
            self.riders.remove(one)
            alone = not any(other is flight for other, _, _ in self.riders)
            seat.abandon(1.0)
            cancelled = alone and flight in self.under_way
            assert self.calls[flight].abandoned == ([1.0] if cancelled else [])
            if cancelled:
                self.under_way.remove(flight)

    @invariant()
    def everybody_has_heard_everything_or_is_paused(self) -> None:
        for flight, seat, rider in tuple(self.riders):
            over = flight not in self.under_way
            if seat not in self.paused:
                assert rider.body == self.sent[flight]
                assert len(rider.ends) == over
            assert self.sent[flight].startswith(rider.body)
            if over and rider.ends:
                assert rider.body == self.sent[flight]
                assert seat.gone
                self.riders.remove((flight, seat, rider))

    @invariant()
    def figures_are_what_is(self) -> None:
        statistics = self.flights.statistics()
        assert statistics.riding == len(self.riders)
        assert statistics.flying == len({flight for flight, _, _ in self.riders})
        assert len(self.flights._boarding) <= len(self.under_way)

    @invariant()
    def nobody_is_further_behind_than_a_buffer_and_a_read(self) -> None:
        for flight, _, rider in self.riders:
            assert len(self.sent[flight]) - len(rider.body) <= BEHIND_BYTES + 100_010


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
