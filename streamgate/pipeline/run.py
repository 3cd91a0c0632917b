"""Walks one exchange through its plan; the only ladder of ``except``; settles it once."""

from __future__ import annotations

import asyncio
from typing import Protocol

from streamgate.errors import ClientClosed, Fault, Looped, Refused, ShuttingDown
from streamgate.exchange import Exchange, State, Terminal
from streamgate.headers import values, via_loops
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.upstream import Kit, Link, RequestBody, Sending
from sessions.relay import Again


class Lane(Link, Protocol):
    """A client's connection as the pipeline meets it; ``live`` is told what happens to it."""

    live: Sending | None


async def run(exchange: Exchange, plan: Plan, service: ServicePlan, lane: Lane, body: RequestBody, kit: Kit) -> None:
    """Serve ``exchange`` to its end. Raises only CancelledError, when the client has gone or the server ends its task."""
    sending = Sending(exchange, plan, service, lane, body, kit)
    permit = plan.metrics.in_flight.take()
    lane.live = sending
    kit.registry.add(sending)
    try:
        _admit(exchange, kit)
        exchange.move(State.SENDING)
        await sending.send()
    except Fault as fault:
        _failed(exchange, fault, lane)
    except asyncio.CancelledError:
        if sending.drain_lease is None:
            exchange.end(Terminal.CLIENT_CLOSED, ClientClosed())
        raise
    except Exception as error:  # noqa: BLE001  # the one ladder: a defect of ours is an answer and a record, not a lost connection
        _failed(exchange, Fault(note=f"{type(error).__name__} in {_place(error)}"), lane)
    finally:
        lane.live = None
        leave = _Leave(sending, plan, kit, body, permit)
        if sending.drain_lease is None:
            leave()
        else:
            kit.tasks.spawn(_read_on(sending, leave), name="drain")


def _admit(exchange: Exchange, kit: Kit) -> None:
    exchange.move(State.ADMITTED)
    if kit.registry.draining:
        raise ShuttingDown("This gateway is shutting down; ask again", close=True)
    if via_loops(values(exchange.headers, b"via"), kit.pseudonym):
        raise Looped


def _failed(exchange: Exchange, fault: Fault, lane: Lane) -> None:
    exchange.status = fault.status
    exchange.end(fault.terminal, fault)
    exchange.move(State.REFUSED if isinstance(fault, Refused) else State.FAILED)
    lane.refuse(exchange, fault)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "nowhere" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


_FINAL = {Terminal.COMPLETE: State.DONE, Terminal.CLIENT_CLOSED: State.GONE}
_OPEN = frozenset({State.NEW, State.ADMITTED, State.WAITING, State.SENDING, State.STREAMING})


class _Leave:
    """Stage 9, settle: give back, count, record. Called once."""

    def __init__(self, sending: Sending, plan: Plan, kit: Kit, body: RequestBody, permit: object) -> None:
        self._sending = sending
        self._plan = plan
        self._kit = kit
        self._body = body
        self._permit = permit

    def __call__(self) -> None:
        sending, exchange = self._sending, self._sending.exchange
        sending.release()
        self._permit.release()  # type: ignore[attr-defined]
        self._kit.registry.discard(sending)
        exchange.bytes_in = self._body.received
        terminal = exchange.terminal or Terminal.UPSTREAM_ERROR
        exchange.terminal = terminal
        if exchange.state in _OPEN:
            committed = exchange.committed
            if terminal is Terminal.CLIENT_CLOSED and not committed:
                exchange.status = 499
            final = _FINAL.get(terminal, State.FAILED)
            exchange.move(State.FAILED if final is State.DONE and not committed else final)
        self._kit.settle(exchange, self._plan, sending.relay.drained_bytes)


async def _read_on(sending: Sending, leave: _Leave) -> None:
    try:
        await sending.relay.done
    except (Fault, Again):
        pass
    finally:
        leave()
