"""Starting a proxy on a core of its own, watching it from outside, and stopping it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtests import processes
from loadtests.asking import HOST, Address
from loadtests.peer import Peer, Place

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 5.0


class StartFailedError(Exception):
    """A peer did not come up; the text holds its last words."""


@dataclass(slots=True)
class Running:
    """A started peer."""

    peer: Peer
    place: Place
    process: subprocess.Popen[bytes] | None

    @property
    def address(self) -> Address:
        """Where clients stream completions."""
        return self.peer.address(self.place)

    @property
    def nowhere(self) -> Address:
        """Where clients reach what cannot be connected to."""
        return self.peer.nowhere(self.place)

    @property
    def pid(self) -> int:
        """Its first process. Raises LookupError for `direct`, which has none."""
        if self.process is None:
            msg = "there is no process between client and upstream"
            raise LookupError(msg)
        return self.process.pid

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        return processes.cpu_s(self.pid)

    def memory_bytes(self) -> int:
        """Memory of all its processes."""
        return processes.memory_bytes(self.pid)


@contextlib.contextmanager
def started(peer: Peer, place: Place, core: int) -> Iterator[Running]:
    """Start a peer pinned to a core; back once it answers; stopped on leaving. Raises StartFailedError."""
    command = peer.command(place)
    if not command:
        yield Running(peer, place, None)
        return
    log = place.folder / f"{peer.name}.log"
    with processes.pinned(core), log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | peer.environment(),
            start_new_session=True,
        )
    try:
        _await_ready(peer, place, process, log)
        yield Running(peer, place, process)
    finally:
        _stop(process)


def _await_ready(peer: Peer, place: Place, process: subprocess.Popen[bytes], log: Path) -> None:
    patience = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < patience:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{place.port}{peer.ready_path}", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    words = " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:])
    ended = f"ended with {process.returncode}" if process.poll() is not None else f"not ready within {READY_WITHIN_S:.0f} s"
    msg = f"{peer.name} {ended}: {words or 'it said nothing'}"
    raise StartFailedError(msg)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind; the group is its own session
    process.wait()


@contextlib.contextmanager
def upstream(core: int) -> Iterator[int]:
    """Start the fake model server on a core; its port."""
    with processes.pinned(core):
        process = subprocess.Popen([sys.executable, "-m", "loadtests.upstream"], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        _stop(process)
