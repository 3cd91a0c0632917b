"""The composition root: one worker serves here, several in processes of their own under this one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvloop

from streamgate.config.load import Loaded
from streamgate.config.problem import ConfigurationError
from streamgate.config.source import Ahead, Source
from streamgate.config.watch import watch
from streamgate.edge.server import listening, make_server
from streamgate.edge.server import serve as serve_app
from streamgate.edge.tls import server_context
from streamgate.observe.logs import set_up
from streamgate.tasks import Tasks
from streamgate.worker import Post, Worker, records_fd, say_listening, warn
from streamgate.workers import Workers

__all__ = ["Main", "Source", "serve", "work"]


class Main:
    """The main process of several workers. It serves nobody: it keeps the ports, so that a worker's death refuses nobody, and
    the last configuration that could be used, so that its replacement can begin whatever the file holds by then.
    """

    def __init__(
        self, source: Source, loaded: Loaded, data: Sequence[socket.socket], admin: Sequence[socket.socket], name: bytes
    ) -> None:
        self._source = source
        self._started = self._good = loaded
        self._files = loaded.files
        self._ahead = Ahead(source, loaded)
        self._data = data
        self._admin = admin
        self._name = name
        self._log = logging.getLogger("streamgate")
        self._tasks = Tasks(lambda name, error: self._log.error("background task failed: %s", name, exc_info=error))
        self._context = multiprocessing.get_context("spawn")  # threads and loops do not survive a fork
        self._looking = asyncio.Lock()
        self._look_waits = False
        self._run_dir = Path(tempfile.mkdtemp(prefix="streamgate-"))
        self._workers = Workers(
            loaded.spec.gate.workers,
            self._begin,
            patience_s=lambda: self._good.spec.gate.drain or 0.0,
            on_hang_up=self._hang_up,
            on_ready=lambda: say_listening(self._log, loaded.spec, data, admin),
            on_ended=lambda pid: self._siblings_socket(pid).unlink(missing_ok=True),
        )

    async def run(self) -> int:
        """Until all workers have ended. Returns the exit status."""
        stop = asyncio.Event()
        self._tasks.spawn(watch(lambda: self._files, stop=stop, on_change=self._look), name="watch")
        try:
            return await self._workers.run()
        finally:
            stop.set()
            await self._tasks.close()
            shutil.rmtree(self._run_dir, ignore_errors=True)

    def _begin(self, index: int, pipe: Connection) -> BaseProcess:
        admin = self._admin[index] if self._admin else None
        post = Post(self._source, self._good, self._started.spec, self._name, self._data[index], admin, self._run_dir, pipe)
        process = self._context.Process(target=work, args=(post,), name=f"streamgate-{index}", daemon=True)
        process.start()
        return process

    def _siblings_socket(self, pid: int) -> Path:
        return self._run_dir / f"{pid}.sock"

    def _hang_up(self) -> None:
        self._workers.tell("reload")
        if not self._look_waits:
            self._look_waits = True
            self._tasks.spawn(self._look(), name="look")

    async def _look(self) -> None:
        async with self._looking:
            self._look_waits = False
            found = await asyncio.to_thread(self._ahead.fetch)
            if isinstance(found, ConfigurationError):
                self._files = found.files or self._files
            else:
                self._good, self._files = found, found.files


def serve(source: Source) -> int:
    """Run the gateway until it is told to end; returns the exit status. Raises ConfigurationError, and OSError where a port
    or a file cannot be had, before anything listens.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to reload yet, and no reason to end either
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))  # nothing is open yet
    loaded = source.read()
    gate = loaded.spec.gate
    log = set_up()
    warn(log, loaded.warnings)
    fd = records_fd(loaded.spec.telemetry)
    if fd is not None and fd > sys.stderr.fileno():
        os.close(fd)  # it can be written: each worker opens it for itself
    raise_file_limit()
    data = listening(gate.bind, key="gate.bind", share=gate.workers)
    admin = listening(gate.admin, key="gate.admin", share=gate.workers) if gate.admin is not None else []
    name = secrets.token_hex(4).encode()
    if gate.workers > 1:
        return asyncio.run(Main(source, loaded, data, admin, name).run())
    work(Post(source, loaded, loaded.spec, name, data[0], admin[0] if admin else None))
    return 0


def work(post: Post) -> None:
    """Be one worker, in this process, until it has ended."""
    set_up()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(post))


async def _live(post: Post) -> None:
    tls = server_context(post.tls) if post.tls is not None else None
    worker = Worker(post, tls)
    worker.take_signals()
    app = make_server("streamgate", lambda: worker, lambda _app: None)
    await serve_app(app, sock=post.data, tls=tls, ended=worker.asked_to_end)


def raise_file_limit() -> None:
    """Two sockets a stream: take what the system gives."""
    import resource  # noqa: PLC0415  # not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
