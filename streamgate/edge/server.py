"""The Sanic application: its configuration, its life cycle, the gateway's own handlers on the data port."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from sanic import Sanic
from sanic.request import Request
from sanic.response import HTTPResponse, empty

from streamgate.edge.enter import Gateway
from streamgate.edge.tls import GateCertificates

_log = logging.getLogger("streamgate")

SWEEP_S = 0.5
"""How often connections are asked whether they are overdue."""


class Life(Protocol):
    """What is begun and ended with a worker's server."""

    async def open(self, app: Sanic[Any, Any]) -> Gateway: ...
    def listens(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...


def make_server(name: str, life: Callable[[], Life], prepare: Callable[[Sanic[Any, Any]], None]) -> Sanic[Any, Any]:
    """The data port's application. ``life`` is called in the worker's own process, ``prepare`` before anything runs."""
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False, certloader_class=GateCertificates)
    app.config.update(
        {
            "ACCESS_LOG": False,
            "MOTD": False,
            "REQUEST_MAX_HEADER_SIZE": 16_384,
            "REQUEST_TIMEOUT": 3600,  # the lane bounds heads itself, from their first byte
            "RESPONSE_TIMEOUT": 10**9,  # a minute would end every slow first token
            "KEEP_ALIVE_TIMEOUT": 10**9,
            "GRACEFUL_SHUTDOWN_TIMEOUT": 1,  # our own drain has passed by then
            "FALLBACK_ERROR_FORMAT": "json",
        }
    )
    prepare(app)

    @app.get("/", host="streamgate.invalid")  # Sanic serves nothing without a route; nobody can ask for this one (RFC 6761)
    async def nothing(_request: Request) -> HTTPResponse:
        return empty(status=404)

    @app.before_server_start
    async def begin(app: Sanic[Any, Any]) -> None:
        app.ctx.life = life()
        app.ctx.gateway = await app.ctx.life.open(app)

    @app.after_server_start
    async def begun(app: Sanic[Any, Any]) -> None:
        app.ctx.life.listens()

    @app.before_server_stop
    async def drain(app: Sanic[Any, Any]) -> None:
        await app.ctx.life.drain()

    @app.after_server_stop
    async def end(app: Sanic[Any, Any]) -> None:
        await app.ctx.life.close()

    return app


async def sweep(gateway: Gateway) -> None:
    """Ask every connection, twice a second, whether it is overdue: one timer instead of one per connection."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now = gateway.kit.clock.now()
        for connection in tuple(gateway.connections):
            try:
                connection.overdue(now)
            except Exception:  # a defect met at one connection must not end the deadlines of all others
                _log.exception("a connection could not be looked at")


async def drained(gateway: Gateway, patience_s: float) -> int:
    """Let open exchanges finish for ``patience_s``, idle connections at once; then end what is left in words its clients can
    read. Returns how many there were."""
    registry, connections = gateway.kit.registry, gateway.connections
    registry.draining = True
    for connection in tuple(connections):
        connection.close_if_idle()
    if len(registry):
        await _within(registry.wait_empty(), patience_s)
    left = registry.end_all()
    if left:
        deadline = time.monotonic() + 1.0
        while connections and time.monotonic() < deadline:  # the last words are on their way out
            await asyncio.sleep(0.01)
    return left


async def _within(waiting: Awaitable[None], limit_s: float) -> None:
    try:
        await asyncio.wait_for(waiting, limit_s)
    except TimeoutError:
        pass
