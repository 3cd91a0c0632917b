"""What a flag says about a request, whoever decides it: the file in `routers.flagd`, or a service in `routers.ofrep`.

A context is what rules may look at: names and values, with the user or session under `targetingKey`, as flagd and OFREP call
it. Nothing of it is kept in records or told in errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What a flag says, and why.

    `value` is the flag's text, for a model the name of a split; None where the flag says nothing that can be used, so that
    the caller's own default counts. `variant` is the name that the flag gives this value. `reason` is OpenFeature's:
    STATIC, TARGETING_MATCH, SPLIT, DEFAULT, DISABLED, CACHED, STALE, UNKNOWN, ERROR. `error` is OpenFeature's code with ERROR, else None:
    FLAG_NOT_FOUND, TYPE_MISMATCH, PARSE_ERROR, PROVIDER_NOT_READY, INVALID_CONTEXT, TARGETING_KEY_MISSING, GENERAL.
    """

    key: str
    value: str | None
    variant: str | None
    reason: str
    error: str | None = None


def failed(key: str, error: str) -> Verdict:
    """The verdict of a flag that could not be evaluated."""
    return Verdict(key, None, None, "ERROR", error)


class FlagsStatistics(msgspec.Struct, frozen=True):
    """Flags at one moment.

    `is_ready`: there has been an answer or a good file. `flags`: how many there are, None where that is not known.
    `refreshes`: good files read, or answers got. `problems`: breakages of the file, or failed asks, since the beginning.
    `problem`: what is wrong now. `stale`: verdicts given from memory because the service was away. `kept`: verdicts remembered.
    """

    provider: Literal["flagd", "ofrep"]
    is_ready: bool
    flags: int | None
    refreshes: int
    problems: int
    problem: str | None
    stale: int = 0
    kept: int = 0


class Flags(Protocol):
    """Who is asked. Neither way of asking raises; ask the first way first."""

    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict | None:
        """The verdict, or None where it has to be waited for: then await `decide`."""
        ...

    async def decide(self, key: str, context: Mapping[str, object]) -> Verdict:
        """The verdict, waited for within the provider's timeout."""
        ...

    def statistics(self) -> FlagsStatistics:
        """Return the figures of this moment."""
        ...

    async def close(self) -> None:
        """End what runs in the background. What is asked afterwards is answered from memory."""
        ...
