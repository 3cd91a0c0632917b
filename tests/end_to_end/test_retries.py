"""Another attempt where it can help and harm nobody; which endpoint is asked; how many at once; which connections are kept."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from tests.kit.client import RawClient, Response
from tests.kit.gateway import RunningGateway
from tests.kit.ports import black_hole, refused_port
from tests.kit.quiet import at_rest, nothing_went_wrong, total
from tests.kit.upstream import Answer, Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, answer, chunk, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDEMPOTENT = ("GET", "PUT", "DELETE", "OPTIONS")
STREAM = head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
ON_ALL = {"retries": {"attempts": 2, "on": ["connect", "reset", "502", "503", "504"]}}


class Stage:
    def __init__(self, gateway: RunningGateway, ups: list[RawUpstream], lazy: RawUpstream) -> None:
        self.gateway = gateway
        self.ups = ups
        self.lazy = lazy
        self._number = 0

    async def ask(
        self, host: str, method: str = "GET", *lines: str, body: bytes = b"", path: str = "/x", client: RawClient | None = None
    ) -> Response:
        """One request, on a connection of its own unless a client is given."""
        fields = "".join(f"{line}\r\n" for line in lines)
        raw = f"{method} {path} HTTP/1.1\r\nHost: {host}.test\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body
        if client is not None:
            return await client.ask(raw, head_only=method == "HEAD")
        async with await RawClient.open(self.gateway.port) as own:
            return await own.ask(raw, head_only=method == "HEAD")

    async def told(self, host: str, method: str = "GET", *lines: str, **options: Any) -> tuple[Response, dict[str, Any]]:
        """An answer and its record."""
        self._number += 1
        number = f"t-{self._number}"
        response = await self.ask(host, method, f"x-request-id: {number}", *lines, **options)
        return response, await self.gateway.record(lambda record: record["request_id"] == number)

    def answers(self, *scripts: Answer | bytes) -> "list[Arrived]":
        """Each upstream in turn does what its script says; what arrives is noted."""
        arrived: list[Arrived] = []
        for up, script in zip(self.ups, scripts, strict=False):
            up.answer_with(self._noted(arrived, script))
        return arrived

    @staticmethod
    def _noted(arrived: list[Arrived], script: Answer | bytes) -> Answer:
        def play(one: Arrived) -> Any:
            arrived.append(one)
            return script if isinstance(script, bytes) else script(one)

        return play


def in_turn(*scripts: Answer | bytes) -> Answer:
    """The first request is answered by the first script, and so on; the last one is for all that follow."""
    left = list(scripts)

    def play(one: Arrived) -> Any:
        script = left.pop(0) if len(left) > 1 else left[0]
        return script if isinstance(script, bytes) else script(one)

    return play


def closing(arrived: Arrived) -> None:
    arrived.close()


def resetting(arrived: Arrived) -> None:
    arrived.reset()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as held:
        ups = [await held.enter_async_context(RawUpstream()) for _ in range(3)]
        lazy = await held.enter_async_context(RawUpstream(bodies="lazy"))
        one, all_three = {"url": ups[0].url}, {"endpoints": [{"url": up.url} for up in ups]}
        nobody = f"http://127.0.0.1:{held.enter_context(refused_port())}"
        hole = f"http://127.0.0.1:{held.enter_context(black_hole())}"
        services: dict[str, dict[str, Any]] = {
            "one": one,
            "never": one,
            "lazy": {"url": lazy.url},
            "half": {"endpoints": [{"url": nobody}, {"url": ups[0].url}], "balance": "round_robin"},
            "slow-half": {"endpoints": [{"url": hole, "weight": 100}, {"url": ups[0].url}], "timeouts": {"connect": "200ms"},
                          "balance": "round_robin"},
            "dead": {"endpoints": [{"url": nobody}, {"url": hole}], "timeouts": {"connect": "200ms"}},
            "again": one,
            "budget": one,
            "fresh": one,
            "deadline": {**one, "timeouts": {"total": "1s"}},
            "others": {"endpoints": [{"url": ups[0].url}, {"url": ups[1].url}], "balance": "round_robin"},
            "turns": {**all_three, "balance": "round_robin"},
            "weights": {"endpoints": [{"url": up.url, "weight": weight} for up, weight in zip(ups, (6, 3, 0), strict=True)],
                        "balance": "round_robin"},
            "least": {**all_three, "balance": "least_in_flight"},
            "hashed": {**all_three, "balance": "hash", "hash_by": ["header:x-user", "cookie:user", "query:user", "client_ip"]},
            "full": {**one, "max_in_flight": 2},
            "full-three": {**all_three, "max_in_flight": 1},
            "few": {**one, "pool": {"max_idle": 2}},
            "brief": {**one, "pool": {"idle": "300ms"}},
            "none": {**one, "pool": {"max_idle": 0}},
        }  # fmt: skip
        special: dict[str, dict[str, Any]] = {
            "never": {"retries": {"attempts": 0, "on": ["connect", "reset"]}},
            **dict.fromkeys(("again", "budget", "fresh", "others", "deadline"), ON_ALL),
        }
        config = {
            "services": [{"id": name, **service} for name, service in services.items()],
            "routes": [
                {
                    "id": name,
                    "match": {"paths": ["/*"], "hosts": [f"{name}.test"]},
                    "to": {"service": name},
                    **special.get(name, {}),
                }
                for name in services
            ],
        }
        async with RunningGateway(tmp_path_factory.mktemp("retries"), config) as gateway:
            yield Stage(gateway, ups, lazy)
            await at_rest(gateway)
        nothing_went_wrong(gateway)


# -- connections that were kept too long -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", [closing, resetting], ids=["closed", "reset"])
@pytest.mark.parametrize("host", ["one", "never"])
async def test_a_stale_connection_goes_unnoticed(stage: Stage, method: str, end: Answer, host: str) -> None:
    """The upstream ends a kept connection as the next request arrives on it."""

    def ends_the_second(arrived: Arrived) -> Any:
        return answer(b"ok") if arrived.connection.requests == 1 else end(arrived)

    arrived = stage.answers(ends_the_second)
    async with await RawClient.open(stage.gateway.port) as client:
        for _ in range(6):
            response = await stage.ask(host, method, body=b"once", client=client)
            assert (response.status, response.body) == (200, b"ok")
    assert len(arrived) >= 9, "some connections were kept and were stale"
    assert all(one.request.body == b"once" for one in arrived)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_upstream_that_closes_after_its_answer(stage: Stage, method: str) -> None:
    async def closes(arrived: Arrived) -> None:
        await arrived.send(answer(b"ok"))
        arrived.close()

    stage.answers(closes)
    async with await RawClient.open(stage.gateway.port) as client:
        for _ in range(20):
            response = await stage.ask("one", method, body=b"once", client=client)
            assert (response.status, response.body) == (200, b"ok")


async def test_connection_close_is_taken_at_its_word(stage: Stage) -> None:
    arrived = stage.answers(answer(b"ok", headers=[("connection", "close")]))
    for _ in range(4):
        assert (await stage.ask("none", "POST")).status == 200
    assert len({one.request.connection for one in arrived}) == 4
    assert len(arrived) == 4


async def test_a_stale_connection_is_replaced_once_only(stage: Stage) -> None:
    def warms_up(arrived: Arrived) -> Any:
        return answer(b"ok") if arrived.request.header("x-warm") else closing(arrived)

    arrived = stage.answers(warms_up)
    assert (await stage.ask("never", "POST", "x-warm: 1")).status == 200
    response, record = await stage.told("never", "POST", body=b"once")
    assert response.status == 502
    assert record["fault"] == "upstream_reset"
    assert [one.request.header("x-warm") for one in arrived] == ["1", None, None]
    assert record["attempts"] == 2


async def test_a_late_close_may_have_been_an_effect(stage: Stage) -> None:
    """A kept connection that ends long after the request may have carried it: a POST is not sent again."""

    async def late(arrived: Arrived) -> bytes | None:
        if arrived.request.header("x-warm"):
            return answer(b"ok")
        await asyncio.sleep(1.3)
        arrived.close()
        return None

    arrived = stage.answers(late)
    assert (await stage.ask("never", "POST", "x-warm: 1")).status == 200
    assert (await stage.ask("never", "POST")).status == 502
    assert len(arrived) == 2


async def test_rubbish_on_an_idle_connection_is_no_answer(stage: Stage) -> None:
    async def speaks_out_of_turn(arrived: Arrived) -> None:
        await arrived.send(answer(b"ok"))
        await asyncio.sleep(0.02)
        await arrived.send(answer(b"poison"))

    stage.answers(speaks_out_of_turn)
    async with await RawClient.open(stage.gateway.port) as client:
        for _ in range(10):
            assert (await stage.ask("one", client=client)).body == b"ok"
            await asyncio.sleep(0.03)


async def test_an_answer_with_more_than_it_said_ends_its_connection(stage: Stage) -> None:
    arrived = stage.answers(answer(b"ok") + answer(b"poison"))
    for _ in range(5):
        assert (await stage.ask("one")).body == b"ok"
    assert len({one.request.connection for one in arrived}) == 5


async def test_an_early_answer_ends_its_connection(stage: Stage) -> None:
    async def refuses(arrived: Arrived) -> bytes:
        assert await arrived.read()
        return answer(b"no", 413)

    stage.lazy.answer_with(refuses)
    before = len(stage.lazy.connections)
    for number in range(3):
        async with await RawClient.open(stage.gateway.port) as client:
            await client.send(b"POST /x HTTP/1.1\r\nHost: lazy.test\r\nContent-Length: 500000\r\n\r\n" + bytes(100_000))
            response = await client.answer()
            assert (response.status, response.body) == (413, b"no")
            assert response.closes, "what is left of its body is in the way"
        await stage.lazy.connections[before + number].wait_closed()
    assert len(stage.lazy.connections) == before + 3


# -- other endpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["half", "slow-half"])
async def test_what_cannot_be_connected_goes_elsewhere(stage: Stage, method: str, host: str) -> None:
    arrived = stage.answers(answer(b"ok"))
    tries = []
    for _ in range(6):
        response, record = await stage.told(host, method, body=b"once")
        assert (response.status, response.body) == (200, b"ok")
        tries.append(record["attempts"])
    assert len(arrived) == 6
    assert set(tries) <= {1, 2}
    assert tries[-1] == 1, "an endpoint that could not be reached is left alone for a while"


async def test_when_nobody_can_be_connected(stage: Stage) -> None:
    response, record = await stage.told("dead", "POST", body=b"once")
    assert response.status in {502, 504}
    assert record["attempts"] == 2
    assert record["fault"] in {"upstream_unreachable", "connect_timeout"}


# -- statuses and resets ---------------------------------------------------------------------------------------------------


async def _pay(stage: Stage, host: str = "again") -> None:
    """Enough requests for a few further attempts."""
    stage.answers(answer(b"ok"))
    for _ in range(40):
        await stage.ask(host, "POST")


@pytest.mark.parametrize("method", [*IDEMPOTENT, "HEAD"])
@pytest.mark.parametrize("failure", [502, 503, 504, "closed", "reset"])
async def test_what_is_idempotent_is_asked_again(stage: Stage, method: str, failure: int | str) -> None:
    await _pay(stage)
    content = b"" if method == "HEAD" else b"ok"
    failures = {"closed": closing, "reset": resetting}
    fails = failures[failure] if isinstance(failure, str) else answer(content, failure)
    arrived = stage.answers(in_turn(fails, answer(content)))
    body = b"the same" if method == "PUT" else b""
    response, record = await stage.told("again", method, body=body, path="/v1/chat/completions")
    assert response.status == 200
    assert record["attempts"] == len(arrived) == 2
    assert response.header("x-streamgate-attempts") == "2"
    assert [one.request.body for one in arrived] == [body, body]
    assert {one.request.method for one in arrived} == {method}


@pytest.mark.parametrize("failure", [answer(b"no", 503), closing])
async def test_what_is_not_idempotent_is_not(stage: Stage, failure: Answer | bytes) -> None:
    for method in ("POST", "PATCH"):
        arrived = stage.answers(failure)
        response, record = await stage.told("again", method, "x-fresh: 1", body=b"once")
        assert response.status == (503 if isinstance(failure, bytes) else 502)
        if isinstance(failure, bytes):
            assert response.body == b"no", "the upstream's own words"
            assert len(arrived) == 1
        assert record["attempts"] == len(arrived) <= 2, "at most a stale connection was replaced"


async def test_other_statuses_are_answers(stage: Stage) -> None:
    for status in (200, 404, 429, 500, 529):
        arrived = stage.answers(answer(b"as it is", status))
        response, _ = await stage.told("again")
        assert (response.status, response.body, len(arrived)) == (status, b"as it is", 1)


async def test_the_last_failure_is_the_answer(stage: Stage) -> None:
    await _pay(stage)
    arrived = stage.answers(in_turn(answer(b"1", 502), answer(b"2", 503), answer(b"3", 504)))
    response, record = await stage.told("again")
    assert (response.status, response.body) == (504, b"3")
    assert record["attempts"] == len(arrived) == 3
    assert (record["state"], record["fault"]) == ("complete", None)


async def test_a_large_body_is_not_kept_for_another_attempt(stage: Stage) -> None:
    arrived = stage.answers(answer(b"no", 503))
    response, record = await stage.told("again", "PUT", body=bytes(200_000))
    assert (response.status, record["attempts"], len(arrived)) == (503, 1, 1)
    assert len(arrived[0].request.body) == 200_000


async def test_nothing_is_asked_again_after_commit(stage: Stage) -> None:
    async def breaks(arrived: Arrived) -> None:
        await arrived.send(STREAM + chunk(b"data: x\n\n"))
        arrived.close()

    arrived = stage.answers(breaks)
    for path in ("/x", "/v1/chat/completions"):
        response, record = await stage.told("again", path=path)
        assert response.body.startswith(b"data: x\n\n")
        assert record["state"] == "upstream_truncated"
        assert record["attempts"] == 1
    assert len(arrived) == 2


async def test_the_budget_is_a_fifth_and_three_at_least(stage: Stage) -> None:
    arrived = stage.answers(answer(b"no", 503))
    asked = 60
    for _ in range(asked):
        assert (await stage.ask("budget")).status == 503
    again = len(arrived) - asked
    assert 3 <= again <= asked // 5, f"{again} further attempts for {asked} requests"


async def test_at_least_three_though_there_were_few_requests(stage: Stage) -> None:
    arrived = stage.answers(in_turn(answer(b"no", 503), answer(b"no", 503), answer(b"ok")))
    response, _ = await stage.told("fresh")
    assert (response.status, len(arrived)) == (200, 3)
    arrived = stage.answers(answer(b"no", 503))
    response, _ = await stage.told("fresh")
    assert (response.status, len(arrived)) == (503, 2)
    await stage.told("fresh")
    assert len(arrived) == 3


async def test_a_stale_connection_costs_no_further_attempt(stage: Stage) -> None:
    """Two further attempts are allowed; what was never really sent is none of them."""
    await _pay(stage)

    def stale_once(arrived: Arrived) -> Any:
        if arrived.connection.requests > 1:
            return closing(arrived)
        return answer(b"ok" if len(seen) == 4 else b"no", 200 if len(seen) == 4 else 503)

    seen = stage.answers(stale_once)
    response, record = await stage.told("again")
    assert (response.status, record["attempts"], len(seen)) == (200, 4, 4)


# -- Retry-After -----------------------------------------------------------------------------------------------------------


async def test_a_short_retry_after_is_waited_for(stage: Stage) -> None:
    times: list[float] = []

    def timed(script: bytes) -> Answer:
        def play(_: Arrived) -> bytes:
            times.append(time.monotonic())
            return script

        return play

    await _pay(stage)
    for field in (("retry-after", "1"), ("retry-after-ms", "400")):
        times.clear()
        stage.answers(in_turn(timed(answer(b"no", 503, headers=[field])), timed(answer(b"ok"))))
        response, record = await stage.told("again")
        assert (response.status, record["attempts"]) == (200, 2)
        assert times[1] - times[0] >= (1.0 if field[1] == "1" else 0.4)


async def test_a_long_retry_after_is_the_clients_to_wait_for(stage: Stage) -> None:
    arrived = stage.answers(answer(b"no", 503, headers=[("retry-after", "30")]))
    response, record = await stage.told("again")
    assert (response.status, response.header("retry-after")) == (503, "30")
    assert record["attempts"] == len(arrived) == 1


async def test_a_long_retry_after_sends_it_elsewhere(stage: Stage) -> None:
    busy = answer(b"no", 503, headers=[("retry-after", "30")])
    for first, second in ((busy, answer(b"ok")), (answer(b"ok"), busy)):
        stage.answers(first, second)
        for _ in range(2):
            response, record = await stage.told("others")
            assert (response.status, response.body) == (200, b"ok")
            assert record["attempts"] <= 2


async def test_no_attempt_is_begun_beyond_the_deadline(stage: Stage) -> None:
    arrived = stage.answers(answer(b"no", 503, headers=[("retry-after", "2")]))
    response, _ = await stage.told("deadline")
    assert (response.status, len(arrived)) == (503, 1)


# -- which endpoint --------------------------------------------------------------------------------------------------------


async def _asked(stage: Stage, host: str, times: int, *lines: str, path: str = "/x") -> list[int]:
    """Which upstream answered each of so many requests."""
    for number, up in enumerate(stage.ups):
        up.answer_with(lambda _, number=number: answer(str(number).encode()))
    return [int((await stage.ask(host, "GET", *lines, path=path)).body) for _ in range(times)]


async def test_turns(stage: Stage) -> None:
    answered = await _asked(stage, "turns", 12)
    assert Counter(answered) == {0: 4, 1: 4, 2: 4}
    assert answered[:3] == answered[3:6] == answered[6:9]


async def test_weights(stage: Stage) -> None:
    assert Counter(await _asked(stage, "weights", 18)) == {0: 12, 1: 6}


async def test_the_least_busy(stage: Stage) -> None:
    busy: list[Arrived] = []
    for up in stage.ups:
        up.answer_with(busy.append)
    waiting = [asyncio.create_task(stage.ask("least")) for _ in range(6)]
    await eventually(lambda: len(busy) == 6)
    assert Counter(one.request.header("host") for one in busy) == {f"127.0.0.1:{up.port}": 2 for up in stage.ups}
    freed = busy[0]
    await freed.send(answer(b"done"))
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await eventually(lambda: any(task.done() for task in waiting))
    waiting.append(asyncio.create_task(stage.ask("least")))
    await eventually(lambda: len(busy) == 7)
    assert busy[6].request.header("host") == freed.request.header("host")
    for one in busy[1:]:
        await one.send(answer(b"done"))
    await asyncio.gather(*waiting)


async def test_the_same_key_goes_to_the_same_endpoint(stage: Stage) -> None:
    ways: list[Callable[[str], dict[str, Any]]] = [
        lambda user: {"lines": (f"x-user: {user}",)},
        lambda user: {"lines": (f"Cookie: other=1; user={user}",)},
        lambda user: {"path": f"/x?a=1&user={user}"},
    ]
    places: dict[str, set[int]] = {}
    for way in ways:
        for number in range(40):
            options = way(f"user-{number}")
            found = await _asked(stage, "hashed", 2, *options.get("lines", ()), path=options.get("path", "/x"))
            places.setdefault(f"user-{number}", set()).update(found)
    assert all(len(found) == 1 for found in places.values()), places
    assert {place for found in places.values() for place in found} == {0, 1, 2}
    assert len(set(await _asked(stage, "hashed", 4))) == 1, "without any, the client's address"
    assert set(await _asked(stage, "hashed", 2, "x-user: user-1", path="/x?user=user-5")) == places["user-1"]


# -- how many at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "places"), [("full", 2), ("full-three", 3)])
async def test_more_than_there_is_room_for_is_told_to_come_back(stage: Stage, host: str, places: int) -> None:
    held: list[Arrived] = []
    for up in stage.ups:
        up.answer_with(held.append)
    waiting = [asyncio.create_task(stage.ask(host)) for _ in range(places)]
    await eventually(lambda: len(held) == places)
    for path, method in (("/x", "GET"), ("/v1/chat/completions", "POST")):
        response, record = await stage.told(host, method, path=path)
        assert response.status == 503
        assert 1 <= int(response.header("retry-after") or "") <= 60
        body = json.loads(response.body)
        assert (body if path == "/x" else body["error"])["code"] == "overloaded"
        assert (record["fault"], record["attempts"]) == ("overloaded", 0)
    assert len(held) == places
    for one in held:
        await one.send(answer(b"done"))
    assert {response.status for response in await asyncio.gather(*waiting)} == {200}
    for up in stage.ups:
        up.answer_with(lambda _: answer(b"ok"))
    for _ in range(places * 3):
        assert (await stage.ask(host)).status == 200


async def test_a_place_is_taken_until_the_last_byte(stage: Stage) -> None:
    held: list[Arrived] = []
    stage.ups[0].answer_with(held.append)
    async with await RawClient.open(stage.gateway.port) as one, await RawClient.open(stage.gateway.port) as two:
        for client in (one, two):
            await client.send(b"GET /x HTTP/1.1\r\nHost: full.test\r\n\r\n")
        await eventually(lambda: len(held) == 2)
        for arrived in held:
            await arrived.send(STREAM + chunk(b"data: x\n\n"))
        for client in (one, two):
            await client.head()
            await client.chunk()
        assert (await stage.ask("full")).status == 503
        await held[0].send(LAST_CHUNK)
        third = asyncio.create_task(_eventually_served(stage))
        await eventually(lambda: len(held) == 3)
        await held[2].send(answer(b"ok"))
        await third
        await held[1].send(LAST_CHUNK)


async def _eventually_served(stage: Stage) -> None:
    while (await stage.ask("full")).status != 200:
        await asyncio.sleep(0.005)


# -- connections that are kept ---------------------------------------------------------------------------------------------


async def _idle(stage: Stage, service: str) -> float:
    return total(await at_rest(stage.gateway), "streamgate_upstream_connections", service=service, state="idle")


async def test_one_connection_serves_one_after_another(stage: Stage) -> None:
    stage.ups[0].answer_with(lambda arrived: answer(b"%d" % arrived.connection.number))
    async with await RawClient.open(stage.gateway.port) as client:
        served = {(await stage.ask("brief", "POST", body=b"x", client=client)).body for _ in range(10)}
    assert len(served) == 1


@pytest.mark.parametrize(("service", "kept"), [("few", 2), ("none", 0)])
async def test_no_more_are_kept_than_may_be(stage: Stage, service: str, kept: int) -> None:
    held: list[Arrived] = []
    stage.ups[0].answer_with(held.append)
    waiting = [asyncio.create_task(stage.ask(service)) for _ in range(6)]
    await eventually(lambda: len(held) == 6)
    for one in held:
        await one.send(answer(b"ok"))
    await asyncio.gather(*waiting)
    assert await _idle(stage, service) == kept
    await eventually(lambda: sum(one.connection.is_open for one in held) == kept)


async def test_none_is_kept_longer_than_it_may_be(stage: Stage) -> None:
    arrived = stage.answers(answer(b"ok"))
    await stage.ask("brief")
    assert await _idle(stage, "brief") >= 1
    await arrived[-1].wait_closed()
    assert await _idle(stage, "brief") == 0
    assert (await stage.ask("brief")).status == 200
