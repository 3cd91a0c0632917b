"""What a proxy under comparison offers, and where one start of it happens."""

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from loadtests.asking import COMPLETIONS, HOST, Address


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Place:
    """Where one start of a peer happens: its folder, and the ports of everything."""

    folder: Path
    upstream: int
    nowhere: int
    """A port on which connecting never ends."""
    port: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)

    def file(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_text(text)
        return path


class Peer(ABC):
    """One proxy."""

    name: ClassVar[str]
    note: ClassVar[str]
    """What to know when reading its figures."""
    serves_json: ClassVar[bool] = True
    """Whether it can relay something that is no model call."""
    slow: ClassVar[bool] = False
    """Whether it needs a smaller load to stand up; said beside its figures."""
    ready_path: ClassVar[str] = "/json"

    @abstractmethod
    def version(self) -> str:
        """Its version. Raises CannotInstallError when it cannot be had here."""

    @abstractmethod
    def command(self, place: Place) -> list[str]:
        """Write its configuration into `place.folder`; the command that runs it in the foreground."""

    def environment(self) -> dict[str, str]:
        """Variables it wants, beside ours."""
        return {}

    def address(self, place: Place) -> Address:
        """Where clients stream completions."""
        return Address(HOST, place.port)

    def nowhere(self, place: Place) -> Address:
        """Where clients reach a service whose connections never come about."""
        return Address(HOST, place.port, "/nowhere" + COMPLETIONS)
