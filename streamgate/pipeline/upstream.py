"""Stage 7, send: one attempt at an upstream, and the loop around it while nothing is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from routers.pools import Endpoint
from sessions.registry import Registry
from sessions.relay import Again, Client, Framing, Relay, Response
from sessions.watch import Watch
from streamgate.clock import Clock
from streamgate.errors import (
    ClientClosed,
    Fault,
    NoHealthyUpstream,
    Overloaded,
    ShuttingDown,
    Unreachable,
    UpstreamFault,
    UpstreamReset,
)
from streamgate.exchange import Exchange, Terminal
from streamgate.headers import Headers, Peer
from streamgate.lease import Count, Lease
from streamgate.pipeline.connections import Connection
from streamgate.pipeline.heads import ends_with_connection, interim_head, request_head, response_head, trailer_lines
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.policies.retries import Outcome, retry_after_s
from streamgate.tasks import Tasks

FAILURE_S: Final = 10.0
"""A failure counts as an answer this slow at least, or an endpoint that fails fast would be picked most (``least_rtt``)."""
STALE_S: Final = 1.0
"""A kept connection that ends this soon after a request, with no byte of an answer, had been closed before it was sent."""


class RequestBody(Protocol):
    """What the pipeline asks of a request body."""

    @property
    def chunked(self) -> bool: ...
    @property
    def length(self) -> int | None: ...
    @property
    def received(self) -> int: ...
    @property
    def replay(self) -> bytes | bytearray | None: ...
    @property
    def complete(self) -> bool: ...
    @property
    def trailers(self) -> Headers: ...
    def attach(self, sink: Callable[[bytes, bool], None], blocked: Callable[[], bool]) -> None: ...
    def detach(self) -> None: ...


class Link(Client, Protocol):
    """What the pipeline asks of a client's connection."""

    peer: Peer

    def keeps_alive(self, *, until_close: bool) -> bool:
        """Will the connection serve another request after this answer? What is said in its head is binding; ``until_close``
        says that its body ends with the connection.
        """
        ...

    def say_continue(self) -> None:
        """Answer an expectation of 100-continue, once, if there is one."""

    def pull(self) -> None:
        """Move what has come of the body on; faults of its framing end the exchange."""

    async def read_whole(self, silence_s: float) -> bytes:
        """The request's body, once all of it is there. Raises RequestTimeout when it stops coming for so long, NotFramed,
        TooLarge.
        """
        ...

    def refuse(self, exchange: Exchange, fault: Fault) -> None:
        """Answer with a fault in the client's dialect."""


@dataclass(slots=True)
class Kit:
    """What every exchange of one worker shares: time and chance, the registry, bounds on draining, our name in Via."""

    clock: Clock
    registry: Registry
    tasks: Tasks
    drains: Count
    drain_bytes: int
    drain_s: float
    pseudonym: bytes
    settle: Callable[[Exchange, Plan, int | None], None]
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.clock.now)


class Sending:
    """One exchange's attempts, and what it holds while they last. Open until its last byte, also when its client has left."""

    __slots__ = (
        "_body",
        "_connection",
        "_endpoint",
        "_lease",
        "_service",
        "_stale",
        "_started",
        "_task",
        "_tried",
        "drain_lease",
        "ending",
        "exchange",
        "gap",
        "kit",
        "link",
        "plan",
        "relay",
    )

    def __init__(  # made in one place, from what a stage knows
        self, exchange: Exchange, plan: Plan, service: ServicePlan, link: Link, body: RequestBody, kit: Kit
    ) -> None:
        self.exchange = exchange
        self.plan = plan
        self._service = service
        self.link = link
        self._body = body
        self.kit = kit
        self._lease: Lease | None = None
        self._connection: Connection | None = None
        self._stale = 0
        self._tried: list[Endpoint] = []
        self._endpoint: Endpoint | None = None
        self._started = exchange.started_at
        self._task: asyncio.Task[None] | None = None
        """Whom to wake, where it waits for something else than an answer."""
        self.ending: Fault | None = None
        """Why its task was cancelled, where it was not the client's doing."""
        self.drain_lease: Lease | None = None
        self.gap = plan.metrics.gap.observe
        self.relay = Relay(exchange, link, plan.limits, self, kit.watch)

    # -- what others tell it -------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """The client's connection ended: cancel, or read on where the route says so and there is room for one more."""
        now = self.kit.clock.now()
        if self.plan.drains and (lease := self.kit.drains.take()) is not None:
            if self.relay.let_go(now, self.kit.drain_bytes, self.kit.drain_s):
                self.drain_lease = lease
                return
            lease.release()
        connected = self._connection is not None and not self._connection.closed
        self.relay.client_gone(now)
        if not connected and self.exchange.terminal is Terminal.CLIENT_CLOSED:
            self.plan.metrics.cancel.observe(0.0)  # nothing was open that could stay open

    def shut_down(self) -> None:
        """The gate's patience has ended."""
        fault = ShuttingDown("This gateway is shutting down; ask again", close=True)
        if self.relay.under_way:
            self.relay.fail(fault)
        elif self.exchange.terminal is None:  # between attempts, or connecting
            self.ending = fault
            if self._task is not None:
                self._task.cancel()

    def release(self) -> None:
        """Give back what is held; harmless when nothing is."""
        self._connection = None
        if self._lease is not None:
            self._lease.release()
        if self.drain_lease is not None:
            self.drain_lease.release()
        if self._service.lines:
            self._service.pump()

    def break_off(self, fault: Fault) -> bool:  # noqa: ARG002  # for who has said something before there was an answer
        """Tell a fault in what has been begun already; False where nothing has been, so that it can still be a status."""
        return False

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Attempt until the answer has been delivered, or broke after commit. Raises a Fault when nothing is committed."""
        exchange, now = self.exchange, self.kit.clock.now
        self._service.budget.deposit(now())
        fresh: Endpoint | None = None
        while self.ending is None:
            endpoint = fresh or self._pick()
            service = self._service
            self._lease = endpoint.count.take()
            if self._lease is None:
                raise Overloaded(retry_after_s=1.0)
            self._endpoint = endpoint
            exchange.attempts += 1
            exchange.service = service.id
            exchange.endpoint = endpoint.id
            self._started = started = now()
            connection: Connection | None = None
            try:
                keeper = service.keepers[endpoint]
                connection = None if fresh is not None else keeper.take()
                if connection is None:
                    self._task = asyncio.current_task()
                    connection = await keeper.connect(service.connect_s)
                    endpoint.succeeded()
                try:
                    await self._over(connection, endpoint)
                finally:
                    self._body.detach()
            except Again as again:
                wait_s = again.wait_s
                service.metrics.attempt(again.reason)
                fresh = None
            except Fault as fault:
                stale = self._is_stale(fault, connection, started)
                fresh, outcome = (endpoint, "stale") if stale else (None, fault.name)
                try:
                    wait_s = 0.0 if stale else self._after(fault, endpoint)
                finally:
                    service.metrics.attempt(outcome)
                self._stale += stale
            except asyncio.CancelledError:
                if connection is not None and connection.serving and self.drain_lease is None:
                    connection.abandon()
                service.metrics.attempt(self._cancelled_as())
                raise
            else:
                service.metrics.attempt(exchange.fault.name if exchange.fault is not None else "ok")
                return
            self._lease.release()
            self._tried.append(endpoint)
            if wait_s:
                self._task = asyncio.current_task()
                await asyncio.sleep(wait_s)
        raise self.ending

    def _pick(self) -> Endpoint:
        key = self.plan.key(self.exchange) if self.plan.key is not None else None
        pool, now = self._service.pool, self.kit.clock.now()
        endpoint = pool.pick(now, key, self._tried) or (pool.pick(now, key) if self._tried else None)
        if endpoint is None:
            if pool.has_weight:
                raise Overloaded(retry_after_s=1.0)
            raise NoHealthyUpstream
        return endpoint

    def _over(self, connection: Connection, endpoint: Endpoint) -> asyncio.Future[None]:
        """Send the request over ``connection``; the future is the attempt's end."""
        exchange, body, relay = self.exchange, self._body, self.relay
        self._connection = connection
        connection.on_cancelled = self._cancelled
        length = None if body.chunked else body.length
        head = request_head(
            exchange, self.plan, self._service, endpoint, peer=self.link.peer, pseudonym=self.kit.pseudonym, length=length
        )
        connection.serve(relay, head_only=exchange.method == b"HEAD", on_drained=self.link.pull)
        done = relay.begin(connection, uploading=not body.complete)
        if not connection.is_open:
            relay.on_lost(UpstreamReset(note="closed before the request was sent"))
        if done.done():
            return done
        if body.length == 0:
            connection.send(head, last=True)
            return done
        if body.complete and body.replay is not None and not body.chunked:
            connection.send(head + body.replay, last=True)
            return done
        if not body.complete:
            self.link.say_continue()
        waiting = [head]

        def sink(data: bytes, last: bool) -> None:  # noqa: FBT001  # the shape of a Sink
            if body.chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
                if last:
                    data += b"0\r\n" + trailer_lines(body.trailers) + b"\r\n"
            if waiting:
                data = waiting.pop() + data
            connection.send(data, last=last)
            relay.uploaded(finished=last)

        try:
            body.attach(sink, lambda: connection.blocked)
        except Fault as fault:
            relay.fail(fault)  # what has gone up is a part of a request: the connection ends with it
            return done
        if waiting:
            connection.send(waiting.pop(), last=False)
        return done

    def _cancelled_as(self) -> str:
        """How an attempt ended whose task was cancelled."""
        fault = self.ending or self.exchange.fault
        if fault is not None:
            return fault.name
        return "ok" if self.exchange.terminal is Terminal.COMPLETE else ClientClosed.code

    def _cancelled(self, gone_at: float) -> None:
        self.plan.metrics.cancel.observe(self.kit.clock.now() - gone_at)

    # -- whether to try again ------------------------------------------------------------------------------------------

    def _is_stale(self, fault: Fault, connection: Connection | None, started: float) -> bool:
        """A connection that was kept, and ended at once without a byte, never carried this request: once more, on a new one.

        RFC 9110 §9.2.2 keeps proxies from repeating what may have been processed; an end this early is the upstream's own
        keep-alive timeout crossing our request, which browsers repeat for every method too.
        """
        return (
            isinstance(fault, UpstreamReset)
            and connection is not None
            and connection.uses > 1
            and not connection.bytes_seen
            and self._body.replay is not None
            and self.kit.clock.now() - started < STALE_S
        )

    def _after(self, fault: Fault, endpoint: Endpoint) -> float:
        """Seconds until the next attempt after a fault. Raises the fault when there is none."""
        now = self.kit.clock.now()
        if isinstance(fault, UpstreamFault):
            self._service.pool.picker.observe(endpoint, max(FAILURE_S, now - self._started), now)
        if isinstance(fault, Unreachable):
            endpoint.failed(now)
            wait_s = self._again("connect", None)
        elif isinstance(fault, UpstreamReset):
            wait_s = self._again("reset", None)
        else:
            wait_s = None
        if wait_s is None:
            raise fault
        return wait_s

    def _again(self, outcome: Outcome, after_s: float | None) -> float | None:
        now = self.kit.clock.now()
        limit = self.plan.limits.total_s
        seen = self._tried if self._endpoint is None else [*self._tried, self._endpoint]
        other = self._service.pool.has_other(seen)
        verdict = self.plan.retries.decide(
            method=self.exchange.method,
            attempt=self.exchange.attempts - self._stale,
            outcome=outcome,
            body_replayable=self._body.replay is not None,
            retry_after_s=after_s,
            other_endpoint=other,
            remaining_s=float("inf") if limit is None else self.exchange.started_at + limit - now,
            random=self.kit.clock.random,
        )
        if not verdict.retry:
            return None
        if outcome != "connect" and not self._service.budget.try_withdraw(now):
            return None
        return verdict.wait_s

    def judge(self, response: Response) -> None:
        """May this answer be given, or is another attempt better? Raises Again."""
        status = response.status
        if status not in self.plan.retries.on or self.relay.limit_bytes is not None:
            return
        wait_s = self._again(status, retry_after_s(response.headers, self.kit.clock.wall()))
        if wait_s is not None:
            raise Again(f"status_{status}", wait_s)

    # -- what the relay asks -------------------------------------------------------------------------------------------

    def compose(self, response: Response) -> Framing:
        """Our head and framing for an answer."""
        keep_alive = self.link.keeps_alive(until_close=ends_with_connection(self.exchange, response))
        return response_head(self.exchange, response, keep_alive=keep_alive, wall_s=self.kit.clock.wall())

    trailer = staticmethod(trailer_lines)

    def first(self, after_s: float, *, stream: bool) -> None:
        """The answer's first byte came ``after_s`` after the request: what a user of a stream waits for, and what
        ``least_rtt`` goes by.
        """
        if stream:
            self.plan.metrics.first_token.observe(after_s)
        if self._endpoint is not None:
            now = self.exchange.started_at + after_s
            self._service.pool.picker.observe(self._endpoint, now - self._started, now)

    def interim(self, response: Response) -> bytes | None:
        """A 1xx as this client may see it."""
        return interim_head(self.exchange, response)
