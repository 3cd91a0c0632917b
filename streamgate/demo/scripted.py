"""A model server whose every answer, delay and fault is asked for by the request itself (see `script`).

It speaks OpenAI's chat, completions, responses and embeddings, and Anthropic's messages; besides, ``/events`` is a
plain event stream, ``/echo`` says what arrived, and ``/script/stats`` counts what is open, ended and cancelled. It
generates nothing: it stands where a model would, in the demo and in tests.

Run it: ``python -m streamgate.demo.scripted --port 0`` prints ``{"port": N}`` once connections are accepted.
"""

import hashlib
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from streamgate.demo.ask import Ask, BadAskError, read_ask
from streamgate.demo.dialects import CREATED, PATHS, spoken
from streamgate.demo.embeddings import Embedding
from streamgate.demo.ledger import Ledger
from streamgate.demo.performance import Performance
from streamgate.demo.refusals import openai_error, refused
from streamgate.demo.script import HEADER, BadScriptError, Script, read_script
from streamgate.demo.ticks import Ticks

MODELS = ("scripted", "scripted-large")
NO_CONTENT = 204

Endpoint = Callable[[Request], Awaitable[Response | Performance]]


def create_app() -> Starlette:
    """A server with a ledger of its own."""
    ledger = Ledger()

    def speak(path: str, script: Script, ask: Ask) -> Performance:
        seed = ask.seed if script.seed is None else script.seed
        answer = spoken(path, ask, seed, script.tokens)
        return Performance(script, ledger, answer, answer if ask.stream else None)

    def embed(_: str, script: Script, ask: Ask) -> Performance:
        return Performance(script, ledger, Embedding(ask))

    async def stats(_: Request) -> Response:
        return JSONResponse(msgspec.to_builtins(ledger.statistics()))

    async def reset(_: Request) -> Response:
        ledger.reset()
        return JSONResponse(msgspec.to_builtins(ledger.statistics()))

    return Starlette(
        routes=[
            *(Route(path, _asked(speak), methods=["POST"]) for path in PATHS),
            Route("/v1/embeddings", _asked(embed), methods=["POST"]),
            Route("/v1/models", _models),
            Route("/events", _events(ledger)),
            Route("/health", _health),
            Route("/echo", _Echo()),
            Route("/echo/{rest:path}", _Echo()),
            Route("/script/stats", stats),
            Route("/script/reset", reset, methods=["POST"]),
        ]
    )


def _asked(perform: Callable[[str, Script, Ask], Performance]) -> Endpoint:
    """An endpoint that reads script and body, or says in the dialect what is wrong with them."""

    async def endpoint(request: Request) -> Response | Performance:
        path: str = request.scope["path"]
        try:
            ask = read_ask(await request.body())
            script = read_script(request.query_params, request.headers.getlist(HEADER), ask.script)
        except (BadAskError, BadScriptError) as error:
            return JSONResponse(refused(path, 400, str(error)), 400)
        return perform(path, script, ask)

    return endpoint


def _events(ledger: Ledger) -> Endpoint:
    async def endpoint(request: Request) -> Response | Performance:
        try:
            script = read_script(request.query_params, request.headers.getlist(HEADER))
            last = int(request.headers.get("last-event-id", "-1"))
        except (BadScriptError, ValueError) as error:
            return JSONResponse(openai_error(400, str(error)), 400)
        if last >= script.tokens:
            return Response(status_code=NO_CONTENT)  # what makes an EventSource stay away
        ticks = Ticks(last + 1, script.tokens - (last + 1), script.seed or 0)
        return Performance(script, ledger, ticks, ticks)

    return endpoint


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _models(request: Request) -> Response:
    if "anthropic-version" in request.headers:
        told: list[dict[str, Any]] = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2025-06-15T15:06:40Z"} for name in MODELS
        ]
        return JSONResponse({"data": told, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})
    told = [{"id": name, "object": "model", "created": CREATED, "owned_by": "streamgate"} for name in MODELS]
    return JSONResponse({"object": "list", "data": told})


class _Echo:
    """Any method, any path below. Header names arrive from the server in lower case; order and repeats are kept.

    Reads its script from the header alone, so that a query is free for whatever a test sends.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        digest, length = hashlib.sha256(), 0
        async for piece in request.stream():
            digest.update(piece)
            length += len(piece)
        told = {
            "method": scope["method"],
            "path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "http_version": scope["http_version"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": {"length": length, "sha256": digest.hexdigest()},
        }
        try:
            script = read_script({}, request.headers.getlist(HEADER))
        except BadScriptError as error:
            await JSONResponse(openai_error(400, str(error)), 400)(scope, receive, send)
            return
        headers = {} if script.retry_after is None else {"retry-after": script.retry_after}
        await JSONResponse(told, script.status or 200, headers)(scope, receive, send)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError, as when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=9001, show_default=True, help="0 takes a free one.")
def main(host: str, port: int) -> None:
    """Serve scripted answers until SIGINT or SIGTERM."""
    try:
        listener = listen(host, port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}; try --port 0") from None
    # Open streams are not waited for: whoever stops this server has stopped listening to it.
    config = uvicorn.Config(create_app(), log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
