"""The admin port: what it shows, to whom, and that it shows no secret. Asked of running gateways, since Sanic serves no two
applications of one process alike."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from sanic.request import Request

from streamgate.admin.api import failed, is_local
from tests.kit.client import RawClient, Response
from tests.kit.gateway import RunningGateway
from tests.kit.ports import free_port
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGES = ["/", "/-/healthz", "/-/readyz", "/-/metrics", "/-/config", "/api/v1/models", "/api/v1/openapi.json"]
EXPLAIN = "/api/v1/explain"
JSON = "Content-Type: application/json"
SECRETS = ["t0ken", "sk-upstream", "sk-header"]
CONFIG: dict[str, Any] = {
    "services": [
        {"id": "a", "url": "http://127.0.0.1:9", "credentials": {"bearer": "sk-upstream"}},
        {"id": "unused", "url": "http://127.0.0.1:9", "credentials": {"header": "x-key", "value": "sk-header"}},
    ],
    "routes": [{"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "a"}}],
}


async def ask(port: int, path: str, *lines: str, method: str = "GET", host: str | None = "localhost", body: bytes | None = None) -> Response:
    """One request on a connection of its own; without a host it is one of HTTP/1.0."""
    fields = ([] if host is None else [f"Host: {host}"]) + list(lines)
    if body is not None:
        fields.append(f"Content-Length: {len(body)}")
    text = "\r\n".join([f"{method} {path} HTTP/1.{0 if host is None else 1}", *fields, "", ""])
    async with await RawClient.open(port) as client:
        return await client.ask(text.encode() + (body or b""), head_only=method == "HEAD")


async def explain(port: int, sent: Any, *lines: str, host: str = "localhost") -> Response:
    """What is told of a request; ``sent`` is its JSON, or bytes."""
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return await ask(port, EXPLAIN, *(lines or [JSON]), method="POST", host=host, body=body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """On loopback, without a token."""
    async with RunningGateway(tmp_path_factory.mktemp("open"), CONFIG) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """Reachable from elsewhere, with a token."""
    gateway = RunningGateway(tmp_path_factory.mktemp("guarded"), with_token("t0ken"))
    gateway.write(with_token("t0ken", gateway.admin_port))
    async with gateway:
        yield gateway


def with_token(token: str, port: int | None = None) -> dict[str, Any]:
    return {"gate": {"admin": f"0.0.0.0:{port or free_port()}", "admin_token": token}, **CONFIG}


async def test_health_and_readiness(gateway: RunningGateway) -> None:
    assert (await ask(gateway.admin_port, "/-/healthz")).body == b"ok\n"
    assert (await ask(gateway.admin_port, "/-/readyz")).body == b"ready\n"


async def test_metrics_can_be_read_by_prometheus(gateway: RunningGateway) -> None:
    response = await ask(gateway.admin_port, "/-/metrics")
    assert response.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(response.body.decode())}
    assert {"streamgate_requests", "streamgate_streams", "streamgate_reloads", "streamgate_upstream_connections"} <= names


async def test_config_says_what_is_in_force(gateway: RunningGateway) -> None:
    response = await ask(gateway.admin_port, "/-/config")
    shown = json.loads(response.body)
    assert response.header("x-config-version") == shown["hash"]
    assert len(shown.pop("hash")) == 64
    assert shown.pop("loaded_at") > 1_700_000_000
    [warning] = shown.pop("warnings")
    assert "services[1].id: no route uses this service" in warning
    assert shown == {
        "source": str(gateway.file),
        "environment": None,
        "number": 1,
        "services": 2,
        "routes": 1,
        "last_error": None,
        "restart_needed": [],
        "reloads": {"applied": 0, "unchanged": 0, "refused": 0},
    }


@pytest.mark.parametrize("path", PAGES)
async def test_head_is_get_without_the_body(gateway: RunningGateway, path: str) -> None:
    whole = await ask(gateway.admin_port, path)
    head = await ask(gateway.admin_port, path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-type") == whole.header("content-type")
    assert whole.header("cache-control") == head.header("cache-control") == "no-store"


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed(gateway: RunningGateway, method: str, path: str) -> None:
    response = await ask(gateway.admin_port, path, "Content-Length: 0", method=method)
    assert_problem(response, 405, "method_not_allowed")
    assert response.header("allow") == "GET, HEAD"


ASKED = {"method": "POST", "url": "/v1/x?a=b", "headers": {"Authorization": "Bearer mine", "X-Extra": "1"}, "body": {"text": "s3cret"}}


async def test_a_request_is_explained_and_not_sent(gateway: RunningGateway) -> None:
    response = await explain(gateway.admin_port, ASKED)
    assert (response.status, response.header("content-type"), response.header("cache-control")) == (200, "application/json", "no-store")
    found = json.loads(response.body)
    assert (found["outcome"], found["live"], found["route"]["id"], found["service"]["id"]) == ("relayed", True, "r", "a")
    assert found["request"] == {"method": "POST", "target": "/v1/x?a=b", "host": f"127.0.0.1:{gateway.port}", "client": "127.0.0.1"}
    assert ["X-Extra", "1"] in found["upstream"]["headers"]
    assert not [secret for secret in (*SECRETS, "mine", "s3cret") if secret in response.body.decode()]
    config = json.loads((await ask(gateway.admin_port, "/-/config")).body)
    assert found["config"] == {"source": config["source"], "hash": config["hash"]}
    assert gateway.process is not None
    assert found["worker"] == gateway.process.pid
    assert [record for record in gateway.records() if record["route"] == "r"] == []


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "send {"), (b"{", "send {"), (b"\xff", "send {"), ([], "send {"), ({}, "method"), ({**ASKED, "other": 1}, "unknown field `other`"),
        ({**ASKED, "url": "nowhere"}, "write a path"), ({**ASKED, "headers": {"a": "b\r\nc: d"}}, "of one line"), ({**ASKED, "client": "x"}, "no address"),
        (b'{"method":"GET","url":"/","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
    ],
)  # fmt: skip
async def test_what_cannot_be_explained_says_what_to_send(gateway: RunningGateway, sent: Any, says: str) -> None:
    response = await explain(gateway.admin_port, sent)
    assert_problem(response, 400, "bad_request")
    assert says in json.loads(response.body)["detail"]


@pytest.mark.parametrize("sent", [{**ASKED, "body": "x" * 900_000}, {**ASKED, "url": "/" + "x" * 900_000}, {**ASKED, "method": "x" * 900_000}])
async def test_large_questions_are_answered(gateway: RunningGateway, sent: Any) -> None:
    assert (await explain(gateway.admin_port, sent)).status == 200


async def test_a_question_larger_than_a_mebibyte_is_refused(gateway: RunningGateway) -> None:
    response = await explain(gateway.admin_port, {**ASKED, "body": "x" * 1024 * 1024})
    assert_problem(response, 413, "too_large")
    assert "1MiB" in json.loads(response.body)["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonp", "text/plain, application/json"])
async def test_what_a_page_elsewhere_can_send_is_not_taken(gateway: RunningGateway, kind: str) -> None:
    """A browser asks first before it sends JSON to another origin, and is told no."""
    assert_problem(await explain(gateway.admin_port, ASKED, f"Content-Type: {kind}"), 415, "unsupported_media_type")
    preflight = await ask(
        gateway.admin_port, EXPLAIN, "Origin: https://evil.example", "Access-Control-Request-Method: POST", method="OPTIONS"
    )
    assert preflight.status == 405
    assert not [name for name, _ in preflight.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_taken_however_it_is_spelled(gateway: RunningGateway, kind: str) -> None:
    assert (await explain(gateway.admin_port, ASKED, f"Content-Type: {kind}")).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_an_explanation_is_asked_for_by_post(gateway: RunningGateway, method: str) -> None:
    response = await ask(gateway.admin_port, EXPLAIN, "Content-Length: 0", method=method)
    assert (response.status, response.header("allow")) == (405, "POST")


async def test_an_explanation_is_guarded_like_all_else(gateway: RunningGateway, guarded: RunningGateway) -> None:
    assert_problem(await explain(gateway.admin_port, ASKED, JSON, host="evil.example"), 403, "forbidden")
    assert_problem(await explain(guarded.admin_port, ASKED, JSON), 401, "unauthorized")
    assert_problem(await explain(guarded.admin_port, ASKED, JSON, "Authorization: Bearer no"), 401, "unauthorized")
    response = await explain(guarded.admin_port, ASKED, JSON, "Authorization: Bearer t0ken", host="gate.example")
    assert response.status == 200
    assert not [secret for secret in SECRETS if secret in response.body.decode()]


async def test_the_api_is_described(gateway: RunningGateway) -> None:
    document = json.loads((await ask(gateway.admin_port, "/api/v1/openapi.json")).body)
    for path, operations in document["paths"].items():
        assert path.encode() in (await ask(gateway.admin_port, "/")).body
        for method in operations:
            assert (await ask(gateway.admin_port, path, "Content-Length: 0", method=method.upper())).status not in {404, 405}


async def test_without_models_there_are_none(gateway: RunningGateway) -> None:
    found = json.loads((await ask(gateway.admin_port, "/api/v1/models")).body)
    assert (found["models"], found["flags"]) == ([], None)


@pytest.mark.parametrize("path", ["/nope", "/-/", "/-/healthz/", "/-/healthz/x", "/api/v1/x", "/-/../-/config", "/%2d/healthz"])
async def test_what_is_not_there_is_a_problem(gateway: RunningGateway, path: str) -> None:
    assert_problem(await ask(gateway.admin_port, path), 404, "not_found")


def assert_problem(response: Response, status: int, code: str) -> None:
    assert response.status == status
    assert response.header("content-type") == "application/problem+json"
    body = json.loads(response.body)
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id", "retryable"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == response.header("x-request-id")


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:81", "127.0.0.1", "127.0.0.1:81", "127.9.9.9", "[::1]", "[::1]:81", "localhost."]
)
async def test_this_machine_s_names_are_answered(gateway: RunningGateway, host: str) -> None:
    assert (await ask(gateway.admin_port, "/-/config", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "127.evil.example:81",
        "localhost.evil.example",
        "10.0.0.1",
        "[::2]",
        "1",
        "127.0.0.1x",
    ],
)
@pytest.mark.parametrize("path", ["/-/config", "/-/healthz", "/nope"])
async def test_a_name_of_somebody_else_s_is_not(gateway: RunningGateway, host: str, path: str) -> None:
    """What a page in a browser here sends after its name was bound to 127.0.0.1."""
    assert_problem(await ask(gateway.admin_port, path, host=host), 403, "forbidden")


async def test_a_client_without_host_is_no_browser(gateway: RunningGateway) -> None:
    assert (await ask(gateway.admin_port, "/-/healthz", host=None)).status == 200
    assert is_local("")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer t0ke",
        "Bearer t0ken2",
        "Basic t0ken",
        "t0ken",
        "Bearer t0ken t0ken",
        "Bearer é",
    ],
)
@pytest.mark.parametrize("path", ["/-/config", "/-/metrics", "/", "/nope"])
async def test_a_token_that_is_wanted_is_wanted_everywhere(guarded: RunningGateway, given: str, path: str) -> None:
    response = await ask(guarded.admin_port, path, *([f"Authorization: {given}"] if given else []))
    assert_problem(response, 401, "unauthorized")
    assert (response.header("www-authenticate") or "").startswith("Bearer")
    assert b"t0ken" not in response.body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_from_anywhere(guarded: RunningGateway, scheme: str) -> None:
    response = await ask(guarded.admin_port, "/-/config", f"Authorization: {scheme} t0ken", host="gate.example:8081")
    assert response.status == 200


@pytest.mark.parametrize("path", ["/-/healthz", "/-/readyz"])
async def test_health_needs_no_token(guarded: RunningGateway, path: str) -> None:
    """Whoever watches over processes has none, and learns nothing else."""
    assert (await ask(guarded.admin_port, path, host="10.1.2.3:8081")).status == 200


async def test_no_page_shows_a_secret(guarded: RunningGateway) -> None:
    for path in PAGES:
        body = (await ask(guarded.admin_port, path, "Authorization: Bearer t0ken")).body.decode()
        assert not [secret for secret in SECRETS if secret in body], path
    assert not [secret for secret in SECRETS if secret in guarded.log_file.read_text()]


async def test_a_new_token_counts_after_the_reload(guarded: RunningGateway) -> None:
    guarded.write(with_token("an0ther", guarded.admin_port))

    async def taken() -> bool:
        return (await ask(guarded.admin_port, "/-/config", "Authorization: Bearer an0ther")).status == 200

    await eventually(taken, timeout=15)
    assert (await ask(guarded.admin_port, "/-/config", "Authorization: Bearer t0ken")).status == 401


async def test_a_failure_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("streamgate").propagate = True
    response = failed(cast("Request", SimpleNamespace(id="an-id")), RuntimeError("sk-upstream in an exception"))
    assert response.status == 500
    assert "sk-upstream" not in str(response.body)
    assert "the admin port failed" in caplog.text, "the log says why"


async def test_the_admin_port_can_be_off(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, {"gate": {"admin": "off"}, **CONFIG})
    gateway.is_ready = lambda: answers(gateway)  # type: ignore[method-assign]  # there is no page to ask
    async with gateway:
        assert gateway.admin("/-/healthz")[0] == 0


async def answers(gateway: RunningGateway) -> bool:
    try:
        return (await ask(gateway.port, "/")).status in {502, 503}
    except OSError:
        return False
