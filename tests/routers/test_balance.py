"""Who it shall be."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.balance import Hash, LeastInFlight, LeastRtt, RoundRobin
from routers.pools import Endpoint, Pool
from streamgate.catalogue import PICKERS


def endpoints(*weights: int) -> list[Endpoint]:
    return [Endpoint(f"e{number}", 80, weight=weight) for number, weight in enumerate(weights)]


def hold(endpoint: Endpoint, number: int) -> None:
    for _ in range(number):
        assert endpoint.count.take()


def zero() -> float:
    return 0.0


WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=6)
SEEDS = st.integers(0, 1000)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PICKERS))
@given(
    weights=st.lists(st.integers(0, 5), max_size=6),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.none() | st.binary(max_size=3)), max_size=30),
    seed=SEEDS,
)
def test_never_a_full_or_excluded_or_weightless_one(
    name: str, weights: list[int], steps: list[tuple[int, int, bytes | None]], seed: int
) -> None:
    group = [Endpoint(f"e{number}", 80, weight=weight, max_in_flight=2) for number, weight in enumerate(weights)]
    pool = Pool("svc", group, PICKERS[name](Random(seed).random))
    for now, (released, out, key) in enumerate(steps):
        excluded = set(group[out : out + 1])
        picked = pool.pick(float(now), key, excluded)
        free = [one for one in group if one.weight and one.count.held < 2 and one not in excluded]
        assert (picked in free) if free else (picked is None)
        if picked is not None:
            assert picked.count.take()
            pool.picker.observe(picked, 0.1 * (released + 1), float(now))
        if released < len(group) and group[released].count.held:
            group[released].count.held -= 1


# --- round robin ------------------------------------------------------------------------------------------------------


@given(WEIGHTS, SEEDS, st.integers(0, 200))
def test_in_every_full_round_each_has_exactly_its_share(weights: list[int], seed: int, skipped: int) -> None:
    group = endpoints(*weights)
    chooser = RoundRobin(Random(seed).random)
    for _ in range(skipped):
        chooser.pick(group, 0.0, None)
    picked = Counter(chooser.pick(group, 0.0, None) for _ in range(2 * sum(weights)))
    assert [picked[endpoint] for endpoint in group] == [2 * weight for weight in weights]


def test_a_heavy_one_is_spread_over_the_round() -> None:
    group = endpoints(5, 1, 1)
    chooser = RoundRobin(zero)
    assert [chooser.pick(group, 0.0, None).host for _ in range(7)] == ["e0", "e0", "e1", "e0", "e2", "e0", "e0"]


def test_the_turn_begins_at_random() -> None:
    first = {RoundRobin(Random(seed).random).pick(endpoints(1, 1, 1), 0.0, None).host for seed in range(40)}
    assert first == {"e0", "e1", "e2"}
    heavy = RoundRobin(lambda: 0.999)
    assert heavy.pick(endpoints(10**9, 1), 0.0, None).host == "e0"


def test_one_that_drops_out_and_returns_leaves_the_others_shares_alone() -> None:
    group = endpoints(2, 1, 1)
    chooser = RoundRobin(zero)
    without = Counter(chooser.pick(group[1:], 0.0, None).host for _ in range(20))
    assert without == {"e1": 10, "e2": 10}
    after = Counter(chooser.pick(group, 0.0, None).host for _ in range(40))
    assert after == {"e0": 20, "e1": 10, "e2": 10}
    chooser.observe(group[0], 1.0, 0.0)


# --- least in flight --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=6), st.integers(0, 9))
def test_nobody_holds_less_for_its_weight(described: list[tuple[int, int]], turns: int) -> None:
    group = endpoints(*(weight for weight, _ in described))
    for endpoint, (_, held) in zip(group, described, strict=True):
        hold(endpoint, held)
    chooser = LeastInFlight()
    for _ in range(turns):
        chooser.pick(group, 0.0, None)
    picked = chooser.pick(group, 0.0, None)
    assert picked.count.held / picked.weight == min(one.count.held / one.weight for one in group)


@pytest.mark.parametrize("held", [0, 3])
def test_equals_take_turns(held: int) -> None:
    group = endpoints(1, 1, 1)
    for endpoint in group:
        hold(endpoint, held)
    chooser = LeastInFlight()
    assert [chooser.pick(group, 0.0, None).host for _ in range(4)] == ["e0", "e1", "e2", "e0"]


def test_equals_take_turns_also_beside_a_busier_one() -> None:
    group = endpoints(1, 1, 1)
    for endpoint, held in zip(group, (3, 1, 1), strict=True):
        hold(endpoint, held)
    chooser = LeastInFlight()
    assert [chooser.pick(group, 0.0, None).host for _ in range(4)] == ["e1", "e2", "e1", "e2"]


def test_held_requests_settle_in_the_proportion_of_weights() -> None:
    group = endpoints(3, 1)
    chooser = LeastInFlight()
    for _ in range(400):
        hold(chooser.pick(group, 0.0, None), 1)
    assert [endpoint.count.held for endpoint in group] == [300, 100]
    chooser.observe(group[0], 1.0, 0.0)


# --- least round-trip time --------------------------------------------------------------------------------------------


def test_the_faster_of_two_is_picked_whichever_is_drawn_first() -> None:
    fast, slow = group = endpoints(1, 1)
    for draw in (0.0, 0.99):
        chooser = LeastRtt(lambda draw=draw: draw)  # type: ignore[misc]
        chooser.observe(fast, 0.1, 0.0)
        chooser.observe(slow, 0.2, 0.0)
        assert chooser.pick(group, 0.0, None) is fast


def test_load_and_weight_count_as_much_as_time() -> None:
    fast, slow = group = endpoints(1, 1)
    chooser = LeastRtt(zero)
    chooser.observe(fast, 0.1, 0.0)
    chooser.observe(slow, 0.25, 0.0)
    hold(fast, 1)
    assert chooser.pick(group, 0.0, None) is fast
    hold(fast, 1)
    assert chooser.pick(group, 0.0, None) is slow
    light, heavy = group = endpoints(1, 3)
    chooser.observe(light, 0.1, 0.0)
    chooser.observe(heavy, 0.25, 0.0)
    assert chooser.pick(group, 0.0, None) is heavy


def test_a_slower_answer_counts_at_once_a_faster_one_little_by_little() -> None:
    (endpoint,) = endpoints(1)
    chooser = LeastRtt(zero)
    chooser.observe(endpoint, 0.1, 0.0)
    chooser.observe(endpoint, 1.0, 1.0)
    assert endpoint.ewma_s == 1.0
    chooser.observe(endpoint, 0.1, 1.0)
    assert endpoint.ewma_s == 1.0  # no time has passed
    chooser.observe(endpoint, 0.1, 11.0)
    assert endpoint.ewma_s == pytest.approx(0.1 + 0.9 / 2.718281828, rel=1e-6)
    chooser.observe(endpoint, -1.0, 1000.0)
    assert 0.0 < endpoint.ewma_s < 1e-5


def test_one_that_was_slow_is_tried_again_after_a_while() -> None:
    slow, fast = group = endpoints(1, 1)
    chooser = LeastRtt(zero)
    chooser.observe(slow, 10.0, 0.0)
    chooser.observe(fast, 0.1, 0.0)
    tried_at = None
    for now in range(120):
        picked = chooser.pick(group, float(now), None)
        if picked is slow:
            tried_at = now
            break
        chooser.observe(fast, 0.1, float(now))
    assert tried_at is not None
    assert 40 <= tried_at <= 50  # 10 s decays to 0.1 s in 10 * ln(100) seconds


def test_one_never_seen_starts_at_the_average() -> None:
    fast, slow, new = group = endpoints(1, 1, 1)
    chooser = LeastRtt(zero)
    chooser.observe(fast, 0.1, 0.0)
    chooser.observe(slow, 0.3, 0.0)
    draws = iter([0.4, 0.99, 0.0, 0.99, 0.4, 0.99])
    drawn = LeastRtt(lambda: next(draws))
    assert drawn.pick(group, 0.0, None) is new  # 0.2 s against the slow one
    assert drawn.pick(group, 0.0, None) is fast  # against the fast one
    hold(new, 1)
    assert drawn.pick(group, 0.0, None) is slow  # 0.2 s twice, now that it holds one


def test_the_average_is_of_what_the_others_would_read_now() -> None:
    stale, new = group = endpoints(1, 1)
    chooser = LeastRtt(lambda: 0.5)  # draws the new one, then the stale one
    chooser.observe(stale, 10.0, 0.0)
    assert chooser.pick(group, 50.0, None) is new  # equal, so the one drawn first
    hold(new, 1)
    assert chooser.pick(group, 50.0, None) is stale


def test_where_none_was_seen_chance_decides() -> None:
    assert LeastRtt(zero).pick(endpoints(1, 1), 0.0, None).host == "e0"
    assert LeastRtt(lambda: 0.99).pick(endpoints(1, 1), 0.0, None).host == "e1"
    assert LeastRtt(zero).pick(endpoints(1), 0.0, None).host == "e0"


def test_two_different_ones_are_drawn_evenly() -> None:
    group = endpoints(1, 1, 1, 1)
    chooser = LeastRtt(Random(7).random)
    picked = Counter(chooser.pick(group, 0.0, None).host for _ in range(4000))
    assert all(abs(number - 1000) < 150 for number in picked.values())
    group[0].ewma_s = 5.0
    for endpoint in group[1:]:
        endpoint.ewma_s = 1.0
    assert all(chooser.pick(group, 0.0, None) is not group[0] for _ in range(500))


# --- hash -------------------------------------------------------------------------------------------------------------


@given(WEIGHTS, st.binary(max_size=20), st.randoms())
def test_the_same_key_goes_to_the_same_one_in_whatever_order(weights: list[int], key: bytes, chance: Random) -> None:
    picked = Hash().pick(endpoints(*weights), 0.0, key)
    other = endpoints(*weights)
    chance.shuffle(other)
    assert Hash().pick(other, 99.0, key).id == picked.id


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_only_the_keys_of_a_lost_one_move(weights: list[int], data: st.DataObject) -> None:
    group = endpoints(*weights)
    lost = data.draw(st.sampled_from(group))
    rest = [endpoint for endpoint in group if endpoint is not lost]
    chooser = Hash()
    for number in range(50):
        key = b"user-%d" % number
        before, after = chooser.pick(group, 0.0, key), chooser.pick(rest, 0.0, key)
        assert after is before or before is lost


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(1, 5))
def test_more_weight_only_draws_keys_towards_it(weights: list[int], more: int) -> None:
    group = endpoints(*weights)
    keys = [b"user-%d" % number for number in range(60)]
    before = [Hash().pick(group, 0.0, key) for key in keys]
    group[0].weight += more
    after = [Hash().pick(group, 0.0, key) for key in keys]
    assert all(new is old or new is group[0] for old, new in zip(before, after, strict=True))


def test_keys_are_shared_out_by_weight() -> None:
    group = endpoints(1, 2, 5)
    picked = Counter(Hash().pick(group, 0.0, b"key-%d" % number).weight for number in range(8000))
    assert abs(picked[1] - 1000) < 150
    assert abs(picked[2] - 2000) < 200
    assert abs(picked[5] - 5000) < 250


def test_keys_that_differ_little_are_spread_all_the_same() -> None:
    group = endpoints(1, 1)
    runs = [Hash().pick(group, 0.0, b"%d" % number).host for number in range(2000)]
    changes = sum(one != other for one, other in pairwise(runs))
    assert abs(changes - 1000) < 150


def test_without_a_key_the_least_loaded_is_picked() -> None:
    group = endpoints(1, 1)
    hold(group[0], 1)
    chooser = Hash()
    assert chooser.pick(group, 0.0, None) is group[1]
    chooser.observe(group[0], 1.0, 0.0)


def test_an_assignment_is_the_same_in_every_version() -> None:
    """Another worker, another release: a change here moves everybody's sessions."""
    group = endpoints(1, 1, 2, 3)
    picked = "".join(Hash().pick(group, 0.0, b"user-%d" % number).host[1] for number in range(64))
    assert picked == "1232332223321133230031200232032232332023301303323132330003222022"
