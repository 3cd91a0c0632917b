"""Small embeddings and completions of equal parameters sent upstream as one, and their answers taken apart again.

Who shares with whom, and when, is ``sessions.batch``'s to say; here are its effects: a call per batch, a seat per member, a timer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from sessions.batch import Batch, Batches, Member
from sessions.batch_answers import CannotSplit, should_split, split
from sessions.batch_asks import ask_of
from sessions.batch_streams import StreamSplit
from sessions.relay import Response
from sessions.seats import Seat
from streamgate.errors import UpstreamFault, UpstreamMalformed
from streamgate.observe.models import ModelMetrics
from streamgate.pipeline.calls import Call, Row
from streamgate.pipeline.deck import Deck

if TYPE_CHECKING:
    from streamgate.headers import Headers
    from streamgate.pipeline.prompting import Prompting

_BAD: Final = 400


class _Aboard(Member):
    """A member of a batch, and its seat."""

    __slots__ = ("prompting", "seat")

    def __init__(self, prompting: Prompting, ask: object, batching: Batching) -> None:
        super().__init__(ask)  # type: ignore[arg-type]  # the batch's own word for it
        self.prompting = prompting
        self.seat = Seat(_Gone(batching, self))


class _Gone:
    """Tells the batches that a member has left. Nobody waits for anybody in a batch: parts are small."""

    __slots__ = ("_batching", "_member")

    def __init__(self, batching: Batching, member: _Aboard) -> None:
        self._batching = batching
        self._member = member

    def left(self, _seat: Seat, _gone_at: float | None) -> None:
        self._batching.left(self._member)

    def fell_behind(self, _seat: Seat) -> None:
        """Its relay's own deadline ends a reader that stops."""

    def caught_up(self, _seat: Seat) -> None:
        """See ``fell_behind``."""


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
        self._response = response
        kind = next((value for name, value in response.headers if name.lower() == b"content-type"), b"")
        if response.status < _BAD and kind.strip().lower().startswith(b"text/event-stream"):
            usage = any(b'"include_usage"' in ask.body for ask in self._batch.asks) or self._batching.adds_usage
            self._split = StreamSplit(self._batch.asks, usage=usage)
            for member in self._members:
                member.seat.on_head(msgspec.structs.replace(response, length=None, chunked=True))

    def on_body(self, data: bytes) -> None:
        if self._split is None:
            self._parts.append(data)
            return
        try:
            self._deal(self._split.feed(data))
        except CannotSplit:
            self.on_lost(UpstreamMalformed(note="a batch's stream could not be taken apart"))

    def _deal(self, parts: list[tuple[int, bytes]]) -> None:
        members = self._members
        for whose, piece in parts:
            members[whose].seat.on_body(piece)
        for whose in {whose for whose, _ in parts}:
            members[whose].seat.flush()

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:  # noqa: ARG002  # a row's shape
        if not ended or self._batch.ended:
            return
        if self._split is not None:
            self._deal(self._split.finish())
            self._end()
            return
        response, body = self._response, b"".join(self._parts)
        if response is None:
            return
        whole = self._batch.lone or response.status >= _BAD
        if not self._batch.lone and should_split(response.status):
            self._batching.take_apart(self._batch)
            return
        try:
            answers = [body] * len(self._members) if whole else split(self._batch.asks, body)
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

    def on_lost(self, fault: UpstreamFault) -> None:
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
        self._arm(prompting)
        return member.seat

    def _launch(self, batches: list[Batch]) -> None:
        for batch in batches:
            first: _Aboard = next(one for one in batch.members if not one.gone)  # type: ignore[assignment]  # nobody else joins
            prompting = first.prompting
            self._metrics.share("batch", "calls")
            call = Call(prompting, Deck(prompting.link, batch.body()), _BatchRow(batch, self))
            for member in batch.members:
                member.prompting.aboard("batch", call)  # type: ignore[attr-defined]  # all are aboard
            self._calls[batch] = call
            call.flying = prompting.kit.tasks.spawn(call.fly(), name="batch")

    def _arm(self, prompting: Prompting) -> None:
        """Look again when somebody has waited for the window."""
        at = self.batches.next_due
        if at is None or self._timer is not None:
            return
        now = prompting.kit.clock.now

        def due() -> None:
            self._timer = None
            self._launch(self.batches.due(now()))
            self._arm(prompting)

        self._timer = prompting.link.loop.call_later(max(0.0, at - now()), due)

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
        """A batch cannot be answered as one."""
        call = self._calls.pop(batch, None)
        if call is not None:
            self._launch(self.batches.apart(batch, call.kit.clock.now()))
