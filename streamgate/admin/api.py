"""The admin port: health, readiness, metrics, configuration, models, explanations. Without a token it answers on loopback only."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from ipaddress import ip_address
from typing import Any, Final

from sanic import Sanic
from sanic.exceptions import MethodNotAllowed, NotFound, PayloadTooLarge, SanicException
from sanic.request import Request
from sanic.response import HTTPResponse, json, raw, text

from streamgate.admin.asking import asked_of
from streamgate.admin.openapi import DOCUMENT
from streamgate.observe.metrics import exposition, merged
from streamgate.observe.siblings import Siblings
from streamgate.pipeline.explaining.asked import Asked

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NOT_KEPT: Final = {"Cache-Control": "no-store"}
INDEX: Final = "streamgate admin: /-/healthz /-/readyz /-/metrics /-/config /api/v1/models /api/v1/explain (POST) /api/v1/openapi.json\n"
BODY_MAX_BYTES: Final = 1024 * 1024
"""The largest request that is taken here."""
_OPEN: Final = frozenset({"/-/healthz", "/-/readyz"})
"""What answers without the token: whoever watches over a process has none, and learns nothing else."""
_CODES: Final = {
    400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large",
    415: "unsupported_media_type",
}  # fmt: skip
_FAILED: Final = 500

_log = logging.getLogger("streamgate")

View = Callable[[Request], Coroutine[Any, Any, HTTPResponse]]


@dataclass(frozen=True, slots=True)
class Views:
    """What the admin port shows, asked for when somebody looks."""

    ready: Callable[[], str | None]
    """None when ready, else why not."""
    config: Callable[[], dict[str, Any]]
    siblings: Siblings
    token: Callable[[], str | None]
    bind: str
    """The data port: what a request asks for that names no host."""
    explain: Callable[[Asked], Awaitable[dict[str, Any]]]
    models: Callable[[], dict[str, Any]]


def make_admin(name: str, views: Views) -> Sanic[Any, Any]:
    """The admin application."""
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False, strict_slashes=True)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = BODY_MAX_BYTES

    async def healthz(_request: Request) -> HTTPResponse:
        return text("ok\n")

    async def readyz(_request: Request) -> HTTPResponse:
        reason = views.ready()
        return text("ready\n") if reason is None else text(f"not ready: {reason}\n", status=503)

    async def metrics(_request: Request) -> HTTPResponse:
        return raw(exposition(merged(await views.siblings.ask())), content_type=METRICS_TYPE)

    async def config(_request: Request) -> HTTPResponse:
        shown = views.config()
        return json(shown, headers={"X-Config-Version": shown["hash"]})

    async def models(_request: Request) -> HTTPResponse:
        return json(views.models())

    pages: dict[str, View] = {
        "/": _index, "/-/healthz": healthz, "/-/readyz": readyz, "/-/metrics": metrics, "/-/config": config,
        "/api/v1/models": models, "/api/v1/openapi.json": _described,
    }  # fmt: skip
    for path, view in pages.items():
        app.add_route(_fresh(view), path, methods=["GET", "HEAD"])
    app.add_route(_fresh(_explainer(views)), "/api/v1/explain", methods=["POST"])

    @app.on_request
    async def guard(request: Request) -> HTTPResponse | None:
        return refusal(request, views.token())

    app.error_handler.add(Exception, failed)
    return app


async def _index(_request: Request) -> HTTPResponse:
    return text(INDEX)


async def _described(_request: Request) -> HTTPResponse:
    return json(DOCUMENT)


def _explainer(views: Views) -> View:
    async def explain(request: Request) -> HTTPResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a page elsewhere cannot send without asking first, and nobody here says yes to that
            return problem(request, 415, "Send the request to be explained as Content-Type: application/json")
        try:
            asked = asked_of(request.body, views.bind)
        except ValueError as error:
            return problem(request, 400, str(error))
        return json(await views.explain(asked))

    return explain


def _fresh(view: View) -> View:
    @wraps(view)
    async def seen(request: Request) -> HTTPResponse:
        answer = await view(request)
        answer.headers.update(NOT_KEPT)
        return answer

    return seen


def refusal(request: Request, token: str | None) -> HTTPResponse | None:
    """Why this request may see nothing, None when it may. Without a token only this machine is answered, and by its own names:
    a page in a browser here reaches loopback by a name of the page's choosing (DNS rebinding).
    """
    if token is None:
        if is_local(request.headers.get("host", "")):
            return None
        return problem(request, 403, "The admin port answers to names of this machine only")
    if request.path in _OPEN:
        return None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    if same and scheme.lower() == "bearer":
        return None
    answer = problem(request, 401, "The admin port wants its token: Authorization: Bearer …")
    answer.headers["WWW-Authenticate"] = 'Bearer realm="streamgate admin"'
    return answer


def is_local(host: str) -> bool:
    """Whether a Host field names this machine: localhost or a loopback address, nothing that only begins like one. An old
    client that sends none is no browser.
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if not host or name.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def failed(request: Request, error: Exception) -> HTTPResponse:
    """What a request gets that no view answered."""
    status = error.status_code if isinstance(error, SanicException) else _FAILED
    if status >= _FAILED:
        _log.error("the admin port failed", exc_info=error)
        return problem(request, _FAILED, "The admin port failed; its log says why")
    if isinstance(error, NotFound):
        return problem(request, status, "There is no such page; " + INDEX.strip())
    if isinstance(error, PayloadTooLarge):
        return problem(request, status, "The admin port takes requests of at most 1MiB")
    answer = problem(request, status, str(error))
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods or ()))
    return answer


def problem(request: Request, status: int, detail: str) -> HTTPResponse:
    """An RFC 9457 problem."""
    code = _CODES.get(status, "bad_request" if status < _FAILED else "internal")
    body = {
        "type": f"urn:streamgate:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": str(request.id),
        "retryable": False,
    }
    headers = NOT_KEPT | {"x-request-id": str(request.id)}
    return json(body, status=status, content_type="application/problem+json", headers=headers)
