"""HTTP/1.1 as bytes, read without any HTTP library: a test of a proxy must see what it really sent.

The reader is stricter than a server needs to be. A gateway that sends two framings, a bare LF or a broken chunk has
failed, whatever a lenient server would have made of it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace

Headers = tuple[tuple[str, str], ...]

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^\s]+) (HTTP/1\.[01])")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;[^\r\n]*)?")


class MalformedError(Exception):
    """What arrived is not a well-framed HTTP/1.1 request; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it arrived. Names keep their case, fields their order and repeats; text is latin-1."""

    method: str
    target: str
    version: str
    headers: Headers
    connection: int
    """Which connection of the upstream it came on, from 0."""
    body: bytes = b""
    """All of it once it has been read; empty before."""
    trailers: Headers = ()

    def header(self, name: str) -> str | None:
        """The value of a field that may come once; more than one is an AssertionError."""
        found = self.header_lines(name)
        assert len(found) <= 1, f"{name} came {len(found)} times: {found}"
        return found[0] if found else None

    def header_lines(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def with_body(self, body: bytes, trailers: Headers) -> "Request":
        """The same request, read to its end."""
        return replace(self, body=body, trailers=trailers)


async def read_head(reader: asyncio.StreamReader, connection: int) -> Request | None:
    """The next head; None when the peer has closed between two requests. Raises MalformedError."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise MalformedError(f"closed in the middle of a head: {error.partial[:200]!r}") from None
        return None
    first, *fields = raw[:-4].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise MalformedError(f"not a request line: {first[:200]!r}")
    method, target, version = (part.decode("latin-1") for part in line.groups())
    return Request(method=method, target=target, version=version, headers=_fields(fields), connection=connection)


async def body_pieces(reader: asyncio.StreamReader, request: Request, trailers: list[tuple[str, str]]) -> AsyncIterator[bytes]:
    """The body piece by piece: a chunk each, or what has arrived of a counted body. Fills `trailers` at its end.

    Raises MalformedError, also when the peer closes before the body's end.
    """
    lengths, codings = request.header_lines("content-length"), request.header_lines("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise MalformedError(f"more than one framing: content-length {lengths}, transfer-encoding {codings}")
    try:
        if codings:
            if codings[0].lower() != "chunked":
                raise MalformedError(f"transfer-encoding {codings[0]!r}")
            async for piece in _chunks(reader, trailers):
                yield piece
        elif lengths:
            if not lengths[0].isdecimal():
                raise MalformedError(f"content-length {lengths[0]!r}")
            missing = int(lengths[0])
            while missing:
                piece = await reader.read(min(missing, 65536))
                if not piece:
                    raise MalformedError(f"closed {missing} bytes before the body's end")
                missing -= len(piece)
                yield piece
    except asyncio.IncompleteReadError as error:
        raise MalformedError(f"closed in the middle of a body, after {error.partial[-80:]!r}") from None


async def _chunks(reader: asyncio.StreamReader, trailers: list[tuple[str, str]]) -> AsyncIterator[bytes]:
    while True:
        line = await _line(reader)
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise MalformedError(f"not a chunk size: {line[:80]!r}")
        length = int(size[1], 16)
        if not length:
            break
        yield await reader.readexactly(length)
        if (end := await reader.readexactly(2)) != b"\r\n":
            raise MalformedError(f"a chunk of {length} bytes ends in {end!r}")
    fields = []
    while line := await _line(reader):
        fields.append(line)
    trailers += _fields(fields)


async def _line(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n"))[:-2]


def _fields(lines: Iterable[bytes]) -> Headers:
    found = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise MalformedError(f"not a header field: {line[:200]!r}")
        found.append((field[1].decode("latin-1"), field[2].decode("latin-1")))
    return tuple(found)


def answer(body: bytes = b"", status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A whole response with a content-length."""
    return head(status, [("content-length", str(len(body))), *headers]) + body


def chunked(*pieces: bytes, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A whole chunked response, a chunk for each piece."""
    start = head(status, [("transfer-encoding", "chunked"), *headers])
    return start + b"".join(chunk(piece) for piece in pieces) + LAST_CHUNK


def head(status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A response head, with these fields and no others."""
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(piece: bytes) -> bytes:
    """One chunk. An empty one would end the body: that is LAST_CHUNK, and a ValueError here."""
    if not piece:
        raise ValueError("an empty chunk ends the body: send LAST_CHUNK")
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK = b"0\r\n\r\n"
