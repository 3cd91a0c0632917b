"""Addresses on this machine to which nothing answers, each in its own way."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HOST = "127.0.0.1"
PROBE_S = 0.1
MOST_CONNECTIONS = 16


def free_port() -> int:
    """A port nobody listens on now. It is not held: use it at once, or let the server choose its own."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def refused_port() -> Iterator[int]:
    """A port at which every connection is refused, for as long as it is held.

    Bound, so that nobody else can take it, and never listened on.
    """
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield held.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A port at which connecting never ends: it listens, nobody accepts, and its backlog is full.

    Linux drops the SYN of one connection too many instead of refusing it. Fails where the system does otherwise.
    """
    with ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(MOST_CONNECTIONS):
            filler = held.enter_context(socket.socket())
            filler.settimeout(PROBE_S)
            try:
                filler.connect(address)
            except TimeoutError:
                break
        else:
            raise AssertionError(f"{MOST_CONNECTIONS} connections were taken by a backlog of 0")
        yield address[1]
