"""The demo's scripted model server as a process of its own, and its counts."""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamgate.demo.child import Child

HOST = "127.0.0.1"


class ScriptedServer:
    """Where it listens, and what it has counted."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"

    async def stats(self) -> dict[str, int]:
        """``/script/stats``."""
        return await asyncio.to_thread(self._fetch, "/script/stats", None)

    async def reset(self) -> dict[str, int]:
        """Forget what has ended."""
        return await asyncio.to_thread(self._fetch, "/script/reset", b"")

    def _fetch(self, path: str, body: bytes | None) -> dict[str, int]:
        with urllib.request.urlopen(self.url + path, body, timeout=5) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts


@contextmanager
def scripted_server(folder: Path) -> Iterator[ScriptedServer]:
    """Start it on a free port, its output in `folder`; stop it when the block is left."""
    with Child("scripted", [sys.executable, "-m", "streamgate.demo.scripted", "--port", "0"], folder) as child:
        yield ScriptedServer(child.port())
