"""Several workers answer as one: each tells its metrics over a socket of its own in a directory that only they share.

Whoever is asked asks the others then and there, so a scrape is exact and nothing is written in between. A worker that has died is
left out, and its counters with it: Prometheus sees a reset, as after any restart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from streamgate.observe.metrics import Family

DEADLINE_S: Final = 1.0
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Family]).decode


class Siblings:
    """This worker's socket and the way to the others'. ``directory`` None: there are none."""

    def __init__(self, directory: Path | None, tell: Callable[[], list[Family]]) -> None:
        self._directory = directory
        self._tell = tell
        self._server: asyncio.Server | None = None
        self._own = directory / f"{os.getpid()}.sock" if directory is not None else None

    async def open(self) -> None:
        """Begin to answer the others."""
        if self._own is not None:
            self._server = await asyncio.start_unix_server(self._answer, str(self._own))

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None and self._own is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)

    async def ask(self) -> list[list[Family]]:
        """Everybody's metrics, our own first."""
        others = [path for path in sorted(self._directory.glob("*.sock")) if path != self._own] if self._directory else []
        answers = await asyncio.gather(*(self._ask_one(path) for path in others))
        return [self._tell(), *(answer for answer in answers if answer is not None)]

    async def _ask_one(self, path: Path) -> list[Family] | None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_unix_connection(str(path))
                try:
                    return _decode(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(_encode(self._tell()))
            await writer.drain()
        except OSError:
            pass  # whoever asked has gone
        finally:
            writer.close()
