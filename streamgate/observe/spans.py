"""One server span per exchange, sent to an OpenTelemetry collector: OTLP over HTTP, in JSON (opentelemetry-proto 1.x, `/v1/traces`).

What a record says without content, a span says under the names of OpenTelemetry's conventions (HTTP, GenAI, feature flags). Only
sampled traces are sent: those whose caller sampled them, and those that begin here. Sending fails open: spans wait in a bounded
queue, and what a collector does not take within a few seconds is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import aiohttp

from streamgate.exchange import Exchange
from streamgate.observe.metrics import Family, Sample
from streamgate.observe.traces import SAMPLED

QUEUE_SPANS: Final = 10_000
BATCH_SPANS: Final = 512
FLUSH_S: Final = 1.0
TIMEOUT_S: Final = 3.0
_SERVER: Final = 2
_ERROR: Final = 2
_FAILED: Final = 500


class Spans:
    """Where spans go. Made on a running loop; ``run`` is the task that sends."""

    def __init__(self, url: str) -> None:
        """``url`` is the collector's address without `/v1/traces`."""
        self._url = url.rstrip("/") + "/v1/traces"
        self._queue: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self.sent = 0
        self.dropped = 0

    def add(self, exchange: Exchange, *, route: str, pattern: str, now: float, wall: float) -> None:
        """Queue the span of a settled exchange, if its trace is sampled; never blocks, never raises."""
        if not int(exchange.traceparent[-2:] or b"0", 16) & SAMPLED:
            return
        if len(self._queue) >= QUEUE_SPANS:
            self.dropped += 1
            return
        self._queue.append(span_of(exchange, route=route, pattern=pattern, now=now, wall=wall))
        if len(self._queue) >= BATCH_SPANS:
            self._wake.set()

    async def run(self) -> None:
        """Send what waits, every second or when there is much, until cancelled."""
        async with _session() as session:
            while True:
                self._wake.clear()
                try:
                    async with asyncio.timeout(FLUSH_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                while self._queue:
                    await self._send(session)

    async def close(self) -> None:
        """Send what still waits, within a second; the rest is dropped."""
        try:
            async with asyncio.timeout(FLUSH_S), _session() as session:
                while self._queue:
                    await self._send(session)
        except TimeoutError:
            self.dropped += len(self._queue)
            self._queue.clear()

    async def _send(self, session: aiohttp.ClientSession) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_SPANS))]
        try:
            async with session.post(self._url, json=_request(batch), allow_redirects=False) as answer:
                taken = answer.status == 200  # noqa: PLR2004  # OTLP/HTTP: whatever else it says, they are not taken
        except (aiohttp.ClientError, TimeoutError, OSError):
            taken = False
        self.sent += len(batch) * taken
        self.dropped += len(batch) * (not taken)

    def families(self) -> Iterable[Family]:
        """How many spans were sent and dropped."""
        samples = [Sample(("sent",), self.sent), Sample(("dropped",), self.dropped)]
        yield Family("streamgate_spans", "counter", "Spans by what became of them.", ("outcome",), samples)


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    return aiohttp.ClientSession(timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


def span_of(exchange: Exchange, *, route: str, pattern: str, now: float, wall: float) -> dict[str, Any]:
    """The span of a settled exchange as OTLP's JSON has it; ``wall`` is its end in seconds since the epoch."""
    method = exchange.method.decode("ascii", "replace")
    parent = exchange.named.get(b"traceparent")
    begin = wall - (now - exchange.started_at)
    span: dict[str, Any] = {
        "traceId": exchange.trace_id,
        "spanId": exchange.span_id,
        "name": f"{method} {pattern}",
        "kind": _SERVER,
        "startTimeUnixNano": str(int(begin * 1e9)),
        "endTimeUnixNano": str(int(wall * 1e9)),
        "attributes": _attributes(_facts(exchange, method, route, pattern)),
    }
    if parent and (given := parent[0].strip().decode("ascii", "replace").split("-"))[1:2] == [exchange.trace_id]:
        span["parentSpanId"] = given[2]
    if exchange.status >= _FAILED:
        span["status"] = {"code": _ERROR}
    return span


def _facts(exchange: Exchange, method: str, route: str, pattern: str) -> dict[str, object]:
    fault, prompt = exchange.fault, exchange.prompt
    facts: dict[str, object] = {
        "http.request.method": method,
        "http.response.status_code": exchange.status,
        "http.route": pattern,
        "error.type": None if fault is None else fault.name,
        "streamgate.route": route,
        "streamgate.service": exchange.service,
        "streamgate.attempts": exchange.attempts,
        "streamgate.state": None if exchange.terminal is None else str(exchange.terminal),
        "streamgate.request_id": exchange.request_id.decode("ascii", "replace"),
    }
    if exchange.first_byte_at is not None:
        facts["gen_ai.response.time_to_first_chunk"] = exchange.first_byte_at - exchange.started_at
    if prompt is not None:
        facts |= {
            "gen_ai.operation.name": prompt.operation,
            "gen_ai.original.model": prompt.model,
            "gen_ai.request.model": prompt.routed,
            "gen_ai.response.model": prompt.answering,
            "gen_ai.usage.input_tokens": prompt.input_tokens,
            "gen_ai.usage.output_tokens": prompt.output_tokens,
            "feature_flag.key": prompt.flag,
            "feature_flag.result.variant": prompt.variant,
            "feature_flag.result.reason": None if prompt.reason is None else prompt.reason.lower(),
            "streamgate.split": prompt.split,
            "streamgate.tenant": prompt.tenant,
            "streamgate.queue_ms": prompt.queue_s * 1e3,
        }
    return facts


def _attributes(facts: dict[str, object]) -> list[dict[str, Any]]:
    """Key and typed value of each fact that is known."""
    return [{"key": key, "value": _value(value)} for key, value in facts.items() if value is not None]


def _value(value: object) -> dict[str, object]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _request(spans: list[dict[str, Any]]) -> dict[str, Any]:
    resource = {"attributes": _attributes({"service.name": "streamgate"})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "streamgate"}, "spans": spans}]}]}
