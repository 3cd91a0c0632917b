"""The place of a client where there is none: what a call of the gateway's own asks with, and where its answer goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamgate.pipeline.whole import Whole

if TYPE_CHECKING:
    import asyncio

    from streamgate.errors import Fault
    from streamgate.exchange import Exchange
    from streamgate.headers import Peer
    from streamgate.pipeline.calls import Row
    from streamgate.pipeline.upstream import Link


class Deck(Whole):
    """A request body that is at hand, and a client that takes everything at once and hands it to ``row``."""

    __slots__ = ("loop", "peer", "row")

    def __init__(self, link: Link, body: bytes) -> None:
        """Ask with ``body``, as whoever ``link`` belongs to would."""
        super().__init__(body)
        self.loop: asyncio.AbstractEventLoop = link.loop
        self.peer: Peer = link.peer
        self.row: Row | None = None

    async def read_whole(self, _silence_s: float) -> bytes:
        """The body."""
        return self.replay

    def write(self, data: bytes) -> None:
        """Content, bare."""
        if self.row is not None and data:
            self.row.on_body(data)
            self.row.flush()

    def waiting_bytes(self) -> int:
        """Nothing waits here; seats know what waits for their riders."""
        return 0

    def cut(self, *, reset: bool) -> None:
        """The row is told by whoever makes the call."""

    def keeps_alive(self, *, until_close: bool) -> bool:  # noqa: ARG002  # what a client is asked
        """There is no connection to keep."""
        return True

    def say_continue(self) -> None:
        """Nobody waits to be asked for the body."""

    def pull(self) -> None:
        """The body is here."""

    def refuse(self, exchange: Exchange, fault: Fault) -> None:
        """Whoever makes the call hears of faults itself."""
