"""Deadlines are met when they are due, by one timer for all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from sessions.watch import TICK_S, Watch
from tests.kit.clock import ManualClock


class One:
    """Notes when it was looked at. ``then`` is its next deadline; without one it is over."""

    def __init__(self, watch: Watch, due: float, *then: float) -> None:
        self.watch = watch
        self.due = due
        self.then = list(then)
        self.looks: list[float] = []

    def look(self, now: float) -> None:
        self.looks.append(now)
        if self.then:
            self.due = self.then.pop(0)
        else:
            self.watch.discard(self)


class Bench:
    """A watch on a loop whose time is the clock's."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.watch = Watch(clock.now)

    def one(self, due_s: float, *then_s: float) -> One:
        """Watched, with deadlines so many seconds from now."""
        now = self.clock.now()
        made = One(self.watch, now + due_s, *(now + seconds for seconds in then_s))
        self.watch.add(made)
        return made

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    loop = asyncio.get_running_loop()
    real, loop.time = loop.time, clock.now  # type: ignore[method-assign]  # the loop's own notion of time, not ours
    try:
        yield Bench(clock)
    finally:
        loop.time = real  # type: ignore[method-assign]


async def test_each_is_looked_at_when_it_is_due(bench: Bench) -> None:
    late, early = bench.one(5), bench.one(2)
    await bench.passes(1.9)
    assert not early.looks
    await bench.passes(0.1)
    assert (len(early.looks), len(late.looks)) == (1, 0)
    await bench.passes(3)
    assert (len(early.looks), len(late.looks)) == (1, 1)
    assert len(bench.watch) == 0


async def test_who_has_moved_its_deadline_back_is_looked_at_then(bench: Bench) -> None:
    one = bench.one(2, 7)
    await bench.passes(2)
    assert len(one.looks) == 1
    await bench.passes(4.9)
    assert len(one.looks) == 1
    await bench.passes(0.1)
    assert len(one.looks) == 2


async def test_who_moves_its_deadline_forward_says_so(bench: Bench) -> None:
    one = bench.one(60)
    one.due -= 58
    bench.watch.add(one)
    await bench.passes(2)
    assert len(one.looks) == 1


async def test_who_is_gone_is_not_looked_at_and_its_timer_finds_the_others(bench: Bench) -> None:
    gone, there = bench.one(2), bench.one(3)
    bench.watch.discard(gone)
    bench.watch.discard(gone)
    await bench.passes(2)
    await bench.passes(1)
    assert (len(gone.looks), len(there.looks)) == (0, 1)


async def test_deadlines_that_come_close_together_are_met_together(bench: Bench) -> None:
    first, second, third = bench.one(2), bench.one(2 + TICK_S / 5), bench.one(2 + TICK_S / 2)
    await bench.passes(2)
    await bench.passes(TICK_S / 2)
    assert (len(first.looks), len(second.looks), len(third.looks)) == (1, 0, 0)
    await bench.passes(TICK_S / 2)
    assert len(second.looks) == len(third.looks) == 1


async def test_a_deadline_that_has_passed_is_met_at_once(bench: Bench) -> None:
    one = bench.one(-1)
    assert not one.looks, "not by who adds it"
    await bench.passes(0)
    assert len(one.looks) == 1


async def test_what_has_no_deadline_sets_no_timer(bench: Bench) -> None:
    never, later = bench.one(float("inf")), bench.one(1_000_000)
    await bench.passes(999_999)
    await bench.passes(1)
    assert (len(never.looks), len(later.looks)) == (0, 1)
    assert len(bench.watch) == 1


async def test_there_is_one_timer_and_none_is_set_for_days(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def kept(wait_s: float, *args: Any) -> asyncio.TimerHandle:
        timers.append((wait_s, call_later(wait_s, *args)))
        return timers[-1][1]

    monkeypatch.setattr(loop, "call_later", kept)
    for due_s in (1e9, 70, 60, 50, 65):
        bench.one(due_s)
    assert [wait_s for wait_s, _ in timers] == [3600, 70, 60, 50]
    assert [timer.cancelled() for _, timer in timers] == [True, True, True, False]


async def test_a_defect_met_at_one_is_told_and_the_others_are_looked_at(bench: Bench) -> None:
    class Broken(One):
        def look(self, now: float) -> None:
            self.looks.append(now)
            raise ZeroDivisionError

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    bad = Broken(bench.watch, bench.clock.now() + 1)
    bench.watch.add(bad)
    others = [bench.one(1, 2) for _ in range(8)]
    await bench.passes(1)
    await bench.passes(1)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    assert len(bad.looks) == 1
    assert [len(other.looks) for other in others] == [2] * 8


async def test_who_is_added_while_others_are_looked_at_is_not_forgotten(bench: Bench) -> None:
    added: list[One] = []

    class Parent(One):
        def look(self, now: float) -> None:
            super().look(now)
            added.append(bench.one(1))

    parent = Parent(bench.watch, bench.clock.now() + 1)
    bench.watch.add(parent)
    await bench.passes(1)
    await bench.passes(1)
    assert len(added[0].looks) == 1
