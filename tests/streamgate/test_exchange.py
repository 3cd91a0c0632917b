"""The table of moves, and the one end of every exchange."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.errors import Fault, UpstreamFault
from streamgate.exchange import MOVES, Exchange, IllegalMove, State, Terminal

ENDED = {State.DONE, State.REFUSED, State.FAILED, State.GONE}


def made() -> Exchange:
    return Exchange(method=b"GET", path=b"/", query=None, host=b"a", headers=[], http10=False, started_at=0.0)


def test_every_state_has_its_moves_and_ends_have_none() -> None:
    assert set(MOVES) == set(State)
    assert {state for state, after in MOVES.items() if not after} == ENDED


def test_nothing_leads_back() -> None:
    order = [State.NEW, State.ADMITTED, State.WAITING, State.SENDING, State.STREAMING, State.DONE]
    for state, after in MOVES.items():
        assert state not in after, "sending is entered once however many attempts it takes"
        for following in after - ENDED | (after & {State.DONE}):
            assert order.index(following) > order.index(state)


def test_only_what_was_committed_can_be_done() -> None:
    assert {state for state, after in MOVES.items() if State.DONE in after} == {State.STREAMING}


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.NEW}
    for _ in MOVES:
        reached |= {following for state in reached for following in MOVES[state]}
    assert reached == set(State)
    assert all(MOVES[state] & {State.FAILED, State.GONE, State.REFUSED} for state in set(State) - ENDED)


@given(st.lists(st.sampled_from(State), max_size=12))
def test_moves_are_taken_as_the_table_says(path: list[State]) -> None:
    exchange = made()
    for state in path:
        before = exchange.state
        if state in MOVES[before]:
            exchange.move(state)
            assert exchange.state is state
        else:
            with pytest.raises(IllegalMove, match=f"{before} may not become {state}"):
                exchange.move(state)
            assert exchange.state is before
        assert exchange.committed is (exchange.state is State.STREAMING)


def test_the_first_end_is_the_end() -> None:
    exchange = made()
    fault = UpstreamFault()
    assert exchange.end(Terminal.UPSTREAM_ERROR, fault)
    assert not exchange.end(Terminal.COMPLETE)
    assert not exchange.end(Terminal.SHUTDOWN, Fault())
    assert (exchange.terminal, exchange.fault) == (Terminal.UPSTREAM_ERROR, fault)


def test_the_ends_are_those_that_others_read() -> None:
    assert [str(terminal) for terminal in Terminal] == [
        "complete", "upstream_error", "upstream_truncated", "idle_timeout", "client_closed", "guard_blocked", "shutdown",
    ]  # fmt: skip


def test_it_holds_nothing_that_was_not_planned() -> None:
    exchange: Any = made()
    with pytest.raises(AttributeError):
        exchange.anything = 1
