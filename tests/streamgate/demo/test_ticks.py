"""A stream that is taken up again goes on with the words it would have said."""

from hypothesis import given
from hypothesis import strategies as st

from streamgate.demo.ticks import RETRY_MS, Ticks


def encoded(ticks: Ticks) -> list[bytes]:
    return [each.encode() for position in range(ticks.length()) for each in ticks.token(position)]


@given(st.integers(0, 30), st.integers(0, 30))
def test_two_parts_make_the_whole(first: int, rest: int) -> None:
    whole = encoded(Ticks(0, first + rest, 5))
    assert encoded(Ticks(0, first, 5)) + encoded(Ticks(first, rest, 5)) == whole


def test_every_kind_of_line_occurs() -> None:
    text = b"".join([*(each.encode() for each in Ticks(0, 4, 0).opening()), *encoded(Ticks(0, 4, 0))]).decode()
    assert f"retry: {RETRY_MS}\n" in text
    assert ": a scripted event stream\n" in text
    assert "id: 3\nevent: tick\n" in text
    assert "\ndata: line two\n\n" in text
    assert "\n\n: inside\nid: 3\n" in text


def test_the_end_says_that_it_is_the_end() -> None:
    (end,) = Ticks(2, 3, 0).closing()
    assert end.encode() == b"id: 5\nevent: end\ndata: over\n\n"
