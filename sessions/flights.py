"""Single flight: identical deterministic requests that are under way at the same time share one generation, each with its own stream.

Nothing is cached. A flight lasts as long as its call: who comes while it is under way hears its beginning from what is kept of it
and the rest as it comes; who comes later starts another. What is kept is bounded: past `KEPT_BYTES` newcomers start their own. The
last one to leave cancels the call.

Whether two requests are the same is decided to the byte, member by member: `stream` and `stream_options` because they shape the
answer, `user` and `metadata` because stickiness may send another user to another model. What else decides about an answer (target,
credentials, headers passed on) belongs in the principal's text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec

from sessions.pieces import UNREADABLE, NotPieces, asked
from sessions.relay import Response, Upstream
from sessions.seats import Seat
from streamgate.errors import Fault
from streamgate.headers import Headers

KEPT_BYTES: Final = 262_144

_EMBEDDINGS: Final = b"/v1/embeddings"
_RESPONSES: Final = b"/v1/responses"
_PATHS: Final = frozenset({b"/v1/chat/completions", b"/v1/completions", b"/v1/messages", _EMBEDDINGS, _RESPONSES})
_ZERO: Final = re.compile(rb"-?0(?:\.0+)?(?:[eE][-+]?[0-9]+)?")
_WHOLE: Final = re.compile(rb"-?[0-9]+")
_NOTHING: Final = frozenset({b"", b"null"})
_NO: Final = _NOTHING | {b"false"}
_ONLY: Final = {
    "n": _NOTHING | {b"1"},
    "store": _NO,
    "background": _NO,
    "previous_response_id": _NOTHING,
    "conversation": _NOTHING,
    "container": _NOTHING,
    "mcp_servers": _NOTHING | {b"[]"},
    "web_search_options": _NOTHING,
}
"""What a request may say of these. Anything else leaves something behind on the provider's side or depends on what is there."""
_CLIENTS_TOOLS: Final = frozenset({"function", "custom"})


class _Tool(msgspec.Struct, gc=False):
    type: str = "function"


_TOOLS: Final = msgspec.json.Decoder(list[_Tool] | None)


def flight_key(path: bytes, body: bytes, principal: str) -> bytes | None:
    """What is equal for requests that may share one generation; None for a request that may not.

    It may where the model is bound to answer the same: `temperature` 0, or a `seed`, or embeddings; with one choice; and where asking
    once instead of twice makes no other difference: nothing stored (the Responses API stores unless told not to), continued or run
    in the background, and no tools but those that the client runs itself.
    """
    if path not in _PATHS:
        return None
    try:
        found = {name: body[start:stop] for name, (start, stop) in asked(body).items()}
        if not _is_shareable(path, found):
            return None
    except (NotPieces, *UNREADABLE):
        return None
    key = blake2b(digest_size=32)
    for piece in (principal, path, *(piece for name in sorted(found) for piece in (name, found[name]))):
        written = piece.encode(errors="surrogatepass") if isinstance(piece, str) else piece
        key.update(len(written).to_bytes(8))
        key.update(written)
    return key.digest()


def _is_shareable(path: bytes, found: Mapping[str, bytes]) -> bool:
    if any(found.get(name, b"") not in allowed for name, allowed in _ONLY.items()):
        return False
    if path == _RESPONSES and found.get("store") != b"false":
        return False
    tools = _TOOLS.decode(found.get("tools", b"null"))
    if tools and any(tool.type not in _CLIENTS_TOOLS for tool in tools):
        return False
    fixed = _ZERO.fullmatch(found.get("temperature", b"")) or _WHOLE.fullmatch(found.get("seed", b""))
    return fixed is not None or path == _EMBEDDINGS


@dataclass(frozen=True, slots=True)
class FlightStatistics:
    """Of this moment: flights with somebody aboard, and how many that are. Since the beginning: flights, and requests that needed none
    of their own.
    """

    flying: int
    riding: int
    started: int
    shared: int


class Flight:
    """One call that several share. It is told of the answer as a relay is, and tells everyone aboard.

    Whoever makes the call sets ``source`` to what can pause, resume and abandon it, before anything else happens.
    """

    __slots__ = ("_behind", "_flights", "_head", "_kept", "_kept_bytes", "_seats", "key", "source")

    def __init__(self, flights: Flights, key: bytes) -> None:
        self._flights = flights
        self._seats: list[Seat] = []
        self._head: Response | None = None
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._behind = 0
        self.key = key
        self.source: Upstream | None = None

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def boarding(self) -> bool:
        """Is all of its beginning still here, so that another may join?"""
        return self._kept is not None

    def seat(self) -> Seat:
        """A place for one more. The first one's taker makes the call."""
        seat = Seat(self, first=not self._seats, head=self._head, beginning=self._kept or ())
        self._seats.append(seat)
        return seat

    # -- from the call: what a relay is told ---------------------------------------------------------------------------

    def on_head(self, response: Response) -> bool:
        """The answer's head. False: nobody wants the rest."""
        self._head = response
        for seat in tuple(self._seats):
            seat.on_head(response)
        return bool(self._seats)

    def on_body(self, data: bytes) -> None:
        """The next bytes."""
        if self._kept is not None:
            self._kept_bytes += len(data)
            if self._kept_bytes <= KEPT_BYTES:
                self._kept.append(data)
            else:
                self._close()
        for seat in tuple(self._seats):
            seat.on_body(data)

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        """One read of the upstream is over; ``ended`` when it was the last."""
        if ended:
            self._end()
        for seat in tuple(self._seats):
            seat.flush(ended=ended, trailers=trailers)

    def on_lost(self, fault: Fault) -> None:
        """The answer broke off."""
        self._end()
        for seat in tuple(self._seats):
            seat.on_lost(fault)

    def _end(self) -> None:
        self.source = None
        self._close()

    def _close(self) -> None:
        """Let nobody board from now on."""
        self._kept = None
        self._flights.close(self)

    # -- from its seats ------------------------------------------------------------------------------------------------

    def left(self, seat: Seat, gone_at: float | None) -> None:
        """One rider is gone; the last one takes the call along."""
        self._seats.remove(seat)
        self._flights.riding -= 1
        if self._seats:
            return
        self._close()
        self._flights.flying -= 1
        source, self.source = self.source, None
        if source is not None:
            source.abandon(gone_at)

    def fell_behind(self, seat: Seat) -> None:  # noqa: ARG002  # whoever it is
        """The slowest sets the pace, once it is a buffer's length behind."""
        self._behind += 1
        if self._behind == 1 and self.source is not None:
            self.source.pause_reading()

    def caught_up(self, seat: Seat) -> None:  # noqa: ARG002  # whoever it is
        """Nobody has to be waited for any more, if it was the last."""
        self._behind -= 1
        if not self._behind and self.source is not None:
            self.source.resume_reading()


class Flights:
    """The calls that may be shared now, by key. ``flying`` and ``riding`` count those that may not any more, too."""

    def __init__(self) -> None:
        self._boarding: dict[bytes, Flight] = {}
        self._started = self._shared = 0
        self.flying = 0
        self.riding = 0

    def join(self, key: bytes) -> tuple[Flight, Seat]:
        """A place in the call of this key, or in a new one; ``seat.first`` says so, and who has it makes the call."""
        flight = self._boarding.get(key)
        if flight is None:
            flight = self._boarding[key] = Flight(self, key)
            self._started += 1
            self.flying += 1
        else:
            self._shared += 1
        self.riding += 1
        return flight, flight.seat()

    def close(self, flight: Flight) -> None:
        """Let nobody join this one any more; a flight says so itself."""
        if self._boarding.get(flight.key) is flight:
            del self._boarding[flight.key]

    def statistics(self) -> FlightStatistics:
        """Return the figures of this moment."""
        return FlightStatistics(flying=self.flying, riding=self.riding, started=self._started, shared=self._shared)
