"""Every fault on the wire: its status and code, its words in each dialect, and what it must never say."""

import importlib
import json
from collections.abc import Iterator

import pytest

from streamgate import errors
from streamgate.errors import (
    ClientClosed,
    Evicted,
    Fault,
    NotFramed,
    Overloaded,
    QueueExpired,
    QueueFull,
    Refused,
    TooLarge,
    UpstreamFault,
    WaitTooLong,
    WrongMethod,
    answer,
    in_band,
)
from streamgate.exchange import Dialect, Terminal

TABLE = {
    "Fault": (500, "internal"),
    "Refused": (400, "bad_request"),
    "NotFramed": (400, "bad_request"),
    "NoRoute": (404, "no_route"),
    "ModelNotFound": (404, "model_not_found"),
    "WrongMethod": (405, "no_route"),
    "TooLarge": (413, "too_large"),
    "RequestTimeout": (408, "request_timeout"),
    "Looped": (508, "loop_detected"),
    "Overloaded": (503, "overloaded"),
    "QueueFull": (429, "queue_full"),
    "WaitTooLong": (429, "queue_full"),
    "Evicted": (429, "queue_full"),
    "QueueExpired": (429, "queue_timeout"),
    "ShuttingDown": (503, "shutting_down"),
    "UpstreamFault": (502, "upstream_error"),
    "Unreachable": (502, "upstream_unreachable"),
    "ConnectTimeout": (504, "upstream_timeout"),
    "NoHealthyUpstream": (503, "no_healthy_upstream"),
    "UpstreamReset": (502, "upstream_unreachable"),
    "UpstreamTruncated": (502, "upstream_truncated"),
    "UpstreamMalformed": (502, "upstream_malformed"),
    "FirstByteTimeout": (504, "upstream_timeout"),
    "IdleTimeout": (504, "upstream_timeout"),
    "TotalTimeout": (504, "upstream_timeout"),
    "ClientClosed": (499, "client_closed"),
    "ClientStalled": (499, "client_stalled"),
}
"""What clients branch on: changing a line breaks somebody."""

RFC_9209 = {
    "dns_timeout", "dns_error", "destination_not_found", "destination_unavailable", "destination_ip_prohibited",
    "destination_ip_unroutable", "connection_refused", "connection_terminated", "connection_timeout", "connection_read_timeout",
    "connection_write_timeout", "connection_limit_reached", "tls_protocol_error", "tls_certificate_error", "tls_alert_received",
    "http_request_error", "http_request_denied", "http_response_incomplete", "http_response_header_section_size",
    "http_response_timeout", "http_upgrade_failed", "http_protocol_error", "proxy_internal_response", "proxy_internal_error",
    "proxy_configuration_error", "proxy_loop_detected",
}  # fmt: skip


def kinds(of: type[Fault] = Fault) -> Iterator[type[Fault]]:
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from kinds(kind)


def made(kind: type[Fault]) -> Fault:
    if issubclass(kind, TooLarge):
        return kind("It is too large", status=413)
    return kind("Not framed") if issubclass(kind, NotFramed) else kind()


FAULTS = [made(kind) for kind in kinds()]


def named(fault: Fault) -> str:
    return type(fault).__name__


def fields(headers: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    assert len({name.lower() for name, _ in headers}) == len(headers)
    return {name.decode().lower(): value.decode() for name, value in headers}


def test_status_and_code_of_each() -> None:
    assert {named(fault): (fault.status, fault.code) for fault in FAULTS} == TABLE


@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_each_says_whose_it_is_and_how_it_ends(fault: Fault) -> None:
    assert fault.message
    assert fault.name
    assert fault.proxy_status in RFC_9209
    assert fault.terminal in Terminal
    if isinstance(fault, UpstreamFault):
        assert fault.status >= 502
    elif not isinstance(fault, ClientClosed) and type(fault) is not Fault:
        assert isinstance(fault, Refused)


def test_names_are_as_fine_as_the_record_needs() -> None:
    names = [fault.name for fault in FAULTS if type(fault) not in {Fault, Refused, UpstreamFault, NotFramed}]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fault", FAULTS, ids=named)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_whole_answer(fault: Fault, dialect: Dialect) -> None:
    said = answer(fault, dialect, b"r-1")
    head, body = fields(said.headers), json.loads(said.body)
    assert said.status == fault.status
    assert head["cache-control"] == "no-store"
    assert head["x-request-id"] == "r-1"
    assert head["proxy-status"] == f"streamgate; error={fault.proxy_status}"
    if dialect is Dialect.PROBLEM:
        assert head["content-type"] == "application/problem+json"
        assert body == {
            "type": f"urn:streamgate:{fault.code}", "title": fault.title, "status": fault.status, "detail": fault.message,
            "code": fault.code, "request_id": "r-1", "retryable": fault.retryable,
        }  # fmt: skip
    elif dialect is Dialect.ANTHROPIC:
        assert head["content-type"] == "application/json"
        assert body["type"] == "error"
        assert body["error"]["message"] == fault.message
        assert body["error"]["type"].endswith(("_error", "_too_large"))
    else:
        assert head["content-type"] == "application/json"
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["code"] == fault.code
    if fault.retryable:
        assert 1 <= int(head["retry-after"]) <= 60
        assert 1000 <= int(head["retry-after-ms"]) <= 60_000
        assert "x-should-retry" not in head
    else:
        assert "retry-after" not in head
        assert head.get("x-should-retry") == (None if dialect is Dialect.PROBLEM else "false")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", [QueueFull(), WaitTooLong(), Evicted(), QueueExpired()], ids=named)
def test_sdks_try_again_where_a_queue_may_take_them_then(fault: Fault, sdk: str) -> None:
    package = pytest.importorskip(sdk)
    kind = next(kind for kind in package.DefaultHttpxClient.__mro__ if kind.__module__.startswith("httpx"))
    http = importlib.import_module(kind.__module__.partition(".")[0])  # which of them depends on the SDK's version
    dialect, client = (Dialect.OPENAI, package.OpenAI) if sdk == "openai" else (Dialect.ANTHROPIC, package.Anthropic)
    said = answer(fault, dialect, b"r")
    response = http.Response(said.status, headers=list(said.headers), content=said.body)
    assert client(api_key="k")._should_retry(response) is (not isinstance(fault, QueueExpired))


@pytest.mark.parametrize(
    ("asked_s", "said_s", "said_ms"), [(None, 1, 1000), (0.2, 1, 1000), (1.5, 2, 1500), (59.1, 60, 59100), (900, 60, 60000)]
)
def test_when_to_come_back(asked_s: float | None, said_s: int, said_ms: int) -> None:
    head = fields(answer(Overloaded(retry_after_s=asked_s), Dialect.OPENAI, b"r").headers)
    assert (int(head["retry-after"]), int(head["retry-after-ms"])) == (said_s, said_ms)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    ("fault", "reason", "retry_after"),
    [
        (QueueFull(retry_after_s=7.2), "rejected-saturated", "8"),
        (WaitTooLong(retry_after_s=400.0), "rejected-saturated", "60"),
        (Evicted(retry_after_s=0.3), "evicted", "1"),
        (QueueExpired(), "rejected-ttl-expired", None),
    ],
    ids=["full", "too_long", "evicted", "expired"],
)
def test_a_queue_says_why_in_llm_ds_words(fault: Fault, reason: str, retry_after: str | None, dialect: Dialect) -> None:
    said = answer(fault, dialect, b"r")
    head, body = fields(said.headers), json.loads(said.body)
    assert (said.status, head["x-streamgate-queue-reason"], head.get("retry-after")) == (429, reason, retry_after)
    if dialect is not Dialect.PROBLEM:
        assert body["error"]["type"] == "rate_limit_error"
        assert head.get("x-should-retry") == (None if retry_after else "false")


def test_headers_of_its_own_are_added() -> None:
    assert fields(answer(WrongMethod(headers=((b"Allow", b"GET"),)), Dialect.PROBLEM, b"r").headers)["allow"] == "GET"


@pytest.mark.parametrize("dialect", list(Dialect))
def test_what_is_for_the_record_is_not_for_the_client(dialect: Dialect) -> None:
    fault = UpstreamFault("It failed", note="127.0.0.1:9001 said hunter2")
    for text in (answer(fault, dialect, b"r").body, in_band(fault, dialect, b"r")):
        assert b"hunter2" not in text
        assert b"127.0.0.1" not in text


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if isinstance(fault, UpstreamFault)], ids=named)
def test_in_band_it_is_one_event_and_no_terminal_one(fault: Fault, dialect: Dialect) -> None:
    event = in_band(fault, dialect, b"r-1")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    lines = event[:-2].split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == ([b"data"] if dialect is Dialect.OPENAI else [b"event", b"data"])
    data = json.loads(lines[-1].removeprefix(b"data: "))
    assert (
        str(fault.terminal)
        == {
            Dialect.OPENAI: lambda: data["error"]["code"],
            Dialect.RESPONSES: lambda: data["code"],
            Dialect.PROBLEM: lambda: data["code"],
            Dialect.ANTHROPIC: lambda: str(fault.terminal),
        }[dialect]()
    )
    assert not any(mark in event for mark in (b"[DONE]", b"message_stop", b"response.completed"))


def test_a_message_with_line_ends_stays_one_event() -> None:
    for dialect in Dialect:
        assert in_band(Fault('a\n\nb\r\n"\u2028'), dialect, b"r").count(b"\n\n") == 1
