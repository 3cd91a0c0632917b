"""Two attempts at one request, the second beside a first that is silent: the first to say something wins, the other is cancelled.

Both are calls as shared ones are (``pipeline.sharing``), with one rider between them. Whether a second may start at all is
``policies.hedging``'s to say; what it costs is counted as a duplicate generation. An error is held while the other may do better,
and given when it does not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sessions.relay import Response
from sessions.seats import Seat
from streamgate.errors import Fault
from streamgate.observe.models import count
from streamgate.pipeline.calls import Call, Row
from streamgate.pipeline.deck import Deck

if TYPE_CHECKING:
    from routers.loads import Pair
    from streamgate.headers import Headers
    from streamgate.pipeline.models import ModelPlan
    from streamgate.pipeline.prompting import Prompting
    from streamgate.policies.hedging import Hedging

_RATE_LIMITED: Final = 429
_SERVERS: Final = 500


class _Runner(Row):
    """One attempt's way to the race. What it says is held while another may say something better."""

    __slots__ = ("_ended", "_held", "call", "is_second", "race", "response")

    def __init__(self, race: Race, prompting: Prompting, body: bytes, *, is_second: bool) -> None:
        self.race = race
        self.is_second = is_second
        self.response: Response | None = None
        self._held: list[bytes] = []
        self._ended = False
        self.call = Call(prompting, Deck(prompting.link, body), self)
        self.call.avoids = self._asked_already

    def on_head(self, response: Response) -> None:
        self.response = response

    def on_body(self, data: bytes) -> None:
        if self.race.wins(self):
            self.race.seat.on_body(data)
        elif self.race.winner is None:
            self._held.append(data)
            self.call.pause_reading()

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        if self.race.winner is self or (ended and self.race.wins(self)):
            self.race.seat.flush(ended=ended, trailers=trailers)
        else:
            self._ended |= ended

    def on_lost(self, fault: Fault) -> None:
        self.race.lost(self, fault)

    def _asked_already(self) -> list[Pair]:
        return [pair for pair in self.race.pairs(self) if pair is not None]

    def play(self) -> None:
        """It has won after all: say what was held."""
        seat = self.race.seat
        for data in self._held:
            seat.on_body(data)
        seat.flush(ended=self._ended)
        self.call.resume_reading()

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
        self._start()
        self._timer: asyncio.TimerHandle | None = prompting.link.loop.call_later(hedging.after_s, self._late)

    def _start(self) -> None:
        runner = _Runner(self, self._prompting, self._body, is_second=bool(self._runners))
        self._runners.append(runner)
        runner.call.flying = self._prompting.kit.tasks.spawn(runner.call.fly(), name="hedged")

    def _late(self) -> None:
        """The first has been silent for too long: is there somebody else, and may we?"""
        self._timer = None
        first = self._runners[0].call
        if self.winner is not None or self.seat.gone or (pair := first.pair) is None:
            return  # it is answered, or waits for its turn itself
        line = self._model.line
        busy = line.count.held / line.count.limit if line.count.limit else 1.0  # another worker may have all of it now
        if first.course is None or not first.course.has_other(pair):
            return
        if self._hedging.may_hedge(self._prompting.kit.clock.now(), busy, line.waiting):
            self._is_hedged = True
            if self._prompting.exchange.prompt is not None:
                self._prompting.exchange.prompt.hedged = True
            self._start()

    def pairs(self, runner: _Runner) -> list[Pair | None]:
        """Whom the other attempts ask now."""
        return [other.call.pair for other in self._runners if other is not runner]

    def wins(self, runner: _Runner) -> bool:
        """Something has come: is it this one's race? An error is waited with while another runs that may do better."""
        if self.winner is None and runner in self._runners:
            waits = runner.failed and not all(one.failed for one in self._runners)
            if not waits:
                self._won(runner)
        return self.winner is runner

    def _won(self, runner: _Runner) -> None:
        self.winner = runner
        for other in self._runners:
            if other is not runner:
                other.call.abandon()
        self._runners = [runner]
        self._decided(runner)
        if runner.response is not None:
            self.seat.on_head(runner.response)

    def lost(self, runner: _Runner, fault: Fault) -> None:
        """One attempt is over without an answer, or in the middle of one."""
        if self.winner is runner:
            self.seat.on_lost(fault)
        elif self.winner is None and runner in self._runners:
            if len(self._runners) > 1:
                self._runners.remove(runner)
                (other,) = self._runners
                if other.failed:
                    self._won(other)
                    other.play()
                return
            self._decided(runner)
            self.seat.on_lost(fault)

    def _decided(self, runner: _Runner | None) -> None:
        """It is known whose answer it will be, or that it is nobody's."""
        self._stop()
        if self._is_hedged:
            self._is_hedged = False
            count(self._model.metrics.hedges, "won" if runner is not None and runner.is_second else "lost")
            count(self._model.metrics.duplicates, "hedge")
        if runner is not None:
            self._prompting.aboard(None, runner.call)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- from the seat -------------------------------------------------------------------------------------------------

    def left(self, _seat: Seat, gone_at: float | None) -> None:
        """The client is gone, or has had it all."""
        if self.winner is None:
            self._decided(None)
        for runner in self._runners:
            runner.call.abandon(gone_at)

    def fell_behind(self, _seat: Seat) -> None:
        """The reader is slow."""
        if self.winner is not None:
            self.winner.call.pause_reading()

    def caught_up(self, _seat: Seat) -> None:
        """It is no longer."""
        if self.winner is not None:
            self.winner.call.resume_reading()
