"""A flagd flag file on disk: read, and changed so that nobody ever sees half of it and everybody can see who did it.

A change takes the lock beside the file, reads the file again, checks the result, notes who, when and what in the history
beside it, and puts the new file in the place of the old one in one step. Beside `flags.json` stand `flags.json.lock`
and `flags.json.history.jsonl`, one line of JSON for each change; the flag file itself holds flags alone. Behind a symbolic
link it is the file that is changed, and its neighbours that are used. Whoever edits by hand takes no lock: a change
that meets an edit of that kind is given up, not laid over it.
"""

import contextlib
import fcntl
import getpass
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from streamgate.config.flag_document import Flag, FlagDocument, FlagFileError

LOCK_WAIT_S: Final = 5.0
"""How long a change waits for another one; a change takes milliseconds."""
_LOOK_S: Final = 0.02
_NAME_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the history. `before` and `after` are names of variants; `ts` is UTC, as in records."""

    ts: str
    who: str
    host: str
    key: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Flip:
    """What came of setting a default variant."""

    flag: Flag
    """The flag as it was before."""
    variant: str
    changed: bool
    """False when it had that variant already: then nothing was written."""
    warnings: tuple[str, ...]
    """Why requests may not follow, a sentence each."""


class FlagFile:
    """A flag file by its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> FlagDocument:
        """Read it as it is now. Raises FlagFileError when it cannot be read or is broken."""
        return self._parsed(self._content(self.path))

    def last_changes(self) -> Mapping[str, Change]:
        """The latest change of each flag in the history; lines that cannot be read are passed over."""
        found: dict[str, Change] = {}
        with contextlib.suppress(OSError), _beside(self._target(), ".history.jsonl").open("rb") as history:
            for line in history:
                change = _change(line)
                if change is not None:
                    found[change.key] = change
        return found

    def set_default(self, key: str, variant: str, *, who: str, now_wall: float, lock_wait_s: float = LOCK_WAIT_S) -> Flip:
        """Make `variant` the default of flag `key`, noted as done by `who` at `now_wall` (seconds since the epoch).

        Raises FlagFileError: no such flag or variant, a broken file, one that cannot be written, one that was changed by
        somebody else meanwhile, or a lock that was not free within `lock_wait_s`.
        """
        target = self._target()
        self._content(target)  # where there is no file, no lock is left beside it
        if not os.access(target, os.W_OK):
            raise FlagFileError(f"{self.path}: is read-only for you; make it writable, or change it where it comes from")
        try:
            with _locked(target, self.path, who, lock_wait_s):
                content = self._content(target)
                document = self._parsed(content)
                text = document.with_default(key, variant)
                flag = document.flag(key)
                changed = flag.default_variant != variant
                if changed:
                    new = text.encode()
                    self._check(document, new, key, variant)
                    change = Change(_utc(now_wall), who, socket.gethostname(), key, flag.default_variant, variant)
                    with _noted(_beside(target, ".history.jsonl"), change, target):
                        self._replace(target, content, new)
        except OSError as error:
            raise FlagFileError(f"{self.path}: cannot be changed: {_reason(error)}") from None
        return Flip(flag, variant, changed, tuple(_warnings(flag, variant, self.path)))

    def _target(self) -> Path:
        return self.path.resolve()

    def _content(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise FlagFileError(f"{self.path}: cannot be read: {_reason(error)}") from None

    def _parsed(self, content: bytes) -> FlagDocument:
        return FlagDocument(content, str(self.path))

    def _check(self, before: FlagDocument, new: bytes, key: str, variant: str) -> None:
        """Whether the new file says what the old one did, but for that one variant."""
        expected = before.data
        expected["flags"][key]["defaultVariant"] = variant
        if self._parsed(new).data != expected:
            raise FlagFileError(f"{self.path}: the change would touch more than flag {json.dumps(key)}; edit the file by hand")

    def _replace(self, target: Path, old: bytes, new: bytes) -> None:
        """Put a new file in the place of the old one, unless that is no longer what was read."""
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                _like(file.fileno(), target)
                file.write(new)
                file.flush()
                os.fsync(file.fileno())
            self._expect(target, old)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def _expect(self, target: Path, content: bytes) -> None:
        if target.read_bytes() != content:
            raise FlagFileError(f"{self.path}: was changed by somebody else just now; look at it, and try again")


def who_am_i(environ: Mapping[str, str]) -> str:
    """Who changes a flag: STREAMGATE_USER, or the name of the login, or the number of the user where there is none."""
    named = environ.get("STREAMGATE_USER", "").strip()
    if not named:
        try:
            named = getpass.getuser()
        except (OSError, KeyError):  # a container's user may have no name
            named = f"uid {os.getuid()}"
    return "".join(character for character in named if character.isprintable())[:_NAME_MAX]


@contextlib.contextmanager
def _locked(target: Path, shown: Path, who: str, wait_s: float) -> Iterator[None]:
    """The lock of a flag file, with who holds it written in it. It stays there: removing it would let two in."""
    end = time.monotonic() + wait_s
    handle = os.open(_beside(target, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "r+b", buffering=0) as lock:
        with contextlib.suppress(PermissionError):  # whoever made it has seen to that
            _like(handle, target)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    holder = lock.read(_NAME_MAX * 4).decode(errors="replace").strip() or "somebody"
                    message = f"{shown}: is being changed by {holder}; waited {wait_s:g}s for it, try again"
                    raise FlagFileError(message) from None
                time.sleep(_LOOK_S)
        lock.truncate(0)
        lock.write(f"{who} (process {os.getpid()})\n".encode())
        yield
        lock.truncate(0)


@contextlib.contextmanager
def _noted(history: Path, change: Change, target: Path) -> Iterator[None]:
    """Note a change before it is made, since one that nobody can trace must not be; take the note back if it fails."""
    is_new = not history.exists()
    with history.open("ab") as file:
        if is_new:
            _like(file.fileno(), target)
        size = os.fstat(file.fileno()).st_size
        line = {"ts": change.ts, "who": change.who, "host": change.host, "key": change.key, "from": change.before, "to": change.after}
        file.write(_line_break(history, size) + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        try:
            yield
        except BaseException:
            file.truncate(size)
            raise


def _line_break(history: Path, size: int) -> bytes:
    """What has to stand before a new line: nothing, unless the last one was cut short."""
    if not size:
        return b""
    with history.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"


def _change(line: bytes) -> Change | None:
    try:
        raw = json.loads(line)
        texts = [raw[name] for name in ("ts", "who", "host", "key", "to")]
        before = raw["from"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(text, str) for text in texts) or not isinstance(before, (str, type(None))):
        return None
    ts, who, host, key, after = texts
    return Change(ts, who, host, key, before, after)


def _warnings(flag: Flag, variant: str, path: Path) -> Iterator[str]:
    key = json.dumps(flag.key)
    if flag.state == "DISABLED":
        yield f"flag {key} is DISABLED, so every model uses its own default split; set its state to ENABLED in {path}"
    if flag.has_targeting:
        yield (
            f"flag {key} has targeting: whom a rule gives a variant keeps it, only the others get the default; "
            f"to move everybody, edit its targeting in {path}"
        )
    if not isinstance(flag.variants[variant], str):
        yield f"the value of variant {json.dumps(variant)} is not text, so it names no split and models use their own default"


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _like(handle: int, model: Path) -> None:
    """Give a new file the mode and, where that is allowed, the owner of another."""
    about = model.stat()
    os.fchmod(handle, about.st_mode & 0o777)
    mine = os.fstat(handle)
    if (mine.st_uid, mine.st_gid) != (about.st_uid, about.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, about.st_uid, about.st_gid)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _utc(now_wall: float) -> str:
    return datetime.fromtimestamp(now_wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _reason(error: OSError) -> str:
    return (error.strerror or "unknown reason").lower()
