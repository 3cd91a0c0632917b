"""A gateway with models between a client and two upstreams in the test's hands, and what models answer with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.client import RawClient, Response
from tests.kit.gateway import RunningGateway
from tests.kit.quiet import nothing_went_wrong
from tests.kit.upstream import RawUpstream
from tests.kit.wire import LAST_CHUNK, answer, chunk, head

CHAT = "/v1/chat/completions"
STREAM = head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"id":"c1","model":"up","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
USAGE = b'data: {"id":"c1","model":"up","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'


def token(text: str) -> bytes:
    """One event of a chat completion."""
    said = {"id": "c1", "model": "up", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def stream(*events: bytes) -> bytes:
    """A whole streamed answer."""
    return STREAM + b"".join(map(chunk, events)) + LAST_CHUNK


def told(text: str) -> bytes:
    """A whole completion that says ``text``."""
    message = {"role": "assistant", "content": text}
    body = {
        "id": "c1", "object": "chat.completion", "model": "up",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }  # fmt: skip
    return answer(json.dumps(body).encode(), 200, [("content-type", "application/json")])


def refusal(status: int, *headers: tuple[str, str]) -> bytes:
    """An error of the provider's."""
    body = json.dumps({"error": {"message": f"no: {status}", "type": "server_error", "param": None, "code": None}}).encode()
    return answer(body, status, [("content-type", "application/json"), *headers])


@dataclass
class Stage:
    """``a`` and ``b`` are what services a and b lead to."""

    gateway: RunningGateway
    a: RawUpstream
    b: RawUpstream
    flags: Path
    config: dict[str, Any]
    _number: int = 0
    _ids: list[str] = field(default_factory=list)

    def request(self, body: Mapping[str, Any] | bytes, *lines: str, path: str = CHAT, method: str = "POST") -> bytes:
        """A request, whole."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._number += 1
        self._ids.append(f"m-{self._number}")
        fields = [f"{method} {path} HTTP/1.1", "Host: gate", f"x-request-id: m-{self._number}", f"Content-Length: {len(raw)}", *lines]
        return "\r\n".join([*fields, "", ""]).encode() + raw

    async def client(self) -> RawClient:
        """A new connection."""
        return await RawClient.open(self.gateway.port)

    async def ask(self, *lines: str, path: str = CHAT, method: str = "POST", **members: Any) -> Response:
        """One request for the model ``tutor`` on a connection of its own."""
        body = {"model": "tutor", "messages": [{"role": "user", "content": "hi"}], **members}
        async with await self.client() as client:
            return await client.ask(self.request(b"" if method == "GET" else body, *lines, path=path, method=method))

    async def record(self) -> dict[str, Any]:
        """Of the latest request."""
        number = self._ids[-1]
        return await self.gateway.record(lambda record: record["request_id"] == number)

    def set_flag(self, value: str, targeting: Any = None) -> None:
        """The flag ``tutor-split`` says ``value``, from now on."""
        flag: dict[str, Any] = {
            "state": "ENABLED", "variants": {name: name for name in ("stable", "canary", "odd")}, "defaultVariant": value,
        }  # fmt: skip
        if targeting is not None:
            flag["targeting"] = targeting
        new = self.flags.with_suffix(".new")
        new.write_text(json.dumps({"flags": {"tutor-split": flag}}))
        new.replace(self.flags)

    def forget(self) -> None:
        """Nobody has asked, nobody answers."""
        for upstream in (self.a, self.b):
            upstream.requests.clear()
            upstream.answer_with(None)

    def asked(self) -> dict[str, int]:
        """How many requests each upstream has had."""
        return {"a": len(self.a.requests), "b": len(self.b.requests)}


def models(**more: Any) -> list[dict[str, Any]]:
    """The model ``tutor``: a first, b when the flag says canary; ``more`` is laid over it."""
    return [
        {
            "name": "tutor",
            "flag": "tutor-split",
            "default": "stable",
            "splits": {"stable": [{"service": "a", "model": "up"}], "canary": [{"service": "b", "model": "up-b"}]},
            "fallback": ["canary"],
            **more,
        }
    ]


@asynccontextmanager
async def stage(
    folder: Path, *, config: Mapping[str, Any] | None = None, route: Mapping[str, Any] | None = None, first_byte: str = "400ms",
    **model: Any,
) -> AsyncIterator[Stage]:
    """Start everything; at the end the gateway's log must hold no error."""
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(RawUpstream()) for _ in range(2)]
        flags = folder / "flags.json"
        timeouts = {"connect": "500ms", "first_byte": first_byte, "idle": "1s"}
        full: dict[str, Any] = {
            "flags": {"provider": "flagd", "file": str(flags)},
            "services": [{"id": "a", "url": a.url, "timeouts": timeouts}, {"id": "b", "url": b.url, "timeouts": timeouts}],
            "models": models(**model),
            "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}, **(route or {})}],
            **(config or {}),
        }
        stand = Stage(None, a, b, flags, full)  # type: ignore[arg-type]  # made below, once the flags are there
        stand.set_flag("stable")
        stand.gateway = await stack.enter_async_context(RunningGateway(folder, full))
        yield stand
        await asyncio.sleep(0)
        nothing_went_wrong(stand.gateway)
