"""A request that is only asked about: what a client would put on the wire, and the address it would come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

_URL: Final = re.compile(r"https?://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_NAME: Final = re.compile(r"[^\s:]+")
_SHOWN_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``body`` None leaves open what it asks of a model."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Host among them."""
    client: str = "127.0.0.1"
    body: bytes | None = field(default=None, repr=False)

    def wire(self) -> bytes:
        """Its head in bytes."""
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def asked_for(
    method: str, url: str, headers: Sequence[tuple[str, str]], *, host: str, client: str = "127.0.0.1", body: bytes | None = None
) -> Asked:
    """The request that a client makes of a URL: the target as it stands, not tidied, since that is what a hostile one would send.

    ``host`` is asked for where neither the URL nor a header names one. A body brings its Content-Length. Raises ValueError with
    what is to be written instead.
    """
    if any(mark in method + url for mark in "\r\n"):
        raise ValueError("a method and a URL are one line each")
    own, target = _parted(url)
    fields = tuple(headers)
    for name, value in fields:
        if _NAME.fullmatch(name) is None or "\r" in value or "\n" in value:
            raise ValueError(f"{_short(name)!r} is no header; write a name without blanks or colons, and a value of one line")
    if not any(name.lower() == "host" for name, _ in fields):
        fields = (("Host", own or host), *fields)
    return Asked(method, target, fields if body is None else _framed(fields, len(body)), _address(client), body)


def _parted(url: str) -> tuple[str | None, str]:
    """(host or None, target)."""
    match = _URL.fullmatch(url)
    if match is not None:
        target = match[2] or "/"
        return match[1].rpartition("@")[2], target if target.startswith("/") else f"/{target}"
    if url.startswith("/"):
        return None, url.partition("#")[0]
    if url != "*":
        raise ValueError(f"{_short(url)!r} is no URL; write a path such as /v1/models, or http://HOST/PATH")
    return None, url


def _framed(fields: tuple[tuple[str, str], ...], size_bytes: int) -> tuple[tuple[str, str], ...]:
    lengths = [value.strip() for name, value in fields if name.lower() == "content-length"]
    if any(length != str(size_bytes) for length in lengths):
        raise ValueError(f"Content-Length is not that of the body, {size_bytes}; leave the header out")
    if lengths or any(name.lower() == "transfer-encoding" for name, _ in fields):
        return fields
    return (*fields, ("Content-Length", str(size_bytes)))


def _address(client: str) -> str:
    try:
        ip_address(client)
    except ValueError:
        raise ValueError(f"{_short(client)!r} is no address of a client; write one such as 192.0.2.1 or 2001:db8::1") from None
    return client


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"
