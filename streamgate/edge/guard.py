"""Strict framing and header checks before anything else sees a request.

httptools (llhttp, strict) reads the head; what it leaves open is refused here: a missing or second Host, lengths that are
not plain digits, transfer codings other than ``chunked``, line ends that are not CRLF. Nothing is repaired: two parsers
that repair differently are how requests are smuggled (RFC 9112 §11.2). ``tests/edge/test_guard.py`` holds the verdicts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httptools

from streamgate.errors import NotFramed, TooLarge
from streamgate.headers import Names, connection_tokens

_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::[0-9]{0,5})?")
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")  # no sign, no leading zero (some read 010 as octal), below 2^63
_OTHER_VERSION: Final = re.compile(rb"HTTP/(?!1\.[01])[0-9]\.[0-9]\r\n")
_NOT_FORWARDED: Final = frozenset({b"CONNECT", b"TRACE"})
"""CONNECT asks for a tunnel; TRACE would show a client what the gateway adds, credentials among it (RFC 9110 §9.3.8)."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})
_NAMED: Final = frozenset({b"via", b"traceparent", b"tracestate", b"x-request-id", b"x-forwarded-for"})
_HOSTS: Final = 2_048
_UNREMARKABLE: Final[dict[bytes, list[bytes]]] = {}


_remarkable: Final = Names(*_FRAMING, *_NAMED)
_CONNECTIONS: Final = {b"keep-alive": {b"keep-alive"}, b"Keep-Alive": {b"keep-alive"}, b"close": {b"close"}}
_hosts: Final[set[bytes]] = set()
"""Host fields that were found good; a gateway has few."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on what a client may send before it is known: bytes of the head and of its target, number of fields."""

    head_bytes: int = 16_384
    target_bytes: int = 8_192
    fields: int = 100


class Head:
    """A request head that two parsers cannot read differently.

    ``length`` is the body's: 0 for none, None for chunked. ``host`` is the Host field, empty where HTTP/1.0 sent none. ``named``
    holds the values of the fields that the gateway reads itself, by lower-case name.
    """

    __slots__ = ("_framing", "expects", "headers", "host", "http10", "keep_alive", "length", "method", "named", "target")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.http10 = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.host = b""
        self.length: int | None = 0
        self.keep_alive = True
        self.expects = False
        self.named = _UNREMARKABLE
        self._framing: list[tuple[bytes, bytes]] = []

    # httptools calls these while it reads
    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))
        kind = _remarkable[name]
        if kind:
            if kind in _FRAMING:
                self._framing.append((kind, value.strip(b" \t")))  # llhttp leaves what stands behind a value
            elif self.named is _UNREMARKABLE:
                self.named = {kind: [value.strip(b" \t")]}
            else:
                self.named.setdefault(kind, []).append(value.strip(b" \t"))


def _no_version(found: bytes) -> NotFramed:
    if _OTHER_VERSION.fullmatch(found):
        return NotFramed("Only HTTP/1.0 and HTTP/1.1 are spoken here", status=505)
    return NotFramed("The request line is not of HTTP/1.1")


def _unparsed(head: bytes, error: Exception) -> NotFramed:
    method, _, rest = head.partition(b" ")
    if isinstance(error, httptools.HttpParserInvalidMethodError) and _TOKEN.fullmatch(method):
        return NotFramed("This method is not known to the gateway", status=501)
    line = rest.partition(b"\r\n")[0]
    if not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return _no_version(line.rpartition(b" ")[2] + b"\r\n")
    return NotFramed("The request head is malformed: " + str(error).lower())


def read_head(data: bytes, limits: HeadLimits) -> Head:
    """Read one complete head, ``data`` ending in the empty line.

    Raises NotFramed (400, 501, 505) and TooLarge (431). A target over its limit is found before, by ``unfinished``.
    """
    head = Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade is an offer (RFC 9110 §7.8); who serves it decides
    except httptools.HttpParserError as error:
        raise _unparsed(data, error) from None
    head.method = method = parser.get_method()
    line = len(method) + len(head.target) + 2  # one space each, then the version and nothing else
    version = data[line : line + 10]
    if version != b"HTTP/1.1\r\n":
        if version != b"HTTP/1.0\r\n":
            raise _no_version(version)
        head.http10 = True
        head.keep_alive = False
    if method in _NOT_FORWARDED:
        raise NotFramed("This method is not served by the gateway", status=501)
    if len(head.target) > limits.target_bytes:
        raise TooLarge("The request target is longer than this gateway takes", status=414)
    if len(head.headers) > limits.fields:
        raise TooLarge("The request has more header fields than this gateway takes", status=431)
    _check_fields(head)
    return head


def _check_fields(head: Head) -> None:
    hosts = lengths = codings = 0
    named: set[bytes] | None = None
    for lower, value in head._framing:  # noqa: SLF001  # the second half of reading it
        if lower == b"host":
            hosts += 1
            head.host = value
        elif lower == b"content-length":
            lengths += 1
            if not _LENGTH.fullmatch(value):
                raise NotFramed("Content-Length is not a plain number")
            head.length = int(value)
        elif lower == b"transfer-encoding":
            codings += 1
            if value.lower() != b"chunked":
                raise NotFramed("The only transfer coding taken here is chunked")
        elif lower == b"connection":
            tokens = _CONNECTIONS.get(value) or connection_tokens((value,))
            named = tokens if named is None else named | tokens
        elif lower == b"expect":
            if value.lower() != b"100-continue":
                raise NotFramed("The only expectation known is 100-continue", status=417)
            head.expects = not head.http10  # RFC 9110 §10.1.1: ignored from HTTP/1.0
    if named:
        head.keep_alive = b"close" not in named and (not head.http10 or b"keep-alive" in named)
    _check_framing(head, hosts, lengths, codings)


def _check_framing(head: Head, hosts: int, lengths: int, codings: int) -> None:
    if hosts != 1 and (hosts or not head.http10):
        raise NotFramed("A request has exactly one Host field")
    if head.host not in _hosts and not _good_host(head.host):
        raise NotFramed("The Host field is no host and port")
    if lengths + codings > 1:
        raise NotFramed("A request says its length once: one Content-Length or one Transfer-Encoding")
    if codings:
        if head.http10:
            raise NotFramed("HTTP/1.0 knows no transfer coding")
        head.length = None


def _good_host(host: bytes) -> bool:
    if not _HOST.fullmatch(host):
        return False
    if len(_hosts) >= _HOSTS:
        _hosts.clear()
    _hosts.add(host)
    return True


_BARE: Final = re.compile(rb"[^\r]\n|\r[^\n]|\x00|^\n")


def unfinished(data: bytes | bytearray, limits: HeadLimits, looked: int = 0) -> None:
    """Look at a head that has not ended yet: raise as soon as it cannot become a good one, so that nobody waits for it.

    ``looked`` bytes have been seen before: a head that comes byte by byte is not read over and over again.
    """
    if _BARE.search(data, max(0, looked - 1)):
        raise NotFramed("Lines of a request head end in CRLF")
    line_end = data.find(b"\r\n")
    if (line_end if line_end >= 0 else len(data)) > limits.target_bytes + 64:
        raise TooLarge("The request target is longer than this gateway takes", status=414)
    if len(data) > limits.head_bytes:
        raise TooLarge("The request head is longer than this gateway takes", status=431)
