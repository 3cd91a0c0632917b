"""Who may have how many slots, decided in Redis; asked by hand, and by workers whose questions are late, lost and out of order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio.client import PubSub

from streamgate.stores.grant import GIVE_SPARE, GIVE_UNUSED, NO_HURRY, Answer, Ask, Grant
from streamgate.stores.redis import Script, Store
from tests.kit.redis_server import RedisServer, programs
from tests.kit.wait import eventually

SHARE = Script.file("slots.lua")
LONG_MS = 60_000
LEAVES = -1


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as one:
        yield one


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    one = Store(server.url, now=time.monotonic, deadline_s=10.0)
    yield one
    await one.close()


class Table:
    """The slots of one model; a worker's questions are numbered as it asks them."""

    def __init__(self, store: Store, limit: int = 8, workers: int = 2, ttl_ms: int = LONG_MS, key: str = "slots") -> None:
        self.store = store
        self.limit = limit
        self.workers = workers
        self.ttl_ms = ttl_ms
        self.key = key
        self.numbers = count(1)

    async def ask(
        self, worker: str, want: int, *, held: int = 0, keep: int = 0, number: int = 0, limit: int = 0, workers: int = 0
    ) -> Answer:
        words = (
            worker, number or next(self.numbers), held, max(held, keep), want, limit or self.limit, workers or self.workers,
            self.ttl_ms, "to:", "subject",
        )  # fmt: skip
        return Answer(*await self.store.run(SHARE, (self.key,), words))

    async def granted(self) -> dict[str, int]:
        fields = await self.store.command("HGETALL", self.key)
        return {name.decode(): int(text.split()[1]) for name, text in fields.items() if name != b":born"}


@pytest.fixture
async def table(store: Store) -> Table:
    return Table(store)


@pytest.mark.parametrize("program", programs(), ids=lambda path: path.rpartition("/")[2])
async def test_every_server_there_is_understands_it(program: str) -> None:
    async with RedisServer(program) as server:
        store = Store(server.url, now=time.monotonic, deadline_s=10.0)
        table = Table(store, limit=9)
        await table.ask("a", 9)
        await table.ask("b", 2)
        assert await table.ask("a", 9, held=4) == Answer(7, 7, GIVE_UNUSED, 2)
        await table.ask("b", LEAVES)
        assert await table.granted() == {"a": 7}
        await store.close()


# --- fair parts ----------------------------------------------------------------------------------------------------------


async def test_what_nobody_wants_lies_with_all_in_equal_parts(table: Table) -> None:
    assert await table.ask("a", 0) == Answer(4, 4, NO_HURRY, 1)  # b may be there, unheard
    assert await table.ask("b", 0) == Answer(4, 4, NO_HURRY, 2)
    assert await table.ask("c", 0) == Answer(0, 2, NO_HURRY, 3)
    assert (await table.ask("a", 0, keep=3)).granted == 3
    assert (await table.ask("c", 0)).granted == 1
    assert await table.granted() == {"a": 3, "b": 4, "c": 1}


async def test_who_wants_more_gets_what_is_free_and_is_owed_the_rest(table: Table) -> None:
    await table.ask("a", 0)
    await table.ask("b", 0)
    assert await table.ask("a", 6, held=4) == Answer(4, 7, NO_HURRY, 2)
    assert await table.ask("b", 0, keep=4) == Answer(4, 1, GIVE_SPARE, 2)
    assert await table.ask("b", 0, keep=1) == Answer(1, 1, NO_HURRY, 2)
    assert await table.ask("a", 6, held=4) == Answer(7, 7, NO_HURRY, 2)


async def test_when_more_is_wanted_than_there_is_small_wishes_are_met_and_the_rest_is_even(table: Table) -> None:
    table.limit, table.workers = 10, 3
    await table.ask("a", 0)
    await table.ask("b", 0)
    await table.ask("c", 0)
    await table.ask("a", 20, keep=0)
    await table.ask("b", 2, keep=0)
    assert (await table.ask("c", 9, keep=0)).target == 4
    assert (await table.ask("a", 20)).target == 4
    assert await table.ask("b", 2) == Answer(2, 2, GIVE_UNUSED, 3)


@given(
    wants=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    limit=st.integers(1, 40),
    name=st.integers(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_targets_are_max_min_fair_and_use_everything(store: Store, wants: list[int], limit: int, name: int) -> None:
    await store.command("DEL", f"fair{name}")
    table = Table(store, limit, 1, key=f"fair{name}")
    for number, want in enumerate(wants):
        await table.ask(f"w{number}", want)
    targets = [(await table.ask(f"w{number}", want)).target for number, want in enumerate(wants)]
    if sum(wants) <= limit:
        assert all(target >= want for target, want in zip(targets, wants, strict=True))
        room = [target - want for target, want in zip(targets, wants, strict=True)]
        assert max(room) - min(room) <= 1
    else:
        assert all(target <= want for target, want in zip(targets, wants, strict=True))
        unmet = [target for target, want in zip(targets, wants, strict=True) if target < want]
        # nobody whose wish is not met has a slot less than anybody else, but for what cannot be divided
        assert all(target <= other + 1 for target in targets for other in unmet)
    granted = await table.granted()
    assert sum(granted.values()) <= limit


async def test_what_cannot_be_divided_goes_round(table: Table) -> None:
    table.limit, table.workers = 1, 3
    turns = []
    for worker in "abc":
        await table.ask(worker, 5)
    for _ in range(9):
        (has,) = [worker for worker, granted in (await table.granted()).items() if granted]
        turns.append(has)
        await table.ask(has, 5, held=0)  # its stream has ended
        for worker in "abc":
            await table.ask(worker, 5, held=(await table.granted())[worker])
    assert len(set(turns[:3])) == 3
    assert turns[3:6] == turns[:3] == turns[6:]


@pytest.mark.parametrize(("limit", "workers"), [(1, 2), (2, 3), (8, 3), (7, 4)])
async def test_over_time_all_who_want_more_get_as_much(store: Store, limit: int, workers: int) -> None:
    table = Table(store, limit, workers)
    names = [f"w{number}" for number in range(workers)]
    streams: list[str] = []
    served = dict.fromkeys(names, 0)
    capacity = dict.fromkeys(names, 0)

    async def serve(name: str) -> None:
        while streams.count(name) < capacity[name]:
            streams.append(name)
            served[name] += 1
        answer = await table.ask(name, 50, held=streams.count(name))
        capacity[name] = min(answer.granted, answer.target)

    for _ in range(60 * workers):
        for name in streams[:1]:  # all take as long, and who may begins the next at once
            del streams[0]
            await serve(name)
        for name in names:
            await serve(name)
    assert max(served.values()) - min(served.values()) <= 4, served


# --- who is told ---------------------------------------------------------------------------------------------------------


class Ears:
    """What workers were told since it was last asked for."""

    def __init__(self, subscriptions: PubSub) -> None:
        self.subscriptions = subscriptions

    async def __call__(self) -> list[str]:
        said = []
        while message := await self.subscriptions.get_message(timeout=0.02):
            if message["type"] == "message":
                subject, _, text = message["data"].decode().partition("\n")
                assert subject == "subject"
                said.append(f"{message['channel'].decode()} {text}")
        return said


@pytest.fixture
async def told(store: Store) -> AsyncIterator[Ears]:
    async with store.subscriptions() as subscriptions:
        await subscriptions.subscribe(*(f"to:{name}" for name in "abcd"))
        yield Ears(subscriptions)


async def test_who_should_give_or_can_take_is_told_once(table: Table, told: Ears) -> None:
    await table.ask("a", 0)
    await table.ask("b", 0)
    assert await told() == []
    await table.ask("a", 4, held=4)  # no room left
    assert await told() == ["to:b 2 1"]
    await table.ask("a", 4, held=4)
    assert await told() == []
    await table.ask("b", 0, keep=2)
    assert await told() == ["to:a 6 0"]
    await table.ask("a", 30, held=6)
    assert await told() == ["to:b 0 1"]
    await table.ask("a", 31, held=6)
    assert await told() == []
    await table.ask("b", 3, keep=2)  # more is wanted than there is
    assert await told() == ["to:a 5 2"]
    await table.ask("b", 3, held=2)
    assert await told() == []
    await table.ask("a", 31, held=5)
    assert await told() == ["to:b 3 2"]
    await table.ask("b", LEAVES)
    assert await told() == ["to:a 8 0"]


async def test_who_has_a_fair_part_is_told_that_others_wait(table: Table, told: Ears) -> None:
    await table.ask("a", 4, held=4)
    await table.ask("b", 9)
    await table.ask("b", 10)
    await table.ask("a", 3, held=3)
    await table.ask("b", 10, held=5)
    assert await told() == ["to:a 4 2", "to:b 5 2"]


async def test_who_was_told_to_take_is_not_told_again(table: Table, told: Ears) -> None:
    await table.ask("a", 8)
    await table.ask("b", 8)
    await table.ask("a", 8, held=6)
    await table.ask("a", 2, held=2)
    for _ in range(3):
        await table.ask("a", 2, held=2)
    assert await told() == ["to:a 4 2", "to:b 6 2"]


async def test_who_waits_is_told_when_the_last_worker_is_heard(table: Table, told: Ears) -> None:
    await table.ask("a", 8)
    await table.ask("b", 0)
    assert await told() == ["to:a 8 0"]


async def crowd(table: Table, told: Ears, *wants: int) -> None:
    """One slot each for a and b; what c and d want, none of them."""
    table.limit, table.workers = 2, 2
    await table.ask("a", 1)
    await table.ask("b", 1)
    for name, want in zip("cd", wants, strict=True):
        await table.ask(name, want)
    await told()


async def test_only_as_many_are_told_to_take_as_can(table: Table, told: Ears) -> None:
    await crowd(table, told, 5, 5)
    await table.ask("a", 0)
    assert await told() == ["to:c 1 2"]


async def test_when_the_first_does_not_want_it_any_more_the_next_is_told(table: Table, told: Ears) -> None:
    await crowd(table, told, 5, 5)
    await table.ask("a", 0)
    await told()
    await table.ask("c", 0)
    assert await told() == ["to:d 1 2"]


async def test_the_dead_leave_to_who_is_next(store: Store, table: Table, told: Ears) -> None:
    table.limit, table.workers = 2, 1
    await table.ask("a", 2)
    await table.ask("b", 0)
    await table.ask("c", 1)
    await told()
    a_minute_ago = (await store.command("TIME"))[0] * 1000 - LONG_MS
    await store.command("HSET", "slots", "a", f"1 2 2 2 {a_minute_ago} 0 2 2")
    await table.ask("b", 0)
    assert await told() == ["to:c 1 0"]


async def test_who_waits_is_told_before_who_has_no_room(table: Table, told: Ears) -> None:
    table.limit, table.workers = 6, 3
    await table.ask("a", 4)
    await table.ask("b", 0)
    await table.ask("c", 0)
    await table.ask("a", 4, held=4)
    await table.ask("b", 1, held=1)
    await table.ask("c", 2, held=0)
    await told()
    await table.ask("a", 0, keep=3)
    assert await told() == ["to:c 3 0"]


async def test_of_those_without_room_only_as_many_are_told_as_there_is(table: Table, told: Ears) -> None:
    table.limit, table.workers = 9, 3
    await table.ask("a", 0)
    await table.ask("b", 0)
    await table.ask("c", 0)
    await table.ask("b", 3, held=3)
    await table.ask("c", 3, held=3)
    await told()
    await table.ask("a", 0, keep=2)
    assert await told() == ["to:b 4 0"]


async def test_with_a_worker_goes_the_limit_that_it_knew(table: Table, told: Ears) -> None:
    await table.ask("a", 0, limit=2)
    await table.ask("b", 9, limit=16)
    await told()
    await table.ask("a", LEAVES, limit=2)
    assert await told() == ["to:b 16 0"]


# --- death and oblivion --------------------------------------------------------------------------------------------------


async def test_the_dead_are_forgotten_when_their_time_is_over(store: Store) -> None:
    table = Table(store, ttl_ms=150)
    await table.ask("a", 0)
    assert (await table.ask("b", 8)).granted == 4

    async def alone() -> bool:
        answer = await table.ask("b", 8, held=4)
        assert answer.granted in {4, 8}
        return answer == Answer(8, 8, NO_HURRY, 1)

    await eventually(alone)
    assert await table.granted() == {"b": 8}


async def test_who_comes_back_from_the_dead_owns_what_it_holds(store: Store) -> None:
    table = Table(store, ttl_ms=100)
    await table.ask("a", 6)
    await table.ask("b", 0)

    async def b_has_all() -> bool:
        return (await table.ask("b", 8, keep=0)).granted == 8

    await eventually(b_has_all)
    assert (await table.ask("a", 6, held=2, keep=4)).granted == 2  # over the limit by two, which nobody can take back
    assert (await table.ask("b", 8, held=6)).granted == 6


async def test_a_worker_that_leaves_leaves_at_once(table: Table) -> None:
    await table.ask("a", 8)
    await table.ask("b", 8)
    await table.ask("a", LEAVES)
    assert (await table.ask("b", 8)).granted == 8
    assert await table.ask("b", LEAVES) == Answer(0, 0, 0, 0)
    assert await table.granted() == {}
    assert (await table.ask("a", 8)).granted == 8  # nobody can be there unheard: all have left


async def test_nobody_grows_past_an_equal_part_until_all_were_heard_or_have_ended(server: RedisServer, store: Store) -> None:
    table = Table(store, limit=9, workers=3, ttl_ms=300)
    assert (await table.ask("a", 9)).granted == 3
    assert (await table.ask("b", 9)).granted == 3
    assert (await table.ask("a", 9, held=3)).granted == 3
    assert (await table.ask("c", 0)).granted == 0
    assert (await table.ask("a", 9, held=3)).granted == 5
    await table.ask("c", LEAVES)
    assert (await table.ask("b", 9, held=3)).granted == 4  # c was heard: it may go
    await server.flush()
    assert await table.ask("a", 0, held=3, keep=5) == Answer(5, 5, NO_HURRY, 1)  # idle it keeps what it had
    assert (await table.ask("b", 9, held=1)).granted == 3

    async def grows() -> bool:
        return (await table.ask("b", 9, held=3)).granted > 3

    await eventually(grows)


async def test_after_an_outage_nobody_grows_until_all_were_heard(store: Store) -> None:
    table = Table(store, limit=9, workers=3, ttl_ms=100)
    for worker in "abc":
        await table.ask(worker, 3, held=3)

    async def all_dead() -> bool:
        fields = await store.command("HGETALL", "slots")
        seconds, micros = await store.command("TIME")
        return all(int(text.split()[4]) < seconds * 1000 + micros // 1000 for name, text in fields.items() if name != b":born")

    await eventually(all_dead)
    table.ttl_ms = LONG_MS
    assert (await table.ask("a", 9, held=2)).granted == 3
    assert (await table.ask("b", 9, held=1)).granted == 3
    assert (await table.ask("a", 9, held=3)).granted == 3
    assert (await table.ask("c", 1, held=1)).granted == 1
    assert (await table.ask("a", 9, held=3)).granted == 4


async def test_what_it_knows_is_forgotten_when_nobody_comes_for_an_hour(server: RedisServer, table: Table) -> None:
    await table.ask("a", 1)
    assert 3_500_000 < await server.ask("PTTL", "slots") <= 3_600_000


# --- order ---------------------------------------------------------------------------------------------------------------


async def test_a_question_that_comes_after_a_later_one_changes_nothing(table: Table) -> None:
    await table.ask("a", 0)
    await table.ask("b", 8)
    late = next(table.numbers)
    await table.ask("a", 4, held=4)
    assert (await table.ask("a", 0, number=late)).granted == 4
    assert (await table.ask("b", 8, held=4)).granted == 4
    assert await table.granted() == {"a": 4, "b": 4}


async def test_a_lower_limit_takes_nothing_that_is_held(table: Table) -> None:
    await table.ask("a", 0)
    await table.ask("b", 0)
    assert (await table.ask("a", 4, held=4, limit=2)).granted == 4
    assert (await table.ask("b", 3, limit=2)).granted == 0
    assert (await table.ask("a", 1, held=1, limit=2)).granted == 1
    assert (await table.ask("b", 3, limit=2)).granted == 1


async def test_what_is_above_a_lower_limit_is_asked_back_at_once(table: Table, told: Ears) -> None:
    await table.ask("a", 0)
    await table.ask("b", 0)
    await table.ask("b", 0, keep=2, limit=2)
    await told()
    assert await table.ask("a", 3, held=3, limit=2) == Answer(3, 2, GIVE_SPARE, 2)
    assert await told() == ["to:b 0 1"]


async def test_the_lowest_limit_that_anybody_knows_counts_until_everybody_knows_another(table: Table) -> None:
    await table.ask("a", 20, limit=8)
    await table.ask("b", 20, limit=16)
    assert await table.ask("b", 20, limit=16) == Answer(4, 4, GIVE_UNUSED, 2)
    assert (await table.ask("a", 20, keep=4, limit=16)).granted == 8
    assert (await table.ask("b", 20, keep=4, limit=16)).granted == 8
    await table.ask("a", 0, keep=2, limit=3)
    assert (await table.ask("b", 9, held=1, limit=16)).granted == 1
    await table.ask("a", LEAVES, limit=3)
    assert (await table.ask("b", 9, held=1, limit=16)).granted == 16


async def test_who_waits_comes_before_who_might(table: Table) -> None:
    table.limit, table.workers = 9, 3
    await table.ask("a", 9)
    await table.ask("b", 0)
    await table.ask("c", 0)
    await table.ask("a", 9, held=9)
    await table.ask("b", 2)
    assert (await table.ask("a", 4, keep=7)).granted == 7
    assert await table.ask("c", 0) == Answer(0, 1, NO_HURRY, 3)  # what is free is for b
    assert (await table.ask("b", 2)).granted == 2


async def test_who_waits_longest_comes_before_who_asks_first(table: Table) -> None:
    table.limit, table.workers = 2, 3
    assert (await table.ask("a", 1)).granted == 1
    assert (await table.ask("b", 1)).granted == 1
    assert (await table.ask("c", 5)).granted == 0
    await table.ask("b", 5, held=1)
    for _ in range(3):
        assert (await table.ask("a", 5)).granted == 0  # its stream has ended, and c is before it
    assert (await table.ask("c", 5)).granted == 1
    for _ in range(3):
        assert (await table.ask("c", 5)).granted == 0
    assert (await table.ask("a", 5)).granted == 1


async def test_large_numbers_are_kept_exactly(table: Table) -> None:
    large = 2**50
    table.limit = large
    await table.ask("a", 0)
    await table.ask("b", 0)
    assert await table.granted() == {"a": large // 2, "b": large // 2}
    assert (await table.ask("a", large, keep=1, number=large)).granted == large // 2


# --- workers on a bad network --------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """A `Grant`, a line that admits up to its capacity, and the question that it waits for."""

    name: str
    grant: Grant
    held: int = 0
    waiting: int = 0
    number: int = 0
    open: Ask | None = None
    reply: Answer | None = None
    sent: list[tuple[int, Ask]] = field(default_factory=list)
    """What was sent and has not arrived, in whatever order it will."""

    def pump(self, *, tells: bool = True) -> None:
        if (free := min(self.grant.capacity - self.held, self.waiting)) > 0:
            self.waiting -= free
            self.held += free
        if tells:
            self.grant.demand(self.held, self.waiting)


class Network:
    """Workers whose questions and answers are late, lost and out of order, as chance has it."""

    def __init__(self, store: Store, seed: int, limit: int, workers: int, key: str) -> None:
        self.chance = Random(seed)
        self.table = Table(store, limit, workers, key=key)
        self.workers = [Worker(f"w{n}", Grant(limit, workers, 0.0, ttl_s=1e9, patience_s=1e9)) for n in range(workers)]

    @property
    def held(self) -> int:
        return sum(worker.held for worker in self.workers)

    async def arrive(self, worker: Worker, ask: tuple[int, Ask]) -> None:
        number, said = ask
        answer = await self.table.ask(worker.name, said.want, held=said.held, keep=said.keep, number=number)
        if number == worker.number and worker.open is not None:
            worker.reply = answer

    async def step(self) -> None:
        """Something that can happen now, to somebody."""
        worker = self.chance.choice(self.workers)
        can = ["arrive", "arrive", "end", "idle", "hear"]
        can += ["send"] * 4 * (worker.open is None) + ["question"] * 4 * bool(worker.sent)
        can += ["answer"] * 5 * (worker.reply is not None) + ["lose"] * 2 * (worker.open is not None)
        what = self.chance.choice(can)
        match what:
            case "arrive":
                worker.waiting += self.chance.randrange(1, 4)
            case "end":
                worker.held = self.chance.randrange(worker.held + 1)
            case "idle":
                worker.waiting = worker.held = 0
            case "send":
                self.send(worker)
            case "question":
                await self.arrive(worker, worker.sent.pop(self.chance.randrange(len(worker.sent))))
            case "answer":
                assert worker.reply is not None
                worker.grant.answered(worker.reply, 0.0)
                worker.open = worker.reply = None
            case "lose":
                worker.grant.failed()
                worker.open = worker.reply = None
            case "hear":
                worker.grant.heard(self.chance.randrange(2 * self.table.limit), self.chance.randrange(3))
        worker.pump(tells=what in {"arrive", "end", "idle"})

    def send(self, worker: Worker) -> None:
        worker.open = worker.grant.ask()
        worker.number += 1
        worker.sent.append((worker.number, worker.open))

    async def settle(self) -> None:
        """Everything arrives, and everybody asks until nobody has anything to ask for."""
        for _ in range(12):
            for worker in self.workers:
                while worker.sent:
                    await self.arrive(worker, worker.sent.pop(0))
                if worker.reply is not None:
                    worker.grant.answered(worker.reply, 0.0)
                    worker.open = worker.reply = None
                worker.pump()
                self.send(worker)


NETWORK = {
    "seed": st.integers(0, 2**32),
    "limit": st.integers(1, 12),
    "workers": st.integers(1, 4),
}


@given(**NETWORK)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_never_more_than_the_limit_is_held_whatever_is_late_lost_or_out_of_order(
    store: Store, seed: int, limit: int, workers: int
) -> None:
    key = f"net{seed}-{limit}-{workers}"
    await store.command("DEL", key)
    network = Network(store, seed, limit, workers, key)
    for step in range(120):
        await network.step()
        assert network.held <= limit
        assert step % 10 or sum((await network.table.granted()).values()) <= limit
    await network.settle()
    waiting = sum(worker.waiting for worker in network.workers)
    assert network.held <= limit
    assert network.held == limit or waiting == 0, "a slot is free while somebody waits"


@given(**NETWORK)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_redis_that_forgets_lets_at_most_an_equal_part_more_be_held(
    store: Store, seed: int, limit: int, workers: int
) -> None:
    key = f"flush{seed}-{limit}-{workers}"
    await store.command("DEL", key)
    network = Network(store, seed, limit, workers, key)
    for _ in range(60):
        await network.step()
    await store.command("DEL", key)
    most = limit + (workers - 1) * max(1, limit // workers)
    for _ in range(60):
        await network.step()
        assert network.held <= most
    for worker in network.workers:
        worker.waiting = 0
    await network.settle()
    for worker in network.workers:
        worker.held = 0
    await network.settle()
    assert sum((await network.table.granted()).values()) <= limit
