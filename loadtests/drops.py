"""Clients that leave, in each window of a request's life; how long until the upstream's side of it is closed too.

Taken from outside: the client notes when it closes its socket, the fake upstream when it sees its own close (both on the
clock that all processes share). Where no upstream has been reached yet, the descriptor of the proxy's half-open socket is watched in /proc.
"""

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from loadtests import processes
from loadtests.asking import HOST, Address, fetch, request

PATIENCE_S = 2.0
"""A close not seen by then counts as unseen, and as this long."""
REACHED_WITHIN_S = 20.0
BETWEEN_S = 0.005
"""Between two clients' leaving: each is served alone, not as one of a crowd."""
GIVE_UP_AFTER = 3
"""Unseen closes in a row after which the connecting window is not sampled further: each costs PATIENCE_S."""


@dataclass(frozen=True, slots=True)
class Window:
    """One moment in the life of a request."""

    name: str
    phase: str
    """What the upstream's `/stats` calls the state in which such requests sit."""
    wishes: Mapping[str, object]
    stream: bool = True


CONNECTING = "connecting"
WINDOWS = (
    Window("awaiting headers", "held before headers", {"hold": "headers"}),
    Window("awaiting first chunk", "held before chunk", {"hold": "body"}),
    Window("mid-stream", "streaming", {"tokens": 1_000_000, "rate": 20}),
    Window("not streaming", "held before headers", {"hold": "headers"}, stream=False),
)


@dataclass(slots=True)
class Closes:
    """How long closes took in one window, in milliseconds; an unseen one stands in with the patience we had."""

    seen_ms: list[float] = field(default_factory=list)
    unseen: int = 0

    @property
    def all_ms(self) -> list[float]:
        """Every sample, the unseen ones as long as we waited."""
        return self.seen_ms + [PATIENCE_S * 1000] * self.unseen


class Visitor(asyncio.Protocol):
    """Sends some bytes, reads what comes and forgets it, and leaves when told."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.heard = asyncio.Event()
        self.over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._data)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        """Note that something came."""
        self.heard.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Whoever closed it."""
        self.over.set()

    def leave(self) -> int:
        """Close the socket now; when, in monotonic nanoseconds."""
        now_ns = time.monotonic_ns()
        self._transport.abort()
        return now_ns


async def visit(address: Address, data: bytes) -> Visitor:
    """Connect and send. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, visitor = await loop.create_connection(lambda: Visitor(data), address.host, address.port)
    return visitor


async def close_times(
    address: Address, upstream_port: int, window: Window, count: int, *, within_s: float = REACHED_WITHIN_S
) -> Closes:
    """Bring `count` requests into a window, leave one after the other. Raises TimeoutError if they do not get there."""
    visitors = {
        f"{window.name}-{number}": await visit(
            address, request(address, {**window.wishes, "id": f"{window.name}-{number}"}, stream=window.stream)
        )
        for number in range(count)
    }
    await _reached(upstream_port, window, count, within_s)
    left_ns: dict[str, int] = {}
    for name, visitor in visitors.items():
        left_ns[name] = visitor.leave()
        await asyncio.sleep(BETWEEN_S)
    return await _collect(upstream_port, left_ns)


async def _stats(upstream_port: int, query: str = "") -> dict[str, dict[str, int]]:
    return cast("dict[str, dict[str, int]]", json.loads(await fetch(HOST, upstream_port, "/stats" + query)))


async def _reached(upstream_port: int, window: Window, count: int, within_s: float) -> None:
    patience = time.monotonic() + within_s
    while (there := (await _stats(upstream_port, "?reset=1"))["phases"].get(window.phase, 0)) < count:
        if time.monotonic() > patience:
            msg = f"{there} of {count} requests came to be {window.phase} within {within_s:.0f} s"
            raise TimeoutError(msg)
        await asyncio.sleep(0.05)


async def _collect(upstream_port: int, left_ns: dict[str, int]) -> Closes:
    patience = time.monotonic() + PATIENCE_S
    while True:
        closes = (await _stats(upstream_port))["closes"]
        if left_ns.keys() <= closes.keys() or time.monotonic() > patience:
            break
        await asyncio.sleep(0.05)
    seen_ms = [(closes[name] - at_ns) / 1e6 for name, at_ns in left_ns.items() if name in closes]
    return Closes(seen_ms, unseen=len(left_ns) - len(seen_ms))


@contextmanager
def nowhere() -> Iterator[int]:
    """A port on which connecting never ends: its listener's queue is full, so the kernel drops every further SYN."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind((HOST, 0))
        listener.listen(0)  # room for one
        filler.connect(listener.getsockname())
        yield int(listener.getsockname()[1])


async def close_times_connecting(address: Address, nowhere_port: int, root: int, count: int) -> Closes:
    """Leave while the proxy (process `root`) is still connecting; its half-open socket must go. One at a time.

    Raises TimeoutError when the proxy never tries to connect.
    """
    closes = Closes()
    for number in range(count):
        before = processes.connecting_to(nowhere_port)
        visitor = await visit(address, request(address, {"id": f"{CONNECTING}-{number}"}))
        inode = await _attempt(nowhere_port, before)
        descriptor = processes.descriptor_of(root, inode) if inode else None
        left_ns = visitor.leave()
        if inode is None or descriptor is None:
            if before:  # it waits on the attempt it should have given up
                break
            msg = f"no connection attempt was seen within {PATIENCE_S:.0f} s"
            raise TimeoutError(msg)
        gone_ns = await _gone(descriptor, inode)
        if gone_ns is not None:
            closes.seen_ms.append((gone_ns - left_ns) / 1e6)
            continue
        closes.unseen += 1
        if closes.unseen == GIVE_UP_AFTER and not closes.seen_ms:
            break
    return closes


async def _attempt(port: int, before: set[str]) -> str | None:
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        if new := processes.connecting_to(port) - before:
            return new.pop()
        await asyncio.sleep(0.001)
    return None


async def _gone(descriptor: Path, inode: str) -> int | None:
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        if not processes.holds(descriptor, inode):
            return time.monotonic_ns()
        await asyncio.sleep(0)
    return None
