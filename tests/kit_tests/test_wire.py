"""The reader of requests takes what is well framed, however it is cut, and nothing else."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.wire import LAST_CHUNK, MalformedError, Request, answer, body_pieces, chunk, chunked, head, read_head

HEAD = b"POST /a%2Fb?c=1 HTTP/1.1\r\nHost: one\r\nX-Two:  a \r\nx-two: b\r\n"


async def read(*pieces: bytes) -> tuple[Request | None, list[bytes]]:
    """Everything in one request that arrives in these pieces and then ends."""
    reader = asyncio.StreamReader()

    async def feed() -> None:
        for piece in pieces:
            reader.feed_data(piece)
            await asyncio.sleep(0)
        reader.feed_eof()

    feeding = asyncio.ensure_future(feed())
    try:
        request = await read_head(reader, 0)
        if request is None:
            return None, []
        trailers: list[tuple[str, str]] = []
        parts = [part async for part in body_pieces(reader, request, trailers)]
        return request.with_body(b"".join(parts), tuple(trailers)), parts
    finally:
        await feeding


async def test_a_head_keeps_case_order_and_repeats() -> None:
    request, _ = await read(HEAD + b"\r\n")
    assert request is not None
    assert (request.method, request.target, request.version) == ("POST", "/a%2Fb?c=1", "HTTP/1.1")
    assert request.headers == (("Host", "one"), ("X-Two", "a"), ("x-two", "b"))
    assert request.header_lines("X-TWO") == ["a", "b"]
    with pytest.raises(AssertionError, match="came 2 times"):
        request.header("x-two")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 30))
async def test_a_chunked_body_is_the_same_however_it_is_cut(pieces: list[bytes], size: int) -> None:
    raw = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, pieces)) + b"0\r\nDone: yes\r\n\r\n"
    request, parts = await read(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert request is not None
    assert parts == pieces
    assert request.trailers == (("Done", "yes"),)


@given(st.binary(max_size=100), st.integers(1, 30))
async def test_a_counted_body_is_the_same_however_it_is_cut(body: bytes, size: int) -> None:
    raw = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    request, _ = await read(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert request is not None
    assert request.body == body


async def test_a_close_between_requests_is_no_request() -> None:
    assert await read(b"") == (None, [])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"GET /\r\n\r\n", "not a request line"),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "not a request line"),
        (HEAD + b"Bad Name: x\r\n\r\n", "not a header field"),
        (HEAD + b" folded\r\n\r\n", "not a header field"),
        (HEAD, "middle of a head"),
        (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "more than one framing"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "more than one framing"),
        (HEAD + b"Content-Length: +3\r\n\r\nabc", "content-length '[+]3'"),
        (HEAD + b"Content-Length: 4\r\n\r\nabc", "closed 1 bytes before"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", "transfer-encoding 'gzip'"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", "ends in b'd"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", "not a chunk size"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "middle of a body"),
    ],
)
async def test_what_is_not_well_framed_is_refused_with_its_reason(raw: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        await read(raw)


def test_answers_are_written_as_asked() -> None:
    assert answer(b"hi", 404, [("A", "b")]) == b"HTTP/1.1 404 Scripted\r\ncontent-length: 2\r\nA: b\r\n\r\nhi"
    assert chunked(b"x" * 17) == head(200, [("transfer-encoding", "chunked")]) + b"11\r\n" + b"x" * 17 + b"\r\n" + LAST_CHUNK
    with pytest.raises(ValueError, match="LAST_CHUNK"):
        chunk(b"")
