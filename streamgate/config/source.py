"""Where the configuration comes from, and reading it ahead of whoever puts it in force."""

import os
from dataclasses import dataclass
from pathlib import Path

from streamgate.config.load import Loaded, load
from streamgate.config.problem import ConfigurationError


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and the environment whose neighbour is laid over it; secrets come from this process's environment."""

    path: Path
    env: str | None = None

    def read(self) -> Loaded:
        """Read it as it is now. Raises ConfigurationError with every problem."""
        return load(self.path, env=self.env, environ=os.environ)


class Ahead:
    """Reads a source off the loop, for whoever asks next: parsing takes longer than a token may wait.

    `found` is what was read before, and answers the first question.
    """

    def __init__(self, source: Source, found: Loaded) -> None:
        self._source = source
        self._found: Loaded | ConfigurationError | None = found

    def fetch(self) -> Loaded | ConfigurationError:
        """Read now; the next call answers with what was found. Safe in a thread, one at a time."""
        try:
            self._found = self._source.read()
        except ConfigurationError as error:
            self._found = error
        return self._found

    def __call__(self) -> Loaded:
        """What was fetched last, once; read now when that has been asked for already. Raises ConfigurationError."""
        found, self._found = self._found, None
        if isinstance(found, ConfigurationError):
            raise found
        return found or self._source.read()
