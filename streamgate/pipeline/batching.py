"""Small embeddings and completions of equal parameters sent upstream as one, and their answers taken apart again.

Who shares with whom, and when, is ``sessions.batch``'s to say; here are its effects: a call per batch, a seat per member, a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from sessions.batch import Batch, Batches, Member
from sessions.batch_answers import CannotSplit, should_split, split
from sessions.batch_asks import ask_of
from sessions.batch_streams import StreamSplit
from sessions.relay import Response
from sessions.seats import Seat
from streamgate.errors import Fault, UpstreamMalformed
from streamgate.observe.models import ModelMetrics
from streamgate.pipeline.calls import Call, Row
from streamgate.pipeline.deck import Deck

if TYPE_CHECKING:
    from streamgate.headers import Headers
    from streamgate.pipeline.prompting import Prompting

_BAD: Final = 400


class _Aboard(Member):
    """A member of a batch, and its seat."""

    __slots__ = ("is_told", "prompting", "seat")

    def __init__(self, prompting: Prompting, ask: object, batching: Batching) -> None:
        super().__init__(ask)  # type: ignore[arg-type]  # the batch's own word for it
        self.prompting = prompting
        self.is_told = False
        self.seat = Seat(_Gone(batching, self))


class _Gone:
    """Tells the batches of what becomes of a member. Nobody waits for anybody in a batch: parts are small."""

    __slots__ = ("_batching", "_member")

    def __init__(self, batching: Batching, member: _Aboard) -> None:
        self._batching = batching
        self._member = member

    def left(self, _seat: Seat, _gone_at: float | None) -> None:
        self._batching.left(self._member)

    def fell_behind(self, _seat: Seat) -> None:
        """One that is alone sets its own pace. In company its relay's own deadline ends a reader that stops."""
        if (call := self._batching.lone_call(self._member)) is not None:
            call.pause_reading()

    def caught_up(self, _seat: Seat) -> None:
        """See ``fell_behind``."""
        if (call := self._batching.lone_call(self._member)) is not None:
            call.resume_reading()


class _LoneRow(Row):
    """Passes the answer to a batch of one on as it comes."""

    __slots__ = ("_batch", "_batching", "_seat")

    def __init__(self, batch: Batch, batching: Batching) -> None:
        self._batch = batch
        self._batching = batching
        self._seat: Seat = batch.members[0].seat  # type: ignore[attr-defined]  # all are aboard

    def on_head(self, response: Response) -> None:
        self._seat.on_head(response)

    def on_body(self, data: bytes) -> None:
        self._seat.on_body(data)

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        self._seat.flush(ended=ended, trailers=trailers)
        if ended:
            self._batching.over(self._batch)

    def on_lost(self, fault: Fault) -> None:
        self._seat.on_lost(fault)
        self._batching.over(self._batch)


class _BatchRow(Row):
    """Takes the answer to a batch apart."""

    __slots__ = ("_batch", "_batching", "_parts", "_response", "_split")

    def __init__(self, batch: Batch, batching: Batching) -> None:
        self._batch = batch
        self._batching = batching
        self._response: Response | None = None
        self._split: StreamSplit | None = None
        self._parts: list[bytes] = []

    @property
    def _members(self) -> tuple[_Aboard, ...]:
        return self._batch.members  # type: ignore[return-value]  # nobody else joins

    def on_head(self, response: Response) -> None:
        """Nobody is told before something is theirs: until then the members may still be asked for one by one."""
        self._response, self._split, self._parts = response, None, []
        kind = next((value for name, value in response.headers if name.lower() == b"content-type"), b"")
        if response.status < _BAD and kind.strip().lower().startswith(b"text/event-stream"):
            usage = any(b'"include_usage"' in ask.body for ask in self._batch.asks) or self._batching.adds_usage
            self._split = StreamSplit(self._batch.asks, usage=usage)

    def on_body(self, data: bytes) -> None:
        if self._split is None:
            self._parts.append(data)
        elif not self._batch.ended:
            try:
                self._deal(self._split, self._split.feed(data))
            except CannotSplit:
                self._break(self._split)

    def _deal(self, streams: StreamSplit, parts: list[tuple[int, bytes]]) -> None:
        for whose, piece in parts:
            self._seat(whose).on_body(piece)
        for whose in {whose for whose, _ in parts}:
            over = streams.has_ended(whose) and not all(map(streams.has_ended, range(len(self._members))))
            self._seat(whose).flush(ended=over)  # the others may write for minutes yet

    def _seat(self, whose: int) -> Seat:
        """A member's place, who has been told of the head by now."""
        member = self._members[whose]
        if not member.is_told and self._response is not None:
            member.is_told = True
            member.seat.on_head(msgspec.structs.replace(self._response, length=None, chunked=True))
        return member.seat

    def _break(self, streams: StreamSplit) -> None:
        """It cannot be taken apart: an error for whoever has had a part, a call of its own for whoever has not."""
        fault = UpstreamMalformed(note="a batch's stream could not be taken apart")
        for whose, member in enumerate(self._members):
            if streams.has_begun(whose):
                self._seat(whose).on_lost(fault)
                self._batching.left(member)
        self._batching.take_apart(self._batch)

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:  # noqa: ARG002  # a row's shape
        if not ended or self._batch.ended or self._response is None:
            return
        if self._split is not None:
            self._deal(self._split, self._split.finish())
            for whose in range(len(self._members)):
                self._seat(whose)
            self._end()
            return
        response, body = self._response, b"".join(self._parts)
        if should_split(response.status):
            self._batching.take_apart(self._batch)
            return
        try:
            answers = [body] * len(self._members) if response.status >= _BAD else split(self._batch.asks, body)
        except CannotSplit:
            self._batching.take_apart(self._batch)
            return
        for member, answer in zip(self._members, answers, strict=True):
            member.seat.on_head(msgspec.structs.replace(response, length=len(answer), chunked=False))
            member.seat.on_body(answer)
        self._end()

    def _end(self) -> None:
        for member in self._members:
            member.seat.flush(ended=True)
        self._batching.over(self._batch)

    def on_lost(self, fault: Fault) -> None:
        if self._batch.ended:
            return
        for member in self._members:
            member.seat.on_lost(fault)
        self._batching.over(self._batch)


class Batching:
    """The batches of one model under one setting. A reload that changes the setting makes another one; this one serves who is in
    it to the end.
    """

    __slots__ = ("_calls", "_max_bytes", "_max_items", "_metrics", "_timer", "adds_usage", "batches", "window_s")

    def __init__(self, metrics: ModelMetrics, *, window_s: float, max_items: int, max_bytes: int, adds_usage: bool) -> None:
        """See ``Batches``; ``max_bytes`` is of one request's body, ``adds_usage`` whether the usage of streams is asked for."""
        self._metrics = metrics
        self.batches = Batches(window_s=window_s, max_items=max_items)
        self.window_s = window_s
        self._max_items = max_items
        self._max_bytes = max_bytes
        self.adds_usage = adds_usage
        self._calls: dict[Batch, Call] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def settings(self) -> tuple[float, int, int, bool]:
        """What it was made with."""
        return self.window_s, self._max_items, self._max_bytes, self.adds_usage

    def join(self, prompting: Prompting, path: bytes, body: bytes, principal: str) -> Seat | None:
        """A seat in a batch; None for a request that goes by itself."""
        ask = ask_of(path, body, max_items=self._max_items, max_bytes=self._max_bytes, scope=principal)
        if ask is None:
            return None
        member = _Aboard(prompting, ask, self)
        self._metrics.share("batch", "requests")
        self._launch(self.batches.join(member, prompting.kit.clock.now()))
        self._arm(prompting.kit.clock.now, prompting.link.loop)
        return member.seat

    def _launch(self, batches: list[Batch]) -> None:
        for batch in batches:
            first: _Aboard = next(one for one in batch.members if not one.gone)  # type: ignore[assignment]  # nobody else joins
            prompting = first.prompting
            self._metrics.share("batch", "calls")
            row = _LoneRow(batch, self) if batch.lone else _BatchRow(batch, self)
            call = Call(prompting, Deck(prompting.link, batch.body()), row)
            for member in batch.members:
                member.prompting.aboard(None if batch.lone else "batch", call)  # type: ignore[attr-defined]  # all are aboard
            self._calls[batch] = call
            call.flying = prompting.kit.tasks.spawn(call.fly(), name="batch")

    def _arm(self, now: Callable[[], float], loop: asyncio.AbstractEventLoop) -> None:
        """Look again when somebody has waited for the window."""
        at = self.batches.next_due
        if at is None or self._timer is not None:
            return

        def due() -> None:
            self._timer = None
            self._launch(self.batches.due(now()))
            self._arm(now, loop)

        self._timer = loop.call_later(max(0.0, at - now()), due)

    def left(self, member: _Aboard) -> None:
        """A member's client is gone, or it has had its answer."""
        emptied = self.batches.leave(member)
        if emptied is not None and (call := self._calls.pop(emptied, None)) is not None:
            call.abandon()
            self.over(emptied)

    def over(self, batch: Batch) -> None:
        """A batch has its answer, or will have none."""
        self._calls.pop(batch, None)
        self._launch(self.batches.finished(batch))

    def take_apart(self, batch: Batch) -> None:
        """A batch cannot be answered as one: its members are asked for one by one."""
        call = self._calls.pop(batch, None)
        if call is not None:
            self._launch(self.batches.apart(batch, call.kit.clock.now()))
            call.abandon()

    def lone_call(self, member: _Aboard) -> Call | None:
        """The call of a member that is alone in its batch, while it is under way."""
        return None if member.batch is None or not member.batch.lone else self._calls.get(member.batch)
