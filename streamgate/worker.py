"""One worker: a process's gateway with all it is made of, from its sockets' opening to their end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from sanic import Sanic

from routers.flags import Flags
from sessions.registry import Registry
from streamgate.admin.api import Views, make_admin
from streamgate.admin.models import models_seen
from streamgate.catalogue import FLAGS, PICKERS
from streamgate.clock import SystemClock
from streamgate.config.certificates import Identities, identities, identities_of
from streamgate.config.compile import Snapshot
from streamgate.config.load import Loaded
from streamgate.config.problem import ConfigurationError
from streamgate.config.reload import Outcome, Reload
from streamgate.config.restart import restart_needed
from streamgate.config.source import Ahead, Source
from streamgate.config.spec import Spec
from streamgate.config.spec_flags import Flags as FlagsSpec
from streamgate.config.spec_gate import Telemetry, Tls
from streamgate.config.watch import watch
from streamgate.edge.enter import EdgeTimeouts, Gateway
from streamgate.edge.explanation import Scene, explained
from streamgate.edge.guard import HeadLimits
from streamgate.edge.server import BACKLOG, address_of, drained, sweep
from streamgate.edge.tls import renew
from streamgate.exchange import Exchange
from streamgate.headers import Networks
from streamgate.kept import Kept
from streamgate.lease import Count
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.metrics import Metrics
from streamgate.observe.models import ModelsMetrics
from streamgate.observe.process import process_families
from streamgate.observe.records import Records
from streamgate.observe.siblings import Siblings
from streamgate.observe.spans import Spans
from streamgate.pipeline.build import Builder, Built
from streamgate.pipeline.build_models import Around
from streamgate.pipeline.explaining.asked import Asked
from streamgate.pipeline.plan import Plan
from streamgate.pipeline.upstream import Kit
from streamgate.shared import Shared
from streamgate.tasks import Tasks
from streamgate.workers import Order, Orders, let_signals

LAST_RECORDS_S: Final = 0.2
"""How long records may take to be written when a third signal ends everything."""


@dataclass(frozen=True, slots=True)
class Post:
    """All that one worker is told when it begins; it travels to the worker's process whole."""

    source: Source
    loaded: Loaded
    """The configuration to begin with."""
    started: Spec
    """The one that the ports were opened by."""
    name: bytes
    """What this gate calls itself in Via, in all its workers; another gate on this machine has another name."""
    data: socket.socket
    admin: socket.socket | None
    run_dir: Path | None = None
    """Where workers find each other; None for a single one."""
    pipe: Connection | None = None
    """The way to the main process, where there is one."""

    @property
    def tls(self) -> Tls | None:
        """The certificate to show. Whether there is one was decided when the gate was started."""
        return self.started.gate.tls and (self.loaded.spec.gate.tls or self.started.gate.tls)


class Worker:
    """The gateway of this process."""

    def __init__(self, post: Post, tls: ssl.SSLContext | None) -> None:
        self._post = post
        self._ahead = Ahead(post.source, post.loaded)
        self._log = logging.getLogger("streamgate")
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._kept = Kept()
        self._tasks = Tasks(self._task_failed)
        self._shared = Shared(post.started, self._clock, self._tasks, self._log)
        self._cells = ModelsMetrics()
        self._gen_ai = GenAi()
        around = Around(
            clock=self._clock, cells=self._cells, gen_ai=self._gen_ai, answers=self._shared.answers, share=self._shared.share,
            flags=self._flags,
        )  # fmt: skip
        self._builder = Builder(
            kept=self._kept, metrics=self._metrics, clock=self._clock, pickers=PICKERS, around=around
        )  # fmt: skip
        self._reload: Reload[Built] = Reload(
            self._ahead, self._builder.build, now_wall=self._clock.wall(), beside=identities_of, on_swap=self._swapped,
            on_outcome=self._outcome,
        )  # fmt: skip
        self._reloading = asyncio.Lock()
        self._reload_waits = False
        self._restart_needed: list[str] = []
        self._tls = tls
        self._certificate = _certificate(post.tls)
        snapshot = self._reload.current
        gate = snapshot.spec.gate
        telemetry = post.started.telemetry
        shared = post.pipe is not None or telemetry.records == "stderr"  # by the other workers, by the log
        records = Records(records_fd(telemetry), shared=shared)
        kit = Kit(
            clock=self._clock,
            registry=Registry(),
            tasks=self._tasks,
            drains=Count(gate.disconnect_drain.at_once),
            drain_bytes=gate.disconnect_drain.bytes,
            drain_s=gate.disconnect_drain.time or 0.0,
            pseudonym=b"streamgate-" + post.name,
            settle=_unsettled,
        )
        self.gateway = Gateway(kit=kit, metrics=self._metrics, records=records, worker=secrets.token_hex(4).encode())
        kit.settle = self.gateway.settle
        self._metrics.extra += [process_families, records.families, self._cells.families, self._gen_ai.families]
        self._spans = None if telemetry.spans is None else Spans(telemetry.spans)
        if self._spans is not None:
            self.gateway.spans = self._spans
            self._metrics.extra.append(self._spans.families)
        self._siblings = Siblings(post.run_dir, self._metrics.families)
        self._orders = Orders(post.pipe) if post.pipe is not None else None
        self._admin_server: Any = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._signals = 0
        self._listens = False
        self.asked_to_end = asyncio.Event()
        self._put_in_force(snapshot)

    # -- life ----------------------------------------------------------------------------------------------------------

    def take_signals(self) -> None:
        """From now on signals are answered, and so is the main process where there is one."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        if self._orders is None:
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signum, self._end_asked, signum)
        else:
            loop.add_signal_handler(signal.SIGTERM, self._obey, "drain")
            loop.add_signal_handler(signal.SIGINT, _nothing)
            self._orders.heed(self._obey)
        let_signals()

    async def open(self, app: Sanic[Any, Any]) -> Gateway:
        """Called before the data port takes connections."""
        await self._siblings.open()
        await self._open_admin(app)
        self._tasks.spawn(sweep(self.gateway), name="sweep")
        if self._spans is not None:
            self._tasks.spawn(self._spans.run(), name="spans")
        gc.collect()
        gc.freeze()  # what is here now stays; and what comes is mostly freed by itself: look for cycles seldom,
        gc.set_threshold(20_000, 20, 100)  # since a full look at thousands of streams holds all of them up
        self._tasks.spawn(watch(lambda: self._reload.files, stop=self._stop, on_change=self.reload), name="watch")
        return self.gateway

    def listens(self) -> None:
        """Called when the data port takes connections: only now is the gateway ready."""
        self._listens = True
        if self._orders is None:
            say_listening(self._log, self._post.started, [self._post.data], [self._post.admin] if self._post.admin else [])
        else:
            self._orders.ready()
        self._tasks.spawn(self._catch_up(), name="catch up")

    async def _open_admin(self, app: Sanic[Any, Any]) -> None:
        if self._post.admin is None:
            return
        views = Views(
            self._why_not_ready, self._shown, self._siblings, self._token, bind=str(self._post.started.gate.bind),
            explain=self._explain, models=self._models,
        )  # fmt: skip
        admin = make_admin(f"{app.name}-admin", views)
        admin.state.primary = False  # Sanic rewrites its protocol for the primary application, once a process
        self._admin_server = await admin.create_server(
            sock=self._post.admin, return_asyncio_server=True, access_log=False, backlog=BACKLOG
        )
        await self._admin_server.startup()
        await self._admin_server.before_start()
        await self._admin_server.after_start()

    # -- its end -------------------------------------------------------------------------------------------------------

    def _obey(self, order: Order) -> None:
        match order:
            case "reload":
                self._hang_up()
            case "end":
                self._hurry.set()
                self._begin_end()
            case "drain":
                self._begin_end()

    def _end_asked(self, signum: signal.Signals) -> None:
        """Once: drain. Twice: end what is open, and then. A third time: at once."""
        self._signals += 1
        if self._signals == 1:
            self._begin_end()
        elif not self._hurry.is_set():
            self._hurry.set()
        else:
            self._die(signum)

    def _begin_end(self) -> None:
        self.gateway.kit.registry.draining = True
        self.asked_to_end.set()

    async def drain(self) -> None:
        """Called when the end was asked for, while all still listens."""
        patience_s = self._reload.current.spec.gate.drain or 0.0
        self._log.info(
            "draining for at most %g s, %d open", patience_s, len(self.gateway.kit.registry), extra={"worker": os.getpid()}
        )
        left = await drained(self.gateway, patience_s, self._hurry)
        self._log.info("drained, %d ended early", left, extra={"worker": os.getpid()})

    def _die(self, signum: signal.Signals) -> None:
        self.gateway.records.close(LAST_RECORDS_S)
        os._exit(128 + signum)

    async def close(self) -> None:
        """The last thing a worker does."""
        self._stop.set()
        if self._admin_server is not None:
            self._admin_server.server.close()
            for connection in tuple(self._admin_server.connections):
                connection.close_if_idle()
        await self._siblings.close()
        self._kept.retain(())
        await self._shared.close()
        await self._tasks.close()
        if self._spans is not None:
            await self._spans.close()
        self.gateway.records.close()

    # -- configuration -------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        if not self._reload_waits:  # one that waits will read what this one is about
            self._reload_waits = True
            self._tasks.spawn(self.reload(), name="reload")

    async def reload(self) -> None:
        """Read again, off the loop; put in force on it, by one assignment."""
        async with self._reloading:
            self._reload_waits = False
            await asyncio.to_thread(self._ahead.fetch)
            self._reload.apply(self._clock.wall())

    async def _catch_up(self) -> None:
        """What became of the files between their reading and their watching."""
        async with self._reloading:
            found = await asyncio.to_thread(self._ahead.fetch)
            if isinstance(found, ConfigurationError) or self._reload.is_change(found):
                self._reload.apply(self._clock.wall())

    def _flags(self, spec: FlagsSpec) -> tuple[Flags, Callable[[], None]]:
        flags = FLAGS[spec.provider](
            spec, self._clock.now, lambda problem: self._log.warning("flags: %s", problem, extra={"worker": os.getpid()})
        )
        return flags, lambda: self._shared.end(flags.close())

    def _renew(self, settings: Tls | None) -> None:
        if self._tls is None or settings is None or (found := _certificate(settings)) == self._certificate:
            return
        try:
            renew(self._tls, settings)
        except OSError as error:  # it was whole a moment ago, when it was read
            self._log.error("the new certificate cannot be used, the one before stays: %s", error)
        else:
            self._certificate = found
            self._log.info("certificate renewed", extra={"worker": os.getpid()})

    def _swapped(self, _old: Snapshot[Built], new: Snapshot[Built]) -> None:
        self._put_in_force(new)
        self._renew(new.spec.gate.tls)

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
        self._cells.retain(built.model_names)
        self._gen_ai.retain(built.model_names)

    def _outcome(self, outcome: Outcome, error: str | None) -> None:
        self._metrics.reloads[outcome.value] += 1
        who = {"worker": os.getpid()}
        if error is not None:
            problems = error.splitlines()
            text = "configuration refused, the one before stays in force: %s"
            self._log.error(text, "; ".join(problems), extra=who | {"problems": problems})
            return
        current = self._reload.current
        if outcome is Outcome.UNCHANGED:
            self._log.info("configuration read again, unchanged", extra=who | {"hash": current.hash})
            return
        self._log.info("configuration applied", extra=who | {"hash": current.hash, "number": current.number})
        warn(self._log, current.warnings)
        needed = restart_needed(self._post.started, current.spec)
        if needed != self._restart_needed:
            self._restart_needed = needed
            if needed:
                text = "a restart is needed before these take effect: %s"
                self._log.warning(text, ", ".join(needed), extra=who | {"restart_needed": needed})

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
            "restart_needed": restart_needed(self._post.started, current.spec),
            "reloads": {"applied": seen.applied, "unchanged": seen.unchanged, "refused": seen.refused},
        }

    async def _explain(self, asked: Asked) -> dict[str, Any]:
        current = self._reload.current
        scene = Scene(current.spec, current.plans, self._clock, self.gateway.kit.pseudonym, is_live=True)
        found = await explained(asked, scene)
        return found | {"config": {"source": current.source, "hash": current.hash}, "worker": os.getpid()}

    def _models(self) -> dict[str, Any]:
        return {"worker": os.getpid(), **models_seen(self._reload.current.plans, self._clock.now())}

    def _token(self) -> str | None:
        token = self._reload.current.spec.gate.admin_token
        return None if token is None else token.get_secret_value()

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._log.error("background task failed: %s", name, extra={"task": name}, exc_info=error)


def say_listening(log: logging.Logger, spec: Spec, data: Sequence[socket.socket], admin: Sequence[socket.socket]) -> None:
    """One line for whoever started it: where it listens."""
    scheme = "http" if spec.gate.tls is None else "https"
    here = f"{scheme}://{address_of(data[0])}"
    beside = f"http://{address_of(admin[0])}" if admin else "off"
    workers = "" if len(data) == 1 else f", {len(data)} workers"
    log.info(
        "streamgate listens on %s, admin on %s%s; SIGTERM or Ctrl-C drains and ends it", here, beside, workers,
        extra={"data": here, "admin": beside, "workers": len(data), "pid": os.getpid()},
    )  # fmt: skip


def warn(log: logging.Logger, warnings: Sequence[object]) -> None:
    """A line for each thing in a configuration that is allowed and probably not meant."""
    for warning in warnings:
        log.warning("%s", warning)


def _unsettled(_exchange: Exchange, _plan: Plan, _drained_bytes: int | None) -> None:
    """Stands in until the gateway that settles is made."""


def _nothing() -> None:
    """What a worker makes of Ctrl-C: the main process decides what becomes of it."""


def _certificate(tls: Tls | None) -> Identities:
    return () if tls is None else identities(tuple(path for path in (tls.cert, tls.key, tls.client_ca) if path is not None))


def records_fd(telemetry: Telemetry) -> int | None:
    """Where records go, opened; None where they go nowhere. Raises OSError, naming the key."""
    match telemetry.records:
        case "off":
            return None
        case "stdout":
            return sys.stdout.fileno()
        case "stderr":
            return sys.stderr.fileno()
        case path:
            try:
                return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            except OSError as error:
                raise OSError(error.errno, f"telemetry.records {path}: {(error.strerror or '').lower()}") from None
