"""Streams opened and dropped at random, in every window; then nothing of them may be left.

    python -m loadtests.leaks [--streams 10000] [--at-once 200]

Looks at the gateway from outside (descriptors and sockets in /proc, memory), from its metrics, and from the fake upstream
behind it. Exit code 1 when something is left over.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from loadtests import drops, peers, processes, running
from loadtests.asking import HOST, Address, fetch, request
from loadtests.drops import Visitor
from loadtests.peer import Place
from loadtests.running import Running

IDLE_CONNECTIONS_S = 1
"""Idle upstream connections go after this long, so that none hides a leak."""
SETTLED_WITHIN_S = 20.0
WARM_UP_STREAMS = 200


@dataclass(frozen=True, slots=True)
class Window:
    """One way to be dropped. `cut` is the share of the request that is sent at all."""

    name: str
    wishes: dict[str, object]
    stream: bool = True
    nowhere: bool = False
    cut: float = 1.0


WINDOWS = (
    Window("mid-head", {}, cut=0.4),
    Window("mid-body", {}, cut=0.9),
    Window("connecting", {}, nowhere=True),
    Window("awaiting headers", {"hold": "headers"}),
    Window("awaiting first chunk", {"hold": "body"}),
    Window("mid-stream", {"tokens": 1_000_000, "rate": 100}),
    Window("not streaming", {"hold": "headers"}, stream=False),
    Window("near the end", {"tokens": 3, "rate": 100}),
    Window("complete", {"tokens": 1, "rate": 100}),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be as it was."""

    what: str
    found: str
    fine: bool


def bytes_for(window: Window, address: Address) -> bytes:
    """What a client of this window sends before it leaves."""
    data = request(address, window.wishes, stream=window.stream)
    return data[: round(len(data) * window.cut)]


async def drop_one(running: Running, window: Window, rng: random.Random) -> None:
    """Open one, stay for a random while, leave."""
    address = running.nowhere if window.nowhere else running.address
    visitor: Visitor = await drops.visit(address, bytes_for(window, address))
    if window.name == "complete":
        await visitor.heard.wait()
    await asyncio.sleep(rng.expovariate(1 / 0.03))  # most leave within 60 ms: before, at and after each step of the gateway
    visitor.leave()


async def drop_many(running: Running, streams: int, at_once: int, rng: random.Random) -> Counter[str]:
    """Drop that many, some at a time; how many in which window."""
    done: Counter[str] = Counter()
    left = iter(range(streams))

    async def one_after_the_other() -> None:
        for _ in left:
            window = rng.choice(WINDOWS)
            await drop_one(running, window, rng)
            done[window.name] += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return done


def gauge(text: str, name: str, **labels: str) -> float | None:
    """The sum of a metric's samples that carry these labels, from Prometheus text; None when there is no such metric."""
    samples = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(sample.value for sample in samples) if samples else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What can be left behind, at one moment."""

    descriptors: int
    sockets: dict[str, int]
    in_flight: float | None
    active: float | None
    tasks: float | None
    upstream_phases: dict[str, int]
    upstream_connections: int
    memory_bytes: int


async def look(running: Running) -> Snapshot:
    """Everything at once."""
    place = running.place
    metrics = (await fetch(HOST, place.admin, "/-/metrics")).decode()
    stats = json.loads(await fetch(HOST, place.upstream, "/stats?reset=1"))
    named = {place.port: "client", place.upstream: "upstream", place.nowhere: "nowhere", place.admin: "admin"}
    held = processes.sockets_of(running.pid, named)
    return Snapshot(
        descriptors=len(processes.descriptors(running.pid)),
        sockets={name: count for name, count in held.items() if not name.startswith("admin") and not name.endswith("listen")},
        in_flight=gauge(metrics, "streamgate_in_flight"),
        active=gauge(metrics, "streamgate_upstream_connections", state="active"),
        tasks=gauge(metrics, "streamgate_tasks"),
        upstream_phases=stats["phases"],
        upstream_connections=stats["open_connections"] - 1,  # the one that asks
        memory_bytes=running.memory_bytes(),
    )


def checks(before: Snapshot, after: Snapshot) -> list[Check]:
    """What must hold afterwards."""
    found = [
        Check("descriptors", f"{before.descriptors} → {after.descriptors}", after.descriptors <= before.descriptors),
        Check("TCP sockets", str(after.sockets or "none"), not after.sockets),
        Check("streamgate_in_flight", str(after.in_flight), after.in_flight == 0),
        Check("streamgate_upstream_connections active", str(after.active), after.active in (0, None)),
        Check("exchanges at the upstream", str(after.upstream_phases or "none"), not after.upstream_phases),
        Check("connections at the upstream", str(after.upstream_connections), after.upstream_connections == 0),
    ]
    if before.tasks is not None and after.tasks is not None:
        found.append(Check("streamgate_tasks", f"{before.tasks:g} → {after.tasks:g}", after.tasks == before.tasks))
    return found


async def settled(running: Running, before: Snapshot) -> list[Check]:
    """The checks, once all hold; or as they stand when patience ends."""
    patience = time.monotonic() + SETTLED_WITHIN_S
    while True:
        found = checks(before, await look(running))
        if all(check.fine for check in found) or time.monotonic() > patience:
            return found
        await asyncio.sleep(0.2)


async def run(running: Running, streams: int, at_once: int, seed: int) -> bool:
    """Warm up, look, drop, look again; True when nothing is left."""
    rng = random.Random(seed)
    await drop_many(running, WARM_UP_STREAMS, at_once, rng)
    await asyncio.sleep(2 * IDLE_CONNECTIONS_S)
    before = await look(running)
    began = time.monotonic()
    done = await drop_many(running, streams, at_once, rng)
    lasted_s = time.monotonic() - began
    found = await settled(running, before)
    grown_kib = ((await look(running)).memory_bytes - before.memory_bytes) / 1024
    print(f"{done.total()} streams dropped in {lasted_s:.1f} s (seed {seed}):")
    for name, count in sorted(done.items()):
        print(f"  {count:>6}  {name}")
    for check in found:
        print(f"  {'ok  ' if check.fine else 'LEFT'}  {check.what:<40} {check.found}")
    print(
        f"        memory {before.memory_bytes / 2**20:.1f} MiB, grown by {grown_kib:.0f} KiB: {grown_kib / streams:.2f} KiB a stream"
    )
    return all(check.fine for check in found)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.leaks", description="Drop streams at random; nothing may be left."
    )
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    processes.allow_many_files()
    cores = processes.choose_cores(os.sched_getaffinity(0))
    gate = peers.Streamgate(idle_connections_s=IDLE_CONNECTIONS_S)
    with (
        tempfile.TemporaryDirectory(prefix="loadtests-") as folder,
        running.upstream(cores.upstream) as upstream,
        drops.nowhere() as nowhere,
        running.started(gate, Place(Path(folder), upstream, nowhere), cores.proxy) as started,
    ):
        os.sched_setaffinity(0, {cores.client})
        return 0 if uvloop.run(run(started, chosen.streams, chosen.at_once, chosen.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
