"""Who may be asked at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.pools import Endpoint, EndpointStatistics, Pool, PoolStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence


class Shown:
    """A picker that takes the last and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []
        self.keys: list[bytes | None] = []

    def pick(self, endpoints: Sequence[Endpoint], now: float, key: bytes | None) -> Endpoint:
        assert now >= 0.0
        self.shown.append([endpoint.host for endpoint in endpoints])
        self.keys.append(key)
        return endpoints[-1]

    def observe(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        raise AssertionError((endpoint, seconds, now))


def pool(*endpoints: Endpoint) -> tuple[Pool, Shown]:
    picker = Shown()
    return Pool("svc", endpoints, picker), picker


# --- an address -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "tls", "id_", "authority"),
    [
        ("a.example", 8000, False, "a.example:8000", b"a.example:8000"),
        ("a.example", 80, False, "a.example:80", b"a.example"),
        ("a.example", 443, True, "a.example:443", b"a.example"),
        ("a.example", 80, True, "a.example:80", b"a.example:80"),
        ("::1", 443, False, "[::1]:443", b"[::1]:443"),
        ("::1", 443, True, "[::1]:443", b"[::1]"),
    ],
)
def test_an_endpoint_is_named_as_host_fields_name_it(
    host: str,
    port: int,
    tls: bool,
    id_: str,
    authority: bytes,
) -> None:
    endpoint = Endpoint(host, port, tls=tls)
    endpoint.succeeded()
    assert (endpoint.id, endpoint.authority, endpoint.host, endpoint.port) == (id_, authority, host, port)
    assert endpoint.tls is tls


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 up"):
        Endpoint("a", 1, weight=-1)


def test_the_seed_is_the_same_on_every_machine_and_depends_on_the_address_alone() -> None:
    assert Endpoint("a", 1).seed == Endpoint("a", 1, weight=5, tls=True).seed == 0x2C5727565DB22C89
    assert Endpoint("a", 2).seed != Endpoint("a", 1).seed != Endpoint("b", 1).seed


def test_a_cool_down_lasts_a_second_and_doubles_up_to_ten() -> None:
    endpoint = Endpoint("a", 1)
    now, lengths = 100.0, []
    for _ in range(20):
        endpoint.failed(now)
        lengths.append(endpoint.failed_until - now)
        now = endpoint.failed_until
    assert not endpoint.tls
    assert lengths[:6] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert lengths[-1] == 10.0
    endpoint.succeeded()
    assert endpoint.failed_until == 0.0
    endpoint.failed(now)
    assert endpoint.failed_until == now + 1.0


def test_failures_that_arrive_together_count_once() -> None:
    endpoint = Endpoint("a", 1)
    for _ in range(50):
        endpoint.failed(10.0)
    endpoint.failed(10.9)
    assert endpoint.failed_until == 11.0
    assert endpoint.failures == 1
    endpoint.failed(11.0)
    assert endpoint.failed_until == 13.0


# --- a pool -----------------------------------------------------------------------------------------------------------


def test_all_that_may_be_asked_are_shown_in_order_with_the_key() -> None:
    a, b, c = Endpoint("a", 1), Endpoint("b", 1, weight=0), Endpoint("c", 1)
    group, picker = pool(a, b, c)
    assert group.pick(0.0, b"k") is c
    assert picker.shown == [["a", "c"]]
    assert picker.keys == [b"k"]


def test_an_only_one_is_picked_without_asking() -> None:
    a = Endpoint("a", 1)
    group, picker = pool(a, Endpoint("b", 1, weight=0))
    assert group.pick(0.0) is a
    assert picker.shown == []


def test_nobody_of_weight_zero_full_or_excluded_is_picked() -> None:
    a, b, c = Endpoint("a", 1, weight=0), Endpoint("b", 1, max_in_flight=1), Endpoint("c", 1)
    group, _ = pool(a, b, c)
    lease = b.count.take()
    assert lease is not None
    assert group.pick(0.0) is c
    assert group.pick(0.0, exclude={c}) is None
    assert group.pick(0.0, exclude=[c]) is None
    lease.release()
    assert group.pick(0.0, exclude={c}) is b
    assert group.pick(0.0, exclude=(b, c)) is None
    assert group.statistics().refused == 3


def test_an_empty_pool_has_nobody() -> None:
    group, _ = pool()
    assert group.pick(0.0) is None


def test_one_that_failed_to_connect_is_left_alone_unless_no_other_is_left() -> None:
    a, b, c = Endpoint("a", 1), Endpoint("b", 1), Endpoint("c", 1, max_in_flight=0)
    group, picker = pool(a, b, c)
    a.failed(10.0)
    assert group.pick(10.5) is b
    assert group.pick(10.5, exclude={b}) is a
    assert group.pick(10.5, exclude={a, b}) is None
    b.failed(10.5)
    assert group.pick(10.6) is b  # both are cooling: the picker chooses between them
    assert picker.shown == [["a", "b"]]
    assert group.pick(11.0) is a  # a has cooled
    b.succeeded()
    assert group.pick(11.0) is b
    assert picker.shown == [["a", "b"], ["a", "b"]]


def test_another_is_one_not_yet_seen_that_has_room() -> None:
    a, b, c = Endpoint("a", 1), Endpoint("b", 1, max_in_flight=1), Endpoint("c", 1, weight=0)
    group, _ = pool(a, b, c)
    assert group.has_other([a])
    assert not group.has_other([a, b])
    lease = b.count.take()
    assert lease is not None
    assert not group.has_other([a])
    assert group.has_other([b])
    a.failed(1.0)
    assert group.has_other([b])  # one that is cooling is still one to turn to


def test_a_pool_of_nothing_but_zeros_has_no_weight() -> None:
    full = Endpoint("a", 1, max_in_flight=0)
    assert pool(full)[0].has_weight
    assert not pool(Endpoint("a", 1, weight=0))[0].has_weight
    assert not pool()[0].has_weight


ENDPOINTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2]), st.integers(0, 2), st.booleans(), st.booleans()),
    max_size=6,
)


@given(ENDPOINTS)
def test_a_pick_may_be_asked_and_nobody_better_was_left_out(
    described: list[tuple[int, int | None, int, bool, bool]],
) -> None:
    endpoints, excluded = [], set()
    for number, (weight, capacity, held, cooling, out) in enumerate(described):
        endpoint = Endpoint(f"e{number}", 1, weight=weight, max_in_flight=capacity)
        for _ in range(held):
            endpoint.count.take()
        if cooling:
            endpoint.failed(100.0)
        if out:
            excluded.add(endpoint)
        endpoints.append(endpoint)
    group, _ = pool(*endpoints)
    free = [
        endpoint
        for endpoint in endpoints
        if endpoint.weight
        and endpoint not in excluded
        and (endpoint.count.capacity is None or endpoint.count.held < endpoint.count.capacity)
    ]
    warm = [endpoint for endpoint in free if endpoint.failures == 0]
    picked = group.pick(100.5, exclude=excluded)
    assert picked is None if not free else picked in (warm or free)
    assert group.statistics().refused == (picked is None)


def test_statistics_are_a_record_of_the_moment() -> None:
    a, b = Endpoint("a", 1, region="eu", max_in_flight=3), Endpoint("b", 2, weight=4)
    a.count.take()
    a.ewma_s = 0.25
    b.failed(5.0)
    group, _ = pool(a, b)
    assert group.statistics() == PoolStatistics(
        service_id="svc",
        endpoints=(
            EndpointStatistics("a:1", 1, "eu", 1, 3, 0.25, 0, 0.0),
            EndpointStatistics("b:2", 4, None, 0, None, None, 1, 6.0),
        ),
        refused=0,
    )
