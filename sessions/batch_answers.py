"""One answer to a batch → the answer that each member would have got alone. Whole answers; `batch_streams` has the streamed ones.

    embeddings     {"data": [{"index": 0, "embedding": …}, …], "usage": {…}, …}
    completions    {"choices": [{"index": 0, "text": …}, …], "usage": {…}, …}

Entries say by `index` which input they belong to, and may come in any order (vLLM and others finish them as they can). Every member
gets its own, numbered from 0, in that order; all else stands in every answer as it came, to the byte: floats are not read, and so
cannot be rounded. `usage` is divided (`batch_usage`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sessions.batch_asks import Ask
from sessions.batch_usage import divided_usage
from sessions.pieces import UNREADABLE, NotPieces, Span, items, members, renumbered, replaced, selection

_APART_STATUSES: Final = frozenset({400, 413, 422, 500})
_OF_ALL: Final = frozenset({"prompt_filter_results", "prompt_annotations"})
"""Azure's remarks on each prompt, in a list of their own: they are nobody else's business, and numbered by rules of their own."""


class CannotSplit(ValueError):
    """The answer is not what a batch was asked for: send its members again, each alone."""


class _Entry(msgspec.Struct, gc=False):
    index: int
    text: str | None = None


_ENTRY: Final = msgspec.json.Decoder(_Entry)


def should_split(status: int) -> bool:
    """May an error of this status be the fault of one member, or of their being together, so that each should be asked for alone?

    400, 413 and 422 say that something is wrong with the request, one input or their sum; 500 is what servers answer that stumble
    over an input (or a list). 401, 403, 404, 429, 502, 503 and 504 are about all alike: asking many times instead of once would
    only add load where there is too much, so everybody gets that answer.
    """
    return status in _APART_STATUSES


def split(asks: Sequence[Ask], answer: bytes) -> list[bytes]:
    """The body of each member's answer, in the order of ``asks``. Raises CannotSplit."""
    if len(asks) == 1:
        return [answer]
    try:
        return _split(asks, answer)
    except (NotPieces, *UNREADABLE) as error:
        raise CannotSplit("the answer to a batch cannot be read") from error


def _split(asks: Sequence[Ask], answer: bytes) -> list[bytes]:
    where = members(answer)
    listed = where.get("data" if asks[0].kind == "embeddings" else "choices")
    if listed is None or not _OF_ALL.isdisjoint(where):
        raise CannotSplit("the answer to a batch has no list of entries, or another list besides")
    text = answer[slice(*listed)]
    spans = items(text)
    raws = [text[slice(*span)] for span in spans]
    entries = [_ENTRY.decode(raw) for raw in raws]
    in_order = sorted(range(len(entries)), key=lambda at: entries[at].index)
    if [entries[at].index for at in in_order] != list(range(sum(len(ask.items) for ask in asks))):
        raise CannotSplit("the answer to a batch has not one entry for each input")
    lists: list[bytes] = []
    generated: list[int] = []
    first = 0
    for ask in asks:
        own = in_order[first : first + len(ask.items)]
        lists.append(selection(text, spans, [renumbered(raws[at], number) for number, at in enumerate(own)]))
        generated.append(sum(len(entries[at].text or "") for at in own))
        first += len(own)
    return _assembled(asks, answer, listed, lists, where.get("usage"), generated)


def _assembled(  # the pieces of one answer
    asks: Sequence[Ask], answer: bytes, listed: Span, lists: list[bytes], used: Span | None, generated: list[int]
) -> list[bytes]:
    if used is None:
        return [replaced(answer, {listed: own}) for own in lists]
    usages = divided_usage(answer[slice(*used)], [ask.weight for ask in asks], generated)
    return [replaced(answer, {listed: own, used: usage}) for own, usage in zip(lists, usages, strict=True)]
