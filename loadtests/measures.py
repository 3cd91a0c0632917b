"""The five measurements. Each takes a running peer and gives {metric: value} for one round; units stand in the names."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

from loadtests import drops, figures, wrk
from loadtests.asking import HOST, fetch
from loadtests.running import Running
from loadtests.swarm import Load, Swarm, Tally

Values = dict[str, float]
SETTLE_S = 1.0
STARTING_SHARE = 0.02
"""Of the streams, opened and closed before memory is first read: code loaded on first use is no cost of a stream. Their memory
may be used again by the first of the counted ones, so they are few."""
OPEN_WITHIN_S = 60.0
IDLE_BUSY = 0.05
"""A proxy that uses less of its core than this has nothing left to do."""
IDLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of each measurement is done."""

    warm_up_s: float = 1.0
    requests_s: float = 5.0
    tokens_s: float = 10.0
    first_tokens_s: float = 10.0
    streams: int = 300
    rate_per_s: float = 50.0
    idle_streams: int = 1000
    connections: int = 64
    drops: int = 100
    connecting_drops: int = 20

    def for_slow(self) -> "Effort":
        """For a peer that would drown in the full load: a thirtieth of the streams at a fifth of the rate, an eighth of the
        connections, and longer runs, because requests that take a second each would mostly be cut off by the end of short ones.
        """
        return replace(
            self, connections=self.connections // 8, requests_s=self.requests_s * 2,
            warm_up_s=self.warm_up_s * 5, streams=max(2, self.streams // 30), rate_per_s=self.rate_per_s / 5, idle_streams=self.idle_streams // 10,
            drops=max(5, self.drops // 10), connecting_drops=max(2, self.connecting_drops // 4),
        )  # fmt: skip


QUICK = Effort(
    requests_s=2, tokens_s=3, first_tokens_s=4, streams=300, idle_streams=300, drops=20, connecting_drops=5
)  # fmt: skip


class BrokenRunError(Exception):
    """Requests failed or streams were cut while measuring: there is no figure."""


def _whole(tally: Tally) -> None:
    if tally.failed or tally.cut:
        reasons = ", ".join(f"{often} × {reason}" for reason, often in tally.reasons.items())
        msg = f"{tally.failed} requests failed and {tally.cut} streams were cut: {reasons}"
        raise BrokenRunError(msg)


async def _idle(running: Running) -> None:
    """Wait until the proxy has done with what a warm-up left behind; some go on serving clients that have gone."""
    patience, step_s = time.monotonic() + IDLE_WITHIN_S, 0.2
    while running.process and time.monotonic() < patience:
        before_s = running.cpu_s()
        await asyncio.sleep(step_s)
        if running.cpu_s() - before_s <= IDLE_BUSY * step_s:
            return


async def _all_open(running: Running, streams: int) -> None:
    """Wait until the upstream streams to every client. Raises BrokenRunError when it does not come to that."""
    patience = time.monotonic() + OPEN_WITHIN_S
    while (there := json.loads(await fetch(HOST, running.place.upstream, "/stats"))["open_streams"]) < streams:
        if time.monotonic() > patience:
            msg = f"{there} of {streams} streams were open after {OPEN_WITHIN_S:.0f} s"
            raise BrokenRunError(msg)
        await asyncio.sleep(0.1)


async def requests(running: Running, effort: Effort) -> Values:
    """Small requests over kept connections: per second of the proxy's processor time, and per second of ours."""
    values: Values = {}
    for work in (wrk.JSON, wrk.CHAT):
        if work is wrk.JSON and not running.peer.serves_json:
            continue
        await wrk.hammer(running.address, work, effort.connections, effort.warm_up_s)
        await _idle(running)
        before_s = running.cpu_s() if running.process else 0.0
        rate = await wrk.hammer(running.address, work, effort.connections, effort.requests_s)
        values[f"{work.name}_requests_per_s"] = rate.requests / rate.seconds
        if running.process:
            used_s = running.cpu_s() - before_s
            values[f"{work.name}_requests_per_cpu_s"] = rate.requests / used_s
            values[f"{work.name}_busy"] = used_s / rate.seconds
    return values


async def tokens(running: Running, effort: Effort) -> Values:
    """Streams that do not end: what one relayed token costs, and how evenly tokens come."""
    async with Swarm(running.address, Load(rate_per_s=effort.rate_per_s), effort.streams) as swarm:
        await _all_open(running, effort.streams)
        await asyncio.sleep(SETTLE_S)
        tokens_before, cpu_before_s = swarm.tally.tokens, running.cpu_s() if running.process else 0.0
        tally = await swarm.record(effort.tokens_s)
        used_s = (running.cpu_s() if running.process else 0.0) - cpu_before_s
        relayed = tally.tokens - tokens_before
    _whole(tally)
    values: Values = {"tokens_per_s": relayed / effort.tokens_s}
    if running.process:
        values |= {"cpu_us_per_token": used_s / relayed * 1e6, "busy": used_s / effort.tokens_s}
    values |= _times("gap", figures.distribution(tally.gap_ns, per_unit=1e6))
    return values | _times("delay", figures.distribution(tally.delay_ns, per_unit=1e6))


async def first_tokens(running: Running, effort: Effort) -> Values:
    """The same streams, each over after two seconds and asked for again: from the request to its first token."""
    load = Load(tokens=round(2 * effort.rate_per_s), rate_per_s=effort.rate_per_s, repeat=True)
    async with Swarm(running.address, load, effort.streams, ramp_s=2.0) as swarm:
        await asyncio.sleep(SETTLE_S)
        tally = await swarm.record(effort.first_tokens_s)
    _whole(tally)
    return _times("ttft", figures.distribution(tally.first_token_ns, per_unit=1e6))


def _times(name: str, known: figures.Distribution | None) -> Values:
    if known is None:
        return {}
    return {f"{name}_p50_ms": known.p50, f"{name}_p99_ms": known.p99, f"{name}_samples": known.count}


async def memory(running: Running, effort: Effort) -> Values:
    """Streams that hardly say anything: memory with them, less memory before them, shared among them."""
    if not running.process:
        return {}
    async with Swarm(running.address, Load(rate_per_s=1), starting := max(1, round(effort.idle_streams * STARTING_SHARE))):
        await _all_open(running, starting)
        await asyncio.sleep(SETTLE_S)
    await _idle(running)
    before = running.memory_bytes()
    async with Swarm(running.address, Load(rate_per_s=1), effort.idle_streams, ramp_s=2.0) as swarm:
        await _all_open(running, effort.idle_streams)
        await asyncio.sleep(2 * SETTLE_S)
        grown = running.memory_bytes() - before
    _whole(swarm.tally)
    return {"kib_per_stream": grown / 1024 / effort.idle_streams, "start_mib": before / 2**20}


async def cancels(running: Running, effort: Effort) -> Values:
    """Clients that leave, window by window: until the upstream's side is closed too."""
    values: Values = {}
    for window in drops.WINDOWS:
        closes = await drops.close_times(running.address, running.place.upstream, window, effort.drops)
        values |= _closes(window.name, closes)
    if running.process:
        closes = await drops.close_times_connecting(
            running.nowhere, running.place.nowhere, running.pid, effort.connecting_drops
        )
        values |= _closes(drops.CONNECTING, closes)
    return values


def _closes(window: str, closes: drops.Closes) -> Values:
    name = "cancel_" + window.replace(" ", "_").replace("-", "_")
    return _times(name, figures.distribution(closes.all_ms)) | {f"{name}_unseen": closes.unseen}


ALL: dict[str, Callable[[Running, Effort], Coroutine[object, object, Values]]] = {
    "requests": requests,
    "tokens": tokens,
    "ttft": first_tokens,
    "memory": memory,
    "cancel": cancels,
}
