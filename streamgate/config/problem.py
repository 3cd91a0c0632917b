"""What is wrong with a configuration, and where: a finding has a place in the document, a problem one in a file."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]
Loc: TypeAlias = tuple[str | int, ...]
"""Where in the document: keys and list positions from the top."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


def path_text(loc: Loc) -> str:
    """`services[0].timeouts.idle`; a key that is no plain word stands in brackets and quotes."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step)}]"
    return text


def overlaps(one: Loc, other: Loc) -> bool:
    """Whether one of the two places lies in the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file: line and column count from 1."""

    file: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a place in the document."""

    loc: Loc
    message: str
    """A sentence that says what is wrong and what to do."""
    suggestion: str | None = None
    """What was probably meant."""
    severity: Severity = "error"
    """An error refuses the configuration, a warning does not."""
    reads: tuple[Loc, ...] = ()
    """Other places it was concluded from: when one of them could not be read, the conclusion means nothing."""
    on_key: bool = False
    """Whether the key is what is wrong, not its value."""
    place: Place | None = None
    """Where it stands, when the document's own record of places would point elsewhere."""

    @property
    def path(self) -> str:
        """The place in the document, as people write it."""
        return path_text(self.loc)

    def at(self, place: Place) -> "Problem":
        """The problem this is, in a file."""
        return Problem(
            path=self.path,
            line=place.line,
            column=place.column,
            file=place.file,
            message=self.message,
            suggestion=self.suggestion,
            severity=self.severity,
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a line of a file. `str()` is one line without secrets."""

    path: str
    """`services[0].timeouts.idle`; empty for the file as a whole."""
    line: int | None
    column: int | None
    file: str
    message: str
    suggestion: str | None = None
    severity: Severity = "error"

    @property
    def where(self) -> str:
        """`streamgate.yaml:12:5`, as editors and terminals can follow it."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    @property
    def what(self) -> str:
        """`services[0].timout: unknown key; did you mean "timeouts"?`."""
        hint = "" if self.suggestion is None else f"; did you mean {json.dumps(self.suggestion, ensure_ascii=False)}?"
        return f"{self.path}: {self.message}{hint}" if self.path else f"{self.message}{hint}"

    def __str__(self) -> str:
        mark = "warning: " if self.severity == "warning" else ""
        return f"{self.where}: {mark}{self.what}"


class ConfigurationError(Exception):
    """A configuration that cannot be used, with everything that is wrong with it; `str()` has one line for each."""

    def __init__(self, problems: Iterable[Problem], files: Iterable[Path] = ()) -> None:
        """`problems` in the order of the files; `files` are those that were looked at, to see when they change."""
        self.problems = tuple(problems)
        self.files = tuple(files)
        super().__init__("\n".join(str(problem) for problem in self.problems))
