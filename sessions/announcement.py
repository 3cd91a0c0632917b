"""What a waiting client is told about its place, as a server-sent comment that every SDK survives."""

from __future__ import annotations


def announcement(position: int, eta_s: float | None) -> bytes:
    """Return one comment line: `position` from 1 (next), and the predicted wait where there is one.

    It ends in a single line end. With an empty line behind it a decoder that has seen an `id:` would dispatch an event without
    data, and openai-python would fail on it (`ai-gateways.md` §5.9). It may stand where an event may begin and nowhere else.
    """
    if eta_s is None:
        return b": queue position=%d\n" % position
    return b": queue position=%d eta=%.1f\n" % (position, eta_s)
