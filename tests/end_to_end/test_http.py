"""HTTP/1.1 as a client meets it: connections, versions, framings, interim answers, and what must never be mixed up."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.end_to_end.stand import Stand, request, standing, with_body
from tests.kit.client import RawClient
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, MalformedError, answer, chunk, chunked, head

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing_here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    gate = {"timeouts": {"head": "1s", "body": "1s", "keep_alive": "1s"}}
    async with standing(tmp_path_factory.mktemp("http"), gate) as stand:
        yield stand


@pytest.fixture
def stand(standing_here: Stand) -> Stand:
    standing_here.forget()
    return standing_here


def always(data: bytes) -> Callable[[Arrived], bytes]:
    return lambda _arrived: data


def then_close(data: bytes) -> Callable[[Arrived], Awaitable[None]]:
    async def say(arrived: Arrived) -> None:
        await arrived.send(data)
        arrived.close()

    return say


def named(arrived: Arrived) -> bytes:
    """An answer that says which request it is for."""
    return answer(arrived.request.target.encode())


async def is_unharmed(client: RawClient, target: str = "/up/after") -> None:
    """The connection serves another request, whose answer is its own."""
    response = await client.ask(request("GET", target))
    assert (response.status, response.body) == (200, target.encode())


# -- connections -------------------------------------------------------------------------------------------------------


async def test_connections_are_kept_on_both_sides(stand: Stand) -> None:
    stand.up.answer_with(named)
    before = len(stand.up.connections)
    async with await stand.client() as client:
        for number in range(3):
            response = await client.ask(request("GET", f"/up/{number}"))
            assert (response.body, response.header("connection")) == (b"/up/%d" % number, None)
    assert len({arrived.connection for arrived in stand.up.requests}) == 1
    assert len(stand.up.connections) <= before + 1


async def test_close_is_announced_and_done(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/x", "Connection: close"))
        assert response.body == b"/up/x"
        assert response.closes
        assert await client.closed() == b""


@pytest.mark.parametrize("value", ["Close", "keep-alive, close", "close, x-hop", "\tclose "])
async def test_close_in_any_spelling(stand: Stand, value: str) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/local", f"Connection: {value}"))
        assert response.closes
        assert await client.closed() == b""


async def test_http10_closes_unless_it_asks(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        response = await client.ask(request(version="1.0", host=None), http10=True)
        assert response.body == b"/up/x"
        assert response.closes
        assert await client.closed() == b""


async def test_http10_is_kept_where_it_asks(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        for target in ("/up/x", "/local", "/missing"):
            response = await client.ask(request("GET", target, "Connection: keep-alive", version="1.0"), http10=True)
            assert response.header("connection") == "keep-alive"


@pytest.mark.parametrize("ending", [chunked(b"one", b"two"), None], ids=["chunked", "until close"])
@pytest.mark.parametrize("asks", [[], ["Connection: keep-alive"]], ids=["", "keep-alive"])
async def test_http10_reads_an_answer_without_length_until_the_end(stand: Stand, ending: bytes | None, asks: list[str]) -> None:
    stand.up.answer_with(always(ending) if ending else then_close(head(200) + b"onetwo"))
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/x", *asks, version="1.0"), http10=True)
        assert response.framing == "close"
        assert response.body == b"onetwo"
        assert response.closes


async def test_pipelined_requests_are_answered_in_order(stand: Stand) -> None:
    async def slowly(arrived: Arrived) -> bytes:
        await asyncio.sleep(0.02 if arrived.request.target.endswith("3") else 0)
        return named(arrived)

    stand.up.answer_with(slowly)
    requests = [
        request("GET", "/up/0"),
        request("GET", "/local"),
        with_body("/up/2", b"body"),
        request("HEAD", "/up/3"),
        request("GET", "/missing/4"),
        with_body("/missing/5", b"GET /up/stolen HTTP/1.1\r\nHost: a\r\n\r\n"),
        request("POST", "/up/6", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\nT: v\r\n\r\n",
        with_body("/local", b"GET /up/stolen HTTP/1.1\r\nHost: a\r\n\r\n"),
        request("GET", "/empty"),
        request("GET", "/up/9", "Connection: close"),
    ]
    async with await stand.client() as client:
        await client.send(b"".join(requests))
        answers = [await client.answer(head_only=index == 3) for index in range(10)]
        assert await client.closed() == b""
    assert [one.status for one in answers] == [200, 200, 200, 200, 404, 404, 200, 200, 200, 200]
    assert [answers[index].body for index in (0, 1, 2, 3, 6, 7, 8, 9)] == [
        *(b"/up/0", b"local", b"/up/2", b"", b"/up/6", b"local", b"", b"/up/9")
    ]
    assert [(one.target, one.body) for one in stand.up.requests] == [
        *(("/up/0", b""), ("/up/2", b"body"), ("/up/3", b""), ("/up/6", b"abc"), ("/up/9", b""))
    ]


async def test_nothing_is_served_behind_a_close(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        await client.send(request("GET", "/up/1", "Connection: close") + request("GET", "/up/2"))
        assert (await client.answer()).body == b"/up/1"
        assert await client.closed() == b""
    assert [one.target for one in stand.up.requests] == ["/up/1"]


async def test_empty_lines_before_a_request_are_let_pass(stand: Stand) -> None:
    async with await stand.client() as client:
        assert (await client.ask(b"\r\n\r\n" + request("GET", "/local"))).body == b"local"
        assert (await client.ask(b"\r\n" + request("GET", "/local"))).body == b"local"
        await client.send(b"\r\n" * 100_000 + b"\r", piece_bytes=50_001)
        assert (await client.ask(b"\n" + request("GET", "/local"))).body == b"local"
        assert (await client.ask(b"\r" + request("GET", "/local"))).status == 400


async def test_an_idle_connection_is_closed_without_a_word(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        await client.ask(request())
        await client.send(b"\r\n")
        assert await client.closed() == b""
    async with await stand.client() as client:
        assert await client.closed() == b""


async def test_a_long_answer_is_no_idleness(stand: Stand) -> None:
    """The keep-alive time begins when the answer has ended, not when its request came."""

    async def long(arrived: Arrived) -> bytes:
        await asyncio.sleep(1.2)
        return named(arrived)

    stand.up.answer_with(long)
    async with await stand.client() as client:
        await client.ask(request())
        stand.up.answer_with(named)
        for _ in range(6):  # longer than it takes the gateway to look at its connections
            await asyncio.sleep(0.1)
            await is_unharmed(client)


# -- slow and large heads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"G", b"GET /up/x HTTP/1.1\r\nHost: a\r\nX: 1\r\n"])
async def test_a_head_that_does_not_end_is_answered_408(stand: Stand, start: bytes) -> None:
    async with await stand.client() as client:
        await client.send(start)
        drip = asyncio.create_task(_drip(client))
        response = await client.answer()
        drip.cancel()
        assert response.status == 408
        assert response.closes
        assert await client.closed() == b""
    assert stand.up.requests == []


async def _drip(client: RawClient) -> None:
    while True:
        await client.send(b"a")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_answered_408(stand: Stand, framing: str) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("POST", "/up/x", framing) + b"5\r\nab")
        assert response.status == 408
        assert response.closes
        assert await client.closed() == b""
    assert stand.up.requests == []


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([f"X: {'a' * 20_000}"], 431),
        ([f"X-{number}: a" for number in range(100)], 431),
        ([f"X: {'a' * 3_000_000}"], 431),
    ],
    ids=["long", "many", "huge"],
)
async def test_a_large_head_is_answered_431(stand: Stand, lines: list[str], status: int) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/x", *lines))
        assert response.status == status
        assert response.closes
        assert await client.closed() == b""
    assert stand.up.requests == []


@pytest.mark.parametrize("size", [8_193, 12_000, 3_000_000])
async def test_a_long_target_is_answered_414(stand: Stand, size: int) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/" + "a" * (size - 4)))
        assert response.status == 414
        assert response.closes
        assert await client.closed() == b""
    assert stand.up.requests == []


async def test_a_head_just_within_the_limits_passes(stand: Stand) -> None:
    stand.up.answer_with(named)
    target = "/up/" + "a" * 8_188
    async with await stand.client() as client:
        response = await client.ask(request("GET", target, *[f"X-{n}: {'b' * 50}" for n in range(98)], "X: y"))
        assert (response.status, response.body) == (200, target.encode())


async def test_a_refusal_is_read_although_the_client_still_sends(stand: Stand) -> None:
    """A socket closed with unread bytes is reset, and the reset would overtake the answer."""
    async with await stand.client() as client:
        await client.send(b"BROKEN\r\n\r\n" + b"x" * 200_000)
        for _ in range(20):
            await asyncio.sleep(0.005)
            await client.send(b"x" * 1_000)
        assert (await client.answer()).status == 400


# -- answers of our own ------------------------------------------------------------------------------------------------


async def test_the_connection_survives_what_was_refused(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        for data, status in (
            (request("GET", "/missing"), 404),
            (with_body("/missing", b"hello"), 404),
            (request("POST", "/got"), 405),
            (request("GET", "/nobody/x"), 502),
            (with_body("/nobody/x", b"hello"), 502),
        ):
            response = await client.ask(data)
            assert (response.status, response.header("connection")) == (status, None)
            await is_unharmed(client)


async def test_405_names_the_methods(stand: Stand) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("DELETE", "/got"))
        assert (response.status, response.header("allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize("target", ["/local", "/empty", "/missing", "/nobody/x"])
async def test_own_answers_are_framed_and_dated(stand: Stand, target: str) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("GET", target))
        assert response.header("content-length") == str(len(response.body))
        assert (response.header("date") or "").endswith(" GMT")
        assert response.header("content-type") or not response.body
        same = await client.ask(request("HEAD", target), head_only=True)
        assert same.status == response.status
        assert same.header("content-length") is not None
        none = await client.ask(request("GET", "/none"))
        assert none.status == 204
        assert (await client.ask(request("GET", "/local"))).body == b"local"


async def test_a_body_nobody_wants_ends_the_connection_in_so_many_words(stand: Stand) -> None:
    """Only part of it is there; the rest may be a gigabyte: no promise is made that could not be kept."""
    for target in ("/missing", "/local"):
        async with await stand.client() as client:
            response = await client.ask(request("POST", target, "Content-Length: 10000000") + b"x" * 1000)
            assert response.closes
            assert await client.closed() == b""


async def test_a_small_rest_of_a_body_is_awaited(stand: Stand) -> None:
    """Many clients send head and body in two writes."""
    stand.up.answer_with(named)
    for target in ("/missing", "/local"):
        async with await stand.client() as client:
            response = await client.ask(request("POST", target, "Content-Length: 10"))
            assert not response.closes
            await client.send(b"0123456789")
            await is_unharmed(client)


async def test_a_chunked_body_that_breaks_behind_a_refusal(stand: Stand) -> None:
    async with await stand.client() as client:
        await client.send(request("POST", "/missing", "Transfer-Encoding: chunked") + b"ZZ\r\n" + request("GET", "/up/stolen"))
        response = await client.answer()
        assert response.status == 404
        assert response.closes
        assert await client.closed() == b""
    assert stand.up.requests == []


# -- Expect ------------------------------------------------------------------------------------------------------------


async def test_100_is_said_once_when_the_upstream_is_there(stand: Stand) -> None:
    stand.up.answer_with(lambda arrived: answer(arrived.request.body))
    async with await stand.client() as client:
        await client.send(request("POST", "/up/x", "Content-Length: 5", "Expect: 100-continue"))
        assert (await client.head()).status == 100
        await client.send(b"hello")
        response = await client.answer()
        assert (response.status, response.body, response.interim) == (200, b"hello", [])
        await client.send(request("POST", "/up/x", "Transfer-Encoding: chunked", "Expect: 100-Continue"))
        assert (await client.head()).status == 100
        await client.send(chunk(b"hi") + LAST_CHUNK)
        response = await client.answer()
        assert (response.body, response.interim) == (b"hi", [])
    assert all(one.header("expect") is None for one in stand.up.requests)


@pytest.mark.parametrize(
    "data",
    [
        with_body("/up/x", b"hello", "Expect: 100-continue"),
        with_body("/up/x", b"", "Expect: 100-continue"),
        request("GET", "/up/x", "Expect: 100-continue"),
    ],
    ids=["already there", "empty", "none"],
)
async def test_no_100_for_a_body_that_is_there(stand: Stand, data: bytes) -> None:
    stand.up.answer_with(always(answer(b"ok")))
    async with await stand.client() as client:
        response = await client.ask(data)
        assert (response.body, response.interim) == (b"ok", [])


async def test_no_100_to_http10(stand: Stand) -> None:
    stand.up.answer_with(lambda arrived: answer(arrived.request.body))
    async with await stand.client() as client:
        await client.send(request("POST", "/up/x", "Content-Length: 5", "Expect: 100-continue", version="1.0"))
        await client.send(b"hello")
        assert (await client.answer(http10=True)).body == b"hello"


@pytest.mark.parametrize(
    ("target", "length", "status"), [("/missing", 5, 404), ("/small/x", 5000, 413), ("/nobody/x", 5, 502), ("/local", 5, 200)]
)
async def test_no_100_before_a_refusal(stand: Stand, target: str, length: int, status: int) -> None:
    """And the connection ends, for the client may send its body or not (RFC 9110, 10.1.1)."""
    async with await stand.client() as client:
        response = await client.ask(request("POST", target, f"Content-Length: {length}", "Expect: 100-continue"))
        assert (response.status, response.interim) == (status, [])
        assert response.closes
        assert await client.closed() == b""


async def test_another_expectation_is_refused(stand: Stand) -> None:
    async with await stand.client() as client:
        assert (await client.ask(request("POST", "/up/x", "Content-Length: 5", "Expect: 200-ok"))).status == 417


# -- interim answers ---------------------------------------------------------------------------------------------------

EARLY = head(103, [("link", "</style.css>; rel=preload"), ("connection", "x-hop"), ("x-hop", "1")])


async def test_103_is_passed_on(stand: Stand) -> None:
    stand.up.answer_with(always(EARLY + EARLY + answer(b"ok")))
    async with await stand.client() as client:
        response = await client.ask(request())
        assert [(one.status, one.headers) for one in response.interim] == [(103, (("link", "</style.css>; rel=preload"),))] * 2
        assert response.body == b"ok"


async def test_103_is_not_for_http10(stand: Stand) -> None:
    stand.up.answer_with(always(EARLY + answer(b"ok")))
    async with await stand.client() as client:
        assert (await client.ask(request(version="1.0"), http10=True)).body == b"ok"


async def test_100_of_the_upstream_goes_no_further(stand: Stand) -> None:
    stand.up.answer_with(always(head(100) + head(100) + answer(b"ok")))
    async with await stand.client() as client:
        response = await client.ask(with_body("/up/x", b"hello"))
        assert (response.body, response.interim) == (b"ok", [])
        await is_ok(client)


async def is_ok(client: RawClient) -> None:
    assert (await client.ask(request())).body == b"ok"


@pytest.mark.parametrize(
    "switch",
    [
        head(101, [("upgrade", "websocket"), ("connection", "upgrade")]) + b"\x81\x05hello",
        head(101),
        head(199) + answer(b"ok"),
    ],
    ids=["101", "bare 101", "199"],
)
async def test_101_that_nobody_asked_for(stand: Stand, switch: bytes) -> None:
    stand.up.answer_with(always(switch))
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/up/x", "Connection: upgrade", "Upgrade: websocket"))
        assert (response.status, response.interim) == (502, [])
        stand.up.answer_with(named)
        await is_unharmed(client)


async def test_an_upgrade_offer_is_not_passed_on(stand: Stand) -> None:
    stand.up.answer_with(named)
    async with await stand.client() as client:
        for offer in ("h2c", "websocket"):
            lines = [f"Upgrade: {offer}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQ"]
            response = await client.ask(request("GET", "/up/x", *lines))
            assert response.status == 200
            assert response.header("upgrade") is None
        await is_unharmed(client)
    for one in stand.up.requests:
        assert one.header("upgrade") is one.header("connection") is one.header("http2-settings") is None


# -- framings of answers -----------------------------------------------------------------------------------------------


async def test_answers_pass_in_every_framing(stand: Stand) -> None:
    async with await stand.client() as client:
        for data, framing in (
            (always(answer(b"hello")), "length"),
            (always(chunked(b"he", b"llo")), "chunked"),
            (then_close(head(200) + b"hello"), "chunked"),
            (then_close(b"HTTP/1.0 200 OK\r\n\r\nhello"), "chunked"),
            (always(b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello"), "length"),
        ):
            stand.up.answer_with(data)
            response = await client.ask(request())
            assert (response.status, response.body, response.framing) == (200, b"hello", framing)


async def test_an_empty_answer_is_an_empty_answer(stand: Stand) -> None:
    async with await stand.client() as client:
        for data in (always(answer(b"")), always(chunked()), then_close(head(200))):
            stand.up.answer_with(data)
            response = await client.ask(request())
            assert (response.status, response.body) == (200, b"")


async def test_head_has_the_fields_and_no_body(stand: Stand) -> None:
    before = len(stand.up.connections)
    async with await stand.client() as client:
        for number, (data, name, value) in enumerate(
            [
                (head(200, [("content-length", "1000")]), "content-length", "1000"),
                (head(200, [("transfer-encoding", "chunked")]), "content-length", None),
                (head(404, [("content-length", "7")]), "content-length", "7"),
                (head(304, [("content-length", "7"), ("etag", '"a"')]), "etag", '"a"'),
            ]
        ):
            stand.up.answer_with(always(data))
            response = await client.ask(request("HEAD", f"/up/{number}"), head_only=True)
            assert response.header(name) == value
            stand.up.answer_with(named)
            await is_unharmed(client)
    assert len(stand.up.connections) <= before + 4


async def test_head_over_http10_needs_no_end(stand: Stand) -> None:
    stand.up.answer_with(always(head(200, [("transfer-encoding", "chunked")])))
    async with await stand.client() as client:
        for _ in range(2):
            data = request("HEAD", "/up/x", "Connection: keep-alive", version="1.0")
            response = await client.ask(data, head_only=True, http10=True)
            assert response.header("connection") == "keep-alive"


@pytest.mark.parametrize(
    "odd",
    [
        head(204),
        head(204, [("content-length", "0")]),
        head(204, [("content-length", "5")]) + b"hello",
        head(204, [("transfer-encoding", "chunked")]) + LAST_CHUNK,
        head(304, [("content-length", "5"), ("etag", '"a"')]),
        head(304, [("transfer-encoding", "chunked")]),
    ],
)
async def test_answers_that_have_no_body(stand: Stand, odd: bytes) -> None:
    async with await stand.client() as client:
        for _ in range(3):
            stand.up.answer_with(always(odd))
            response = await client.ask(request())
            assert response.status in {204, 304}
            assert response.body == b""
            stand.up.answer_with(named)
            await is_unharmed(client)


async def test_trailers_pass_both_ways_but_for_what_may_not(stand: Stand) -> None:
    stand.up.answer_with(
        always(
            head(200, [("transfer-encoding", "chunked"), ("trailer", "x-sum")])
            + chunk(b"hello")
            + b"0\r\nX-Sum: 5\r\nSet-Cookie: a=b\r\nx-request-id: other\r\nWWW-Authenticate: Basic\r\n\r\n"
        )
    )
    async with await stand.client() as client:
        trailers = b"0\r\nX-Sum: 5\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 10.0.0.1\r\nHost: evil\r\n\r\n"
        response = await client.ask(
            request("POST", "/up/x", "Transfer-Encoding: chunked", "TE: trailers") + chunk(b"hi") + trailers
        )
        assert response.body == b"hello"
        assert response.trailers == (("x-sum", "5"),)
        (arrived,) = stand.up.requests
        assert (arrived.body, arrived.trailers) == (b"hi", (("X-Sum", "5"),))
        assert arrived.header("te") == "trailers"
        assert arrived.header("connection") == "TE"
        await is_ok_again(stand, client)


async def is_ok_again(stand: Stand, client: RawClient) -> None:
    stand.up.answer_with(named)
    await is_unharmed(client)


@pytest.mark.parametrize(
    "cut",
    [
        head(200, [("content-length", "10")]) + b"hello",
        head(200, [("transfer-encoding", "chunked")]) + b"a\r\nhello",
        head(200, [("transfer-encoding", "chunked")]) + chunk(b"hello"),
        head(200, [("transfer-encoding", "chunked")]) + chunk(b"hello") + b"0\r\n",
        head(200, [("transfer-encoding", "chunked")]) + chunk(b"hello") + b"zz\r\n",
    ],
)
async def test_a_part_is_never_taken_for_the_whole(stand: Stand, cut: bytes) -> None:
    stand.up.answer_with(then_close(cut))
    async with await stand.client() as client:
        await client.send(request())
        with pytest.raises((MalformedError, EOFError, ConnectionError)):
            await client.answer()
    async with await stand.client() as client:
        await client.send(request(version="1.0"))
        with pytest.raises((MalformedError, EOFError, ConnectionError)):
            response = await client.answer(http10=True)
            # the one framing in which a client cannot tell: only a reset says so
            assert response.framing == "close"
            raise MalformedError("not cut") if response.body == b"hello" else ConnectionError


# -- what must never be mixed up ---------------------------------------------------------------------------------------

POISON = answer(b"poison", headers=[("x-poison", "1")])


@pytest.mark.parametrize("late_s", [None, 0.0, 0.05])
@pytest.mark.parametrize(
    ("first", "method"),
    [
        (answer(b"mine"), "GET"),
        (chunked(b"mine"), "GET"),
        (head(204), "GET"),
        (head(204, [("content-length", str(len(POISON)))]), "GET"),
        (head(304, [("content-length", str(len(POISON)))]), "GET"),
        (head(200, [("content-length", str(len(POISON)))]), "HEAD"),
    ],
    ids=["length", "chunked", "204", "204 with length", "304", "HEAD"],
)
async def test_no_answer_reaches_somebody_else(stand: Stand, first: bytes, method: str, late_s: float | None) -> None:
    """What an upstream sends behind its answer is nobody's: with it, at once after it, or while the connection idles.

    (What comes while another request waits for its answer could not be told from one by anybody.)
    """
    said = asyncio.Event()

    async def answer_twice(arrived: Arrived) -> None:
        if arrived.request.target != "/up/first":
            await arrived.send(named(arrived))
            return
        at_once = arrived.connection.writer.get_extra_info("socket")
        at_once.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await arrived.send(first if late_s is not None else first + POISON)
        if late_s is not None:
            await asyncio.sleep(late_s)
            await arrived.send(POISON)
        said.set()

    stand.up.answer_with(answer_twice)
    async with await stand.client() as client:
        response = await client.ask(request(method, "/up/first"), head_only=method == "HEAD")
        assert response.header("x-poison") is None
        await said.wait()
        for number in range(3):
            response = await client.ask(request("GET", f"/up/{number}"))
            assert (response.status, response.body) == (200, b"/up/%d" % number)


async def test_a_banner_is_no_answer(stand: Stand) -> None:
    async with await stand.client() as client:
        for _ in range(5):
            assert (await client.ask(request("GET", "/banner/x"))).status == 502


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\r\n Set-Cookie: evil=1\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x00",
    ],
)
async def test_what_is_no_answer_becomes_502(stand: Stand, broken: bytes) -> None:
    stand.up.answer_with(then_close(broken))
    async with await stand.client() as client:
        response = await client.ask(request())
        assert response.status == 502
        assert response.header("set-cookie") is None
        assert b"hello" not in response.body
        stand.up.answer_with(named)
        await is_unharmed(client)


async def test_a_loop_is_seen(stand: Stand) -> None:
    async with await stand.client() as client:
        response = await client.ask(request("GET", "/loop/x"))
        assert response.status == 508
        assert (await client.ask(with_body("/loop/x", b"hello"))).status == 508


async def test_dates(stand: Stand) -> None:
    async with await stand.client() as client:
        stand.up.answer_with(always(answer(b"ok", headers=[("DATE", "Mon, 01 Jan 2001 00:00:00 GMT")])))
        assert (await client.ask(request())).header("date") == "Mon, 01 Jan 2001 00:00:00 GMT"
        stand.up.answer_with(always(answer(b"ok")))
        assert (await client.ask(request())).header("date") is not None


async def test_nothing_is_left_behind(stand: Stand) -> None:
    """Every exchange of this file has been settled and every connection that ended is forgotten."""
    await eventually(lambda: _in_flight(stand), timeout=10)


async def _in_flight(stand: Stand) -> bool:
    return await stand.gateway.metric("streamgate_in_flight") == 0
