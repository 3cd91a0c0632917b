"""The machine under the numbers, and how quiet it was."""

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from loadtests import installs, processes, wrk


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to judge a figure."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    hypervisor: bool
    load_before: float
    """Runnable processes over the minute before: above a few tenths, somebody else was using the machine."""


def machine() -> Machine:
    """This one, now."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return Machine(
        cpu=parse_cpu(cpuinfo),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        hypervisor=" hypervisor " in cpuinfo,
        load_before=round(os.getloadavg()[0], 2),
    )


def parse_cpu(cpuinfo: str) -> str:
    """The model's name in /proc/cpuinfo; the architecture where it has none."""
    names = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    return next(names, platform.machine())


def stolen_s() -> float:
    """Seconds, over all cores and since boot, in which the hypervisor gave our cores to somebody else."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(ticks[8]) / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Seconds of processor time used by anybody, over all cores and since boot."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


class Company:
    """How much of the machine others use: everything that runs, less this process and all it has started."""

    def __init__(self) -> None:
        self._began_s, self._busy_s, self._ours_s = time.monotonic(), busy_s(), processes.cpu_s(os.getpid())

    def cores(self) -> float:
        """Cores that others have kept busy since then, on average."""
        theirs_s = (busy_s() - self._busy_s) - (processes.cpu_s(os.getpid()) - self._ours_s)
        return max(0.0, theirs_s) / max(time.monotonic() - self._began_s, 0.001)


def tools() -> dict[str, str]:
    """Versions of what measures."""
    return {
        "python": sys.version.split()[0],
        "uvloop": version("uvloop"),
        "httptools": version("httptools"),
        "requests by": wrk.version(),
    }


def commit() -> str:
    """The repository's, with `-dirty` when it has changes; empty outside git."""
    said = installs.said(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"])
    return "" if " " in said else said


def as_document() -> dict[str, object]:
    """The machine as JSON."""
    return asdict(machine())
