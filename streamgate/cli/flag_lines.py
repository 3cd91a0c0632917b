"""Flags as lines: a row of the table, a document for programs, and what has changed between two looks at a file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from streamgate.config.flag_document import Flag, FlagDocument
from streamgate.config.flag_file import Change

TITLES: Final = ("flag", "state", "default", "value", "variants", "rules", "changed")


def plain(text: str) -> str:
    """The text without what a terminal would obey: keys and names come from files that others write."""
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def row(flag: Flag, change: Change | None) -> list[str]:
    """One flag as cells, under TITLES."""
    cells = (
        flag.key,
        flag.state,
        flag.default_variant or "none",
        _value(flag.default_value),
        ", ".join(flag.variants),
        "yes" if flag.has_targeting else "no",
        "" if change is None else f"{change.ts.partition('.')[0]}Z by {change.who}",
    )
    return [plain(cell) for cell in cells]


def as_json_flag(flag: Flag, change: Change | None) -> dict[str, Any]:
    """One flag for programs."""
    last = None if change is None else {"ts": change.ts, "who": change.who, "before": change.before, "after": change.after}
    return {
        "key": flag.key,
        "line": flag.line,
        "state": flag.state,
        "default": flag.default_variant,
        "variants": dict(flag.variants),
        "rules": flag.has_targeting,
        "last_change": last,
    }


@dataclass(frozen=True, slots=True)
class Line:
    """One change of one flag, or how it stands at the beginning. `str()` is for people."""

    ts: str
    key: str
    what: str
    """`is`, `new`, `gone`, `default`, `state`, `value` or `rules`: what of it changed."""
    before: str | None
    after: str | None
    who: str | None
    """Who changed it, where the history tells."""

    def __str__(self) -> str:
        said = {"is": f"{self.after}", "gone": "gone", "rules": "other rules", "new": f"new, {self.after}"}
        moved = f"{self.before or 'none'} -> {self.after or 'none'}"
        about = {"state": f"state {moved}", "value": f"value {moved}"}
        by = "" if self.who is None else f" by {self.who}"
        return plain(f"{self.ts} {self.key}: {said.get(self.what) or about.get(self.what) or moved}{by}")


class Breakage:
    """What is wrong with a file that is looked at again and again: news once, when two looks in a row saw the same.

    Who edits in place has nothing, or half, in the file for a moment.
    """

    def __init__(self) -> None:
        self._seen: str | None = None
        self._told: str | None = None

    def news(self, wrong: str | None) -> str | None:
        """What has to be told after a look that saw `wrong`, None where nothing was wrong."""
        is_news = wrong is not None and wrong == self._seen and wrong != self._told
        self._told = wrong if is_news else None if wrong is None else self._told
        self._seen = wrong
        return wrong if is_news else None


def told(before: FlagDocument | None, after: FlagDocument, changes: Mapping[str, Change], now_wall: float) -> Iterator[Line]:
    """What changed between two looks, flag by flag; everything as it stands where there was no look before."""
    ts = datetime.fromtimestamp(now_wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    old = {} if before is None else before.flags
    for key, flag in after.flags.items():
        was = old.get(key)
        if was is None:
            yield Line(ts, key, "is" if before is None else "new", None, _standing(flag), None)
            continue
        change = changes.get(key)
        if was.default_variant != flag.default_variant:
            is_noted = change is not None and (change.before, change.after) == (was.default_variant, flag.default_variant)
            yield Line(ts, key, "default", was.default_variant, flag.default_variant, change.who if change and is_noted else None)
        elif was.default_value != flag.default_value:
            yield Line(ts, key, "value", _value(was.default_value), _value(flag.default_value), None)
        if was.state != flag.state:
            yield Line(ts, key, "state", was.state, flag.state, None)
        if _rules(before, key) != _rules(after, key):
            yield Line(ts, key, "rules", None, None, None)
    for key in sorted(old.keys() - after.flags.keys()):
        yield Line(ts, key, "gone", _standing(old[key]), None, None)


def _standing(flag: Flag) -> str:
    more = " (DISABLED)" if flag.state == "DISABLED" else ", with rules" if flag.has_targeting else ""
    return f"{flag.default_variant or 'none'}{more}"


def _rules(document: FlagDocument | None, key: str) -> tuple[object, object]:
    """The rules of a flag, and what they may refer to; a flag without rules has none."""
    data = {} if document is None else document.data
    rules = data.get("flags", {}).get(key, {}).get("targeting") or None
    return rules, data.get("$evaluators") if rules and '"$ref"' in json.dumps(rules) else None


def _value(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
