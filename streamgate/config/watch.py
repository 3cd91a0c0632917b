"""Noticing that a file has become another: by what the system tells of its folder, and by looking now and then."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

from watchfiles import awatch

DEBOUNCE_MS: Final = 200
"""Changes closer together than this are one: an editor writes, renames and touches."""
LOOK_MS: Final = 1000
"""How often files are looked at when nothing was heard: network file systems tell nothing, a folder may have gone."""

Files: TypeAlias = Collection[Path] | Callable[[], Collection[Path]]
"""Files, or a function that names them as they are now (such as `lambda: reload.files`)."""
Seen: TypeAlias = Mapping[Path, tuple[int, ...] | None]
"""What tells a file from the one that bore its name before; None for a file that is not there."""


async def watch(files: Files, *, stop: asyncio.Event, on_change: Callable[[], object], look_ms: int = LOOK_MS) -> None:
    """Call `on_change` (a coroutine is awaited) whenever one of the files has become another, until `stop` is set.

    Watched are the folders, not the files: Kubernetes replaces a mounted file by turning a symbolic link beside it, and
    editors by renaming. A folder may vanish and come back. What counts is what a name leads to: neighbours that change,
    such as a log in the same folder, call nothing. What changed before the first look is not noticed.
    """
    seen = _look(files)
    async with contextlib.aclosing(_wakes(files, stop, look_ms)) as wakes:
        async for _ in wakes:
            now = _look(files)
            is_changed = any(seen.get(path, identity) != identity for path, identity in now.items())
            seen = now
            if is_changed:
                answer = on_change()
                if inspect.isawaitable(answer):
                    await answer


async def _wakes(files: Files, stop: asyncio.Event, look_ms: int) -> AsyncGenerator[None, None]:
    """A turn for every batch of changes in the folders, and at least one every `look_ms`."""
    while not stop.is_set():
        folders = _folders(files)
        changes = awatch(
            *folders,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            stop_event=cast("asyncio.Event", _Halt(stop)),
            rust_timeout=look_ms,
            yield_on_timeout=True,
            recursive=False,
        )
        try:
            async with contextlib.aclosing(changes):
                async for _ in changes:
                    yield
                    if _folders(files) != folders:
                        break
        except (OSError, RuntimeError):
            # A folder may go between the look and the watch, and a system may have no watches left: then only look.
            # The errors of watchfiles itself are RuntimeErrors.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), look_ms / 1000)
        yield


class _Halt:
    """The stop event as awatch may have it: awatch sets its event when it is cancelled, and ours is not its to set."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._is_cancelled = False

    def is_set(self) -> bool:
        return self._is_cancelled or self._stop.is_set()

    def set(self) -> None:
        self._is_cancelled = True


def _named(files: Files) -> Collection[Path]:
    return files() if callable(files) else files


def _look(files: Files) -> Seen:
    return {path: _identity(path) for path in _named(files)}


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _folders(files: Files) -> dict[Path, tuple[int, int]]:
    """The folders of the files that are there now, each with what tells it from one that bears its name later."""
    found = {}
    for folder in {path.parent for path in _named(files)}:
        with contextlib.suppress(OSError):
            about = folder.stat()
            found[folder] = (about.st_dev, about.st_ino)
    return found
