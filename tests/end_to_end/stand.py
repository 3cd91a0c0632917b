"""A gateway process between a client in the test's hand and upstreams in its other hand; started once for a file of tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.ports import free_port
from tests.kit.upstream import RawUpstream

HOST = "gate.example"
LOOPBACK = "127.0.0.1"
TRUSTED = "127.9.0.1"
"""A client that comes from here is believed to be a proxy."""


@dataclass
class Stand:
    """``up`` reads bodies whole, ``lazy`` leaves them in the socket until the test reads them; ``raw`` only listens, for a
    test that serves it in a thread."""

    gateway: RunningGateway
    up: RawUpstream
    lazy: RawUpstream
    raw: socket.socket

    async def client(self, **options: Any) -> RawClient:
        """A new connection to the gateway."""
        return await RawClient.open(self.gateway.port, **options)

    def forget(self) -> None:
        """Before each test: nothing has been seen, nobody answers."""
        for upstream in (self.up, self.lazy):
            upstream.requests.clear()
            upstream.answer_with(None)

    def rss_bytes(self) -> int:
        """Resident memory of the gateway's process."""
        assert self.gateway.process is not None
        fields = Path(f"/proc/{self.gateway.process.pid}/statm").read_text().split()
        return int(fields[1]) * 4096


def request(method: str = "GET", target: str = "/up/x", *lines: str, version: str = "1.1", host: str | None = HOST) -> bytes:
    """A request head."""
    fields = [f"Host: {host}"] * (host is not None) + list(lines)
    return "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""]).encode("latin-1")


def with_body(target: str, body: bytes, *lines: str, method: str = "POST") -> bytes:
    """A request with a body of known length."""
    return request(method, target, f"Content-Length: {len(body)}", *lines) + body


@asynccontextmanager
async def standing(folder: Path, gate: Mapping[str, Any] | None = None, **upstreams: Any) -> AsyncIterator[Stand]:
    """Start everything; at the end, the gateway's log must hold no error."""
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(RawUpstream())
        lazy = await stack.enter_async_context(RawUpstream(bodies="lazy", **upstreams))
        raw = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=16))
        banner = await stack.enter_async_context(await asyncio.start_server(_greet, LOOPBACK, 0))
        gateway = RunningGateway(folder, {})
        urls = {
            "up": up.url,
            "lazy": lazy.url,
            "self": gateway.url,
            "nobody": f"http://{LOOPBACK}:{free_port()}",
            "raw": _url(raw),
            "banner": _url(banner.sockets[0]),
            "keyed": up.url,
            "headed": up.url,
        }
        gateway.write(_config(urls, gate or {}))
        await stack.enter_async_context(gateway)
        yield Stand(gateway, up, lazy, raw)
        log = gateway.log_file.read_text()
        assert "ERROR" not in log, log


def _url(listener: socket.socket) -> str:
    return f"http://{LOOPBACK}:{listener.getsockname()[1]}"


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that speaks first, as SSH and SMTP servers do."""
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read()
    writer.close()


def _config(urls: Mapping[str, str], gate: Mapping[str, Any]) -> dict[str, Any]:
    def to(service: str, path: str, **more: Any) -> dict[str, Any]:
        return {"id": path.strip("/*").replace("/", "-"), "match": {"paths": [path]}, "to": {"service": service}, **more}

    once = {"retries": {"attempts": 0}}
    credentials: dict[str, Any] = {
        "keyed": {"credentials": {"bearer": "the-gateways-own"}},
        "headed": {"credentials": {"header": "X-Api-Key", "value": "the-gateways-own"}},
    }
    return {
        "gate": {"trusted_proxies": [f"{TRUSTED}/32"], **gate},
        "services": [{"id": name, "url": url, **credentials.get(name, {})} for name, url in urls.items()],
        "routes": [
            to("up", "/up/*", **once),
            to("up", "/again/*"),
            to("lazy", "/lazy/*", **once),
            to("raw", "/raw/*", **once),
            to("banner", "/banner/*"),
            to("self", "/loop/*"),
            to("nobody", "/nobody/*", **once),
            to("keyed", "/keyed/*"),
            to("headed", "/headed/*"),
            to("up", "/preserve/*", host="preserve"),
            to("up", "/named/*", host="other.example:8443"),
            to("up", "/api/*", rewrite={"strip_prefix": "/api", "add_prefix": "/internal"}),
            to("up", "/keep/*", encoded_slash="keep"),
            to("lazy", "/small/*", max_body="1KiB", **once),
            {"id": "got", "match": {"paths": ["/got"], "methods": ["GET"]}, "to": {"service": "up"}},
            {"id": "hosted", "match": {"paths": ["/hosted"], "hosts": ["only.example"]}, "to": {"service": "up"}},
            {"id": "local", "match": {"paths": ["/local"]}, "to": {"respond": {"status": 200, "body": "local"}}},
            {"id": "empty", "match": {"paths": ["/empty"]}, "to": {"respond": {"status": 200}}},
            {"id": "none", "match": {"paths": ["/none"]}, "to": {"respond": {"status": 204}}},
        ],
    }
