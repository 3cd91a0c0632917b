"""The upstream in the test's hand: it shows what arrived, does what it is told, and sees the peer leave."""

import asyncio
import socket
import ssl
import struct
from typing import Any

import pytest
import trustme

from tests.kit.upstream import HOST, Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import MalformedError, answer, chunk

POST = b"POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n"

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(upstream: RawUpstream, **options: Any) -> Peer:
    return await asyncio.open_connection(HOST, upstream.port, **options)


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave with RST."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def test_a_request_waits_in_the_hand_for_its_answer() -> None:
    async with RawUpstream() as upstream:
        reader, writer = await connect(upstream)
        writer.write(POST + GET)
        first = await upstream.next_request()
        assert (first.request.method, first.request.body, first.request.connection) == ("POST", b"hello", 0)
        await first.send(answer(b"one"))
        second = await upstream.next_request()
        await second.send(answer(b"two"))
        second.close()
        assert await reader.read() == answer(b"one") + answer(b"two")
        assert [request.method for request in upstream.requests] == ["POST", "GET"]
        assert len(upstream.connections) == 1
        assert upstream.connections[0].requests == 2
        writer.close()


async def test_a_lazy_body_is_read_piece_by_piece() -> None:
    async with RawUpstream(bodies="lazy") as upstream:
        _, writer = await connect(upstream)
        writer.write(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"ab"))
        arrived = await upstream.next_request()
        assert arrived.request.body == b""
        assert await arrived.read() == b"ab"
        assert upstream.requests == []
        writer.write(chunk(b"c") + b"0\r\nT: v\r\n\r\n" + GET)
        assert await arrived.body() == b"abc"
        assert arrived.request.trailers == (("T", "v"),)
        assert upstream.requests == [arrived.request]
        assert (await upstream.next_request()).request.method == "GET"
        writer.close()


async def test_answers_can_be_given_by_a_function() -> None:
    async def later(arrived: Arrived) -> bytes:
        return answer(arrived.request.target.encode())

    async with RawUpstream() as upstream:
        upstream.answer_with(later)
        reader, writer = await connect(upstream)
        writer.write(GET)
        assert await reader.readexactly(len(answer(b"/v1"))) == answer(b"/v1")
        upstream.answer_with(lambda _: answer(b"now"))
        writer.write(GET)
        assert await reader.readexactly(len(answer(b"now"))) == answer(b"now")
        assert upstream.open_connections == 1
        writer.close()
        await eventually(lambda: upstream.open_connections == 0)


async def test_an_answer_that_raises_fails_the_test() -> None:
    with pytest.raises(ZeroDivisionError):
        async with RawUpstream() as upstream:
            upstream.answer_with(lambda _: b"%d" % (1 // 0))
            reader, writer = await connect(upstream)
            writer.write(GET)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()


async def test_a_badly_framed_request_fails_the_test() -> None:
    with pytest.raises(MalformedError, match="more than one framing"):
        async with RawUpstream() as upstream:
            reader, writer = await connect(upstream)
            writer.write(b"GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert await reader.read() == b""
            writer.close()


async def test_a_request_cut_off_by_its_sender_is_no_fault_and_never_whole() -> None:
    async with RawUpstream() as upstream:
        _, writer = await connect(upstream)
        writer.write(POST[:-1])
        await eventually(lambda: upstream.connections and upstream.connections[0].requests)
        writer.close()
        assert await upstream.connections[0].wait_closed() == "fin"
        assert upstream.requests == []


async def test_the_peer_sees_a_reset_as_a_reset() -> None:
    async with RawUpstream() as upstream:
        reader, writer = await connect(upstream)
        writer.write(GET)
        arrived = await upstream.next_request()
        arrived.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("bodies", ["read", "lazy"])
async def test_the_peer_leaving_is_seen_while_the_answer_is_held(bodies: Any) -> None:
    async with RawUpstream(bodies=bodies) as upstream:
        for how, leave in (("fin", asyncio.StreamWriter.close), ("reset", reset)):
            _, writer = await connect(upstream)
            writer.write(POST)
            arrived = await upstream.next_request()
            with pytest.raises(AssertionError, match="not within"):
                await arrived.wait_closed(0.02)
            leave(writer)
            assert await arrived.wait_closed() == how


async def test_a_deaf_upstream_reads_nothing_and_still_sees_the_peer_leave() -> None:
    async with RawUpstream("deaf", receive_bytes=4096) as upstream:
        _, writer = await connect(upstream)
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(b"x" * 16_000_000)
        connection = await upstream.next_connection()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await writer.drain()
        assert connection.is_open
        assert connection.reader._buffer == b""  # type: ignore[attr-defined]
        reset(writer)
        assert await connection.wait_closed() == "reset"


async def test_a_slamming_upstream_closes_at_once() -> None:
    async with RawUpstream("slam") as upstream:
        reader, writer = await connect(upstream)
        assert await reader.read() == b""
        assert upstream.open_connections == 0
        writer.close()


async def test_a_request_that_never_comes_is_told_with_what_came() -> None:
    async with RawUpstream() as upstream:
        _, writer = await connect(upstream)
        await upstream.next_connection()
        with pytest.raises(AssertionError, match=r"no request within 0\.02 s; 1 connections were opened"):
            await upstream.next_request(0.02)
        writer.close()


@pytest.mark.parametrize("bodies", ["read", "lazy"])
async def test_it_speaks_tls_when_given_a_context(bodies: Any) -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with RawUpstream(tls=serving, bodies=bodies) as upstream:
        assert upstream.url == f"https://{HOST}:{upstream.port}"
        reader, writer = await connect(upstream, ssl=trusting)
        writer.write(POST)
        arrived = await upstream.next_request()
        await arrived.send(answer(b"safe"))
        assert await reader.readexactly(len(answer(b"safe"))) == answer(b"safe")
        writer.close()
        assert await arrived.wait_closed() == "fin"
