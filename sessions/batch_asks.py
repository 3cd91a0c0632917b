"""Which requests may share one call upstream: small embeddings and completions that differ in nothing but what is asked.

    /v1/embeddings     `input`:  a text, token numbers, or a list of either
    /v1/completions    `prompt`: likewise, where an answer has one choice for each prompt

Whatever else stands in a body must be equal to the byte: `model`, `stream`, `stream_options`, `dimensions`, and `user` too, because
it may decide about stickiness and is what a provider watches for abuse. Numbers are compared as written (`0` is not `0.0`): two
calls instead of one do less harm than one reader's idea of equality.

Asked for alone are completions with `n` or `best_of` other than 1, whose choices are numbered by other rules; with `echo` or
`suffix`, which servers refuse for several prompts; with a `seed`, because some servers draw a whole list from one generator, and
the answer would depend on the company; and an empty text, which makes servers refuse the whole list.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from sessions.pieces import UNREADABLE, NotPieces, asked, items

BatchKey: TypeAlias = tuple[Hashable, ...]
Kind: TypeAlias = Literal["embeddings", "completions"]

_KINDS: Final[dict[bytes, tuple[Kind, str]]] = {
    b"/v1/embeddings": ("embeddings", "input"),
    b"/v1/completions": ("completions", "prompt"),
}
_ALONE_UNLESS: Final = {
    "n": frozenset({b"1", b"null"}),
    "best_of": frozenset({b"1", b"null"}),
    "echo": frozenset({b"false", b"null"}),
    "suffix": frozenset({b'""', b"null"}),
    "seed": frozenset({b"null"}),
}
_TOKENS: Final = msgspec.json.Decoder(list[int])


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A request that may share a call with others of the same ``key``.

    ``items``: its inputs, each as written. ``weight``: their size, by which an answer's sums are divided: tokens where they are
    sent as tokens, else bytes. ``start`` and ``stop``: where the value that holds them lies in ``body``.
    """

    kind: Kind
    key: BatchKey
    items: tuple[bytes, ...]
    weight: int
    body: bytes
    start: int
    stop: int


def ask_of(path: bytes, body: bytes, *, max_items: int, max_bytes: int, scope: Hashable = None) -> Ask | None:
    """What this request could share, or None where it goes alone: another path, a body larger than ``max_bytes``, as many inputs
    as fill a batch (``max_items``), members that forbid it, or a body that cannot be read.

    ``scope`` becomes part of the key: whatever else must be the same for all who share a call (target, credentials, tenant).
    """
    known = _KINDS.get(path)
    if known is None or len(body) > max_bytes:
        return None
    kind, field = known
    try:
        found = asked(body)
    except NotPieces:
        return None
    span = found.pop(field, None)
    if span is None:
        return None
    others = [(name, body[start:stop]) for name, (start, stop) in found.items()]
    if kind == "completions" and any(value not in _ALONE_UNLESS.get(name, (value,)) for name, value in others):
        return None
    read = _inputs(body[slice(*span)])
    if read is None or len(read[1]) >= max_items:
        return None
    unit, inputs, weight = read
    others.sort()
    return Ask(kind, (path, scope, unit, *others), inputs, weight, body, *span)


def _inputs(value: bytes) -> tuple[str, tuple[bytes, ...], int] | None:
    """(unit, each input as written, their size in that unit), or None where this is nothing to share.

    One list holds texts or tokens, never both. A flat list of numbers is one input.
    """
    if value.startswith(b'"'):
        return None if value == b'""' else ("text", (value,), len(value))
    try:
        inputs = tuple(value[span.start : span.stop] for span in items(value))
        if not inputs:
            return None
        if all(one.startswith(b'"') for one in inputs):
            return None if b'""' in inputs else ("text", inputs, sum(map(len, inputs)))
        if not inputs[0].startswith(b"["):
            inputs = (value,)
        sizes = [len(_TOKENS.decode(one)) for one in inputs]
    except (NotPieces, *UNREADABLE):
        return None
    return ("tokens", inputs, sum(sizes)) if all(sizes) else None


def merged_body(asks: Sequence[Ask]) -> bytes:
    """One request for all of them: the first one's body, with a list of everybody's inputs in their order. One ask's is its own."""
    first = asks[0]
    if len(asks) == 1:
        return first.body
    inputs = b",".join(one for ask in asks for one in ask.items)
    return b"%b[%b]%b" % (first.body[: first.start], inputs, first.body[first.stop :])
