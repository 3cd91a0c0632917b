"""Two attempts at one request, the second beside a first that is silent: the first to say something wins, the other is cancelled.

Both are calls as shared ones are (``pipeline.sharing``), with one rider between them. Whether a second may start at all is
``policies.hedging``'s to say; what it costs is counted as a duplicate generation.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sessions.relay import Response
from sessions.seats import Seat
from streamgate.errors import UpstreamFault
from streamgate.observe.models import count
from streamgate.pipeline.calls import Call, Row
from streamgate.pipeline.deck import Deck

if TYPE_CHECKING:
    from streamgate.headers import Headers
    from streamgate.pipeline.models import ModelPlan
    from streamgate.pipeline.prompting import Prompting
    from streamgate.policies.hedging import Hedging

_RATE_LIMITED: Final = 429
_SERVERS: Final = 500


class _Runner(Row):
    """One attempt's way to the race."""

    __slots__ = ("call", "race", "response")

    def __init__(self, race: Race) -> None:
        self.race = race
        self.response: Response | None = None
        self.call: Call | None = None

    def on_head(self, response: Response) -> None:
        self.response = response

    def on_body(self, data: bytes) -> None:
        if self.race.wins(self):
            self.race.seat.on_body(data)

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        if self.race.winner is self or (ended and self.race.wins(self)):
            self.race.seat.flush(ended=ended, trailers=trailers)

    def on_lost(self, fault: UpstreamFault) -> None:
        self.race.lost(self, fault)

    @property
    def failed(self) -> bool:
        """Is its answer one that another attempt might better?"""
        status = 0 if self.response is None else self.response.status
        return status == _RATE_LIMITED or status >= _SERVERS


class Race:
    """One request's attempts. ``seat`` is its rider's place."""

    __slots__ = ("_body", "_hedging", "_is_hedged", "_model", "_prompting", "_runners", "_timer", "seat", "winner")

    def __init__(self, prompting: Prompting, body: bytes, model: ModelPlan, hedging: Hedging) -> None:
        """Start the first attempt now, and look after ``hedging.after_s`` whether there shall be a second."""
        self._prompting = prompting
        self._body = body
        self._model = model
        self._hedging = hedging
        self._runners: list[_Runner] = []
        self._is_hedged = False
        self.winner: _Runner | None = None
        self.seat = Seat(self, first=True)
        hedging.deposit(prompting.kit.clock.now())
        self._start(())
        self._timer: asyncio.TimerHandle | None = prompting.link.loop.call_later(hedging.after_s, self._late)

    def _start(self, tried: tuple[tuple[str, str], ...]) -> None:
        runner = _Runner(self)
        call = runner.call = Call(self._prompting, Deck(self._prompting.link, self._body), runner)
        call.avoids = tried
        self._runners.append(runner)
        call.flying = self._prompting.kit.tasks.spawn(call.fly(), name="hedged")

    def _late(self) -> None:
        """The first has been silent for too long: is there somebody else, and may we?"""
        self._timer = None
        first = self._runners[0].call
        if self.winner is not None or self.seat.gone or first is None or (pair := first.pair) is None:
            return  # it is answered, or waits for its turn itself
        line = self._model.line
        busy = line.count.held / max(1, line.count.limit)  # a part of a shared limit may be none for a moment
        if first.course is None or not first.course.has_other(pair):
            return
        if self._hedging.may_hedge(self._prompting.kit.clock.now(), busy, line.waiting):
            self._is_hedged = True
            if self._prompting.exchange.prompt is not None:
                self._prompting.exchange.prompt.hedged = True
            self._start((pair,))

    def wins(self, runner: _Runner) -> bool:
        """Something has come: is it this one's race? An error is waited with while the other runs."""
        if self.winner is None and runner in self._runners and not (runner.failed and len(self._runners) > 1):
            self._won(runner)
        return self.winner is runner

    def _won(self, runner: _Runner) -> None:
        self.winner = runner
        self._stop()
        if self._is_hedged:
            count(self._model.metrics.hedges, "won" if runner is not self._runners[0] else "lost")
            count(self._model.metrics.duplicates, "hedge")
        for other in self._runners:
            if other is not runner and other.call is not None:
                other.call.abandon()
        self._runners = [runner]
        if runner.call is not None:
            self._prompting.aboard(None, runner.call)
        if runner.response is not None:
            self.seat.on_head(runner.response)

    def lost(self, runner: _Runner, fault: UpstreamFault) -> None:
        """One attempt is over without an answer, or in the middle of one."""
        if self.winner is runner:
            self.seat.on_lost(fault)
        elif self.winner is None and runner in self._runners:
            if len(self._runners) > 1:
                self._runners.remove(runner)
                return
            self._stop()
            if runner.call is not None:
                self._prompting.aboard(None, runner.call)
            self.seat.on_lost(fault)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- from the seat -------------------------------------------------------------------------------------------------

    def left(self, _seat: Seat, gone_at: float | None) -> None:
        """The client is gone, or has had it all."""
        self._stop()
        for runner in self._runners:
            if runner.call is not None:
                runner.call.abandon(gone_at)

    def fell_behind(self, _seat: Seat) -> None:
        """The reader is slow."""
        if self.winner is not None and self.winner.call is not None:
            self.winner.call.pause_reading()

    def caught_up(self, _seat: Seat) -> None:
        """It is no longer."""
        if self.winner is not None and self.winner.call is not None:
            self.winner.call.resume_reading()
