"""Processes seen from outside, through /proc: pinned to cores, their processor time, memory, descriptors and sockets."""

import os
import resource
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
TCP_STATES = {"01": "established", "02": "syn_sent", "06": "time_wait", "08": "close_wait", "0A": "listen"}


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs what. The proxy has one of its own; on two cores, all others share the second."""

    proxy: int
    upstream: int
    client: int

    @property
    def shared(self) -> bool:
        """True when origin and load generator compete with each other for a core."""
        return self.upstream == self.client


def choose_cores(available: Iterable[int]) -> Cores:
    """The first core for the proxy, the next for the upstream, the last for the client. Raises ValueError below two."""
    cores = sorted(available)
    if len(cores) < 2:
        msg = "one core only: the proxy needs one of its own, so run this on a machine with two or more"
        raise ValueError(msg)
    return Cores(proxy=cores[0], upstream=cores[1], client=cores[-1])


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Whatever this thread spawns inside the block runs on one core; a child inherits its parent's affinity."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_many_files() -> int:
    """Raise this process's (and its children's) soft limit of open files to the hard one; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/<pid>/stat that are used here (proc_pid_stat(5))."""

    parent: int
    cpu_s: float
    """User and system time of all its threads, and of the children it has waited for."""


def parse_stat(text: str) -> Stat:
    """One line of /proc/<pid>/stat. The name in parentheses may itself hold blanks and parentheses."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(parent=int(fields[1]), cpu_s=sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S)


def _stats() -> dict[int, Stat]:
    found: dict[int, Stat] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except OSError:  # it ended while we were looking
                continue
    return found


def tree(root: int) -> list[int]:
    """A process and all its living descendants, the root first."""
    stats = _stats()
    pids = [root] if root in stats else []
    for pid in pids:  # grows while we walk it
        pids.extend(child for child, stat in stats.items() if stat.parent == pid)
    return pids


def cpu_s(root: int) -> float:
    """Seconds of processor time a process and its descendants, also those it has buried, have used so far."""
    stats = _stats()
    return sum(stats[pid].cpu_s for pid in tree(root) if pid in stats)


def parse_rollup(text: str) -> dict[str, int]:
    """/proc/<pid>/smaps_rollup as {field: bytes}."""
    rows = (line.split() for line in text.splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3}


def memory_bytes(root: int) -> int:
    """Memory of a process and its descendants: the proportional share (PSS), so that pages they share count once."""
    total = 0
    for pid in tree(root):
        try:
            total += parse_rollup((PROC / str(pid) / "smaps_rollup").read_text()).get("Pss", 0)
        except OSError:
            continue
    return total


def descriptors(root: int) -> dict[str, str]:
    """Open descriptors of a process and its descendants: {"pid/number": what it points to}."""
    found: dict[str, str] = {}
    for pid in tree(root):
        try:
            for entry in (PROC / str(pid) / "fd").iterdir():
                found[f"{pid}/{entry.name}"] = str(entry.readlink())
        except OSError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class Socket:
    """One row of /proc/net/tcp."""

    local_port: int
    remote_port: int
    state: str
    inode: str


def parse_sockets(text: str) -> list[Socket]:
    """/proc/net/tcp, header line included."""
    rows = (line.split() for line in text.splitlines()[1:])
    return [
        Socket(int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16), TCP_STATES.get(row[3], row[3]), row[9])
        for row in rows
    ]


def sockets() -> list[Socket]:
    """Every IPv4 TCP socket of this network namespace."""
    return parse_sockets((PROC / "net/tcp").read_text())


def connecting_to(port: int) -> set[str]:
    """Inodes of sockets that have asked for a connection to `port` and had no answer yet."""
    return {row.inode for row in sockets() if row.remote_port == port and row.state == "syn_sent"}


def descriptor_of(root: int, inode: str) -> Path | None:
    """The entry under /proc/<pid>/fd through which a process or a descendant holds a socket."""
    for place, target in descriptors(root).items():
        if target == f"socket:[{inode}]":
            pid, _, number = place.partition("/")
            return PROC / pid / "fd" / number
    return None


def holds(descriptor: Path, inode: str) -> bool:
    """Whether that descriptor is still that socket. Cheap, unlike /proc/net/tcp, which takes milliseconds to read."""
    try:
        return str(descriptor.readlink()) == f"socket:[{inode}]"
    except OSError:
        return False


def sockets_of(root: int, named: dict[int, str]) -> Counter[str]:
    """How many TCP sockets a process tree holds, by the name `named` gives to the port at either end, and by state."""
    inodes = {target.removeprefix("socket:[").rstrip("]") for target in descriptors(root).values()}
    return Counter(
        f"{named.get(row.local_port) or named.get(row.remote_port) or 'other'} {row.state}"
        for row in sockets()
        if row.inode in inodes
    )
