"""A checked configuration and what was made of it, in one immutable piece: the snapshot that an exchange pins."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from streamgate.config.load import Loaded
from streamgate.config.problem import Problem
from streamgate.config.spec import Spec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """One configuration in force. Never changed, only replaced; what outlives it is kept elsewhere."""

    number: int
    """1 for the first of a process, one more for each that replaced it."""
    plans: T
    """What the gateway serves by, built from `spec`."""
    spec: Spec
    hash: str
    """SHA-256 in hex of the document, references unresolved."""
    source: str
    environment: str | None
    loaded_at: float
    """Wall-clock seconds since 1970."""
    files: tuple[Path, ...]
    """Every file it was read from."""
    warnings: tuple[Problem, ...]


def compile_snapshot(loaded: Loaded, *, build: Callable[[Spec], T], now_wall: float, number: int) -> Snapshot[T]:
    """The snapshot of a configuration. `build` makes the plans; what it raises is passed on."""
    return Snapshot(
        number=number,
        plans=build(loaded.spec),
        spec=loaded.spec,
        hash=loaded.hash,
        source=loaded.source,
        environment=loaded.environment,
        loaded_at=now_wall,
        files=loaded.files,
        warnings=loaded.warnings,
    )
