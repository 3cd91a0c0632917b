"""Sockets that listen, the application's life, and how open connections are seen to their end."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sessions.registry import Registry
from streamgate.clock import SystemClock
from streamgate.config.units import Address
from streamgate.edge.enter import Gateway
from streamgate.edge.server import address_of, drained, listening, make_server, sweep
from tests.kit.ports import free_port
from tests.kit.wait import eventually

LOOPBACK = "127.0.0.1"


# -- sockets -----------------------------------------------------------------------------------------------------------


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_port_0_is_any_free_one() -> None:
    [sock] = listening(Address(LOOPBACK, 0), key="gate.bind")
    assert address_of(sock).port > 0
    with socket.create_connection((LOOPBACK, address_of(sock).port)):
        sock.close()


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 3])
def test_a_port_that_is_taken_is_told_with_its_key(first: int, second: int) -> None:
    """Also by workers that share theirs: they share it among each other, not with another gateway's."""
    address = Address(LOOPBACK, free_port())
    sockets = listening(address, key="gate.bind", share=first)
    with pytest.raises(OSError, match=rf"gate\.admin {LOOPBACK}:{address.port}: address already in use"):
        listening(address, key="gate.admin", share=second)
    close(sockets)
    close(listening(address, key="gate.bind", share=second))


def test_an_address_that_is_nobody_s_is_told() -> None:
    with pytest.raises(OSError, match=r"gate\.bind 192\.0\.2\.1:80: cannot assign requested address"):
        listening(Address("192.0.2.1", 80), key="gate.bind")
    with pytest.raises(OSError, match=r"gate\.bind no\.such\.invalid:80: "):
        listening(Address("no.such.invalid", 80), key="gate.bind")


def test_ipv6() -> None:
    [sock] = listening(Address("::1", 0), key="gate.bind")
    assert str(address_of(sock)).startswith("[::1]:")
    sock.close()


def test_sharers_share_one_port_evenly() -> None:
    sockets = listening(Address(LOOPBACK, 0), key="gate.bind", share=4)
    assert len({address_of(sock).port for sock in sockets}) == 1
    clients = [socket.create_connection((LOOPBACK, address_of(sockets[0]).port)) for _ in range(200)]
    shares: Counter[int] = Counter()
    for number, sock in enumerate(sockets):
        sock.setblocking(False)
        try:
            while True:
                sock.accept()[0].close()
                shares[number] += 1
        except BlockingIOError:
            pass
    assert sum(shares.values()) == 200
    assert min(shares.values()) >= 20, shares
    close(clients + sockets)


# -- the end of connections --------------------------------------------------------------------------------------------


@dataclass
class Client:
    """A connection as far as its end goes."""

    all: set[Client] = field(repr=False, hash=False, compare=False)
    idle: bool = True
    waiting: int = 0
    idle_since: float = 0.0
    faulty: bool = False
    asked: int = 0

    def __post_init__(self) -> None:
        self.all.add(self)

    def __hash__(self) -> int:
        return id(self)

    def close_if_idle(self) -> bool:
        if self.idle and not self.waiting:
            self.all.discard(self)
        return self.idle

    def waiting_bytes(self) -> int:
        return self.waiting

    def overdue(self, _now: float) -> None:
        self.asked += 1
        if self.faulty:
            raise RuntimeError("a defect")


class Stream:
    """Something open; ends when it is told to."""

    def __init__(self, registry: Registry) -> None:
        self.told = 0
        self._registry = registry
        registry.add(self)

    def shut_down(self) -> None:
        self.told += 1
        self._registry.discard(self)


def gateway() -> Any:
    kit = SimpleNamespace(registry=Registry(), clock=SystemClock())
    return SimpleNamespace(kit=kit, connections=set())


def as_gateway(one: Any) -> Gateway:
    return cast("Gateway", one)


async def test_idle_connections_end_at_once_and_newcomers_are_refused() -> None:
    gate = gateway()
    Client(gate.connections)
    assert await drained(as_gateway(gate), 60, asyncio.Event()) == 0
    assert gate.kit.registry.draining
    assert not gate.connections


async def test_what_is_open_may_finish() -> None:
    gate = gateway()
    client = Client(gate.connections, idle=False)
    stream = Stream(gate.kit.registry)
    drain = asyncio.create_task(drained(as_gateway(gate), 60, asyncio.Event()))
    done, _ = await asyncio.wait([drain], timeout=0.2)
    assert not done
    gate.kit.registry.discard(stream)
    client.idle = True
    assert await asyncio.wait_for(drain, 5) == 0
    assert stream.told == 0


async def test_what_is_left_after_the_patience_is_told() -> None:
    gate = gateway()
    stream = Stream(gate.kit.registry)
    assert await asyncio.wait_for(drained(as_gateway(gate), 0.05, asyncio.Event()), 5) == 1
    assert stream.told == 1


async def test_hurry_ends_the_patience() -> None:
    gate = gateway()
    stream = Stream(gate.kit.registry)
    hurry = asyncio.Event()
    drain = asyncio.create_task(drained(as_gateway(gate), 3600, hurry))
    await eventually(lambda: gate.kit.registry.draining)
    hurry.set()
    assert await asyncio.wait_for(drain, 5) == 1
    assert stream.told == 1


async def test_written_bytes_may_be_taken_within_the_patience() -> None:
    """The exchange is over, its answer is still on the way to a slow client."""
    gate = gateway()
    client = Client(gate.connections, waiting=100_000)
    drain = asyncio.create_task(drained(as_gateway(gate), 60, asyncio.Event()))
    done, _ = await asyncio.wait([drain], timeout=1.5)  # longer than last words may take
    assert not done
    client.waiting = 0
    assert await asyncio.wait_for(drain, 5) == 0
    assert not gate.connections


async def test_a_connection_that_came_late_and_says_nothing_is_closed() -> None:
    gate = gateway()
    Stream(gate.kit.registry)
    drain = asyncio.create_task(drained(as_gateway(gate), 60, asyncio.Event()))
    await eventually(lambda: gate.kit.registry.draining)
    late = Client(gate.connections, idle_since=gate.kit.clock.now())
    busy = Client(gate.connections, idle=False)
    await eventually(lambda: late not in gate.connections)
    assert busy in gate.connections
    assert not drain.done()
    drain.cancel()


async def test_a_client_that_takes_nothing_does_not_hold_the_end() -> None:
    gate = gateway()
    Client(gate.connections, idle=False, waiting=1)
    assert await asyncio.wait_for(drained(as_gateway(gate), 0.05, asyncio.Event()), 5) == 0


async def test_the_sweep_asks_everybody_also_behind_a_defect() -> None:
    gate = gateway()
    clients = [Client(gate.connections, faulty=number == 1) for number in range(3)]
    task = asyncio.create_task(sweep(as_gateway(gate)))
    await eventually(lambda: all(client.asked >= 2 for client in clients))
    task.cancel()


# -- the application ---------------------------------------------------------------------------------------------------

_names = count(1)


class Life:
    """Notes what it is called for."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def open(self, app: Any) -> Gateway:
        self.events.append("open")
        return as_gateway(app.name)

    def listens(self) -> None:
        self.events.append("listens")

    async def drain(self) -> None:
        self.events.append("drain")

    async def close(self) -> None:
        self.events.append("close")


async def test_a_life_is_begun_and_ended_in_order() -> None:
    life = Life()
    prepared: list[str] = []
    app = make_server(f"life-{next(_names)}", lambda: life, lambda app: prepared.append(app.name))
    assert prepared == [app.name]
    assert not life.events
    app.state.primary = False  # Sanic rewrites its protocol for the primary application, once a process
    sock = socket.socket()
    sock.bind((LOOPBACK, 0))
    server = await app.create_server(sock=sock, return_asyncio_server=True)
    assert server is not None
    await server.startup()
    await server.before_start()
    assert life.events == ["open"]
    assert app.ctx.gateway == app.name
    await server.after_start()
    await server.before_stop()
    server.server.close()
    await server.after_stop()
    assert life.events == ["open", "listens", "drain", "close"]
