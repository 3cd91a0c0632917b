"""A call of the gateway's own: a request to a model that nobody's connection asks for, and whose answer goes to a row.

It sends as any request to a model does; what comes is told on as a relay is told: a head, content, an end. Flights, batches and
races are rows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from sessions.relay import Framing, Limits, Response
from streamgate.errors import ClientClosed, Fault, UpstreamFault
from streamgate.exchange import State, Terminal
from streamgate.pipeline.prompting import Prompting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from routers.loads import Pair
    from streamgate.headers import Headers
    from streamgate.pipeline.deck import Deck


def _unfelt(value: float) -> None:
    """Gaps are measured where they are felt."""


class Row:
    """What a call tells; flights and batches do."""

    def on_head(self, response: Response) -> object: ...
    def on_body(self, data: bytes) -> None: ...
    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None: ...
    def on_lost(self, fault: UpstreamFault) -> None: ...


class Call(Prompting):
    """A request of the gateway's own, whose answer goes to a row."""

    __slots__ = ("_row", "flying")

    def __init__(self, first: Prompting, deck: Deck, row: Row) -> None:
        """Ask what ``first`` asks, in its name."""
        exchange = first.copied_exchange()
        super().__init__(exchange, first.plan, first.models, deck, deck, first.kit)
        self._row = row
        self.flying: asyncio.Task[None] | None = None
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
        return None if self._choice is None else self._choice.pair

    def avoid(self, tried: Iterable[Pair]) -> None:
        """Ask none of these."""
        self._given_up.extend(tried)

    def has_other(self, pair: Pair) -> bool:
        """Is there anybody else who could be asked now?"""
        model = self.model
        if model is None:
            return False
        now, standing = self._kit.clock.now(), model.standing
        others = {one for name in self.course for one in model.model.splits[name].pairs} - {pair}
        return any(standing.has_room(one) and standing.cools_until(one) <= now for one in others)

    def pause_reading(self) -> None:
        """The slowest rider is too far behind."""
        self.relay.client_paused()

    def resume_reading(self) -> None:
        """Nobody has to be waited for."""
        self.relay.client_resumed()

    def abandon(self, gone_at: float | None = None) -> None:  # noqa: ARG002  # what an upstream is asked
        """Nobody wants the answer any more."""
        self.relay.client_gone(self.kit.clock.now())
        if self.flying is not None:
            self.flying.cancel()

    async def fly(self) -> None:
        """Send, and tell the row how it ended."""
        exchange = self.exchange
        fault: Fault | None = None
        try:
            exchange.move(State.ADMITTED)
            await self.prepare()
            exchange.move(State.SENDING)
            await self.send()
        except Fault as error:
            fault = error
        except asyncio.CancelledError:
            exchange.end(Terminal.CLIENT_CLOSED, ClientClosed())
            raise
        finally:
            self.release()
            self.relay.part()
        if fault is None and exchange.terminal is Terminal.COMPLETE:
            self._row.flush(ended=True)
        else:
            self._row.on_lost(fault or exchange.fault or UpstreamFault())  # type: ignore[arg-type]  # told on as it is
