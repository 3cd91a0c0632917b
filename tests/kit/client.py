"""A client that writes the bytes it is told to and reads answers strictly: a gateway that frames one badly has failed.

async with await RawClient.open(gateway.port) as client:
    await client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    answer = await client.answer()
"""

import asyncio
import re
import ssl
from dataclasses import dataclass, field
from typing import Self

from tests.kit.wire import Headers, MalformedError

HOST = "127.0.0.1"
LIMIT_BYTES = 1 << 20

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([^\r\n\0]*)")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")
_ONCE = ("content-length", "transfer-encoding", "connection", "date", "x-request-id", "content-type", "location")


@dataclass(kw_only=True)
class Response:
    """One response head, its body and trailers once they were read; names are lower-case, text is latin-1."""

    status: int
    reason: str
    headers: Headers
    body: bytes = b""
    trailers: Headers = ()
    interim: list["Response"] = field(default_factory=list)
    """The 1xx that came before it."""
    framing: str = "none"
    """How its body ends: none, length, chunked or close."""

    def header(self, name: str) -> str | None:
        """The value of a field that may come once; more than one is an AssertionError."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} came {len(found)} times: {found}"
        return found[0] if found else None

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends after it."""
        return (self.header("connection") or "").lower() == "close"


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(
        cls, port: int, *, tls: ssl.SSLContext | None = None, name: str | None = None, source: str | None = None
    ) -> Self:
        """Connect; ``source`` is the loopback address to come from, ``name`` the one to ask for in TLS."""
        local = (source, 0) if source else None
        return cls(
            *await asyncio.open_connection(
                HOST, port, ssl=tls, server_hostname=name if tls else None, local_addr=local, limit=LIMIT_BYTES
            )
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes, *, piece_bytes: int = 0) -> None:
        """Send bytes as they are, all at once or in pieces that each leave alone. A peer that has closed is no error:
        its answer may still be there to be read."""
        try:
            if not piece_bytes:
                self.writer.write(data)
                await self.writer.drain()
                return
            for start in range(0, len(data), piece_bytes):
                self.writer.write(data[start : start + piece_bytes])
                await self.writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass

    async def ask(self, data: bytes, *, head_only: bool = False, http10: bool = False) -> Response:
        """Send a request and read its answer."""
        await self.send(data)
        return await self.answer(head_only=head_only, http10=http10)

    async def head(self, timeout: float = 10) -> Response:
        """The next response head, interim ones too. Raises MalformedError, EOFError when the connection has ended."""
        async with asyncio.timeout(timeout):
            try:
                raw = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise MalformedError(f"closed in the middle of a head: {error.partial[:200]!r}") from None
                raise EOFError("the connection has ended") from None
            except ConnectionError as error:
                raise EOFError("the connection was reset") from error
        first, *fields = raw[:-4].split(b"\r\n")
        line = _STATUS_LINE.fullmatch(first)
        if line is None:
            raise MalformedError(f"not a status line: {first[:200]!r}")
        return Response(status=int(line[1]), reason=line[2].decode("latin-1"), headers=_fields(fields))

    async def answer(self, *, head_only: bool = False, http10: bool = False, timeout: float = 10) -> Response:
        """The next final response, whole, with the interim ones before it."""
        interim: list[Response] = []
        while (response := await self.head(timeout)).status < 200:
            assert not http10, f"a {response.status} was sent to HTTP/1.0"
            interim.append(response)
        response.interim = interim
        frame(response, head_only=head_only, http10=http10)
        async with asyncio.timeout(timeout):
            await self._body(response)
        return response

    async def _body(self, response: Response) -> None:
        try:
            if response.framing == "length":
                response.body = await self.reader.readexactly(int(response.header("content-length") or ""))
            elif response.framing == "close":
                response.body = await self.reader.read()
            elif response.framing == "chunked":
                pieces: list[bytes] = []
                while piece := await self.chunk():
                    pieces.append(piece)
                response.body = b"".join(pieces)
                response.trailers = await self.trailers()
        except asyncio.IncompleteReadError as error:
            raise MalformedError(f"closed in the middle of a body, after {error.partial[-80:]!r}") from None

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end, before the trailers."""
        line = (await self.reader.readuntil(b"\r\n"))[:-2]
        if _CHUNK_SIZE.fullmatch(line) is None:
            raise MalformedError(f"not a chunk size: {line[:80]!r}")
        length = int(line, 16)
        if not length:
            return b""
        piece = await self.reader.readexactly(length)
        if (end := await self.reader.readexactly(2)) != b"\r\n":
            raise MalformedError(f"a chunk of {length} bytes ends in {end!r}")
        return piece

    async def trailers(self) -> Headers:
        """What comes after the last chunk."""
        lines = []
        while line := (await self.reader.readuntil(b"\r\n"))[:-2]:
            lines.append(line)
        return _fields(lines)

    async def closed(self, timeout: float = 10) -> bytes:
        """Wait until the gateway has closed; returns what came before that. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


def frame(response: Response, *, head_only: bool, http10: bool) -> None:
    """Say how the body ends; an AssertionError where the head says it twice, not at all, or to the wrong reader."""
    for name in _ONCE:
        response.header(name)
    length, coding = response.header("content-length"), response.header("transfer-encoding")
    assert length is None or coding is None, f"two framings: {response.headers}"
    assert not (http10 and coding), "a transfer coding was sent to HTTP/1.0"
    if response.status == 204:
        assert length is None and coding is None, f"a framing on 204: {response.headers}"
    if head_only or response.status in {204, 304}:
        return
    if coding is not None:
        assert coding.lower() == "chunked"
        response.framing = "chunked"
    elif length is not None:
        assert length.isdecimal()
        response.framing = "length"
    else:
        assert response.closes, f"nothing says where the body ends: {response.headers}"
        response.framing = "close"


def _fields(lines: list[bytes]) -> Headers:
    found = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise MalformedError(f"not a header field: {line[:200]!r}")
        found.append((match[1].decode("latin-1").lower(), match[2].decode("latin-1").strip(" \t")))
    return tuple(found)
