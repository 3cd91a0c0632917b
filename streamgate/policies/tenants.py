"""Whose a request is: a tenant out of the sources that the configuration names, the first present one deciding.

A client can write any header, so a header counts only where a trusted proxy sent it, and a claim only once a provider of
identities has verified it. A host is what the client asked for by name, and leads nowhere else than to that tenant's share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

_TENANT: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC: Final = re.compile(r"[0-9.:\[\]]+")
_LABELS_LEAST: Final = 2


class Asking(Protocol):
    """What is read of a request."""

    host: bytes
    headers: list[tuple[bytes, bytes]]


Read = Callable[[Asking, Mapping[str, str], bool], str | None]


class Tenants:
    """Compiled sources; ``of`` answers per request."""

    __slots__ = ("_sources",)

    def __init__(self, sources: Sequence[str]) -> None:
        """`sources` as the configuration writes them: claim:NAME, host, header:NAME."""
        self._sources = [_source(written) for written in sources]

    def of(self, asking: Asking, claims: Mapping[str, str], *, trusted: bool) -> str | None:
        """The tenant, 1 to 63 of `a-z 0-9 -`; None where no source tells a well-formed one.

        `claims` are verified ones; `trusted` says that the request came from a trusted proxy.
        """
        for read in self._sources:
            found = read(asking, claims, trusted)
            if found is not None and _TENANT.fullmatch(found := found.strip().lower()):
                return found
        return None


def _source(written: str) -> Read:
    kind, _, name = written.partition(":")
    match kind:
        case "host":
            return lambda asking, _claims, _trusted: _of_host(asking.host.decode("latin-1"))
        case "header":
            wanted = name.lower().encode("latin-1")
            return lambda asking, _claims, trusted: _of_header(asking, wanted) if trusted else None
        case _:
            return lambda _asking, claims, _trusted: claims.get(name)


def _of_host(host: str) -> str | None:
    """The first label of a name below another one: `acme` of `acme.example.com`."""
    name = host if host.startswith("[") else host.partition(":")[0]
    labels = name.rstrip(".").split(".")
    return None if len(labels) < _LABELS_LEAST or _NUMERIC.fullmatch(name) else labels[0]


def _of_header(asking: Asking, wanted: bytes) -> str | None:
    found = [value for name, value in asking.headers if name.lower() == wanted]
    return found[0].decode("latin-1") if len(found) == 1 else None
