"""An upstream held in the test's hand: it sees every byte the gateway sends, and answers when the test says so.

    async with RawUpstream() as upstream:
        ...                                        # a client asks the gateway, which asks upstream.url
        arrived = await upstream.next_request()
        await arrived.send(head(200, [("content-length", "5")]) + b"he")
        arrived.reset()                            # or send the rest, close(), wait_closed()

A request that is not well framed fails the test when the block is left.
"""

import asyncio
import inspect
import os
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, Self

from tests.kit.wait import eventually
from tests.kit.wire import MalformedError, Request, body_pieces, read_head

HOST = "127.0.0.1"
HEAD_BYTES = 1 << 20

Answer = Callable[["Arrived"], bytes | Awaitable[bytes | None] | None]
Manner = Literal["serve", "deaf", "slam"]
"""How connections are taken: read and served; accepted but never read; accepted and closed at once."""
Ending = Literal["fin", "reset"]


class Connection:
    """One connection the gateway opened."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.requests = 0
        """How many heads have arrived on it."""
        self.reader = reader
        self.writer = writer
        self._socket: socket.socket = writer.get_extra_info("socket")
        self._closed_here = False
        self._ending: Ending | None = None

    @property
    def is_open(self) -> bool:
        """False once either side has closed."""
        return self.ending() is None and not self.writer.is_closing()

    def ending(self) -> Ending | None:
        """How the peer closed its side, or None while it is open. Sees a close behind bytes that nobody reads.

        Asks the kernel, for a stream reader learns of a close only after it has read all that came before. Linux.
        """
        if self._ending is None:
            if self.reader.exception() is not None:
                self._ending = "reset"
            elif self._socket.fileno() >= 0:
                poll = select.poll()
                poll.register(self._socket, select.POLLRDHUP)
                for _, seen in poll.poll(0):
                    self._ending = "reset" if seen & select.POLLERR else "fin"
            elif not self._closed_here:  # under TLS the stream closes by itself when the peer does
                self._ending = "fin"
        return self._ending

    def peer_left(self, how: Ending) -> None:
        """The reader met the end first."""
        self._ending = self._ending or how

    async def wait_closed(self, timeout: float = 5) -> Ending:
        """Return as soon as the peer has closed its side: ``fin``, or ``reset``. Raises AssertionError."""
        how: Ending = await eventually(self.ending, timeout)
        return how

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; waits while the peer does not take them. Raises ConnectionError once it is gone."""
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """Send what is still to be sent, then FIN."""
        self._closed_here = True
        self.writer.close()

    def reset(self) -> None:
        """Send RST at once: the peer's next read fails with ECONNRESET."""
        self._closed_here = True
        if self._socket.fileno() >= 0:
            with socket.socket(fileno=os.dup(self._socket.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Arrived:
    """One request that waits for its answer, and the connection it came on."""

    def __init__(self, request: Request, connection: Connection, seen: list[Request]) -> None:
        self.request = request
        """Its head; its body and trailers too once they are read."""
        self.connection = connection
        self.read_to_end = asyncio.Event()
        self._seen = seen
        self._parts: list[bytes] = []
        self._trailers: list[tuple[str, str]] = []
        self._pieces: AsyncIterator[bytes] = body_pieces(connection.reader, request, self._trailers)

    async def read(self, timeout: float = 5) -> bytes:
        """The next piece of the body, as it was chunked or as it arrived; empty at the end."""
        async with asyncio.timeout(timeout):
            piece = await anext(self._pieces, b"")
        self._parts.append(piece)
        if not piece and not self.read_to_end.is_set():
            self.request = self.request.with_body(b"".join(self._parts), tuple(self._trailers))
            self._seen.append(self.request)
            self.read_to_end.set()
        return piece

    async def body(self, timeout: float = 5) -> bytes:
        """The whole body, read to its end."""
        async with asyncio.timeout(timeout):
            while await self.read(timeout):
                pass
        return self.request.body

    async def send(self, data: bytes) -> None:
        """See Connection."""
        await self.connection.send(data)

    def close(self) -> None:
        """See Connection."""
        self.connection.close()

    def reset(self) -> None:
        """See Connection."""
        self.connection.reset()

    async def wait_closed(self, timeout: float = 5) -> Ending:
        """See Connection."""
        return await self.connection.wait_closed(timeout)


class RawUpstream:
    """A TCP server on a free port of the loopback, for one test.

    `bodies`: "read" hands a request over once it has arrived whole; "lazy" hands it over with its head, and leaves
    the body in the socket until the test reads it, or for ever. `receive_bytes` makes the kernel's receive buffer
    small, so that a peer which keeps writing soon has to wait.
    """

    def __init__(
        self,
        manner: Manner = "serve",
        *,
        bodies: Literal["read", "lazy"] = "read",
        receive_bytes: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        """Every request that has been read to its end, in the order of their ends."""
        self._manner = manner
        self._lazy = bodies == "lazy"
        self._tls = tls
        self._answer: Answer | None = None
        self._waiting: asyncio.Queue[Arrived] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.bind((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, sock=self._socket, limit=HEAD_BYTES, ssl=self._tls)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None and self._failures:
            raise self._failures[0]

    @property
    def open_connections(self) -> int:
        """How many are open on both sides now."""
        return sum(connection.is_open for connection in self.connections)

    def answer_with(self, answer: Answer | None) -> None:
        """From now on hand every request to `answer` and send the bytes it returns.

        It may be a coroutine function, may send by itself, and may return None. None in its place leaves requests to
        `next_request` again.
        """
        self._answer = answer

    async def next_request(self, timeout: float = 5) -> Arrived:
        """The next request that nobody has answered. Raises AssertionError when none comes."""
        try:
            async with asyncio.timeout(timeout):
                return await self._waiting.get()
        except TimeoutError:
            raise AssertionError(
                f"no request within {timeout:g} s; {len(self.connections)} connections were opened,"
                f" {len(self.requests)} requests came whole, failures: {self._failures}"
            ) from None

    async def next_connection(self, timeout: float = 5, *, after: int = 0) -> Connection:
        """The connection with the number `after`, as soon as it is there. Raises AssertionError."""
        await eventually(lambda: len(self.connections) > after, timeout)
        return self.connections[after]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections), reader, writer)
        self.connections.append(connection)
        if self._manner == "deaf":
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        elif self._manner == "slam":
            connection.close()
        else:
            self._start(self._serve(connection))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            while (request := await read_head(connection.reader, connection.number)) is not None:
                connection.requests += 1
                arrived = Arrived(request, connection, self.requests)
                if not self._lazy:
                    await arrived.body(timeout=60)
                if self._answer is None:
                    self._waiting.put_nowait(arrived)
                else:
                    self._start(self._answered(arrived, self._answer))
                await arrived.read_to_end.wait()
            connection.peer_left("fin")
        except (MalformedError, asyncio.LimitOverrunError) as error:
            if connection.reader.at_eof():  # cut off, which a gateway may do to a request nobody wants any more
                connection.peer_left("fin")
            else:
                self._failures.append(error)
                connection.close()
        except ConnectionError:
            connection.peer_left("reset")

    async def _answered(self, arrived: Arrived, answer: Answer) -> None:
        try:
            result = answer(arrived)
            data = await result if inspect.isawaitable(result) else result
            if data:
                await arrived.send(data)
        except ConnectionError:
            arrived.connection.peer_left("reset")
        except Exception as error:  # the test's own code: whatever it raises, the test shall fail by it
            self._failures.append(error)
            arrived.reset()
