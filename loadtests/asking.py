"""Where a proxy listens, and how it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httptools

HOST = "127.0.0.1"
COMPLETIONS = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a proxy listens, and the path under which it serves completions."""

    host: str
    port: int
    path: str = COMPLETIONS
    model: str = "fake"


def request(address: Address, wishes: Mapping[str, object], *, stream: bool = True) -> bytes:
    """A completion request as bytes; wishes become `x-…` headers for the fake upstream."""
    body = b'{"model":"%b","stream":%b,"messages":[{"role":"user","content":"Good morning"}]}' % (
        address.model.encode(),
        b"true" if stream else b"false",
    )
    headers = "".join(f"x-{name}: {value}\r\n" for name, value in wishes.items())
    return (
        f"POST {address.path} HTTP/1.1\r\nhost: {address.host}:{address.port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer sk-load\r\n{headers}content-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def fetch(host: str, port: int, target: str) -> bytes:
    """The body of a small GET. Raises OSError when nobody answers or the status is not 200."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.whole and (data := await reader.read(1 << 16)):
            parser.feed_data(data)
    finally:
        writer.close()
    status = parser.get_status_code() if answer.whole else 0
    if status != 200:
        msg = f"GET {target} on port {port}: status {status}: {answer.body[:200]!r}"
        raise OSError(msg)
    return answer.body


class Answer:
    """Collects one answer's body."""

    def __init__(self) -> None:
        """Empty."""
        self.body = b""
        self.whole = False

    def on_body(self, data: bytes) -> None:
        """More of it."""
        self.body += data

    def on_message_complete(self) -> None:
        """All of it."""
        self.whole = True
