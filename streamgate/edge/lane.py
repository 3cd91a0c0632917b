"""The HTTP/1.1 data path under Sanic: head in, plan found, pipeline run, bytes out.

Sanic's own extension points carry it: a ``WebSocketProtocol`` whose ``HTTP_CLASS`` is ours. The loop reads a head, refuses what is not
framed beyond doubt, and asks the route table. A proxied exchange runs in the connection's own task, so a lost connection
cancels it; a path that no route takes but a handler of Sanic's does is handed to Sanic's ``http1`` for one request, on the same
connection. Between two exchanges a connection belongs to the loop, during one the bytes it brings belong to the request's body.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import socket
import struct
import sys
import termios
from typing import Any, Final

from sanic.http import Http, Stage
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

from streamgate.edge.body import NO_BODY, Body
from streamgate.edge.enter import Entry, Gateway
from streamgate.edge.guard import Head, read_head, unfinished
from streamgate.errors import Answer, Fault, RequestTimeout, answer
from streamgate.exchange import Dialect, Exchange
from streamgate.headers import Peer
from streamgate.pipeline.heads import date_line, fault_answer, own_answer
from streamgate.pipeline.plan import ServicePlan
from streamgate.pipeline.run import run
from streamgate.pipeline.upstream import Sending

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_IDLE, _REQUEST, _HANDLER, _RESPONSE = Stage.IDLE, Stage.REQUEST, Stage.HANDLER, Stage.RESPONSE
_LINGER_S: Final = 2.0
"""How long a client that is answered may say nothing while the rest of its request is awaited."""
_PARTING_S: Final = 30.0
"""How long what it still sends is read away before the connection ends; nginx's lingering_time is as long."""
_REST_BYTES: Final = 65_536
_CR: Final = 13
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_BUFFER_BYTES: Final = 65_536


_NO_LINGER: Final = struct.pack("ii", 1, 0)


def _unacknowledged(sock: Any) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):
        return 0  # not everywhere a socket's queue can be asked for


def _identified(response: Answer | None, request_id: bytes) -> Answer:
    found = response or Answer(204, (), b"")
    return Answer(found.status, (*found.headers, (b"x-request-id", request_id)), found.body)


class _OneServed(Exception):  # no error: how Sanic's loop is left after one request
    pass


class LaneHttp(Http):
    """One connection's requests in turn."""

    __slots__ = ("_local_served", "_looked")

    protocol: LaneProtocol
    _local_served: bool
    _looked: int
    """How much of a head that is not whole yet has been looked at."""

    def init_for_request(self) -> None:
        """Sanic calls this before each request; its loop ends here after the one it was lent the connection for."""
        if self._local_served:
            raise _OneServed
        self._local_served = True
        super().init_for_request()

    async def http1(self) -> None:
        """Serve requests until the connection ends or may not be used again."""
        self._local_served = False
        super().init_for_request()
        protocol = self.protocol
        try:
            self._await_head()
            while self.keep_alive and protocol.is_open():
                if protocol.full_since is not None:
                    await protocol.has_room()
                elif not protocol.recv_buffer or (data := self._next_head()) is None:
                    await protocol.more()
                else:
                    await self._serve(data)
                    self._await_head()
        except Fault as fault:
            protocol.answer_before_match(fault)
        await self._part()

    def _await_head(self) -> None:
        self.stage = _IDLE
        self._looked = 0
        self.protocol.idle_since = self.protocol.gateway.kit.clock.now()

    def _next_head(self) -> bytes | None:
        """The next head, if it is here. Raises a Fault as soon as it cannot become one."""
        protocol = self.protocol
        buffer = protocol.recv_buffer
        if self.stage is _IDLE:
            if buffer and buffer[0] == _CR:  # RFC 9112 §2.2: empty lines before a request are let pass
                lines = _EMPTY_LINES.match(buffer)
                del buffer[: lines.end() if lines is not None else 0]
            if not buffer or buffer == b"\r":
                return None
            self.stage = _REQUEST
            protocol.head_since = protocol.gateway.kit.clock.now()
        limits = protocol.gateway.head_limits
        end = buffer.find(b"\r\n\r\n", max(0, self._looked - 3))
        if end < 0:
            unfinished(buffer, limits, self._looked)
            self._looked = len(buffer)
            return None
        if end > limits.head_bytes:
            unfinished(buffer[: end + 4], limits)
        return bytes(buffer[: end + 4])

    async def _serve(self, data: bytes) -> None:
        protocol = self.protocol
        gateway = protocol.gateway
        self.stage = _HANDLER
        head = read_head(data, gateway.head_limits)
        self.keep_alive = head.keep_alive
        try:
            entry = gateway.enter(head, protocol.peer)
        except Fault as fault:
            if fault.status == 404 and gateway.serves(head, protocol.app):  # noqa: PLR2004
                await self._local()
            else:
                await self._decline(head, fault, len(data))
            return
        del protocol.recv_buffer[: len(data)]
        body = NO_BODY if head.length == 0 else Body(protocol.recv_buffer, head.length, protocol)
        protocol.body, protocol.head, protocol.continued = body, head, False
        try:
            if (service := self._admitted(head, entry, body)) is not None:
                await run(entry.exchange, entry.plan, service, protocol, body, gateway.kit)
        finally:
            protocol.body = None
        if not body.complete:
            await self._settle_body(body)

    async def _decline(self, head: Head, fault: Fault, head_bytes: int) -> None:
        protocol = self.protocol
        del protocol.recv_buffer[:head_bytes]
        body = Body(protocol.recv_buffer, head.length, protocol)
        self._answer(head, fault, None, body)
        await self._settle_body(body)

    def _answer(self, head: Head, fault: Fault, exchange: Exchange | None, body: Body) -> None:
        protocol = self.protocol
        if fault.close:
            self.keep_alive = False
        if exchange is not None:
            self._respond(head, fault_answer(exchange, fault), body)
        else:
            dialect, request_id = protocol.gateway.name(head)
            self._respond(head, answer(fault, dialect, request_id), body)
            protocol.gateway.refused(head, fault, request_id, protocol.peer, protocol.head_since)

    def _admitted(self, head: Head, entry: Entry, body: Body) -> ServicePlan | None:
        """The service that is to answer; None when the answer has been given here."""
        exchange, plan = entry.exchange, entry.plan
        try:
            if body is not NO_BODY:
                body.limit(plan.max_body_bytes)
                body.look()
        except Fault as fault:
            self._answer(head, fault, exchange, body)
            self.protocol.gateway.unsent(exchange, plan, fault)
            return None
        own = plan.respond if plan.models is None else plan.models.own_answer(exchange)
        if own is None and plan.service is not None:
            return plan.service
        self._respond(head, _identified(own, exchange.request_id), body)
        self.protocol.gateway.responded(exchange, plan, own)
        return None

    def _respond(self, head: Head, response: Answer, body: Body) -> None:
        gateway = self.protocol.gateway
        if gateway.kit.registry.draining or not (body.complete or self._is_near(head, body)):
            self.keep_alive = False
        self.protocol.write(
            own_answer(
                response,
                head_only=head.method == b"HEAD",
                http10=head.http10,
                keep_alive=self.keep_alive,
                date=date_line(gateway.kit.clock.wall()),
            )
        )

    def _is_near(self, head: Head, body: Body) -> bool:
        """Will the end of this body be here in a moment? Else the connection cannot be promised to anybody. A client that
        waits for a 100 may send nothing of it (RFC 9110 §10.1.1).
        """
        with contextlib.suppress(Fault):
            body.look()
        return body.complete or (not head.expects and body.rest is not None and body.rest <= _REST_BYTES)

    async def _settle_body(self, body: Body) -> None:
        """The answer is out: let the rest of the request go nowhere. Only a body that has come whole leaves the connection
        usable.
        """
        protocol = self.protocol
        body.discard()
        with contextlib.suppress(Fault, TimeoutError):
            body.pull()
            if self.keep_alive and not body.complete:
                async with asyncio.timeout(_LINGER_S):
                    while not body.complete and protocol.is_open():
                        await protocol.more()
                        body.pull()
        if not body.complete:
            self.keep_alive = False

    async def _part(self) -> None:
        """Close our half, then read away what still comes until the client closes its own (RFC 9112 §9.6): a socket that is
        closed with bytes unread is reset, and the reset overtakes the answer.
        """
        protocol = self.protocol
        self.stage = _IDLE
        protocol.idle_since = protocol.gateway.kit.clock.now()
        if not protocol.half_close():
            return
        end = protocol.idle_since + _PARTING_S
        while protocol.is_open() and protocol.gateway.kit.clock.now() < end:
            waiting = protocol.waiting_bytes()
            protocol.recv_buffer.clear()
            try:
                async with asyncio.timeout(protocol.gateway.timeouts.write_s if waiting else _LINGER_S):
                    await protocol.more()
            except TimeoutError:
                if not waiting or protocol.waiting_bytes() >= waiting:
                    return  # nothing comes, nothing is taken
                end = protocol.gateway.kit.clock.now() + _PARTING_S

    async def _local(self) -> None:
        keep_alive, self.keep_alive = self.keep_alive, True  # Sanic's loop wants it to begin, and reads the head itself
        self._local_served = False
        self.stage = _IDLE
        with contextlib.suppress(_OneServed):
            await super().http1()
        if not keep_alive or self.protocol.gateway.kit.registry.draining:
            self.keep_alive = False


class LaneProtocol(WebSocketProtocol):
    """A client's connection: what Sanic's protocol does, and the pipeline's view of it.

    Sanic makes the instances; their ``gateway`` is the application's.
    """

    HTTP_CLASS = LaneHttp
    __slots__ = (
        *("_held", "_waiter", "body", "continued", "full_bytes", "full_since", "gateway", "head", "head_since", "idle_since"),
        *("live", "peer"),
    )

    # -- asyncio calls these -------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self.gateway: Gateway = self.app.ctx.gateway
        self.gateway.connections.add(self)
        self._waiter: asyncio.Future[None] | None = None
        self.live: Sending | None = None
        self.body: Body | None = None
        self.head: Head | None = None
        self.head_since = 0.0
        self.idle_since = self.gateway.kit.clock.now()
        self.continued = self._held = False
        self.full_since: float | None = None
        self.full_bytes = 0
        address = transport.get_extra_info("peername")
        tls = transport.get_extra_info("ssl_object") is not None
        self.peer = Peer(address[0] if address else "", tls=tls, trusted=self.gateway.trusted)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: its upstream goes first, then its task."""
        live = self.live
        if live is not None:
            live.client_gone()
        self.gateway.connections.discard(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Half a close is a close: what waits to be written would only delay the cancel (as nginx and Envoy do)."""
        if self.websocket is None and self.live is not None:
            self.live.client_gone()
            self.live = None
            if self.transport is not None:
                self.transport.abort()
        return super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Bytes of the next head, or of the body that is on its way up."""
        if self.websocket is not None:
            self.websocket.data_received(data)
            return
        self.recv_buffer += data
        if self.live is not None and self.body is not None and not self.body.complete:
            self.pull()
        elif len(self.recv_buffer) >= _BUFFER_BYTES:
            self.hold()
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def more(self) -> asyncio.Future[None]:
        """Done when bytes come."""
        self.release()
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._waiter = waiter
        return waiter

    async def receive_more(self) -> None:
        """Sanic's name for it; its own way is an Event, a future costs half."""
        await self.more()

    def pause_writing(self) -> None:
        """The client takes less than comes."""
        super().pause_writing()
        self.full_since = self.gateway.kit.clock.now()
        self.full_bytes = self.waiting_bytes()
        if self.live is not None:
            self.live.relay.client_paused()

    def resume_writing(self) -> None:
        """The client has taken what waited."""
        self.full_since = None
        super().resume_writing()
        if self.live is not None:
            self.live.relay.client_resumed()

    async def has_room(self) -> None:
        """Wait until the client has taken what waits for it: one that takes no answers is given no more of them."""
        await self._can_write.wait()

    # -- the pipeline calls these --------------------------------------------------------------------------------------

    def is_open(self) -> bool:
        """Can anything still be written?"""
        return self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write to the client, if it is still there."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def waiting_bytes(self) -> int:
        """Bytes the client has not taken: ours, and those that the kernel holds, which are most of them where it reads slowly."""
        transport = self.transport
        if transport is None:
            return 0
        return int(transport.get_write_buffer_size()) + _unacknowledged(transport.get_extra_info("socket"))

    def cut(self, *, reset: bool) -> None:
        """End the connection so that nobody can take what was sent for a whole answer."""
        self._http.keep_alive = False
        self.live = None
        if self.transport is not None:
            if reset:
                with contextlib.suppress(OSError):
                    sock = self.transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()

    def keeps_alive(self, *, until_close: bool) -> bool:
        """Whether the answer that begins now promises another one. ``until_close``: its end is the connection's."""
        http = self._http
        if until_close or self.gateway.kit.registry.draining or (self.body is not None and not self.body.complete):
            http.keep_alive = False
        return bool(http.keep_alive)

    def say_continue(self) -> None:
        """The upstream is ready for the body."""
        if self.head is not None and self.head.expects and not self.continued:
            self.continued = True
            self.write(CONTINUE)

    def pull(self) -> None:
        """Move the body on; a fault of its framing ends the exchange."""
        if self.body is None:
            return
        try:
            self.body.pull()
        except Fault as fault:
            self._http.keep_alive = False
            if self.live is not None and self.live.relay.under_way:
                self.live.relay.fail(fault)  # else the next attempt meets it when it takes the body

    async def read_whole(self, silence_s: float) -> bytes:
        """The body, once all of it is there. Raises RequestTimeout when it stops coming for so long, NotFramed, TooLarge."""
        body, parts = self.body, []
        if body is None:
            return b""
        self.say_continue()
        body.attach(lambda data, _last: parts.append(data), lambda: False)
        body.replay = None  # it is kept here
        try:
            while not body.complete:
                async with asyncio.timeout(silence_s):
                    await self.more()
                body.pull()
        except TimeoutError:
            raise RequestTimeout("The request body did not arrive in time", close=True) from None
        finally:
            body.detach()
        return b"".join(parts)

    def hold(self) -> None:
        """Read no more for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._held = True

    def release(self) -> None:
        """Read on."""
        if self._held and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self._held = False

    def refuse(self, exchange: Exchange, fault: Fault) -> None:
        """Answer an exchange that nothing was committed of."""
        if self.head is not None and self.body is not None:
            self._http._answer(self.head, fault, exchange, self.body)  # noqa: SLF001  # two halves of one connection

    def half_close(self) -> bool:
        """Say that nothing more will come. False where that is not possible: under TLS, which ends in its own way."""
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return False
        transport.write_eof()
        return True

    # -- the server calls these ----------------------------------------------------------------------------------------

    def check_timeouts(self) -> None:
        """Sanic's timer per connection is not used: ``overdue`` is asked for all of them once a second."""

    def overdue(self, now: float) -> None:
        """End a connection that is idle for too long, or whose head does not come to an end."""
        http, transport, timeouts = self.http, self.transport, self.gateway.timeouts  # `http` is None until its task has begun
        if transport is None or self.websocket is not None:
            return
        if transport.is_closing():
            if now - self.idle_since > timeouts.write_s:
                transport.abort()
        elif http is None:
            return
        elif self.full_since is not None and self.live is None and now - self.full_since > timeouts.write_s:
            waiting = self.waiting_bytes()
            if waiting >= self.full_bytes:
                self.cut(reset=True)
            self.full_since, self.full_bytes = now, waiting
        elif http.stage is _IDLE and now - self.idle_since > timeouts.keep_alive_s:
            self.close()
        elif http.stage is _REQUEST and now - self.head_since > timeouts.head_s:
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_exception(RequestTimeout("The request head did not arrive in time", close=True))

    def answer_before_match(self, fault: Fault) -> None:
        """Answer what is no request yet, and end the connection."""
        gateway = self.gateway
        request_id = gateway.new_request_id()
        self.write(
            own_answer(
                answer(fault, Dialect.PROBLEM, request_id),
                head_only=False,
                http10=False,
                keep_alive=False,
                date=date_line(gateway.kit.clock.wall()),
            )
        )
        gateway.refused(None, fault, request_id, self.peer, self.head_since)

    def close(self, timeout: float | None = None) -> None:
        """Write what waits, then close. Sanic's own aborts what a slow client has not taken within 5 s; here ``overdue`` ends a
        connection that does not end by itself.
        """
        if self.websocket is not None:
            super().close(timeout)
        elif self.transport is not None and not self.transport.is_closing():
            self.idle_since = self.gateway.kit.clock.now()
            self.transport.close()

    def close_if_idle(self) -> bool:
        """Close the connection unless an exchange is on it, or it is parting from its client already."""
        http = self.http
        if self.websocket is None and http is not None and (http.stage in {_HANDLER, _RESPONSE} or not http.keep_alive):
            http.keep_alive = False
            return False
        return bool(super().close_if_idle())
