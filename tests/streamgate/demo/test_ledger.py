"""The ledger's books always balance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.demo.ledger import Counts, Ledger


def test_a_generation_is_cancelled_unless_it_says_otherwise() -> None:
    ledger = Ledger()
    with ledger.generation() as one:
        one.token()
        assert ledger.statistics() == Counts(open_streams=1, started=1, completed=0, cancelled=0, broken=0, tokens_sent=1)
    with ledger.generation() as two:
        two.token(4)
        two.end("completed")
    with pytest.raises(ZeroDivisionError), ledger.generation() as three:
        three.end("broken")
        raise ZeroDivisionError
    assert ledger.statistics() == Counts(open_streams=0, started=3, completed=1, cancelled=1, broken=1, tokens_sent=5)


def test_reset_forgets_what_ended_and_keeps_what_is_open() -> None:
    ledger = Ledger()
    with ledger.generation():
        pass
    still_open = ledger.generation()
    ledger.reset()
    assert ledger.statistics() == Counts(open_streams=1, started=1, completed=0, cancelled=0, broken=0, tokens_sent=0)
    with still_open:
        pass
    assert ledger.statistics().cancelled == 1


@given(st.lists(st.sampled_from(["start", "completed", "cancelled", "broken", "reset"])))
def test_what_started_is_open_or_ended(steps: list[str]) -> None:
    ledger, opened = Ledger(), []
    for step in steps:
        if step == "start":
            opened.append(ledger.generation())
        elif step == "reset":
            ledger.reset()
        elif opened:
            with opened.pop() as generation:
                generation.end(step)  # type: ignore[arg-type]
        counts = ledger.statistics()
        assert counts.started == counts.open_streams + counts.completed + counts.cancelled + counts.broken
        assert counts.open_streams == len(opened)
