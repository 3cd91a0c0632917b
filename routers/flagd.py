"""Flags of a flagd file, evaluated in this process by flagd's own evaluator (openfeature-flagd-core).

The evaluator is the one inside the provider openfeature-provider-flagd; what the provider puts around it in file mode is not used.
Its thread outlives its shutdown, goes by a growing modification time and so misses a link turned to an older file, and
logs a trace at every look at a broken file; an evaluation through the SDK's client costs 11 µs more, for hooks nobody sets.
"""

from __future__ import annotations

import json
import logging
import stat
import threading
from typing import TYPE_CHECKING, Any, Final

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import OpenFeatureError

from routers.flags import FlagsStatistics, Verdict, failed
from streamgate.config.flag_document import FlagDocument, FlagFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

POLL_S: Final = 0.25
"""How often the file is looked at. Notification by the system is not to be had on every file system, and this costs nothing."""
FILE_MAX_BYTES: Final = 16 * 1024 * 1024
SETTLE_LOOKS: Final = 8
"""Looks after a change that read the file whatever its identity says: two writes within a clock tick may share one."""
_NOTHING: Final = "\0nothing"
"""Stands for the default that a caller of the evaluator gives, to be known again by identity."""
_NOT_READY: Final = "PROVIDER_NOT_READY"


class FlagSet:
    """The flags of one file as it was at one moment. Evaluating is pure but for the time of day that rules may ask for."""

    __slots__ = ("_core", "_settled", "raw")

    def __init__(self, document: FlagDocument) -> None:
        """Compile a document. Flags without targeting are evaluated here, once. Raises FlagFileError when the evaluator refuses."""
        # The evaluator logs an error, or a trace with the value, for each request that a rule cannot take.
        logging.getLogger("openfeature.contrib").setLevel(logging.CRITICAL + 1)
        self._core = FlagdCore()
        try:
            self.raw = _without_references(document.data)
            self._core.set_flags(json.dumps({"flags": self.raw}))  # it changes what it is given
        except Exception as error:  # noqa: BLE001  its message may hold values
            why = f"is refused by flagd's evaluator ({type(error).__name__}); look at its $evaluators"
            raise FlagFileError(f"{document.name}: {why}") from None
        self._settled: dict[str, Verdict] = {}
        for key, flag in document.flags.items():
            if flag.state == "DISABLED" or not flag.has_targeting:
                self._settled[key] = self._evaluate(key, {})

    def evaluate(self, key: str, context: Mapping[str, object]) -> Verdict:
        """What the flag says to a context. Never raises."""
        return self._settled.get(key) or self._evaluate(key, context)

    def _evaluate(self, key: str, context: Mapping[str, Any]) -> Verdict:
        about = EvaluationContext(context.get("targetingKey") or None, context)
        try:
            found = self._core.resolve_string_value(key, _NOTHING, about)
        except OpenFeatureError as error:
            return failed(key, error.error_code.value)
        except Exception:  # noqa: BLE001  rules are data, and a context may hold anything: what they make of it is theirs
            return failed(key, "GENERAL")
        value = None if found.value is _NOTHING else found.value
        return Verdict(key, value, found.variant, str(found.reason))


class FlagdFlags:
    """The flags of a file, followed by a thread: a change is in force within `poll_s` and the time it takes to read.

    A broken file, or none, leaves the last good set in force and is told to `on_problem` once, in one line without values, when two
    looks in a row saw it: an editor may be half way. Until there has been a good file, every flag is ERROR with PROVIDER_NOT_READY.
    `on_change` is told the keys of the flags that changed. Both are called from the thread, the first time by the constructor.
    """

    __slots__ = (
        *("_found", "_identity", "_on_change", "_on_problem", "_path", "_poll_s", "_problem", "_problems", "_refreshes"),
        *("_set", "_settle", "_stop", "_thread", "_untold"),
    )

    def __init__(
        self,
        path: Path,
        *,
        on_problem: Callable[[str], None],
        on_change: Callable[[tuple[str, ...]], None] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """Read the file now, whatever state it is in, and go on looking at it until `close`."""
        self._path = path
        self._on_problem = on_problem
        self._on_change = on_change
        self._poll_s = poll_s
        self._set: FlagSet | None = None
        self._identity: tuple[int, ...] | None = None
        self._found: bytes | str = ""
        self._settle = 1
        self._problem: str | None = None
        self._problems = self._refreshes = 0
        self._untold = False
        self._look()
        self._tell()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"flags {path.name}", daemon=True)
        self._thread.start()

    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict:
        """What the flag says, by the file as it was read last. Never raises, never waits."""
        flags = self._set
        return failed(key, _NOT_READY) if flags is None else flags.evaluate(key, context)

    async def decide(self, key: str, context: Mapping[str, object]) -> Verdict:
        """The same: there is nothing to wait for."""
        return self.evaluate_nowait(key, context)

    def statistics(self) -> FlagsStatistics:
        """Return the figures of this moment."""
        flags = self._set
        return FlagsStatistics(
            provider="flagd",
            is_ready=flags is not None,
            flags=None if flags is None else len(flags.raw),
            refreshes=self._refreshes,
            problems=self._problems,
            problem=self._problem,
        )

    async def close(self) -> None:
        """End the thread. It is waited for: it answers at once, or when the file it is reading has been read."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self._step()
            except Exception:  # noqa: BLE001, S110  what a callback raises must not stop the flags
                pass

    def _step(self) -> None:
        was_untold = self._untold
        self._look()
        if was_untold:
            self._tell()

    def _look(self) -> None:
        """Read the file where it is another than last time, or was so a moment ago, and put it in force if it is good."""
        identity = self._identify()
        if identity != self._identity:
            self._identity, self._settle = identity, SETTLE_LOOKS
        elif not self._settle:
            return
        else:
            self._settle -= 1
        found = self._read(identity)
        if found == self._found:
            return
        self._found = found
        try:
            if isinstance(found, str):
                raise FlagFileError(found)  # noqa: TRY301
            flags = FlagSet(FlagDocument(found, str(self._path)))
        except FlagFileError as error:
            self._problem, self._untold = str(error), True
            self._problems += 1
            return
        self._problem, self._untold = None, False
        before, self._set = self._set, flags
        self._refreshes += 1
        if self._on_change is not None and (changed := _changed(before, flags)):
            self._on_change(changed)

    def _tell(self) -> None:
        if self._untold and self._problem is not None:
            self._untold = False
            self._on_problem(self._problem + ("" if self._set is None else "; the flags read before stay in force"))

    def _identify(self) -> tuple[int, ...] | None:
        """What tells this file from another of its name, a link followed; None where there is none."""
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size, about.st_mode

    def _read(self, identity: tuple[int, ...] | None) -> bytes | str:
        """What stands in the file, or the sentence that says why that cannot be known."""
        if identity is not None and not stat.S_ISREG(identity[4]):
            return f"{self._path}: is not a file"
        if identity is not None and identity[3] > FILE_MAX_BYTES:
            return f"{self._path}: is larger than {FILE_MAX_BYTES // 1024**2}MiB"
        try:
            return self._path.read_bytes()
        except OSError as error:
            return f"{self._path}: cannot be read: {(error.strerror or 'unknown reason').lower()}"


def _changed(before: FlagSet | None, after: FlagSet) -> tuple[str, ...]:
    """The keys of flags that came, went or are others, whatever line they moved to."""
    old = {} if before is None else before.raw
    return tuple(sorted(key for key in old.keys() | after.raw.keys() if old.get(key) != after.raw.get(key)))


def _without_references(data: dict[str, Any]) -> dict[str, Any]:
    """The flags with `{"$ref": NAME}` replaced by the rule of that name in `$evaluators`, one name after the other.

    The evaluator does the same on the text, by a regular expression whose replacement it does not escape: a rule with
    a non-ASCII letter or a backslash in it would break the whole set.
    """
    flags: dict[str, Any] = data["flags"]
    for name, rule in (data.get("$evaluators") or {}).items():
        flags = _replaced(flags, {"$ref": name}, rule)
    return flags


def _replaced(value: Any, reference: dict[str, str], rule: Any) -> Any:
    if value == reference:
        return rule
    if isinstance(value, dict):
        return {key: _replaced(inner, reference, rule) for key, inner in value.items()}
    return [_replaced(inner, reference, rule) for inner in value] if isinstance(value, list) else value
