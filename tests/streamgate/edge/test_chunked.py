"""The chunked coding, against h11 and llhttp, in any cutting."""

from collections.abc import Callable

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamgate.edge.chunked import Chunked
from streamgate.errors import Fault

Read = tuple[bytes, list[tuple[bytes, bytes]], bytes]
"""(content, trailers, what follows)."""


def decode(data: bytes, *, cuts: list[int] | None = None, most: int = 1 << 20) -> Read | None:
    """Read a body as it comes in pieces; None where it has not ended. Raises Fault."""
    chunked, buffer, content = Chunked(), bytearray(), b""
    sizes = [*(cuts or []), len(data) + 1]
    while sizes and not chunked.done:
        size = sizes.pop(0)
        buffer += data[:size]
        data = data[size:]
        while True:
            before = (len(buffer), chunked.done)
            piece = chunked.feed(buffer, most)
            assert len(piece) <= most
            content += piece
            if not piece and before == (len(buffer), chunked.done):
                break
    return (content, chunked.trailers, bytes(buffer) + data) if chunked.done else None


@pytest.mark.parametrize(
    ("data", "content", "trailers"),
    [
        (b"0\r\n\r\n", b"", []),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (b"005\r\nhello\r\n000\r\n\r\n", b"hello", []),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, []),
        (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello", []),
        (b'5;a="b;\\"\r\nhello'.replace(b"\r\n", b'"\r\n') + b"\r\n0\r\n\r\n", b"hello", []),
        (b"5 ; a = b ;c\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", []),
        (b"0\r\nX-Sum: 5\r\ny:\t a b \r\nEmpty:\r\n\r\n", b"", [(b"X-Sum", b"5"), (b"y", b"a b"), (b"Empty", b"")]),
    ],
)
def test_bodies(data: bytes, content: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
    assert decode(data + b"GET /") == (content, trailers, b"GET /")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n", b"\r\n0\r\n\r\n", b" 0\r\n\r\n", b"0 \r\n\r\n", b"-0\r\n\r\n", b"+0\r\n\r\n", b"0x0\r\n\r\n", b"0_0\r\n\r\n", b"g\r\n",
        b"5\nhello\r\n", b"5\rhello\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloX\r0\r\n\r\n", b"5\r\nhello\rX",
        b"5;\r\nhello\r\n", b"5;=a\r\nhello", b"5;a=\r\nhello", b'5;a="b\r\nhello', b"5;a\nb\r\nhello", b"5;a\rb\r\nhello", b"5;a b\r\nhello",
        b'5;a="\x00"\r\nhello', b"5a;\xff\r\nhello", b"5hello\r\n", b"5\xb2\r\n", b"5,a\r\nhello",
        b"0\r\nX : a\r\n\r\n", b"0\r\n X: a\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\nX: a\nY: b\r\n\r\n", b"0\r\nX: a\rY: b\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n", b"0\r\nX: a\r\n b\r\n\r\n", b"0\r\n\n", b"0\r\n\rX", b"0\n\n",
        b"FFFFFFFFFFFFFFFF\r\n", b"10000000000000000\r\n", b"00000000000000005\r\nhello\r\n",
    ],
)  # fmt: skip
def test_what_is_not_beyond_doubt(data: bytes) -> None:
    with pytest.raises(Fault) as caught:
        decode(data + b"0\r\n\r\n" * 3)
    assert caught.value.status == 400
    assert caught.value.close


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"5;" + b"a" * 5000, 400),
        (b"1;" + b"a" * 4000 + b"\r\nx\r\n", None),
        ((b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 20, 400),
        (b"0\r\n" + b"X: " + b"a" * 5000, 400),
        (b"0\r\n" + b"X: a\r\n" * 4000, 431),
        (b"0" * 5000, 400),
    ],
)
def test_what_carries_nothing_has_its_bounds(data: bytes, status: int | None) -> None:
    if status is None:
        assert decode(data) is None
        return
    with pytest.raises(Fault) as caught:
        decode(data)
    assert caught.value.status == status


PIECES = st.one_of(st.binary(max_size=40), st.sampled_from([b"0\r\n\r\n", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"]))
EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=c"])
TRAILERS = st.lists(st.sampled_from([(b"X-A", b"1"), (b"x-a", b"two words"), (b"Y", b"")]), max_size=3)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """(coded, content, trailers)."""
    pieces = [piece for piece in draw(st.lists(PIECES, max_size=5)) if piece]
    coded = b"".join(
        draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece) + draw(EXTENSIONS) + b"\r\n" + piece + b"\r\n"
        for piece in pieces
    )
    trailers = draw(TRAILERS)
    coded += b"0" + draw(EXTENSIONS) + b"\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in trailers) + b"\r\n"
    return coded, b"".join(pieces), trailers


CUTS = st.lists(st.integers(0, 9), max_size=80)


@given(bodies(), st.binary(max_size=20), CUTS, st.integers(1, 50))
def test_any_cutting_reads_the_same(
    body: tuple[bytes, bytes, list[tuple[bytes, bytes]]], following: bytes, cuts: list[int], most: int
) -> None:
    coded, content, trailers = body
    assert decode(coded + following, cuts=cuts, most=most) == (content, trailers, following)


@given(bodies(), st.data())
def test_a_part_of_a_body_is_never_the_whole(body: tuple[bytes, bytes, list[tuple[bytes, bytes]]], data: st.DataObject) -> None:
    coded, _, _ = body
    assert decode(coded[: data.draw(st.integers(0, len(coded) - 1))]) is None


# -- other readers -----------------------------------------------------------------------------------------------------

START = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = st.lists(
    st.sampled_from(
        [
            *(b"0", b"1", b"5", b"a", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b";", b"a", b"=", b'"', b" ", b"\t", b"hello"),
            *(b"X: y", b":", b"\x00", b"\xff", b"5\r\nhello\r\n", b"0\r\n\r\n", b"1\r\nZ\r\n", b"0\r\n", b"+", b"x", b"_"),
        ]
    ),
    min_size=1,
    max_size=12,
).map(b"".join)


def by_h11(data: bytes) -> Read | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(START + data)
    content = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                content += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                trailers = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
                return content, trailers, connection.trailing_data[0]
            elif event is h11.NEED_DATA:
                return None
    except h11.ProtocolError:
        return None


class _Llhttp:
    def __init__(self) -> None:
        self.content = b""
        self.trailers: list[tuple[bytes, bytes]] = []
        self.in_body = self.done = False

    def on_headers_complete(self) -> None:
        self.in_body = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_body:
            self.trailers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.content += data

    def on_message_complete(self) -> None:
        self.done = True


def by_llhttp(data: bytes) -> Read | None:
    seen = _Llhttp()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(START)
    try:
        for end in range(len(data)):
            parser.feed_data(data[end : end + 1])
            if seen.done:
                return seen.content, seen.trailers, data[end + 1 :]
    except httptools.HttpParserError:
        pass
    return None


@settings(max_examples=1500)
@given(BROKEN, CUTS, st.sampled_from([by_h11, by_llhttp]))
@example(b'5;a="\n"\r\nhello\r\n0\r\n\r\n', [], by_llhttp)
@example(b"0\r\nX: y\r\n\r\nrest", [], by_h11)
def test_whoever_else_takes_it_reads_the_same(data: bytes, cuts: list[int], other: Callable[[bytes], Read | None]) -> None:
    """And it is the same whether it comes at once or in pieces."""

    def ours(pieces: list[int]) -> Read | str | None:
        try:
            return decode(data, cuts=pieces)
        except Fault:
            return "refused"

    found = ours([])
    assert ours(cuts) == found
    if found == "refused" or found is None:
        return
    theirs = other(data)
    if theirs is not None:
        assert theirs == found
