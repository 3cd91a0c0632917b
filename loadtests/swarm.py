"""Many clients in one process: streams opened, read and timed, without a task for each.

`python -m loadtests.swarm --url http://127.0.0.1:8080 --streams 300 --rate 50 --seconds 10` prints what it saw.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from array import array
from dataclasses import dataclass, field
from typing import Self, cast
from urllib.parse import urlsplit

import httptools
import uvloop

from loadtests import figures, processes, stamps
from loadtests.asking import COMPLETIONS, HOST, Address, request

CATCH_UP_S = 0.2
"""After our own collector's pause, before times are recorded: what piled up meanwhile is not the proxy's doing."""
AGAIN_AFTER_S = 0.1
"""How long a client waits after a refusal before it asks again, so that a dead proxy is not hammered."""


@dataclass(slots=True)
class Tally:
    """What a swarm saw. Times are nanoseconds; they are kept only while `recording`, the counts always."""

    recording: bool = False
    tokens: int = 0
    opened: int = 0
    completed: int = 0
    failed: int = 0
    """Refused, answered with an error status, or lost before the head of the answer."""
    cut: int = 0
    """Lost after the head of the answer, before its end."""
    dropped: int = 0
    """Closed by us, on purpose."""
    first_token_ns: array[int] = field(default_factory=lambda: array("q"))
    delay_ns: array[int] = field(default_factory=lambda: array("q"))
    """From the upstream's stamp to our reading it, of every token."""
    gap_ns: array[int] = field(default_factory=lambda: array("q"))
    """Between two readings of one stream, from its second token on."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why requests failed or streams were cut: {what: how often}."""

    def note(self, reason: str) -> None:
        """Count one reason."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def forget_times(self) -> None:
        """Start a new window of recording."""
        self.first_token_ns, self.delay_ns, self.gap_ns = array("q"), array("q"), array("q")


@dataclass(frozen=True, slots=True)
class Load:
    """What every stream of a swarm asks for."""

    tokens: int = 1_000_000
    rate_per_s: float = 50
    size_bytes: int = 200
    repeat: bool = False
    """Ask again as soon as a stream is complete, with a length varied by a fifth so that they do not end together."""
    drop_share: float = 0.0
    """Share of streams that their client leaves half-way."""
    data: bytes = b""
    """Bytes to send instead: a plain request, whose answer is no stream."""

    def length(self, rng: random.Random) -> int:
        """How many tokens the next stream has."""
        return max(1, int(self.tokens * rng.uniform(0.8, 1.2))) if self.repeat else self.tokens


class Client(asyncio.Protocol):
    """One client: opens a stream, reads it, and (if the load repeats) opens the next on the same connection."""

    def __init__(self, swarm: Swarm) -> None:
        """Waits for its transport."""
        self._swarm = swarm
        self._tally = swarm.tally
        self.transport: asyncio.Transport | None = None
        self._asked_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask at once."""
        self.transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        load = self._swarm.load
        length = load.length(self._swarm.rng)
        self._leave_after = length // 2 if self._swarm.rng.random() < load.drop_share else 0
        self._parser = httptools.HttpResponseParser(self)
        self._reader = stamps.Reader()
        self._seen = 0
        self._last_ns = 0
        self._headed = self._ended = False
        self._tally.opened += 1
        wishes = {"tokens": length, "rate": load.rate_per_s, "size": load.size_bytes}
        data = load.data or request(self._swarm.address, wishes)
        assert self.transport is not None
        self._asked_ns = time.monotonic_ns()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        self._now_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._tally.note("answer cannot be parsed")
            self.leave()

    def on_headers_complete(self) -> None:
        """The head has come."""
        self._headed = True

    def on_body(self, data: bytes) -> None:
        """Time every token."""
        found = self._reader.stamps(data)
        if not found:
            return
        tally, now_ns = self._tally, self._now_ns
        tally.tokens += len(found)
        if tally.recording:
            if self._seen == 0:
                tally.first_token_ns.append(now_ns - self._asked_ns)
            elif self._seen > 1:
                tally.gap_ns.append(now_ns - self._last_ns)
            for stamp in found:
                tally.delay_ns.append(now_ns - int(stamp))
        self._last_ns = now_ns
        self._seen += len(found)
        if self._leave_after and self._seen >= self._leave_after:
            tally.dropped += 1
            self.leave()
            self._swarm.replace(self)

    def on_message_complete(self) -> None:
        """The answer is whole: count it, and go on if the load says so."""
        self._ended = True
        status = self._parser.get_status_code()
        if status != 200:
            self._tally.failed += 1
            self._tally.note(f"status {status}")
        elif not (self._reader.done or self._swarm.load.data):
            self._tally.cut += 1
            self._tally.note("ended without [DONE]")
        else:
            self._tally.completed += 1
        if not self._swarm.load.repeat or not self._swarm.running:
            return
        if status == 200 and self._parser.should_keep_alive():
            asyncio.get_running_loop().call_soon(self._ask_if_open)
        else:
            self.leave()
            self._swarm.replace(self, after_s=AGAIN_AFTER_S)

    def _ask_if_open(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._ask()
        elif self._swarm.running:
            self._swarm.replace(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """By us, or by the other side: the latter counts against it, unless the answer was whole."""
        left_by_us = self.transport is None
        self.transport = None
        if left_by_us or self._ended:
            return
        if self._headed:
            self._tally.cut += 1
        else:
            self._tally.failed += 1
        self._tally.note(f"connection lost {'in' if self._headed else 'before'} the answer: {exc or 'closed'}")
        self._swarm.replace(self, after_s=AGAIN_AFTER_S)

    def leave(self) -> int:
        """Close the socket now; when, in monotonic nanoseconds."""
        transport, self.transport = self.transport, None
        now_ns = time.monotonic_ns()
        if transport is not None:
            transport.abort()
        return now_ns


class Swarm:
    """N clients against one address. Use as `async with`; leaving closes them all."""

    def __init__(self, address: Address, load: Load, clients: int, *, ramp_s: float = 1.0, seed: int = 1) -> None:
        """Opens nothing yet; the clients come evenly over `ramp_s` seconds."""
        self.address = address
        self.load = load
        self.tally = Tally()
        self.rng = random.Random(seed)
        self.running = False
        self._count = clients
        self._ramp_s = ramp_s
        self._clients: set[Client] = set()
        self._connects: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Open all clients; back once each has asked."""
        self.running = True
        start = time.monotonic()
        for number in range(self._count):
            await asyncio.sleep(max(0.0, start + self._ramp_s * number / self._count - time.monotonic()))
            self._spawn(0.0)
        await asyncio.gather(*self._connects)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all sockets."""
        self.running = False
        for task in self._connects:
            task.cancel()
        for client in self._clients:
            client.leave()
        await asyncio.sleep(0)

    def replace(self, client: Client, after_s: float = 0.0) -> None:
        """One client is gone: another takes its place, on a connection of its own."""
        self._clients.discard(client)
        if self.running:
            self._spawn(after_s)

    def _spawn(self, after_s: float) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(after_s))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    async def _connect(self, after_s: float) -> None:
        client = Client(self)
        while self.running:
            if after_s:
                await asyncio.sleep(after_s)
            try:
                await asyncio.get_running_loop().create_connection(lambda: client, self.address.host, self.address.port)
            except OSError as error:
                self.tally.failed += 1
                self.tally.note(f"cannot connect: {error.strerror}")
                after_s = AGAIN_AFTER_S
            else:
                self._clients.add(client)
                return

    async def record(self, seconds: float) -> Tally:
        """Record times for this long, without the garbage collector's pauses; the tally."""
        gc.collect()
        gc.disable()
        await asyncio.sleep(CATCH_UP_S)
        self.tally.forget_times()
        self.tally.recording = True
        await asyncio.sleep(seconds)
        self.tally.recording = False
        gc.enable()
        return self.tally


def _text(name: str, samples: array[int]) -> str:
    known = figures.distribution(samples, per_unit=1e6)
    return f"{name}: " + (f"p50 {known.p50:.2f} ms, p99 {known.p99:.2f} ms, worst {known.worst:.2f} ms" if known else "none")


async def watch(address: Address, load: Load, streams: int, seconds: float) -> Tally:
    """Run a swarm and record for so many seconds."""
    async with Swarm(address, load, streams) as swarm:
        return await swarm.record(seconds)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.swarm", description="Many streaming clients.")
    parser.add_argument("--url", required=True, help="http://host:port[/path of chat/completions]")
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--rate", type=float, default=50, help="tokens/s of each stream")
    parser.add_argument("--tokens", type=int, default=200, help="length of a stream; then the client asks again")
    parser.add_argument("--seconds", type=float, default=10)
    chosen = parser.parse_args()
    url = urlsplit(chosen.url)
    path = url.path if url.path not in ("", "/") else COMPLETIONS
    processes.allow_many_files()
    address = Address(url.hostname or HOST, url.port or 80, path)
    load = Load(chosen.tokens, chosen.rate, repeat=True)
    tally = uvloop.run(watch(address, load, chosen.streams, chosen.seconds))
    print(f"tokens {tally.tokens}, streams complete {tally.completed}, failed {tally.failed}, cut {tally.cut}")
    for name, samples in (("first token", tally.first_token_ns), ("gap", tally.gap_ns), ("delay", tally.delay_ns)):
        print(_text(name, samples))
    for reason, often in sorted(tally.reasons.items()):
        print(f"{often} × {reason}", file=sys.stderr)
    return 1 if tally.failed or tally.cut else 0


if __name__ == "__main__":
    sys.exit(main())
