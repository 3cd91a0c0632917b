"""Background tasks are held, reported and ended by their owner."""

import asyncio
import gc

from streamgate.tasks import Tasks
from tests.kit.wait import eventually


class Reports:
    def __init__(self) -> None:
        self.said: list[tuple[str, BaseException]] = []

    def __call__(self, name: str, error: BaseException) -> None:
        self.said.append((name, error))


async def test_a_task_is_held_until_it_ends() -> None:
    tasks = Tasks(Reports())
    go = asyncio.Event()
    done = []

    async def work() -> None:
        await go.wait()
        done.append(True)

    tasks.spawn(work(), name="work")
    gc.collect()
    assert len(tasks) == 1
    go.set()
    await eventually(lambda: done and len(tasks) == 0)


async def test_what_a_task_raises_is_reported_once_with_its_name() -> None:
    reports = Reports()
    tasks = Tasks(reports)
    error = ValueError("it failed")

    async def work() -> None:
        raise error

    tasks.spawn(work(), name="work")
    await eventually(lambda: reports.said)
    assert reports.said == [("work", error)]
    await tasks.close()
    assert len(reports.said) == 1


async def test_closing_cancels_and_waits_and_is_no_failure() -> None:
    reports = Reports()
    tasks = Tasks(reports)
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    for _ in range(3):
        tasks.spawn(work(), name="work")
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == [True] * 3
    assert (len(tasks), reports.said) == (0, [])
    await tasks.close()


async def test_what_fails_while_it_is_closed_is_reported_too() -> None:
    reports = Reports()
    tasks = Tasks(reports)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("in the end")

    tasks.spawn(work(), name="work")
    await asyncio.sleep(0)
    await tasks.close()
    assert [name for name, _ in reports.said] == ["work"]
