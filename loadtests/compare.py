"""streamgate beside its peers, on the same work, in one run.

    python -m loadtests.compare [--quick] [--only requests,tokens,ttft,memory,cancel] [--peers nginx,envoy] [--rounds 3]

Round by round, measure by measure, every peer in turn (in another order each round), each freshly started and alone on its
core. Writes latest.json, table.md and plot.svg into `--out`. Exit code 1 when streamgate missed a budget, 2 on a bad option.
"""

import argparse
import contextlib
import datetime as dt
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from loadtests import drops, installs, machine, measures, peers, plot, processes, report, running
from loadtests.peer import Peer, Place
from loadtests.wrk import BadAnswersError

STANDARD = ("direct", "streamgate", "streamgate_models", "nginx", "envoy", "sanic_aiohttp", "litellm")
FAILURES = (
    running.StartFailedError,
    installs.CannotInstallError,
    measures.BrokenRunError,
    BadAnswersError,
    TimeoutError,
    OSError,
)
"""What keeps a peer from having a figure; anything else is a mistake of ours and ends the run."""


RESULTS = Path(__file__).parent / "results"
"""Where the figures stand that the README shows."""


def say(text: str, *, end: str = "\n") -> None:
    """Progress, to a person."""
    print(text, end=end, file=sys.stderr, flush=True)


def order(names: Sequence[str], round_number: int) -> list[str]:
    """The peers' turn in a round: rotated, so that none always runs after the same other."""
    cut = round_number % len(names)
    return [*names[cut:], *names[:cut]]


class Comparison:
    """One run: its rounds, and what went wrong."""

    def __init__(self, names: Sequence[str], chosen: Sequence[str], effort: measures.Effort, cores: processes.Cores) -> None:
        self._chosen = chosen
        self._effort = effort
        self._cores = cores
        self.rounds: list[dict[str, dict[str, measures.Values]]] = []
        self.failures: list[dict[str, str]] = []
        self.known: dict[str, dict[str, str]] = {}
        self._peers: dict[str, Peer] = {}
        for name in names:
            peer = peers.ALL[name]()
            try:
                self.known[name] = {"version": peer.version(), "note": peer.note}
                self._peers[name] = peer
            except installs.CannotInstallError as reason:
                self.known[name] = {"missing": str(reason), "note": peer.note}
                say(f"  {name} is missing: {reason}")

    def run(self, count: int) -> None:
        """Do all rounds."""
        with running.upstream(self._cores.upstream) as upstream, drops.nowhere() as nowhere:
            for number in range(count):
                self.rounds.append({measure: {} for measure in self._chosen})
                for measure in self._chosen:
                    for name in order(list(self._peers), number):
                        say(f"  round {number + 1}/{count}  {measure:<8}  {name:<14}", end="")
                        say(self._one(measure, self._peers[name], upstream, nowhere))

    def _one(self, measure: str, peer: Peer, upstream: int, nowhere: int) -> str:
        effort = self._effort.for_slow() if peer.slow else self._effort
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="loadtests-") as folder:
            try:
                with running.started(peer, Place(Path(folder), upstream, nowhere), self._cores.proxy) as started:
                    company = machine.Company()
                    values = uvloop.run(measures.ALL[measure](started, effort))
                    values["others_cores"] = company.cores()
            except FAILURES as reason:
                self.failures.append(
                    {"measure": measure, "peer": peer.name, "round": str(len(self.rounds)), "why": str(reason)}
                )
                return f"FAILED: {reason}"
        self.rounds[-1][measure][peer.name] = values
        return f"{time.monotonic() - began:5.1f} s   {report.headline(measure, values)}"


def document(
    comparison: Comparison, effort: measures.Effort, cores: processes.Cores, about: dict[str, object]
) -> dict[str, Any]:
    """Everything a reader of the figures needs, as JSON."""
    return {
        **about,
        "effort": asdict(effort),
        "effort_slow": asdict(effort.for_slow()),
        "cores": asdict(cores) | {"shared": cores.shared},
        "peers": comparison.known,
        "rounds": comparison.rounds,
        "failures": comparison.failures,
    }


def _list_of(allowed: Sequence[str], text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in allowed]
    if unknown or not names:
        msg = f"{', '.join(unknown) or 'nothing'} is not among {', '.join(allowed)}"
        raise argparse.ArgumentTypeError(msg)
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one round of seconds: shows that everything runs, proves nothing")
    parser.add_argument("--only", type=lambda text: _list_of(list(measures.ALL), text), default=list(measures.ALL))
    parser.add_argument("--peers", type=lambda text: _list_of(list(peers.ALL), text), default=list(STANDARD))
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Command line."""
    options = _options()
    effort = measures.QUICK if options.quick else measures.Effort()
    cores = processes.choose_cores(os.sched_getaffinity(0))
    about: dict[str, object] = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "quick": options.quick,
        "machine": machine.as_document(),
        "tools": machine.tools(),
    }
    processes.allow_many_files()
    os.sched_setaffinity(0, {cores.client})
    say(f"proxy on core {cores.proxy}, upstream on {cores.upstream}, clients on {cores.client}")
    comparison = Comparison(options.peers, options.only, effort, cores)
    stolen_s, began = machine.stolen_s(), time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):  # what was measured until then is still worth writing
        comparison.run(options.rounds or (1 if options.quick else 3))
    about["seconds"] = round(time.monotonic() - began)
    about["stolen_s"] = round(machine.stolen_s() - stolen_s, 2)
    result = document(comparison, effort, cores, about)
    report.write(result, options.out)
    plot.write(result, options.out / "plot.svg")
    if not options.quick and options.out == RESULTS:
        report.show_in(RESULTS.parent.parent / "README.md", result, RESULTS)
    say(f"wrote {options.out}/latest.json, table.md and plot.svg")
    print((options.out / "table.md").read_text())
    return 1 if any(verdict.met is False for verdict in report.verdicts(result)) else 0


if __name__ == "__main__":
    sys.exit(main())
