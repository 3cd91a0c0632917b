"""A process about itself."""

import asyncio
import os
import socket

from streamgate.observe.metrics import exposition
from streamgate.observe.process import process_families


def figures() -> dict[str, float]:
    return {family.name: family.samples[0].value for family in process_families()}


async def test_it_is_plausible_and_exposable() -> None:
    found = figures()
    assert 5_000_000 < found["process_resident_memory_bytes"] < 1 << 36
    assert found["process_cpu_seconds"] > 0
    assert found["streamgate_workers"] == 1
    assert b"process_cpu_seconds_total" in exposition(list(process_families()))


async def test_files_and_tasks_are_those_of_the_moment() -> None:
    before = figures()
    opened = [socket.socket() for _ in range(10)]
    tasks = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(5)]
    during = figures()
    assert during["process_open_fds"] == before["process_open_fds"] + 10
    assert during["streamgate_tasks"] == before["streamgate_tasks"] + 5
    for one in opened:
        one.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    after = figures()
    assert (after["process_open_fds"], after["streamgate_tasks"]) == (before["process_open_fds"], before["streamgate_tasks"])


async def test_processor_time_grows() -> None:
    before = figures()["process_cpu_seconds"]
    while os.times().user + os.times().system < before + 0.05:
        sum(range(10_000))
    assert figures()["process_cpu_seconds"] > before
