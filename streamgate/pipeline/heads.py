"""The heads we write: the request's towards an upstream, the response's towards a client. Framing is made anew on each side
(RFC 9112 §6); everything else passes as it came, but for what ``streamgate.headers`` says may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from routers.paths import rewrite
from routers.pools import Endpoint
from sessions.relay import Framing, Response
from streamgate.errors import REASONS, Answer, Fault, answer
from streamgate.exchange import Dialect, Exchange
from streamgate.headers import Headers, Names, Peer, for_client, for_upstream, forwarded_headers, safe_trailer, values, via_line
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.prompt import Prompt

_STREAMS: Final = (
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/jsonl",
    b"application/stream+json",
    b"application/vnd.amazon.eventstream",
)
_WITH_CONTENT: Final = frozenset({b"POST", b"PUT", b"PATCH"})
_OURS: Final = frozenset({b"content-length", b"x-request-id"})
_OK: Final = 200
_NO_CONTENT: Final = 204
_FIELD: Final = b": ".join
_CONTINUE: Final = 100
_NO_VISIBLE: Final = re.compile(rb"[^\x20-\x7e]")
_TE: Final = (b"TE", b"trailers")
_PROBLEM: Final = Dialect.PROBLEM


def field_lines(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as lines, each ended by CRLF."""
    lines = b"\r\n".join(map(_FIELD, pairs))
    return lines + b"\r\n" if lines else b""


def request_head(  # everything that may stand in a head
    exchange: Exchange, plan: Plan, service: ServicePlan, endpoint: Endpoint, *, peer: Peer, pseudonym: bytes,
    length: int | None,
) -> bytes:  # fmt: skip
    """The head for ``endpoint``; ``length`` None sends the body in chunks."""
    target, headers = exchange.path, exchange.headers
    if plan.strip is not None or plan.add is not None:
        target = rewrite(target, plan.strip, plan.add)
    if exchange.query is not None:
        target += b"?" + exchange.query
    host = endpoint.authority if plan.host is None else plan.host or exchange.host or endpoint.authority
    passed = for_upstream(headers, drop=service.withheld)
    lines = [
        b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (exchange.method, target, host),
        field_lines(passed),
        forwarded_headers(peer, exchange.host, headers),
        via_line(exchange.named.get(b"via", ()), pseudonym, b"1.0" if exchange.http10 else b"1.1"),
        b"x-request-id: %b\r\ntraceparent: %b\r\n" % (exchange.request_id, exchange.traceparent),
        service.credentials,
    ]
    if _TE in passed:
        lines.append(b"Connection: TE\r\n")
    if exchange.tracestate is not None:
        lines.append(b"tracestate: " + exchange.tracestate + b"\r\n")
    if length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif length or exchange.method in _WITH_CONTENT:
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


_content: Final = Names(b"content-type", b"content-encoding", b"date")


def _of_type(headers: Headers) -> tuple[bytes, bool, bool]:
    """(media type, whether the content is encoded, whether there is a Date)."""
    kind, encoded, dated = b"", False, False
    for name, value in headers:
        if known := _content[name]:
            if known == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
            elif known == b"content-encoding":
                encoded = value.strip().lower() not in {b"", b"identity"}
            else:
                dated = True
    return kind, encoded, dated


def date_line(wall_s: float) -> bytes:
    """The Date field: whoever has a clock adds it to a response that has none (RFC 9110 §6.6.1)."""
    return _date_line(int(wall_s))


@lru_cache(maxsize=2)
def _date_line(second: int) -> bytes:
    return b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()


def ends_with_connection(exchange: Exchange, response: Response) -> bool:
    """Whether nothing but the connection's end can tell this client that the body is over: HTTP/1.0 knows no chunks."""
    return exchange.http10 and response.length is None and response.has_body


def response_head(exchange: Exchange, response: Response, *, keep_alive: bool, wall_s: float) -> Framing:
    """Our answer's head and framing for an upstream's. A stream that its provider compressed cannot be watched or added to."""
    kind, encoded, dated = _of_type(response.headers)
    status, length, has_body = response.status, response.length, response.has_body
    events, ai = kind == b"text/event-stream", exchange.dialect is not _PROBLEM
    until_close = ends_with_connection(exchange, response)
    chunked = has_body and length is None and not until_close
    lines = [_status_line(status, response.reason), field_lines(for_client(response.headers, drop=_OURS))]
    if not dated:
        lines.append(date_line(wall_s))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif length is not None and status != _NO_CONTENT:  # RFC 9110 §8.6
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(b"x-request-id: %b\r\n" % exchange.request_id)
    if events and not values(response.headers, b"x-accel-buffering"):
        lines.append(b"X-Accel-Buffering: no\r\n")
    if ai:
        lines.append(field_lines(story(exchange)))
    lines.append(connection_line(http10=exchange.http10, keep_alive=keep_alive))
    readable = events and not encoded
    return Framing(
        head=b"".join(lines),
        chunked=chunked,
        open=until_close and readable,
        stream=has_body and kind in _STREAMS,
        watched=readable and ai and has_body and status == _OK,
        adds=readable,
    )


@lru_cache(maxsize=64)
def _status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def connection_line(*, http10: bool, keep_alive: bool) -> bytes:
    """The Connection field, where the version's default does not say it, and the empty line that ends a head."""
    if not keep_alive:
        return b"Connection: close\r\n\r\n"
    return b"Connection: keep-alive\r\n\r\n" if http10 else b"\r\n"


def interim_head(exchange: Exchange, response: Response) -> bytes | None:
    """A 1xx for this client, or None: HTTP/1.0 knows none, and 100 was ours to say (RFC 9110 §15.2)."""
    if exchange.http10 or response.status == _CONTINUE:
        return None
    lines = [_status_line(response.status, response.reason)]
    lines.append(field_lines(for_client(response.headers, drop=_OURS)))
    return b"".join(lines) + b"\r\n"


def trailer_lines(trailers: Headers) -> bytes:
    """The trailer fields that may pass (RFC 9110 §6.5.1)."""
    return field_lines([pair for pair in trailers if safe_trailer(pair[0])])


def story(exchange: Exchange) -> Headers:
    """What an answer on an AI path says about what was tried for it (DESIGN §9); nothing while no service was."""
    if exchange.dialect is Dialect.PROBLEM:
        return []
    told: Headers = []
    if exchange.service is not None:
        told += (b"x-streamgate-service", _ascii(exchange.service)), (b"x-streamgate-attempts", b"%d" % exchange.attempts)
    return told if exchange.prompt is None else told + _of_prompt(exchange.prompt)


def _of_prompt(prompt: Prompt) -> Headers:
    """What was chosen for a request to a model, and why."""
    told = [(b"x-streamgate-model", _ascii(prompt.model)), (b"x-streamgate-queue-ms", b"%d" % (prompt.queue_s * 1e3))]
    for name, value in (
        (b"x-streamgate-split", prompt.split),
        (b"x-streamgate-routed-model", prompt.routed),
        (b"x-streamgate-variant", prompt.variant),
        (b"x-streamgate-reason", prompt.reason),
    ):
        if value is not None:
            told.append((name, _ascii(value)))
    return told


def fault_answer(exchange: Exchange, fault: Fault) -> Answer:
    """The whole answer to a fault before commit."""
    plain = answer(fault, exchange.dialect, exchange.request_id)
    return replace(plain, headers=(*plain.headers, *story(exchange)))


def own_answer(said: Answer, *, head_only: bool, http10: bool, keep_alive: bool, date: bytes) -> bytes:
    """A whole response of our own."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (said.status, REASONS.get(said.status, b""))]
    lines.append(field_lines(said.headers))
    if not any(name.lower() == b"date" for name, _ in said.headers):
        lines.append(date)
    if said.status not in {204, 304}:
        lines.append(b"Content-Length: %d\r\n" % len(said.body))
    lines.append(connection_line(http10=http10, keep_alive=keep_alive))
    if not head_only:
        lines.append(said.body)
    return b"".join(lines)


@lru_cache(maxsize=1024)
def _ascii(text: str) -> bytes:
    return _NO_VISIBLE.sub(b"?", text.encode("ascii", "replace"))
