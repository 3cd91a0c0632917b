"""Header lists: what may pass through the gateway, and what it says itself about who is asking.

A header list is what came off the wire: pairs of name (as spelled) and value, in order. Nothing here changes a value
that passes. The rules:

- hop-by-hop fields end here, those that `Connection` names included (RFC 9110 §7.6.1);
- what the gateway asserts towards an upstream, no client can assert: such names are removed in every spelling, because
  many servers read `X_User_Id`, `X.User.Id` and `X-User-Id` as one variable (CVE-2025-64484 and its relatives);
- nobody's word about the client is believed unless they are listed as trusted; the peers' defaults that believe
  everybody (ingress-nginx, Tyk) are the trap this avoids.

These run for every request, so each spelling of a name is judged once and remembered.

This file is longer than most: it is the one place that says which header may cross, and splitting it would let two
lists of names drift apart.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Headers: TypeAlias = list[tuple[bytes, bytes]]
Network: TypeAlias = IPv4Network | IPv6Network

HOP_BY_HOP: Final[frozenset[bytes]] = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding"
    b" upgrade http2-settings".split()
)
"""Fields that concern one connection only, lower-case (RFC 9110 §7.6.1; HTTP2-Settings: RFC 7540 §3.2.1)."""

ASSERTED: Final[frozenset[bytes]] = frozenset(
    b"forwarded via x-real-ip x-request-id traceparent tracestate"
    b" x-original-url x-original-uri x-original-host x-rewrite-url".split()
)
"""Names that only the gateway may send to an upstream, in `normal` spelling; with `ASSERTED_PREFIXES`.

The `x-original-…` and `x-rewrite-url` names are here because some frameworks route by them, past our own routes.
"""

ASSERTED_PREFIXES: Final = (b"x-forwarded-", b"x-streamgate-")

_OWN_FRAMING = frozenset(b"host content-length expect".split())  # written anew for each upstream request
_VARIANT_PREFIXES = (b"accept-", b"access-control-", b"content-", b"if-", b"proxy-", b"sec-", b"set-")
_VARIANTS = frozenset(
    b"api-key cache-control idempotency-key last-event-id max-forwards user-agent www-authenticate x-api-key"
    b" x-http-method x-http-method-override x-method-override".split()
)  # standard names that pass as they are, but not in a spelling with "_" or "."

_NORMAL = bytes(
    ord("-") if code in b"_." else code + 32 if code in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ" else code for code in range(256)
)


_SPELLINGS = 2048  # a whole site's header names in a few spellings; the rest of the bound is against made-up ones
_SPELLING_BYTES = 64


def normal(name: bytes) -> bytes:
    """Return the name as lenient servers read it: lower-case, with `_` and `.` as `-`."""
    return name.translate(_NORMAL)


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all lines called `name` (given in lower-case), in order."""
    return [value for spelled, value in headers if spelled.lower() == name]


class Names(dict[bytes, bytes]):
    """From a name as spelled to its lower-case form where it is one of `wanted`, else b"". A spelling is judged once."""

    __slots__ = ("_wanted",)

    def __init__(self, *wanted: bytes) -> None:
        """Look for these names, given in lower-case."""
        super().__init__()
        self._wanted = frozenset(wanted)

    def __missing__(self, name: bytes) -> bytes:
        """Judge a new spelling; all are forgotten when there are too many, and long ones are nobody's usual names."""
        lower = name.lower()
        found = lower if lower in self._wanted else b""
        if len(self) >= _SPELLINGS:
            self.clear()
        if len(name) <= _SPELLING_BYTES:
            self[name] = found
        return found


def connection_tokens(values: Iterable[bytes]) -> set[bytes]:
    """Return what the values of `Connection` name, lower-case (RFC 9110 §7.6.1)."""
    tokens = {token.strip(b" \t").lower() for value in values for token in value.split(b",")}
    tokens.discard(b"")
    return tokens


# --- what passes ------------------------------------------------------------------------------------------------------

_KEEP, _DROP, _CONNECTION, _TE = 0, 1, 2, 3
_FILTERS = 512
_NAMES_NOTHING = frozenset(  # values of Connection that name no field beyond those removed anyway
    b"keep-alive,Keep-Alive,close,Close,upgrade,Upgrade,TE,te".split(b",")
)
_NOTHING: frozenset[bytes] = frozenset()


class _Verdicts(dict[bytes, int]):
    """From a name as spelled to its verdict; a new spelling is judged once, and all are forgotten when it is full."""

    __slots__ = ("_judge",)

    def __init__(self, judge: Callable[[bytes], int]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, name: bytes) -> int:
        verdict = self._judge(name)
        if len(self) >= _SPELLINGS:
            self.clear()
        if len(name) <= _SPELLING_BYTES:
            self[name] = verdict
        return verdict


def _for_upstream(drop: frozenset[bytes]) -> _Verdicts:
    never = HOP_BY_HOP | ASSERTED | _OWN_FRAMING | frozenset(map(normal, drop))

    def judge(name: bytes) -> int:
        lower, plain = name.lower(), normal(name)
        if lower == b"connection":
            return _CONNECTION
        if lower == b"te":
            return _TE
        if plain in never or plain.startswith(ASSERTED_PREFIXES):
            return _DROP
        variant = lower != plain and (plain in _VARIANTS or plain.startswith(_VARIANT_PREFIXES))
        return _DROP if variant else _KEEP

    return _Verdicts(judge)


def _for_client(drop: frozenset[bytes]) -> _Verdicts:
    never = HOP_BY_HOP | frozenset(name.lower() for name in drop)

    def judge(name: bytes) -> int:
        lower = name.lower()
        return _CONNECTION if lower == b"connection" else _DROP if lower in never else _KEEP

    return _Verdicts(judge)


_upstream: dict[frozenset[bytes], _Verdicts] = {_NOTHING: _for_upstream(_NOTHING)}
_client: dict[frozenset[bytes], _Verdicts] = {_NOTHING: _for_client(_NOTHING)}


def _learn(
    known: dict[frozenset[bytes], _Verdicts],
    compiled: Callable[[frozenset[bytes]], _Verdicts],
    drop: frozenset[bytes],
) -> _Verdicts:
    """Compile the verdicts of one drop list; plans have few, and those of retired plans are forgotten in time."""
    if len(known) >= _FILTERS:
        known.clear()
    verdicts = known[drop] = compiled(drop)
    return verdicts


def for_upstream(headers: Headers, *, drop: frozenset[bytes] = _NOTHING) -> Headers:
    """Return the request headers an upstream may see; the caller adds Host, framing and what the gateway asserts.

    Removed are: hop-by-hop fields and those `Connection` names; Host, Content-Length, Expect; everything in `ASSERTED`
    in any spelling (Via too: `via_line` says it again with our part); spellings with `_` or `.` of standard names; and
    the names in `drop`, in any spelling: what this route asserts (claims, credentials) or withholds.
    `TE` is reduced to `trailers` (RFC 9110 §10.1.4: a sender that keeps it also sends `Connection: TE`).
    """
    verdicts = _upstream.get(drop) or _learn(_upstream, _for_upstream, drop)
    kept: Headers = []
    named: set[bytes] | None = None
    for pair in headers:
        verdict = verdicts[pair[0]]
        if verdict == _KEEP:
            kept.append(pair)
        elif verdict == _CONNECTION:
            if pair[1] not in _NAMES_NOTHING:
                named = connection_tokens((pair[1],)) | (named or set())
        elif verdict == _TE and b"trailers" in connection_tokens((pair[1],)):
            kept.append((b"TE", b"trailers"))
    return kept if named is None else _without(kept, named - {b"te"})


def for_client(headers: Headers, *, drop: frozenset[bytes] = _NOTHING) -> Headers:
    """Return the response headers a client may see: none that are hop-by-hop, or that `Connection` or `drop` names.

    Content-Length stays: what frames the answer to the client is decided by whoever writes it. Names in `drop`
    (lower-case) are those the gateway says itself, such as `x-request-id`.
    """
    verdicts = _client.get(drop) or _learn(_client, _for_client, drop)
    kept: Headers = []
    named: set[bytes] | None = None
    for pair in headers:
        verdict = verdicts[pair[0]]
        if verdict == _KEEP:
            kept.append(pair)
        elif verdict == _CONNECTION and pair[1] not in _NAMES_NOTHING:
            named = connection_tokens((pair[1],)) | (named or set())
    return kept if named is None else _without(kept, named)


def _without(headers: Headers, names: set[bytes]) -> Headers:
    return [pair for pair in headers if pair[0].lower() not in names]


_NO_TRAILER_PREFIXES = (
    *(b"accept", b"access-control-", b"content-", b"if-", b"proxy-", b"sec-"),
    *ASSERTED_PREFIXES,
)
_NO_TRAILER = (
    HOP_BY_HOP
    | ASSERTED
    | _OWN_FRAMING
    | frozenset(
        b"age allow alt-svc authentication-info authorization cache-control clear-site-data cookie date expires"
        b" location max-forwards origin pragma range referer refresh retry-after set-cookie strict-transport-security"
        b" user-agent vary warning www-authenticate x-accel-buffering x-content-type-options x-frame-options".split()
    )
)


@lru_cache(maxsize=256)
def safe_trailer(name: bytes) -> bool:
    """Whether a trailer field may pass: not framing, routing, request modifiers, authentication or content format.

    RFC 9110 §6.5.1 forbids to send those in trailers; merged into a head they would undo what was decided there.
    """
    plain = normal(name)
    return plain not in _NO_TRAILER and not plain.startswith(_NO_TRAILER_PREFIXES)


# --- who is asking ----------------------------------------------------------------------------------------------------

_ADDRESSES = 4096  # clients seen lately; one entry is some hundred bytes
_ELEMENT_BYTES = 64  # an IPv6 address with a port has 53; some spaces around it are fine
_MAPPED_BITS = 96  # ::ffff:0:0/96 is all of IPv4


def _address(text: str) -> str | None:
    """Return the address in its shortest spelling, an IPv4-mapped one as IPv4, no zone; None if it is no address."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


_known_address = lru_cache(maxsize=_ADDRESSES)(_address)


class Networks:
    """A set of networks that answers quickly whether an address is in one of them.

    IPv4-mapped IPv6 addresses and networks count as the IPv4 ones they stand for. What is no address is in no network.
    """

    __slots__ = ("_blocks", "contains")

    contains: Callable[[str], bool]
    """Whether the address lies in one of the networks; answers for the last 4096 addresses are remembered."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        """Compile `networks` (overlaps are merged); none at all trusts nobody."""
        plain = [_unmapped(network) for network in networks]
        self._blocks = {
            4: _blocks(network for network in plain if isinstance(network, IPv4Network)),
            6: _blocks(network for network in plain if isinstance(network, IPv6Network)),
        }
        self.contains = lru_cache(maxsize=_ADDRESSES)(self._search) if plain else _in_none

    def __bool__(self) -> bool:
        """Whether there is any network at all."""
        return self.contains is not _in_none

    def _search(self, text: str) -> bool:
        plain = _address(text)
        if plain is None:
            return False
        address = ip_address(plain)
        firsts, lasts = self._blocks[address.version]
        place = bisect_right(firsts, int(address)) - 1
        return place >= 0 and int(address) <= lasts[place]


def _in_none(_text: str) -> bool:
    return False


def _unmapped(network: Network) -> Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def _blocks(networks: Iterable[Any]) -> tuple[list[int], list[int]]:
    merged = sorted(collapse_addresses(networks))
    return [int(network[0]) for network in merged], [int(network[-1]) for network in merged]


_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::[0-9]{1,5})?")  # also [v6] and [v6]:port; a bare v6 does not match


@lru_cache(maxsize=_ADDRESSES)
def _element(element: bytes) -> str | None:
    text = element.strip(b" \t").decode("latin-1")
    spelled = _PORT.fullmatch(text)
    return None if "%" in text else _address(text if spelled is None else spelled[1] or spelled[2] or "")


def client_address(peer: str, forwarded_for: Sequence[bytes], trusted: Networks) -> str:
    """Return who is asking: the peer, or the last address in X-Forwarded-For that no trusted proxy stands at.

    `forwarded_for` are the values of all its lines in order. Every proxy appends the address it saw, so only the right
    end can be believed, and only as far as each step is trusted (Envoy's model). A step that is no address ends the
    walk at the last good one. The result is spelled shortest, IPv4-mapped addresses as IPv4.
    """
    client = _known_address(peer) or peer
    if not forwarded_for or not trusted.contains(client):
        return client
    for value in reversed(forwarded_for):
        for element in reversed(value.split(b",")):
            address = _element(element) if len(element) <= _ELEMENT_BYTES else None
            if address is None:
                return client
            client = address
            if not trusted.contains(client):
                return client
    return client


_FORWARDED_PROTOS = frozenset(b"http https ws wss".split())
_FORWARDED_HOST = re.compile(rb"[A-Za-z0-9._~\[\]:-]{1,255}")


class Peer:
    """The other end of one client connection, and what that lets us say about it; made once per connection.

    `address` is spelled as `client_address` does, `trusted` whether its own X-Forwarded-… lines are believed.
    """

    __slots__ = ("_for_and_proto", "_up_to_host", "address", "proto", "trusted")

    def __init__(self, address: str, *, tls: bool, trusted: Networks) -> None:
        """Take the address the socket names ("" for a Unix socket) and whether the connection came over TLS."""
        self.address = _known_address(address) or address or "unknown"  # "unknown": RFC 7239 §6.2
        self.trusted = trusted.contains(self.address)
        self.proto = b"https" if tls else b"http"
        self._for_and_proto = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (self.address.encode(), self.proto)
        self._up_to_host = self._for_and_proto + b"X-Forwarded-Host: "

    def lines(self, host: bytes) -> bytes:
        """Return the header lines for a client that is this peer itself, asking for `host` (b"" if it named none)."""
        return self._up_to_host + host + b"\r\n" if host else self._for_and_proto


def forwarded_headers(peer: Peer, host: bytes, headers: Headers) -> bytes:
    """Return X-Forwarded-For, -Proto and -Host as header lines, each ended by CRLF, to be written to the upstream.

    `host` is the request's authority, `headers` the request's own lines. From an untrusted peer nothing of them is
    believed: the lines say what we know, and for a connection they differ by `host` alone. A trusted peer is appended
    to its X-Forwarded-For; its last -Proto and -Host are kept where they are plausible.
    """
    if not peer.trusted:
        return peer.lines(host)
    chain, proto = [], peer.proto
    for name, value in headers:
        lower = name.lower()
        if lower == b"x-forwarded-for":
            chain.append(value)
        elif lower == b"x-forwarded-proto":
            proto = _last(value, _is_proto) or proto
        elif lower == b"x-forwarded-host":
            host = _last(value, _FORWARDED_HOST.fullmatch) or host
    chain.append(peer.address.encode())
    lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (b", ".join(chain), proto)
    return lines + b"X-Forwarded-Host: %b\r\n" % host if host else lines


def _is_proto(value: bytes) -> bool:
    return value in _FORWARDED_PROTOS


def _last(value: bytes, plausible: Callable[[bytes], object]) -> bytes | None:
    """Return the last element, which is the one the trusted peer itself stands for, unless it makes no sense."""
    element = value.rpartition(b",")[2].strip(b" \t")
    return element if plausible(element) else None


# --- Via and request ids ----------------------------------------------------------------------------------------------


def via_loops(values: Iterable[bytes], pseudonym: bytes) -> bool:
    """Whether a request has passed this instance before: its pseudonym is a received-by in `Via` (RFC 9110 §7.6.3).

    Comments are not parsed: a comment left open by a client would hide every later element, ours among them.
    """
    own = pseudonym.lower()
    for value in values:
        lower = value.lower()
        if own in lower and any(own in element.split()[1:2] for element in lower.split(b",")):
            return True
    return False


def via_line(values: Sequence[bytes], pseudonym: bytes, version: bytes = b"1.1") -> bytes:
    """Return the Via line to send on: what was received, then us; `version` is that of the message received."""
    own = _own_via(pseudonym, version)
    return own if not values else b"Via: %b%b" % (b"".join([b"%b, " % value for value in values if value]), own[5:])


@lru_cache(maxsize=8)
def _own_via(pseudonym: bytes, version: bytes) -> bytes:
    return b"Via: %b %b\r\n" % (version, pseudonym)


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def valid_request_id(value: bytes) -> bool:
    """Whether a client's x-request-id may be taken over: 1 to 128 letters, digits, `.`, `_`, `-`; safe in any log."""
    return _REQUEST_ID.fullmatch(value) is not None
