"""A file that has become another is noticed, however it was done; what has not changed calls nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from streamgate.config.watch import watch
from tests.kit.wait import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from streamgate.config.watch import Files

LOOK_MS = 50
NEVER_MS = 60_000
"""Longer than a test lasts: only what the system tells is heard."""


class Watched:
    """A watch that counts what it was called for."""

    def __init__(self, files: Files, look_ms: int) -> None:
        self.calls = 0
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(watch(files, stop=self.stop, on_change=self._called, look_ms=look_ms))

    def _called(self) -> None:
        self.calls += 1

    def has_called(self, times: int) -> bool:
        return self.calls == times


@contextlib.asynccontextmanager
async def watching(files: Files, look_ms: int = LOOK_MS) -> AsyncIterator[Watched]:
    """A watch that has taken its first look, and is stopped at the end."""
    watched = Watched(files, look_ms)
    await asyncio.sleep(0)
    yield watched
    assert not watched.task.done()
    watched.stop.set()
    await asyncio.wait_for(watched.task, 10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "streamgate.yaml"
    path.write_text("one", encoding="utf-8")
    return path


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def write_in_place(file: Path) -> None:
    write(file, "other")


def write_beside_and_rename(file: Path) -> None:
    beside = file.with_suffix(".tmp")
    beside.write_text("two", encoding="utf-8")
    beside.replace(file)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("change", [write_in_place, write_beside_and_rename, remove])
async def test_a_change_is_noticed_once(file: Path, change: Callable[[Path], None]) -> None:
    async with watching([file]) as watched:
        change(file)
        await eventually(lambda: watched.calls)
    assert watched.calls == 1


async def test_every_change_is_noticed(file: Path) -> None:
    async with watching([file]) as watched:
        for number in range(1, 4):
            write(file, "x" * 10 * number)
            await eventually(partial(watched.has_called, number))


async def test_what_the_system_tells_is_heard_at_once(file: Path) -> None:
    async with watching([file], NEVER_MS) as watched:

        def noticed() -> int:
            file.write_text("x" * (1 + file.stat().st_size), encoding="utf-8")  # again, until the watch stands
            return watched.calls

        await eventually(noticed)


async def test_a_mounted_file_is_replaced_as_kubernetes_does(tmp_path: Path) -> None:
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "streamgate.yaml").write_text(version, encoding="utf-8")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "streamgate.yaml").symlink_to("..data/streamgate.yaml")
    async with watching([tmp_path / "streamgate.yaml"]) as watched:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        shutil.rmtree(tmp_path / "..1")
        await eventually(lambda: watched.calls)
    assert watched.calls == 1


async def test_neighbours_call_nothing(file: Path) -> None:
    async with watching([file]) as watched:
        for number in range(5):
            (file.parent / "records.log").write_text("x" * number, encoding="utf-8")
        os.utime(file.parent)
        write_in_place(file)
        await eventually(lambda: watched.calls)
    assert watched.calls == 1


async def test_a_folder_may_vanish_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    file = folder / "streamgate.yaml"
    folder.mkdir()
    file.write_text("one", encoding="utf-8")
    async with watching([file]) as watched:
        shutil.rmtree(folder)
        await eventually(lambda: watched.calls == 1)
        folder.mkdir()
        file.write_text("two", encoding="utf-8")
        await eventually(lambda: watched.calls == 2)
        file.write_text("three", encoding="utf-8")
        await eventually(lambda: watched.calls == 3)


async def test_a_folder_that_was_replaced_is_watched_anew(tmp_path: Path) -> None:
    for name in ("conf", "next"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(name, encoding="utf-8")
    file = tmp_path / "conf" / "a.yaml"
    async with watching([file]) as watched:
        (tmp_path / "conf").rename(tmp_path / "old")
        (tmp_path / "next").rename(tmp_path / "conf")
        await eventually(lambda: watched.calls == 1)
        (tmp_path / "old" / "a.yaml").write_text("old ones call nothing", encoding="utf-8")
        file.write_text("the new one does", encoding="utf-8")
        await eventually(lambda: watched.calls == 2)


async def test_no_folder_at_all_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "later" / "a.yaml"
    async with watching([file]) as watched:
        file.parent.mkdir()
        file.write_text("one", encoding="utf-8")
        await eventually(lambda: watched.calls == 1)


async def test_files_may_be_named_anew_and_a_new_one_is_no_change(file: Path) -> None:
    other = file.with_name("key")
    other.write_text("k", encoding="utf-8")
    files = [file]
    async with watching(lambda: files) as watched:
        files.append(other)
        write_in_place(file)
        await eventually(lambda: watched.calls == 1)
        write_in_place(other)
        await eventually(lambda: watched.calls == 2)


async def test_a_coroutine_is_awaited(file: Path) -> None:
    done = asyncio.Event()

    async def on_change() -> None:
        done.set()

    stop = asyncio.Event()
    task = asyncio.create_task(watch([file], stop=stop, on_change=on_change, look_ms=LOOK_MS))
    await asyncio.sleep(0)
    write_in_place(file)
    await asyncio.wait_for(done.wait(), 10)
    stop.set()
    await asyncio.wait_for(task, 10)


async def test_it_stops_at_once_when_told_to(file: Path) -> None:
    async with watching([file], NEVER_MS):
        pass
    stop = asyncio.Event()
    stop.set()
    await asyncio.wait_for(watch([file], stop=stop, on_change=lambda: None), 10)


def test_cancelling_it_ends_its_thread_and_does_not_set_the_stop_of_others(file: Path) -> None:
    async def cancelled() -> bool:
        stop = asyncio.Event()
        task = asyncio.create_task(watch([file], stop=stop, on_change=lambda: None, look_ms=NEVER_MS))
        await eventually(lambda: set(threading.enumerate()) - threads)  # others of before may end meanwhile
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stop.is_set()

    threads = set(threading.enumerate())
    assert not asyncio.run(cancelled())
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive()


@contextlib.contextmanager
def no_file_descriptor_left() -> Iterator[None]:
    """As in a process that has reached its limit: nothing can be opened, not even what hears of changes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_folder_that_cannot_be_watched_is_looked_at(file: Path) -> None:
    beside = file.with_name("beside")
    beside.write_text("two", encoding="utf-8")
    with no_file_descriptor_left():
        async with watching([file]) as watched:
            beside.replace(file)
            await eventually(lambda: watched.calls == 1)
    async with watching([file], NEVER_MS):
        pass
