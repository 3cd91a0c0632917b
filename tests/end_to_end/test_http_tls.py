"""TLS on both sides: what the data port shows and demands, and whom the gateway believes."""

import asyncio
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.end_to_end.stand import LOOPBACK, request
from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.upstream import RawUpstream
from tests.kit.wire import answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "gate.example"


@dataclass
class Stand:
    """A gateway that speaks TLS and asks for client certificates, and one that talks to upstreams over TLS."""

    gateway: RunningGateway
    up: RawUpstream
    ca: trustme.CA
    clients: trustme.CA

    def context(self, *, shown: bool = True, by: trustme.CA | None = None) -> ssl.SSLContext:
        """How a client comes; ``shown``: with a certificate, made by ``by``."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if shown:
            (by or self.clients).issue_cert("client@example.com").configure_cert(context)
        return context

    async def client(self, context: ssl.SSLContext) -> RawClient:
        return await RawClient.open(self.gateway.port, tls=context, name=NAME)


def _server(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


class Authorities:
    """Who vouches for whom, in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.gateway, self.clients, self.stranger = trustme.CA(), trustme.CA(), trustme.CA()
        own, mine = self.gateway.issue_cert(NAME), self.clients.issue_cert("gateway@example.com")
        self.trust = {"ca": self._written("ca.pem", self.gateway.cert_pem)}
        self.mine = {
            "cert": self._written("mine.pem", mine.cert_chain_pems[0]),
            "key": self._written("mine.key", mine.private_key_pem),
        }
        self.port = {
            "cert": self._written("own.pem", own.cert_chain_pems[0]),
            "key": self._written("own.key", own.private_key_pem),
            "client_ca": self._written("clients.pem", self.clients.cert_pem),
        }

    def _written(self, name: str, pem: trustme.Blob) -> str:
        path = self._folder / name
        pem.write_to_path(path)
        return str(path)

    def demanding(self) -> ssl.SSLContext:
        context = _server(self.gateway, LOOPBACK)
        context.verify_mode = ssl.CERT_REQUIRED
        self.clients.configure_trust(context)
        return context

    def ancient(self) -> ssl.SSLContext:
        context = _server(self.gateway, LOOPBACK)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing_here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    folder = tmp_path_factory.mktemp("tls")
    known = Authorities(folder)
    async with AsyncExitStack() as stack:

        async def serve(context: ssl.SSLContext | None) -> RawUpstream:
            upstream = await stack.enter_async_context(RawUpstream(tls=context))
            upstream.answer_with(lambda arrived: answer(arrived.request.target.encode()))
            return upstream

        up, good = await serve(None), await serve(_server(known.gateway, LOOPBACK))
        named, strange = await serve(_server(known.gateway, "inside.example")), await serve(_server(known.stranger, LOOPBACK))
        asks, ancient = await serve(known.demanding()), await serve(known.ancient())
        services: list[tuple[str, str, dict[str, Any]]] = [
            ("plain", up.url, {}),
            ("good", good.url, {"tls": known.trust}),
            ("unknown", good.url, {}),
            ("strange", strange.url, {"tls": known.trust}),
            ("any", strange.url, {"tls": {"verify": False}}),
            ("wrong", named.url, {"tls": known.trust}),
            ("named", named.url, {"tls": {**known.trust, "server_name": "inside.example"}}),
            ("silent", asks.url, {"tls": known.trust}),
            ("shown", asks.url, {"tls": {**known.trust, **known.mine}}),
            ("ancient", ancient.url, {"tls": known.trust}),
            ("mute", up.url.replace("http:", "https:"), {"tls": known.trust}),
        ]
        config = {
            "gate": {"tls": known.port},
            "services": [{"id": name, "url": url, **more} for name, url, more in services],
            "routes": [_route(name) for name, _, _ in services],
        }
        gateway = await stack.enter_async_context(RunningGateway(folder, config))
        yield Stand(gateway, up, known.gateway, known.clients)
        log = gateway.log_file.read_text()
        assert "ERROR" not in log, log


def _route(service: str) -> dict[str, Any]:
    return {
        "id": f"to-{service}",
        "match": {"paths": [f"/{service}/*"]},
        "to": {"service": service},
        "retries": {"attempts": 0},
        "timeouts": {"connect": "1s"},
    }


@pytest.fixture
def stand(standing_here: Stand) -> Stand:
    standing_here.up.answer_with(lambda arrived: answer(arrived.request.target.encode()))
    return standing_here


# -- the data port -----------------------------------------------------------------------------------------------------


async def test_requests_come_over_tls(stand: Stand) -> None:
    context = stand.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with await stand.client(context) as client:
        for number in range(3):
            response = await client.ask(request("GET", f"/plain/{number}"))
            assert (response.status, response.body) == (200, b"/plain/%d" % number)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert stand.up.requests[-1].header("x-forwarded-proto") == "https"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_12_and_13(stand: Stand, version: ssl.TLSVersion) -> None:
    context = stand.context()
    context.minimum_version = context.maximum_version = version
    async with await stand.client(context) as client:
        assert (await client.ask(request("GET", "/plain/x"))).status == 200


async def test_nothing_older(stand: Stand) -> None:
    context = stand.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await stand.client(context)


@pytest.mark.parametrize("manner", ["none", "of a stranger"])
async def test_a_client_certificate_is_demanded(stand: Stand, manner: str) -> None:
    context = stand.context(shown=manner != "none", by=trustme.CA())
    before = len(stand.up.requests)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        async with await stand.client(context) as client:  # under TLS 1.3 the client learns of it when it reads
            await client.ask(request("GET", "/plain/x"))
    assert len(stand.up.requests) == before


async def test_plain_http_is_not_spoken_on_a_tls_port(stand: Stand) -> None:
    before = len(stand.up.requests)
    async with await RawClient.open(stand.gateway.port) as client:
        await client.send(request("GET", "/plain/x"))
        assert b"HTTP/1.1 200" not in await client.closed()
    assert len(stand.up.requests) == before


async def test_close_under_tls_loses_nothing(stand: Stand) -> None:
    """A reader that takes its time: what lies in the sockets when the gateway closes still arrives, and then its end."""
    body = bytes(range(256)) * 2048
    stand.up.answer_with(lambda _arrived: answer(body))

    def read_slowly() -> bytes:
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.settimeout(20)
            plain.connect((LOOPBACK, stand.gateway.port))
            with stand.context().wrap_socket(plain, server_hostname=NAME) as sock:
                sock.sendall(request("GET", "/plain/x", "Connection: close"))
                got = b""
                end = time.monotonic() + 5.5  # longer than Sanic would wait
                while time.monotonic() < end:
                    got += sock.recv(1024)
                    time.sleep(0.1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, len(body))
                while piece := sock.recv(65536):
                    got += piece
                return got

    got = await asyncio.to_thread(read_slowly)
    assert got.partition(b"\r\n\r\n")[2] == body


async def test_a_refusal_under_tls_is_read(stand: Stand) -> None:
    async with await stand.client(stand.context()) as client:
        await client.send(b"BROKEN\r\n\r\n" + b"x" * 100_000)
        assert (await client.answer()).status == 400
        await client.closed()
    async with await stand.client(stand.context()) as client:
        response = await client.ask(request("POST", "/missing", "Content-Length: 9000000") + b"x" * 100_000)
        assert (response.status, response.closes) == (404, True)
        await client.closed()


# -- upstreams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["good", "any", "named", "shown"])
async def test_an_upstream_that_is_who_it_says(stand: Stand, service: str) -> None:
    async with await stand.client(stand.context()) as client:
        for number in range(2):
            response = await client.ask(request("GET", f"/{service}/{number}"))
            assert (response.status, response.body) == (200, f"/{service}/{number}".encode())


@pytest.mark.parametrize("service", ["unknown", "strange", "wrong", "ancient", "mute"])
async def test_an_upstream_that_nobody_vouches_for(stand: Stand, service: str) -> None:
    """Self-made, of another name, too old or not TLS at all: nothing is sent to it."""
    async with await stand.client(stand.context()) as client:
        response = await client.ask(request("GET", f"/{service}/x", "Authorization: Bearer secret"))
        assert response.status in {502, 504}
        assert b"certificate" not in response.body.lower()
    record = await stand.gateway.record(lambda found: found["route"] == f"to-{service}")
    assert record["bytes_out"] == 0


async def test_an_upstream_that_wants_a_certificate(stand: Stand) -> None:
    async with await stand.client(stand.context()) as client:
        assert (await client.ask(request("GET", "/silent/x"))).status == 502
