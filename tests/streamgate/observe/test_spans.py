"""Spans: what they say and do not say, which traces are sent, and that a collector that is away holds nothing up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from streamgate.exchange import Exchange, Terminal
from streamgate.observe.spans import QUEUE_SPANS, Spans, span_of
from streamgate.prompt import Prompt
from tests.kit.ports import refused_port
from tests.kit.wait import eventually

TRACE, PARENT, OURS = "a" * 32, "b" * 16, "c" * 16


def exchange(*, flags: str = "01", parent: bool = True) -> Exchange:
    named = {b"traceparent": [f"00-{TRACE}-{PARENT}-{flags}".encode()]} if parent else {}
    one = Exchange(
        method=b"POST", path=b"/v1/chat/completions", query=b"key=secret", host=b"gate", headers=[(b"authorization", b"Bearer s3cret")],
        http10=False, started_at=10.0, named=named,
    )  # fmt: skip
    one.trace_id, one.span_id, one.request_id = TRACE, OURS, b"r-1"
    one.traceparent = f"00-{TRACE}-{OURS}-{flags}".encode()
    one.status, one.service, one.attempts, one.terminal, one.first_byte_at = 200, "a", 2, Terminal.COMPLETE, 10.25
    return one


def facts(one: Exchange) -> dict[str, Any]:
    span = span_of(one, route="llm", pattern="/v1/*", now=11.0, wall=1_000.0)
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def test_a_span_has_its_place_and_its_time() -> None:
    span = span_of(exchange(), route="llm", pattern="/v1/*", now=11.0, wall=1_000.0)
    assert (span["traceId"], span["spanId"], span["parentSpanId"], span["kind"], span["name"]) == (TRACE, OURS, PARENT, 2, "POST /v1/*")
    assert (span["startTimeUnixNano"], span["endTimeUnixNano"]) == ("999000000000", "1000000000000")
    assert "parentSpanId" not in span_of(exchange(parent=False), route="llm", pattern="/v1/*", now=11.0, wall=1.0)


def test_it_says_which_flag_decided_and_what_was_used() -> None:
    one = exchange()
    prompt = one.prompt = Prompt("tutor", "chat", stream=True)
    prompt.flag, prompt.variant, prompt.reason, prompt.split = "who", "canary", "TARGETING_MATCH", "new"
    prompt.routed, prompt.answering, prompt.input_tokens, prompt.output_tokens = "up", "up-1", 7, 0
    said = facts(one)
    assert said["feature_flag.key"] == "who"
    assert (said["feature_flag.result.variant"], said["feature_flag.result.reason"]) == ("canary", "targeting_match")
    assert (said["gen_ai.original.model"], said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("tutor", "up", "up-1")
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == ("7", "0")
    assert (said["streamgate.state"], said["gen_ai.response.time_to_first_chunk"]) == ("complete", 0.25)


def test_it_says_nothing_that_is_somebodys_secret() -> None:
    assert "s3cret" not in json.dumps(span_of(exchange(), route="llm", pattern="/v1/*", now=11.0, wall=1.0))
    assert "secret" not in json.dumps(span_of(exchange(), route="llm", pattern="/v1/*", now=11.0, wall=1.0))


def test_a_failure_is_an_error() -> None:
    one = exchange()
    one.status = 502
    assert span_of(one, route="llm", pattern="/v1/*", now=11.0, wall=1.0)["status"] == {"code": 2}


@asynccontextmanager
async def collector(status: int = 200) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """(address, the spans it was sent)."""
    got: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        document = await request.json()
        got.extend(span for one in document["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"])
        return web.json_response({}, status=status)

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", got
    finally:
        await runner.cleanup()


def add(spans: Spans, one: Exchange) -> None:
    spans.add(one, route="llm", pattern="/v1/*", now=11.0, wall=1_000.0)


async def test_sampled_traces_are_sent_and_others_are_not() -> None:
    async with collector() as (url, got):
        spans = Spans(url + "/")
        task = asyncio.create_task(spans.run())
        add(spans, exchange())
        add(spans, exchange(flags="00"))
        await eventually(lambda: got)
        await eventually(lambda: spans.sent == 1)
        task.cancel()
        add(spans, exchange())
        await spans.close()
        assert (len(got), spans.sent, spans.dropped) == (2, 2, 0)


@pytest.mark.parametrize("away", [True, False])
async def test_a_collector_that_is_away_or_refuses_loses_spans_and_nothing_else(away: bool) -> None:
    with refused_port() as port:
        async with collector(status=503) as (url, _got):
            spans = Spans(f"http://127.0.0.1:{port}" if away else url)
            add(spans, exchange())
            await spans.close()
            assert (spans.sent, spans.dropped) == (0, 1)


async def test_the_queue_is_bounded() -> None:
    spans = Spans("http://127.0.0.1:1")
    for _ in range(QUEUE_SPANS + 3):
        add(spans, exchange())
    assert spans.dropped == 3
    (family,) = spans.families()
    assert [(sample.labels, sample.value) for sample in family.samples] == [(("sent",), 0), (("dropped",), 3)]
