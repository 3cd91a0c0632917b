"""What a head says on its other side: targets, Host, who is asking, credentials, and what may not pass."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.end_to_end.stand import HOST, TRUSTED, Stand, request, standing, with_body
from tests.kit.client import Response
from tests.kit.upstream import Arrived
from tests.kit.wire import Request, answer, head

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing_here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("heads")) as stand:
        yield stand


@pytest.fixture
def stand(standing_here: Stand) -> Stand:
    standing_here.forget()
    standing_here.up.answer_with(lambda _arrived: answer(b"ok"))
    return standing_here


async def sent(stand: Stand, data: bytes, *, source: str | None = None) -> Request:
    """What the upstream saw of a request."""
    async with await stand.client(source=source) as client:
        response = await client.ask(data)
        assert (response.status, response.body) == (200, b"ok"), response
    return stand.up.requests[-1]


async def refused(stand: Stand, data: bytes) -> Response:
    """The refusal of a request that reaches nobody."""
    async with await stand.client() as client:
        response = await client.ask(data)
    assert response.status in range(400, 500)
    assert stand.up.requests == []
    return response


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        ("/up/a", "/up/a"),
        ("/up/", "/up/"),
        ("/up/%61%7e%2D", "/up/a~-"),
        ("/up/%c3%a9", "/up/%C3%A9"),
        ("/up//a", "/up/a"),
        ("/up/./a/../b", "/up/b"),
        ("/up/%2e/a/%2E%2e/b", "/up/b"),
        ("/other/../up/a", "/up/a"),
        ("/up/a?x=%61&y=//..&z", "/up/a?x=%61&y=//..&z"),
        ("/up/a?", "/up/a?"),
        ("/up/a;v=1/b", "/up/a;v=1/b"),
        ('/up/"a"|b', "/up/%22a%22%7Cb"),
        (f"http://{HOST}/up/a?b", "/up/a?b"),
        (f"http://{HOST.upper()}:80/up/a", "/up/a"),
        (f"http://user:word@{HOST}/up/a", "/up/a"),
        ("/keep/a%2fb", "/keep/a%2Fb"),
        ("/api/v1/x?y", "/internal/v1/x?y"),
        ("/api/", "/internal/"),
        ("/api/%2e%2e/api/x", "/internal/x"),
    ],
)
async def test_the_upstream_gets_the_canonical_target(stand: Stand, target: str, arrives: str) -> None:
    assert (await sent(stand, request("GET", target))).target == arrives


@pytest.mark.parametrize(
    "target",
    [
        *("/up/../..", "/up/%2e%2e/%2e%2e/%2e%2e/etc", "/up/a%2fb", "/up/a%2Fb", "/up/..%2fx", "/keep/..%2fx"),
        *("/up/%00", "/up/%5c..%5c", "/up/%", "/up/%zz", "/up/a/..;/b", "/up/a#b", "/up/a?b#c", "up/a", "//"),
        *("http://other.example/up/a", f"http://{HOST}:81/up/a", f"http://a@b@{HOST}/up/a", f"ftp://{HOST}/up/a"),
        *("*", "/up/..", "/upx/a"),
    ],
)
async def test_a_target_that_could_be_read_in_two_ways_is_refused(stand: Stand, target: str) -> None:
    response = await refused(stand, request("GET", target))
    assert response.status in {400, 404}


# -- Host --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host"), [("/up/x", None), ("/preserve/x", "Gate.example:8080"), ("/named/x", "other.example:8443")]
)
async def test_the_host_sent_on(stand: Stand, target: str, host: str | None) -> None:
    arrived = await sent(stand, request("GET", target, host="Gate.example:8080"))
    assert arrived.header("host") == (host or stand.up.url.removeprefix("http://"))
    assert arrived.header("x-forwarded-host") == "Gate.example:8080"


@pytest.mark.parametrize("host", ["only.example", "ONLY.example", "only.example.", "only.example:8080", "only.example:"])
async def test_a_route_is_found_by_the_host_whatever_the_port(stand: Stand, host: str) -> None:
    assert (await sent(stand, request("GET", "/hosted", host=host))).target == "/hosted"


async def test_an_absolute_target_names_the_host(stand: Stand) -> None:
    """Also where HTTP/1.0 sends no Host at all."""
    data = request("GET", "http://only.example:80/hosted", host=None, version="1.0")
    assert (await sent(stand, data)).header("x-forwarded-host") == "only.example"


@pytest.mark.parametrize("host", ["other.example", "only.example.evil", "xonly.example", "", "[::1]:80"])
async def test_a_route_for_another_host(stand: Stand, host: str) -> None:
    assert (await refused(stand, request("GET", "/hosted", host=host))).status == 404


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a\\b", "[::1", "a:b", "a:80:80", "a:123456", "a?b", "a#b", "\xe4"])
async def test_what_is_no_host_is_refused(stand: Stand, host: str) -> None:
    assert (await refused(stand, request("GET", "/up/x", host=host))).status == 400


@pytest.mark.parametrize("hosts", [[], ["a", "a"], ["a", "b"]])
async def test_a_request_names_one_host(stand: Stand, hosts: list[str]) -> None:
    lines = [f"Host: {host}" for host in hosts]
    assert (await refused(stand, request("GET", "/up/x", *lines, host=None))).status == 400


# -- hop by hop --------------------------------------------------------------------------------------------------------

HOPS = [
    *("Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic x", "Proxy-Authenticate: Basic"),
    *("TE: gzip", "Trailer: X-Sum", "Upgrade: h2c", "HTTP2-Settings: x"),
]


async def test_nothing_passes_that_concerns_one_connection_only(stand: Stand) -> None:
    arrived = await sent(
        stand,
        request(
            "GET",
            "/up/x",
            *HOPS,
            "Connection: X-One, x-TWO",
            "X-One: 1",
            "Connection: X-Three",
            "X-Two: 2",
            "X-Three: 3",
            "X-Four: 4",
        ),
    )
    names = {name.lower() for name, _ in arrived.headers}
    assert names.isdisjoint({line.partition(":")[0].lower() for line in HOPS})
    assert names.isdisjoint({"connection", "x-one", "x-two", "x-three", "content-length", "transfer-encoding"})
    assert arrived.header("x-four") == "4"


async def test_connection_cannot_take_away_what_the_gateway_says(stand: Stand) -> None:
    names = "Host, X-Forwarded-For, X-Request-Id, Via, Content-Length, Authorization"
    arrived = await sent(stand, with_body("/keyed/x", b"hello", f"Connection: {names}", "Authorization: Bearer client"))
    assert arrived.body == b"hello"
    assert arrived.header("authorization") == "Bearer the-gateways-own"
    for name in ("host", "x-forwarded-for", "x-request-id", "via", "content-length"):
        assert arrived.header(name)


async def test_nothing_of_the_upstreams_connection_reaches_the_client(stand: Stand) -> None:
    fields = [
        *(("Connection", "X-One, Keep-Alive"), ("X-One", "1"), ("Keep-Alive", "timeout=5"), ("Upgrade", "h2c"), ("X-Two", "2")),
        *(("Proxy-Authenticate", "Basic"), ("Trailer", "X-Sum"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")),
        *(("x-request-id", "upstreams"), ("Vary", "a"), ("Vary", "b")),
    ]
    stand.up.answer_with(lambda _arrived: answer(b"ok", headers=fields))
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/x", "x-request-id: mine"))
    names = [name for name, _ in response.headers]
    assert set(names).isdisjoint({"connection", "x-one", "keep-alive", "upgrade", "proxy-authenticate", "trailer"})
    assert [value for name, value in response.headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert names.count("vary") == 2
    assert response.header("x-request-id") == "mine"
    assert response.header("x-two") == "2"


async def test_fields_pass_as_they_came(stand: Stand) -> None:
    """Order, case, repeats and odd but lawful bytes."""
    lines = [
        "X-B: 1",
        "x-a: \t two \t",
        "X-B: 3",
        "X-Empty:",
        "X-Obs: caf\xc3\xa9",
        "X.Custom|Pipe: ok",
        "Cookie: a=1",
        "Cookie: b=2",
    ]
    arrived = await sent(stand, request("GET", "/up/x", *lines))
    ours = [
        (name, value)
        for name, value in arrived.headers
        if name in {"X-B", "x-a", "X-Empty", "X-Obs", "X.Custom|Pipe", "Cookie"}
    ]
    assert ours == [
        *(("X-B", "1"), ("x-a", "two"), ("X-B", "3"), ("X-Empty", ""), ("X-Obs", "caf\xc3\xa9")),
        *(("X.Custom|Pipe", "ok"), ("Cookie", "a=1"), ("Cookie", "b=2")),
    ]


# -- who is asking -----------------------------------------------------------------------------------------------------

SPOOFS = [
    *("X-Forwarded-For: 10.1.1.1", "x_forwarded_for: 10.1.1.1", "X.Forwarded.For: 10.1.1.1", "X-FORWARDED-FOR: 10.1.1.2"),
    *("X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1", "X-Forwarded-User: root"),
    *("X_Forwarded-User: root", "Forwarded: for=10.1.1.1", "X-Real-IP: 10.1.1.1", "X_Real_Ip: 10.1.1.1"),
    *("X-Original-URL: /admin", "X-Rewrite-Url: /admin", "X_Original_Url: /admin", "X-Streamgate-Tenant: root"),
    *("x_streamgate_tenant: root", "X_Request_Id: evil", "Content_Length: 3", "Transfer_Encoding: chunked"),
    *("Content.Length: 3", "Proxy_Connection: close", "Host_: evil"),
]


async def test_a_client_cannot_say_what_only_the_gateway_may(stand: Stand) -> None:
    arrived = await sent(stand, request("GET", "/up/x", *SPOOFS))
    assert arrived.header("x-forwarded-for") == "127.0.0.1"
    assert arrived.header("x-forwarded-proto") == "http"
    assert arrived.header("x-forwarded-host") == HOST
    told = {name.lower().replace("_", "-").replace(".", "-"): value for name, value in arrived.headers}
    assert {"root", "/admin", "10.1.1.1", "10.1.1.2", "chunked", "3"}.isdisjoint(told.values())
    assert len([name for name, _ in arrived.headers if name.lower().replace("_", "-") == "x-request-id"]) == 1


async def test_a_trusted_proxy_is_believed_and_appended(stand: Stand) -> None:
    lines = ["X-Forwarded-For: 10.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"]
    arrived = await sent(stand, request("GET", "/up/x", *lines), source=TRUSTED)
    assert arrived.header("x-forwarded-for") == f"10.1.1.1, {TRUSTED}"
    assert arrived.header("x-forwarded-proto") == "https"
    assert arrived.header("x-forwarded-host") == "shop.example"
    record = await stand.gateway.record(lambda found: found["client"].startswith("10."))
    assert record["client"] == "10.1.1.0/24"


async def test_via_names_every_hop(stand: Stand) -> None:
    arrived = await sent(stand, request("GET", "/up/x", "Via: 1.0 fred", version="1.0"))
    before, _, own = (arrived.header("via") or "").partition(", ")
    assert before == "1.0 fred"
    assert own.startswith("1.0 streamgate-")


# -- ids and credentials -----------------------------------------------------------------------------------------------


async def test_a_valid_request_id_is_taken_over(stand: Stand) -> None:
    async with await stand.client() as client:
        for target in ("/up/x", "/local", "/missing"):
            response = await client.ask(request("GET", target, "X-Request-ID: mine.1_2-3"))
            assert response.header("x-request-id") == "mine.1_2-3"
    assert stand.up.requests[-1].header("x-request-id") == "mine.1_2-3"


@pytest.mark.parametrize(
    "lines", [["X-Request-Id: a b"], ["X-Request-Id: "], [f"X-Request-Id: {'a' * 129}"], ["X-Request-Id: a"] * 2]
)
async def test_another_is_replaced(stand: Stand, lines: list[str]) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/x", *lines))
    given = response.header("x-request-id")
    assert given
    assert given not in {"a", "a b", "a" * 129}
    assert stand.up.requests[-1].header("x-request-id") == given


async def test_every_request_has_an_id_of_its_own(stand: Stand) -> None:
    ids = {(await sent(stand, request())).header("x-request-id") for _ in range(5)}
    assert len(ids) == 5


async def test_the_gateways_credentials_replace_the_clients(stand: Stand) -> None:
    mine = [
        "Authorization: Bearer mine",
        "AUTHORIZATION: Basic bWluZQ==",
        "X-Api-Key: mine",
        "x_api_key: mine",
        "X.Api.Key: mine",
    ]
    arrived = await sent(stand, request("GET", "/keyed/x", *mine))
    assert arrived.header("authorization") == "Bearer the-gateways-own"
    arrived = await sent(stand, request("GET", "/headed/x", *mine))
    assert arrived.header("x-api-key") == "the-gateways-own"
    assert "mine" not in [value for name, value in arrived.headers if "key" in name.lower()]
    arrived = await sent(stand, request("GET", "/up/x", "Authorization: Bearer mine"))
    assert arrived.header("authorization") == "Bearer mine"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_methods_that_would_show_or_pierce_the_gateway(stand: Stand, method: str) -> None:
    async with await stand.client() as client:
        response = await client.ask(request(method, "/keyed/x"))
    assert response.status == 501
    assert stand.up.requests == []


# -- injection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "X: a\rX-Evil: 1",
        "X: a\nX-Evil: 1",
        "X: a\x00",
        "X : a",
        " X: a",
        "X\t: a",
        ": a",
        "X",
        "X: a\r\n\tfolded",
        "X(: a",
        "X: \x0b",
        "X: \x7f",
    ],
)
async def test_a_field_that_is_none_is_refused(stand: Stand, line: str) -> None:
    assert (await refused(stand, request("GET", "/up/x", line))).status == 400


async def test_nothing_a_client_sends_becomes_a_field_of_an_answer(stand: Stand) -> None:
    async with await stand.client() as client:
        response = await client.ask(
            request("GET", "/missing/%0d%0aX-Evil:%201?%0d%0aX-Evil:%201", "X-Request-Id: a%0d%0aX-Evil")
        )
    assert response.status == 404
    assert response.header("x-evil") is None
    assert b"Evil" not in response.body


async def test_an_answers_fields_pass_as_they_came(stand: Stand) -> None:
    def tell(_arrived: Arrived) -> bytes:
        return head(299, [("X-B", "1"), ("x-a", "caf\xc3\xa9"), ("X-B", "2"), ("Empty", ""), ("content-length", "2")]) + b"ok"

    stand.up.answer_with(tell)
    async with await stand.client() as client:
        response = await client.ask(request())
    assert (response.status, response.reason) == (299, "Scripted")
    assert response.headers[:4] == (("x-b", "1"), ("x-a", "caf\xc3\xa9"), ("x-b", "2"), ("empty", ""))
