"""One streamed chat completion, asked for the way users ask: with the openai SDK, or plain HTTP where it is missing."""

import http.client
import importlib
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_TOKENS: Final = 120
TIMEOUT_S: Final = 60.0

Ask = Callable[[str, dict[str, Any], Mapping[str, str]], Iterator[str]]
"""Server, request body, headers; yields text. Raises CompletionError."""


class CompletionError(Exception):
    """The completion did not come; the text says what came instead."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What arrived."""

    pieces: int
    first_s: float
    """From asking to the first text."""
    total_s: float


def stream(
    url: str,
    model: str,
    prompt: str,
    show: Callable[[str], None],
    headers: Mapping[str, str],
    *,
    ask: Ask | None = None,
) -> Heard:
    """Ask the server at `url`; hand every piece of text to `show` as it comes. Raises CompletionError."""
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    ask = ask or usual()  # before the clock starts: importing an SDK takes a second, which is not the gateway's
    begin = time.monotonic()
    first_s, pieces = 0.0, 0
    for text in ask(url, asked, headers):
        if not pieces:
            first_s = time.monotonic() - begin
        pieces += 1
        show(text)
    if not pieces:
        raise CompletionError("the stream ended without a word")
    return Heard(pieces=pieces, first_s=first_s, total_s=time.monotonic() - begin)


def usual() -> Ask:
    """By way of the SDK, or without it where it is not installed."""
    try:
        importlib.import_module("openai")
    except ImportError:
        return through_http
    return through_sdk


def through_sdk(url: str, asked: dict[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    """The pieces of text, read by the openai SDK."""
    import openai  # noqa: PLC0415 (optional)

    # Not by way of a proxy named in the environment: the address is on this machine.
    transport = openai.DefaultHttpxClient(trust_env=False)
    try:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="none-needed", max_retries=0, timeout=TIMEOUT_S, http_client=transport
        ) as client:
            for chunk in client.chat.completions.create(**asked, extra_headers=dict(headers)):
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
    except openai.OpenAIError as error:
        raise CompletionError(f"{type(error).__name__}: {error}") from error


def through_http(url: str, asked: dict[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    """The pieces of text, read without any SDK."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        body = json.dumps(asked)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise CompletionError(f"status {answer.status}: {answer.read(2000).decode(errors='replace')}")
        for line in answer:
            name, _, value = line.decode().strip().partition(": ")
            if name == "data" and value == "[DONE]":
                return
            if name == "data":
                chunk = json.loads(value)
                if "error" in chunk:
                    raise CompletionError(str(chunk["error"].get("message")))
                if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("content")):
                    yield text
        raise CompletionError("the stream was cut off before its end")
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        raise CompletionError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
