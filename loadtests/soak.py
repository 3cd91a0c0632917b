"""Many streams for a long time, some always leaving: memory must stay flat, no request may fail, no stream be cut.

    python -m loadtests.soak [--streams 2000] [--minutes 10] [--rate 5]
    python -m loadtests.soak --streams 300 --minutes 1 --reload-every 0.2

With `--reload-every` the configuration file is replaced that often (each edition differs in one answer) while streams and
short requests go on. Exit code 1 when a request failed, a stream was cut, memory rose, or no reload was taken up.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from loadtests import drops, figures, peers, processes, running, wrk
from loadtests.asking import HOST, fetch
from loadtests.leaks import Check, gauge
from loadtests.peer import Place
from loadtests.running import Running
from loadtests.swarm import Load, Swarm, Tally

WARM_UP_S = 30.0
"""The same load before anything is judged, while memory finds its level; a short soak has half its own time."""
RISE_SHARE = 0.02
RISE_BYTES = 2 * 2**20
"""Rise of memory that counts as flat: the larger of a fiftieth of what it was and two MiB, over the whole soak."""
STREAM_S = 10.0
DROPPED_SHARE = 0.2
SHORT_CLIENTS = 8
TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asked for."""

    streams: int
    seconds: float
    rate_per_s: float
    reload_every_s: float | None


def flat(judged: Sequence[tuple[float, float]]) -> Check:
    """Is memory flat? Points are (seconds, bytes), all from after the warm-up."""
    if len(judged) < 3:
        return Check("memory", "too few samples to judge: run longer", fine=True)
    rise_per_s = figures.slope(judged)
    rise = rise_per_s * (judged[-1][0] - judged[0][0])
    allowed = max(RISE_BYTES, RISE_SHARE * judged[0][1])
    text = f"{judged[0][1] / 2**20:.1f} MiB, then {rise_per_s * 60 / 1024:+.0f} KiB/min ({rise / 1024:+.0f} KiB, allowed {allowed / 1024:.0f})"
    return Check("memory", text, rise <= allowed)


class Reloads:
    """Replaces the configuration file again and again."""

    def __init__(self, running: Running, gate: peers.Streamgate) -> None:
        self._running = running
        self._gate = gate
        self.written = 0

    def write(self) -> None:
        """The next edition, put in place in one step as editors and deployments do."""
        self.written += 1
        path = self._running.place.folder / "streamgate.yaml"
        new = path.with_suffix(".new")
        new.write_text(self._gate.document(self._running.place, edition=self.written))
        new.replace(path)

    async def keep_on(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            self.write()
            await asyncio.sleep(every_s)


async def _metric(running: Running, name: str, **labels: str) -> float:
    text = (await fetch(HOST, running.place.admin, "/-/metrics")).decode()
    return gauge(text, name, **labels) or 0.0


@contextlib.asynccontextmanager
async def _reloading(running: Running, gate: peers.Streamgate, every_s: float | None) -> AsyncIterator[Reloads]:
    reloads = Reloads(running, gate)
    if not every_s:
        yield reloads
        return
    task = asyncio.get_running_loop().create_task(reloads.keep_on(every_s))
    try:
        yield reloads
    finally:
        task.cancel()


def served(name: str, tally: Tally) -> list[Check]:
    """What clients must not notice."""
    reasons = "; ".join(f"{often} × {reason}" for reason, often in tally.reasons.items())
    return [
        Check(f"{name}: failed", f"{tally.failed} of {tally.opened} {reasons}", tally.failed == 0),
        Check(f"{name}: cut", str(tally.cut), tally.cut == 0),
    ]


async def run(running: Running, gate: peers.Streamgate, wish: Wish) -> list[Check]:
    """The whole soak; what was checked."""
    load = Load(max(2, round(STREAM_S * wish.rate_per_s)), wish.rate_per_s, repeat=True, drop_share=DROPPED_SHARE)
    short = Load(repeat=True, data=wrk.JSON.data(running.address))
    idle_bytes = running.memory_bytes()
    points: list[tuple[float, float]] = []
    async with (
        Swarm(running.address, load, wish.streams, ramp_s=min(10.0, wish.seconds / 4)) as streams,
        Swarm(running.address, short, SHORT_CLIENTS if wish.reload_every_s else 0) as requests,
        _reloading(running, gate, wish.reload_every_s) as reloads,
    ):
        await asyncio.sleep(min(WARM_UP_S, wish.seconds / 2))
        start, cpu_before_s, tokens_before = time.monotonic(), running.cpu_s(), streams.tally.tokens
        recording = asyncio.get_running_loop().create_task(streams.record(wish.seconds))
        while not recording.done():
            points.append((time.monotonic() - start, running.memory_bytes()))
            _progress(points, streams.tally, wish.seconds)
            await asyncio.wait([recording], timeout=min(TICK_S, wish.seconds / 10))
        used_s = running.cpu_s() - cpu_before_s
        relayed = streams.tally.tokens - tokens_before
        applied = await _metric(running, "streamgate_reloads_total", outcome="applied")
    found = [*served("streams", streams.tally), flat(points)]
    if wish.reload_every_s:
        found += served("short requests", requests.tally)
        found.append(Check("reloads", f"{applied:.0f} applied, {reloads.written} editions written", applied > 0))
    _print(found, streams.tally, used_s / relayed if relayed else 0.0, [(0.0, idle_bytes), *points], wish)
    return found


def _progress(points: Sequence[tuple[float, float]], tally: Tally, seconds: float) -> None:
    if sys.stderr.isatty():
        now_s, held = points[-1]
        text = f"\r{now_s:5.0f}/{seconds:.0f} s  {held / 2**20:6.1f} MiB  {tally.tokens:,} tokens  {tally.failed} failed  {tally.cut} cut "
        print(text, end="\n" if now_s >= seconds else "", file=sys.stderr, flush=True)


def course(points: Sequence[tuple[float, float]], steps: int = 10) -> str:
    """Memory over time in MiB: the first, then about `steps` evenly taken, the last among them."""
    apart = max(1, len(points) // steps)
    taken = [*points[:-1:apart], points[-1]]
    return " ".join(f"{held / 2**20:.1f}" for _, held in taken)


def _print(
    found: Sequence[Check], tally: Tally, cpu_s_per_token: float, points: Sequence[tuple[float, float]], wish: Wish
) -> None:
    print(
        f"{wish.streams} streams × {wish.rate_per_s:g} tokens/s for {wish.seconds:.0f} s: {tally.completed} complete,"
        f" {tally.dropped} left by their client, {tally.tokens:,} tokens, {cpu_s_per_token * 1e6:.1f} µs of CPU each",
    )
    for check in found:
        print(f"  {'ok  ' if check.fine else 'FAIL'}  {check.what:<24} {check.found}")
    print(f"        {'memory over time, MiB':<24} {course(points)}")
    for name, samples in (("gap", tally.gap_ns), ("delay", tally.delay_ns), ("first token", tally.first_token_ns)):
        known = figures.distribution(samples, per_unit=1e6)
        if known:
            print(f"        {name:<24} p50 {known.p50:.1f} ms, p99 {known.p99:.1f} ms, worst {known.worst:.1f} ms")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description="Many streams for a long time.")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=5, help="tokens/s of each stream")
    parser.add_argument("--reload-every", type=float, metavar="SECONDS", help="replace the configuration file this often")
    chosen = parser.parse_args()
    processes.allow_many_files()
    cores = processes.choose_cores(os.sched_getaffinity(0))
    gate = peers.Streamgate()
    wish = Wish(chosen.streams, chosen.minutes * 60, chosen.rate, chosen.reload_every)
    with (
        tempfile.TemporaryDirectory(prefix="loadtests-") as folder,
        running.upstream(cores.upstream) as upstream,
        drops.nowhere() as nowhere,
        running.started(gate, Place(Path(folder), upstream, nowhere), cores.proxy) as started,
    ):
        os.sched_setaffinity(0, {cores.client})
        return 0 if all(check.fine for check in uvloop.run(run(started, gate, wish))) else 1


if __name__ == "__main__":
    sys.exit(main())
