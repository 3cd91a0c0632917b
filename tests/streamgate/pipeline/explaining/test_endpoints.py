"""The endpoints of a service as one request meets them: what is told is what the pool does, and nothing of it is used up."""

from __future__ import annotations

from typing import Any

import pytest

from routers.pools import Endpoint
from streamgate.config.spec import Service
from streamgate.pipeline.explaining.endpoints import Endpoints, endpoints_of
from streamgate.pipeline.plan import ServicePlan
from tests.streamgate.pipeline.explaining.stand import Stand

URLS = ["http://x.example", "http://y.example", "http://z.example"]


class Pool:
    """Service a with the endpoints x, y and z."""

    def __init__(self, balance: str = "least_in_flight", weights: tuple[int, ...] = (1, 1, 1), **service: Any) -> None:
        endpoints = [{"url": url, "weight": weight} for url, weight in zip(URLS, weights, strict=False)]
        self.stand = Stand(services={"a": {"url": None, "endpoints": endpoints, "balance": balance, **service}})
        self.plan: ServicePlan = self.stand.model.services["a"]
        self.spec: Service = self.stand.spec.services[0]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self.plan.pool.endpoints

    def told(self, key: bytes | None = None) -> Endpoints:
        return endpoints_of(self.plan, self.spec, key, self.stand.clock.now())

    def verdicts(self, key: bytes | None = None) -> list[str]:
        return [one["verdict"] for one in self.told(key).described]


def test_who_may_be_picked() -> None:
    pool = Pool(weights=(1, 2, 0))
    assert pool.verdicts() == ["may be picked", "may be picked", "never picked: weight 0"]
    assert [(one["url"], one["weight"], one["in_flight"], one["max_in_flight"]) for one in pool.told().described] == [
        (URLS[0], 1, 0, None), (URLS[1], 2, 0, None), (URLS[2], 0, 0, None),
    ]  # fmt: skip
    assert Pool(weights=(1, 0, 0)).verdicts()[0] == "picked", "the only one that may be"


def test_a_full_one_and_one_that_could_not_be_reached() -> None:
    pool = Pool(max_in_flight=1)
    x, y, z = pool.endpoints
    x.count.take()
    y.failed(pool.stand.clock.now())
    assert pool.verdicts() == ["full: 1 of 1 in flight", "avoided for 1.0s: no connection could be opened", "picked"]
    assert pool.told().picked is z
    z.count.take()
    assert pool.verdicts()[1] == "picked", "nobody else is left"
    y.count.take()
    assert pool.told().picked is None


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_key_goes_where_it_is_told_to_go(lost: int) -> None:
    pool = Pool("hash")
    pool.endpoints[lost].failed(pool.stand.clock.now())
    for number in range(50):
        key = b"%d" % number
        told = pool.told(key)
        assert told.picked is pool.plan.pool.pick(pool.stand.clock.now(), key)
        picked = [one["id"] for one in told.described if one["verdict"] == "picked"]
        assert picked == [told.picked.id if told.picked is not None else None]


def test_without_a_key_a_hash_picks_any() -> None:
    assert Pool("hash").verdicts() == ["may be picked"] * 3


@pytest.mark.parametrize("balance", ["round_robin", "least_in_flight", "least_rtt", "hash"])
def test_asking_takes_nobody_s_turn(balance: str) -> None:
    asked, left_alone = Pool(balance), Pool(balance)
    turns = []
    for pool in (asked, left_alone):
        seen = []
        for number in range(20):
            if pool is asked:
                for key in (None, b"%d" % number):
                    pool.told(key)
            found = pool.plan.pool.pick(pool.stand.clock.now())
            assert found is not None
            seen.append(found.id)
        turns.append(seen)
        assert [one.count.held for one in pool.endpoints] == [0, 0, 0]
        assert pool.plan.pool.refused == 0
    assert turns[0] == turns[1]
