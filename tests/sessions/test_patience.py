"""How long a request may wait: what its route allows, or what its client's own timeout leaves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.patience import SHARE, patience_s


@pytest.mark.parametrize(
    ("value", "waits_s"),
    [
        (None, 30.0),
        (b"10", 8.0),
        (b"10.0", 8.0),
        (b" 2.5\t", 2.0),
        (b"0.5", 0.4),
        (b"600", 30.0),
        (b"5.", 4.0),
        (b"999999999999", 30.0),
    ],
)
def test_four_fifths_of_the_clients_timeout_where_that_is_less(value: bytes | None, waits_s: float) -> None:
    assert patience_s(30.0, value) == pytest.approx(waits_s)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"None",
        b"0",
        b"0.0",
        b"-1",
        b"+5",
        b"nan",
        b"inf",
        b"1e1",
        b"1_0",
        b"5s",
        b"5 5",
        b"0x5",
        b".5",
        b"9" * 13,
        b"\xd9\xa5",
    ],
)
def test_what_is_no_positive_decimal_number_says_nothing(value: bytes) -> None:
    assert patience_s(30.0, value) == 30.0


def test_without_a_limit_of_the_route_the_clients_own_remains() -> None:
    assert patience_s(math.inf, b"10") == 8.0
    assert patience_s(math.inf, None) == math.inf


@given(st.floats(0.0, 1e6), st.floats(0.001, 1e6))
def test_python_clients_send_what_str_makes_of_a_float(max_wait_s: float, listens_s: float) -> None:
    assert patience_s(max_wait_s, str(listens_s).encode()) == min(max_wait_s, SHARE * listens_s)


@given(st.floats(0.0, 1e6), st.binary(max_size=20))
def test_whatever_a_client_says_it_can_only_shorten(max_wait_s: float, value: bytes) -> None:
    assert 0.0 <= patience_s(max_wait_s, value) <= max_wait_s
