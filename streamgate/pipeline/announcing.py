"""A stream that is opened before its turn has come, to tell its client how long it will be.

Comments are the one thing that every client of event streams passes over (``sessions.announcement``). The price is the status:
once the first one is out it is 200, and whatever goes wrong is told in the stream. So it is asked for in the configuration, and
begins only when the wait has lasted for one interval.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from sessions.announcement import announcement
from sessions.relay import LAST_CHUNK, Framing, Response
from streamgate.clock import Clock
from streamgate.errors import Fault, UpstreamFault, in_band
from streamgate.exchange import Exchange
from streamgate.pipeline.heads import connection_line, date_line, field_lines

if TYPE_CHECKING:
    from sessions.queue import Line, Waiter
    from streamgate.pipeline.upstream import Link

_HEAD: Final = (
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
)
_OK: Final = 200


class NoStream(UpstreamFault):
    """The provider answers with something else than the stream that has been opened for it."""


class Announcing:
    """Tells one waiting stream its position, now and again. ``begun``: its head is out."""

    __slots__ = ("_chunked", "_clock", "_every_s", "_exchange", "_line", "_link", "_timer", "_waiter", "begun")

    def __init__(  # made in one place, of what that place has
        self, exchange: Exchange, link: Link, line: Line, waiter: Waiter, every_s: float, clock: Clock
    ) -> None:
        self._exchange = exchange
        self._link = link
        self._line = line
        self._waiter = waiter
        self._every_s = every_s
        self._clock = clock
        self._chunked = not exchange.http10
        self.begun = False
        self._timer: asyncio.TimerHandle | None = link.loop.call_later(every_s, self._tell)

    def stop(self) -> None:
        """Its turn has come, or it waits no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self._timer = self._link.loop.call_later(self._every_s, self._tell)
        if not self.begun:
            self._open()
        if not self._link.waiting_bytes():  # a client that reads nothing is told nothing
            self._write(announcement(self._line.position(self._waiter), self._line.predicted_wait_s(self._waiter)))

    def _open(self) -> None:
        exchange = self._exchange
        keep_alive = self._link.keeps_alive(until_close=not self._chunked)
        fields = [*_HEAD, (b"x-request-id", exchange.request_id)]
        if exchange.prompt is not None:
            fields.append((b"x-streamgate-model", exchange.prompt.model.encode("ascii", "replace")))
        coding = b"Transfer-Encoding: chunked\r\n" if self._chunked else b""
        end = connection_line(http10=exchange.http10, keep_alive=keep_alive)
        self._link.write(b"HTTP/1.1 200 OK\r\n" + field_lines(fields) + coding + date_line(self._clock.wall()) + end)
        exchange.status = _OK
        self.begun = True

    def _write(self, data: bytes) -> None:
        self._link.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def takes(self, response: Response) -> bool:
        """Can this answer be given? Where a head is out only an event stream can go on."""
        kind = next((value for name, value in response.headers if name.lower() == b"content-type"), b"")
        return not self.begun or (response.status == _OK and kind.strip().lower().startswith(b"text/event-stream"))

    def framing(self, framing: Framing) -> Framing:
        """How a stream goes on whose head is out."""
        return msgspec.structs.replace(framing, head=b"", chunked=self._chunked, open=not self._chunked)

    def break_off(self, fault: Fault) -> bool:
        """Tell a fault in the stream and end it. False where nothing is out yet, so that it can still be a status."""
        if not self.begun:
            return False
        self.stop()
        self._write(in_band(fault, self._exchange.dialect, self._exchange.request_id))
        if self._chunked:
            self._link.write(LAST_CHUNK)
        return True
