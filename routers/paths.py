"""Request targets: taken apart, spelled one way, and led to a route.

Two readers of one path must never disagree about it, or a rule for `/admin` can be walked around. So a path is brought
into one spelling first (`canonical`), routes are chosen by that spelling, and the upstream receives it byte for byte.

Assumptions of `Routes`, kept on purpose (each makes the table smaller and its answers predictable):

- a pattern is a whole path (`/v1/models`) or a prefix of whole segments (`/v1/*`); nothing else holds a `*`;
- `/v1/*` matches `/v1/` and everything below it, neither `/v1` nor `/v1x`; `/*` matches everything;
- a trailing slash counts: `/v1/models` and `/v1/models/` are two paths;
- parameters (`;…`) are no part of a segment when it is compared, but are sent on; segments left empty by that vanish;
- hosts are compared in lower-case, without a port and without a trailing dot; `*.example.com` matches any name below
  `example.com`, however deep, and not `example.com` itself;
- methods are compared as they are (RFC 9110 §9.1); whoever allows GET allows HEAD;
- best first: exact host, longest wildcard, any host; then whole path, longest prefix; then routes that name methods;
  then the order of the file. A route whose methods do not fit is passed over for the next best.

The file is long because canonical form and matching rest on the same few rules; the test of one is the test of both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, NoReturn, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

P = TypeVar("P")


class BadTarget(ValueError):
    """The request target is not one this gateway can read in exactly one way; `reason` may be shown to the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _bad(reason: str) -> NoReturn:
    raise BadTarget(reason)


# --- one spelling -----------------------------------------------------------------------------------------------------

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PLAIN = _UNRESERVED + b"!$&'()*+,;=:@/"  # pchar without "%", and "/" (RFC 3986 §3.3)
_BARE = b'"<>[]^`{|}'  # no pchar, but sent bare by many clients: written as %XX
_REFUSED = {
    ord("\\"): r"the path holds a backslash; write / or leave it out",
    ord("#"): "the target holds a fragment; it must not be sent (RFC 9112 §3.2)",
    ord("?"): "the path holds a question mark; write it as %3F",
    ord(" "): "the path holds a space; write it as %20",
}


def _triplet(code: int) -> bytes | None:
    """Return how `%XX` is spelled in canonical form; None where it is refused."""
    if code in b"\0\\":
        return None
    return bytes([code]) if code in _UNRESERVED else b"%%%02X" % code


_TRIPLETS: Final = {
    bytes((high, low)): _triplet(int(bytes((high, low)), 16))
    for high in b"0123456789ABCDEFabcdef"
    for low in b"0123456789ABCDEFabcdef"
}
# A path's shape: "/" for a slash or dot, "%" for what canonical form may change or refuse, "a" for the rest. Looking
# for one byte by its number is three times as fast as looking for a string.
_SHAPE = bytes(ord("/") if code in b"/." else ord("a") if code in _PLAIN else ord("%") for code in range(256))
_ODD, _PARAMETER = ord("%"), ord(";")
_DOTS_WITH_PARAMETERS = re.compile(rb"/\.\.?(?:;|%3B)")
_DOTS = re.compile(rb"\.\.?(?:(?:;|%3B).*)?", re.DOTALL)


def canonical(path: bytes, *, keep_encoded_slash: bool = False) -> bytes:
    """Return the one spelling of an absolute path; raises BadTarget where there is none that every server agrees on.

    Unreserved characters are decoded, once; other escapes get upper-case digits; characters that may not stand bare are
    escaped; `//` becomes `/`; then dot-segments are taken out (RFC 3986 §6.2.2). Refused are: a path that climbs above
    the root, a backslash or NUL in any spelling, bare controls, spaces and non-ASCII bytes, `?`, `#`, broken escapes,
    dot-segments with parameters (`..;`, which some servers climb by). An escaped slash is refused, or kept as a
    character of its segment when `keep_encoded_slash`; then no dot-segment may hide behind it. (Whether it may stay is
    a route's choice, and the route is found by the canonical path: keep it, match, then ask for `%2F`.)
    """
    shape = path.translate(_SHAPE)
    if _ODD not in shape and shape.find(b"//") < 0 and path.startswith(b"/"):
        return path
    path = _respelled(path)
    if b"%2F" in path:
        _check_encoded_slash(path, keep=keep_encoded_slash)
    if not path.startswith(b"/"):
        _bad("the path does not begin with /")
    return _without_dots(path)


def _respelled(path: bytes) -> bytes:
    odd = path.translate(None, _PLAIN)
    strange = odd.translate(None, b"%" + _BARE)
    if strange:
        _bad(_REFUSED.get(strange[0], "the path holds a control or non-ASCII byte; percent-encode it"))
    for code in set(odd.translate(None, b"%")):
        path = path.replace(bytes([code]), b"%%%02X" % code)
    first, *escaped = path.split(b"%")
    parts = [first]
    for part in escaped:
        spelled = _TRIPLETS.get(part[:2], b"")
        if spelled is None:
            _bad("the path holds an encoded NUL or backslash")
        if not spelled:
            _bad("the path holds a % without two hexadecimal digits; write a bare one as %25")
        parts += (spelled, part[2:])
    return b"".join(parts)


def _check_encoded_slash(path: bytes, *, keep: bool) -> None:
    if not keep:
        _bad("the path holds an encoded slash (%2F); this route does not take it")
    for segment in path.split(b"/"):
        if b"%2F" in segment and any(map(_DOTS.fullmatch, segment.split(b"%2F"))):
            _bad("the path holds a dot-segment beside an encoded slash")


def _without_dots(path: bytes) -> bytes:
    if _DOTS_WITH_PARAMETERS.search(path):
        _bad("the path holds a dot-segment with parameters")
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            if not kept:
                _bad("the path climbs above the root")
            kept.pop()
        elif segment not in {b"", b"."}:
            kept.append(segment)
    if kept and segments[-1] in {b"", b".", b".."}:
        kept.append(b"")
    return b"/" + b"/".join(kept)


def rewrite(path: bytes, strip: bytes | None, add: bytes | None) -> bytes:
    """Return a canonical path without the leading segments `strip` and then behind the segments `add`.

    Both are canonical paths; a slash at their end makes no difference. A path that does not begin with all segments of
    `strip` keeps them: `/api` is no part of `/apiary`. `strip` of the whole path leaves `/`, or `add` itself.
    """
    rest = path
    prefix = strip.rstrip(b"/") if strip else b""
    if prefix:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {b"/", b""}:
            rest = path[len(prefix) :]
        elif _PARAMETER in path:
            rest = _behind(path, prefix)
    return (add.rstrip(b"/") + rest if add else rest) or b"/"


def _behind(path: bytes, prefix: bytes) -> bytes:
    """Compare segment by segment, each up to its parameters."""
    wanted = prefix.split(b"/")
    given = path.split(b"/", len(wanted))
    if [segment.partition(b";")[0] for segment in given[: len(wanted)]] != wanted:
        return path
    return path[len(b"/".join(given[: len(wanted)])) :]


# --- targets ----------------------------------------------------------------------------------------------------------


class Target(msgspec.Struct, frozen=True, gc=False):
    """A request target: the path as sent (`*` and authority-form: `b"*"` and `b""`), the query behind `?`, if any.

    `authority` is set when the target named one (lower-case, without the scheme's own port); otherwise Host says it.
    """

    path: bytes
    query: bytes | None = None
    authority: bytes | None = None


_PRINTABLE = bytes(range(0x21, 0x7F)).replace(b"#", b"")
_SCHEME = re.compile(rb"(https?)://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]{0,5}))?")
_OWN_PORTS = {b"http": 80, b"https": 443}


def split_target(target: bytes, host: bytes | None) -> Target:
    """Take apart a request target in any form of RFC 9112 §3.2; `host` is the value of the Host field.

    An absolute-form target must name the authority that Host names, or two readers of one request could serve two sites
    (§3.2.2); the scheme's own port, letter case, a trailing dot and userinfo make no difference. Raises BadTarget where
    it does not, and for anything that is no target. The path is not yet canonical.
    """
    if target.startswith(b"/"):
        path, mark, query = target.partition(b"?")
        if not mark:
            return Target(path)
        if query.translate(None, _PRINTABLE):
            _refuse_query(query)
        return Target(path, query)
    if target == b"*":
        return Target(target)
    absolute = _SCHEME.fullmatch(target)
    if absolute is not None:
        return _absolute(absolute, host)
    authority = _AUTHORITY.fullmatch(target)
    if authority is None or not authority[2]:
        _bad("the request target is none of /path, http://host/path, * and host:port")
    return Target(b"", None, target.lower())


def _refuse_query(query: bytes) -> NoReturn:
    if b"#" in query:
        _bad(_REFUSED[ord("#")])
    _bad("the query holds a space, control or non-ASCII byte; percent-encode it")


def _absolute(target: re.Match[bytes], host: bytes | None) -> Target:
    scheme, named, path, query = target.groups()
    own_port = _OWN_PORTS[scheme.lower()]
    userinfo, _, name = named.rpartition(b"@")
    if b"@" in userinfo:
        _bad("the authority holds more than one @")
    authority = _folded(name, own_port)
    if host is not None and _folded(host, own_port) != authority:
        _bad("the request target and Host name different authorities")
    if query and query.translate(None, _PRINTABLE):
        _refuse_query(query)
    return Target(path or b"/", query, authority)


def _folded(authority: bytes, own_port: int) -> bytes:
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        _bad("the authority is not a host name or address with an optional port")
    name = found[1].lower().removesuffix(b".")
    port = int(found[2]) if found[2] else own_port
    return name if port == own_port else b"%b:%d" % (name, port)


# --- routes -----------------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, Generic[P], frozen=True):
    """One route as configured: any of `hosts` (none: any host), any of `paths`, any of `methods` (none: any method)."""

    hosts: Sequence[str]
    paths: Sequence[str]
    methods: Sequence[str]
    plan: P


class Matched(msgspec.Struct, Generic[P], frozen=True):
    """The route that serves a request, and the pattern by which (a label of few values, unlike the path)."""

    plan: P
    pattern: str


class Way(msgspec.Struct, Generic[P], frozen=True):
    """Where a request target leads: a route, the path in its one spelling, and the host by which it was chosen."""

    plan: P
    pattern: str
    path: bytes
    host: bytes


class WrongMethod(msgspec.Struct, frozen=True):
    """Host and path are served, but with other methods: `allow`, in order of precedence (the 405's Allow field)."""

    allow: tuple[bytes, ...]


class Entry(msgspec.Struct, Generic[P], frozen=True):
    """One way to reach a plan: one host (None: any), one pattern, the methods as configured (none: any)."""

    host: str | None
    pattern: str
    methods: tuple[str, ...]
    plan: P


class Candidate(msgspec.Struct, Generic[P], frozen=True):
    """What became of one entry for one request: whether it was chosen, and why or why not, in words."""

    entry: Entry[P]
    chosen: bool
    reason: str


class _Door(Generic[P]):
    """An entry made ready: the answer it gives, and to which methods (None: to any)."""

    __slots__ = ("allow", "matched", "methods")

    def __init__(self, entry: Entry[P]) -> None:
        named = [method.encode() for method in entry.methods]
        if b"GET" in named and b"HEAD" not in named:
            named.insert(named.index(b"GET") + 1, b"HEAD")
        self.matched = Matched(entry.plan, entry.pattern)
        self.allow = tuple(named)
        self.methods = frozenset(named) if named else None


class _Table(Generic[P]):
    """All patterns of one host. A prefix is kept with its slash: `/v1/*` as `/v1/`."""

    __slots__ = ("exact", "longest", "prefixes")

    def __init__(self) -> None:
        self.exact: dict[bytes, list[_Door[P]]] = {}
        self.prefixes: dict[bytes, list[_Door[P]]] = {}
        self.longest = 0

    def add(self, pattern: bytes, door: _Door[P]) -> None:
        if pattern.endswith(b"*"):
            self.prefixes.setdefault(pattern[:-1], []).append(door)
            self.longest = max(self.longest, len(pattern) - 1)
        else:
            self.exact.setdefault(pattern, []).append(door)

    def find(self, path: bytes) -> Iterator[list[_Door[P]]]:
        """Yield the doors at the whole path, then those at its prefixes, longest first."""
        doors = self.exact.get(path)
        if doors is not None:
            yield doors
        cut = path.rfind(b"/", 0, self.longest) + 1
        while cut > 0:
            doors = self.prefixes.get(path[:cut])
            if doors is not None:
                yield doors
            cut = path.rfind(b"/", 0, cut - 1) + 1


_PARAMETERS = re.compile(rb";[^/]*")
_SLASHES = re.compile(rb"//+")
_HOST = re.compile(r"(?:\*\.)?(?:[a-z0-9_-]+\.)*[a-z0-9_-]+|\[[0-9a-f:.]+\]")
_HOST_PORT = re.compile(rb":[0-9]*\Z")
_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST_BYTES = 253  # the longest DNS name (RFC 1035 §2.3.4)
_REMEMBERED = 4096  # targets seen lately; an entry is some 400 bytes
_REMEMBERED_BYTES = 256


class Routes(Generic[P]):
    """An immutable route table; its assumptions stand at the head of this file."""

    __slots__ = ("_any", "_entries", "_hosts", "_memo", "_wildcards")

    def __init__(self, rows: Iterable[Row[P]]) -> None:
        """Compile `rows`; raises ValueError for a host, pattern or method that could never match."""
        entries = [entry for row in rows for entry in _entries(row)]
        self._entries = sorted(entries, key=_precedence)
        self._any: _Table[P] = _Table()
        self._hosts: dict[bytes, _Table[P]] = {}
        self._wildcards: dict[bytes, _Table[P]] = {}
        self._memo: dict[tuple[bytes, bytes, bytes], Way[P]] = {}
        for entry in self._entries:
            self._table(entry.host).add(entry.pattern.encode(), _Door(entry))

    def _table(self, host: str | None) -> _Table[P]:
        if host is None:
            return self._any
        known = self._wildcards if host.startswith("*") else self._hosts
        return known.setdefault(host.removeprefix("*").encode(), _Table())

    def lead(self, host: bytes, target: bytes, method: bytes) -> tuple[Way[P] | WrongMethod | None, bytes | None]:
        """Return where a request target leads, and its query if it has one; `host` is the value of the Host field.

        Raises BadTarget. Answers are remembered by the bytes given, since most requests repeat one but for the query; at
        most 4096 of them.
        """
        raw, mark, query = target.partition(b"?")
        way = self._memo.get((host, raw, method))
        if way is None:
            return self._lead_anew(host, target, method)
        if query.translate(None, _PRINTABLE):
            _refuse_query(query)
        return way, query if mark else None

    def _lead_anew(self, host: bytes, target: bytes, method: bytes) -> tuple[Way[P] | WrongMethod | None, bytes | None]:
        parts = split_target(target, host or None)
        path = parts.path if target == b"*" else canonical(parts.path, keep_encoded_slash=True)
        found = self.match(parts.authority or host, path, method)
        if not isinstance(found, Matched):
            return found, parts.query
        way = Way(found.plan, found.pattern, path, parts.authority or host)
        if parts.authority is None and len(host) + len(parts.path) <= _REMEMBERED_BYTES:
            if len(self._memo) >= _REMEMBERED:
                self._memo.clear()
            self._memo[host, parts.path, method] = way
        return way, parts.query

    def match(self, host: bytes, path: bytes, method: bytes) -> Matched[P] | WrongMethod | None:
        """Return the best route for a host, a canonical path and a method; None when none has this path."""
        path = _compared(path)
        refused: list[_Door[P]] = []
        for table in self._tables(host):
            for doors in table.find(path):
                for door in doors:
                    if door.methods is None or method in door.methods:
                        return door.matched
                    refused.append(door)
        if not refused:
            return None
        return WrongMethod(tuple(dict.fromkeys(allowed for door in refused for allowed in door.allow)))

    def _tables(self, host: bytes) -> list[_Table[P]]:
        tables = [self._any]
        if self._wildcards or self._hosts:
            host = _name(host)
            place = host.rfind(b".") if self._wildcards and len(host) <= _HOST_BYTES else -1
            while place > 0:
                table = self._wildcards.get(host[place:])
                if table is not None:
                    tables.insert(0, table)
                place = host.rfind(b".", 0, place)
            exact = self._hosts.get(host)
            if exact is not None:
                tables.insert(0, exact)
        return tables

    def rows(self) -> tuple[Entry[P], ...]:
        """Return every entry, best first, as `match` prefers them."""
        return tuple(self._entries)

    def explain(self, host: bytes, path: bytes, method: bytes) -> tuple[Candidate[P], ...]:
        """Return what became of every entry, best first, for a request that `match` would be asked about."""
        host, path = _name(host), _compared(path)
        found: list[Candidate[P]] = []
        winner: Entry[P] | None = None
        for entry in self._entries:
            reason = _objection(entry, host, path, method)
            if reason is None and winner is not None:
                reason = f"would match, but {winner.host or 'any host'} {winner.pattern} comes first"
            found.append(Candidate(entry, chosen=reason is None, reason=reason or "matches"))
            winner = winner or (entry if reason is None else None)
        return tuple(found)


def _name(host: bytes) -> bytes:
    """Return the host as it is compared; a port must not lead past a host's own routes to those of any host."""
    return _HOST_PORT.sub(b"", host).lower().removesuffix(b".")


def _compared(path: bytes) -> bytes:
    """Return the path as it is compared: without parameters, and without the segments that leaves empty."""
    return _SLASHES.sub(b"/", _PARAMETERS.sub(b"", path)) if _PARAMETER in path else path


def _entries(row: Row[P]) -> Iterator[Entry[P]]:
    hosts: list[str | None] = [_checked_host(host) for host in row.hosts]
    methods = tuple(_checked_method(method) for method in row.methods)
    for pattern in row.paths:
        checked = _checked_pattern(pattern)
        for host in hosts or [None]:
            yield Entry(host, checked, methods, row.plan)


def _precedence(entry: Entry[P]) -> tuple[int, int, bool, int, bool]:
    """Sort key, best first; equal keys keep the order of the file."""
    host = entry.host or ""
    kind_of_host = 2 if not host else 1 if host.startswith("*") else 0
    prefix = entry.pattern.endswith("*")
    return kind_of_host, -len(host) if kind_of_host == 1 else 0, prefix, -len(entry.pattern) * prefix, not entry.methods


def _checked_host(host: str) -> str:
    plain = host.lower().removesuffix(".")
    if _HOST.fullmatch(plain) is None:
        message = f"host {host!r} is not a name, an address or *.name; give it without scheme, port and path"
        raise ValueError(message)
    return plain


def _checked_method(method: str) -> str:
    if _METHOD.fullmatch(method) is None:
        message = f"method {method!r} is not a token (RFC 9110 §9.1); write it like GET"
        raise ValueError(message)
    return method


def _checked_pattern(pattern: str) -> str:
    path = pattern.removesuffix("*") if pattern.endswith("/*") else pattern
    if "*" in path or ";" in path:
        message = f"path {pattern!r} must be a whole path, or one that ends in /*; it may hold no other * and no ;"
        raise ValueError(message)
    try:
        plain = canonical(path.encode(), keep_encoded_slash=True).decode()
    except BadTarget as error:
        message = f"path {pattern!r} can never match: {error.reason}"
        raise ValueError(message) from None
    return plain + pattern[len(path) :]


def _objection(entry: Entry[P], host: bytes, path: bytes, method: bytes) -> str | None:
    """Return why an entry alone would not serve a request; None when it would."""
    table: _Table[P] = _Table()
    door = _Door(entry)
    table.add(entry.pattern.encode(), door)
    wanted = (entry.host or "").encode()
    below = wanted.startswith(b"*") and host.endswith(wanted[1:]) and len(host) >= len(wanted)
    if not (below or not wanted or host == wanted):
        return f"host is not {entry.host}"
    if not any(table.find(path)):
        return f"path is not {entry.pattern}"
    if door.methods is not None and method not in door.methods:
        return f"method is not {' or '.join(allowed.decode() for allowed in door.allow)}"
    return None
