"""W3C Trace Context: what comes in is believed only to the letter, what goes out is always well formed.

Level 2 of the specification (https://www.w3.org/TR/trace-context-2/). A traceparent that is wrong in any way, or stands
there twice, begins a new trace; a tracestate that is wrong is dropped whole, and only with it. Whether a client's
context should be believed at all is the caller's decision: continuing a stranger's sampled flag lets it fill somebody's
trace store (§ Security Considerations), so pass None for those.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Set when the trace id was made at random, as ours are (§3.2.2.5.2)."""

_MEMBERS = 32
_TRACESTATE_BYTES = 512
_LONG_MEMBER_BYTES = 128

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY = rb"[a-z0-9][a-z0-9_*/@-]{0,255}"
_VALUE = rb"[ -+\--<>-~]{0,255}[!-+\--<>-~]"  # printable without "," and "=", not ending in a blank
_MEMBER = re.compile(rb"(%b)=%b" % (_KEY, _VALUE))
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Who called us: ids in lower-case hexadecimal, the known flags, and the tracestate to hand on, if any."""

    trace_id: str
    parent_id: str
    flags: int
    tracestate: bytes | None = None

    @property
    def sampled(self) -> bool:
        """Whether the caller may have recorded its part."""
        return bool(self.flags & SAMPLED)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """The values of the two fields towards an upstream, and the ids for our own record, in hexadecimal."""

    traceparent: bytes
    tracestate: bytes | None
    trace_id: str
    span_id: str


def incoming(traceparent: Sequence[bytes], tracestate: Sequence[bytes] = ()) -> TraceContext | None:
    """Return the context that the values of all `traceparent` and `tracestate` lines give, in order; None for none.

    Later versions are read by what this one knows of them (§3.2.4); `ff`, upper-case digits and ids of zeros are
    invalid.
    """
    if len(traceparent) != 1:
        return None
    found = _TRACEPARENT.fullmatch(traceparent[0].strip(b" \t"))
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or trace_id == _NO_TRACE or parent_id == _NO_SPAN or (more and version == b"00"):
        return None
    return TraceContext(
        trace_id.decode(),
        parent_id.decode(),
        int(flags, 16) & (SAMPLED | RANDOM),
        _combined(tracestate) if tracestate else None,
    )


def outgoing(context: TraceContext | None, random_bytes: Callable[[int], bytes], *, sampled: bool = False) -> Outgoing:
    """Return what to send on: the same trace with a new parent id, which is ours, or a new trace for None.

    `random_bytes` returns as many bytes as it is asked for. `sampled` is for new traces alone; by default they say
    that we recorded no span, and leave it to the upstream whether it does.
    """
    if context is None:
        drawn = _drawn(random_bytes(24))
        trace_id, span_id = drawn[:32], drawn[32:]
        traceparent = f"00-{trace_id}-{span_id}-{'03' if sampled else '02'}"
        return Outgoing(traceparent.encode(), None, trace_id, span_id)
    span_id = _drawn(random_bytes(8))
    traceparent = f"00-{context.trace_id}-{span_id}-{context.flags:02x}"
    return Outgoing(traceparent.encode(), context.tracestate, context.trace_id, span_id)


def _drawn(random_bytes: bytes) -> str:
    """Return the digits of ids, none of which is all zeros, which would be invalid; once in 2^64 draws it matters."""
    return random_bytes.hex().replace("0" * 16, "0" * 15 + "1")


def _combined(values: Sequence[bytes]) -> bytes | None:
    """Return all lines as one list without blanks, empty or repeated members; None when it is empty or invalid.

    A key that stands there again is dropped: only one entry per key is allowed, and the leftmost is the newest
    (§3.3.1.3).
    """
    members = [member.strip(b" \t") for value in values for member in value.split(b",")]
    given = [_MEMBER.fullmatch(member) for member in members if member]
    if len(given) > _MEMBERS:
        return None
    first: dict[bytes, bytes] = {}
    for found in given:
        if found is None:
            return None
        first.setdefault(found[1], found[0])
    return _shortened(list(first.values())) or None


def _shortened(members: list[bytes]) -> bytes:
    """Return the list in at most 512 bytes: members over 128 bytes go first, then the rightmost (§3.3.1.5)."""
    combined = b",".join(members)
    if len(combined) <= _TRACESTATE_BYTES:
        return combined
    for long in [member for member in reversed(members) if len(member) > _LONG_MEMBER_BYTES]:
        members.remove(long)
        combined = b",".join(members)
        if len(combined) <= _TRACESTATE_BYTES:
            return combined
    return combined[: combined.rindex(b",", 0, _TRACESTATE_BYTES + 1)]
