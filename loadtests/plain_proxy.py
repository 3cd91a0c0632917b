"""The proxy one writes first: a Sanic handler and an aiohttp client, sixty lines, nothing clever and nothing missing.

It stands in the comparison as the cost of the obvious way. Runs in the peers' environment, not in streamgate's.
"""

import argparse
from typing import Any

import aiohttp
from sanic import Request, Sanic

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"},
)

app: Sanic[Any, Any] = Sanic("plain_proxy", configure_logging=False)


@app.before_server_start
async def open_client(app: Sanic[Any, Any]) -> None:
    """One session for all requests: connections to the upstream are kept alive."""
    app.ctx.client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


@app.after_server_stop
async def close_client(app: Sanic[Any, Any]) -> None:
    """Give its connections back."""
    await app.ctx.client.close()


@app.route("/<path:path>", methods=["GET", "POST"])
async def relay(request: Request, path: str) -> None:  # noqa: ARG001 - the target is passed on as it came
    """Pass the request on, and the answer back as it comes."""
    origin = app.ctx.nowhere if request.path.startswith("/nowhere/") else app.ctx.upstream
    headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
    asked = app.ctx.client.request(
        request.method, origin + request.raw_url.decode(), headers=headers, data=request.body or None
    )
    async with asked as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        if answer.content_length is not None:
            kept["content-length"] = str(answer.content_length)
        out = await request.respond(status=answer.status, headers=kept, content_type=answer.content_type)
        async for data in answer.content.iter_any():
            await out.send(data)
        await out.eof()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A plain proxy of Sanic and aiohttp.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="http://host:port")
    parser.add_argument("--nowhere", required=True, help="http://host:port for paths under /nowhere/")
    chosen = parser.parse_args()
    app.ctx.upstream, app.ctx.nowhere = chosen.upstream, chosen.nowhere
    app.config.RESPONSE_TIMEOUT = app.config.REQUEST_TIMEOUT = app.config.KEEP_ALIVE_TIMEOUT = 3600
    app.run(host="127.0.0.1", port=chosen.port, single_process=True, access_log=False, motd=False, backlog=8192)


if __name__ == "__main__":
    main()
