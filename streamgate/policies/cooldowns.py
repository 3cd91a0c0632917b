"""When a target is left alone for a while, and for how long.

Two reasons, kept apart. It *asked* to be: a 429, or a Retry-After or an exhausted limit that came with another answer.
It is *broken*: connections, first bytes and answers fail, several in a row or most of the last minute's. What a client did
wrong (any other 4xx) and a client that left say nothing about a target (sgl-project/sglang #25811).

A cooldown only says so. Whether a cooling target is asked nevertheless, because all are, is for `routers.models` to say; who
then asks takes a lease of `probe`, so that an outage of a model's only target does not cost every request its timeout
(BerriAI/litellm #40405).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from streamgate.lease import Count, Lease

if TYPE_CHECKING:
    from collections.abc import Iterable

Failure: TypeAlias = Literal["connect", "reset", "first_byte", "truncated", "in_band", "cancelled"] | int
"""How an attempt failed: no connection, lost before the answer's head, no first byte in time, ended without its terminal
event, an error inside the stream, the client left; or answered this status."""

COOL_MAX_S: Final = 600.0
"""The longest any word of an upstream is believed. A quota of a day is asked about again every ten minutes."""
EJECTED_S: Final = 3.0
EJECTED_MAX_S: Final = 60.0
"""Without a word of the upstream: 3 s, twice that the next time in a row, three times …, at most 60 s (agentgateway's rule)."""
IN_A_ROW: Final = 3
SHARE: Final = 0.5
SAMPLES: Final = 5
"""Broken is what fails 3 times in a row, or more than half of at least 5 times within a minute (LiteLLM's rule)."""

_BREAKS: Final = frozenset(("connect", "reset", "first_byte", "truncated", "in_band", *range(500, 600))) - {501, 505, 508}
_LIMITED: Final = 429


class CooldownStatistics(msgspec.Struct, frozen=True):
    """One target at one moment. `until` is monotonic seconds, 0.0 where it never cooled; `reason` is of that time.

    `cooled` counts how often cooling began, `succeeded` and `failed` are of the last minute as of the last event.
    """

    until: float
    reason: Literal["asked", "broken"] | None
    in_a_row: int
    cooled: int
    succeeded: int
    failed: int


class Cooldown:
    """What is known about one target. One per worker, kept over reloads; the sooner a success comes, the sooner it ends."""

    __slots__ = (
        *("_asked_until", "_broken_until", "_cooled", "_ejections", "_in_a_row", "_limited", "_outcomes", "_probes"),
        "until",
    )

    def __init__(self) -> None:
        """Begin without a history."""
        self.until = 0.0
        """When it has cooled down, in monotonic seconds; read by every pick, so a plain attribute."""
        self._asked_until = 0.0
        self._broken_until = 0.0
        self._in_a_row = 0
        self._ejections = 0
        self._limited = 0
        self._cooled = 0
        self._outcomes = _Minute()
        self._probes = Count(1)

    def is_cooling(self, now: float) -> bool:
        """Should another target be asked?"""
        return now < self.until

    def failed(self, now: float, failure: Failure, wait_s: float | None = None) -> None:
        """Take in a failed attempt; `wait_s` is what the upstream asked for (see `reset_after_s`).

        A 429 cools at once, for `wait_s` or for a step that grows with each 429 in a row. What breaks a target cools it
        when it has happened often enough, and at once when it came with a `wait_s`. Anything else is not counted.
        """
        if failure == _LIMITED:
            if not wait_s and self.is_cooling(now):
                return  # sent before the last one was answered; tells nothing new
            self._limited += 1
            self._leave_alone(now, wait_s or min(EJECTED_MAX_S, EJECTED_S * self._limited))
        elif failure in _BREAKS:
            self._in_a_row += 1
            self._outcomes.add(now, failed=True)
            if wait_s:
                self._leave_alone(now, wait_s)
            elif not self.is_cooling(now) and (self._in_a_row >= IN_A_ROW or self._outcomes.mostly_failed):
                self._ejections += 1
                self._outcomes.clear()
                self._broken_until = now + min(EJECTED_MAX_S, EJECTED_S * self._ejections)
                self._settle(now)

    def succeeded(self, now: float, wait_s: float | None = None) -> None:
        """Take in an answer, at its first byte: what was broken is not. What was asked for stays.

        `wait_s`: the answer said that it was the last one before a limit is reset.
        """
        self._outcomes.add(now, failed=False)
        if self._in_a_row or self._ejections or self._limited:
            self._in_a_row = self._ejections = self._limited = 0
            self._broken_until = 0.0
            self._settle(now)
        if wait_s:
            self._leave_alone(now, wait_s)

    def probe(self, now: float) -> Lease | None:
        """Return a lease for asking a target although it cools, to be given back at its first byte or failure.

        None: it is broken and another request is finding out whether it still is. Who gets none should fail at once and
        say when to come again (`until`). A target that only asked to be left alone answers quickly, so anybody may ask.
        """
        self._probes.resize(1 if now < self._broken_until else None)
        return self._probes.take()

    def _leave_alone(self, now: float, wait_s: float) -> None:
        self._asked_until = max(self._asked_until, now + min(COOL_MAX_S, wait_s))
        self._settle(now)

    def _settle(self, now: float) -> None:
        was = self.until
        self.until = max(self._asked_until, self._broken_until)
        self._cooled += was <= now < self.until

    def statistics(self) -> CooldownStatistics:
        """Return the figures of this moment."""
        reason: Literal["asked", "broken"] = "asked" if self._asked_until >= self._broken_until else "broken"
        return CooldownStatistics(
            until=self.until,
            reason=reason if self.until else None,
            in_a_row=self._in_a_row,
            cooled=self._cooled,
            succeeded=self._outcomes.all - self._outcomes.bad,
            failed=self._outcomes.bad,
        )


class _Minute:
    """How many attempts of the last minute ended well or badly, in twelve slots that move by whole ones."""

    __slots__ = ("_all", "_bad", "_slot", "all", "bad")

    _SLOTS: Final = 12
    _SLOT_S: Final = 5.0

    def __init__(self) -> None:
        self._slot = 0
        self.clear()

    def clear(self) -> None:
        """Forget, so that the next judgement is a new one."""
        self._all = [0] * self._SLOTS
        self._bad = [0] * self._SLOTS
        self.all = 0
        self.bad = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count one more."""
        slot = int(now / self._SLOT_S)
        if slot > self._slot:
            for passed in range(self._slot + 1, min(slot, self._slot + self._SLOTS) + 1):
                place = passed % self._SLOTS
                self.all -= self._all[place]
                self.bad -= self._bad[place]
                self._all[place] = self._bad[place] = 0
            self._slot = slot
        place = self._slot % self._SLOTS
        self._all[place] += 1
        self._bad[place] += failed
        self.all += 1
        self.bad += failed

    @property
    def mostly_failed(self) -> bool:
        """More than half of enough to judge by?"""
        return self.all >= SAMPLES and self.bad > SHARE * self.all


_LIMITS: Final = re.compile(
    rb"x-rate-?limit-(?P<word>remaining|reset)(?P<what>-[a-z-]{1,32})?|anthropic-ratelimit-(?P<theirs>[a-z-]{1,32})-(?P<verb>remaining|reset)"
)
_NUMBER: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_DURATION: Final = re.compile(rb"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|m|s|us|\xc2\xb5s|ns)){1,6}")
_PART: Final = re.compile(rb"([0-9.]+)(h|ms|m|s|us|\xc2\xb5s|ns)")
_UNITS_S: Final = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 1e-3, b"us": 1e-6, b"\xc2\xb5s": 1e-6, b"ns": 1e-9}
_RFC3339: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_RELATIVE_BELOW_S: Final = 30 * 86400.0  # agentgateway's line between seconds from now and seconds since 1970
_MILLISECONDS_FROM: Final = 1e11  # OpenRouter counts milliseconds since 1970


def reset_after_s(
    headers: Iterable[tuple[bytes, bytes]], status: int, now_wall: float, retry_after_s: float | None = None
) -> float | None:
    """Return how long an answer asks that its target be left alone, more than 0 and at most `COOL_MAX_S`; None if it does not.

    `retry_after_s` is what its Retry-After or retry-after-ms says, as already read; it is believed with 429 and 5xx, and
    before all else. Then, with 429 and 2xx, `x-ratelimit-reset[-WHAT]` and `anthropic-ratelimit-WHAT-reset`: of the limits
    of which nothing remains the last to be reset; with 429, where none of them says so, the first. They may be a number
    (seconds below 30 days, else seconds or milliseconds since 1970), a Go duration (`6m0s`) or a date of RFC 3339.
    What is 0, negative, past or unreadable says nothing (Azure sends -1 and 0: openai/openai-dotnet #838).
    """
    if retry_after_s and (status == _LIMITED or status >= 500):  # noqa: PLR2004  the servers' class
        return min(COOL_MAX_S, retry_after_s)
    if status != _LIMITED and status // 100 != 2:  # noqa: PLR2004  an answer
        return None
    spent: set[bytes] = set()
    resets_s: dict[bytes, float] = {}
    for name, value in headers:
        found = _LIMITS.fullmatch(lower) if b"limit-" in (lower := name.lower()) else None
        if found is None:
            continue
        what = found["what"] or found["theirs"] or b""
        if (found["word"] or found["verb"]) == b"remaining":
            if value.strip() == b"0":
                spent.add(what)
        elif wait_s := _wait_s(value.strip(), now_wall):
            resets_s[what] = wait_s
    waits_s = [wait_s for what, wait_s in resets_s.items() if what in spent]
    if waits_s:
        return min(COOL_MAX_S, max(waits_s))
    return min(COOL_MAX_S, *resets_s.values()) if status == _LIMITED and resets_s else None


def _wait_s(text: bytes, now_wall: float) -> float | None:
    """Return how far off the moment is that a text names, in any of its forms; None when it is not ahead or names none."""
    if _NUMBER.fullmatch(text):
        wait_s = float(text)
        if wait_s >= _RELATIVE_BELOW_S:
            wait_s = (wait_s / 1000.0 if wait_s >= _MILLISECONDS_FROM else wait_s) - now_wall
    elif _DURATION.fullmatch(text):
        wait_s = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    elif _RFC3339.fullmatch(text):
        try:
            wait_s = datetime.fromisoformat(text.decode()).timestamp() - now_wall
        except ValueError:  # a thirtieth of February
            return None
    else:
        return None
    return wait_s if wait_s > 0.0 else None
