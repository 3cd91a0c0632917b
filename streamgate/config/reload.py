"""The configuration in force, and how the next one takes its place: whole, by one assignment, or not at all.

Read, check and compile happen beside the running configuration. Whatever fails there leaves it in force, and the
reason is kept for whoever asks. A document with the same content is no change, unless a secret or a certificate it refers to
has become another.
"""

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from streamgate.config.compile import Snapshot, compile_snapshot
from streamgate.config.load import Loaded
from streamgate.config.problem import ConfigurationError
from streamgate.config.spec import Spec

T = TypeVar("T")


class Outcome(enum.Enum):
    """What came of an attempt to reload; the label of `streamgate_reloads_total`."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ReloadStatistics:
    """What a reload has come to so far."""

    number: int
    """Of the configuration in force."""
    loaded_at: float
    """When it was loaded, in wall-clock seconds since 1970."""
    applied: int
    unchanged: int
    refused: int
    last_error: str | None


class Reload(Generic[T]):
    """Holds the configuration in force and replaces it.

    `read` gives the configuration as the files are now (`load` with its arguments bound), `build` makes plans of it.
    `beside` tells what else it rests on is now: when that is another, it is a change. After a swap `on_swap(old, new)` is
    called, after every attempt `on_outcome(outcome, error_text)`. The first configuration is read here: raises
    ConfigurationError, or what `build` raises.
    """

    def __init__(
        self,
        read: Callable[[], Loaded],
        build: Callable[[Spec], T],
        *,
        now_wall: float,
        beside: Callable[[Spec], object] = lambda _spec: None,
        on_swap: Callable[[Snapshot[T], Snapshot[T]], None] = lambda _old, _new: None,
        on_outcome: Callable[[Outcome, str | None], None] = lambda _outcome, _error: None,
    ) -> None:
        self._read = read
        self._build = build
        self._on_swap = on_swap
        self._on_outcome = on_outcome
        self._outcomes: Counter[Outcome] = Counter()
        self._last_error: str | None = None
        self._beside = beside
        loaded = read()
        self._seen_beside = beside(loaded.spec)
        self._current = compile_snapshot(loaded, build=build, now_wall=now_wall, number=1)
        self._files = self._current.files

    @property
    def current(self) -> Snapshot[T]:
        """The configuration in force. Read it once for an exchange, and keep what you read."""
        return self._current

    @property
    def last_error(self) -> str | None:
        """Why the last attempt was refused; None when it was not."""
        return self._last_error

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """How often each outcome has come, all of them named."""
        return {outcome: self._outcomes[outcome] for outcome in Outcome}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the last attempt, also of a refused one: what to watch for the next."""
        return self._files

    def statistics(self) -> ReloadStatistics:
        """Everything above as one record."""
        return ReloadStatistics(
            number=self._current.number,
            loaded_at=self._current.loaded_at,
            applied=self._outcomes[Outcome.APPLIED],
            unchanged=self._outcomes[Outcome.UNCHANGED],
            refused=self._outcomes[Outcome.REFUSED],
            last_error=self._last_error,
        )

    def is_change(self, loaded: Loaded) -> bool:
        """Whether it is another configuration than the one in force; a secret alone shows in the spec, not in the hash."""
        current = self._current
        same = loaded.hash == current.hash and loaded.spec == current.spec
        return not same or self._beside(loaded.spec) != self._seen_beside

    def apply(self, now_wall: float) -> Outcome:
        """Read the files again, and put them in force if they can be and are different. Raises what callbacks do."""
        try:
            new = self._next(now_wall)
        except ConfigurationError as error:
            self._files = error.files or self._files
            return self._settle(Outcome.REFUSED, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a build raises, the old configuration stays in force
            return self._settle(Outcome.REFUSED, f"{type(error).__name__}: {error}")
        if new is None:
            return self._settle(Outcome.UNCHANGED, None)
        old, self._current = self._current, new
        self._on_swap(old, new)
        return self._settle(Outcome.APPLIED, None)

    def _next(self, now_wall: float) -> Snapshot[T] | None:
        loaded = self._read()
        self._files = loaded.files
        if not self.is_change(loaded):
            return None
        beside = self._beside(loaded.spec)
        new = compile_snapshot(loaded, build=self._build, now_wall=now_wall, number=self._current.number + 1)
        self._seen_beside = beside
        return new

    def _settle(self, outcome: Outcome, error_text: str | None) -> Outcome:
        self._last_error = error_text
        self._outcomes[outcome] += 1
        self._on_outcome(outcome, error_text)
        return outcome
