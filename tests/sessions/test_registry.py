"""What is open: counted, waited for, told to end."""

import asyncio

from sessions.registry import Registry


class Thing:
    def __init__(self) -> None:
        self.told = 0

    def shut_down(self) -> None:
        self.told += 1


async def test_what_is_added_is_open_until_it_is_discarded() -> None:
    registry = Registry()
    one, two = Thing(), Thing()
    registry.add(one)
    registry.add(two)
    registry.add(one)
    assert len(registry) == 2
    assert set(registry) == {one, two}
    registry.discard(one)
    registry.discard(one)
    assert set(registry) == {two}


async def test_nothing_open_is_not_waited_for() -> None:
    async with asyncio.timeout(5):
        await Registry().wait_empty()


async def test_everybody_who_waits_is_told_when_it_is_empty_and_again_the_next_time() -> None:
    registry, one = Registry(), Thing()
    for _ in range(2):
        registry.add(one)
        waiting = [asyncio.ensure_future(registry.wait_empty()) for _ in range(3)]
        await asyncio.sleep(0)
        two = Thing()
        registry.add(two)
        registry.discard(one)
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        registry.discard(two)
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)


async def test_all_are_told_once_also_when_they_leave_while_they_are_told() -> None:
    registry = Registry()

    class Leaves(Thing):
        def shut_down(self) -> None:
            super().shut_down()
            registry.discard(self)

    things = [Leaves() for _ in range(5)]
    for thing in things:
        registry.add(thing)
    assert registry.end_all() == 5
    assert [thing.told for thing in things] == [1] * 5
    assert len(registry) == 0
    assert registry.end_all() == 0


def test_it_takes_newcomers_until_it_drains() -> None:
    assert Registry().draining is False
