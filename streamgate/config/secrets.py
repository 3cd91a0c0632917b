"""References to what must not stand in a file: `${env:NAME}` and `${file:/path}`, resolved in any text of the document.

`$${` stands for `${` itself. Every other `${` is a mistake, and told: a reference misspelt would otherwise be sent to
an upstream as if it were the secret. What a reference resolves to appears in no finding.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamgate.config.problem import Finding, Loc

SECRET_MAX_BYTES: Final = 64 * 1024
"""A secret that travels in a header is smaller; a whole certificate chain is too."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LATER = frozenset({"vault", "aws-sm"})
_HOW = "write ${env:NAME} or ${file:/path}"


class UnresolvedError(Exception):
    """A reference that leads nowhere; `str()` says why and what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A document with its references resolved, as far as they could be."""

    data: Any
    """The document; a text with a reference that leads nowhere is left as it was written."""
    findings: tuple[Finding, ...]
    files: tuple[Path, ...]
    """Files that were named, whether or not they could be read."""


def resolve(document: object, *, environ: Mapping[str, str], folder: Path) -> Resolved:
    """Resolve every reference in a document of maps, lists and scalars; a relative file is taken from `folder`."""
    source = _Source(environ, folder)
    data = source.resolve(document, ())
    return Resolved(data, tuple(source.findings), tuple(source.files))


def has_reference(text: object) -> bool:
    """Whether a value as written holds a reference, so that what it stands for must not be shown."""
    return isinstance(text, str) and any(found[0] != "$${" for found in _REFERENCE.finditer(text))


class _Source:
    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.findings: list[Finding] = []
        self.files: dict[Path, None] = {}
        self._environ = environ
        self._folder = folder
        self._schemes: dict[str, Callable[[str], str]] = {"env": self._from_environment, "file": self._from_file}

    def resolve(self, value: object, loc: Loc) -> object:
        if isinstance(value, dict):
            return {key: self.resolve(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, (*loc, position)) for position, item in enumerate(value)]
        return self._text(value, loc) if isinstance(value, str) else value

    def _text(self, text: str, loc: Loc) -> str:
        before = len(self.findings)

        def replaced(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            try:
                return self._resolved(found[1])
            except UnresolvedError as error:
                self.findings.append(Finding(loc, str(error)))
                return found[0]

        resolved = _REFERENCE.sub(replaced, text)
        return resolved if len(self.findings) == before else text

    def _resolved(self, inner: str | None) -> str:
        if inner is None:
            raise UnresolvedError(f"a reference is not closed; {_HOW}, or $${{ for ${{ itself")
        scheme, colon, name = inner.partition(":")
        if colon and scheme in _LATER:
            raise UnresolvedError(f"${{{scheme}:…}} is not available in this version; {_HOW}")
        if not name or scheme not in self._schemes:
            raise UnresolvedError(f"a reference that means nothing; {_HOW}, or $${{ for ${{ itself")
        return self._schemes[scheme](name)

    def _from_environment(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise UnresolvedError("the name of an environment variable holds letters, digits and _ only")
        value = self._environ.get(name)
        if value is None:
            raise UnresolvedError(f"the environment variable {name} is not set; set it, or remove the reference")
        return value

    def _from_file(self, name: str) -> str:
        path = self._folder / name
        self.files[path] = None
        try:
            with path.open("rb") as stream:
                raw = stream.read(SECRET_MAX_BYTES + 1)
        except FileNotFoundError:
            raise UnresolvedError(f"there is no file {name}; create it, or correct the path") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not a file name"
            raise UnresolvedError(f"the file {name} cannot be read: {why}") from None
        if len(raw) > SECRET_MAX_BYTES:
            raise UnresolvedError(f"the file {name} is larger than 64 KiB; a secret is smaller")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise UnresolvedError(f"the file {name} is not UTF-8 text") from None
        return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
