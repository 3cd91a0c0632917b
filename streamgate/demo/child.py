"""A program started beside this one: waited for until it answers, heard when it fails, stopped for certain."""

import http.client
import json
import subprocess
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

POLL_S: Final = 0.02
ASK_S: Final = 2.0
"""How long one readiness question may take."""


class ChildError(Exception):
    """The program ended or did not become ready; the text holds its last words."""


class Child:
    """One running program; a context manager, and leaving it stops the program.

    What it prints goes to ``NAME.out`` and ``NAME.err`` in `folder`, never into a pipe that nobody empties. It gets
    a process group of its own, so that a Ctrl-C meant for this program does not reach it first: who comes down
    before whom is decided here.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(  # noqa: S603 (the arguments are this package's own commands)
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        return self._process.pid

    def has_ended(self) -> bool:
        """True once it is no longer running, by itself or stopped."""
        return self._process.poll() is not None

    def port(self, deadline_s: float = 30.0) -> int:
        """The port it says it listens on: a line ``{"port": N}``, the first it prints. Raises ChildError."""
        end = time.monotonic() + deadline_s
        while not (line := self._out.read_bytes().partition(b"\n"))[1]:
            self._pause(end, "said on which port it listens", deadline_s)
        try:
            return int(json.loads(line[0])["port"])
        except (ValueError, KeyError, TypeError):
            raise ChildError(f'the {self.name} printed {line[0][:80]!r} where {{"port": N}} was due') from None

    def wait_ready(self, url: str, deadline_s: float = 30.0) -> None:
        """Return once a GET of `url` is answered 200. Raises ChildError."""
        end = time.monotonic() + deadline_s
        while not _answers(url):
            self._pause(end, f"answered 200 on {url}", deadline_s)

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, and after `grace_s` SIGKILL; harmless when it has ended already."""
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when a second Ctrl-C interrupts the waiting
            if not self.has_ended():
                self._process.kill()
                self._process.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of what it printed, errors last."""
        said = [file.read_text(errors="replace").splitlines()[-lines:] for file in (self._out, self._err)]
        return "\n".join(f"  {self.name}: {line}" for part in said for line in part)

    def _pause(self, end: float, unmet: str, deadline_s: float) -> None:
        if self.has_ended():
            code = self._process.returncode
            raise ChildError(f"the {self.name} ended with code {code} before it {unmet}\n{self.last_words()}")
        if time.monotonic() >= end:
            raise ChildError(f"the {self.name} has not {unmet} within {deadline_s:g} s\n{self.last_words()}")
        time.sleep(POLL_S)


def _answers(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    # Not urllib's opener: that would ask a proxy named in the environment for an address on this machine.
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=ASK_S)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
