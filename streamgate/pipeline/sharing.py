"""One upstream call for several requests: batches of small ones, and single flights of identical ones.

A call sends as any request to a model does (``pipeline.prompting``), with nobody's connection: what comes goes to a row of seats.
A request that shares a call waits in its seat, which is to its relay what an upstream connection is to another's; so its deadlines
for a slow reader, its cancelling and its ending are those of every stream. Whose last rider has left is cancelled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from sessions.batch import Batch, Batches, Member
from sessions.batch_answers import CannotSplit, should_split, split
from sessions.batch_asks import ask_of
from sessions.batch_streams import StreamSplit
from sessions.flights import Flights, flight_key
from sessions.relay import Response
from sessions.seats import Seat
from streamgate.errors import UpstreamFault, UpstreamMalformed
from streamgate.exchange import Exchange
from streamgate.pipeline.calls import Call, Row
from streamgate.pipeline.deck import Deck
from streamgate.pipeline.hedged import Race

if TYPE_CHECKING:
    from streamgate.headers import Headers
    from streamgate.pipeline.ask import Ask
    from streamgate.pipeline.models import ModelPlan
    from streamgate.pipeline.prompting import Prompting

_BAD: Final = 400
_PRINCIPAL: Final = frozenset(
    (b"authorization", b"x-api-key", b"api-key", b"cookie", b"accept-encoding", b"openai-organization", b"openai-project",
     b"anthropic-version", b"anthropic-beta", b"accept")
)  # fmt: skip
"""What a client says that decides, beside the body, what it is answered and on whose account."""
_ENCODINGS: Final = b"accept-encoding"


def principal_of(exchange: Exchange) -> str:
    """Who asks, as far as sharing an answer goes: never told to anybody, only compared."""
    said = sorted((name.lower(), value) for name, value in exchange.headers if name.lower() in _PRINCIPAL)
    tenant = "" if exchange.prompt is None or exchange.prompt.tenant is None else exchange.prompt.tenant
    query = (exchange.query or b"").decode("latin-1")
    return "\n".join([tenant, query, *(f"{name.decode('latin-1')}:{value.decode('latin-1')}" for name, value in said)])


def _count(model: ModelPlan, kind: str, what: str) -> None:
    cells = model.metrics.shared
    cells[kind, what] = cells.get((kind, what), 0) + 1


class _Aboard(Member):
    """A member of a batch, and its seat."""

    __slots__ = ("prompting", "seat")

    def __init__(self, prompting: Prompting, ask: object, sharing: Sharing) -> None:
        super().__init__(ask)  # type: ignore[arg-type]  # the batch's own word for it
        self.prompting = prompting
        self.seat = Seat(_Gone(sharing, self))


class _Gone:
    """Tells the batches that a member has left. Nobody waits for anybody in a batch: parts are small."""

    __slots__ = ("_member", "_sharing")

    def __init__(self, sharing: Sharing, member: _Aboard) -> None:
        self._sharing = sharing
        self._member = member

    def left(self, _seat: Seat, _gone_at: float | None) -> None:
        self._sharing.left(self._member)

    def fell_behind(self, _seat: Seat) -> None:
        """Its relay's own deadline ends a reader that stops."""

    def caught_up(self, _seat: Seat) -> None:
        """See ``fell_behind``."""


class _BatchRow(Row):
    """Takes the answer to a batch apart."""

    __slots__ = ("_batch", "_parts", "_response", "_sharing", "_split")

    def __init__(self, batch: Batch, sharing: Sharing) -> None:
        self._batch = batch
        self._sharing = sharing
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
            usage = any(b'"include_usage"' in ask.body for ask in self._batch.asks) or self._sharing.adds_usage
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
            self._sharing.take_apart(self._batch)
            return
        try:
            answers = [body] * len(self._members) if whole else split(self._batch.asks, body)
        except CannotSplit:
            self._sharing.take_apart(self._batch)
            return
        for member, answer in zip(self._members, answers, strict=True):
            member.seat.on_head(msgspec.structs.replace(response, length=len(answer), chunked=False))
            member.seat.on_body(answer)
        self._end()

    def _end(self) -> None:
        for member in self._members:
            member.seat.flush(ended=True)
        self._sharing.over(self._batch)

    def on_lost(self, fault: UpstreamFault) -> None:
        if self._batch.ended:
            return
        for member in self._members:
            member.seat.on_lost(fault)
        self._sharing.over(self._batch)


class Sharing:
    """The calls of one model that are shared now."""

    __slots__ = ("_calls", "_max_bytes", "_max_items", "_timer", "_window_s", "adds_usage", "batches", "flights")

    def __init__(self) -> None:
        self.flights = Flights()
        self.batches: Batches | None = None
        self.adds_usage = True
        self._max_items = self._max_bytes = 0
        self._window_s = 0.0
        self._calls: dict[Batch, Call] = {}
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, *, window_s: float | None, max_items: int, max_bytes: int, adds_usage: bool) -> None:
        """Hold to these settings from now on; ``window_s`` None batches nothing."""
        self.adds_usage = adds_usage
        self._max_bytes = max_bytes
        if window_s is None or max_items < 2:  # noqa: PLR2004  # two make a batch
            self.batches = None
        elif self.batches is None or (self._max_items, self._window_s) != (max_items, window_s):
            self.batches = Batches(window_s=window_s, max_items=max_items)
        self._max_items, self._window_s = max_items, window_s or 0.0

    def join(
        self, prompting: Prompting, path: bytes, asked: Ask, model: ModelPlan, *, single_flight: bool
    ) -> Seat | None:
        """A seat in a call that others share or may share; None where this request goes by itself."""
        if self.batches is None and model.hedging is None and not single_flight:
            return None
        body, principal = asked.body, principal_of(prompting.exchange)
        if self.batches is not None:
            ask = ask_of(path, body, max_items=self._max_items, max_bytes=self._max_bytes, scope=principal)
            if ask is not None:
                member = _Aboard(prompting, ask, self)
                _count(model, "batch", "requests")
                self._launch(self.batches.join(member, prompting.kit.clock.now()))
                self._arm(prompting)
                return member.seat
        key = flight_key(path, body, principal) if single_flight else None
        if key is not None:
            return self._fly(prompting, key, body, model)
        if model.hedging is None or asked.previous_response_id is not None:
            return None
        return Race(prompting, body, model, model.hedging).seat

    def _fly(self, prompting: Prompting, key: bytes, body: bytes, model: ModelPlan) -> Seat:
        flight, seat = self.flights.join(key)
        _count(model, "flight", "requests")
        if seat.first:
            _count(model, "flight", "calls")
            call = Call(prompting, Deck(prompting.link, body), flight)  # type: ignore[arg-type]  # a flight is a row
            flight.source = call
            call.flying = prompting.kit.tasks.spawn(call.fly(), name="flight")
        prompting.aboard("flight", flight.source, first=seat.first)  # type: ignore[arg-type]  # set by whoever was first
        return seat

    def _launch(self, batches: list[Batch]) -> None:
        for batch in batches:
            first: _Aboard = next(one for one in batch.members if not one.gone)  # type: ignore[assignment]
            prompting = first.prompting
            if prompting.model is not None:
                _count(prompting.model, "batch", "calls")
            call = Call(prompting, Deck(prompting.link, batch.body()), _BatchRow(batch, self))
            for member in batch.members:
                member.prompting.aboard("batch", call, first=True)  # type: ignore[attr-defined]  # all are aboard
            self._calls[batch] = call
            call.flying = prompting.kit.tasks.spawn(call.fly(), name="batch")

    def _arm(self, prompting: Prompting) -> None:
        batches = self.batches
        at = None if batches is None else batches.next_due
        if at is None or self._timer is not None:
            return
        now = prompting.kit.clock.now

        def due() -> None:
            self._timer = None
            if batches is not None:
                self._launch(batches.due(now()))
            self._arm(prompting)

        self._timer = prompting.link.loop.call_later(max(0.0, at - now()), due)

    def left(self, member: _Aboard) -> None:
        """A member's client is gone, or it has had its answer."""
        batches = member.batch.gathering if member.batch is not None else None
        emptied = self.batches.leave(member) if self.batches is not None else None
        if batches is not None and emptied is not None and (call := self._calls.pop(emptied, None)) is not None:
            call.abandon()
            self.over(emptied)

    def over(self, batch: Batch) -> None:
        """A batch has its answer, or will have none."""
        self._calls.pop(batch, None)
        if self.batches is not None:
            self._launch(self.batches.finished(batch))

    def take_apart(self, batch: Batch) -> None:
        """A batch cannot be answered as one."""
        call = self._calls.pop(batch, None)
        if self.batches is not None and call is not None:
            self._launch(self.batches.apart(batch, call.kit.clock.now()))
