"""A gateway inside the test's own process: the same parts, without files, signals and an admin port."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sanic import Sanic

from sessions.registry import Registry
from streamgate.catalogue import PICKERS
from streamgate.clock import Clock, SystemClock
from streamgate.config.spec import Spec
from streamgate.edge.enter import EdgeTimeouts, Gateway
from streamgate.edge.guard import HeadLimits
from streamgate.edge.lane import LaneProtocol
from streamgate.edge.server import make_server
from streamgate.headers import Networks
from streamgate.kept import Kept
from streamgate.lease import Count
from streamgate.observe.metrics import Metrics
from streamgate.observe.records import Record, Records
from streamgate.pipeline.build import Builder, Built
from streamgate.pipeline.upstream import Kit
from streamgate.tasks import Tasks
from tests.kit.around import around

HOST = "127.0.0.1"
_numbers = itertools.count()


class Told(Records):
    """Records that stay here."""

    def __init__(self) -> None:
        super().__init__(None)
        self.seen: list[Record] = []

    def add(self, record: Record) -> None:
        self.seen.append(record)


def gateway_of(config: Mapping[str, Any], clock: Clock | None = None) -> Gateway:
    """The edge of one worker, serving ``config``; its records are a ``Told``."""
    clock = clock or SystemClock()
    spec, metrics = Spec.model_validate(config), Metrics()
    built = Builder(kept=Kept(), metrics=metrics, clock=clock, pickers=PICKERS, around=around(clock)).build(spec)
    return edge_of(spec, built, metrics, clock)


def edge_of(spec: Spec, built: Built, metrics: Metrics, clock: Clock) -> Gateway:
    """The edge of one worker over what was built of ``spec``; its records are a ``Told``."""

    def failed(name: str, error: BaseException) -> None:
        raise AssertionError(name) from error

    kit = Kit(
        clock=clock,
        registry=Registry(),
        tasks=Tasks(failed),
        drains=Count(1),
        drain_bytes=1 << 20,
        drain_s=1.0,
        pseudonym=b"streamgate-test",
        settle=lambda *_args: None,
    )
    gateway = Gateway(kit=kit, metrics=metrics, records=Told(), worker=b"test")
    kit.settle = gateway.settle
    gate = spec.gate
    gateway.head_limits = HeadLimits(gate.limits.head, gate.limits.target, gate.limits.fields)
    gateway.timeouts = EdgeTimeouts(gate.timeouts.head, gate.timeouts.keep_alive, gate.timeouts.write)
    gateway.trusted = Networks(gate.trusted_proxies)
    gateway.routes = built.routes
    return gateway


class _Life:
    """What begins and ends with the server: nothing but the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def open(self, _app: Sanic[Any, Any]) -> Gateway:
        return self._gateway

    def listens(self) -> None:
        return

    async def drain(self) -> None:
        return

    async def close(self) -> None:
        return


@asynccontextmanager
async def serving(gateway: Gateway, prepare: Callable[[Sanic[Any, Any]], None] = lambda _app: None) -> AsyncIterator[int]:
    """Listen on a free port of the loopback, in this loop; ``prepare`` may add handlers of Sanic's. Yields the port."""
    app = make_server(f"inside-{next(_numbers)}", lambda: _Life(gateway), prepare)
    app.config.TOUCHUP = False  # Sanic would rewrite the protocol's methods for this application, once a process
    sock = socket.create_server((HOST, 0))  # asked for port 0, Sanic takes 8000
    server = await app.create_server(sock=sock, protocol=LaneProtocol, return_asyncio_server=True, access_log=False)
    assert server is not None
    await server.startup()
    await server.before_start()
    await server.after_start()
    try:
        yield sock.getsockname()[1]
    finally:
        for connection in tuple(gateway.connections):
            connection.cut(reset=False)
        server.close()
        await server.wait_closed()
        Sanic.unregister_app(app)
