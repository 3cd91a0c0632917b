"""The scripted model server as a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Self

from tests.kit.ports import HOST


class ScriptedServer:
    """``async with ScriptedServer() as server:`` waits until it accepts connections; ``url`` is where."""

    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streamgate.demo.scripted", "--port", "0",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 20)
        self.port = json.loads(line)["port"]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """End it; streams that are open end with it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
