"""What a line would say to one more request: what it then does say, and nobody has entered it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.queue import LineStatistics, Slot, Waiter
from streamgate.errors import QueueFull, Refused, WaitTooLong
from streamgate.exchange import Exchange
from streamgate.pipeline.explaining.turn import Turn, turn_of
from tests.streamgate.pipeline.explaining.stand import Stand

CLIENT = "192.0.2.1"


def exchange(read_timeout: str | None = None) -> Exchange:
    headers = [] if read_timeout is None else [(b"X-Stainless-Read-Timeout", read_timeout.encode())]
    made = Exchange(method=b"POST", path=b"/v1/x", query=None, host=b"a", headers=headers, http10=False, started_at=0.0)
    made.client_address = CLIENT
    return made


def told(stand: Stand, *, tenant: str | None = None, priority: int = 0, size_bytes: int = 100, read_timeout: str | None = None) -> Turn:
    before = stand.model.line.statistics()
    turn = turn_of(
        stand.model, stand.spec.models[0], exchange(read_timeout), split="stable", tenant=tenant, priority=priority, size_bytes=size_bytes,
    )  # fmt: skip
    assert stand.model.line.statistics() == before
    return turn


class Guests:
    """Who has come to the line of a stand, and what became of them."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.line = stand.model.line
        self.slots: list[Slot] = []
        self.refused: list[Refused] = []

    def come(self, flow: str = CLIENT, *, priority: int = 0, size_bytes: int = 100, patience_s: float = 1000.0) -> Slot | Waiter:
        found = self.line.enter(
            flow, granted=self.slots.append, refused=self.refused.append, priority=priority, size_bytes=size_bytes,
            patience_s=patience_s, ready=self.stand.model.ready["stable"],
        )  # fmt: skip
        if isinstance(found, Slot):
            self.slots.append(found)
        return found

    def go(self, number: int = 0) -> None:
        self.slots.pop(number % len(self.slots)).release()


def queued(**queue: Any) -> Guests:
    return Guests(Stand(queue={"max_in_flight": 1, **queue}))


def test_a_turn_at_once() -> None:
    turn = told(Stand())
    assert (turn.verdict, turn.described["because"], turn.fault) == ("at once", "0 are under way, of any number", None)
    assert (turn.described["position"], turn.described["predicted_wait_s"]) == (None, None)
    assert told(queued().stand).described["because"] == "0 are under way, of 1"


def test_a_wait_and_its_place() -> None:
    guests = queued(max_wait="60s")
    for flow in (CLIENT, CLIENT, CLIENT, "other"):
        guests.come(flow)
    turn = told(guests.stand)
    assert (turn.verdict, turn.described["because"]) == ("waits", "1 are under way, of 1")
    assert (turn.described["position"], turn.described["predicted_wait_s"]) == (4, None), "two of its own and one turn of another"
    assert turn.described["state"] == {"held": 1, "capacity": 1, "waiting": 3, "waiting_bytes": 300, "rate_per_s": None}
    assert told(guests.stand, tenant="new").described["position"] == 3
    assert told(guests.stand, tenant="new", priority=1).described["position"] == 1


def test_a_longer_flow_goes_before_no_oftener_than_its_turns() -> None:
    guests = queued()
    for flow in ("x", "x", "x", "x", "y"):
        guests.come(flow)
    assert told(guests.stand, tenant="y").described["position"] == 3, "one turn of each flow, of the three that x has waiting"
    found = guests.come("y")
    assert isinstance(found, Waiter)
    assert guests.line.position(found) == 4, "x has its second turn before"


def test_how_long_it_will_take_and_that_it_is_too_long() -> None:
    guests = queued(max_wait="60s")
    guests.come()
    for _ in range(20):
        guests.come()
        guests.stand.clock.advance(10.0)
        guests.go()
    turn = told(guests.stand)
    assert (turn.verdict, turn.described["predicted_wait_s"]) == ("waits", pytest.approx(10.0, rel=0.1))
    short = told(guests.stand, read_timeout="5")
    assert (short.verdict, short.described["patience"], short.described["patience_from"]) == ("refused", "4s", "x-stainless-read-timeout")
    assert isinstance(short.fault, WaitTooLong)
    with pytest.raises(WaitTooLong):
        guests.come(patience_s=4.0)


def test_a_full_line() -> None:
    guests = queued(max_waiting=1)
    guests.come()
    guests.come()
    turn = told(guests.stand)
    assert (turn.verdict, type(turn.fault)) == ("refused", QueueFull)
    assert turn.described["because"] == "1 are under way, of 1, and no more may wait: 1 wait, queue.max_waiting is 1"
    urgent = told(guests.stand, priority=1)
    assert urgent.verdict == "waits"
    assert "makes room for it" in urgent.described["because"]


def test_a_line_with_too_many_bytes() -> None:
    guests = queued(max_bytes="1KiB")
    guests.come()
    guests.come(size_bytes=1000)
    assert told(guests.stand, size_bytes=24).verdict == "waits"
    assert "1000 bytes wait, queue.max_bytes is 1KiB" in told(guests.stand, size_bytes=25).described["because"]


def test_one_that_is_too_small_makes_no_room_for_a_larger_one() -> None:
    guests = queued(max_bytes="1KiB")
    guests.come()
    guests.come(size_bytes=1000)
    guests.come(size_bytes=20)
    assert told(guests.stand, priority=1, size_bytes=24).verdict == "waits", "the last of all leaves, of 20 bytes"
    assert told(guests.stand, priority=1, size_bytes=25).verdict == "refused"
    with pytest.raises(QueueFull):
        guests.come(priority=1, size_bytes=25)


def test_a_line_that_was_made_shorter() -> None:
    guests = queued(max_waiting=3)
    for _ in range(4):
        guests.come()
    guests.line.max_waiting = 2
    assert told(guests.stand, priority=1).verdict == "refused", "one that leaves is not enough"
    with pytest.raises(QueueFull):
        guests.come(priority=1)


def test_slots_that_all_workers_share() -> None:
    turn = told(Stand(slots=0, queue={"max_in_flight": 8}))
    assert (turn.verdict, turn.described["shared"], turn.described["state"]["capacity"]) == ("waits", True, 0)
    assert turn.described["because"] == "0 are under way, of 0; more of the slots that all workers share are asked for"
    assert told(Stand(slots=2, queue={"max_in_flight": 8})).verdict == "at once"


def test_targets_that_are_full() -> None:
    stand = Stand(services={"a": {"max_in_flight": 1}})
    assert told(stand).verdict == "at once"
    stand.model.services["a"].pool.endpoints[0].count.take()
    assert (told(stand).verdict, told(stand).described["because"]) == ("waits", "every target of its split is full")


@pytest.mark.parametrize(("fair_by", "tenant", "flow"), [("tenant", "acme", "acme"), ("tenant", None, CLIENT), ("client_ip", "acme", CLIENT), ("off", "acme", "")])
def test_among_whom_it_is_fair(fair_by: str, tenant: str | None, flow: str) -> None:
    assert told(queued(fair_by=fair_by).stand, tenant=tenant).described["flow"] == flow


def test_the_settings_are_told() -> None:
    turn = told(queued(max_waiting=7, max_bytes="3KiB", max_wait="2s", announce="500ms").stand, priority=3)
    settings_ = {name: turn.described[name] for name in ("max_in_flight", "max_waiting", "max_bytes", "max_wait", "announce", "priority", "shared")}
    assert settings_ == {
        "max_in_flight": 1, "max_waiting": 7, "max_bytes": "3KiB", "max_wait": "2s", "announce": "500ms", "priority": 3, "shared": False,
    }  # fmt: skip
    assert (turn.described["patience"], turn.described["patience_from"]) == ("2s", "queue.max_wait")


ARRIVALS = st.tuples(st.just("come"), st.sampled_from(["x", "y", "z"]), st.integers(0, 1), st.sampled_from([10, 400]), st.sampled_from(["0.5", "9", "900"]))
ENDINGS = st.tuples(st.just("go"), st.integers(0, 9))
PAUSES = st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 5.0]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(ARRIVALS, ARRIVALS, ENDINGS, PAUSES), max_size=60))
def test_the_line_does_what_is_told(events: list[Any]) -> None:
    guests = Guests(Stand(queue={"max_in_flight": 2, "max_waiting": 5, "max_bytes": "1KiB", "max_wait": "100s"}))
    for event in events:
        if event[0] == "wait":
            guests.stand.clock.advance(event[1])
        elif event[0] == "go":
            if guests.slots:
                guests.go(event[1])
        else:
            arrives(guests, *event[1:])


def arrives(guests: Guests, flow: str, priority: int, size_bytes: int, read_timeout: str) -> None:
    turn = told(guests.stand, tenant=flow, priority=priority, size_bytes=size_bytes, read_timeout=read_timeout)
    before: LineStatistics = guests.line.statistics()
    try:
        found = guests.come(flow, priority=priority, size_bytes=size_bytes, patience_s=min(100.0, 0.8 * float(read_timeout)))
    except QueueFull as fault:
        assert (turn.verdict, type(turn.fault)) == ("refused", type(fault))
        return
    evicts = guests.line.statistics().refused["evicted"] > before.refused["evicted"]
    assert turn.verdict == ("at once" if isinstance(found, Slot) else "waits")
    assert ("makes room" in turn.described["because"]) is evicts
    if isinstance(found, Waiter) and not evicts:
        assert turn.described["position"] <= guests.line.position(found)
        others = [one for one in before.flows if one.waiting and one.priority == priority and one.flow != flow]
        if not others or flow not in {one.flow for one in before.flows if one.priority == priority}:
            assert turn.described["position"] == guests.line.position(found)
