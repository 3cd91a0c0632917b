"""When a target is left alone, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamgate.policies.cooldowns import COOL_MAX_S, Cooldown, CooldownStatistics, Failure, reset_after_s

BREAKS: list[Failure] = ["connect", "reset", "first_byte", "truncated", "in_band", 500, 502, 503, 504, 520, 529]
SAYS_NOTHING: list[Failure] = ["cancelled", 400, 401, 403, 404, 408, 413, 422, 499, 501, 505, 508]


def fail(cooldown: Cooldown, times: int, now: float = 0.0, failure: Failure = "connect") -> None:
    for _ in range(times):
        cooldown.failed(now, failure)


# --- broken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", BREAKS)
def test_three_failures_in_a_row_cool_for_three_seconds(failure: Failure) -> None:
    cooldown = Cooldown()
    assert not cooldown.is_cooling(0.0)
    fail(cooldown, 2, 10.0, failure)
    assert not cooldown.is_cooling(10.0)
    fail(cooldown, 1, 10.0, failure)
    assert cooldown.until == 13.0
    assert cooldown.is_cooling(12.9)
    assert not cooldown.is_cooling(13.0)


@pytest.mark.parametrize("failure", SAYS_NOTHING)
def test_what_the_client_did_says_nothing_about_the_target(failure: Failure) -> None:
    cooldown = Cooldown()
    fail(cooldown, 50, 10.0, failure)
    cooldown.failed(10.0, failure, 60.0)
    assert cooldown.statistics() == Cooldown().statistics()
    assert not cooldown.is_cooling(10.0)


def test_each_time_in_a_row_it_is_longer_up_to_a_minute() -> None:
    cooldown, now, lengths = Cooldown(), 0.0, []
    fail(cooldown, 2)
    for _ in range(25):
        fail(cooldown, 1, now)  # one more is enough: it never succeeded
        lengths.append(cooldown.until - now)
        now = cooldown.until
    assert lengths == [min(60.0, 3.0 * number) for number in range(1, 26)]
    assert cooldown.statistics().cooled == 25
    cooldown.succeeded(now)
    fail(cooldown, 3, now)
    assert cooldown.until == now + 3.0


def test_failures_while_it_cools_tell_nothing_new() -> None:
    cooldown = Cooldown()
    fail(cooldown, 30, 10.0)
    assert cooldown.until == 13.0
    assert cooldown.statistics().cooled == 1


def test_a_success_ends_it() -> None:
    cooldown = Cooldown()
    fail(cooldown, 3, 10.0)
    cooldown.succeeded(10.5)
    assert not cooldown.is_cooling(10.5)
    fail(cooldown, 2, 11.0)
    assert not cooldown.is_cooling(11.0)  # counted anew


def outcomes(cooldown: Cooldown, word: str, now: float = 0.0) -> None:
    for letter in word:
        if letter == "+":
            cooldown.succeeded(now)
        else:
            cooldown.failed(now, 500)


@pytest.mark.parametrize(
    ("word", "cools"),
    [("-+-", False), ("-+--", False), ("-+-+-", True), ("+-+-", False), ("+-+-+-", False), ("+-+--", True), ("--++--", True)],
)
def test_more_than_half_of_five_cool_it(word: str, cools: bool) -> None:
    cooldown = Cooldown()
    outcomes(cooldown, word, 10.0)
    assert cooldown.is_cooling(10.0) == cools


def test_only_the_last_minute_counts() -> None:
    cooldown = Cooldown()
    outcomes(cooldown, "-+-+", 2.0)
    outcomes(cooldown, "-", 61.9)
    assert not cooldown.is_cooling(61.9)  # the slot of the first four has left the window
    assert (cooldown.statistics().succeeded, cooldown.statistics().failed) == (0, 1)
    late = Cooldown()
    outcomes(late, "-+-+", 2.0)
    outcomes(late, "-", 59.9)
    assert late.is_cooling(59.9)
    late.succeeded(1e9)
    late.succeeded(1.0)  # a reading that is late
    assert (late.statistics().succeeded, late.statistics().failed) == (2, 0)


def test_after_cooling_the_share_is_judged_anew() -> None:
    cooldown = Cooldown()
    outcomes(cooldown, "+-+--", 0.0)
    outcomes(cooldown, "+-+-", 3.0)
    assert not cooldown.is_cooling(3.0)
    outcomes(cooldown, "-", 3.0)
    assert cooldown.is_cooling(3.0)


# --- asked to be left alone -------------------------------------------------------------------------------------------


def test_a_429_cools_at_once_for_as_long_as_it_says() -> None:
    cooldown = Cooldown()
    cooldown.failed(10.0, 429, 7.5)
    assert cooldown.until == 17.5
    cooldown.failed(11.0, 429, 2.0)
    assert cooldown.until == 17.5
    cooldown.failed(11.0, 429, 20.0)
    assert cooldown.until == 31.0
    cooldown.failed(12.0, 429, 86400.0)
    assert cooldown.until == 12.0 + 600.0
    assert cooldown.statistics().cooled == 1


@pytest.mark.parametrize("silent", [None, 0.0])
def test_a_429_that_does_not_say_cools_in_steps(silent: float | None) -> None:
    cooldown = Cooldown()
    for now, until in ((0.0, 3.0), (1.0, 3.0), (3.0, 9.0), (9.0, 18.0)):
        cooldown.failed(now, 429, silent)
        assert cooldown.until == until
    for _ in range(30):
        cooldown.failed(cooldown.until, 429, silent)
    now = cooldown.until
    cooldown.failed(now, 429, silent)
    assert cooldown.until == now + 60.0
    cooldown.succeeded(cooldown.until)
    now = cooldown.until
    cooldown.failed(now, 429, silent)
    assert cooldown.until == now + 3.0


def test_a_success_of_somebody_earlier_does_not_take_back_what_was_asked_for() -> None:
    cooldown = Cooldown()
    cooldown.failed(10.0, 429, 30.0)
    fail(cooldown, 3, 10.0)
    cooldown.succeeded(11.0)
    assert cooldown.until == 40.0


def test_a_503_may_ask_as_well_and_counts_as_a_failure_too() -> None:
    cooldown = Cooldown()
    cooldown.failed(10.0, 503, 20.0)
    assert cooldown.until == 30.0
    assert cooldown.statistics() == CooldownStatistics(until=30.0, reason="asked", in_a_row=1, cooled=1, succeeded=0, failed=1)


def test_a_success_may_be_the_last_before_a_reset() -> None:
    cooldown = Cooldown()
    cooldown.succeeded(10.0, 2.0)
    assert cooldown.until == 12.0
    cooldown.succeeded(13.0, None)
    assert not cooldown.is_cooling(13.0)


def test_a_broken_one_that_is_asked_to_wait_keeps_the_later_moment() -> None:
    cooldown = Cooldown()
    fail(cooldown, 3, 10.0)
    assert cooldown.statistics().reason == "broken"
    cooldown.failed(11.0, 429, 1.0)
    assert (cooldown.until, cooldown.statistics().reason) == (13.0, "broken")
    cooldown.failed(11.0, 429, 30.0)
    assert (cooldown.until, cooldown.statistics().reason) == (41.0, "asked")
    assert Cooldown().statistics().reason is None


# --- asked nevertheless -----------------------------------------------------------------------------------------------


def test_one_at_a_time_finds_out_whether_a_broken_target_still_is() -> None:
    cooldown = Cooldown()
    fail(cooldown, 3, 10.0)
    lease = cooldown.probe(10.5)
    assert lease is not None
    assert cooldown.probe(10.5) is None
    lease.release()
    again = cooldown.probe(10.6)
    assert again is not None
    assert cooldown.probe(13.0) is not None  # it has cooled down: anybody may
    assert cooldown.probe(13.0) is not None


def test_anybody_may_ask_one_that_only_wanted_to_be_left_alone() -> None:
    cooldown = Cooldown()
    cooldown.failed(10.0, 429, 30.0)
    assert all(cooldown.probe(11.0) is not None for _ in range(20))


class Life(RuleBasedStateMachine):
    """Whatever happens: never longer than is allowed, never shorter than was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.cooldown = Cooldown()
        self.now = 0.0
        self.asked = 0.0
        self.in_a_row = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0, 100.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(failure=st.sampled_from([*BREAKS, 429, *SAYS_NOTHING]), wait_s=st.none() | st.sampled_from([0.0, 1.0, 30.0, 1e6]))
    def fail(self, failure: Failure, wait_s: float | None) -> None:
        before = self.cooldown.until
        self.cooldown.failed(self.now, failure, wait_s)
        if failure in SAYS_NOTHING:
            assert self.cooldown.until == before
            return
        self.in_a_row += failure != 429
        if wait_s:
            self.asked = max(self.asked, self.now + min(COOL_MAX_S, wait_s))
        if failure == 429 or wait_s or self.in_a_row >= 3:
            assert self.cooldown.is_cooling(self.now)
        assert self.cooldown.until >= before

    @rule(wait_s=st.none() | st.sampled_from([0.0, 2.0]))
    def succeed(self, wait_s: float | None) -> None:
        self.cooldown.succeeded(self.now, wait_s)
        self.in_a_row = 0
        if wait_s:
            self.asked = max(self.asked, self.now + wait_s)

    @invariant()
    def within_bounds(self) -> None:
        assert self.asked <= self.cooldown.until or self.asked <= self.now
        assert self.cooldown.until <= self.now + COOL_MAX_S
        assert self.cooldown.is_cooling(self.now) == (self.cooldown.until > self.now)
        known = self.cooldown.statistics()
        assert (known.in_a_row, known.until) == (self.in_a_row, self.cooldown.until)
        assert min(known.succeeded, known.failed, known.cooled) >= 0


TestLife = Life.TestCase


# --- what the headers say ---------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


def asked(status: int = 429, retry_after_s: float | None = None, **fields: str) -> float | None:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return reset_after_s(headers, status, NOW, retry_after_s)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("120ms", 0.12),
        ("9m2.5s", 542.5),
        ("1h2m3.5s", COOL_MAX_S),
        ("0h0m7s", 7.0),
        ("0.1h", 360.0),
        ("1500µs", 0.0015),
        ("1500us", 0.0015),
        ("500ns", 5e-7),
        ("55", 55.0),
        ("0.25", 0.25),
        (" 20 ", 20.0),
        ("2591999", COOL_MAX_S),
        (str(int(NOW) + 42), 42.0),
        (str((int(NOW) + 42) * 1000), 42.0),
        ("2026-11-24T12:00:30Z", 30.0),
        ("2026-11-24T13:00:30+01:00", 30.0),
        ("2026-11-24T12:00:00.250Z", 0.25),
        ("2027-01-01T00:00:00Z", COOL_MAX_S),
    ],
)
def test_a_moment_in_each_of_its_forms(text: str, seconds: float) -> None:
    for field in ("x_ratelimit_reset", "x_ratelimit_reset_requests", "X_RateLimit_Reset_Tokens", "x_rate_limit_reset_tokens"):
        assert asked(**{field: text}) == pytest.approx(seconds)
    assert asked(anthropic_ratelimit_input_tokens_reset=text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "-1",
            "0",
            "0s",
            "0.0",
            "-1s",
            "",
            "soon",
            "s",
            "1d",
            "1 s",
            "1e3",
            "٣",
            "nan",
            "inf",
            "1" * 16,
            "9999999999s",
            "1.s",
        ),
        *("1s" * 20, "1.2.3s", str(int(NOW)), str(int(NOW) - 1), "2592000", "2026-11-24T12:00:00Z", "2026-02-30T00:00:00Z"),
        *("2026-11-24T12:00:30", "2026-11-24 12:00:30Z", "0000-01-01T00:00:00Z"),
    ],
)
def test_what_is_past_or_no_moment_says_nothing(text: str) -> None:
    assert asked(x_ratelimit_reset=text, x_ratelimit_remaining="0") is None
    assert asked(anthropic_ratelimit_tokens_reset=text) is None


def test_retry_after_comes_before_all_else_where_it_belongs() -> None:
    assert asked(429, 5.0, x_ratelimit_reset="9") == 5.0
    assert asked(500, 5.0) == asked(503, 5.0) == asked(529, 5.0) == 5.0
    assert asked(499, 5.0) is None
    assert asked(429, 86400.0) == COOL_MAX_S
    assert asked(429, 0.0, x_ratelimit_reset="9") == 9.0
    assert asked(429, 0.0) is None
    assert asked(200, 5.0) is None
    assert asked(400, 5.0) is None


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503, 301])
def test_resets_are_believed_with_429_and_answers_only(status: int) -> None:
    assert asked(status, x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="9s") is None


@pytest.mark.parametrize("status", [200, 201, 429])
def test_of_the_limits_that_are_used_up_the_last_one_counts(status: int) -> None:
    fields = {
        "x_ratelimit_remaining_requests": "0",
        "x_ratelimit_reset_requests": "20ms",
        "x_ratelimit_remaining_tokens": "0",
        "x_ratelimit_reset_tokens": "6s",
    }
    assert asked(status, **fields) == 6.0
    assert asked(status, **{**fields, "x_ratelimit_remaining_tokens": "17"}) == pytest.approx(0.02)
    theirs = {
        "anthropic_ratelimit_requests_remaining": "0",
        "anthropic_ratelimit_requests_reset": "2026-11-24T12:00:02Z",
        "anthropic_ratelimit_output_tokens_remaining": "4000",
        "anthropic_ratelimit_output_tokens_reset": "2026-11-24T12:00:59Z",
    }
    assert asked(status, **theirs) == 2.0


def test_with_something_left_only_a_429_is_believed_and_then_the_first_reset() -> None:
    fields = {"x_ratelimit_remaining_requests": "12", "x_ratelimit_reset_requests": "8s", "x_ratelimit_reset_tokens": "4s"}
    assert asked(429, **fields) == 4.0
    assert asked(200, **fields) is None
    assert asked(429) is None
    assert asked(200) is None


@pytest.mark.parametrize("status", [200, 429])
def test_azures_placeholders_say_nothing(status: int) -> None:
    fields = {"x_ratelimit_limit_tokens": "-1", "x_ratelimit_remaining_tokens": "-1", "x_ratelimit_reset_tokens": "0"}
    assert asked(status, **fields) is None
    assert asked(200, x_ratelimit_remaining_tokens="-1", x_ratelimit_reset_tokens="5") is None
    assert asked(status, x_ratelimit_remaining_tokens="0") is None


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=30)), max_size=5), st.integers(100, 599), st.data())
def test_no_header_is_too_odd(headers: list[tuple[bytes, bytes]], status: int, data: st.DataObject) -> None:
    names = [b"x-ratelimit-reset", b"x-ratelimit-remaining", b"anthropic-ratelimit-tokens-reset"]
    text = st.from_regex(rb"[0-9hmsun.:TZ+-]{0,24}", fullmatch=True)
    headers = headers + data.draw(st.lists(st.tuples(st.sampled_from(names), text), max_size=4))
    wait_s: Any = reset_after_s(headers, status, NOW, data.draw(st.none() | st.floats(0, 1e9)))
    assert wait_s is None or 0.0 < wait_s <= COOL_MAX_S
