"""The load tests' fake model server, on the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadtests import upstream
from loadtests.asking import HOST, Address


@asynccontextmanager
async def model() -> AsyncIterator[tuple[Address, upstream.Counts]]:
    """The fake model, on this loop; where it listens, and its counts."""
    loop = asyncio.get_running_loop()
    shared = upstream.Model(loop)
    server = await loop.create_server(lambda: upstream.ModelConnection(shared), HOST, 0)
    async with server:
        yield Address(HOST, server.sockets[0].getsockname()[1]), shared.counts
