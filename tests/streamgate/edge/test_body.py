"""A request body on its way: whole, in order, never held whole, and never read on after its framing broke."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.edge.body import NO_BODY, REPLAY_BYTES, Body
from streamgate.errors import Fault, TooLarge


class Reading:
    """Whether the connection is read."""

    def __init__(self) -> None:
        self.held = False

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


class Upstream:
    """Takes what it is given, unless it is blocked."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends = 0
        self.blocked = False

    def __call__(self, data: bytes, last: bool) -> None:
        assert not self.ends, "nothing comes after the last piece"
        self.pieces.append(data)
        self.ends += last

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    def is_blocked(self) -> bool:
        return self.blocked


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Client:
    """A connection's buffer, and the body that is read off it."""

    def __init__(self, length: int | None, data: bytes = b"") -> None:
        self.buffer = bytearray(data)
        self.reading = Reading()
        self.body = Body(self.buffer, length, self.reading)

    def is_held(self) -> bool:
        return self.reading.held

    def says(self, data: bytes) -> None:
        self.buffer += data
        self.body.pull()


def test_what_was_there_before_goes_first() -> None:
    client = Client(10, b"hello")
    client.body.look()
    assert (client.body.received, client.body.rest, client.body.complete) == (5, 5, False)
    upstream = Upstream()
    client.body.attach(upstream, upstream.is_blocked)
    assert upstream.pieces == [b"hello"]
    client.says(b"worldGET /")
    assert (upstream.content, upstream.ends) == (b"helloworld", 1)
    assert bytes(client.buffer) == b"GET /"
    assert (client.body.complete, client.body.rest) == (True, 0)


def test_a_complete_body_is_sent_as_one_piece_with_its_end() -> None:
    client = Client(5, b"hello")
    client.body.look()
    upstream = Upstream()
    client.body.attach(upstream, upstream.is_blocked)
    assert (upstream.pieces, upstream.ends) == ([b"hello"], 1)


@pytest.mark.parametrize("length", [5, REPLAY_BYTES, REPLAY_BYTES + 1])
def test_a_body_that_is_there_whole_leaves_what_follows_it(length: int) -> None:
    content = bytes(range(256)) * (length // 256) + b"12345"[: length % 256]
    client = Client(length, content + b"GET /")
    client.reading.hold()  # so much came before anybody knew whose it is
    client.body.look()
    client.body.look()
    assert (client.body.complete, client.is_held()) == (length <= REPLAY_BYTES, length > REPLAY_BYTES)
    for _ in range(2):
        upstream = Upstream()
        client.body.attach(upstream, upstream.is_blocked)
        client.body.detach()
        assert (upstream.content, upstream.ends) == (content, 1)
        assert (client.body.received, bytes(client.buffer), client.is_held()) == (length, b"GET /", False)
        if client.body.replay is None:
            break


def test_a_second_attempt_gets_all_of_it() -> None:
    client = Client(None, chunk(b"hello"))
    first, second = Upstream(), Upstream()
    client.body.attach(first, first.is_blocked)
    client.body.detach()
    client.says(chunk(b"between"))
    client.body.attach(second, second.is_blocked)
    client.says(chunk(b"world") + b"0\r\nT: v\r\n\r\n")
    assert first.content == b"hello"
    assert (second.content, second.ends) == (b"hellobetweenworld", 1)
    assert client.body.trailers == [(b"T", b"v")]


def test_without_a_taker_only_the_first_part_is_read() -> None:
    """The rest stays in the kernel, whose window then stops the client."""
    client = Client(1_000_000, b"a" * 300_000)
    client.body.pull()
    assert client.body.received == REPLAY_BYTES
    assert client.is_held()
    assert len(client.buffer) == 300_000 - REPLAY_BYTES
    upstream = Upstream()
    client.body.attach(upstream, upstream.is_blocked)
    assert upstream.content == b"a" * 300_000
    assert not client.is_held()
    assert client.body.replay is None, "too much has gone by to send it again"


def test_a_blocked_upstream_holds_the_client() -> None:
    client = Client(100)
    upstream = Upstream()
    client.body.attach(upstream, upstream.is_blocked)
    client.says(b"a" * 10)
    upstream.blocked = True
    client.says(b"b" * 10)
    assert (upstream.content, client.is_held()) == (b"a" * 10, True)
    upstream.blocked = False
    client.body.pull()
    assert (upstream.content, client.is_held()) == (b"a" * 10 + b"b" * 10, False)


def test_a_known_length_is_refused_before_anything_is_read() -> None:
    client = Client(11, b"a" * 11)
    with pytest.raises(TooLarge) as caught:
        client.body.limit(10)
    assert caught.value.status == 413
    assert client.body.received == 0
    Client(10).body.limit(10)
    Client(11).body.limit(None)


def test_an_unknown_length_is_counted() -> None:
    client = Client(None)
    client.body.limit(10)
    upstream = Upstream()
    client.body.attach(upstream, upstream.is_blocked)
    client.says(chunk(b"a" * 10))
    with pytest.raises(TooLarge) as caught:
        client.says(chunk(b"b"))
    assert caught.value.status == 413
    assert (upstream.content, upstream.ends) == (b"a" * 10, 0)


@pytest.mark.parametrize("broken", [b"ZZ\r\n", b"5\r\nhelloXX", b"0\r\n X\r\n", b"1;" + b"a" * 5000])
def test_after_a_broken_chunk_nothing_is_read_any_more(broken: bytes) -> None:
    """What comes next would look like a chunk again, and the body like a whole one."""
    client = Client(None)
    with pytest.raises(Fault):
        client.says(broken)
    upstream = Upstream()
    with pytest.raises(Fault):
        client.says(chunk(b"hello") + b"0\r\n\r\n")
    with pytest.raises(Fault):
        client.body.attach(upstream, upstream.is_blocked)
    with pytest.raises(Fault):
        client.body.look()
    client.body.discard()
    with pytest.raises(Fault):
        client.body.pull()
    assert not client.body.complete
    assert client.body.rest is None
    assert upstream.ends == 0


def test_discarding_reads_to_the_end_and_keeps_nothing() -> None:
    client = Client(1_000_000)
    client.says(b"a" * 100_000)
    assert client.is_held()
    client.body.discard()
    client.says(b"a" * 900_000 + b"GET /")
    assert bytes(client.buffer) == b"GET /"
    assert (client.body.complete, client.body.replay) == (True, None)


def test_no_body_is_complete() -> None:
    assert (NO_BODY.complete, NO_BODY.length, NO_BODY.rest, NO_BODY.chunked) == (True, 0, 0, False)
    NO_BODY.look()


@given(
    st.binary(max_size=300),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["pull", "block", "unblock", "detach", "attach"])), max_size=30),
    st.binary(max_size=10),
)
def test_whatever_happens_the_last_taker_gets_all_of_it(
    content: bytes, chunked: bool, steps: list[tuple[int, str]], following: bytes
) -> None:
    wire = content
    if chunked:
        wire = b"".join(chunk(content[at : at + 37]) for at in range(0, len(content), 37)) + b"0\r\n\r\n"
    wire += following
    client = Client(None if chunked else len(content))
    upstream: Upstream | None = None
    for size, step in steps:
        client.buffer += wire[:size]
        wire = wire[size:]
        if step == "attach":
            upstream = Upstream()
            client.body.attach(upstream, upstream.is_blocked)
        elif step == "detach":
            client.body.detach()
            upstream = None
        elif upstream is not None and step in {"block", "unblock"}:
            upstream.blocked = step == "block"
        client.body.pull()
    client.buffer += wire
    last = Upstream()
    client.body.detach()
    client.body.attach(last, last.is_blocked)
    assert (last.content, last.ends) == (content, 1)
    assert bytes(client.buffer) == following
