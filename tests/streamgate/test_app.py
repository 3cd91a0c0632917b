"""What is decided before a worker begins; how it begins and ends stands in cli/test_run.py and in end_to_end."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from streamgate.app import Main, raise_file_limit
from streamgate.config.source import Source
from streamgate.config.units import Address
from streamgate.edge.server import listening


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "streamgate.yaml"
    file.write_text(yaml.safe_dump({"gate": {"workers": 2, "drain": "7s"}, "state": {"url": "redis://127.0.0.1:1/0"}}))
    return file


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    sockets = listening(Address("127.0.0.1", 0), key="gate.bind", share=2)
    yield sockets
    for sock in sockets:
        sock.close()


async def test_the_main_process_keeps_the_last_configuration_that_could_be_used(
    file: Path, sockets: list[socket.socket]
) -> None:
    source = Source(file)
    main = Main(source, source.read(), sockets, [], b"gate")
    file.write_text(file.read_text().replace("7s", "8s"))
    await main._look()
    assert main._good.spec.gate.drain == 8.0
    assert main._started.spec.gate.drain == 7.0
    good = main._good
    file.write_text("routes: broken")
    await main._look()
    assert main._good is good
    assert main._files == (file,)


async def test_signals_that_come_together_are_one_look(file: Path, sockets: list[socket.socket]) -> None:
    source = Source(file)
    main = Main(source, source.read(), sockets, [], b"gate")
    for _ in range(50):
        main._hang_up()
    assert len(main._tasks) == 1
    while len(main._tasks):
        await asyncio.sleep(0)
    main._hang_up()
    assert len(main._tasks) == 1
    await main._tasks.close()


async def test_nothing_is_left_of_the_place_where_workers_meet(file: Path, sockets: list[socket.socket]) -> None:
    source = Source(file)
    main = Main(source, source.read(), sockets, [], b"gate")
    assert main._run_dir.stat().st_mode & 0o077 == 0, "nobody else's"
    run = asyncio.create_task(main.run())
    await asyncio.sleep(0)
    while signal.getsignal(signal.SIGTERM) in {signal.SIG_DFL, None}:
        await asyncio.sleep(0.01)
    main._workers.end()
    assert await asyncio.wait_for(run, 30) == 0
    assert not main._run_dir.exists()


def test_the_file_limit_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
