"""The admin port: health, readiness, metrics, configuration. Answers on loopback only, unless a token is configured."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sanic import Sanic
from sanic.exceptions import SanicException
from sanic.request import Request
from sanic.response import HTTPResponse, json, raw, text

from streamgate.observe.metrics import exposition, merged
from streamgate.observe.siblings import Siblings

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_OPEN = frozenset({"/-/healthz", "/-/readyz"})


@dataclass(frozen=True, slots=True)
class Views:
    """What the admin port shows, asked for when somebody looks."""

    ready: Callable[[], str | None]
    """None when ready, else why not."""
    config: Callable[[], dict[str, Any]]
    siblings: Siblings
    token: Callable[[], str | None]


def make_admin(name: str, views: Views) -> Sanic[Any, Any]:
    """The admin application."""
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False)
    app.config.FALLBACK_ERROR_FORMAT = "json"

    @app.on_request
    async def guard(request: Request) -> HTTPResponse | None:
        token = views.token()
        if token is None:
            # a page in a browser on this machine may reach loopback by a name of its own (DNS rebinding)
            host = request.headers.get("host", "")
            name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
            local = not host or name.lower() in _LOCAL or name.startswith("127.")
            return None if local else problem(403, "The admin port answers to names of this machine only")
        if request.path in _OPEN:
            return None
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return None
        answer = problem(401, "The admin port wants its token: Authorization: Bearer …")
        answer.headers["WWW-Authenticate"] = 'Bearer realm="streamgate admin"'
        return answer

    @app.get("/-/healthz")
    async def healthz(_request: Request) -> HTTPResponse:
        return text("ok\n", headers={"Cache-Control": "no-store"})

    @app.get("/-/readyz")
    async def readyz(_request: Request) -> HTTPResponse:
        reason = views.ready()
        return text("ready\n" if reason is None else f"not ready: {reason}\n", status=200 if reason is None else 503,
                    headers={"Cache-Control": "no-store"})  # fmt: skip

    @app.get("/-/metrics")
    async def metrics(_request: Request) -> HTTPResponse:
        return raw(exposition(merged(await views.siblings.ask())), content_type=METRICS_TYPE)

    @app.get("/-/config")
    async def config(_request: Request) -> HTTPResponse:
        shown = views.config()
        return json(shown, headers={"Cache-Control": "no-store", "X-Config-Version": shown["hash"]})

    @app.get("/")
    async def index(_request: Request) -> HTTPResponse:
        return text("streamgate admin: /-/healthz /-/readyz /-/metrics /-/config\n")

    @app.exception(Exception)
    async def failed(_request: Request, error: Exception) -> HTTPResponse:
        status = error.status_code if isinstance(error, SanicException) else 500
        return problem(status, str(error) if status < 500 else "The admin port failed")  # noqa: PLR2004

    return app


def problem(status: int, detail: str) -> HTTPResponse:
    """An RFC 9457 problem."""
    body = {"type": "about:blank", "title": detail, "status": status, "detail": detail}
    return json(body, status=status, content_type="application/problem+json", headers={"Cache-Control": "no-store"})
