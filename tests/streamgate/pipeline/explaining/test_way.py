"""Which split a request would get, and what its flag was asked with; nothing is counted."""

from __future__ import annotations

import pytest

from routers.flags import Flags, FlagsStatistics, Verdict
from streamgate.pipeline.explaining.way import Fact, WayTaken, way_of
from tests.kit.around import SetFlags
from tests.streamgate.pipeline.explaining.stand import Stand

FACTS = (Fact("route", "llm", "the route"), Fact("targetingKey", "s3cret", "header:x-session-id"))


async def told(value: str | None, *, flag: str | None = "f", flags: Flags | None = None) -> WayTaken:
    model = Stand(flag=flag).model.model
    way = await way_of(model, flags or SetFlags({} if value is None else {"f": value}), FACTS)
    assert model.unknown == {}, "nothing is counted"
    assert way.name == model.decide(value).split
    assert way.split["why"] == model.decide(value).why
    assert "s3cret" not in str(way)
    return way


@pytest.mark.parametrize(
    ("value", "name", "why"), [("canary", "canary", "flag"), (None, "stable", "unset"), ("odd", "stable", "unknown"), ("", "stable", "unknown")]
)
async def test_what_the_flag_says_is_what_the_model_makes_of_it(value: str | None, name: str, why: str) -> None:
    way = await told(value)
    assert (way.split["name"], way.split["why"]) == (name, why)
    assert way.flag is not None
    assert way.flag["value"] == value
    assert way.flag["context"] == [{"name": "route", "from": "the route"}, {"name": "targetingKey", "from": "header:x-session-id"}]
    assert way.flag["error"] == (None if value is not None else "FLAG_NOT_FOUND")


async def test_a_model_without_a_flag() -> None:
    way = await told(None, flag=None)
    assert (way.flag, way.split) == (None, {"name": "stable", "why": "no_flag", "because": "the model has no flag: its default"})


async def test_a_flag_without_flags() -> None:
    way = await way_of(Stand().model.model, None, FACTS)
    assert way.split == {"name": "stable", "why": "unset", "because": "there are no flags in the configuration: the default"}
    assert way.flag is not None
    assert (way.flag["key"], way.flag["provider"], way.flag["reason"]) == ("f", None, None)


async def test_a_long_value_is_cut() -> None:
    way = await told("x" * 1000)
    assert way.flag is not None
    assert len(way.flag["value"]) < 80


class Remote(SetFlags):
    """Has to be waited for, and has a problem."""

    def evaluate_nowait(self, key: str, context: object) -> Verdict | None:  # type: ignore[override]
        return None

    async def decide(self, key: str, context: object) -> Verdict:
        assert context == {"route": "llm", "targetingKey": "s3cret"}
        return Verdict(key, "canary", "on", "SPLIT")

    def statistics(self) -> FlagsStatistics:
        return FlagsStatistics("ofrep", True, None, 0, 1, "it answered 503")


async def test_flags_that_have_to_be_waited_for() -> None:
    way = await told("canary", flags=Remote())
    assert way.flag is not None
    told_of = {name: way.flag[name] for name in ("provider", "value", "variant", "reason", "problem")}
    assert told_of == {"provider": "ofrep", "value": "canary", "variant": "on", "reason": "SPLIT", "problem": "it answered 503"}


class AtHand(SetFlags):
    """Has not to be waited for."""

    async def decide(self, key: str, context: object) -> Verdict:
        raise AssertionError("the verdict was there")


async def test_flags_that_are_at_hand_are_not_waited_for() -> None:
    assert (await told("canary", flags=AtHand({"f": "canary"}))).name == "canary"
