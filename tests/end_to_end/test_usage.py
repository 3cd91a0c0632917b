"""Every recorded stream of a provider through a route to models: byte for byte but for what was only asked for to meter it, however
its upstream cuts it; and in the record the upstream's own numbers.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import Stage, stage
from tests.end_to_end.test_streams import (
    REFRAMED,
    SMALL_BYTES,
    Sent,
    Stream,
    Way,
    between_cr_and_lf,
    bytewise,
    counted,
    inside_characters,
    inside_chunks,
    until_closed,
    whole,
)
from tests.kit.client import Response
from tests.kit.quiet import at_rest
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.sessions.test_usage import Numbers, events, rows, truth

pytestmark = pytest.mark.asyncio(loop_scope="module")
AT_A_TIME = 16
KIND = re.compile(r"/(chat/completions|completions|responses|messages)$")
ADDED_BY = ("chat/completions", "completions")
"""Where the usage has to be asked for."""
EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Recorded:
    """One stream, the kind of request that it answers, and what it says that it used."""

    stream: Stream
    kind: str
    used: Numbers | None
    row: dict[str, Any]

    @property
    def plain(self) -> bytes:
        """What a client gets that did not ask for the usage: without the chunk that holds nothing else."""
        if self.kind not in ADDED_BY:
            return self.stream.body
        return b"".join(part for part in EVENT.findall(self.stream.body) if not _is_extra(part))


def _is_extra(part: bytes) -> bool:
    data = [line[5:] for line in re.split(rb"\r\n|\r|\n", part) if line.startswith(b"data:")]
    try:
        said = json.loads(b"\n".join(data))
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("choices") == [] and isinstance(said.get("usage"), dict)


def recorded() -> list[Recorded]:
    """Those that a route to models serves, of all that there are."""
    return list(_recorded())


def _recorded() -> Iterator[Recorded]:
    for row in rows():
        kind = KIND.search(row["path"] or _path_of(row))
        if kind is None or "event-stream" not in row["content_type"] or row["method"] != "POST":
            continue
        path = f"/v1/{kind[1]}"
        stream = Stream(row["id"], "POST", path, row["status"], (("content-type", row["content_type"]),), row["bytes"])
        yield Recorded(stream, kind[1], truth(row), row)


def _path_of(row: dict[str, Any]) -> str:
    api = row["api"]
    return REFRAMED.get(api, "/v1/chat/completions" if api.startswith("openai") or "chat" in api else "")


class Player:
    """The upstream that plays what a request names, and who asks."""

    def __init__(self, models: Stage) -> None:
        self.models = models
        self.plays: dict[str, Sent] = {}
        self.left = asyncio.Semaphore(AT_A_TIME)
        models.a.answer_with(self._play)

    async def _play(self, arrived: Arrived) -> None:
        start, pieces, closes = self.plays[arrived.request.header("x-play") or ""]
        if start:
            await arrived.send(start)
        for piece in pieces:
            await arrived.send(piece)
            await asyncio.sleep(0)
        if closes:
            arrived.close()

    async def ask(self, number: str, one: Recorded, sent: Sent, **members: Any) -> Response:
        self.plays[number] = sent
        body = json.dumps({"model": "tutor", "stream": True, **members}).encode()
        lines = [f"POST {one.stream.path} HTTP/1.1", "Host: gate", f"x-request-id: {number}", f"x-play: {number}"]
        async with self.left, await self.models.client() as client:
            await client.send("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            return await client.answer(timeout=60)

    async def records(self, numbers: list[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}

        def all_there() -> bool:
            found.update((record["request_id"], record) for record in self.models.gateway.records())
            return found.keys() >= set(numbers)

        await eventually(all_there)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def player(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Player]:
    splits = {"stable": [{"service": "a", "model": "up"}]}
    async with stage(tmp_path_factory.mktemp("usage"), splits=splits, fallback=[], flag=None, first_byte="30s") as models:
        yield Player(models)
        await at_rest(models.gateway)


async def replayed(player: Player, name: str, found: list[Recorded], way: Way, **members: Any) -> None:
    """Each of them comes as it should, and its record says what it used."""
    chance = random.Random(5)
    numbered = {f"{name}-{number}": one for number, one in enumerate(found)}

    async def ask(number: str, one: Recorded) -> None:
        response = await player.ask(number, one, way(one.stream, chance), **members)
        stays = way is counted or "stream_options" in members  # of a length that was promised nothing is left out
        expected = one.stream.body if stays else one.plain
        assert response.body == expected, (one.stream.id, way.__name__, response.body[-300:], expected[-300:])
        assert response.status == 200

    async with asyncio.TaskGroup() as group:
        for number, one in numbered.items():
            group.create_task(ask(number, one))
    records = await player.records(list(numbered))
    for number, one in numbered.items():
        record = records[number]
        assert record["state"] == one.stream.state, (one.stream.id, record)
        assert (record["model"], record["routed_model"], record["attempts"]) == ("tutor", "up", 1)
        if one.used is None:
            assert record["usage_estimated"], one.stream.id
            continue
        told = {"input": record["input_tokens"], "output": record["output_tokens"], "cached": record["cached_tokens"]}
        wanted = {key: number for key, number in one.used.items() if key in told and number is not None}
        assert {key: told[key] for key in wanted} == wanted, one.stream.id
        assert record["usage_estimated"] is False, one.stream.id


async def test_there_are_streams_of_each_dialect_some_with_the_extra_chunk() -> None:
    found = recorded()
    assert {one.kind for one in found} == {"chat/completions", "completions", "responses", "messages"}
    assert len(found) > 200
    assert sum(one.plain != one.stream.body for one in found) >= 40
    assert sum(one.used is not None for one in found) > 150


@pytest.mark.parametrize("way", [whole, counted, until_closed, between_cr_and_lf, inside_characters, inside_chunks])
async def test_every_recorded_stream_is_metered_and_otherwise_left_alone(player: Player, way: Way) -> None:
    await replayed(player, way.__name__, recorded(), way)


async def test_who_asks_for_the_usage_gets_every_byte(player: Player) -> None:
    found = [one for one in recorded() if one.kind in ADDED_BY]
    await replayed(player, "asked", found, inside_chunks, stream_options={"include_usage": True})


async def test_small_streams_though_every_byte_comes_alone(player: Player) -> None:
    small = [one for one in recorded() if len(one.stream.body) < SMALL_BYTES]
    extra = [one for one in small if one.plain != one.stream.body]
    assert extra
    await replayed(player, "bytewise", [*extra[:20], *small[:30]], bytewise)


async def test_the_upstream_is_asked_for_what_is_metered(player: Player) -> None:
    for kind in ("chat/completions", "responses"):
        one = next(one for one in recorded() if one.kind == kind)
        player.models.a.requests.clear()
        await player.ask(f"asks-{kind.replace('/', '-')}", one, whole(one.stream, random.Random(1)))
        asked = json.loads(player.models.a.requests[-1].body)
        assert asked.get("stream_options") == ({"include_usage": True} if kind in ADDED_BY else None)


async def test_the_model_that_answered_is_the_one_that_the_stream_names(player: Player) -> None:
    found = [one for one in recorded() if one.kind == "chat/completions"][:40]
    numbers = []
    for number, one in enumerate(found):
        numbers.append(f"named-{number}")
        await player.ask(numbers[-1], one, whole(one.stream, random.Random(1)))
    records = await player.records(numbers)
    for number, one in zip(numbers, found, strict=True):
        models = [event["model"] for event in events(one.row) if isinstance(event, dict) and event.get("model")]
        assert records[number]["answering_model"] == (models[0] if models else None), one.stream.id
