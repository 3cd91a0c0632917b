"""The composition root: builds everything one worker is made of, and passes it down. No logic of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sanic import Sanic
from sanic.worker.loader import AppLoader

from sessions.registry import Registry
from streamgate.catalogue import PICKERS
from streamgate.admin.api import Views, make_admin
from streamgate.clock import SystemClock
from streamgate.config.compile import Snapshot
from streamgate.config.load import Loaded, load
from streamgate.config.problem import ConfigurationError
from streamgate.config.reload import Outcome, Reload
from streamgate.config.spec_gate import Telemetry
from streamgate.config.units import Address
from streamgate.config.watch import watch
from streamgate.edge.enter import EdgeTimeouts, Gateway
from streamgate.edge.guard import HeadLimits
from streamgate.edge.lane import LaneProtocol
from streamgate.edge.server import drained, make_server, sweep
from streamgate.edge.tls import renew, server_context
from streamgate.exchange import Exchange
from streamgate.headers import Networks
from streamgate.kept import Kept
from streamgate.lease import Count
from streamgate.observe.logs import set_up
from streamgate.observe.metrics import Metrics
from streamgate.observe.process import process_families
from streamgate.observe.records import Records
from streamgate.observe.siblings import Siblings
from streamgate.pipeline.build import Builder, Built
from streamgate.pipeline.plan import Plan
from streamgate.pipeline.upstream import Kit
from streamgate.tasks import Tasks

_INSTANCE = "STREAMGATE_INSTANCE"
_RUN_DIR = "STREAMGATE_RUN_DIR"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from; all that a worker process is told."""

    path: Path
    env: str | None

    def read(self) -> Loaded:
        """Raises ConfigurationError with every problem."""
        return load(self.path, env=self.env, environ=os.environ)


class _Ahead:
    """Reads the configuration off the loop, for whoever asks next: parsing takes longer than a token may wait."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: Loaded | ConfigurationError | None = None

    def fetch(self) -> None:
        try:
            self._found = self._source.read()
        except ConfigurationError as error:
            self._found = error

    def __call__(self) -> Loaded:
        found, self._found = self._found, None
        if isinstance(found, ConfigurationError):
            raise found
        return found or self._source.read()


class Worker:
    """One process's gateway, from its sockets' opening to their end."""

    def __init__(self, source: Source, tls: ssl.SSLContext | None) -> None:
        self._ahead = _Ahead(source)
        self._log = logging.getLogger("streamgate")
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._kept = Kept()
        self._stop = asyncio.Event()
        self._tasks = Tasks(self._task_failed)
        self._builder = Builder(kept=self._kept, metrics=self._metrics, clock=self._clock, pickers=PICKERS)
        self._reload: Reload[Built] = Reload(
            self._ahead, self._builder.build, now_wall=self._clock.wall(), on_swap=self._swapped, on_outcome=self._outcome
        )
        self._reloading = asyncio.Lock()
        snapshot = self._reload.current
        gate = snapshot.spec.gate
        self._fd = _records_fd(snapshot.spec.telemetry)
        records = Records(self._fd)
        kit = Kit(
            clock=self._clock,
            registry=Registry(),
            tasks=self._tasks,
            drains=Count(gate.disconnect_drain.at_once),
            drain_bytes=gate.disconnect_drain.bytes,
            drain_s=gate.disconnect_drain.time or 0.0,
            pseudonym=b"streamgate-" + os.environ[_INSTANCE].encode(),
            settle=_unsettled,
        )
        name = secrets.token_hex(4).encode()
        self.gateway = Gateway(kit=kit, metrics=self._metrics, records=records, worker=name)
        kit.settle = self.gateway.settle
        self._metrics.extra += [process_families, records.families]
        run_dir = os.environ.get(_RUN_DIR)
        self._siblings = Siblings(Path(run_dir) if run_dir else None, self._metrics.families)
        self._tls = tls
        self._admin_server: Any = None
        self._listens = False
        self._put_in_force(snapshot)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def open(self, app: Sanic[Any, Any]) -> Gateway:
        """Called before the data port listens."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        await self._siblings.open()
        await self._open_admin(app)
        self._tasks.spawn(sweep(self.gateway), name="sweep")
        gc.collect()
        gc.freeze()  # what is here now stays; and what comes is mostly freed by itself: look for cycles seldom,
        gc.set_threshold(10_000, 10, 10)  # since a full look at thousands of streams holds all of them up
        self._tasks.spawn(watch(lambda: self._reload.files, stop=self._stop, on_change=self.reload), name="watch")
        gate = self._reload.current.spec.gate
        self._log.info(
            "listening", extra={"data": str(_bound(app, gate.bind)), "admin": str(gate.admin or "off"), "pid": os.getpid()}
        )
        return self.gateway

    def listens(self) -> None:
        """Called when the data port takes connections: only now is the gateway ready."""
        self._listens = True

    async def _open_admin(self, app: Sanic[Any, Any]) -> None:
        gate = self._reload.current.spec.gate
        if gate.admin is None:
            return
        views = Views(self._why_not_ready, self._shown, self._siblings, self._token)
        admin = make_admin(f"{app.name}-admin", views)
        admin.state.primary = False  # Sanic rewrites its protocol for the primary application, once a process
        sock = listening(gate.admin, shared=gate.workers > 1)
        self._admin_server = await admin.create_server(sock=sock, return_asyncio_server=True, access_log=False)
        await self._admin_server.startup()
        await self._admin_server.before_start()
        await self._admin_server.after_start()

    async def drain(self) -> None:
        """SIGTERM came: not ready, no newcomers, ``gate.drain`` for the rest."""
        patience_s = self._reload.current.spec.gate.drain or 0.0
        self._log.info("draining", extra={"open": len(self.gateway.kit.registry), "patience_s": patience_s})
        left = await drained(self.gateway, patience_s)
        self._log.info("drained", extra={"ended_early": left})

    async def close(self) -> None:
        """The last thing a worker does."""
        self._stop.set()
        if self._admin_server is not None:
            self._admin_server.server.close()
            for connection in tuple(self._admin_server.connections):
                connection.close_if_idle()
        await self._siblings.close()
        await self._tasks.close()
        self._kept.retain(())
        self.gateway.records.close()

    # -- configuration -------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        self._tasks.spawn(self.reload(), name="reload")

    async def reload(self) -> None:
        """Read again, off the loop; put in force on it, by one assignment."""
        async with self._reloading:
            await asyncio.to_thread(self._ahead.fetch)
            self._reload.apply(self._clock.wall())

    def _swapped(self, _old: Snapshot[Built], new: Snapshot[Built]) -> None:
        self._put_in_force(new)

    def _put_in_force(self, snapshot: Snapshot[Built]) -> None:
        gateway, gate, built = self.gateway, snapshot.spec.gate, snapshot.plans
        gateway.head_limits = HeadLimits(gate.limits.head, gate.limits.target, gate.limits.fields)
        gateway.timeouts = EdgeTimeouts(gate.timeouts.head, gate.timeouts.keep_alive, gate.timeouts.write)
        gateway.trusted = Networks(gate.trusted_proxies)
        gateway.number = snapshot.number
        gateway.routes = built.routes
        kit = gateway.kit
        kit.drains.resize(gate.disconnect_drain.at_once)
        kit.drain_bytes, kit.drain_s = gate.disconnect_drain.bytes, gate.disconnect_drain.time or 0.0
        self._kept.retain(built.keys)
        self._metrics.retain((*built.route_ids, "_none"), built.service_ids)
        if self._tls is not None and gate.tls is not None:
            renew(self._tls, gate.tls)

    def _outcome(self, outcome: Outcome, error: str | None) -> None:
        self._metrics.reloads[outcome.value] += 1
        if error is not None:
            self._log.error("configuration refused; the one before stays in force", extra={"problems": error.splitlines()})
        elif outcome is Outcome.APPLIED:
            current = self._reload.current
            self._log.info("configuration applied", extra={"hash": current.hash, "number": current.number})

    # -- what the admin port shows -------------------------------------------------------------------------------------

    def _why_not_ready(self) -> str | None:
        if not self._listens:
            return "starting"
        return "shutting down" if self.gateway.kit.registry.draining else None

    def _shown(self) -> dict[str, Any]:
        current, seen = self._reload.current, self._reload.statistics()
        return {
            "hash": current.hash,
            "source": current.source,
            "environment": current.environment,
            "loaded_at": current.loaded_at,
            "number": current.number,
            "services": len(current.spec.services),
            "routes": len(current.spec.routes),
            "warnings": [str(problem) for problem in current.warnings],
            "last_error": seen.last_error,
            "reloads": {"applied": seen.applied, "unchanged": seen.unchanged, "refused": seen.refused},
        }

    def _token(self) -> str | None:
        token = self._reload.current.spec.gate.admin_token
        return None if token is None else token.get_secret_value()

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._log.error("background task failed", extra={"task": name}, exc_info=error)


def _unsettled(_exchange: Exchange, _plan: Plan, _drained_bytes: int | None) -> None:
    """Stands in until the gateway that settles is made."""


def _records_fd(telemetry: Telemetry) -> int | None:
    match telemetry.records:
        case "off":
            return None
        case "stdout":
            return sys.stdout.fileno()
        case "stderr":
            return sys.stderr.fileno()
        case path:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def listening(address: Address, *, shared: bool) -> socket.socket:
    """A bound socket; ``shared`` lets every worker bind the same port. Raises OSError where the address is taken."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    sock.set_inheritable(True)
    return sock


def _bound(app: Sanic[Any, Any], configured: Address) -> str:
    sock = app.state.sock
    if sock is None:
        return str(configured)
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _make(source: Source) -> Sanic[Any, Any]:
    """Called in the main process and again in every worker of several."""
    set_up()
    gate = source.read().spec.gate
    tls = server_context(gate.tls) if gate.tls is not None else None

    def prepare(app: Sanic[Any, Any]) -> None:
        app.ctx.tls = tls

    return make_server("streamgate", lambda: Worker(source, tls), prepare)


def serve(source: Source) -> None:
    """Run the gateway until it is told to end. Raises ConfigurationError and OSError before anything listens."""
    gate = source.read().spec.gate
    os.environ.setdefault(_INSTANCE, secrets.token_hex(4))
    raise_file_limit()
    if gate.workers == 1:
        sock = listening(gate.bind, shared=False)
        app = _make(source)
        app.prepare(sock=sock, protocol=LaneProtocol, single_process=True, access_log=False, motd=False, backlog=4096)
        Sanic.serve_single(app)
        return
    run_dir = tempfile.mkdtemp(prefix="streamgate-")
    os.environ[_RUN_DIR] = run_dir
    try:
        loader = AppLoader(factory=partial(_make, source))
        app = loader.load()
        app.prepare(
            host=gate.bind.host, port=gate.bind.port, protocol=LaneProtocol, workers=gate.workers, access_log=False,
            motd=False, backlog=4096,
        )  # fmt: skip
        app.main_process_ready(_forward_hang_up)
        Sanic.serve(app, app_loader=loader)
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


async def _forward_hang_up(app: Sanic[Any, Any]) -> None:
    def forward(*_args: object) -> None:
        for process in app.manager.processes:
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(process.pid, signal.SIGHUP)

    signal.signal(signal.SIGHUP, forward)


def raise_file_limit() -> None:
    """Two sockets a stream: take what the system gives."""
    import resource  # noqa: PLC0415  # not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
