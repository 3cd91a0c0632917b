"""Several processes that serve as one: begun, told, replaced when one dies, ended together.

Sanic runs each of them; who looks after them is ours. Its own manager leaves a dead worker dead, lets all accept from one
socket (an idle gateway's connections then all go to whoever woke first), keeps what it knows in one more process, which a
signal to the group ends, and kills the unwilling with their whole process group, which is often the shell's or the test run's.

Orders go over a pipe and not by signal: Ctrl-C and systemd signal every process of the group at once, and what reaches a
worker that way besides must not look like impatience. The pipe's end tells a worker that the main process has gone, and it
drains.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, Literal, TypeAlias

Order: TypeAlias = Literal["reload", "drain", "end"]
"""Read the configuration again; finish what is open and end; end now."""
Begin: TypeAlias = Callable[[int, Connection], BaseProcess]
"""Starts the process of one place, its end of the pipe handed to it."""

SOON_S: Final = 5.0
"""A worker that ends this soon after it began is not replaced at once: whatever ended it may do so again."""
PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
GRACE_S: Final = 10.0
"""How long after their patience workers may take to end before they are killed."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_READY: Final = b"ready"


class Orders:
    """A worker's end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def heed(self, act: Callable[[Order], None]) -> None:
        """Call ``act`` with every order from now on, on the running loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._read, loop, act)

    def ready(self) -> None:
        """Tell the main process that this worker serves."""
        try:
            self._pipe.send_bytes(_READY)
        except OSError:
            pass  # it has gone; the pipe's end says so, too

    def _read(self, loop: asyncio.AbstractEventLoop, act: Callable[[Order], None]) -> None:
        try:
            order = self._pipe.recv_bytes(16).decode()
        except (EOFError, OSError):
            loop.remove_reader(self._pipe.fileno())
            order = "drain"
        if order in {"reload", "drain", "end"}:
            act(order)  # type: ignore[arg-type]


class _Place:
    """A worker's place: the process that holds it now, and how those before it fared."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: BaseProcess | None = None
        self.pipe: Connection | None = None
        self.is_ready = False
        self.began_at = 0.0
        self.early_ends = 0
        self.timer: asyncio.TimerHandle | None = None

    def tell(self, order: Order) -> None:
        if self.pipe is not None:
            try:
                self.pipe.send_bytes(order.encode())
            except OSError:
                pass  # it is ending; its place will be seen to


class Workers:
    """The workers of one gate, looked after by the main process, which serves nobody.

    ``patience_s`` says how long a drain may last, ``on_hang_up`` is called for SIGHUP, ``on_ready`` once all serve,
    ``on_ended`` with the process id of every worker that has ended.
    """

    def __init__(  # what a main process can be told
        self,
        size: int,
        begin: Begin,
        *,
        patience_s: Callable[[], float],
        on_hang_up: Callable[[], Any],
        on_ready: Callable[[], Any],
        on_ended: Callable[[int], Any],
    ) -> None:
        self._places = [_Place(index) for index in range(size)]
        self._begin_process = begin
        self._patience_s = patience_s
        self._on_hang_up = on_hang_up
        self._on_ready = on_ready
        self._on_ended = on_ended
        self._log = logging.getLogger("streamgate")
        self._over = asyncio.Event()
        self._have_served = False
        self._ends_asked = 0
        self._status = 0

    async def run(self) -> int:
        """Look after them until they have ended. Returns the exit status: 0 unless they could not begin or had to be killed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.end)
        for place in self._places:
            self._begin(place)
        await self._over.wait()
        return self._status

    def tell(self, order: Order) -> None:
        """Give every worker an order."""
        for place in self._places:
            place.tell(order)

    def end(self) -> None:
        """Drain; asked again, end now; asked once more, kill."""
        self._ends_asked += 1
        if self._ends_asked == 1:
            asyncio.get_running_loop().call_later(self._patience_s() + GRACE_S, self._kill)
            self.tell("drain")
        elif self._ends_asked == 2:  # noqa: PLR2004  # the second time
            self.tell("end")
        else:
            self._kill()
        self._look_round()

    # -- one place -----------------------------------------------------------------------------------------------------

    def _begin(self, place: _Place) -> None:
        loop = asyncio.get_running_loop()
        place.timer, place.is_ready, place.began_at = None, False, time.monotonic()
        ours, theirs = Pipe()
        try:
            with _signals_held():
                place.process = self._begin_process(place.index, theirs)
        except OSError as error:
            ours.close()
            self._log.error("a worker could not be begun: %s", error.strerror or error)  # the machine's fault
            self._failed(place)
            return
        finally:
            theirs.close()
        place.pipe = ours
        loop.add_reader(ours.fileno(), self._heard, place)
        loop.add_reader(place.process.sentinel, self._ended, place)

    def _heard(self, place: _Place) -> None:
        if place.pipe is None:
            return
        try:
            place.is_ready = place.is_ready or place.pipe.recv_bytes(16) == _READY
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(place.pipe.fileno())
            return
        if not self._have_served and all(one.is_ready for one in self._places):
            self._have_served = True
            self._on_ready()

    def _ended(self, place: _Place) -> None:
        process, pipe = place.process, place.pipe
        if process is None or pipe is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.sentinel)
        loop.remove_reader(pipe.fileno())
        pipe.close()
        process.join()
        pid, status = process.pid or 0, process.exitcode
        process.close()
        place.process = place.pipe = None
        self._on_ended(pid)
        if not self._ends_asked:
            level = logging.WARNING if self._have_served else logging.ERROR
            self._log.log(level, "a worker has ended: %s", _ending(status), extra={"worker": pid})
        self._failed(place)

    def _failed(self, place: _Place) -> None:
        """A place is empty: fill it again, unless all end or none has served yet."""
        if not self._have_served and not self._ends_asked:
            self._status = 1
            self.end()
        if self._ends_asked:
            self._look_round()
            return
        lasted_s = time.monotonic() - place.began_at
        place.early_ends = place.early_ends + 1 if lasted_s < SOON_S else 0
        pause_s = min(PAUSE_MAX_S, PAUSE_S * 2.0**place.early_ends) if place.early_ends else 0.0
        place.timer = asyncio.get_running_loop().call_later(pause_s, partial(self._begin, place))

    def _look_round(self) -> None:
        for place in self._places:
            if place.timer is not None:
                place.timer.cancel()
                place.timer = None
        if all(place.process is None for place in self._places):
            self._over.set()

    def _kill(self) -> None:
        for place in self._places:
            if place.process is not None:
                self._log.error("a worker did not end and is killed", extra={"worker": place.process.pid})
                self._status = 1
                place.process.kill()


@contextmanager
def _signals_held() -> Iterator[None]:
    """A process begun in here begins with them blocked, and lets them through when it can answer (``let_signals``)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals() -> None:
    """In a worker: signals are answered from now on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            pass
    return f"exit status {status}"
