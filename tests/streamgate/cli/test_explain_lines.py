"""An explanation for people: everything that the document tells, in words."""

from __future__ import annotations

from typing import Any

from streamgate.cli.explain_lines import candidate_rows, lines_of, model_rows
from tests.streamgate.pipeline.explaining.stand import Stand


async def told(stand: Stand, body: Any = None, *headers: tuple[str, str], **more: Any) -> list[tuple[str, str]]:
    return list(lines_of(await stand.explain({} if body is None else body, *headers, **more)))


async def line(name: str, stand: Stand, body: Any = None, *headers: tuple[str, str], **more: Any) -> str:
    return dict(reversed(await told(stand, body, *headers, **more)))[name]


def cooling() -> Stand:
    stand = Stand(default="canary", flag=None)
    stand.cool("a", "tutor", for_s=12.0)
    return stand


async def test_a_target_that_cools() -> None:
    lines = await told(cooling())
    assert ("", "a as tutor: weight 3, 75%, now 0%; cooling for 12.0s, since it asked for that") in lines
    assert ("", "b as up-b: weight 1, 25%, now 100%") in lines
    assert ("then", "a as tutor, of canary (cooling)") in lines
    assert ("target", "b as up-b, turn: it is the only one of its split that can be asked now") in lines
    stand = Stand(default="canary", flag=None)
    for _ in range(3):
        stand.model.cooldowns["a", "tutor"].failed(stand.clock.now(), "connect")
    assert ("", "a as tutor: weight 3, 75%, now 0%; cooling for 3.0s, since it failed") in await told(stand)


async def test_a_target_that_is_full() -> None:
    stand = Stand(default="canary", flag=None, services={"a": {"max_in_flight": 1}})
    stand.model.services["a"].pool.endpoints[0].count.take()
    assert ("", "a as tutor: weight 3, 75%, now 0%; full") in await told(stand)


async def test_a_service_with_a_bound() -> None:
    stand = Stand(services={"a": {"max_in_flight": 3, "url": None, "endpoints": [{"url": "http://a.example", "region": "eu"}]}})
    assert ("", "http://a.example weight 1, region eu, at most 3 at a time: picked") in await told(stand)


async def test_waiting() -> None:
    stand = Stand(queue={"max_in_flight": 1, "max_wait": "20s"})
    stand.model.line.enter("x", granted=lambda _slot: None, refused=lambda _fault: None)
    assert await line("queue", stand) == "waits as number 1, how long is unknown: 1 are under way, of 1"
    assert ("", "1 at a time, 100 may wait with 64MiB, for 20s") in await told(stand)
    assert ("", "patience 8s (x-stainless-read-timeout), fair by tenant (192.0.2.1), priority 0") in await told(stand, {}, ("x-stainless-read-timeout", "10"))


async def test_how_long_a_wait_will_be() -> None:
    stand = Stand(queue={"max_in_flight": 1, "fair_by": "off"})
    for _ in range(20):
        slot = stand.model.line.enter("", granted=lambda _slot: None, refused=lambda _fault: None)
        stand.clock.advance(2.0)
        slot.release()  # type: ignore[union-attr]  # there was room
    stand.model.line.enter("", granted=lambda _slot: None, refused=lambda _fault: None)
    assert (await line("queue", stand)).startswith("waits as number 1, about 2.0s")
    assert ("", "patience 30s (queue.max_wait), fair by off, priority 0") in await told(stand)


async def test_refused() -> None:
    stand = Stand(queue={"max_in_flight": 1, "max_waiting": 0})
    stand.model.line.count.take()
    assert (await line("queue", stand)).startswith("refused: 1 are under way, of 1, and no more may wait")
    assert await line("outcome", stand) == "refused: 429 queue_full: Too many requests are waiting for this model"


async def test_shared_slots_say_how_many_are_here() -> None:
    assert ("", "8 at a time (3 of them here), 100 may wait with 64MiB, for 30s") in await told(Stand(slots=3, queue={"max_in_flight": 8}))


async def test_flags_and_their_problems() -> None:
    stand = Stand()
    assert await line("flag", stand) == "f says nothing (ERROR, FLAG_NOT_FOUND)"
    found = await stand.explain({})
    found["model"]["flag"]["problem"] = "flags.json: is not a file"
    assert ("", "problem: flags.json: is not a file") in list(lines_of(found))
    assert "flag" not in dict(await told(Stand(flag=None)))


async def test_whose_it_is_and_what_it_sticks_by() -> None:
    stand = Stand(sticky=["header:x-who"], top={"auth": {"tenant": {"from": ["host"]}}})
    assert await line("tenant", stand) == "gate (host)"
    assert await line("sticks by", stand) == "nothing, so it takes turns (looked at: header:x-who)"
    assert await line("sticks by", stand, {}, ("x-who", "me")) == "header:x-who"
    assert await line("sticks by", Stand()) == "nothing, so it takes turns"


async def test_nobody_to_ask() -> None:
    lines = await told(Stand(splits={"stable": [{"service": "a", "weight": 0}]}))
    assert ("target", "none") in lines
    assert "usage" not in dict(lines)


async def test_usage_and_what_is_shared() -> None:
    stand = Stand(batch={}, hedge={"after": "1s"}, fallback=["canary"])
    assert (await line("usage", stand, {"stream": True})).startswith("asked for upstream: ")
    assert (await line("usage", stand)).startswith("not asked for: ")
    assert (await line("hedge", stand)).startswith("yes: after 1s")
    assert (await line("batch", stand, {"input": "a"}, path="/v1/embeddings")).startswith("yes: with others like it")
    assert (await line("flight", stand)).startswith("no: ")
    assert (await line("fallback", stand)).startswith("4 attempts: ")


async def test_tables() -> None:
    stand = cooling()
    titles, rows, chosen = candidate_rows(await stand.explain({}))
    assert (titles[1], rows, chosen) == ("route", [["1", "llm", "any", "/v1/*", "any", "matches"]], 0)
    assert model_rows(await stand.explain({}))[1] == []
    _, rows, _ = model_rows(await stand.explain(None))
    assert rows == [
        ["tutor", "none", "stable", "a as up", "1", "100%", "100%"],
        ["tutor", "none", "canary (default)", "a as tutor", "3", "75%", "0%"],
        ["tutor", "none", "canary (default)", "b as up-b", "1", "25%", "100%"],
    ]
