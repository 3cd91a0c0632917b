"""Which failure lets a model's request go on to another candidate, while nothing is committed to the client.

Going on costs more than it seems: where the upstream may have generated already, the same completion is made, and perhaps
billed, twice. Such attempts are counted apart and paid for from a budget, so that a slow provider does not double itself.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["connect", "reset", "first_byte", "truncated", "in_band", "cancelled", "own_limit"] | int
"""How an attempt ended: no connection; lost before the answer's head; no first byte in time; ended, or an error inside the
stream, before anything was committed; the client left; a limit of ours refused; or answered this status."""

Trigger: TypeAlias = Literal["connect", "reset", "first_byte", "truncated", "in_band", "rate_limited", "5xx", "credentials"]
"""The classes that can be chosen from."""

TRIGGERS: Final[frozenset[Trigger]] = frozenset(
    ("connect", "reset", "first_byte", "truncated", "in_band", "rate_limited", "5xx", "credentials")
)

_CLASSES: Final[dict[Outcome, Trigger]] = {
    "connect": "connect",
    "reset": "reset",
    "first_byte": "first_byte",
    "truncated": "truncated",
    "in_band": "in_band",
    401: "credentials",
    402: "credentials",
    403: "credentials",
    429: "rate_limited",
    **dict.fromkeys((status for status in range(500, 600) if status not in {501, 505, 508}), "5xx"),
}
"""What is not here never goes on: 400, 404, 413, 422 and their kind are the request's, and would be answered alike; so would
what is not implemented (501), not spoken (505) or a loop (508).
"""

GENERATES_AFTER_S: Final = 1.0
"""A 500, 502 or 504 that took longer than this may have been generating until then."""

_ERROR_STATUSES: Final[dict[str, int]] = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "content_filter": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def in_band(*words: object) -> Outcome:
    """Return the outcome that an error inside a stream amounts to, from its `code` and `type` in that order.

    The first that is a status (OpenRouter sends a number) or a word of OpenAI's or Anthropic's that stands for one
    decides, so that a request which is wrong is not sent elsewhere because it was refused late. Else `in_band`.
    """
    for word in words:
        if isinstance(word, int) and 400 <= word < 600:  # noqa: PLR2004  a status of failure
            return word
        if isinstance(word, str) and word in _ERROR_STATUSES:
            return _ERROR_STATUSES[word]
    return "in_band"


def may_have_generated(outcome: Outcome, *, sent: bool, took_s: float) -> bool:
    """Return whether a failed attempt may have made tokens that nobody will read.

    `sent`: all of the request had been written; `took_s`: from then until the failure. A 429, 503 or 529 is a refusal.
    """
    if outcome in {"first_byte", "truncated", "in_band"}:
        return True
    if outcome == "reset":
        return sent
    return outcome in {500, 502, 504} and took_s > GENERATES_AFTER_S


class Budget(Protocol):
    """What pays for generations that may be the second of their kind; `streamgate.policies.retries.Budget` is one."""

    def deposit(self, now: float) -> None:
        """Count one ordinary request."""
        ...

    def try_withdraw(self, now: float) -> bool:
        """Pay for one more attempt; False when there is nothing left."""
        ...


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Whether another candidate is asked, why (or why not) in a word, and whether it may generate what was generated before.

    Reasons to go on are triggers. Not to: `cancelled`, `own_limit`, `not_listed`, `attempts_spent`, `no_candidate`,
    `deadline`, `budget`.
    """

    go_on: bool
    reason: str
    duplicate: bool = False


class FallbackStatistics(msgspec.Struct, frozen=True):
    """Since the beginning: how often another candidate was asked, how often that may have been a duplicate generation, and
    how often the budget refused one.
    """

    went_on: int
    duplicates: int
    denied: int


class Fallbacks:
    """A model's rule for going on. The budget is the model's own, or shared by whoever made it."""

    __slots__ = ("_attempts_max", "_budget", "_denied", "_duplicates", "_on", "_went_on")

    ATTEMPTS_MAX: Final = 4
    CLIENT_RETRIES_MAX: Final = 2
    """The attempts that a client which is repeating itself gets: it asks again anyway, and both multiply."""

    def __init__(self, budget: Budget, *, attempts_max: int = ATTEMPTS_MAX, on: frozenset[Trigger] = TRIGGERS) -> None:
        """Go on after `on`, at most `attempts_max` attempts in all. Raises ValueError when that is less than 1."""
        if attempts_max < 1:
            message = f"attempts_max is {attempts_max}; give 1 for no fallback, more for as many attempts in all"
            raise ValueError(message)
        self._budget = budget
        self._attempts_max = attempts_max
        self._on = on
        self._went_on = 0
        self._duplicates = 0
        self._denied = 0

    def deposit(self, now: float) -> None:
        """Count one request, at its first attempt; a fifth of them pays for duplicates."""
        self._budget.deposit(now)

    def decide(  # noqa: PLR0913  the facts of one attempt
        self,
        outcome: Outcome,
        now: float,
        *,
        attempt: int,
        candidates_left: bool,
        generated: bool,
        client_retries: int = 0,
        our_credentials: bool = False,
        remaining_s: float = float("inf"),
    ) -> Verdict:
        """Return the verdict on the `attempt`-th attempt (from 1); only asked while nothing is committed.

        `generated`: see `may_have_generated`. `client_retries`: the client's x-stainless-retry-count. `our_credentials`:
        the target was asked with a key of the configuration, so a 401, 402 or 403 speaks of that key and another target's
        may do; with the client's own it speaks of the client. `remaining_s`: what is left of the deadline.
        """
        reason = self._refusal(outcome, attempt, client_retries, our_credentials=our_credentials)
        if reason is None and not candidates_left:
            reason = "no_candidate"
        if reason is None and remaining_s <= 0.0:
            reason = "deadline"
        if reason is None and generated and not self._budget.try_withdraw(now):
            self._denied += 1
            reason = "budget"
        if reason is not None:
            return Verdict(go_on=False, reason=reason)
        self._went_on += 1
        self._duplicates += generated
        return Verdict(go_on=True, reason=_CLASSES[outcome], duplicate=generated)

    def _refusal(self, outcome: Outcome, attempt: int, client_retries: int, *, our_credentials: bool) -> str | None:
        if outcome in {"cancelled", "own_limit"}:
            return str(outcome)
        trigger = _CLASSES.get(outcome)
        if trigger not in self._on or (trigger == "credentials" and not our_credentials):
            return "not_listed"
        attempts_max = self._attempts_max if client_retries <= 0 else min(self._attempts_max, self.CLIENT_RETRIES_MAX)
        return "attempts_spent" if attempt >= attempts_max else None

    def statistics(self) -> FallbackStatistics:
        """Return the figures of this moment."""
        return FallbackStatistics(went_on=self._went_on, duplicates=self._duplicates, denied=self._denied)
