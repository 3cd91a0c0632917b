"""A call of the gateway's own: a request to a model that nobody's connection asks for, and whose answer goes to a row.

It sends as any request to a model does; what comes is told on as a relay is told: a head, content, an end. Flights, batches and
races are rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from sessions.relay import Framing, Limits, Response
from streamgate.errors import ClientClosed, Fault, ShuttingDown, UpstreamFault
from streamgate.exchange import Exchange, State, Terminal
from streamgate.pipeline.metering import Tally
from streamgate.pipeline.prompting import Prompting
from streamgate.pipeline.run import defect

if TYPE_CHECKING:
    from routers.loads import Pair
    from streamgate.headers import Headers
    from streamgate.pipeline.course import Course
    from streamgate.pipeline.deck import Deck
    from streamgate.policies.fallback import Outcome


def _unfelt(value: float) -> None:
    """Gaps are measured where they are felt."""


def _copied(asking: Prompting) -> Exchange:
    """The same request once more, for a call that others share; it takes its answer as it is, uncompressed."""
    mine = asking.exchange
    copy = Exchange(
        method=mine.method, path=mine.path, query=mine.query, host=mine.host, http10=False, named=mine.named,
        headers=[pair for pair in mine.headers if pair[0].lower() != b"accept-encoding"], started_at=asking.kit.clock.now(),
    )  # fmt: skip
    copy.dialect = mine.dialect
    copy.request_id, copy.traceparent, copy.tracestate = mine.request_id, mine.traceparent, mine.tracestate
    copy.client_address, copy.peer_address, copy.scheme = mine.client_address, mine.peer_address, mine.scheme
    return copy


class Row:
    """What a call tells: flights, batches and races are rows. It may be lost by a fault of the gateway's own, too."""

    def on_head(self, response: Response) -> object: ...
    def on_body(self, data: bytes) -> None: ...
    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None: ...
    def on_lost(self, fault: Fault) -> None: ...


class Call(Prompting):
    """A request of the gateway's own, whose answer goes to a row."""

    __slots__ = ("_is_wanted", "_row", "avoids", "flying", "tally")

    def __init__(self, first: Prompting, deck: Deck, row: Row) -> None:
        """Ask what ``first`` asks, in its name."""
        exchange = _copied(first)
        super().__init__(exchange, first.plan, first.models, deck, deck, first.kit)
        self._row = row
        self._is_wanted = True
        self.flying: asyncio.Task[None] | None = None
        self.avoids: Callable[[], Iterable[Pair]] = tuple
        """Whom another attempt at the same asks already."""
        self.tally = Tally()
        self.gap = _unfelt
        self.rides = False
        deck.row = row

    def limits_of(self, service_id: str) -> Limits:
        """A row is as slow as its riders, each of whom has a deadline of its own."""
        return replace(super().limits_of(service_id), write_s=float("inf"))

    def compose(self, response: Response) -> Framing:
        """Nothing is composed for anybody: the row hears of the head, then of the bare content."""
        framing = super().compose(response)
        self._row.on_head(response)
        return msgspec.structs.replace(framing, head=b"", chunked=False, open=False, adds=False)

    def first(self, after_s: float, *, stream: bool) -> None:  # noqa: ARG002  # its riders are those who wait for tokens
        """The target answers."""
        super().first(after_s, stream=False)

    def settle_usage(self) -> None:
        """Each rider settles its own."""

    @property
    def pair(self) -> Pair | None:
        """Who is asked now; None while it waits for its turn."""
        return None if self.course is None or self.course.choice is None else self.course.choice.pair

    def steer(self, course: Course) -> None:
        """Ask none of those that another attempt asks already."""
        course.avoid(self.avoids())

    def _goes_on(self, outcome: Outcome, wait_s: float | None) -> bool:
        if self.course is not None:
            self.course.avoid(self.avoids())
        return super()._goes_on(outcome, wait_s)

    def pause_reading(self) -> None:
        """The slowest rider is too far behind."""
        self.relay.client_paused()

    def resume_reading(self) -> None:
        """Nobody has to be waited for."""
        self.relay.client_resumed()

    def abandon(self, gone_at: float | None = None) -> None:
        """Nobody wants the answer any more, since then."""
        self._is_wanted = False
        self.relay.client_gone(self.kit.clock.now() if gone_at is None else gone_at)
        if self.flying is not None:
            self.flying.cancel()

    async def fly(self) -> None:
        """Send, and tell the row how it ended, whatever happens: its riders would wait for ever."""
        fault: Fault | None = None
        try:
            await self._sent()
        except Fault as error:
            fault = error
        except Exception as error:  # noqa: BLE001  # a defect of ours
            fault = defect(error)
        except asyncio.CancelledError:
            if self._is_wanted:
                self._row.on_lost(ShuttingDown("This gateway is shutting down; ask again", close=True))
            raise
        if fault is None and self.exchange.terminal is Terminal.COMPLETE:
            self._row.flush(ended=True)
        else:
            self._row.on_lost(fault or self.exchange.fault or UpstreamFault())

    async def _sent(self) -> None:
        exchange = self.exchange
        try:
            exchange.move(State.ADMITTED)
            await self.prepare()
            exchange.move(State.SENDING)
            await self.send()
        except asyncio.CancelledError:
            exchange.end(Terminal.CLIENT_CLOSED, ClientClosed())
            raise
        finally:
            self.release()
            self.relay.part()
