"""A request's turn at a model: waited for in the model's line, in order and within its patience, held until its last byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from sessions.patience import patience_s
from sessions.queue import Slot, Waiter
from streamgate.errors import Fault, Refused
from streamgate.exchange import Exchange, State
from streamgate.headers import values
from streamgate.observe.models import count
from streamgate.pipeline.announcing import Announcing
from streamgate.pipeline.models import ModelPlan
from streamgate.prompt import Prompt

if TYPE_CHECKING:
    from streamgate.clock import Clock
    from streamgate.pipeline.upstream import Link


class Turn:
    """One request's turn. ``reserve`` is called in the moment in which there is room: it takes hold of a target at once, for who
    is asked next will be told that there is less.
    """

    __slots__ = ("_announcing", "_clock", "_exchange", "_link", "_model", "_reserve", "_slot", "_told")

    def __init__(self, exchange: Exchange, link: Link, model: ModelPlan, reserve: Callable[[], object], clock: Clock) -> None:
        self._exchange = exchange
        self._link = link
        self._model = model
        self._reserve = reserve
        self._clock = clock
        self._slot: Slot | None = None
        self._told: asyncio.Future[None] = link.loop.create_future()
        self._announcing: Announcing | None = None

    @property
    def announcing(self) -> Announcing | None:
        """What has told the client of its place, where its stream has been opened for that."""
        return self._announcing if self._announcing is not None and self._announcing.begun else None

    async def wait(
        self, prompt: Prompt, *, priority: int, size_bytes: int, ready: Callable[[], bool] | None, announces: bool
    ) -> None:
        """Return when it has come; ``announces``: a client may be told its place meanwhile. Raises QueueFull, WaitTooLong,
        QueueExpired, and what ``reserve`` raises.
        """
        model, exchange = self._model, self._exchange
        flow = prompt.tenant if model.fair_by == "tenant" else None
        patience = patience_s(model.max_wait_s, next(iter(values(exchange.headers, b"x-stainless-read-timeout")), None))
        try:
            entered = model.line.enter(
                "" if model.fair_by == "off" else flow or exchange.client_address,
                granted=self._granted,
                refused=self._refused,
                priority=priority,
                size_bytes=size_bytes,
                patience_s=patience,
                ready=ready,
            )
        except Fault as fault:
            count(model.metrics.refusals, fault.name)
            raise
        self._demand()
        if isinstance(entered, Slot):
            self._granted(entered)
            self._told.result()
        else:
            exchange.move(State.WAITING)
            await self._wait(entered, patience, announces=announces)
        prompt.queue_s = 0.0 if self._slot is None else self._slot.waited_s
        model.metrics.queue_wait.observe(prompt.queue_s)

    async def _wait(self, waiter: Waiter, patience: float, *, announces: bool) -> None:
        model, link = self._model, self._link
        timer = link.loop.call_later(patience, model.line.expire)
        if announces and model.announce_s is not None:
            self._announcing = Announcing(self._exchange, link, model.line, waiter, model.announce_s, self._clock)
        try:
            await self._told
        except BaseException:  # its client has left, its patience has ended, another had to come in its place
            model.line.leave(waiter)
            self._demand()
            raise
        finally:
            timer.cancel()
            if self._announcing is not None:
                self._announcing.stop()

    def _granted(self, slot: Slot) -> None:
        self._slot = slot
        if self._told.done():  # it has been cancelled, and has not woken up yet
            slot.release()
            return
        try:
            self._reserve()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this request's and not theirs who made room
            self._told.set_exception(error)
        else:
            self._told.set_result(None)

    def _refused(self, fault: Refused) -> None:
        count(self._model.metrics.refusals, fault.name)
        if not self._told.done():
            self._told.set_exception(fault)

    def _demand(self) -> None:
        if self._model.demand is not None:
            self._model.demand()

    def release(self) -> None:
        """Give it back, which serves the next at once; harmless when it has not come."""
        if self._slot is not None:
            self._slot.release()
            self._demand()
