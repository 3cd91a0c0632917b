"""Where the members of a JSON object and the items of a JSON array lie in their bytes, so that a part can be replaced or left out
while all else stays as it came: numbers, escapes, spaces.

Requests are read by `streamgate.json_span`, as everywhere in this house. It turns values into objects, and an answer of embeddings
holds tens of thousands of numbers (15 ms for a megabyte); there msgspec skips them unread (1 ms) and says how long each piece is,
and a pattern for what stands between two pieces says where it begins.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from streamgate import json_span

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for what cannot be read, or is not what it should be."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_FIRST_NAME: Final = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_NEXT_NAME: Final = re.compile(rb'[ \t\n\r]*,[ \t\n\r]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_OBJECT_END: Final = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*")
_FIRST_ITEM: Final = re.compile(rb"[ \t\n\r]*\[[ \t\n\r]*")
_INDEX: Final = re.compile(rb'"index"[ \t\n\r]*:[ \t\n\r]*(-?[0-9]+)')
_NEXT_ITEM: Final = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")


class NotPieces(ValueError):
    """The text is no JSON object (or array), or names a member twice, so that its readers may disagree on what it says."""


class Span(NamedTuple):
    """Where a piece lies: ``text[start:stop]``."""

    start: int
    stop: int


def asked(body: bytes) -> dict[str, Span]:
    """The values of a request's members, in their order. Raises NotPieces, also where a name stands twice, in whatever case, and
    where the body is no UTF-8: what readers may read differently is not put together with others' requests.
    """
    found: dict[str, Span] = {}
    names: list[str] = []
    try:
        body.decode()
        for name, start, stop in json_span.members(body):
            names.append(name.casefold())
            found[name] = Span(start, stop)
    except ValueError as error:
        raise NotPieces("not a JSON object") from error
    if len(set(names)) < len(names):
        raise NotPieces("a member is named twice")
    return found


def members(text: bytes) -> dict[str, Span]:
    """The values of an object's members, in their order. Raises NotPieces."""
    try:
        values = _MEMBERS.decode(text)
    except UNREADABLE as error:
        raise NotPieces("not a JSON object") from error
    found: dict[str, Span] = {}
    at, name_at = 0, _FIRST_NAME
    for name, value in values.items():
        match = name_at.match(text, at)
        raw = bytes(value)
        if match is None or not text.startswith(raw, match.end()):
            raise NotPieces("a member is named twice")
        start = match.end()
        at = start + len(raw)
        found[name] = Span(start, at)
        name_at = _NEXT_NAME
    if found and _OBJECT_END.fullmatch(text, at) is None:
        raise NotPieces("a member is named twice")
    return found


def items(text: bytes) -> list[Span]:
    """The items of an array, in their order. Raises NotPieces."""
    try:
        values = _ITEMS.decode(text)
    except UNREADABLE as error:
        raise NotPieces("not a JSON array") from error
    found: list[Span] = []
    at, before = 0, _FIRST_ITEM
    for value in values:
        match = before.match(text, at)
        if match is None:  # pragma: no cover  # msgspec has read the same bytes
            raise NotPieces("not a JSON array")
        start = match.end()
        at = start + memoryview(value).nbytes
        found.append(Span(start, at))
        before = _NEXT_ITEM
    return found


def replaced(text: bytes, spans: dict[Span, bytes]) -> bytes:
    """The text with other bytes in these places, which must not overlap."""
    parts: list[bytes] = []
    at = 0
    for span in sorted(spans):
        parts += (text[at : span.start], spans[span])
        at = span.stop
    parts.append(text[at:])
    return b"".join(parts)


def selection(text: bytes, spans: list[Span], chosen: list[bytes]) -> bytes:
    """An array written as this one is, whose items lie at ``spans`` (at least one), with the ``chosen`` items in it."""
    between = text[spans[0].stop : spans[1].start] if len(spans) > 1 else b","
    return text[: spans[0].start] + between.join(chosen) + text[spans[-1].stop :]


def index_span(text: bytes) -> Span | None:
    """Where the number of the only member called `index` lies, on whatever level; None where a plain look cannot tell.

    In JSON the bytes `"index":` are a member's name wherever they stand, since a quote inside a text is escaped. So a text with one
    of them, and no escape that could spell another, needs no reading.
    """
    at = text.find(b'"index"')
    if at < 0 or text.count(b'index"') != 1 or text[at - 1 : at] == b"\\" or b"\\u" in text:
        return None
    match = _INDEX.match(text, at)
    return None if match is None else Span(*match.span(1))


def renumbered(entry: bytes, number: int) -> bytes:
    """An object with another number as its `index`. Raises NotPieces where it has none."""
    span = index_span(entry) or members(entry).get("index")
    if span is None:
        raise NotPieces("an entry without an index")
    return b"%b%d%b" % (entry[: span.start], number, entry[span.stop :])
