"""A request body that is at hand whole: a prompt that was read, sent anew with each attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamgate.headers import Headers

_NO_TRAILERS: Final[Headers] = []


class Whole:
    """What the pipeline asks of a request body, over bytes that are all there."""

    __slots__ = ("length", "received", "replay")

    chunked: Final = False
    complete: Final = True
    trailers: Final = _NO_TRAILERS

    def __init__(self, data: bytes) -> None:
        self.replay = data
        self.length = self.received = len(data)

    def attach(self, sink: Callable[[bytes, bool], None], blocked: Callable[[], bool]) -> None:  # noqa: ARG002  # a body's shape
        """Give it to ``sink`` at once."""
        sink(self.replay, True)  # the shape of a Sink

    def detach(self) -> None:
        """Nothing is held that would have to be let go."""
