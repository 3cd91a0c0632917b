"""What a request asks the scripted server to do, and the words it answers with.

A script comes with the request itself, so that a test says in one place what is sent and what shall happen. Three
places are read, the later one winning key by key: the query, the header ``x-script: key=value, key=value``, and a
top-level ``"script": {…}`` object in a JSON body.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]

HEADER = "x-script"


class BadScriptError(Exception):
    """The script cannot be followed; the text names the key and what it takes."""


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request's script. Every ``…_after=N`` happens once N tokens have been sent; 0 is before the first one.

    A whole (not streamed) answer has no tokens on the wire: there ``cut_after`` and ``stall_after`` act after half the
    body, ``malformed_after`` breaks its JSON, ``error_after`` makes it a 500, and ``end_after`` does nothing, since a
    body shorter than its own length is a cut.
    """

    tokens: Count = 16
    """How many tokens the answer has, unless the request's own maximum is smaller."""
    delay_ms: Milliseconds = 0
    """Silence between two tokens."""
    head_delay_ms: Milliseconds = 0
    """Silence before the response head."""
    first_delay_ms: Milliseconds = 0
    """Silence after the head, before any byte of the body."""
    open_delay_ms: Milliseconds = 0
    """Silence after the dialect's opening events (role delta, message_start), before the first token."""
    ping_ms: Milliseconds = 0
    """Keep-alives at this interval: comments, or the dialect's own ping event. 0 sends none."""
    stall_after: Count | None = None
    """Nothing more is sent; the connection stays open until the reader leaves."""
    cut_after: Count | None = None
    """The connection is closed in mid-body: no last chunk."""
    end_after: Count | None = None
    """The body ends properly, but without the dialect's terminal events."""
    malformed_after: Count | None = None
    """One event whose data is not JSON; the stream goes on behind it."""
    error_after: Count | None = None
    """The provider's own error, in-band, and the end of the body."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """An error answer in the dialect instead of a generation."""
    retry_after: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    """Value of a Retry-After field on that error answer: seconds or a date."""
    seed: int | None = None
    """Decides the words; without it the request's own ``seed``, and 0 without either."""
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1, le=1_048_576)] | None = None
    """Cut the body into chunks of this size, across events and characters, instead of one chunk an event."""

    def ending(self, sent: int) -> Literal["cut", "stall", "end", "error"] | None:
        """What ends the stream now that `sent` tokens are out; the harshest, where several are asked for."""
        if sent == self.cut_after:
            return "cut"
        if sent == self.stall_after:
            return "stall"
        if sent == self.error_after:
            return "error"
        return "end" if sent == self.end_after else None


KEYS = frozenset(Script.__struct_fields__)


def read_script(query: Mapping[str, str], header_lines: Sequence[str], body: Any = None) -> Script:
    """The script of one request.

    A query may hold anything else besides; an unknown key in the header or the body is an error, for there a
    mistyped key would leave a test passing for the wrong reason. Raises BadScriptError.
    """
    wanted: dict[str, Any] = {key: value for key, value in query.items() if key in KEYS}
    for pair in ",".join(header_lines).split(","):
        if pair.strip():
            key, equals, value = pair.partition("=")
            if not equals:
                raise BadScriptError(f"{HEADER}: {pair.strip()!r} is not key=value")
            wanted[key.strip()] = value.strip()
    if body is not None:
        if not isinstance(body, dict):
            raise BadScriptError('"script" must be an object')
        wanted |= body
    unknown = sorted(str(key) for key in wanted.keys() - KEYS)
    if unknown:
        raise BadScriptError(f"unknown script key {unknown[0]!r}; known are {', '.join(Script.__struct_fields__)}")
    try:
        return msgspec.convert(wanted, Script, strict=False)
    except msgspec.ValidationError as error:
        raise BadScriptError(f"script: {error}") from None


# Not only ASCII: a relay that cuts inside a character, or counts characters for bytes, must show it.
_SUBJECTS = ("A patient river", "The old lighthouse", "Every small café", "One curious student", "The train to Łódź")
_VERBS = ("follows", "remembers", "measures", "listens to", "translates", "repairs")
_OBJECTS = (
    "the slow tide",
    "a naïve question",
    "the road to 東京",
    "an unfinished map",
    "the lesson",
    "a bright 🙂 idea",
)


def words(seed: int, count: int, about: str = "") -> list[str]:
    """Exactly `count` tokens of plain sentences; the same arguments always give the same tokens.

    Joined they read as text: all but the first begin with their space. `about` varies the text by prompt.
    """
    chance = random.Random(f"{seed}/{about}")  # noqa: S311 (words, not secrets; seeded by text it is stable across versions)
    tokens: list[str] = []
    while len(tokens) < count:
        sentence = f"{chance.choice(_SUBJECTS)} {chance.choice(_VERBS)} {chance.choice(_OBJECTS)}."
        tokens += [f" {word}" for word in sentence.split(" ")]
    if tokens:
        tokens[0] = tokens[0].lstrip()
    return tokens[:count]
