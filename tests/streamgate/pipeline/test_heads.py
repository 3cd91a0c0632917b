"""The heads that are written: framing made anew, everything else as it came but for what may not pass."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.pools import Endpoint
from sessions.relay import Response
from streamgate.errors import Answer
from streamgate.exchange import Dialect, Exchange
from streamgate.headers import Headers, Networks, Peer
from streamgate.pipeline.heads import (
    date_line,
    ends_with_connection,
    interim_head,
    own_answer,
    request_head,
    response_head,
    trailer_lines,
)
from streamgate.pipeline.plan import Plan
from tests.kit.clock import ManualClock
from tests.kit.inside import gateway_of

WALL_S = 784_111_777.9
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
ENDPOINT = Endpoint("127.0.0.1", 9001)


def plan_of(route: dict[str, Any] | None = None, **service: Any) -> Plan:
    config = {
        "services": [{"id": "up", "url": "http://127.0.0.1:9001", **service}],
        "routes": [{"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "up"}, **(route or {})}],
    }
    found = gateway_of(config, ManualClock()).routes.match(b"", b"/", b"GET")
    plan = getattr(found, "plan", None)
    assert isinstance(plan, Plan)
    return plan


def exchange(
    headers: Headers | None = None,
    *,
    method: bytes = b"GET",
    http10: bool = False,
    path: bytes = b"/a",
    query: bytes | None = None,
) -> Exchange:
    found = Exchange(
        method=method, path=path, query=query, host=b"gate.example", headers=headers or [], http10=http10, started_at=0.0
    )
    found.request_id = b"id-1"
    found.traceparent = b"00-t-s-01"
    return found


def sent(plan: Plan, one: Exchange, length: int | None = 0) -> tuple[bytes, Headers]:
    """(the request line, the fields)."""
    assert plan.service is not None
    peer = Peer("192.0.2.1", tls=False, trusted=Networks())
    return parsed(request_head(one, plan, plan.service, ENDPOINT, peer=peer, pseudonym=b"streamgate-x", length=length))


def parsed(head: bytes) -> tuple[bytes, Headers]:
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    line, *fields = head[:-4].split(b"\r\n")
    found = []
    for field in fields:
        name, colon, value = field.partition(b": ")
        assert colon, field
        found.append((name, value))
    return line, found


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for found, value in headers if found.lower() == name]


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_says_what_only_the_gateway_may() -> None:
    line, fields = sent(
        plan_of(), exchange([(b"Host", b"gate.example"), (b"X-A", b"1"), (b"x-forwarded-for", b"6.6.6.6")], query=b"q=1")
    )
    assert line == b"GET /a?q=1 HTTP/1.1"
    assert fields == [
        (b"Host", b"127.0.0.1:9001"),
        (b"X-A", b"1"),
        (b"X-Forwarded-For", b"192.0.2.1"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"gate.example"),
        (b"Via", b"1.1 streamgate-x"),
        (b"x-request-id", b"id-1"),
        (b"traceparent", b"00-t-s-01"),
    ]


@pytest.mark.parametrize(
    ("method", "length", "framing"),
    [
        (b"GET", 0, []),
        (b"HEAD", 0, []),
        (b"DELETE", 0, []),
        (b"POST", 0, [(b"Content-Length", b"0")]),
        (b"PUT", 0, [(b"Content-Length", b"0")]),
        (b"GET", 5, [(b"Content-Length", b"5")]),
        (b"POST", 1 << 40, [(b"Content-Length", b"1099511627776")]),
        (b"POST", None, [(b"Transfer-Encoding", b"chunked")]),
    ],
)
def test_a_request_is_framed_once(method: bytes, length: int | None, framing: Headers) -> None:
    theirs = [
        (b"content-length", b"99"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content_Length", b"7"),
        (b"Connection", b"content-length"),
    ]
    _, fields = sent(plan_of(), exchange(theirs, method=method), length)
    names = {b"content-length", b"transfer-encoding", b"content_length"}
    assert [pair for pair in fields if pair[0].lower() in names] == framing


@pytest.mark.parametrize(
    ("route", "host"),
    [({}, b"127.0.0.1:9001"), ({"host": "preserve"}, b"gate.example"), ({"host": "inner.example:81"}, b"inner.example:81")],
)
def test_host_policies(route: dict[str, Any], host: bytes) -> None:
    assert values(sent(plan_of(route), exchange())[1], b"host") == [host]


def test_preserving_no_host_names_the_endpoint() -> None:
    one = exchange(http10=True)
    one.host = b""
    assert values(sent(plan_of({"host": "preserve"}), one)[1], b"host") == [b"127.0.0.1:9001"]


def test_paths_are_rewritten() -> None:
    plan = plan_of({"rewrite": {"strip_prefix": "/api", "add_prefix": "/v2"}})
    assert sent(plan, exchange(path=b"/api/x", query=b""))[0] == b"GET /v2/x? HTTP/1.1"
    assert sent(plan, exchange(path=b"/apix"))[0] == b"GET /v2/apix HTTP/1.1"


def test_credentials_replace_the_clients_in_any_spelling() -> None:
    theirs = [(b"AUTHORIZATION", b"mine"), (b"Authorization", b"mine"), (b"X_Api_Key", b"mine")]
    _, fields = sent(plan_of(credentials={"bearer": "own"}), exchange(theirs))
    assert values(fields, b"authorization") == [b"Bearer own"]
    _, fields = sent(plan_of(credentials={"header": "X-Api-Key", "value": "own"}), exchange(theirs))
    assert [value for name, value in fields if name.lower().replace(b"_", b"-") == b"x-api-key"] == [b"own"]


def test_te_trailers_is_said_with_its_connection_field() -> None:
    _, fields = sent(plan_of(), exchange([(b"TE", b"gzip, trailers"), (b"Connection", b"TE")]))
    assert (values(fields, b"te"), values(fields, b"connection")) == ([b"trailers"], [b"TE"])
    _, fields = sent(plan_of(), exchange([(b"te", b"gzip")]))
    assert (values(fields, b"te"), values(fields, b"connection")) == ([], [])


def test_via_goes_on() -> None:
    one = exchange([(b"Via", b"1.0 a")], http10=True)
    one.named = {b"via": [b"1.0 a"]}
    assert values(sent(plan_of(), one)[1], b"via") == [b"1.0 a, 1.0 streamgate-x"]


# -- responses ---------------------------------------------------------------------------------------------------------


def response(
    headers: Headers | None = None,
    *,
    status: int = 200,
    length: int | None = None,
    chunked: bool = False,
    has_body: bool = True,
) -> Response:
    return Response(status, b"Fine", headers or [], length, chunked, has_body)


def answered(one: Exchange, found: Response, *, keep_alive: bool = True) -> Headers:
    framing = response_head(one, found, keep_alive=keep_alive, wall_s=WALL_S)
    line, fields = parsed(framing.head)
    assert line == b"HTTP/1.1 %d Fine" % found.status
    return fields


@pytest.mark.parametrize(
    ("http10", "found", "framing", "ends"),
    [
        (False, response(length=5), [(b"Content-Length", b"5")], False),
        (False, response(length=0), [(b"Content-Length", b"0")], False),
        (False, response(chunked=True), [(b"Transfer-Encoding", b"chunked")], False),
        (False, response(), [(b"Transfer-Encoding", b"chunked")], False),
        (True, response(length=5), [(b"Content-Length", b"5")], False),
        (True, response(chunked=True), [], True),
        (True, response(), [], True),
        (False, response(status=204, length=0, has_body=False), [], False),
        (False, response(status=204, chunked=True, has_body=False), [], False),
        (False, response(status=204, has_body=False), [], False),
        (False, response(status=304, length=9, has_body=False), [(b"Content-Length", b"9")], False),
        (False, response(status=304, chunked=True, has_body=False), [], False),
        (False, response(length=9, has_body=False), [(b"Content-Length", b"9")], False),
        (False, response(chunked=True, has_body=False), [], False),
        (True, response(chunked=True, has_body=False), [], False),
    ],
)
def test_an_answer_is_framed_once(http10: bool, found: Response, framing: Headers, ends: bool) -> None:
    theirs = [(b"Content-Length", b"%d" % found.length)] if found.length is not None else []
    theirs += [(b"Transfer-Encoding", b"chunked")] if found.chunked else []
    one = exchange(http10=http10)
    again = Response(found.status, found.reason, theirs, found.length, found.chunked, found.has_body)
    fields = answered(one, again, keep_alive=not ends)
    assert [pair for pair in fields if pair[0].lower() in {b"content-length", b"transfer-encoding"}] == framing
    assert ends_with_connection(one, again) is ends


@pytest.mark.parametrize(
    ("http10", "keep_alive", "said"),
    [(False, True, []), (False, False, [b"close"]), (True, True, [b"keep-alive"]), (True, False, [b"close"])],
)
def test_connection_is_said_where_the_version_does_not(http10: bool, keep_alive: bool, said: list[bytes]) -> None:
    fields = answered(
        exchange(http10=http10), response([(b"Connection", b"x, keep-alive"), (b"x", b"1")], length=0), keep_alive=keep_alive
    )
    assert values(fields, b"connection") == said
    assert values(fields, b"x") == []


def test_a_date_is_added_where_there_is_none() -> None:
    assert values(answered(exchange(), response(length=0)), b"date") == [DATE]
    assert values(answered(exchange(), response([(b"DATE", b"theirs")], length=0)), b"date") == [b"theirs"]
    assert date_line(WALL_S) == b"Date: " + DATE + b"\r\n"


def test_ids_and_what_happened() -> None:
    one = exchange()
    one.dialect, one.service, one.attempts = Dialect.OPENAI, "model-a", 2
    fields = answered(one, response([(b"X-Request-Id", b"theirs")], length=0))
    assert values(fields, b"x-request-id") == [b"id-1"]
    assert (values(fields, b"x-streamgate-service"), values(fields, b"x-streamgate-attempts")) == ([b"model-a"], [b"2"])
    assert values(answered(exchange(), response(length=0)), b"x-streamgate-service") == []


@pytest.mark.parametrize(
    ("kind", "encoded", "status", "dialect", "stream", "watched", "adds"),
    [
        (b"text/event-stream", None, 200, Dialect.OPENAI, True, True, True),
        (b"text/event-stream; charset=utf-8", b"identity", 200, Dialect.OPENAI, True, True, True),
        (b"Text/Event-Stream", None, 200, Dialect.PROBLEM, True, False, True),
        (b"text/event-stream", b"gzip", 200, Dialect.OPENAI, True, False, False),
        (b"text/event-stream", None, 429, Dialect.OPENAI, True, False, True),
        (b"application/x-ndjson", None, 200, Dialect.OPENAI, True, False, False),
        (b"application/json", None, 200, Dialect.OPENAI, False, False, False),
        (None, None, 200, Dialect.OPENAI, False, False, False),
    ],
)
def test_streams(
    kind: bytes | None, encoded: bytes | None, status: int, dialect: Dialect, stream: bool, watched: bool, adds: bool
) -> None:
    headers = [(b"content-type", kind)] if kind else []
    headers += [(b"Content-Encoding", encoded)] if encoded else []
    one = exchange()
    one.dialect = dialect
    framing = response_head(one, response(headers, chunked=True, status=status), keep_alive=True, wall_s=WALL_S)
    assert (framing.stream, framing.watched, framing.adds, framing.chunked) == (stream, watched, adds, True)
    assert (b"X-Accel-Buffering: no\r\n" in framing.head) is ((kind or b"").lower().startswith(b"text/event-stream"))


def test_interim_answers() -> None:
    early = response([(b"Link", b"</a>"), (b"Connection", b"x"), (b"x", b"1")], status=103, has_body=False)
    assert interim_head(exchange(), early) == b"HTTP/1.1 103 Fine\r\nLink: </a>\r\n\r\n"
    assert interim_head(exchange(http10=True), early) is None
    assert interim_head(exchange(), response(status=100, has_body=False)) is None


# -- trailers and our own ----------------------------------------------------------------------------------------------


def test_trailers_that_may_pass() -> None:
    given_lines = [
        (b"X-Sum", b"5"),
        (b"Content-Length", b"5"),
        (b"transfer_encoding", b"chunked"),
        (b"Host", b"a"),
        (b"Set-Cookie", b"a=b"),
    ]
    assert trailer_lines(given_lines) == b"X-Sum: 5\r\n"


@pytest.mark.parametrize(("status", "length"), [(200, b"2"), (404, b"2"), (205, b"2"), (204, None), (304, None)])
def test_own_answers_are_framed(status: int, length: bytes | None) -> None:
    answer = Answer(status, ((b"X-A", b"1"),), b"" if length is None else b"hi")
    whole = own_answer(answer, head_only=False, http10=False, keep_alive=True, date=date_line(WALL_S))
    head, _, body = whole.partition(b"\r\n\r\n")
    _, fields = parsed(head + b"\r\n\r\n")
    assert values(fields, b"content-length") == ([] if length is None else [length])
    assert (values(fields, b"date"), body) == ([DATE], answer.body)
    assert own_answer(answer, head_only=True, http10=False, keep_alive=True, date=date_line(WALL_S)) == head + b"\r\n\r\n"


def test_an_own_answer_keeps_a_date_it_was_given() -> None:
    answer = Answer(200, ((b"date", b"mine"),), b"")
    whole = own_answer(answer, head_only=False, http10=False, keep_alive=True, date=date_line(WALL_S))
    assert values(parsed(whole)[1], b"date") == [b"mine"]


NAMES = st.sampled_from(
    [
        b"X-A",
        b"Cookie",
        b"Connection",
        b"Content-Length",
        b"Transfer_Encoding",
        b"x-forwarded-for",
        b"TE",
        b"Host",
        b"Date",
        b"X_Real_IP",
    ]
)
LINES = st.lists(
    st.tuples(NAMES, st.binary(max_size=8).map(lambda value: bytes(code for code in value if 32 <= code < 127).strip())),
    max_size=8,
)


@given(LINES, st.sampled_from([None, 0, 7]), st.booleans())
def test_whatever_came_a_head_is_one_head(headers: Headers, length: int | None, http10: bool) -> None:
    _, fields = sent(PLAN, exchange(headers, method=b"POST", http10=http10), length)
    assert len(values(fields, b"content-length")) + len(values(fields, b"transfer-encoding")) == 1
    assert [len(values(fields, name)) for name in (b"host", b"x-forwarded-for", b"via", b"x-request-id")] == [1] * 4
    answer_fields = answered(exchange(headers, http10=http10), response(headers, length=length))
    assert len(values(answer_fields, b"content-length")) + len(values(answer_fields, b"transfer-encoding")) == (
        1 if length is not None or not http10 else 0
    )


PLAN = plan_of()
