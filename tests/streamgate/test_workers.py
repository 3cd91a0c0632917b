"""Workers are begun, told, replaced and ended; here with processes that serve nobody and do as they are told."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess

import pytest

from streamgate.workers import Orders, Workers, let_signals
from tests.kit.wait import eventually

Body = Callable[[int, Connection], None]
CONTEXT = multiprocessing.get_context("spawn")


def obedient(_index: int, pipe: Connection) -> None:
    """Serves until it is told to end, or nobody is left to tell it."""
    let_signals()
    pipe.send_bytes(b"ready")
    try:
        while pipe.recv_bytes() not in {b"drain", b"end"}:
            pass
    except EOFError:
        pass


def patient(_index: int, pipe: Connection) -> None:
    """Drains for ever; ends only when it is hurried."""
    pipe.send_bytes(b"ready")
    while pipe.recv_bytes() != b"end":
        pass


def deaf(_index: int, pipe: Connection) -> None:
    """Hears nothing."""
    pipe.send_bytes(b"ready")
    time.sleep(600)


def lame(index: int, pipe: Connection) -> None:
    """One of them cannot begin."""
    if index == 1:
        raise SystemExit(3)
    obedient(index, pipe)


class Office:
    """Workers with a body, and all that was heard of them."""

    def __init__(self, body: Body, *, size: int = 2, patience_s: float = 60.0) -> None:
        self.begun: list[BaseProcess] = []
        self.pids: list[int] = []
        self.ended: list[int] = []
        self.ready = 0
        self.hang_ups = 0
        self._body = body
        self.workers = Workers(
            size,
            self._begin,
            patience_s=lambda: patience_s,
            on_hang_up=self._hung_up,
            on_ready=self._all_ready,
            on_ended=self.ended.append,
        )

    def _begin(self, index: int, pipe: Connection) -> BaseProcess:
        process = CONTEXT.Process(target=self._body, args=(index, pipe), daemon=True)
        process.start()
        self.begun.append(process)
        self.pids.append(process.pid or 0)
        return process

    def _hung_up(self) -> None:
        self.hang_ups += 1

    def _all_ready(self) -> None:
        self.ready += 1


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """A gateway's log goes nowhere else; here it has to come to caplog."""
    log = logging.getLogger("streamgate")
    before, log.propagate = log.propagate, True
    yield
    log.propagate = before


async def test_they_are_begun_and_drained() -> None:
    office = Office(obedient)
    run = asyncio.create_task(office.workers.run())
    await eventually(lambda: office.ready == 1, timeout=20)
    assert len(office.pids) == 2
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: office.hang_ups == 1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(run, 20) == 0
    assert sorted(office.ended) == sorted(office.pids)


async def test_a_dead_one_is_replaced_also_when_it_ended_politely() -> None:
    office = Office(obedient)
    run = asyncio.create_task(office.workers.run())
    await eventually(lambda: office.ready == 1, timeout=20)
    os.kill(office.pids[0], signal.SIGKILL)
    await eventually(lambda: len(office.pids) == 3, timeout=20)
    os.kill(office.pids[1], signal.SIGTERM)
    await eventually(lambda: len(office.pids) == 4, timeout=20)
    assert office.ended == office.pids[:2]
    assert office.ready == 1
    office.workers.end()
    assert await asyncio.wait_for(run, 20) == 0
    assert len(office.pids) == 4


async def test_one_that_cannot_begin_ends_all(caplog: pytest.LogCaptureFixture) -> None:
    office = Office(lame, size=3)
    assert await asyncio.wait_for(office.workers.run(), 20) == 1
    assert office.ready == 0
    assert sorted(office.ended) == sorted(office.pids)
    assert "a worker has ended: exit status 3" in caplog.text


async def test_a_second_request_hurries_them() -> None:
    office = Office(patient)
    run = asyncio.create_task(office.workers.run())
    await eventually(lambda: office.ready == 1, timeout=20)
    office.workers.end()
    done, _ = await asyncio.wait([run], timeout=0.3)
    assert not done
    office.workers.end()
    assert await asyncio.wait_for(run, 20) == 0


async def test_a_third_request_kills_those_that_do_not_hear(caplog: pytest.LogCaptureFixture) -> None:
    office = Office(deaf)
    run = asyncio.create_task(office.workers.run())
    await eventually(lambda: office.ready == 1, timeout=20)
    for _ in range(3):
        office.workers.end()
    assert await asyncio.wait_for(run, 20) == 1
    assert caplog.text.count("did not end and is killed") == 2


async def test_patience_ends_by_itself() -> None:
    office = Office(deaf, size=1, patience_s=-9.8)  # the grace of ten seconds comes on top
    run = asyncio.create_task(office.workers.run())
    await eventually(lambda: office.ready == 1, timeout=20)
    office.workers.end()
    assert await asyncio.wait_for(run, 20) == 1


async def test_ending_between_two_lives_begins_nobody() -> None:
    office = Office(obedient, size=1)
    run = asyncio.create_task(office.workers.run())
    await eventually(lambda: office.ready == 1, timeout=20)
    os.kill(office.pids[0], signal.SIGKILL)
    await eventually(lambda: len(office.ended) == 1)
    office.workers.end()
    assert await asyncio.wait_for(run, 20) == 0
    assert len(office.pids) == 1


async def test_a_process_that_cannot_be_begun_is_an_end_at_first() -> None:
    def fails(_index: int, _pipe: Connection) -> BaseProcess:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    workers = Workers(2, fails, patience_s=lambda: 0.0, on_hang_up=bool, on_ready=bool, on_ended=lambda _pid: None)
    assert await asyncio.wait_for(workers.run(), 5) == 1


async def test_orders_arrive_and_the_pipe_s_end_is_one() -> None:
    ours, theirs = Pipe()
    heard: list[str] = []
    orders = Orders(theirs)
    orders.heed(heard.append)
    orders.ready()
    assert ours.recv_bytes() == b"ready"
    for order in (b"reload", b"rubbish", b"drain", b"end"):
        ours.send_bytes(order)
    await eventually(lambda: heard == ["reload", "drain", "end"])
    ours.close()
    await eventually(lambda: heard[3:] == ["drain"])
    orders.ready()  # to nobody; no harm


def test_a_process_begun_holds_signals_until_it_lets_them() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    let_signals()
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
