"""Where the members of a JSON object stand in its bytes, so that one value is replaced and every other byte stays as it came.

Values are stepped over by the standard library's own parser, at its speed and by its grammar: what it takes for broken is refused,
since two readers of a broken body may see two different bodies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

MEMBERS_MAX: Final = 1_000
"""No request of any API has a tenth of it; more would only cost time."""

_S: Final = r"[ \t\n\r]*+"
_SPACE: Final = re.compile(_S)
_SCALAR: Final = r'"[^"\\\x00-\x1f]*+"|true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?'
_SIMPLE: Final = re.compile(rf'"([\x20!#-\[\]-\x7f]*+)"{_S}:{_S}({_SCALAR}){_S}([,}}]){_S}')
"""A member as most are: a key without escapes, a value that needs no parser."""
_step = json.JSONDecoder().raw_decode


def members(body: bytes) -> Iterator[tuple[str, int, int]]:
    r"""The top-level members of an object, in order: (key, where its value begins, where it ends), in bytes.

    ``body[begin:end]`` is the value as it was written, a text with its quotes. Keys are decoded (``"mod\u0065l"`` is ``model``),
    and come as often as they stand there. Raises ValueError when it gets to what is no JSON object, has more behind it, or has
    more than ``MEMBERS_MAX``; the message names the byte, never what stands there.
    """
    text = body.decode("latin-1")  # a character a byte: places in one are places in the other, and JSON's own marks are ASCII
    at = _expect(text, _past_space(text, 0), "{")
    mark, count = ",", 0
    if text.startswith("}", at):
        at, mark = _past_space(text, at + 1), ""
    while mark == ",":
        simple = _SIMPLE.match(text, at)
        if simple is not None:
            name, _, mark = simple.groups()
            at = simple.end()
            yield name, simple.start(2), simple.end(2)
        else:
            key_end = _value_end(text, at, '"')
            begin = _expect(text, _past_space(text, key_end), ":")
            end = _value_end(text, begin)
            yield _key(body[at:key_end], at), begin, end
            at = _past_space(text, end)
            mark = text[at : at + 1]
            if mark not in {",", "}"}:
                raise _broken("a comma or a closing brace", at)
            at = _past_space(text, at + 1)
        count += 1
        if count > MEMBERS_MAX:
            raise ValueError(f"the body has more than {MEMBERS_MAX} members")
    if at != len(text):
        raise _broken("the end", at)


def find(body: bytes, key: str) -> tuple[int, int] | None:
    """Where the value of one top-level member begins and ends, in bytes; None where there is no such member.

    Raises ValueError where the body is no JSON object, and where the key stands there twice, in whatever case: of
    ``{"model": …, "Model": …}`` some servers would take the first and some the last.
    """
    folded = key.casefold()
    found: tuple[int, int] | None = None
    alike = 0
    for name, begin, end in members(body):
        if name == key:
            found = begin, end
            alike += 1
        elif name.casefold() == folded:
            alike += 1
    if alike > 1:
        raise ValueError(f"the key {key!r} stands in the body {alike} times; send it once")
    return found


def _past_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _expect(text: str, at: int, mark: str) -> int:
    """Step over one mark and the space behind it."""
    if not text.startswith(mark, at):
        raise _broken(mark, at)
    return _past_space(text, at + 1)


def _value_end(text: str, at: int, first: str = "") -> int:
    if not text.startswith(first, at):
        raise _broken(first, at)
    try:
        return _step(text, at)[1]
    except json.JSONDecodeError as broken:
        raise _broken("a JSON value", broken.pos) from None  # the error of the library carries the whole body with it
    except RecursionError:
        raise ValueError(f"the value at byte {at} is nested too deep") from None
    except ValueError:  # a number of thousands of digits
        raise _broken("a JSON value", at) from None


def _key(written: bytes, at: int) -> str:
    try:
        return str(json.loads(written.decode()))
    except ValueError:
        raise _broken("a key in UTF-8", at) from None


def _broken(expected: str, at: int) -> ValueError:
    return ValueError(f"the body is no JSON object: {expected} expected at byte {at}")
