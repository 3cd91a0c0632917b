"""Bodies on their way through: early answers, limits, back-pressure, and memory that does not grow with them."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Self

import pytest
import pytest_asyncio

from tests.end_to_end.stand import LOOPBACK, Stand, request, standing, with_body
from tests.kit.upstream import Arrived
from tests.kit.wire import LAST_CHUNK, answer, chunk, chunked, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = 1024 * MIB
ROOM = 64 * MIB
"""How much the gateway's memory may grow during one transfer."""
PIECE = bytes(range(256)) * 4096


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing_here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    gate = {"timeouts": {"write": "2s"}}
    async with standing(tmp_path_factory.mktemp("bodies"), gate) as stand:
        yield stand


@pytest.fixture
def stand(standing_here: Stand) -> Stand:
    standing_here.forget()
    return standing_here


# -- early answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["keep open", "close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_that_comes_before_the_body(stand: Stand, manner: str, framing: str) -> None:
    """The client still reads it, whether it goes on sending or not, and the upstream's connection is not used again."""

    refused: list[int] = []

    async def refuse(arrived: Arrived) -> None:
        refused.append(arrived.connection.number)
        await arrived.read()
        await arrived.send(answer(b"too much", 413))
        if manner != "keep open":
            await asyncio.sleep(0.02)  # the answer goes first; the rest of the body is left unread
            arrived.close() if manner == "close" else arrived.reset()

    stand.lazy.answer_with(refuse)
    async with await stand.client() as client:
        coding = f"Content-Length: {64 * MIB}" if framing == "length" else "Transfer-Encoding: chunked"
        piece = PIECE if framing == "length" else chunk(PIECE)
        await client.send(request("POST", "/lazy/x", coding))
        sending = asyncio.create_task(_send_on(client.send, piece, 20))
        response = await client.answer()
        assert (response.status, response.body) == (413, b"too much")
        assert response.closes
        await sending
        await client.closed()
    stand.lazy.answer_with(_next)
    async with await stand.client() as client:
        assert (await client.ask(request("GET", "/lazy/x"))).body == b"next"
    assert stand.lazy.requests[-1].connection not in refused


async def _next(arrived: Arrived) -> bytes:
    await arrived.body()
    return answer(b"next")


async def _send_on(send: Callable[[bytes], object], piece: bytes, times: int) -> None:
    for _ in range(times):
        await send(piece)  # type: ignore[misc]
        await asyncio.sleep(0)


async def test_an_early_answer_that_streams_on_while_the_body_comes(stand: Stand) -> None:
    """Both ways at once, as bidirectional streams are."""

    async def echo(arrived: Arrived) -> None:
        await arrived.send(head(200, [("transfer-encoding", "chunked")]))
        while piece := await arrived.read():
            await arrived.send(chunk(piece.upper()))
        await arrived.send(LAST_CHUNK)

    stand.lazy.answer_with(echo)
    async with await stand.client() as client:
        await client.send(request("POST", "/lazy/x", "Transfer-Encoding: chunked"))
        for word in (b"one", b"two"):
            await client.send(chunk(word))
            if word == b"one":
                assert (await client.head()).status == 200
            async with asyncio.timeout(5):
                assert await client.chunk() == word.upper()
        await client.send(LAST_CHUNK)
        async with asyncio.timeout(5):
            assert await client.chunk() == b""


async def test_the_answer_to_a_body_that_breaks_in_the_middle(stand: Stand) -> None:
    """The upstream has part of it; it must never see the end of it."""
    async with await stand.client() as client:
        await client.send(request("POST", "/lazy/x", "Transfer-Encoding: chunked") + chunk(b"good"))
        arrived = await stand.lazy.next_request()
        assert await arrived.read() == b"good"
        await client.send(b"ZZ\r\nhello\r\n" + LAST_CHUNK)
        response = await client.answer()
        assert response.status == 400
        assert response.closes
        await client.closed()
        await arrived.wait_closed()
    assert stand.lazy.requests == []


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_413_before_anything_is_sent_where_the_length_is_known(stand: Stand) -> None:
    before = len(stand.lazy.connections)
    async with await stand.client() as client:
        response = await client.ask(request("POST", "/small/x", "Content-Length: 1025"))
        assert response.status == 413
        assert response.closes
        await client.closed()
    assert len(stand.lazy.connections) == before


async def test_413_while_a_chunked_body_streams(stand: Stand) -> None:
    async with await stand.client() as client:
        await client.send(request("POST", "/small/x", "Transfer-Encoding: chunked") + chunk(b"a" * 1000))
        arrived = await stand.lazy.next_request()
        assert await arrived.read() == b"a" * 1000
        await client.send(chunk(b"b" * 25) + LAST_CHUNK)
        response = await client.answer()
        assert response.status == 413
        assert response.closes
        await client.closed()
        await arrived.wait_closed()
    assert stand.lazy.requests == []


@pytest.mark.parametrize("whole", [with_body("/small/x", b"a" * 1024), None])
async def test_a_body_of_just_the_limit_passes(stand: Stand, whole: bytes | None) -> None:
    async def count(arrived: Arrived) -> bytes:
        return answer(b"%d" % len(await arrived.body()))

    stand.lazy.answer_with(count)
    data = (
        whole or request("POST", "/small/x", "Transfer-Encoding: chunked") + chunk(b"a" * 1000) + chunk(b"b" * 24) + LAST_CHUNK
    )
    async with await stand.client() as client:
        assert (await client.ask(data)).body == b"1024"


# -- memory and back-pressure ------------------------------------------------------------------------------------------


@contextmanager
def in_thread(work: Callable[[], bytes]) -> Iterator[Future[bytes]]:
    """Run ``work`` beside the loop; what it raises is raised where its result is asked for."""
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield future
    thread.join(10)


def read_until(sock: socket.socket, mark: bytes) -> tuple[bytes, bytes]:
    data = b""
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    first, _, rest = data.partition(mark)
    return first + mark, rest


class Progress:
    """Bytes gone by, seen from another thread."""

    def __init__(self) -> None:
        self.bytes = 0
        self.go = threading.Event()


def take(listener: socket.socket, size: int, progress: Progress) -> bytes:
    """An upstream that reads ``size`` bytes of body once it may, and answers with their hash."""
    sock, _ = listener.accept()
    with sock:
        sock.settimeout(30)
        _, rest = read_until(sock, b"\r\n\r\n")
        progress.go.wait(30)
        digest = hashlib.sha256(rest)
        progress.bytes = len(rest)
        buffer = bytearray(MIB)
        while progress.bytes < size:
            got = sock.recv_into(buffer)
            assert got, f"the body ended after {progress.bytes} bytes"
            digest.update(memoryview(buffer)[:got])
            progress.bytes += got
        sock.sendall(answer(digest.hexdigest().encode()))
    return digest.digest()


def put(sock: socket.socket, start: bytes, size: int, progress: Progress) -> str:
    """Send ``start`` and ``size`` bytes of pieces; returns their hash."""
    digest = hashlib.sha256()
    sock.sendall(start)
    while progress.bytes < size:
        sent = sock.send(PIECE)
        digest.update(PIECE[:sent])
        progress.bytes += sent
        if sent < len(PIECE):
            sock.sendall(PIECE[sent:])
            digest.update(PIECE[sent:])
            progress.bytes += len(PIECE) - sent
    return digest.hexdigest()


class Watch:
    """The gateway's memory, sampled until the block is left."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self.start = stand.rss_bytes()
        self.peak = self.start
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()

    async def _look(self) -> None:
        while True:
            self.peak = max(self.peak, self._stand.rss_bytes())
            await asyncio.sleep(0.005)


def connected(stand: Stand) -> socket.socket:
    sock = socket.create_connection((LOOPBACK, stand.gateway.port))
    sock.settimeout(30)
    return sock


async def test_a_large_upload_takes_no_memory(stand: Stand) -> None:
    there, here = Progress(), Progress()
    there.go.set()
    start = request("POST", "/raw/x", f"Content-Length: {LARGE}")
    with connected(stand) as sock, in_thread(lambda: take(stand.raw, LARGE, there)) as taken:
        async with Watch(stand) as watch:
            sent = await asyncio.to_thread(put, sock, start, LARGE, here)
            read, rest = await asyncio.to_thread(read_until, sock, b"\r\n\r\n")
        assert read.startswith(b"HTTP/1.1 200")
        while len(rest) < 64:
            rest += sock.recv(64)
        assert rest.decode() == sent
        assert there.bytes == LARGE
        await asyncio.to_thread(taken.result, 30)
    assert watch.peak - watch.start < ROOM


async def test_an_upload_waits_for_an_upstream_that_does_not_read(stand: Stand) -> None:
    """The client is stopped by its own socket; nothing piles up in between; then all of it arrives."""
    size = 64 * MIB
    there, here = Progress(), Progress()
    start = request("POST", "/raw/x", f"Content-Length: {size}")
    with connected(stand) as sock, in_thread(lambda: take(stand.raw, size, there)) as taken:
        async with Watch(stand) as watch:
            sending = asyncio.create_task(asyncio.to_thread(put, sock, start, size, here))
            await _stands_still(lambda: here.bytes)
            assert here.bytes < 32 * MIB
            there.go.set()
            sent = await sending
            assert (await asyncio.to_thread(taken.result, 30)).hex() == sent
    assert watch.peak - watch.start < ROOM


async def _stands_still(look: Callable[[], int], for_s: float = 0.5) -> None:
    """Wait until a number has stopped growing, above zero."""
    last, since = look(), time.monotonic()
    async with asyncio.timeout(20):
        while not last or time.monotonic() - since < for_s:
            await asyncio.sleep(0.02)
            if (now := look()) != last:
                last, since = now, time.monotonic()


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
async def test_a_download_waits_for_a_client_that_does_not_read(stand: Stand, framing: str) -> None:
    progress = Progress()
    size = 256 * MIB

    def serve() -> bytes:
        sock, _ = stand.raw.accept()
        with sock:
            sock.settimeout(30)
            read_until(sock, b"\r\n\r\n")
            if framing == "chunked":
                sock.sendall(head(200, [("transfer-encoding", "chunked")]))
                digest = hashlib.sha256()
                while progress.bytes < size:
                    sock.sendall(chunk(PIECE))
                    digest.update(PIECE)
                    progress.bytes += len(PIECE)
                sock.sendall(LAST_CHUNK)
                return digest.hexdigest().encode()
            start = head(200, [("content-length", str(size))] if framing == "length" else [])
            return put(sock, start, size, progress).encode()

    with in_thread(serve) as served:
        async with Watch(stand) as watch, await stand.client() as client:
            await client.send(request("GET", "/raw/x"))
            response = await client.head()
            await _stands_still(lambda: progress.bytes)
            assert progress.bytes < size // 2  # four socket buffers of this machine, and what the gateway holds
            digest = hashlib.sha256()
            async with asyncio.timeout(30):
                if response.header("content-length"):
                    left = size
                    while left:
                        piece = await client.reader.read(min(left, MIB))
                        assert piece
                        left -= len(piece)
                        digest.update(piece)
                else:
                    while piece := await client.chunk():
                        digest.update(piece)
            assert (await asyncio.to_thread(served.result, 30)).decode() == digest.hexdigest()
    assert watch.peak - watch.start < ROOM


async def test_a_slow_reader_of_a_last_answer_gets_all_of_it(stand: Stand) -> None:
    """A connection that is to be closed ends after its last byte was taken, however long that takes: Sanic's own would
    be cut off after 5 s."""
    body = PIECE[: MIB // 2]
    stand.up.answer_with(lambda _arrived: answer(body))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.connect((LOOPBACK, stand.gateway.port))
        sock.sendall(request("GET", "/up/x", "Connection: close"))
        _, got = await asyncio.to_thread(read_until, sock, b"\r\n\r\n")
        end = time.monotonic() + 5.5
        while time.monotonic() < end:
            got += await asyncio.to_thread(sock.recv, 1024)
            await asyncio.sleep(0.1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        while piece := await asyncio.to_thread(sock.recv, 65536):
            got += piece
    assert got == body


async def test_a_reader_that_takes_nothing_is_cut_off(stand: Stand) -> None:
    """After `timeouts.write`, and its upstream with it."""
    async with await stand.client() as client:
        await client.send(request("GET", "/lazy/stalled"))
        arrived = await stand.lazy.next_request()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.create_task(_endless(arrived))
        await arrived.wait_closed(timeout=20)
        with pytest.raises(ConnectionError):
            await sending
    record = await stand.gateway.record(lambda found: found["fault"] == "client_stalled")
    assert record["state"] == "client_closed"


async def _endless(arrived: Arrived) -> None:
    await arrived.send(head(200, [("transfer-encoding", "chunked")]))
    while True:
        await arrived.send(chunk(PIECE))


async def test_memory_does_not_grow_with_requests(stand: Stand) -> None:
    """Thousands of exchanges, refusals and connections leave nothing behind."""
    stand.up.answer_with(lambda _arrived: chunked(b"hello"))

    async def many(times: int) -> None:
        for number in range(times):
            async with await stand.client() as client:
                await client.ask(request("GET", f"/up/{number}", f"X-{number}: a"))
                await client.ask(with_body(f"/missing/{number}", b"hello", f"Cookie: {number}"))
                await client.ask(request("GET", "/local", host=f"h{number}.example"))

    await many(500)
    start = stand.rss_bytes()
    await many(1500)
    assert stand.rss_bytes() - start < 8 * MIB
