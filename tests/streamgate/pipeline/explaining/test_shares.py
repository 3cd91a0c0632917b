"""The splits of a model: what was given and what is got now."""

from __future__ import annotations

import pytest

from streamgate.pipeline.explaining.shares import shares_of, usable
from tests.streamgate.pipeline.explaining.stand import Stand


def canary(stand: Stand) -> list[dict[str, object]]:
    [split] = [one for one in shares_of(stand.model, stand.clock.now()) if one["name"] == "canary"]
    found: list[dict[str, object]] = split["targets"]
    return found


def test_what_was_given_is_got_while_all_is_well() -> None:
    a, b = canary(Stand())
    assert a == {
        "service": "a", "model": "tutor", "weight": 3, "requested_share": 0.75, "effective_share": 0.75, "in_flight": 0,
        "has_room": True, "cooling": None,
    }  # fmt: skip
    assert (b["service"], b["model"], b["requested_share"]) == ("b", "up-b", 0.25)


def test_a_cooling_target_gets_nothing_and_says_how_long() -> None:
    stand = Stand()
    stand.cool("a", "tutor", for_s=30.0)
    stand.clock.advance(10.0)
    a, b = canary(stand)
    assert (a["requested_share"], a["effective_share"], a["cooling"]) == (0.75, 0.0, {"for_s": 20.0, "reason": "asked"})
    assert (b["effective_share"], b["cooling"]) == (1.0, None)
    stand.clock.advance(20.0)
    assert canary(stand)[0]["cooling"] is None


def test_a_broken_target_says_so() -> None:
    stand = Stand()
    for _ in range(3):
        stand.model.cooldowns["b", "up-b"].failed(stand.clock.now(), "connect")
    assert canary(stand)[1]["cooling"] == {"for_s": 3.0, "reason": "broken"}


def test_a_full_target_gets_nothing_either() -> None:
    stand = Stand(services={"a": {"max_in_flight": 1}})
    stand.model.services["a"].pool.endpoints[0].count.take()
    held = stand.model.loads.take(("a", "tutor"), None)
    a, b = canary(stand)
    assert (a["has_room"], a["effective_share"], a["in_flight"], b["effective_share"]) == (False, 0.0, 1, 1.0)
    held.release()
    assert canary(stand)[0]["in_flight"] == 0


@pytest.mark.parametrize(("cools", "index", "is_usable"), [((), 0, True), (("a", "tutor"), 0, False), (("a", "tutor"), 1, True)])
def test_usable(cools: tuple[str, ...], index: int, is_usable: bool) -> None:
    stand = Stand()
    if cools:
        stand.cool(*cools)
    assert usable(stand.model.model.splits["canary"], stand.model.standing, stand.clock.now())(index) is is_usable
