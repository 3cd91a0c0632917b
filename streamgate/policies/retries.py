"""Which attempts may be made again, when, and who pays for it.

Only while nothing is committed to the client; that is the caller's to know. A retry is asked for twice: `Retries` says
whether this attempt may be repeated at all, `Budget` whether the service can bear one more just now. Without the
second, retries multiply the load of an upstream that fails because it is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Outcome: TypeAlias = Literal["connect", "reset"] | int
"""How an attempt failed: no connection (nothing was sent), lost before the answer's head, or answered a status."""

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
"""Methods that may be sent twice without more effect than once (RFC 9110 §9.2.2)."""

BACKOFF_BASE_S: Final = 0.025
BACKOFF_CAP_S: Final = 0.25
PATIENCE_S: Final = 2.0
"""The longest Retry-After that is waited for; a longer one is the client's to decide about."""


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """A budget's window at one moment; `denied` counts all refusals since the beginning."""

    requests: int
    retries: int
    denied: int


class Budget:
    """At most a fifth as many retries as requests in ten seconds, three in any case (linkerd's and Envoy's 20 %).

    The window is kept in ten slots and moves by whole slots: it looks back over nine to ten tenths of its length.
    """

    __slots__ = ("_denied", "_floor", "_ratio", "_requests", "_retries", "_slot", "_slot_s", "_spent", "_total")

    _SLOTS: Final = 10

    def __init__(self, ratio: float = 0.2, floor: int = 3, window_s: float = 10.0) -> None:
        """Allow `ratio` retries per request and `floor` in any case, per `window_s` seconds."""
        if ratio < 0 or floor < 0 or window_s <= 0:
            message = f"ratio {ratio}, floor {floor} and window {window_s} s make no retry budget; use positive numbers"
            raise ValueError(message)
        self._ratio = ratio
        self._floor = floor
        self._slot_s = window_s / self._SLOTS
        self._slot = 0
        self._requests = [0] * self._SLOTS
        self._retries = [0] * self._SLOTS
        self._total = 0
        self._spent = 0
        self._denied = 0

    def deposit(self, now: float) -> None:
        """Count one ordinary request: a first attempt, never a retry."""
        slot = int(now / self._slot_s)
        if slot > self._slot:
            self._move_to(slot)
        self._requests[self._slot % self._SLOTS] += 1
        self._total += 1

    def try_withdraw(self, now: float) -> bool:
        """Pay for one retry; False when the window has seen its share."""
        slot = int(now / self._slot_s)
        if slot > self._slot:
            self._move_to(slot)
        if self._spent >= max(self._floor, int(self._total * self._ratio)):
            self._denied += 1
            return False
        self._retries[self._slot % self._SLOTS] += 1
        self._spent += 1
        return True

    def _move_to(self, slot: int) -> None:
        """Forget the slots that lie outside the window ending with `slot`."""
        for passed in range(self._slot + 1, min(slot, self._slot + self._SLOTS) + 1):
            place = passed % self._SLOTS
            self._total -= self._requests[place]
            self._spent -= self._retries[place]
            self._requests[place] = self._retries[place] = 0
        self._slot = slot

    def statistics(self) -> BudgetStatistics:
        """Return the figures as of the last deposit or withdrawal."""
        return BudgetStatistics(requests=self._total, retries=self._spent, denied=self._denied)


def backoff_s(attempt: int, random: Callable[[], float]) -> float:
    """Return how long to wait after the `attempt`-th try (from 1): anything up to 25 ms, doubling, at most 250 ms.

    Full jitter, Envoy's figures: those that failed together must not come back together.
    """
    return random() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 10))


_NUMBER = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,6})?")  # digits alone by RFC 9110 §10.2.3; some send a fraction


def retry_after_s(headers: Iterable[tuple[bytes, bytes]], now_wall: float) -> float | None:
    """Return how long an upstream asks to be left alone, never less than 0; None where it does not say so readably.

    `retry-after-ms` counts before Retry-After, being finer; that may be seconds or a date (RFC 9110 §10.2.3), which is
    compared with `now_wall` (seconds since the epoch). The value is not capped: `Retries.decide` does that.
    """
    asked: float | None = None
    for name, value in headers:
        lower = name.lower()
        text = value.strip(b" \t")
        if lower == b"retry-after-ms" and _NUMBER.fullmatch(text):
            return float(text) / 1000.0
        if lower == b"retry-after" and asked is None:
            asked = float(text) if _NUMBER.fullmatch(text) else _until(text, now_wall)
    return asked


def _until(date: bytes, now_wall: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date.decode("ascii"))
    except ValueError:
        return None
    if moment.tzinfo is None:  # asctime's form names no zone; every HTTP date is UTC (RFC 9110 §5.6.7)
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_wall)


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What to do after a failed attempt: try again after `wait_s` or give the answer to the client, and why, in a word.

    `elsewhere`: the next attempt has to go to another endpoint. Otherwise another is better, but the same will do.
    """

    retry: bool
    wait_s: float
    reason: str
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Retries:
    """A route's rule: how many further attempts, and after which outcomes (`connect`, `reset`, statuses)."""

    attempts: int = 2
    on: frozenset[Outcome] = frozenset(("connect", "reset"))

    def decide(  # noqa: PLR0913  the facts of one attempt
        self,
        *,
        method: bytes,
        attempt: int,
        outcome: Outcome,
        body_replayable: bool,
        other_endpoint: bool,
        random: Callable[[], float],
        idempotent: bool = False,
        retry_after_s: float | None = None,
        remaining_s: float = float("inf"),
    ) -> Verdict:
        """Return the verdict on the `attempt`-th try (from 1), which ended as `outcome` says.

        `idempotent` declares a method idempotent that is not by itself (an Idempotency-Key on a route that wants it);
        `body_replayable`: all of the request body is still at hand; `other_endpoint`: one that has not failed for this
        request may be picked; `remaining_s`: what is left of the deadline.

        Where no connection was made nothing was sent: any method, at once, but only to another endpoint. Anything else
        may have had its effect: only what is idempotent, after a pause. A Retry-After beyond 2 s or the deadline is not
        waited for; another endpoint is asked if there is one.
        """
        refused = self._refusal(method, attempt, outcome, idempotent=idempotent, body_replayable=body_replayable)
        if refused is not None:
            return refused
        if remaining_s <= 0.0:
            return _refused("deadline")
        if outcome == "connect":
            return _CONNECT if other_endpoint else _refused("no_other_endpoint")
        pause_s = backoff_s(attempt, random)
        wait_s = pause_s + (retry_after_s or 0.0)
        elsewhere = retry_after_s is not None and (retry_after_s > PATIENCE_S or wait_s >= remaining_s)
        if elsewhere:
            wait_s = pause_s
            if not other_endpoint:
                return _refused("retry_after")
        if wait_s >= remaining_s:
            return _refused("deadline")
        return Verdict(retry=True, wait_s=wait_s, reason=_word(outcome), elsewhere=elsewhere)

    def _refusal(
        self, method: bytes, attempt: int, outcome: Outcome, *, idempotent: bool, body_replayable: bool
    ) -> Verdict | None:
        """Return why this attempt may not be repeated, whatever the time and the other endpoints; None if it may."""
        if attempt > self.attempts:
            return _refused("attempts_spent")
        if outcome not in self.on:
            return _refused("not_listed")
        if outcome != "connect":
            if not (idempotent or method in IDEMPOTENT):
                return _refused("not_idempotent")
            if not body_replayable:
                return _refused("body_not_replayable")
        return None


def _refused(reason: str) -> Verdict:
    return Verdict(retry=False, wait_s=0.0, reason=reason)


def _word(outcome: Outcome) -> str:
    return "status" if isinstance(outcome, int) else outcome


_CONNECT: Final = Verdict(retry=True, wait_s=0.0, reason="connect", elsewhere=True)
