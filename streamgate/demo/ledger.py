"""What the scripted server has sent and to whom it is still sending: how a test sees a cancellation arrive."""

from types import TracebackType
from typing import Literal, Self

import msgspec

Outcome = Literal["completed", "cancelled", "broken"]


class Counts(msgspec.Struct, frozen=True):
    """A reading of the ledger. Always ``started == open_streams + completed + cancelled + broken``."""

    open_streams: int
    """Answers under way now, streamed or whole, from the parsed request to the last byte."""
    started: int
    completed: int
    """Reached their end as asked, error statuses included."""
    cancelled: int
    """The reader left first."""
    broken: int
    """Ended by their own script: cut, ended early, or with an in-band error."""
    tokens_sent: int


class Generation:
    """One answer under way; a context manager that settles exactly once, as cancelled unless told otherwise."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger
        self._outcome: Outcome = "cancelled"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ledger.settle(self, self._outcome)

    def token(self, count: int = 1) -> None:
        """`count` tokens were handed to the connection."""
        self._ledger.tokens_sent += count

    def end(self, outcome: Outcome) -> None:
        """How it ends. Said before the last byte goes, for the reader may leave the moment it has that byte."""
        self._outcome = outcome


class Ledger:
    """Counts of one server; not thread-safe, one event loop owns it."""

    def __init__(self) -> None:
        self.tokens_sent = 0
        self._open: set[Generation] = set()
        self._ended: dict[Outcome, int] = {"completed": 0, "cancelled": 0, "broken": 0}

    def generation(self) -> Generation:
        """Count one more as started and open."""
        generation = Generation(self)
        self._open.add(generation)
        return generation

    def settle(self, generation: Generation, outcome: Outcome) -> None:
        """Count one as ended."""
        self._open.remove(generation)
        self._ended[outcome] += 1

    def reset(self) -> None:
        """Forget what ended and what was sent; what is open stays open, and counted."""
        self.tokens_sent = 0
        self._ended = dict.fromkeys(self._ended, 0)

    def statistics(self) -> Counts:
        """The counts now."""
        return Counts(
            open_streams=len(self._open),
            started=len(self._open) + sum(self._ended.values()),
            tokens_sent=self.tokens_sent,
            **self._ended,
        )
