"""Stages 1, 2 and 9 as the edge sees them: a head becomes an exchange, finds its plan, and is recorded when it is over."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, Final

import msgspec
from sanic.exceptions import MethodNotAllowed

from routers.paths import BadTarget, Routes
from routers.paths import WrongMethod as NotAllowed
from streamgate.edge.guard import Head, HeadLimits
from streamgate.errors import Answer, Fault, NoRoute, NotFramed, WrongMethod
from streamgate.exchange import Dialect, Exchange, State, Terminal
from streamgate.headers import Networks, Peer, client_address, valid_request_id
from streamgate.observe.metrics import METHODS, Metrics, RouteMetrics
from streamgate.observe.records import Records, record_of
from streamgate.observe.spans import Spans
from streamgate.observe.traces import incoming, outgoing
from streamgate.pipeline.plan import Plan
from streamgate.pipeline.upstream import Kit

NO_ROUTE: Final = "_none"
_NO_END: Final = Terminal.UPSTREAM_ERROR
_AI: Final = re.compile(
    rb"/(?:chat/(completions)|(?:v1|openai|deployments/[^/]+)/(?:(completions|embeddings|models|audio/.*|images/.*)|(responses)(?:/[^/]+)?|(messages)))$"
)
_DIALECTS: Final = (Dialect.OPENAI, Dialect.OPENAI, Dialect.RESPONSES, Dialect.ANTHROPIC)


@lru_cache(maxsize=512)
def dialect_of(path: bytes) -> Dialect:
    """The dialect that clients of this path speak: the API's own path tells (OpenAI, Azure and the many that follow them;
    Anthropic's ``/v1/messages``); everything else reads problems (RFC 9457).
    """
    match = _AI.search(path)
    return Dialect.PROBLEM if match is None else _DIALECTS[(match.lastindex or 1) - 1]


@dataclass(frozen=True, slots=True)
class EdgeTimeouts:
    """Seconds a client has for a head, may stay between two requests, and may take nothing of what waits for it."""

    head_s: float = 10.0
    keep_alive_s: float = 75.0
    write_s: float = 30.0


class Entry(msgspec.Struct, frozen=True):
    """An exchange that has found its plan."""

    exchange: Exchange
    plan: Plan


class Gateway:
    """One worker's edge: what it needs to turn heads into exchanges. ``routes`` is replaced whole by a reload."""

    def __init__(self, *, kit: Kit, metrics: Metrics, records: Records, worker: bytes) -> None:
        self.kit = kit
        self.metrics = metrics
        self.records = records
        self.spans: Spans | None = None
        """Where spans go, if they go anywhere; traces that begin here are sampled then."""
        self.routes: Routes[Plan] = Routes(())
        self.number = 0
        self.connections: set[Any] = set()
        """Every client connection of this worker."""
        self.head_limits = HeadLimits()
        self.timeouts = EdgeTimeouts()
        self.trusted = Networks()
        self._worker = worker
        self._count = count(1)
        self._ms = 0
        self._ms_text = ""

    def new_request_id(self) -> bytes:
        """Unique among workers and restarts; short, since it is in every record."""
        return b"%b-%x" % (self._worker, next(self._count))

    def name(self, head: Head) -> tuple[Dialect, bytes]:
        """(dialect, request id) of a request that found no plan."""
        return dialect_of(head.target.partition(b"?")[0]), self._request_id(head)

    def _request_id(self, head: Head) -> bytes:
        given = head.named.get(b"x-request-id")
        if given is not None and len(given) == 1 and valid_request_id(given[0]):
            return given[0]
        return self.new_request_id()

    def enter(self, head: Head, peer: Peer) -> Entry:
        """Build the exchange and match it. Raises NotFramed, NoRoute or WrongMethod."""
        method = head.method
        try:
            way, query = self.routes.lead(head.host, head.target, method)
        except BadTarget as error:
            raise NotFramed("The request target is not taken: " + error.reason) from None
        if way is None:
            raise NoRoute
        if isinstance(way, NotAllowed):
            raise WrongMethod(headers=((b"Allow", b", ".join(way.allow)),))
        plan, path = way.plan, way.path
        if not plan.keep_encoded_slash and b"%2F" in path:
            raise NotFramed("The path holds an encoded slash; this route does not take one")
        exchange = Exchange(  # by position: a class of Python's takes half as long for it
            method, path, query, way.host, head.headers, head.http10, self.kit.clock.now(), head.named
        )
        exchange.dialect = dialect_of(path)
        exchange.request_id = self._request_id(head)
        exchange.peer_address = peer.address
        exchange.client_address = (
            client_address(peer.address, head.named.get(b"x-forwarded-for", ()), self.trusted) if peer.trusted else peer.address
        )
        exchange.pattern = way.pattern
        self._trace(exchange)
        return Entry(exchange, plan)

    def _trace(self, exchange: Exchange) -> None:
        parents = exchange.named.get(b"traceparent")
        context = incoming(parents, exchange.named.get(b"tracestate", ())) if parents else None
        sent = outgoing(context, self.kit.clock.token, sampled=self.spans is not None)
        exchange.traceparent, exchange.tracestate = sent.traceparent, sent.tracestate
        exchange.trace_id, exchange.span_id = sent.trace_id, sent.span_id

    def serves(self, head: Head, app: Any) -> bool:
        """Has Sanic a handler for this path, whatever its methods? Its router raises when it has none."""
        try:
            app.router.get(head.target.partition(b"?")[0].decode("ascii"), head.method.decode("ascii"), None)
        except MethodNotAllowed:
            return True
        except Exception:  # noqa: BLE001  # NotFound, or a path that is no ASCII: not served here
            return False
        return True

    # -- settle --------------------------------------------------------------------------------------------------------

    def refused(self, head: Head | None, fault: Fault, request_id: bytes, peer: Peer, since: float) -> None:
        """Count and record what found no plan."""
        now = self.kit.clock.now()
        exchange = Exchange(
            method=head.method if head is not None else b"-", path=b"", query=None, host=b"", headers=[], http10=False,
            started_at=since or now,
        )  # fmt: skip
        exchange.request_id = request_id
        exchange.client_address = peer.address
        exchange.status = fault.status
        exchange.fault = fault
        exchange.state = State.REFUSED
        self._count_and_record(exchange, self.metrics.route(NO_ROUTE), NO_ROUTE, "-", self.number, None)

    def unsent(self, exchange: Exchange, plan: Plan, fault: Fault) -> None:
        """Count and record what a plan refused before anything was sent."""
        exchange.status = fault.status
        exchange.fault = fault
        exchange.move(State.REFUSED)
        self._count_and_record(exchange, plan.metrics, plan.route, exchange.pattern, plan.number, None)

    def responded(self, exchange: Exchange, plan: Plan, own: Answer | None) -> None:
        """Count and record an answer of the gateway's own."""
        exchange.status = own.status if own is not None else 204
        self._count_and_record(exchange, plan.metrics, plan.route, exchange.pattern, plan.number, None)

    def settle(self, exchange: Exchange, plan: Plan, drained_bytes: int | None) -> None:
        """Count and record a relayed exchange, once, at its end."""
        cells = plan.metrics
        cells.streams[exchange.terminal or _NO_END] += 1
        cells.bytes_in += exchange.bytes_in
        cells.bytes_out += exchange.bytes_out
        self._count_and_record(exchange, cells, plan.route, exchange.pattern, plan.number, drained_bytes)

    def _count_and_record(  # what a record says
        self, exchange: Exchange, cells: RouteMetrics, route: str, pattern: str, number: int, drained_bytes: int | None
    ) -> None:
        now = self.kit.clock.now()
        key = (METHODS.get(exchange.method, "OTHER"), exchange.status)
        cells.requests[key] = cells.requests.get(key, 0) + 1
        cells.seconds.observe(now - exchange.started_at)
        self.records.add(
            record_of(
                exchange, ts=self._time(), route=route, pattern=pattern, now=now, config=number, drained_bytes=drained_bytes
            )
        )
        if self.spans is not None:
            self.spans.add(exchange, route=route, pattern=pattern, now=now, wall=self.kit.clock.wall())

    def _time(self) -> str:
        ms = int(self.kit.clock.wall() * 1000)
        if ms != self._ms:
            self._ms = ms
            self._ms_text = "%s.%03dZ" % (_second_text(ms // 1000), ms % 1000)  # noqa: UP031  # half of what an f-string takes
        return self._ms_text


@lru_cache(maxsize=2)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
