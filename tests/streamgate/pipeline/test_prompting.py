"""A request to a model, whole: however it ends it is answered and recorded once, and everything it held is given back.

``models_bench`` checks that after each test; the windows in which a request may be cut short are in tests/end_to_end/test_leases.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from routers.flags import Verdict
from streamgate.observe.gen_ai import GenAi
from tests.end_to_end.models_stage import DONE, ROLE, STREAM, refusal, stream, token, told
from tests.kit.around import SetFlags
from tests.kit.client import RawClient
from tests.kit.ports import refused_port
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk
from tests.streamgate.pipeline.models_bench import ModelsBench, models_bench

ERROR = b'data: {"error":{"message":"m","type":"server_error","code":"server_error"}}\n\n'


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[ModelsBench]:
    async with models_bench() as bench:
        yield bench


@pytest_asyncio.fixture
async def lonely() -> AsyncIterator[ModelsBench]:
    """A model without a fallback."""
    async with models_bench(fallback=[]) as bench:
        yield bench


async def reset(one: Arrived) -> None:
    one.reset()


async def opening_and_reset(one: Arrived) -> None:
    await one.send(STREAM + chunk(ROLE))
    one.reset()


FAILURES: dict[str, Any] = {
    "reset": reset,
    "opening and reset": opening_and_reset,
    "opening and end": lambda _one: stream(ROLE),
    "500": lambda _one: refusal(500),
    "429": lambda _one: refusal(429),
    "in band": lambda _one: stream(ROLE, ERROR),
    "no HTTP": lambda _one: b"HTTP/1.1 nonsense\r\n\r\n",
}
STATUSES = {"reset": 502, "opening and reset": 502, "opening and end": 502, "500": 500, "429": 429, "in band": 200, "no HTTP": 502}
GOES_ON = sorted(FAILURES.keys() - {"no HTTP"})


@pytest.mark.parametrize("failure", GOES_ON)
async def test_a_failure_is_anothers_success(bench: ModelsBench, failure: str) -> None:
    bench.a.answer_with(FAILURES[failure])
    bench.b.answer_with(lambda _one: stream(ROLE, token("b"), DONE))
    response = await bench.asks(messages=[], stream=True)
    assert (response.status, response.body) == (200, ROLE + token("b") + DONE)
    await eventually(lambda: bench.records)
    (record,) = bench.records
    assert (record.service, record.split, record.fallbacks, record.state) == ("b", "canary", 1, "complete")


@pytest.mark.parametrize("failure", sorted(FAILURES))
async def test_or_is_told_as_it_came(lonely: ModelsBench, failure: str) -> None:
    lonely.a.answer_with(FAILURES[failure])
    response = await lonely.asks(messages=[], stream=True)
    assert response.status == STATUSES[failure]
    if failure == "in band":
        assert response.body == ROLE + ERROR
    await eventually(lambda: lonely.records)
    assert (lonely.records[0].service, lonely.records[0].fallbacks) == ("a", 0)


@pytest.mark.parametrize("failure", sorted(FAILURES))
async def test_or_everybodys(bench: ModelsBench, failure: str) -> None:
    bench.a.answer_with(FAILURES[failure])
    bench.b.answer_with(FAILURES[failure])
    assert (await bench.asks(messages=[], stream=True)).status == STATUSES[failure]


async def test_nobody_listens_anywhere() -> None:
    with refused_port() as port:
        nowhere = {"url": f"http://127.0.0.1:{port}"}
        async with models_bench(services=nowhere) as bench:
            response = await bench.asks(messages=[])
            assert response.status == 502
            await eventually(lambda: bench.records)
            assert (bench.records[0].fault, bench.records[0].attempts) == ("upstream_unreachable", 2)


async def test_what_breaks_in_the_stream_is_told_there(bench: ModelsBench) -> None:
    task = bench.asks(messages=[], stream=True)
    one = await bench.a.next_request()
    await one.send(STREAM + chunk(token("a")))
    one.reset()
    body = (await task).body
    assert body.startswith(token("a")) and b'"error"' in body
    assert bench.b.requests == []


@pytest.mark.parametrize(("path", "body", "status"), [("/v1/audio", "{}", 404), ("/v1/chat/completions", "{}", 400), ("/v1/chat/completions", '{"model":"x"}', 404)])
async def test_what_is_no_request_to_a_model_holds_nothing(bench: ModelsBench, path: str, body: str, status: int) -> None:
    async with await RawClient.open(bench.port) as client:
        bench.asked += 1
        await client.send(f"POST {path} HTTP/1.1\r\nHost: gate\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        assert (await client.answer()).status == status
    assert bench.a.requests == []


# -- flags and keys --------------------------------------------------------------------------------------------------------


async def test_a_flag_is_asked_with_what_may_be_known() -> None:
    flags = SetFlags({"f": "canary"})
    async with models_bench(flag="f", sticky=["body:user"], parts={"flags": flags}) as bench:
        bench.reload(auth={"tenant": {"from": ["host"]}})
        bench.b.answer_with(lambda _one: told("x"))
        client = await RawClient.open(bench.port)
        await client.send(bench.request({"messages": ["secret"], "user": "u1"}).replace(b"Host: gate", b"Host: acme.example"))
        response = await client.answer()
        assert response.header("x-streamgate-split") == "canary"
        assert flags.asked == [("f", {"route": "llm", "model": "tutor", "tenant": "acme", "targetingKey": "u1"})]
        await eventually(lambda: bench.records)
        assert (bench.records[0].variant, bench.records[0].tenant) == ("canary", "acme")
        flags.values["f"] = "odd"
        bench.a.answer_with(lambda _one: told("x"))
        assert (await bench.asks(messages=[])).header("x-streamgate-reason") == "UNKNOWN_SPLIT"
        client.writer.transport.abort()


async def test_who_repeats_by_itself_gets_fewer_attempts() -> None:
    splits = {name: [{"service": "ab"[number % 2], "model": name}] for number, name in enumerate("stuv")}
    async with models_bench(splits=splits, fallback=["t", "u", "v"]) as bench:
        for upstream in (bench.a, bench.b):
            upstream.answer_with(lambda _one: refusal(503))
        for count, attempts in (("0", 4), ("1", 2), ("x", 4)):
            await bench.asks(f"x-stainless-retry-count: {count}", messages=[])
            await eventually(lambda n=count: len(bench.records) == ["0", "1", "x"].index(n) + 1)
            assert bench.records[-1].attempts == attempts


# -- what is learned of targets --------------------------------------------------------------------------------------------


def in_a_row(bench: ModelsBench) -> int:
    return bench.model.cooldowns["a", "up"].statistics().in_a_row


async def test_an_answer_ends_what_failures_began(bench: ModelsBench) -> None:
    bench.b.answer_with(lambda _one: told("x"))
    bench.a.answer_with(FAILURES["500"])
    await bench.asks(messages=[])
    await bench.asks(messages=[])
    assert in_a_row(bench) == 2
    bench.a.answer_with(lambda _one: told("x"))
    await bench.asks(messages=[])
    assert in_a_row(bench) == 0


async def test_an_answer_that_was_the_last_for_a_while_is_believed(bench: ModelsBench) -> None:
    spent = [("content-type", "application/json"), ("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "20s")]
    bench.a.answer_with(lambda _one: answer(b"{}", 200, spent))
    bench.b.answer_with(lambda _one: told("x"))
    served = [(await bench.asks(messages=[])).header("x-streamgate-service") for _ in range(2)]
    assert served == ["a", "b"]


async def test_an_address_that_cannot_be_reached_is_noted_as_such() -> None:
    with refused_port() as port:
        async with models_bench(services={"url": f"http://127.0.0.1:{port}", "balance": "least_rtt"}, fallback=[]) as bench:
            await bench.asks(messages=[])
            (endpoint,) = bench.model.services["a"].keepers
            assert (endpoint.failures, endpoint.ewma_s >= 10.0) == (1, True)


async def test_the_deadlines_are_those_of_the_service_that_is_asked() -> None:
    async def silence(_one: Arrived) -> None:
        """Nothing at all."""

    async with models_bench(services={"timeouts": {"first_byte": "60ms"}}) as bench:
        bench.a.answer_with(silence)
        bench.b.answer_with(lambda _one: told("x"))
        assert (await bench.asks(messages=[])).header("x-streamgate-service") == "b"


async def test_who_goes_on_from_an_answer_is_led_to_who_gave_it(bench: ModelsBench) -> None:
    models = bench.plan.models
    assert models is not None
    models.answers.remember("resp_1", "b up-b", bench.clock.now())
    bench.b.answer_with(lambda _one: told("x"))
    response = await bench.asks(path="/v1/responses", input="x", previous_response_id="resp_1")
    assert response.header("x-streamgate-service") == "b"
    assert bench.a.requests == []


async def test_a_prompt_is_let_go_of_with_the_first_token(bench: ModelsBench) -> None:
    client = await bench.sent(messages=["x" * 9_000], stream=True)
    one = await bench.a.next_request()
    (live,) = bench.live
    assert live.ask is not None and len(live.ask.body) > 9_000
    await one.send(STREAM + chunk(token("a")))
    await client.head()
    assert (live.ask.body, live._body.replay) == (b"", b"")
    await one.send(chunk(DONE) + b"0\r\n\r\n")
    await eventually(lambda: bench.records)


# -- who waits for what was given up ---------------------------------------------------------------------------------------


async def test_who_waits_for_an_endpoint_is_served_when_another_gives_it_up() -> None:
    """Although the one that gave it up is still under way, elsewhere."""
    services = {"max_in_flight": 1}
    async with models_bench(services=services) as bench:
        first = await bench.sent(messages=[])
        one = await bench.a.next_request()
        second = await bench.sent(messages=[])
        await eventually(lambda: bench.model.line.waiting)
        await one.send(refusal(500))
        held = await bench.b.next_request()
        await (await bench.a.next_request()).send(told("second"))
        assert b"second" in (await second.answer()).body
        await held.send(told("first"))
        assert b"first" in (await first.answer()).body


async def test_and_by_a_request_that_goes_to_no_model() -> None:
    async with models_bench(services={"max_in_flight": 1}, fallback=[]) as bench:
        plain = {"id": "plain", "match": {"paths": ["/plain"]}, "to": {"service": "a"}}
        bench.reload(routes=[*bench.config["routes"], plain])
        first = await bench.sent(path="/plain")
        one = await bench.a.next_request()
        second = await bench.sent(messages=[])
        await eventually(lambda: bench.model.line.waiting)
        bench.remodel()  # while it is under way
        await one.send(answer(b"plain"))
        await first.answer()
        await (await bench.a.next_request()).send(told("second"))
        assert (await second.answer()).status == 200


# -- defects of ours -------------------------------------------------------------------------------------------------------


class BrokenFlags(SetFlags):
    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict:
        raise ZeroDivisionError("hunter2")


async def test_a_defect_before_anything_is_sent() -> None:
    async with models_bench(flag="f", parts={"flags": BrokenFlags()}) as bench:
        response = await bench.asks(messages=[])
        assert response.status == 500
        await eventually(lambda: bench.records)
        assert "ZeroDivisionError" in bench.records[0].note
        assert b"hunter2" not in response.body and "hunter2" not in bench.records[0].note


@pytest.mark.parametrize("config", [{}, {"route": {"single_flight": True}}, {"hedge": {"after": "30s"}}])
async def test_a_defect_while_an_answer_is_judged(config: dict[str, Any]) -> None:
    async with models_bench(fallback=[], **config) as bench:
        task = bench.asks(messages=[], temperature=0)
        one = await bench.a.next_request()
        bench.clock.broken = True
        await one.send(told("x"))
        response = await task
        assert (response.status, b"hunter2" in response.body) == (502, False)
        await one.wait_closed()


class BrokenMeter(GenAi):
    def observe(self, **_facts: Any) -> None:
        raise ZeroDivisionError


async def test_a_defect_when_it_is_settled_keeps_nothing() -> None:
    async with models_bench(parts={"gen_ai": BrokenMeter()}, queue={"max_in_flight": 1}) as bench:
        bench.a.answer_with(lambda _one: told("x"))
        assert (await bench.asks(messages=[])).status == 200
        assert (await bench.asks(messages=[])).status == 200


# -- after an announcement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["500", "429", "in band", "opening and end", "reset"])
async def test_what_goes_wrong_after_an_announcement_is_told_in_the_stream(failure: str) -> None:
    queue = {"max_in_flight": 1, "announce": "5ms"}
    async with models_bench(fallback=[], queue=queue) as bench:
        held = await bench.sent(messages=[])
        one = await bench.a.next_request()
        task = bench.asks(messages=[], stream=True)
        await eventually(lambda: any(live._turn is not None and live._turn.announcing for live in bench.live))
        bench.a.answer_with(FAILURES[failure])
        await one.send(told("x"))
        response = await task
        assert (response.status, response.body.count(b'data: {"error"')) == (200, 1)
        assert b"HTTP/1.1" not in response.body and b"no: " not in response.body
        assert (await held.answer()).status == 200


async def test_and_another_target_may_still_answer_it() -> None:
    async with models_bench(queue={"max_in_flight": 1, "announce": "5ms"}) as bench:
        held = await bench.sent(messages=[])
        one = await bench.a.next_request()
        task = bench.asks(messages=[], stream=True)
        await eventually(lambda: any(live._turn is not None and live._turn.announcing for live in bench.live))
        bench.a.answer_with(FAILURES["500"])
        bench.b.answer_with(lambda _one: stream(ROLE, token("b"), DONE))
        await one.send(told("x"))
        assert (await task).body.endswith(ROLE + token("b") + DONE)
        assert (await held.answer()).status == 200


