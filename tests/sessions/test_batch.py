"""When a batch goes, and with whom in it: case by case, then any order of events against a plain account of what was promised."""

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sessions.batch import APART_S, Batch, Batches, BatchStatistics, Member
from sessions.batch_asks import Ask, ask_of

WINDOW_S = 0.25  # exact in binary, so that a deadline is met and not missed by rounding
MAX_ITEMS = 4


def ask(model: str, *inputs: str) -> Ask:
    body = {"model": model, "input": list(inputs) if len(inputs) > 1 else inputs[0]}
    one = ask_of(b"/v1/embeddings", json.dumps(body).encode(), max_items=MAX_ITEMS, max_bytes=1_000)
    assert one is not None
    return one


class Named(Member):
    def __init__(self, name: str, model: str = "m", size: int = 1) -> None:
        super().__init__(ask(model, *(f"{name}{number}" for number in range(size))))
        self.name = name


def names(let_go: list[Batch]) -> list[str]:
    return ["".join(member.name for member in batch.members if isinstance(member, Named)) for batch in let_go]


def batches() -> Batches:
    return Batches(window_s=WINDOW_S, max_items=MAX_ITEMS)


def inputs(batch: Batch) -> Any:
    return json.loads(batch.body())["input"]


# -- case by case ----------------------------------------------------------------------------------------------------------


def test_when_idle_the_first_goes_at_once_and_alone() -> None:
    queue = batches()
    member = Named("a")
    (batch,) = queue.join(member, 1.0)
    assert batch.lone
    assert batch.body() == member.ask.body
    assert member.batch is batch
    assert queue.next_due is None
    assert queue.finished(batch) == []
    assert names(queue.join(Named("b"), 1.0)) == ["b"]


def test_while_one_is_under_way_others_gather_until_it_ends() -> None:
    queue = batches()
    (first,) = queue.join(Named("a"), 1.0)
    assert queue.join(Named("b"), 1.0) == queue.join(Named("c", size=2), 1.1) == []
    (second,) = queue.finished(first)
    assert names([second]) == ["bc"]
    assert inputs(second) == ["b0", "c0", "c1"]
    assert not second.lone
    assert queue.next_due is None
    assert queue.finished(second) == []


def test_or_until_the_first_of_them_has_waited_for_the_window() -> None:
    queue = batches()
    queue.join(Named("a"), 1.0)
    queue.join(Named("b"), 2.0)
    queue.join(Named("c"), 2.125)
    assert queue.next_due == 2.25
    assert queue.due(2.24) == []
    assert names(queue.due(2.25)) == ["bc"]
    assert queue.next_due is None
    assert queue.due(9.0) == []


def test_or_until_it_is_full() -> None:
    queue = batches()
    queue.join(Named("a"), 1.0)
    assert queue.join(Named("b", size=3), 1.0) == []
    assert names(queue.join(Named("c"), 1.0)) == ["bc"]
    assert queue.next_due is None
    assert queue.join(Named("d", size=3), 1.0) == []
    assert names(queue.join(Named("e", size=2), 1.125)) == ["d"]  # and e begins the next one
    assert queue.next_due == 1.375
    assert names(queue.due(1.375)) == ["e"]


def test_keys_do_not_wait_for_each_other() -> None:
    queue = batches()
    (first,) = queue.join(Named("a", "m"), 1.0)
    assert names(queue.join(Named("x", "n"), 1.0)) == ["x"]
    queue.join(Named("y", "n"), 1.125)
    queue.join(Named("b", "m"), 1.0625)
    assert names(queue.finished(first)) == ["b"]
    assert queue.next_due == 1.375
    assert names(queue.due(5.0)) == ["y"]


def test_deadlines_of_several_keys_are_met_in_their_order() -> None:
    queue = batches()
    for model in "mn":
        queue.join(Named("0", model), 1.0)
    queue.join(Named("a", "m"), 1.0)
    queue.join(Named("b", "n"), 1.125)
    assert names(queue.due(1.25)) == ["a"]
    queue.join(Named("c", "m"), 1.25)
    assert queue.next_due == 1.375
    assert names(queue.due(2.0)) == ["b", "c"]


def test_who_leaves_before_it_is_sent_is_not_sent() -> None:
    queue = batches()
    (first,) = queue.join(Named("a"), 1.0)
    gone, stays = Named("b"), Named("c")
    queue.join(gone, 1.0)
    queue.join(stays, 1.125)
    assert queue.leave(gone) is None
    assert queue.leave(gone) is None
    assert names(queue.finished(first)) == ["c"]


def test_who_has_left_takes_no_room() -> None:
    queue = batches()
    queue.join(Named("a"), 1.0)
    gone = Named("b", size=3)
    queue.join(gone, 1.0)
    queue.leave(gone)
    assert queue.join(Named("c", size=2), 1.0) == queue.join(Named("d"), 1.0) == []
    assert names(queue.join(Named("e"), 1.0)) == ["cde"]


def test_when_all_who_wait_have_left_nothing_is_due() -> None:
    queue = batches()
    (first,) = queue.join(Named("a"), 1.0)
    only = Named("b")
    queue.join(only, 1.0)
    queue.leave(only)
    assert queue.next_due is None
    queue.join(Named("c"), 2.0)
    assert queue.next_due == 2.25  # its own window, not the other's
    assert names(queue.finished(first)) == ["c"]


def test_the_last_to_leave_a_call_cancels_it() -> None:
    queue = batches()
    (first,) = queue.join(Named("a"), 1.0)
    two = [Named("b"), Named("c")]
    for member in two:
        queue.join(member, 1.0)
    (second,) = queue.finished(first)
    assert queue.leave(two[1]) is None
    assert not second.empty
    assert inputs(second) == ["b0", "c0"]  # the answer will hold the part of who left
    assert queue.leave(two[1]) is None
    assert queue.leave(two[0]) is second
    assert second.empty
    assert queue.leave(two[0]) is None
    assert queue.finished(second) == []
    assert queue.statistics().keys == 0


def test_who_leaves_after_the_end_cancels_nothing() -> None:
    queue = batches()
    member = Named("a")
    (batch,) = queue.join(member, 1.0)
    queue.finished(batch)
    assert queue.leave(member) is None
    late = Named("b")
    (other,) = queue.join(late, 1.0)
    queue.join(Named("c"), 1.0)
    queue.finished(other)
    assert queue.leave(late) is None


def test_only_the_first_end_counts() -> None:
    queue = batches()
    (first,) = queue.join(Named("a"), 1.0)
    queue.finished(first)
    (second,) = queue.join(Named("b"), 1.0)
    queue.join(Named("c"), 1.0)
    assert queue.finished(first) == queue.apart(first, 1.0) == []
    assert names(queue.finished(second)) == ["c"]


def taken_apart(queue: Batches, now: float) -> tuple[Batch, list[Batch]]:
    """A batch of b, c (who leaves) and d, taken apart while e waits for the next."""
    (first,) = queue.join(Named("a"), now)
    members = [Named(name) for name in "bcd"]
    for member in members:
        queue.join(member, now)
    (second,) = queue.finished(first)
    queue.leave(members[1])
    queue.join(Named("e"), now)
    return second, queue.apart(second, now)


def test_taken_apart_each_who_is_still_there_goes_alone() -> None:
    queue = batches()
    second, alone = taken_apart(queue, 1.0)
    assert names(alone) == ["b", "d", "e"]
    assert all(batch.lone and batch.members[0].batch is batch for batch in alone)
    assert queue.next_due is None
    assert queue.apart(second, 1.0) == []
    statistics = queue.statistics()
    assert (statistics.flying, statistics.waiting, statistics.apart) == (3, 0, 1)
    assert queue.leave(alone[1].members[0]) is alone[1]


def test_after_that_its_key_goes_alone_for_a_while() -> None:
    queue = batches()
    _, alone = taken_apart(queue, 1.0)
    assert names(queue.join(Named("f"), 1.0)) == ["f"]
    for batch in alone:
        queue.finished(batch)
    queue.join(Named("g", "n"), 1.0)
    assert queue.join(Named("h", "n"), 1.0) == []  # another key's affair
    until = 1.0 + APART_S
    assert names(queue.join(Named("i"), until - 0.25)) == ["i"]
    assert queue.join(Named("j"), until) == []


def test_a_flood_of_keys_is_not_remembered() -> None:
    queue = batches()
    for number in range(3_000):
        (batch,) = queue.join(Named("a", f"m{number}"), 1.0)
        for again in queue.apart(batch, 1.0):
            queue.finished(again)
    assert len(queue._alone_until) == 1_024
    assert queue.statistics().keys == 0
    assert list(queue._alone_until)[-1] == ask("m2999", "a").key


@pytest.mark.parametrize(("window_s", "max_items"), [(0.1, 1), (0.1, 0), (-0.1, 2)])
def test_what_is_no_batch_is_refused(window_s: float, max_items: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Batches(window_s=window_s, max_items=max_items)


def test_two_make_a_batch_and_a_window_may_be_nothing() -> None:
    queue = Batches(window_s=0, max_items=2)
    queue.join(Named("a"), 1.0)
    assert queue.join(Named("b"), 1.0) == []
    assert names(queue.due(1.0)) == ["b"]
    queue.join(Named("c"), 1.0)
    assert names(queue.join(Named("d"), 1.0)) == ["cd"]


def test_figures() -> None:
    queue = batches()
    (first,) = queue.join(Named("a"), 1.0)
    queue.join(Named("b"), 1.0)
    queue.join(Named("x", "n"), 1.0)
    assert queue.statistics() == BatchStatistics(flying=2, waiting=1, keys=2, joined=3, calls=2, lone=2, apart=0)
    queue.join(Named("c"), 1.0)
    queue.finished(first)
    assert queue.statistics() == BatchStatistics(flying=2, waiting=0, keys=2, joined=4, calls=3, lone=2, apart=0)


def test_sixty_four_at_once_are_a_fifth_of_the_calls_and_fewer() -> None:
    """Check 5, without the network: closed loops of 64 clients against calls that take ten windows."""
    queue = Batches(window_s=WINDOW_S, max_items=32)
    now, requests = 0.0, 0
    ends: list[tuple[float, Batch]] = []
    while requests < 6_400:
        idle = 64 - sum(len(batch.members) for _, batch in ends) - queue.statistics().waiting
        let_go = [batch for number in range(idle) for batch in queue.join(Named(f"{number}"), now)]
        requests += idle
        ends += ((now + 10 * WINDOW_S, batch) for batch in let_go)
        due = queue.next_due
        now = min([at for at, _ in ends] + ([] if due is None else [due]))
        ends += ((now + 10 * WINDOW_S, batch) for batch in queue.due(now))
        over = [batch for at, batch in ends if at <= now]
        ends = [one for one in ends if one[0] > now]
        ends += ((now + 10 * WINDOW_S, batch) for one in over for batch in queue.finished(one))
    assert queue.statistics().calls * 5 <= requests


# -- in any order ----------------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Clients that come and go at any time, calls that end in any order and any way, and a clock that a timer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = batches()
        self.now = 0.0
        self.waiting: dict[Named, float] = {}
        self.flying: list[Batch] = []
        self.answered: list[Named] = []
        self.present: list[Named] = []
        self.alone_until: dict[str, float] = {}
        self.count = 0

    def _model(self, member: Named) -> str:
        return str(json.loads(member.ask.body)["model"])

    def _sent(self, let_go: list[Batch]) -> None:
        for batch in let_go:
            assert batch not in self.flying
            assert len({member.ask.key for member in batch.members}) == 1
            assert batch.lone or sum(len(member.ask.items) for member in batch.members) <= MAX_ITEMS
            for member in batch.members:
                assert isinstance(member, Named)
                assert member not in self.answered
                assert not any(member in other.members and member.batch is other for other in self.flying)
                if member in self.waiting:
                    assert self.now - self.waiting.pop(member) <= WINDOW_S
            assert self._in_order(batch)
            self.flying.append(batch)

    def _in_order(self, batch: Batch) -> bool:
        numbers = [int(member.name) for member in batch.members if isinstance(member, Named)]
        key = batch.members[0].ask.key
        left = [int(member.name) for member in self.waiting if member.ask.key == key]
        return numbers == sorted(numbers) and all(number > numbers[-1] for number in left)

    @rule(model=st.sampled_from("mn"), size=st.integers(1, MAX_ITEMS - 1))
    def join(self, model: str, size: int) -> None:
        self.count += 1
        member = Named(str(self.count), model, size)
        idle = not any(batch.members[0].ask.key == member.ask.key for batch in self.flying)
        self.present.append(member)
        self.waiting[member] = self.now
        let_go = self.queue.join(member, self.now)
        self._sent(let_go)
        assert len(let_go) <= 1
        if idle or self.now < self.alone_until.get(model, 0.0):
            assert names(let_go) == [member.name]
            assert let_go[0].lone
        elif let_go:  # nobody is sent early who could have had more company
            items = sum(len(other.ask.items) for other in let_go[0].members)
            assert items == MAX_ITEMS or (member in self.waiting and items + size > MAX_ITEMS)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.present))
        self.present.remove(member)
        was_waiting = self.waiting.pop(member, None) is not None
        cancelled = self.queue.leave(member)
        if was_waiting:
            assert cancelled is None
        elif cancelled is not None:
            assert cancelled in self.flying
            assert not any(other in self.present for other in cancelled.members)
        else:
            assert any(other in self.present for other in member.batch.members)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), apart=st.booleans())
    def end(self, data: st.DataObject, apart: bool) -> None:
        batch = data.draw(st.sampled_from(self.flying))
        self.flying.remove(batch)
        staying = [member for member in batch.members if member in self.present]
        if apart:
            self.alone_until[self._model(batch.members[0])] = self.now + APART_S
            let_go = self.queue.apart(batch, self.now)
            assert all(one.lone for one in let_go)
            assert [one.members[0] for one in let_go][: len(staying)] == staying
        else:
            for member in staying:
                self.present.remove(member)
                self.answered.append(member)
            let_go = self.queue.finished(batch)
            assert len(let_go) <= 1
        self._sent(let_go)
        assert not any(waiting.ask.key == batch.members[0].ask.key for waiting in self.waiting)

    @rule(by_s=st.sampled_from([0.0625, 0.125, 0.25, 4.0]))
    def tick(self, by_s: float) -> None:
        end = self.now + by_s
        while (at := self.queue.next_due) is not None and at <= end:
            self.now = at
            let_go = self.queue.due(self.now)
            assert let_go
            self._sent(let_go)
        self.now = end
        assert self.queue.due(self.now) == []

    @invariant()
    def nobody_waits_while_nothing_is_under_way_nor_without_a_deadline(self) -> None:
        under_way = {batch.members[0].ask.key for batch in self.flying}
        assert all(member.ask.key in under_way for member in self.waiting)
        assert (self.queue.next_due is None) == (not self.waiting)

    @invariant()
    def figures_are_what_is(self) -> None:
        statistics = self.queue.statistics()
        assert statistics.flying == len(self.flying)
        assert statistics.waiting == len(self.waiting)
        assert statistics.keys == len({batch.members[0].ask.key for batch in self.flying})

    def teardown(self) -> None:
        """Everybody who stayed is answered exactly once, and nothing is left."""
        while self.flying:
            batch = self.flying.pop()
            for member in batch.members:
                if isinstance(member, Named) and member in self.present:
                    self.present.remove(member)
                    self.answered.append(member)
            self._sent(self.queue.finished(batch))
        assert not self.present
        assert len(set(self.answered)) == len(self.answered)
        assert self.queue.statistics().keys == 0
        assert self.queue.next_due is None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
