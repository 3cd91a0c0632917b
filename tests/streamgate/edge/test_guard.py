"""What is a request head beyond doubt: a table of verdicts, and two other parsers' opinions."""

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamgate.edge.guard import Head, HeadLimits, read_head, unfinished
from streamgate.errors import Fault, NotFramed

LIMITS = HeadLimits()


def head(*lines: str, start: str = "GET /a?b HTTP/1.1", host: str | None = "Host: a") -> bytes:
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


def status_of(data: bytes, limits: HeadLimits = LIMITS) -> int:
    with pytest.raises(Fault) as caught:
        read_head(data, limits)
    assert caught.value.close, "what is not framed ends the connection"
    return caught.value.status


# -- what is read ------------------------------------------------------------------------------------------------------


def test_a_head_is_read_as_it_came() -> None:
    found = read_head(head("X-A: 1", "x-a:\t two\t", "X-Empty:"), LIMITS)
    assert (found.method, found.target, found.host, found.http10) == (b"GET", b"/a?b", b"a", False)
    assert found.headers == [(b"Host", b"a"), (b"X-A", b"1"), (b"x-a", b"two\t"), (b"X-Empty", b"")]
    assert (found.length, found.keep_alive, found.expects) == (0, True, False)


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([], 0),
        (["Content-Length: 0"], 0),
        (["content-length: 17"], 17),
        (["Content-Length:\t17 "], 17),
        (["Content-Length: 999999999999999999"], 999_999_999_999_999_999),
        (["Transfer-Encoding: chunked"], None),
        (["transfer-encoding: Chunked "], None),
    ],
)
def test_the_length_of_the_body(lines: list[str], length: int | None) -> None:
    assert read_head(head(*lines), LIMITS).length == length


@pytest.mark.parametrize(
    ("version", "lines", "keeps"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: CLOSE"], False),
        ("1.1", ["Connection: keep-alive, close"], False),
        ("1.1", ["Connection: x", "Connection: close"], False),
        ("1.1", ["Connection: closed"], True),
        ("1.0", [], False),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["Connection: Keep-Alive, x"], True),
        ("1.0", ["Connection: keep-alive", "Connection: close"], False),
        ("1.0", ["Connection: close", "Connection: keep-alive"], False),
    ],
)
def test_whether_the_connection_may_be_kept(version: str, lines: list[str], keeps: bool) -> None:
    assert read_head(head(*lines, start=f"GET / HTTP/{version}"), LIMITS).keep_alive is keeps


def test_http10_needs_no_host() -> None:
    found = read_head(head(start="GET / HTTP/1.0", host=None), LIMITS)
    assert (found.host, found.http10) == (b"", True)


def test_an_expectation_counts_from_http11_on() -> None:
    assert read_head(head("Expect: 100-Continue"), LIMITS).expects
    assert not read_head(head("Expect: 100-continue", start="GET / HTTP/1.0"), LIMITS).expects


def test_an_upgrade_is_an_offer_that_may_be_declined() -> None:
    found = read_head(head("Upgrade: websocket", "Connection: Upgrade", "Content-Length: 3"), LIMITS)
    assert (found.length, found.keep_alive) == (3, True)


def test_fields_the_gateway_reads_itself_are_at_hand_in_any_spelling() -> None:
    found = read_head(head("VIA: 1.1 a", "X-Request-ID: id", "Via: 1.1 b\t", "TraceParent: t ", "X-Other: o"), LIMITS)
    assert found.named == {b"via": [b"1.1 a", b"1.1 b"], b"x-request-id": [b"id"], b"traceparent": [b"t"]}
    assert read_head(head(), LIMITS).named == {}, "and one request's are not another's"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: "], ["Content-Length: +1"], ["Content-Length: -1"], ["Content-Length: 0x1"], ["Content-Length: 1_0"],
        ["Content-Length: 01"], ["Content-Length: 1 1"], ["Content-Length: 1,1"], ["Content-Length: 1, 1"], ["Content-Length: \xb2"],
        ["Content-Length: 1000000000000000000"], ["Content-Length: 99999999999999999999"],
        ["Content-Length: 1", "Content-Length: 1"], ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 0", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"], ["Transfer-Encoding: chunked, chunked"], ["Transfer-Encoding: chunked, gzip"],
        ["Transfer-Encoding: identity"], ["Transfer-Encoding: ,chunked"], ["Transfer-Encoding: "], ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked;x"], ["Transfer-Encoding: \x0bchunked"], ['Transfer-Encoding: "chunked"'],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
    ],
)  # fmt: skip
def test_a_length_that_could_be_read_in_two_ways(lines: list[str]) -> None:
    assert status_of(head(*lines, start="POST / HTTP/1.1")) == 400


def test_http10_knows_no_transfer_coding() -> None:
    assert status_of(head("Transfer-Encoding: chunked", start="POST / HTTP/1.0")) == 400


@pytest.mark.parametrize(
    "host",
    [
        *(None, "Host: a\r\nHost: a", "Host: a\r\nhost: b", "Host: a b", "Host: a/b", "Host: u@a", "Host: [::1", "Host: a:b"),
        *("Host: a:1:1", "Host: a:123456", "Host: \xe4", "Host: a?", "Host: [::1]a", "Host: [a]]"),
    ],
)
def test_a_request_names_one_host(host: str | None) -> None:
    assert status_of(head(host=host)) == 400


@pytest.mark.parametrize(
    "host", ["", "a", "A.b-c_d", "1.2.3.4:80", "[::1]:443", "a:", "xn--e1a.example", "a%41", "0.0.0.0=5000"]
)
def test_hosts(host: str) -> None:
    assert read_head(head(host=f"Host: {host}"), LIMITS).host == host.encode()


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("GET / HTTP/2.0", 505), ("GET / HTTP/1.2", 505), ("GET / HTTP/0.9", 505), ("GET / HTTP/3.0", 505),
        ("GET / HTTP/1", 400), ("GET / HTTP/01.1", 400), ("GET / HTTP/1.10", 400), ("GET / http/1.1", 400), ("GET /", 400),
        ("GET / HTTP/1.1 ", 400), ("GET  / HTTP/1.1", 400), ("GET /  HTTP/1.1", 400), (" GET / HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400), ("GET / a HTTP/1.1", 400), ("GET /\x00 HTTP/1.1", 400), ("GET /\xff HTTP/1.1", 400),
        ("GET / RTSP/1.0", 400), ("SOURCE / ICE/1.0", 400), ("OPTIONS / RTSP/1.1", 400), ("ANNOUNCE / RTSP/1.0", 400),
        ("get / HTTP/1.1", 501), ("BREW / HTTP/1.1", 501), ("CONNECT a:443 HTTP/1.1", 501), ("TRACE / HTTP/1.1", 501),
        ("G(T / HTTP/1.1", 400), ("/ HTTP/1.1", 400), ("", 400),
    ],
)  # fmt: skip
def test_request_lines(start: str, status: int) -> None:
    assert status_of(head(start=start)) == status


@pytest.mark.parametrize(
    "line",
    [
        *("X : a", "X\t: a", " X: a", ": a", "X", "X(: a", "X\x00: a", "X\x80: a", "X: \x00", "X: \x0b", "X: \x7f"),
        *("X: a\r\n b", "X: a\r\n\tb", "X: a\nY: b", "X: a\rY: b", "X: a\r", "X: a\n", "\rX: a", "X: a\r\r\nY: b"),
    ],
)
def test_lines_that_are_no_field(line: str) -> None:
    assert status_of(head(line)) == 400


def test_other_expectations() -> None:
    assert status_of(head("Expect: 200-ok")) == 417
    assert status_of(head("Expect: ")) == 417


def test_limits() -> None:
    limits = HeadLimits(head_bytes=1000, target_bytes=10, fields=3)
    assert read_head(head("A: 1", "B: 2", start=f"GET /{'a' * 9} HTTP/1.1"), limits).target == b"/" + b"a" * 9
    assert status_of(head(start=f"GET /{'a' * 10} HTTP/1.1"), limits) == 414
    assert status_of(head("A: 1", "B: 2", "C: 3"), limits) == 431


# -- heads that have not ended -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        *((b"GET / HTTP/1.1\n", 400), (b"\n", 400), (b"GET / HTTP/1.1\r\nA: b\rc", 400), (b"GET\x00", 400)),
        *((b"GET /" + b"a" * 9000, 414), (b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000, 431)),
    ],
)
def test_what_can_become_nothing_good_is_refused_at_once(data: bytes, status: int) -> None:
    with pytest.raises(Fault) as caught:
        unfinished(data, LIMITS)
    assert caught.value.status == status


PIECES = st.lists(
    st.sampled_from([b"GET / HTTP/1.1", b"\r\n", b"\r", b"\n", b"a", b": ", b"\x00", b"Host: a", b" ", b"X: \xff"]), max_size=12
).map(b"".join)


@settings(max_examples=400)
@given(PIECES, st.lists(st.integers(1, 7), max_size=60))
@example(b"GET\n", [3])
@example(b"GET\r\rX", [4])
@example(b"GET\r\nX\rY", [7])
def test_cutting_makes_no_difference_to_what_is_seen_in_an_unfinished_head(data: bytes, cuts: list[int]) -> None:
    def refused(look: bytes, looked: int = 0) -> bool:
        try:
            unfinished(look, LIMITS, looked)
        except NotFramed:
            return True
        return False

    seen, bit_by_bit = 0, False
    for size in [*cuts, len(data)]:
        end = min(len(data), seen + size)
        bit_by_bit = bit_by_bit or refused(data[:end], seen)
        seen = end
    if not data.endswith(b"\r"):  # nobody knows yet what follows it
        assert bit_by_bit == refused(data)


# -- other parsers -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("Host", "HOST", "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "X-A"),
        *("Host ", "Content-Length ", "Transfer-Encoding\t", "\tX", "X_Y", "", "Content\x00-Length", "Transfer Encoding"),
    ]
)
VALUES = st.one_of(
    st.sampled_from(["a", "a:80", "0", "5", "05", "+5", "5, 5", "chunked", "Chunked", "gzip, chunked", "close", "keep-alive"]),
    st.sampled_from(["", " ", "\t5", "5 ", "chunked\r\n X: y", "a\nX: y", "a\rX: y", "100-continue", "\x0b", "\xff"]),
    st.text(st.characters(max_codepoint=255), max_size=6),
)
STARTS = st.one_of(
    st.sampled_from(["GET / HTTP/1.1", "POST /a?b HTTP/1.1", "PUT / HTTP/1.0", "GET http://a/ HTTP/1.1", "OPTIONS * HTTP/1.1"]),
    st.sampled_from(
        ["GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET / RTSP/1.0", "GET / HTTP/1.2", "GET /\t HTTP/1.1", "CONNECT a:1 HTTP/1.1"]
    ),
    st.builds(lambda target: f"GET /{target} HTTP/1.1", st.text(st.characters(max_codepoint=255), max_size=5)),
)
ENDS = st.sampled_from(["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    lines = [draw(STARTS) + draw(ENDS)]
    if draw(st.booleans()):
        lines.append("Host: a\r\n")
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=4)):
        lines.append(f"{name}:{draw(st.sampled_from(['', ' ']))}{value}{draw(ENDS)}")
    return ("".join(lines) + "\r\n").encode("latin-1")


def by_us(data: bytes) -> Head | None:
    end = data.find(b"\r\n\r\n") + 4
    try:
        return read_head(data[:end], LIMITS) if end > 3 else None
    except Fault:
        return None


@settings(max_examples=600)
@given(heads())
@example(head("Content-Length: 5"))
@example(head("Transfer-Encoding: chunked", start="POST / HTTP/1.1"))
def test_what_is_taken_h11_takes_and_reads_alike(data: bytes) -> None:
    ours = by_us(data)
    if ours is None:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data[: data.find(b"\r\n\r\n") + 4])
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (ours.method, ours.target)
    headers = [(name, value.rstrip(b" \t")) for name, value in ours.headers]
    assert [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()] == headers
    following = connection.next_event()
    if ours.length == 0:
        assert isinstance(following, h11.EndOfMessage)
    else:
        assert following is h11.NEED_DATA
        connection.receive_data(b"0\r\n\r\n" if ours.length is None else b"x" * min(ours.length, 100))
        assert not isinstance(connection.next_event(), h11.Request)


class Llhttp:
    """What llhttp makes of a head that comes in pieces."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.heads = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.heads += 1


@settings(max_examples=600)
@given(heads(), st.integers(1, 9))
def test_what_is_taken_llhttp_reads_alike_in_pieces(data: bytes, size: int) -> None:
    ours = by_us(data)
    if ours is None:
        return
    seen = Llhttp()
    parser = httptools.HttpRequestParser(seen)
    data = data[: data.find(b"\r\n\r\n") + 4]
    try:
        for start in range(0, len(data), size):
            parser.feed_data(data[start : start + size])
    except httptools.HttpParserUpgrade:
        pass
    assert (seen.heads, seen.url, seen.headers) == (1, ours.target, ours.headers)


@given(st.binary(max_size=200))
def test_rubbish_is_a_fault_and_nothing_else(data: bytes) -> None:
    try:
        unfinished(data, LIMITS)
        read_head(data + b"\r\n\r\n", LIMITS)
    except Fault as fault:
        assert fault.status in {400, 414, 417, 431, 501, 505}
