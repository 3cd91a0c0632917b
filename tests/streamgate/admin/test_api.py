"""The admin port: what it shows, to whom, and that it shows no secret."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from streamgate.admin.api import Views, is_local, make_admin
from streamgate.observe.metrics import Metrics
from streamgate.observe.siblings import Siblings
from tests.kit.client import RawClient, Response

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGES = ["/", "/-/healthz", "/-/readyz", "/-/metrics", "/-/config"]


@dataclass
class Shown:
    """What the views answer; a test changes it."""

    reason: str | None = None
    token: str | None = None
    config: dict[str, Any] = field(default_factory=lambda: {"hash": "abc", "number": 1})
    port: int = 0

    async def ask(self, path: str, *lines: str, method: str = "GET", host: str | None = "localhost") -> Response:
        fields = ([] if host is None else [f"Host: {host}"]) + list(lines)
        version = "HTTP/1.1" if host is not None else "HTTP/1.0"
        text = "\r\n".join([f"{method} {path} {version}", *fields, "", ""])
        async with await RawClient.open(self.port) as client:
            return await client.ask(text.encode(), head_only=method == "HEAD")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving() -> AsyncIterator[Shown]:
    shown = Shown()

    def config() -> dict[str, Any]:
        if not shown.config:
            raise RuntimeError("sk-secret in an exception")
        return shown.config

    views = Views(lambda: shown.reason, config, Siblings(None, Metrics().families), lambda: shown.token)
    app = make_admin("admin-under-test", views)
    app.state.primary = False  # Sanic rewrites its protocol for the primary application, once a process
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
    assert server is not None
    await server.startup()
    await server.before_start()
    await server.after_start()
    shown.port = sock.getsockname()[1]
    yield shown
    server.server.close()


@pytest.fixture
def admin(serving: Shown) -> Shown:
    serving.reason, serving.token, serving.config = None, None, {"hash": "abc", "number": 1}
    return serving


async def test_healthz_is_about_this_process_alone(admin: Shown) -> None:
    admin.reason = "starting"
    response = await admin.ask("/-/healthz")
    assert (response.status, response.body) == (200, b"ok\n")


async def test_readyz_says_why_not(admin: Shown) -> None:
    assert (await admin.ask("/-/readyz")).status == 200
    admin.reason = "shutting down"
    response = await admin.ask("/-/readyz")
    assert (response.status, response.body) == (503, b"not ready: shutting down\n")


async def test_metrics_can_be_read_by_prometheus(admin: Shown) -> None:
    response = await admin.ask("/-/metrics")
    assert response.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(response.body.decode())}
    assert {"streamgate_requests", "streamgate_streams", "streamgate_reloads"} <= names


async def test_config_is_what_the_worker_shows(admin: Shown) -> None:
    response = await admin.ask("/-/config")
    assert json.loads(response.body) == {"hash": "abc", "number": 1}
    assert response.header("x-config-version") == "abc"


@pytest.mark.parametrize("path", PAGES)
async def test_head_is_get_without_the_body(admin: Shown, path: str) -> None:
    whole = await admin.ask(path)
    head = await admin.ask(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-type") == whole.header("content-type")
    assert whole.header("cache-control") == head.header("cache-control") == "no-store"


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed(admin: Shown, method: str, path: str) -> None:
    response = await admin.ask(path, "Content-Length: 0", method=method)
    assert_problem(response, 405, "method_not_allowed")
    assert response.header("allow") == "GET, HEAD"


@pytest.mark.parametrize("path", ["/nope", "/-/", "/-/healthz/", "/-/healthz/x", "/api/v1/x", "/-/../-/config", "/%2d/healthz"])
async def test_what_is_not_there_is_a_problem(admin: Shown, path: str) -> None:
    assert_problem(await admin.ask(path), 404, "not_found")


def assert_problem(response: Response, status: int, code: str) -> None:
    assert response.status == status
    assert response.header("content-type") == "application/problem+json"
    body = json.loads(response.body)
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id", "retryable"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == response.header("x-request-id")


@pytest.mark.parametrize("host", ["localhost", "LocalHost:81", "127.0.0.1", "127.0.0.1:8081", "127.9.9.9", "[::1]", "[::1]:81", "localhost."])
async def test_this_machine_s_names_are_answered(admin: Shown, host: str) -> None:
    assert (await admin.ask("/-/config", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.evil.example:81", "localhost.evil.example", "10.0.0.1", "[::2]", "1", "127.0.0.1x"],
)
@pytest.mark.parametrize("path", ["/-/config", "/-/healthz", "/nope"])
async def test_a_name_of_somebody_else_s_is_not(admin: Shown, host: str, path: str) -> None:
    """What a page in a browser here sends after its name was bound to 127.0.0.1."""
    assert_problem(await admin.ask(path, host=host), 403, "forbidden")


async def test_a_client_without_host_is_no_browser(admin: Shown) -> None:
    assert (await admin.ask("/-/healthz", host=None)).status == 200
    assert is_local("")


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer t0ke", "Bearer t0ken2", "Basic t0ken", "t0ken", "Bearer t0ken t0ken", "Bearer é"],
)
@pytest.mark.parametrize("path", ["/-/config", "/-/metrics", "/", "/nope"])
async def test_a_token_that_is_wanted_is_wanted_everywhere(admin: Shown, given: str, path: str) -> None:
    admin.token = "t0ken"
    lines = [f"Authorization: {given}"] if given else []
    response = await admin.ask(path, *lines)
    assert_problem(response, 401, "unauthorized")
    assert (response.header("www-authenticate") or "").startswith("Bearer")
    assert b"t0ken" not in response.body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_from_anywhere(admin: Shown, scheme: str) -> None:
    admin.token = "t0ken"
    response = await admin.ask("/-/config", f"Authorization: {scheme} t0ken", host="gate.example:8081")
    assert response.status == 200


@pytest.mark.parametrize("path", ["/-/healthz", "/-/readyz"])
async def test_health_needs_no_token(admin: Shown, path: str) -> None:
    """Whoever watches over processes has none, and learns nothing else."""
    admin.token = "t0ken"
    assert (await admin.ask(path, host="10.1.2.3:8081")).status == 200


async def test_a_new_token_counts_from_the_next_request_on(admin: Shown) -> None:
    admin.token = "old"
    assert (await admin.ask("/-/config", "Authorization: Bearer old")).status == 200
    admin.token = "new"
    assert (await admin.ask("/-/config", "Authorization: Bearer old")).status == 401


async def test_a_failure_is_told_without_its_words(admin: Shown) -> None:
    admin.config = {}
    response = await admin.ask("/-/config")
    assert_problem(response, 500, "internal")
    assert b"sk-secret" not in response.body
