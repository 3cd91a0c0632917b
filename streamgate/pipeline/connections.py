"""Connections to upstreams: an ``asyncio.Protocol`` on httptools, kept alive per endpoint.

A connection serves one relay at a time and goes back to its keeper only when both messages ended cleanly; anything else (an early
answer, a cancel, bytes after the end) closes it, because its next byte could belong to somebody else (RFC 9112 §9.3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import httptools

from routers.pools import Endpoint
from sessions.relay import Relay, Response
from streamgate.errors import ConnectTimeout, Unreachable, UpstreamFault, UpstreamMalformed, UpstreamReset, UpstreamTruncated
from streamgate.headers import Headers, Names

_HIGH_WATER_BYTES: Final = 65_536
_LAST_READS: Final = 16
_HEAD_BYTES: Final = 65_536
"""How much of a head, its interim ones included, may come before it ends, and how long its trailers may be."""
_NO_BODY: Final = frozenset({204, 304})
_OK: Final = 200
_NO_CONTENT: Final = 204
_VERSIONS: Final = frozenset({"1.1", "1.0"})
_INTERIM: Final = frozenset({100, 102, 103})
"""The 1xx that llhttp reads as such, but for 101, which nobody was asked for."""


class _Malformed(Exception):
    """Raised inside a callback of the parser, to stop it."""


_SPENT: Final = httptools.HttpResponseParser(object())


class Connection(asyncio.Protocol):
    """One connection to one endpoint, and the response parser that reads it."""

    __slots__ = (
        "_chunked",
        "_complete",
        "_head_bytes",
        "_head_only",
        "_headers",
        "_in_body",
        "_interim",
        "_is_plain",
        "_keeper",
        "_length",
        "_on_drained",
        "_parser",
        "_poll",
        "_reason",
        "_relay",
        "_reusable",
        "_sent_all",
        "_trailers",
        "_transport",
        "blocked",
        "bytes_seen",
        "cancelled_at",
        "closed",
        "idle_since",
        "on_cancelled",
        "uses",
    )

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll: select.poll | None = None
        self._relay: Relay | None = None
        self._on_drained: Callable[[], None] | None = None
        self._headers: Headers = []
        self._trailers: Headers = []
        self._reason = b""
        self._head_bytes = 0
        self._length: int | None = None
        self._chunked = self._in_body = self._complete = self._interim = self._reusable = False
        self._head_only = self._is_plain = False
        self._sent_all = True
        self.blocked = False
        self.bytes_seen = False
        self.closed = False
        self.cancelled_at: float | None = None
        self.on_cancelled: Callable[[float], None] | None = None
        self.idle_since = 0.0
        self.uses = 0

    # -- one exchange --------------------------------------------------------------------------------------------------

    def serve(self, relay: Relay, *, head_only: bool, on_drained: Callable[[], None] | None) -> None:
        """Belong to ``relay`` until its response ends. ``on_drained`` is called when blocked writing may go on."""
        self._relay = relay
        self._head_only = head_only
        self._on_drained = on_drained
        self._headers = []
        self._trailers = []
        self._reason = b""
        self._head_bytes = 0
        self._in_body = self._complete = self._interim = self._reusable = False
        self.bytes_seen = False
        self._sent_all = False
        self.uses += 1

    def send(self, data: bytes, *, last: bool) -> None:
        """Write a piece of the request; ``last`` ends it."""
        if last:
            self._sent_all = True
        if self._transport is not None and data:
            self._transport.write(data)

    def abandon(self, gone_at: float | None = None) -> None:
        """Close at once; the relay hears nothing more."""
        self._relay = None
        self._on_drained = None
        if gone_at is not None:
            self.cancelled_at = gone_at
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Can anything still be sent?"""
        return self._transport is not None and not self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more until ``resume_reading``; the kernel's window then stops the upstream. Without effect once the answer
        is over: the connection may be somebody else's by then.
        """
        if self._relay is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def serving(self) -> bool:
        """Does it belong to a relay now?"""
        return self._relay is not None

    def is_stale(self) -> bool:
        """Has the upstream ended this idle connection, or said something on it that nobody asked for, as far as the kernel
        knows? One poll, before a request is risked on it: the loop may not have got round to what came a moment ago, and
        bytes that are there before a request are no answer to it.
        """
        if self._transport is None or self._transport.is_closing():
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(self._poll.poll(0))

    # -- asyncio calls these -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # create_connection makes no other
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._keeper.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._relay is not None:
            self._last_words()
        self.closed = True
        self._keeper.lost(self)
        if self.cancelled_at is not None and self.on_cancelled is not None:
            self.on_cancelled(self.cancelled_at)
        self.on_cancelled = self._on_drained = None
        relay, self._relay = self._relay, None
        self._transport = None
        self._parser = _SPENT  # it holds us, and we it: nothing should have to wait for the garbage collector
        if relay is None:
            return
        if self._in_body and error is None and not self._chunked and self._length is None:
            relay.flush(ended=True)  # a body without length ends with the connection (RFC 9112 §6.3)
        elif self._in_body and error is None:
            relay.on_lost(UpstreamTruncated(note="connection closed in the body"))
        elif self._in_body:
            relay.on_lost(UpstreamFault("The upstream reset the connection", note=type(error).__name__))
        else:
            relay.on_lost(UpstreamReset(note="closed before the head" if error is None else type(error).__name__))

    def _last_words(self) -> None:
        """Read what the kernel still holds. An upstream that answers and closes before it has read the request resets the
        connection; our next write fails of that, and the answer lies there unread.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("ssl_object") is not None:
            return
        fd = transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            for _ in range(_LAST_READS):
                data = os.read(fd, _HIGH_WATER_BYTES)
                if not data or self._relay is None:
                    return
                self.data_received(data)

    def pause_writing(self) -> None:
        self.blocked = True
        if self._relay is not None:
            self._relay.upload_blocked(blocked=True)

    def resume_writing(self) -> None:
        self.blocked = False
        if self._relay is not None:
            self._relay.upload_blocked(blocked=False)
        if self._on_drained is not None:
            self._on_drained()

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        if relay is None:
            self.abandon()  # nobody asked: these bytes belong to no answer of ours
            return
        if not self.bytes_seen:
            self.bytes_seen = True
            self._is_plain = data.startswith(b"HTTP/1.1 ")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken("switched protocols unasked")
            return
        except httptools.HttpParserError as error:
            if self._complete and not isinstance(error, httptools.HttpParserCallbackError):
                self._reusable = False  # the answer was whole; what follows it is rubbish
            else:
                self._broken(str(error.__context__ if isinstance(error.__context__, _Malformed) else error))
                return
        if self._relay is not relay:
            return
        if self._complete:
            self._release(relay)
        elif self._in_body:
            relay.flush()
        else:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._broken("the head does not end")

    def _broken(self, note: str) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.on_lost(UpstreamMalformed(note=note))
        self.abandon()

    def _release(self, relay: Relay) -> None:
        self._relay = None
        self._on_drained = None
        if self._reusable and self._sent_all and self._transport is not None and not self._transport.is_closing():
            self._keeper.give_back(self)
        else:
            self.abandon()
        relay.flush(ended=True, trailers=self._trailers or None)

    # -- httptools calls these -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False

    def on_status(self, status: bytes) -> None:
        self._reason += status  # comes in as many pieces as the head did

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            self._headers.append((name, value))
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _HEAD_BYTES:
            raise _Malformed("the trailer section is too long")
        self._trailers.append((name, value))

    def on_headers_complete(self) -> None:
        relay = self._relay
        if relay is None or self._complete:
            return
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if self._is_plain:
            self._is_plain = False  # of another head, after an interim one, nothing is known
        elif self._parser.get_http_version() not in _VERSIONS:
            raise _Malformed("not HTTP/1.1")
        if status < _OK and status not in _INTERIM:
            raise _Malformed(f"{status} unasked")
        self._length, self._chunked = _framing_of(headers)
        has_body = not (self._head_only or status in _NO_BODY or status < _OK)
        response = Response(status, self._reason, headers, self._length, self._chunked, has_body)
        self._reason = b""
        if status < _OK:
            self._interim = True
            relay.on_interim(response)
            return
        self._in_body = True
        if not relay.on_head(response):
            self._relay = None
            return
        if not has_body and self._head_only:
            self._reusable = self._parser.should_keep_alive()
            self._complete = True
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body that HEAD does not have

    def on_body(self, data: bytes) -> None:
        if self._relay is not None and not self._complete:
            self._relay.on_body(data)
        else:
            self._reusable = False

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()
            if (self._chunked or self._length) and self._parser.get_status_code() == _NO_CONTENT:
                self._reusable = False  # the body that it announces but may not have would be the next answer's beginning


_framing: Final = Names(b"content-length", b"transfer-encoding")


def _framing_of(headers: Headers) -> tuple[int | None, bool]:
    """(Content-Length, chunked?) as the parser has accepted them."""
    length: int | None = None
    chunked = False
    for name, value in headers:
        if known := _framing[name]:
            if known == b"content-length":
                length = int(value)
            elif chunked or value.strip(b" \t").lower() != b"chunked":
                raise _Malformed("a transfer coding that was not asked for")
            else:
                chunked = True
    return (None if chunked else length), chunked


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How many idle connections an endpoint keeps, and for how long."""

    max_idle: int = 64
    idle_s: float = 55.0


class Keeper:
    """The connections of one endpoint: who is busy, who is idle, newest first (an old one is likelier to be stale)."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        service: str,
        tls: ssl.SSLContext | None,
        server_name: str | None,
        keep_alive: KeepAlive,
        now: Callable[[], float],
    ) -> None:
        self.endpoint = endpoint
        self.service = service
        self.tls = tls
        self._server_name = server_name
        self._keep_alive = keep_alive
        self._now = now
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._retired = False
        self._sweep: asyncio.TimerHandle | None = None

    def counts(self) -> tuple[int, int]:
        """(active, idle)."""
        return len(self._open) - len(self._idle), len(self._idle)

    def take(self) -> Connection | None:
        """An idle connection that looks alive, or None."""
        idle = self._idle
        oldest = self._now() - self._keep_alive.idle_s
        while idle:
            connection = idle.pop()
            if connection.idle_since > oldest and not connection.is_stale():
                return connection
            connection.abandon()
        return None

    async def connect(self, timeout_s: float | None) -> Connection:
        """A new connection. Raises ConnectTimeout or Unreachable; nothing was sent then."""
        loop = asyncio.get_running_loop()
        connection = Connection(self)
        try:
            await self._open_transport(loop, connection, timeout_s)
        except BaseException:
            connection.abandon()  # uvloop forgets to tell a protocol whose connecting is cancelled late that it is lost
            self.lost(connection)
            raise
        return connection

    async def _open_transport(
        self, loop: asyncio.AbstractEventLoop, connection: Connection, timeout_s: float | None
    ) -> None:
        endpoint = self.endpoint
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_connection(
                    lambda: connection,
                    endpoint.host,
                    endpoint.port,
                    ssl=self.tls,
                    server_hostname=(self._server_name or endpoint.host) if self.tls is not None else None,
                )
        except TimeoutError as error:
            raise ConnectTimeout(note=endpoint.id) from error
        except ssl.SSLError as error:
            raise Unreachable("The upstream's TLS was not accepted", note=f"{endpoint.id}: {error.reason}") from error
        except UnicodeError as error:
            raise Unreachable("The upstream's name is no host name", note=endpoint.id) from error
        except OSError as error:
            raise Unreachable(note=f"{endpoint.id}: {error.strerror or type(error).__name__}") from error

    def give_back(self, connection: Connection) -> None:
        """The connection is clean and may serve again."""
        if self._retired or len(self._idle) >= self._keep_alive.max_idle:
            connection.abandon()
            return
        connection.idle_since = self._now()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._keep_alive.idle_s, self._close_old)

    def _close_old(self) -> None:
        self._sweep = None
        oldest = self._now() - self._keep_alive.idle_s
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().abandon()
        if self._idle:
            wait_s = self._idle[0].idle_since - oldest
            self._sweep = asyncio.get_running_loop().call_later(max(0.05, wait_s), self._close_old)

    def opened(self, connection: Connection) -> None:
        """A connection was made."""
        self._open.add(connection)

    def lost(self, connection: Connection) -> None:
        """A connection ended."""
        self._open.discard(connection)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def retire(self) -> None:
        """The configuration names this endpoint no more: busy connections finish, none is kept."""
        self._retired = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._idle:
            self._idle.popleft().abandon()
