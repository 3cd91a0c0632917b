"""The Sanic application: its configuration, its life cycle, the gateway's own handlers on the data port."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from sanic import Sanic
from sanic.request import Request
from sanic.response import HTTPResponse, empty

from streamgate.config.units import Address
from streamgate.edge.enter import Gateway
from streamgate.edge.lane import LaneProtocol

_log = logging.getLogger("streamgate")

SWEEP_S = 0.5
"""How often connections are asked whether they are overdue."""
LAST_WORDS_S = 1.0
"""How long clients may take for what was written last when the gateway ends."""
LATE_S = 0.5
"""How long a connection that comes while the gateway drains may take to say why."""
POLL_S = 0.02
BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's own bound (net.core.somaxconn) is as high."""


class Life(Protocol):
    """What is begun and ended with a worker's server."""

    async def open(self, app: Sanic[Any, Any]) -> Gateway: ...
    def listens(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...


def make_server(name: str, life: Callable[[], Life], prepare: Callable[[Sanic[Any, Any]], None]) -> Sanic[Any, Any]:
    """The data port's application. ``life`` is called in the worker's own process, ``prepare`` before anything runs."""
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False)
    app.config.update(
        {
            "ACCESS_LOG": False,
            "MOTD": False,
            "REQUEST_MAX_HEADER_SIZE": 16_384,
            "REQUEST_TIMEOUT": 3600,  # the lane bounds heads itself, from their first byte
            "RESPONSE_TIMEOUT": 10**9,  # a minute would end every slow first token
            "KEEP_ALIVE_TIMEOUT": 10**9,
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


async def serve(app: Sanic[Any, Any], *, sock: socket.socket, tls: ssl.SSLContext | None, ended: asyncio.Event) -> None:
    """Serve ``app`` on ``sock`` from its life's opening, until ``ended`` and then for as long as its draining takes.

    Sanic's own runner would ignore signals for a moment while it starts, and one that came then would be lost for good.
    """
    server: Any = await app.create_server(
        sock=sock, ssl=tls, protocol=LaneProtocol, backlog=BACKLOG, access_log=False, return_asyncio_server=True,
        asyncio_server_kwargs={"start_serving": False},
    )  # fmt: skip
    await server.startup()
    try:
        await server.before_start()
        await server.start_serving()
        await server.after_start()
        await ended.wait()
        await server.before_stop()
    finally:
        server.server.close()
        for connection in tuple(server.connections):
            connection.abort()
        await server.after_stop()


async def sweep(gateway: Gateway) -> None:
    """Ask every connection, twice a second, whether it is overdue: one timer instead of one per connection."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now = gateway.kit.clock.now()
        for connection in tuple(gateway.connections):
            try:
                connection.overdue(now)
            except Exception:  # noqa: BLE001  # a defect met at one connection must not end the deadlines of all others
                _log.exception("a connection could not be looked at")


async def drained(gateway: Gateway, patience_s: float, hurry: asyncio.Event) -> int:
    """Close idle connections at once; let open exchanges finish, and clients take what was written, for ``patience_s`` or until
    ``hurry``; then end what is left in words that can be read. Returns how many exchanges that were.
    """
    registry, connections, now = gateway.kit.registry, gateway.connections, gateway.kit.clock.now
    end = now() + patience_s
    registry.draining = True
    for connection in tuple(connections):
        connection.close_if_idle()
    while (len(registry) or any(one.waiting_bytes() for one in connections)) and now() < end and not hurry.is_set():
        if len(registry):
            await _first(registry.wait_empty(), hurry.wait(), limit_s=min(LATE_S, end - now()))
        else:
            await asyncio.sleep(POLL_S)
        for connection in tuple(connections):
            if now() - connection.idle_since > LATE_S:
                connection.close_if_idle()
    left = registry.end_all()
    end = now() + LAST_WORDS_S
    while connections and now() < end:
        await asyncio.sleep(POLL_S)
        for connection in tuple(connections):
            connection.close_if_idle()
    return left


async def _first(*waits: Coroutine[Any, Any, object], limit_s: float) -> None:
    """Return when one of them does, or when the time is over."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)


def listening(address: Address, *, key: str, share: int = 1, backlog: int = BACKLOG) -> list[socket.socket]:
    """``share`` sockets that listen at one address: the kernel spreads connections over them by their addresses, so that
    workers get equal shares, idle ones too. Raises OSError, naming ``key``, where the address cannot be had.
    """
    try:
        first = _bound(address, share=False)
        first.listen(backlog)  # two that only bind to one port do not see each other
        if share == 1:
            return [first]
        address = Address(address.host, first.getsockname()[1])
        first.close()
        sockets = [_bound(address, share=True) for _ in range(share)]
        for sock in sockets:
            sock.listen(backlog)
    except OSError as error:
        raise OSError(error.errno, f"{key} {address}: {(error.strerror or str(error)).lower()}") from None
    return sockets


def _bound(address: Address, *, share: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def address_of(sock: socket.socket) -> Address:
    """Where a socket listens."""
    host, port = sock.getsockname()[:2]
    return Address(host, port)
