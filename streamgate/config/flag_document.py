"""A flagd flag file as a text: what its flags are, and the same text with another default variant.

The text is changed where the variant stands and nowhere else, so that a file kept in a repository shows one changed word.
What is broken is told with its line. Problems name keys and members, never values.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_MEMBERS: Final = ("state", "variants", "defaultVariant", "targeting", "metadata", "source", "selector")
"""What flagd's evaluator for Python knows of a flag; it refuses the whole set for any other member."""
_SHOWN_MAX: Final = 12
_STATES: Final = ("ENABLED", "DISABLED")
_step = json.JSONDecoder().raw_decode


class FlagFileError(Exception):
    """A flag file that cannot be used or changed; `str()` is one line: where, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag as it is written."""

    key: str
    state: str
    """ENABLED or DISABLED."""
    variants: Mapping[str, Any]
    """The value of each variant; for the flag of a model, the name of a split."""
    default_variant: str | None
    """What those get whom no rule gives a variant; None leaves it to the model's own default split."""
    has_targeting: bool
    """Whether rules decide before the default does."""
    line: int
    """Where it stands in the file, from 1."""

    @property
    def default_value(self) -> Any:
        """The value of the default variant; None when there is none."""
        return None if self.default_variant is None else self.variants.get(self.default_variant)


class FlagDocument:
    """A flag file that was read and is sound. `flags` has them in the order of the file."""

    __slots__ = ("data", "flags", "name", "text")

    def __init__(self, content: bytes, name: str) -> None:
        """Read `content`; `name` is the file in what is told. Raises FlagFileError with the first thing that is wrong."""
        self.name = name
        self.text = _decoded(content, name)
        self.data = _parsed(self.text, name)
        self.flags: dict[str, Flag] = {}
        for key, line, raw in self._raw_flags():
            try:
                self.flags[key] = _flag(key, raw, line)
            except ValueError as error:
                raise FlagFileError(f"{name}:{line}: flag {_quoted(key)}: {error}") from None

    def _raw_flags(self) -> Iterator[tuple[str, int, Any]]:
        """Key, line and value of each flag, and before them the checks of what stands beside the flags."""
        flags = self.data.get("flags")
        if not isinstance(flags, dict):
            raise FlagFileError(f'{self.name}: needs a member "flags" with an object in it: flags by their keys')
        if not isinstance(self.data.get("$evaluators") or {}, dict):
            raise FlagFileError(f'{self.name}: "$evaluators" must be an object: rules by their names')
        try:
            _check_metadata(self.data.get("metadata", {}))
        except ValueError as error:
            raise FlagFileError(f"{self.name}: {error}") from None
        lines, line, seen = {}, 1, 0
        for key, at, _, _ in _members(self.text, self._spot("flags")):
            line, seen = line + self.text.count("\n", seen, at), at
            lines[key] = line
        for key, raw in flags.items():
            yield key, lines[key], raw

    def flag(self, key: str) -> Flag:
        """The flag of that key. Raises FlagFileError that says which was probably meant."""
        found = self.flags.get(key)
        if found is None:
            raise FlagFileError(f"{self.name}: no flag {_quoted(key)}; {_nearest(key, self.flags)}")
        return found

    def with_default(self, key: str, variant: str) -> str:
        """The text in which `key` has the default variant `variant`, every other character as it is.

        Raises FlagFileError when there is no such flag or variant, or when the same member stands there twice.
        """
        flag = self.flag(key)
        if variant not in flag.variants:
            raise FlagFileError(f"{self.name}:{flag.line}: flag {_quoted(key)} has no variant {_quoted(variant)}; {_hint(flag, variant)}")
        at = self._spot("flags", key)
        found = self._only(at, "defaultVariant")
        if found is not None:
            begin, end = found
            return f"{self.text[:begin]}{json.dumps(variant)}{self.text[end:]}"
        first = _past_space(self.text, at + 1)
        gap = self.text[at + 1 : first]
        return f'{self.text[: at + 1]}{gap}"defaultVariant": {json.dumps(variant)},{gap or " "}{self.text[first:]}'

    def _spot(self, *keys: str) -> int:
        """Where the value at the end of these keys begins. Raises FlagFileError where one stands there twice."""
        at = _past_space(self.text, 0)
        for key in keys:
            found = self._only(at, key)
            assert found is not None, "asked for what is there"  # noqa: S101  # a flag was found in the parsed text
            at = found[0]
        return at

    def _only(self, at: int, key: str) -> tuple[int, int] | None:
        """Where the member's value begins and ends, of the object at `at`; None where there is none."""
        found = [(begin, end, start) for name, start, begin, end in _members(self.text, at) if name == key]
        if len(found) > 1:
            where = f"{self.name}:{self._line(found[1][2])}"
            raise FlagFileError(f"{where}: {_quoted(key)} stands here a second time; remove one of the two")
        return found[0][:2] if found else None

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1


def _decoded(content: bytes, name: str) -> str:
    if content.startswith(b"\xef\xbb\xbf"):
        raise FlagFileError(f"{name}: begins with a byte order mark; save it as UTF-8 without one")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise FlagFileError(f"{name}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:]
        raise FlagFileError(f"{name}:{error.lineno}:{error.colno}: is not JSON: {what}") from None
    except RecursionError:
        raise FlagFileError(f"{name}: is nested too deep") from None
    except ValueError:
        raise FlagFileError(f"{name}: has a number of too many digits") from None
    if not isinstance(data, dict):
        raise FlagFileError(f'{name}: must be an object with a member "flags"')
    return data


def _flag(key: str, raw: Any, line: int) -> Flag:
    """The flag, if flagd's evaluator would take it. Raises ValueError with what is wrong."""
    if not isinstance(raw, dict):
        raise ValueError('must be an object with "state", "variants" and "defaultVariant"')  # noqa: TRY004  # told as a mistake of the file
    for name in raw:
        if name not in _MEMBERS:
            hint = f"did you mean {_quoted(near[0])}" if (near := difflib.get_close_matches(name, _MEMBERS, 1)) else "move it to metadata"
            raise ValueError(f"the member {_quoted(name)} is not known; {hint}")
    state, variants, default = raw.get("state"), raw.get("variants"), raw.get("defaultVariant")
    if state not in _STATES:
        raise ValueError('"state" must be "ENABLED" or "DISABLED"')
    if not isinstance(variants, dict) or not variants:
        raise ValueError('"variants" must be an object with at least one variant in it')
    if default and not isinstance(default, (str, bool)):
        raise ValueError('"defaultVariant" must be the name of a variant, or null')
    if raw.get("metadata"):
        _check_metadata(raw["metadata"])
    named = str(default).lower() if isinstance(default, bool) else default or None
    return Flag(key, state, variants, named, bool(raw.get("targeting")), line)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise ValueError('"metadata" must be an object')  # noqa: TRY004  # likewise
    for name, value in metadata.items():
        if not name or not isinstance(value, (str, int, float)):
            raise ValueError(f'"metadata" member {_quoted(name)}: must have a name, and be text, a number, true or false')


def _members(text: str, at: int) -> Iterator[tuple[str, int, int, int]]:
    """(key, where it begins, where its value begins, where that ends) of the object at `at`, in text known to be JSON."""
    at = _past_space(text, at + 1)
    while text[at] != "}":
        key, end = _step(text, at)
        begin = _past_space(text, _past_space(text, end) + 1)
        end = _step(text, begin)[1]
        yield key, at, begin, end
        at = _past_space(text, end)
        at = _past_space(text, at + 1) if text[at] == "," else at


def _past_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"did you mean {_quoted(near[0])}?"
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return f"there are: {', '.join(map(_quoted, names[:_SHOWN_MAX]))}{more}" if names else "there are none"


def _hint(flag: Flag, word: str) -> str:
    """A value may have been given for the name of the variant that has it."""
    named = [name for name, value in flag.variants.items() if value == word]
    return f"that is the value of its variant {_quoted(named[0])}" if named else _nearest(word, flag.variants)


def _quoted(text: str) -> str:
    """On one line, whatever it holds."""
    return json.dumps(text)
