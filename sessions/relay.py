"""Upstream stream → client: bytes as they came, back-pressure both ways, one deadline, one terminal state.

A relay carries one exchange through all its attempts. The upstream connection calls it with what it parsed (``on_head``,
``on_body``, ``on_end``, ``on_lost``), the client's connection with what it feels (``client_paused``, ``client_gone``); neither
waits for it, and per chunk there is no task, timer, log line or copy beyond the chunk frame. What it holds of a stream is bounded
by the client transport's high-water mark (64 KiB) and one read (256 KiB): past that the upstream is not read.

Nothing is committed before the first byte of an AI stream's body: until then every fault is a status, and another attempt is
possible; any other head goes out with the first read of the body, or when that read brings none. After it a fault becomes one
in-band event in the client's dialect where the framing allows one, else the connection is cut, so that no client can take a part
for the whole.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, cast

import msgspec

from sessions.sse import StreamEnd, at_boundary
from sessions.watch import Watch
from streamgate.errors import (
    ClientClosed,
    ClientStalled,
    Fault,
    FirstByteTimeout,
    IdleTimeout,
    RequestTimeout,
    TotalTimeout,
    UpstreamFault,
    UpstreamTruncated,
    in_band,
)
from streamgate.exchange import Exchange, State, Terminal
from streamgate.headers import Headers

LAST_CHUNK: Final = b"0\r\n\r\n"
_NEVER: Final = float("inf")
_COMPLETE, _STREAMING = Terminal.COMPLETE, State.STREAMING


class Upstream(Protocol):
    """What a relay asks of an upstream connection."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abandon(self, gone_at: float | None = None) -> None:
        """Close now; nothing more will come. ``gone_at`` is when the client left, if that is why."""


class Client(Protocol):
    """What a relay asks of a client's connection."""

    loop: asyncio.AbstractEventLoop

    def write(self, data: bytes) -> None: ...
    def waiting_bytes(self) -> int:
        """Bytes the client has not taken yet."""
        ...

    def cut(self, *, reset: bool) -> None:
        """Close now, losing what waits: the client must not take this for a complete answer. ``reset`` where nothing but a
        reset tells it so, or where it reads nothing anyway.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds, None for off. ``body_s`` and ``write_s`` are the client's, the others the upstream's.

    ``first_byte_s`` is the time to the head, and for an AI stream to its first event: a head alone says nothing to anybody.
    ``nearest_s`` is the shortest of them: nothing is overdue sooner, whatever happens meanwhile.
    """

    first_byte_s: float | None = 60.0
    idle_s: float | None = 120.0
    total_s: float | None = None
    body_s: float = 30.0
    write_s: float = 30.0
    nearest_s: float = field(init=False)

    def __post_init__(self) -> None:
        every = (self.first_byte_s, self.idle_s, self.total_s, self.body_s, self.write_s)
        object.__setattr__(self, "nearest_s", min(limit_s for limit_s in every if limit_s is not None))


class Response(msgspec.Struct, frozen=True, gc=False):
    """An upstream's response head. ``length`` None with ``chunked`` false means: until the connection ends."""

    status: int
    reason: bytes
    headers: Headers
    length: int | None
    chunked: bool
    has_body: bool


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How our answer is framed for this client: the composed head, and how its body ends.

    ``chunked``: in chunks. ``open``: with the connection (HTTP/1.0). Neither: by its length, which nothing may be added to.
    ``stream``: an event stream or the like, timed by its tokens; ``watched``: one whose dialect has a terminal event; ``adds``:
    an event of ours can be read in it.
    """

    head: bytes
    chunked: bool
    open: bool
    stream: bool
    watched: bool
    adds: bool


class Tap(Protocol):
    """What looks at an answer's content on its way, and may hold a part of it back or leave one out."""

    def feed(self, data: bytes) -> bytes:
        """What may go on now of what has come. Raises Again where another attempt is better."""
        ...

    def rest(self) -> bytes:
        """What is still to go on, at the end of the content."""
        ...


class Again(Exception):
    """Not an error: the judge wants another attempt after ``wait_s`` seconds."""

    def __init__(self, reason: str, wait_s: float, response: Response | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s
        self.response = response


class Guide(Protocol):
    """What others decide about an answer on its way, and what they want to know of its tokens."""

    def judge(self, response: Response) -> None:
        """May this answer be given? Raises Again when another attempt is better."""

    def compose(self, response: Response) -> Framing:
        """Our head and framing for it."""
        ...

    def interim(self, response: Response) -> bytes | None:
        """A 1xx as this client may see it, if it may."""
        ...

    def trailer(self, trailers: Headers) -> bytes:
        """The lines of the trailer fields that may pass."""
        ...

    def first(self, after_s: float, *, stream: bool) -> None:
        """The answer's first byte came this long after the request."""

    def gap(self, gap_s: float) -> None:
        """This long passed between two writes of a stream."""


class _Gone:
    """Guides nothing: what an ended relay may still be told has no consequence."""

    judge = compose = interim = trailer = gap = staticmethod(lambda _what: None)
    first = staticmethod(lambda _after_s, *, stream: None)  # noqa: ARG005  # the shape of a Guide


_GONE: Final = cast("Guide", _Gone())


class _Done:
    """The future of no attempt."""

    done = staticmethod(lambda: True)


_NO_ATTEMPT: Final = cast("asyncio.Future[None]", _Done())


class Relay:
    """One exchange's way from upstream to client. ``done`` is the future of the current attempt."""

    __slots__ = (
        "_adds",
        "_body_seen",
        "_chunked",
        "_client",
        "_end",
        "_exchange",
        "_guide",
        "_head",
        "_last",
        "_limits",
        "_mark",
        "_now",
        "_open",
        "_out",
        "_paused_at",
        "_responding",
        "_size",
        "_stream",
        "_tail",
        "_tap",
        "_upload_blocked",
        "_upstream",
        "_waiting_bytes",
        "_watch",
        "done",
        "due",
        "limit_bytes",
        "uploading",
    )

    def __init__(self, exchange: Exchange, client: Client, limits: Limits, guide: Guide, watch: Watch) -> None:
        self._exchange = exchange
        self._client = client
        self._limits = limits
        self._guide = guide
        self._watch = watch
        self._now = watch.now
        self._upstream: Upstream | None = None
        self._out: list[bytes] = []
        self._head: bytes | None = None
        self._chunked = self._open = self._adds = self._stream = self._responding = self._body_seen = False
        self._end: StreamEnd | None = None
        self._tap: Tap | None = None
        self._mark = exchange.started_at
        self._tail = b"\n\n"
        self._last = 0.0
        self._size = 0
        self._paused_at: float | None = None
        self._waiting_bytes = 0
        self.uploading = False
        self._upload_blocked = False
        self.limit_bytes: int | None = None
        """Set when the client left and the rest is only read to its end: how much of it at most."""
        self.done: asyncio.Future[None] = _NO_ATTEMPT
        self.due = _NEVER

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def begin(self, upstream: Upstream, *, uploading: bool) -> asyncio.Future[None]:
        """Watch a new attempt over ``upstream``. The future ends when the answer has been delivered or has broken after commit;
        it raises a Fault when nothing is committed, or Again.
        """
        self._upstream = upstream
        self.uploading = uploading
        self._upload_blocked = False
        self._responding = False
        self._mark = self._now()
        self._end = self._tap = None
        self._size = 0
        self.done = done = self._client.loop.create_future()
        self._watched()
        if self._paused_at is not None:
            upstream.pause_reading()
        return done

    def limit(self, limits: Limits) -> None:
        """The deadlines of the attempts that begin from now on."""
        self._limits = limits

    def tap(self, tap: Tap) -> None:
        """Lead the content of this attempt's answer through ``tap``; said when its head is composed."""
        self._tap = tap

    def uploaded(self, *, finished: bool) -> None:
        """Body bytes went up, or the last of them: the upstream's time begins anew."""
        self._mark = self._now()
        if finished:
            self.uploading = False

    def upload_blocked(self, *, blocked: bool) -> None:
        """The upstream has stopped taking the body, or goes on: whose silence it is changes with that."""
        if self.uploading:
            self._upload_blocked = blocked
            self._mark = self._now()

    # -- from the upstream connection ----------------------------------------------------------------------------------

    def on_interim(self, response: Response) -> None:
        """A 1xx came: pass it on where this client can read one (RFC 9110 §15.2)."""
        head = self._guide.interim(response)
        if head is not None and self._head is None and not self._exchange.committed and self.limit_bytes is None:
            self._client.write(head)

    def on_head(self, response: Response) -> bool:
        """The final response head came. False: this attempt is over, the connection is of no more use."""
        try:
            self._guide.judge(response)
        except (Again, Fault) as reason:
            self._fail_attempt(reason)
            return False
        self._responding = True
        if self.limit_bytes is not None:
            self._mark = self._now()
            return True  # there is nobody to compose it for
        framing = self._guide.compose(response)
        self._exchange.status = response.status
        self._head = framing.head
        self._chunked = framing.chunked
        self._open = framing.open
        self._adds = framing.adds
        self._stream = framing.stream
        if framing.watched:
            self._end = StreamEnd(self._exchange.dialect, self._exchange.path)
        else:
            self._mark = self._now()
        return True

    def on_body(self, data: bytes) -> None:
        """Content, exactly as it came. Written by ``flush``, once per read."""
        self._out.append(data)

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        """Write what one read of the upstream brought; ``ended`` when its framing says that this was all."""
        out = self._out
        if out or (ended and self._tap is not None and self._end is not None):
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._content(data, ended=ended, trailers=trailers)
        elif ended and self._end is None:
            self._write(self._last_chunk(trailers) if self._chunked else b"")
        elif self._head is not None and self._end is None:
            self._write(b"")  # the body takes its time: let the head go ahead of it
        if ended:
            if self._end is not None:
                self._finish_watched(trailers)
            else:
                self._settle(_COMPLETE, None)

    def _content(self, data: bytes, *, ended: bool, trailers: Headers | None) -> None:
        now = self._now()
        if self._tap is not None:
            try:
                data = self._tap.feed(data)
            except Again as again:
                self._fail_attempt(again)
                return
            if ended:
                data += self._tap.rest()
            if not data:  # held: of an opening nothing is known to be said, and its deadline stays
                self._mark = now if self._body_seen else self._mark
                return
        self._mark = now
        exchange = self._exchange
        size = len(data)
        self._size += size
        if self.limit_bytes is None:
            exchange.bytes_out += size
        if self._end is not None:
            self._end.feed(data)
        elif self._adds:
            self._tail = data[-4:] if size >= 4 else (self._tail + data)[-4:]  # noqa: PLR2004  # what at_boundary asks for
        if not self._body_seen:
            self._body_seen = True
            exchange.first_byte_at = now
            self._guide.first(now - exchange.started_at, stream=self._stream)
        elif self._stream:
            self._guide.gap(now - self._last)
        self._last = now
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (size, data)
            if ended and self._end is None:
                data += self._last_chunk(trailers)
        self._write(data)

    def _last_chunk(self, trailers: Headers | None) -> bytes:
        return b"0\r\n" + self._guide.trailer(trailers) + b"\r\n" if trailers else LAST_CHUNK

    def on_lost(self, fault: Fault) -> None:
        """The upstream's connection ended, or what came over it is no HTTP, before the answer was whole."""
        if self.done.done():
            return
        self.flush()
        self.fail(fault)

    # -- from the client's connection ----------------------------------------------------------------------------------

    def client_paused(self) -> None:
        """The client's buffer is full: stop reading the upstream until it has room."""
        if self._paused_at is None:
            self._paused_at = self._now()
            self._waiting_bytes = self._client.waiting_bytes()
            if self._upstream is not None:
                self._upstream.pause_reading()

    def client_resumed(self) -> None:
        """There is room again; the time the client took is not the upstream's silence."""
        if self._paused_at is not None:
            self._paused_at = None
            self._mark = self._now()
            if self._upstream is not None:
                self._upstream.resume_reading()

    def client_gone(self, now: float) -> None:
        """The client went away: its upstream connection is closed at once, before anything else happens.

        After the terminal event that is how SDKs say thank you (openai-python breaks at ``[DONE]``), and success.
        """
        self._exchange.gone_at = now
        finished = self._end is not None and self._end.complete
        self._watch.discard(self)
        if self._upstream is not None and not self.done.done():
            self._upstream.abandon(None if finished else now)
        self._settle(Terminal.COMPLETE if finished else Terminal.CLIENT_CLOSED, None if finished else ClientClosed())

    def let_go(self, now: float, limit_bytes: int, limit_s: float) -> bool:
        """The client went away, but the rest is wanted: read on, writing nowhere, within bounds.

        False where there is nothing to read on for: before the request was sent whole, or after the end.
        """
        if self._upstream is None or self.done.done() or self.uploading:
            return False
        self._exchange.gone_at = now
        self.limit_bytes = limit_bytes
        total_s = (now - self._exchange.started_at) + limit_s
        self._limits = replace(self._limits, total_s=min(total_s, self._limits.total_s or total_s))
        self.client_resumed()
        self._exchange.end(Terminal.CLIENT_CLOSED, ClientClosed())
        self._size = 0
        self.done = self._client.loop.create_future()  # the one before ends with the client's task, which awaits it
        self._watched()
        return True

    @property
    def under_way(self) -> bool:
        """Is an attempt under way, that a fault can end?"""
        return self._upstream is not None and not self.done.done()

    @property
    def drained_bytes(self) -> int | None:
        """Bytes read after the client had left, where that was asked for."""
        return self._size if self.limit_bytes is not None else None

    def part(self) -> None:
        """It is over and recorded: let go of who guided it, so that nothing waits for the garbage collector. An attempt that
        somebody cut short from outside ends with it.
        """
        if self._upstream is not None:
            self._watch.discard(self)
            self._upstream.abandon()
            self._upstream = None
        self._guide = _GONE

    # -- endings -------------------------------------------------------------------------------------------------------

    def fail(self, fault: Fault) -> None:
        """End this attempt with a fault: a status while nothing is committed, else in band or by cutting the connection."""
        if self.done.done():
            return
        if not self._exchange.committed:
            self._head = None
            self._fail_attempt(fault)
            return
        if self._upstream is not None:
            self._upstream.abandon()
        stalled = isinstance(fault, ClientStalled)
        if self._end is not None and self._end.complete and not stalled:
            self._round_off()
            return
        if stalled or (self.limit_bytes is None and not (self._adds and (self._chunked or self._open))):
            self._client.cut(reset=stalled or self._exchange.http10)
        elif self.limit_bytes is None:
            self._break(fault)
        self._settle(fault.terminal, fault)

    def _round_off(self) -> None:
        """The terminal event is with the client: whatever broke after it, the answer is whole."""
        if self._chunked:
            self._write(LAST_CHUNK)
        elif not self._open and self.limit_bytes is None:
            self._client.cut(reset=False)  # its length promised more
        self._settle(Terminal.COMPLETE, None)

    def _break(self, fault: Fault) -> None:
        """One in-band error at an event boundary, no terminal event, and a proper end of the body.

        Where the provider has reported an error itself, that one stands.
        """
        end = self._end
        event = b""
        if end is None or not end.failed:
            event = in_band(fault, self._exchange.dialect, self._exchange.request_id)
            if not (at_boundary(self._tail) if end is None else end.at_boundary):
                event = b"\n\n" + event  # nothing can take a part of an event back; at least it ends here
        self._exchange.bytes_out += len(event)
        if event:
            self._write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)
        if self._chunked:
            self._write(LAST_CHUNK)

    def _finish_watched(self, trailers: Headers | None) -> None:
        end = self._end
        if self.done.done():
            return
        if end is None or not (end.whole or end.failed):
            self.fail(UpstreamTruncated("The upstream ended the stream without its terminal event"))
            return
        if self._chunked:
            self._write(self._last_chunk(trailers))
        if end.whole:
            self._settle(Terminal.COMPLETE, None)
        else:
            fault = UpstreamFault("The provider reported an error in the stream", note="in-band error of the upstream")
            self._settle(fault.terminal, fault)

    def _settle(self, terminal: Terminal, fault: Fault | None) -> None:
        self._watch.discard(self)
        self._exchange.end(terminal, fault)
        if not self.done.done():
            self.done.set_result(None)
        self._upstream = None

    def _fail_attempt(self, reason: Fault | Again) -> None:
        self._watch.discard(self)
        self._out.clear()
        if self._upstream is not None:
            self._upstream.abandon()
            self._upstream = None
        if not self.done.done():
            self.done.set_exception(reason)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self.limit_bytes is not None:
            if self._size > self.limit_bytes:
                self.fail(UpstreamFault("The rest of the answer was larger than is read on for"))
            return
        head = self._head
        if head is not None:
            self._head = None
            self._exchange.move(_STREAMING)  # committed
            data = head + data
        self._client.write(data)

    # -- the deadline --------------------------------------------------------------------------------------------------

    def _deadline(self) -> tuple[float, type[Fault]]:
        """(when something is overdue, what that is)."""
        limits = self._limits
        since, limit_s, fault = self._mark, limits.first_byte_s, cast("type[Fault]", FirstByteTimeout)
        if self._paused_at is not None:
            since, limit_s, fault = self._paused_at, limits.write_s, ClientStalled
        elif self.uploading and not self._responding and not self._upload_blocked:
            limit_s, fault = limits.body_s, RequestTimeout
        elif self._body_seen or (self._responding and self._end is None):
            limit_s, fault = limits.idle_s, IdleTimeout
        at = _NEVER if limit_s is None else since + limit_s
        if limits.total_s is not None and self._exchange.started_at + limits.total_s < at:
            return self._exchange.started_at + limits.total_s, TotalTimeout
        return at, fault

    def _watched(self) -> None:
        """Be looked at as soon as something may be overdue, and again after as long: who is looked at says what is."""
        self.due = self._mark + self._limits.nearest_s
        if (total_s := self._limits.total_s) is not None:
            self.due = min(self.due, self._exchange.started_at + total_s)
        self._watch.add(self)

    def look(self, now: float) -> None:
        """Fail if something is overdue."""
        at, fault = self._deadline()
        if at > now:
            self.due = min(at, now + self._limits.nearest_s)
        elif fault is ClientStalled and (waiting := self._client.waiting_bytes()) < self._waiting_bytes:
            self._waiting_bytes = waiting  # slow, not stalled
            self._paused_at = now
            self.due = now + self._limits.nearest_s
        else:
            self.fail(fault(close=fault is RequestTimeout))
