"""Workers that tell each other their metrics: all who live, in time, whatever the others do."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from streamgate.observe.metrics import Family, Metrics, Sample
from streamgate.observe.siblings import Siblings

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def told(value: float) -> list[Family]:
    return [Family("a", "counter", "A.", (), [Sample((), value)])]


@asynccontextmanager
async def another(folder: Path, name: str, answer: Answer) -> AsyncIterator[None]:
    """A worker of another process."""
    server = await asyncio.start_unix_server(answer, str(folder / f"{name}.sock"))
    try:
        yield
    finally:
        server.close()


def says(data: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@asynccontextmanager
async def opened(folder: Path | None) -> AsyncIterator[Siblings]:
    siblings = Siblings(folder, lambda: told(1))
    await siblings.open()
    try:
        yield siblings
    finally:
        await siblings.close()


def values(answers: list[list[Family]]) -> list[float]:
    return [families[0].samples[0].value for families in answers]


async def test_alone_it_answers_for_itself() -> None:
    async with opened(None) as siblings:
        assert values(await siblings.ask()) == [1]


async def test_all_are_asked_our_own_first(tmp_path: Path) -> None:
    two, three = (msgspec.msgpack.encode(told(value)) for value in (2, 3))
    async with opened(tmp_path) as siblings, another(tmp_path, "0", says(two)), another(tmp_path, "x", says(three)):
        assert values(await siblings.ask()) == [1, 2, 3]


async def test_it_answers_the_others_with_all_it_has(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.route("r").gap.observe(0.2)
    siblings = Siblings(tmp_path, metrics.families)
    await siblings.open()
    (path,) = tmp_path.glob("*.sock")
    for _ in range(3):
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert msgspec.msgpack.decode(await reader.read(), type=list[Family]) == metrics.families()
        writer.close()
    await siblings.close()


async def test_who_has_died_is_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "1.sock"))  # its file is still there, nobody listens
        (tmp_path / "2.sock").write_text("no socket at all")
        async with opened(tmp_path) as siblings:
            assert values(await siblings.ask()) == [1]


async def test_rubbish_and_silence_are_left_out(tmp_path: Path) -> None:
    good = msgspec.msgpack.encode(told(7))
    async with (
        opened(tmp_path) as siblings,
        another(tmp_path, "1", says(b"\xc1 no msgpack")),
        another(tmp_path, "2", says(msgspec.msgpack.encode({"of": "another shape"}))),
        another(tmp_path, "3", says(good[:-3])),
        another(tmp_path, "4", silent),
        another(tmp_path, "5", says(good)),
    ):
        async with asyncio.timeout(30):
            assert values(await siblings.ask()) == [1, 7]


async def test_who_asks_and_leaves_harms_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as siblings:
        (path,) = tmp_path.glob("*.sock")
        for _ in range(20):
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.transport.abort()
        assert values(await siblings.ask()) == [1]


async def test_closed_it_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert list(tmp_path.glob("*.sock"))
    assert not list(tmp_path.glob("*.sock"))
