"""Walks one exchange through its plan; the only ladder of ``except``; settles it once."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sessions.relay import Again
from streamgate.errors import ClientClosed, Fault, Looped, Refused, ShuttingDown
from streamgate.exchange import Exchange, State, Terminal
from streamgate.headers import via_loops
from streamgate.lease import Lease
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.upstream import Kit, Link, RequestBody, Sending


class Lane(Link, Protocol):
    """A client's connection as the pipeline meets it; ``live`` is told what happens to it."""

    live: Sending | None


async def run(exchange: Exchange, plan: Plan, service: ServicePlan, lane: Lane, body: RequestBody, kit: Kit) -> None:
    """Serve ``exchange`` to its end. Raises only CancelledError, when the client has gone or the server ends its task."""
    models = plan.models
    prompting = None if models is None else models.prompting(exchange, plan, models, lane, body, kit)
    sending = prompting or Sending(exchange, plan, service, lane, body, kit)
    permit = plan.metrics.in_flight.take()
    lane.live = sending
    kit.registry.add(sending)
    try:
        _admit(exchange, kit)
        if prompting is not None:
            await prompting.prepare()
        exchange.move(_SENDING)
        await sending.send()
    except Fault as fault:
        _failed(exchange, fault, lane, sending)
    except asyncio.CancelledError:
        if sending.ending is None:
            if sending.drain_lease is None:
                exchange.end(Terminal.CLIENT_CLOSED, ClientClosed())
            raise
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        _failed(exchange, sending.ending, lane, sending)
    except Exception as error:  # noqa: BLE001  # the one ladder: a defect of ours is an answer and a record, not a lost connection
        _failed(exchange, defect(error), lane, sending)
    finally:
        lane.live = None
        if sending.drain_lease is None:
            _leave(sending, plan, kit, body, permit)
        else:
            kit.tasks.spawn(_read_on(sending, plan, kit, body, permit), name="drain")


def _admit(exchange: Exchange, kit: Kit) -> None:
    exchange.move(_ADMITTED)
    if kit.registry.draining:
        raise ShuttingDown("This gateway is shutting down; ask again", close=True)
    via = exchange.named.get(b"via")
    if via is not None and via_loops(via, kit.pseudonym):
        raise Looped


def _failed(exchange: Exchange, fault: Fault, lane: Lane, sending: Sending) -> None:
    if exchange.committed:  # only a defect of ours comes this far
        exchange.end(fault.terminal, fault)
        lane.cut(reset=True)
        return
    if isinstance(fault, ClientClosed):  # it has not even taken what came before this
        exchange.end(fault.terminal, fault)
        lane.cut(reset=True)
        return
    told = sending.break_off(fault)
    exchange.status = exchange.status if told else fault.status
    exchange.end(fault.terminal, fault)
    exchange.move(State.REFUSED if isinstance(fault, Refused) else State.FAILED)
    if not told:
        lane.refuse(exchange, fault)


def defect(error: BaseException) -> Fault:
    """What clients and records are told of an error that is no fault: what it is and where, never what it says."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "nowhere" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
    return Fault(note=f"{type(error).__name__} in {place}")


_ADMITTED, _SENDING, _DONE, _FAILED = State.ADMITTED, State.SENDING, State.DONE, State.FAILED
_CLIENT_CLOSED = Terminal.CLIENT_CLOSED
_FINAL = {Terminal.COMPLETE: _DONE, _CLIENT_CLOSED: State.GONE}
_OPEN = frozenset({State.NEW, State.ADMITTED, State.WAITING, State.SENDING, State.STREAMING})


def _leave(sending: Sending, plan: Plan, kit: Kit, body: RequestBody, permit: Lease | None) -> None:
    """Stage 9, settle: give back, count, record. Called once."""
    exchange = sending.exchange
    if permit is not None:
        permit.release()
    kit.registry.discard(sending)
    try:
        sending.release()
    finally:
        _record(exchange, sending, plan, kit, body)


def _record(exchange: Exchange, sending: Sending, plan: Plan, kit: Kit, body: RequestBody) -> None:
    exchange.bytes_in = body.received
    terminal = exchange.terminal
    if terminal is None:
        terminal = exchange.terminal = Terminal.UPSTREAM_ERROR
    if exchange.state in _OPEN:
        committed = exchange.committed
        if terminal is _CLIENT_CLOSED and not committed:
            exchange.status = 499
        final = _FINAL.get(terminal, _FAILED)
        exchange.move(_FAILED if final is _DONE and not committed else final)
    kit.settle(exchange, plan, sending.relay.drained_bytes)
    sending.relay.part()
    if exchange.fault is not None:
        exchange.fault.__traceback__ = None  # its frames hold the exchange, which holds it


async def _read_on(sending: Sending, plan: Plan, kit: Kit, body: RequestBody, permit: Lease | None) -> None:
    try:
        await sending.relay.done
    except (Fault, Again):
        pass
    finally:
        _leave(sending, plan, kit, body, permit)
