"""What can go wrong, whose fault it is, and what each is on the wire.

    Fault                      (status, code, retryable, whose)
    ├── Refused                we declined: framing, route, size, load
    └── UpstreamFault          an upstream failed us: connect, reset, timeout, protocol

A fault has one sentence for the caller and one for the record, never mixed (dropshot's ``HttpError``), knows whose side it
is on and whether trying again can help (pingora-error). ``answer`` turns a fault into the client's dialect; ``in_band``
does the same after commit, as one event and no terminal event.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from streamgate.exchange import Dialect, Terminal

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}


class Fault(Exception):
    """Something went wrong with one exchange.

    ``code`` is what clients may branch on (one per line of DESIGN §9's table); ``name`` is finer, for the record, and
    defaults to the code. ``message`` may be read by anybody: no address, secret, header value or trace. ``note`` is for the
    record only.
    ``close`` says that the client's connection cannot be trusted any more and ends after the answer.
    """

    status = 500
    code = "internal"
    name = ""
    title = "The gateway failed"
    retryable = False
    proxy_status = "proxy_internal_error"
    terminal = Terminal.UPSTREAM_ERROR
    param: str | None = None
    """The part of the request that it is about, as OpenAI's errors name it."""

    def __init__(
        self,
        message: str = "",
        *,
        note: str = "",
        retry_after_s: float | None = None,
        close: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message or self.title)
        self.name = self.name or self.code
        self.message = message or self.title
        self.note = note
        self.retry_after_s = retry_after_s
        self.close = close
        self.headers = headers


class Refused(Fault):
    """We declined; the upstream never saw it."""

    status = 400
    code = "bad_request"
    title = "The request is malformed"
    proxy_status = "http_request_error"


class NotFramed(Refused):
    """The bytes are no unambiguous HTTP/1 request (RFC 9112 §2.2, §6.3): answered once, then the connection ends."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message, close=True)
        self.status = status


class NoRoute(Refused):
    """No route matches host and path."""

    status = 404
    code = "no_route"
    title = "No route matches this host and path"
    proxy_status = "destination_not_found"


class ModelNotFound(Refused):
    """The request asks for a model that is not configured, in OpenAI's words."""

    status = 404
    code = "model_not_found"
    title = "There is no model of this name"
    proxy_status = "destination_not_found"
    param = "model"


class WrongMethod(Refused):
    """A route matches, with other methods."""

    status = 405
    code = "no_route"
    name = "method_not_allowed"
    title = "This path does not take this method"
    proxy_status = "http_request_denied"


class TooLarge(Refused):
    """Head 431, target 414, body 413."""

    code = "too_large"
    title = "The request is larger than this gateway takes"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, close=True)
        self.status = status


class RequestTimeout(Refused):
    """The client did not finish its head or its body in time."""

    status = 408
    code = "request_timeout"
    title = "The request did not arrive in time"
    proxy_status = "connection_timeout"


class Looped(Refused):
    """The request has passed this gateway before (RFC 9110 §7.6.3, RFC 8586)."""

    status = 508
    code = "loop_detected"
    title = "This request has passed this gateway before"
    proxy_status = "proxy_loop_detected"


class Overloaded(Refused):
    """Every endpoint is at its ``max_in_flight``."""

    status = 503
    code = "overloaded"
    title = "Every endpoint of this service is busy"
    retryable = True
    proxy_status = "connection_limit_reached"


class QueueFull(Refused):
    """The waiting line of a model takes no more. ``reason`` is llm-d's word for it, ``name`` ours and finer."""

    status = 429
    code = "queue_full"
    name = "rejected-saturated"
    title = "Too many requests are waiting for this model"
    retryable = True
    proxy_status = "connection_limit_reached"
    reason = "rejected-saturated"

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s, headers=_queue_reason(self.reason))


class WaitTooLong(QueueFull):
    """The wait would be longer than the caller's patience, so it is not begun."""

    name = "rejected-wait-too-long"
    title = "The wait for this model would be longer than the request may take"


class Evicted(QueueFull):
    """The line was full, and one came who was more urgent or of whose flow fewer waited: the last of the longest flow made room."""

    name = "evicted"
    title = "The request gave up its place in the line to one that was due before it"
    reason = "evicted"


class QueueExpired(Refused):
    """The caller's patience ended in the waiting line. It has waited for as long as it would: trying again is its own affair."""

    status = 429
    code = "queue_timeout"
    name = "rejected-ttl-expired"
    title = "The request waited for this model as long as it may"
    proxy_status = "connection_limit_reached"
    reason = "rejected-ttl-expired"

    def __init__(self, message: str = "") -> None:
        super().__init__(message, headers=_queue_reason(self.reason))


def _queue_reason(reason: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"x-streamgate-queue-reason", reason.encode()),)


class ShuttingDown(Refused):
    """The gateway drains; another one should be asked."""

    status = 503
    code = "shutting_down"
    title = "This gateway is shutting down"
    retryable = True
    proxy_status = "proxy_internal_response"
    terminal = Terminal.SHUTDOWN


class UpstreamFault(Fault):
    """An upstream failed us."""

    status = 502
    code = "upstream_error"
    title = "The upstream failed"
    retryable = True
    proxy_status = "connection_terminated"


class Unreachable(UpstreamFault):
    """No connection could be opened: refused, unresolvable, TLS not accepted. Nothing was sent."""

    code = "upstream_unreachable"
    title = "The upstream cannot be reached"
    proxy_status = "connection_refused"


class ConnectTimeout(Unreachable):
    """``timeouts.connect`` passed. Nothing was sent."""

    status = 504
    code = "upstream_timeout"
    name = "connect_timeout"
    title = "The upstream did not accept a connection in time"
    proxy_status = "connection_timeout"


class NoHealthyUpstream(UpstreamFault):
    """The service has no endpoint that may be picked."""

    status = 503
    code = "no_healthy_upstream"
    title = "The service has no endpoint to send this to"
    proxy_status = "destination_unavailable"


class UpstreamReset(UpstreamFault):
    """The upstream ended the connection before it had answered."""

    code = "upstream_unreachable"
    name = "upstream_reset"
    title = "The upstream closed the connection before answering"


class UpstreamTruncated(UpstreamFault):
    """The body ended before its framing or its dialect said so."""

    code = "upstream_truncated"
    title = "The upstream ended the answer before it was complete"
    proxy_status = "http_response_incomplete"
    terminal = Terminal.UPSTREAM_TRUNCATED


class UpstreamMalformed(UpstreamFault):
    """What the upstream sent is no HTTP/1 response."""

    code = "upstream_malformed"
    title = "The upstream's answer is malformed"
    retryable = False
    proxy_status = "http_protocol_error"


class FirstByteTimeout(UpstreamFault):
    """``timeouts.first_byte`` passed before the answer began."""

    status = 504
    code = "upstream_timeout"
    name = "first_byte_timeout"
    title = "The upstream did not begin to answer in time"
    proxy_status = "http_response_timeout"


class IdleTimeout(UpstreamFault):
    """``timeouts.idle`` passed between two bytes of the answer."""

    status = 504
    code = "upstream_timeout"
    name = "idle_timeout"
    title = "The upstream fell silent in the middle of its answer"
    proxy_status = "http_response_timeout"
    terminal = Terminal.IDLE_TIMEOUT


class TotalTimeout(UpstreamFault):
    """``timeouts.total`` passed before the answer ended."""

    status = 504
    code = "upstream_timeout"
    name = "total_timeout"
    title = "The answer took longer than this route allows"
    proxy_status = "http_response_timeout"


class ClientClosed(Fault):
    """The client went away: recorded as 499, no failure of anybody."""

    status = 499
    code = "client_closed"
    title = "The client closed the connection"
    proxy_status = "http_request_error"
    terminal = Terminal.CLIENT_CLOSED


class ClientStalled(ClientClosed):
    """The client read nothing for ``gate.timeouts.write``."""

    code = "client_stalled"
    title = "The client stopped reading"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of our own: everything but the framing and the connection's fate."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


_OPENAI_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "invalid_request_error",
    405: "invalid_request_error", 413: "invalid_request_error", 414: "invalid_request_error", 429: "rate_limit_error",
    431: "invalid_request_error", 408: "timeout_error", 504: "timeout_error",
}  # fmt: skip
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 408: "timeout_error",
}  # fmt: skip


def _text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _openai(fault: Fault, code: str) -> dict[str, object]:
    kind = _OPENAI_TYPES.get(fault.status, "server_error")
    return {"message": fault.message, "type": kind, "param": fault.param, "code": code}


def _anthropic(fault: Fault, request_id: str) -> dict[str, object]:
    kind = _ANTHROPIC_TYPES.get(fault.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": request_id}


def _problem(fault: Fault, request_id: str, code: str) -> dict[str, object]:
    return {
        "type": f"urn:streamgate:{code}",
        "title": fault.title,
        "status": fault.status,
        "detail": fault.message,
        "code": code,
        "request_id": request_id,
        "retryable": fault.retryable,
    }


def _hints(fault: Fault, *, ai: bool) -> list[tuple[bytes, bytes]]:
    """When to come back. SDKs read ``retry-after-ms`` first and obey ``x-should-retry`` (openai-python ``_base_client``)."""
    if not fault.retryable:
        return [(b"x-should-retry", b"false")] if ai else []
    wait_s = min(60.0, max(1.0, fault.retry_after_s or 1.0))
    return [(b"Retry-After", b"%d" % -(-wait_s // 1)), (b"retry-after-ms", b"%d" % (wait_s * 1000))]


def answer(fault: Fault, dialect: Dialect, request_id: bytes) -> Answer:
    """The whole answer to a fault before commit, in the client's dialect (DESIGN §9)."""
    text = request_id.decode("ascii")
    match dialect:
        case Dialect.ANTHROPIC:
            kind, body = b"application/json", _text(_anthropic(fault, text))
        case Dialect.OPENAI | Dialect.RESPONSES:
            kind, body = b"application/json", _text({"error": _openai(fault, fault.code)})
        case Dialect.PROBLEM:
            kind, body = b"application/problem+json", _text(_problem(fault, text, fault.code))
    headers = [
        (b"Content-Type", kind),
        (b"Cache-Control", b"no-store"),
        (b"x-request-id", request_id),
        (b"Proxy-Status", b"streamgate; error=" + fault.proxy_status.encode()),
        *_hints(fault, ai=dialect is not Dialect.PROBLEM),
        *fault.headers,
    ]
    return Answer(fault.status, tuple(headers), body)


def in_band(fault: Fault, dialect: Dialect, request_id: bytes) -> bytes:
    """One server-sent event that ends a stream which broke after commit; no terminal event follows it.

    openai-python raises on any data with a truthy ``error``; anthropic's SDKs on ``event: error``; so does a browser's
    EventSource listener for ``error`` events with data. Its code is the terminal state; of a stream that was opened while it waited
    for its turn, and then refused, it is the refusal's own.
    """
    code = fault.code if isinstance(fault, Refused) and fault.terminal is Terminal.UPSTREAM_ERROR else str(fault.terminal)
    text = request_id.decode("ascii")
    match dialect:
        case Dialect.OPENAI:
            return b"data: " + _text({"error": _openai(fault, code)}) + b"\n\n"
        case Dialect.RESPONSES:
            body: dict[str, object] = {"type": "error", "code": code, "message": fault.message, "param": None}
            body["error"] = _openai(fault, code)  # the SDKs hand an error event to their user, but raise where there is this key
            return b"event: error\ndata: " + _text(body) + b"\n\n"
        case Dialect.ANTHROPIC:
            return b"event: error\ndata: " + _text(_anthropic(fault, text)) + b"\n\n"
        case Dialect.PROBLEM:
            return b"event: error\ndata: " + _text(_problem(fault, text, code)) + b"\n\n"
