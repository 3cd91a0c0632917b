"""A fast fake model server, so that what is measured is the proxy in front of it.

`python -m loadtests.upstream --port 9000`, one process. It answers

- `GET|POST /json`: a small JSON document;
- `POST …/chat/completions` (any path that ends so): a completion, or, with `"stream": true`, tokens at a steady rate;
- `GET /stats`: what is open, in which phase, how many exchanges were closed early, and when (`?reset=1` forgets the closes).

A request says what it wants in headers, or in the query string under the same names without `x-`:
`x-tokens` (how many), `x-rate` (tokens/s), `x-size` (bytes of one event), `x-id` (name under which a close is reported),
`x-hold` (`headers`: never answer; `body`: answer the head, then nothing).

Streams of one rate sit in buckets of a millisecond, and one timer serves a bucket: 2,000 streams are at most 1/rate timers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import parse_qsl

import httptools
import uvloop

from loadtests import processes, stamps

TICK_S = 0.001
HEAD_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
HEAD_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
SMALL = b'{"id":"item-1","object":"item","name":"a small document","size":3,"tags":["a","b","c"],"ok":true}'
COMPLETION = (
    b'{"id":"chatcmpl-0","object":"chat.completion","created":0,"model":"fake","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Good morning."},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6}}'
)
ANSWER_SMALL = HEAD_JSON % (len(SMALL), SMALL)
ANSWER_COMPLETION = HEAD_JSON % (len(COMPLETION), COMPLETION)
MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


@dataclass(slots=True)
class Counts:
    """What `/stats` tells."""

    started: int = 0
    finished: int = 0
    closed_early: int = 0
    tokens: int = 0
    connections: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    closes: dict[str, int] = field(default_factory=dict)

    def document(self) -> bytes:
        """The counts as JSON; `closes` is {x-id: monotonic nanoseconds}."""
        streams = self.phases["streaming"]
        return json.dumps(
            {
                "open_streams": streams,
                "open_connections": self.connections,
                "phases": {name: number for name, number in self.phases.items() if number},
                "started": self.started,
                "finished": self.finished,
                "closed_early": self.closed_early,
                "tokens": self.tokens,
                "closes": self.closes,
            },
        ).encode()


class Metronome:
    """All streams of one rate, in buckets by the millisecond of the period at which their tokens fall due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rate_per_s: float) -> None:
        """No timer runs until somebody joins."""
        self._loop = loop
        self._period_s = 1.0 / rate_per_s
        self._buckets: dict[int, dict[ModelConnection, None]] = {}

    def join(self, stream: ModelConnection) -> dict[ModelConnection, None]:
        """The bucket a stream now sits in: its next token comes one period from now, to the millisecond."""
        now = self._loop.time()
        phase = int(now % self._period_s / TICK_S)
        bucket = self._buckets.get(phase)
        if bucket is None:
            bucket = self._buckets[phase] = {}
            self._wait(phase, bucket, now + self._period_s)
        bucket[stream] = None
        return bucket

    def _wait(self, phase: int, bucket: dict[ModelConnection, None], due: float) -> None:
        self._loop.call_at(due, self._fire, phase, bucket, due)

    def _fire(self, phase: int, bucket: dict[ModelConnection, None], due: float) -> None:
        for stream in tuple(bucket):
            stream.emit()
        if not bucket:
            del self._buckets[phase]
            return
        behind = max(0, int((self._loop.time() - due) / self._period_s))  # beats that were missed are not made up for
        self._wait(phase, bucket, due + (behind + 1) * self._period_s)


class Model:
    """What all connections share: the counts, and a metronome for each rate."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing open, nothing counted."""
        self._loop = loop
        self._metronomes: dict[float, Metronome] = {}
        self.counts = Counts()

    def metronome(self, rate_per_s: float) -> Metronome:
        """The one that beats at this rate."""
        if rate_per_s not in self._metronomes:
            self._metronomes[rate_per_s] = Metronome(self._loop, rate_per_s)
        return self._metronomes[rate_per_s]


class ModelConnection(asyncio.Protocol):
    """One connection from the proxy: exchanges one after the other."""

    def __init__(self, model: Model) -> None:
        """Waits for its transport."""
        self._model = model
        self._counts = model.counts
        self._parser = httptools.HttpRequestParser(self)
        self._bucket: dict[ModelConnection, None] | None = None
        self._phase = ""
        self._wish: dict[str, str] = {}
        self._body = b""
        self._left = 0
        self._template = b""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self._transport = cast("asyncio.Transport", transport)
        self._counts.connections += 1

    def data_received(self, data: bytes) -> None:
        """Answer small requests without parsing them: the origin's own cost must not become the measurement."""
        if not self._phase and data.startswith(b"GET /json") and data.endswith(b"\r\n\r\n"):
            self._transport.write(ANSWER_SMALL * data.count(b"\r\n\r\n"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def eof_received(self) -> bool:
        """The other side is gone for good: a half-closed client is of no use to a model."""
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Count it back."""
        self._gone()
        self._counts.connections -= 1

    def _gone(self) -> None:
        if not self._phase:
            return
        self._counts.closes[self._wish.get("id", "")] = time.monotonic_ns()
        self._counts.closed_early += 1
        self._enter("")
        self._leave_bucket()

    # httptools

    def on_message_begin(self) -> None:
        """A new exchange."""
        self._body = b""
        self._path = b""
        self._wish = {}

    def on_url(self, url: bytes) -> None:
        """The target comes whole or in pieces."""
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Wishes come as `x-…`; nothing else matters here."""
        if name[:2] in (b"x-", b"X-"):
            self._wish[name[2:].decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        """Keep it: `"stream": true` stands in it."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer."""
        path, _, query = self._path.decode().partition("?")
        self._wish = dict(parse_qsl(query)) | self._wish
        if path == "/json":
            self._transport.write(ANSWER_SMALL)
        elif path == "/stats":
            document = self._counts.document()
            self._transport.write(HEAD_JSON % (len(document), document))
            if self._wish.get("reset"):
                self._counts.closes = {}
        elif path.endswith("/chat/completions"):
            self._complete(stream=b'"stream":true' in self._body.replace(b" ", b""))
        else:
            self._transport.write(MISSING)

    # what a model does

    def _complete(self, *, stream: bool) -> None:
        self._counts.started += 1
        hold = self._wish.get("hold")
        if hold == "headers":
            self._enter("held before headers")
        elif not stream:
            self._transport.write(ANSWER_COMPLETION)
            self._counts.finished += 1
        elif hold == "body":
            self._transport.write(HEAD_STREAM)
            self._enter("held before chunk")
        else:
            self._transport.write(HEAD_STREAM)
            self._enter("streaming")
            self._left = int(self._wish.get("tokens", 50))
            self._template = stamps.template(int(self._wish.get("size", 200)))
            rate_per_s = float(self._wish.get("rate", 50))
            self._bucket = self._model.metronome(rate_per_s).join(self)
            self.emit()

    def emit(self) -> None:
        """Send one token, stamped now; after the last one, the end."""
        self._left -= 1
        self._counts.tokens += 1
        self._transport.write(self._template % time.monotonic_ns())
        if self._left <= 0:
            self._transport.write(stamps.END_OF_STREAM)
            self._counts.finished += 1
            self._enter("")
            self._leave_bucket()

    def _leave_bucket(self) -> None:
        if self._bucket is not None:
            self._bucket.pop(self, None)
            self._bucket = None

    def _enter(self, phase: str) -> None:
        if self._phase:
            self._counts.phases[self._phase] -= 1
        self._phase = phase
        if phase:
            self._counts.phases[phase] += 1


async def serve(host: str, port: int) -> None:
    """Serve until cancelled; prints the port once it listens. Port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    model = Model(loop)
    server = await loop.create_server(lambda: ModelConnection(model), host, port, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.upstream", description="A fast fake model server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    processes.allow_many_files()
    uvloop.run(serve(chosen.host, chosen.port))


if __name__ == "__main__":
    main()
