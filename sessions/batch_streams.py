"""One event stream that answers a batch of completions → each member's own stream, as its bytes come, however they are cut.

    data: {"id": …, "choices": [{"index": 3, "text": …}]}     to whom input 3 belongs, numbered from 0 among its own
    data: {"id": …, "choices": [], "usage": {…}}               divided (`batch_usage`)
    data: [DONE]                                               to all that have not had theirs
    : ping                                                     to all

An event with choices of several members goes to each with its part. Everything but the `index` stays as it came, fields and line
ends (LF, CRLF, CR) included. Usage beside one choice is that choice's own (vLLM with `continuous_usage_stats`, llama.cpp) and stays.

What cannot be told apart is given to nobody: data that names no choice might be one member's text, and its neighbours are other
people. `CannotSplit` then; members that have had nothing yet may be sent again alone, the others end with an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sessions.batch_answers import CannotSplit
from sessions.batch_asks import Ask
from sessions.batch_usage import divided_usage
from sessions.pieces import UNREADABLE, NotPieces, index_span, items, members, renumbered, replaced, selection
from sessions.sse import at_boundary

EVENT_BYTES_MAX: Final = 1_048_576
"""An event that does not end within this many bytes is none; a token's has a few hundred."""

_EOL: Final = rb"(?:\r\n|\n|\r(?!\n|\Z))"  # a CR that is the last byte so far may be half of a CRLF
_END: Final = re.compile(_EOL + _EOL)
_END_BYTES: Final = 4
_LINE: Final = rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))"
_DATA: Final = re.compile(_LINE + rb"data:[ ]?([^\r\n]*)")
_FIRST: Final = re.compile(rb"data:[ ]?([^\r\n]*)")
_ERROR: Final = re.compile(_LINE + rb"event: ?error(?=[\r\n]|\Z)")
_DONE: Final = b"[DONE]"
_NULL: Final = b"null"

Parts = list[tuple[int, bytes]]
"""(whose, which bytes): positions of members among the asks."""


class _Choice(msgspec.Struct, gc=False):
    index: int
    text: str | None = None
    finish_reason: Any = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    prompt_filter_results: Any = None


_EVENT: Final = msgspec.json.Decoder(_Event)


def _end_of_event(text: bytes, since: int) -> int | None:
    """Where the first event's empty line ends."""
    if text.find(b"\r", since) < 0:  # nearly always, and a pattern without a literal is slow
        end = text.find(b"\n\n", since)
        return end + 2 if end >= 0 else None
    match = _END.search(text, since)
    return None if match is None else match.end()


def _data_lines(block: bytes) -> Sequence[re.Match[bytes]]:
    first = _FIRST.match(block)
    if first is not None and block.find(b"data:", first.end()) < 0:
        return (first,)
    return tuple(_DATA.finditer(block))


class StreamSplit:
    """One stream to a batch, taken apart as it comes.

    ``usage``: the upstream was asked to tell the usage at the end (`stream_options.include_usage`), by the members or for their
    metering. Where it was not, a member's stream ends with its own last choice; otherwise it ends when all have ended.
    """

    __slots__ = ("_begun", "_ended", "_finished", "_looked", "_open", "_place", "_rest", "_tokens", "_usage", "_weights")

    def __init__(self, asks: Sequence[Ask], *, usage: bool) -> None:
        self._place = [(whose, number) for whose, ask in enumerate(asks) for number in range(len(ask.items))]
        self._weights = [ask.weight for ask in asks]
        self._usage = usage
        self._open = [len(ask.items) for ask in asks]
        self._finished = [False] * len(self._place)
        self._tokens = [0] * len(asks)  # a text in an event is one, with few exceptions
        self._begun = [False] * len(asks)
        self._ended = [False] * len(asks)
        self._rest = b""
        self._looked = 0

    def has_begun(self, whose: int) -> bool:
        """Has this member had anything of its answer? If not, it may still be sent again alone."""
        return self._begun[whose]

    def has_ended(self, whose: int) -> bool:
        """Has this member had its terminal event?"""
        return self._ended[whose]

    def feed(self, data: bytes) -> Parts:
        """The next bytes of the stream; what is whose of the events that they end. Raises CannotSplit."""
        rest = self._rest + data if self._rest else data
        parts: Parts = []
        at, looked = 0, self._looked
        while (end := _end_of_event(rest, looked)) is not None:
            self._event(rest[at:end], parts)
            at = looked = end
        self._rest = rest = rest[at:]
        # a large event that comes in small pieces is looked through once, not each time
        self._looked = max(0, len(rest) - _END_BYTES)
        if len(rest) > EVENT_BYTES_MAX:
            raise CannotSplit("an event does not end")
        return parts

    def finish(self) -> Parts:
        """The stream has ended: what is whose of an event that lacks its empty line. A part of an event is nobody's."""
        rest, self._rest, self._looked = self._rest, b"", 0
        parts: Parts = []
        try:
            if rest:
                self._event(rest, parts)
        except CannotSplit:
            return []
        return parts

    def _event(self, block: bytes, parts: Parts) -> None:
        lines = _data_lines(block)
        data = b" ".join(line[1] for line in lines)  # one value over several lines: their breaks are JSON's own spaces
        bare = data.strip()
        if not bare:
            parts += ((whose, block) for whose in self._all())
            return
        before, after = block[: lines[0].start(1)], block[lines[-1].end(1) :]
        if bare == _DONE:
            for whose in self._all():
                parts.append((whose, block))
                self._ended[whose] = True
        elif bare != _NULL:  # llama.cpp begins with it where there are several prompts, and only there
            for whose, own in self._data(data, is_error=b"event:" in block and _ERROR.search(block) is not None):
                parts.append((whose, before + own + after))
                self._end_early(whose, after, parts)

    def _all(self) -> list[int]:
        return [whose for whose, ended in enumerate(self._ended) if not ended]

    def _data(self, data: bytes, *, is_error: bool) -> Parts:
        try:
            event = _EVENT.decode(data)
            if event.prompt_filter_results is not None:
                raise CannotSplit("an event speaks of several members' prompts")
            if event.choices:
                return self._one(data, event.choices[0]) if len(event.choices) == 1 else self._several(data, event.choices)
            if is_error or event.error is not None:
                return self._error(data)
            if event.usage is not None:
                return self._used(data)
        except (NotPieces, *UNREADABLE) as error:
            if is_error:
                return self._error(data)
            raise CannotSplit("an event of a batch cannot be read") from error
        raise CannotSplit("an event of a batch names no choice")

    def _error(self, data: bytes) -> Parts:
        """The provider's own error is everybody's; before anything else has come, it is better asked whose fault it was."""
        if not any(self._begun):
            raise CannotSplit("the stream begins with an error")
        return [(whose, data) for whose in self._all()]

    def _used(self, data: bytes) -> Parts:
        start, stop = members(data)["usage"]
        usages = divided_usage(data[start:stop], self._weights, self._tokens)
        return [(whose, data[:start] + usages[whose] + data[stop:]) for whose in self._all()]

    def _one(self, data: bytes, choice: _Choice) -> Parts:
        """What nearly every event is: one choice."""
        whose, number = self._take(choice)
        if self._ended[whose]:
            return []
        if number == choice.index:
            return [(whose, data)]
        span = index_span(data)
        if span is None:
            return self._picked(data, {whose: [(0, number)]}, used=None)
        return [(whose, b"%b%d%b" % (data[: span.start], number, data[span.stop :]))]

    def _several(self, data: bytes, choices: list[_Choice]) -> Parts:
        """Choices of one or more members; usage beside them is their sum."""
        places: dict[int, list[tuple[int, int]]] = {}
        tokens: dict[int, int] = {}
        for at, choice in enumerate(choices):
            whose, number = self._take(choice)
            if not self._ended[whose]:
                places.setdefault(whose, []).append((at, number))
                tokens[whose] = tokens.get(whose, 0) + bool(choice.text)
        return self._picked(data, places, used=list(tokens.values()))

    def _picked(self, data: bytes, places: dict[int, list[tuple[int, int]]], *, used: list[int] | None) -> Parts:
        """The event once for each of these members, with the choices at these places, numbered so."""
        where = members(data)
        text = data[slice(*where["choices"])]
        spans = items(text)
        usages: list[bytes] | None = None
        if used is not None and (usage := where.get("usage")) is not None:
            usages = divided_usage(data[slice(*usage)], [self._weights[whose] for whose in places], used)
        parts: Parts = []
        for turn, (whose, own) in enumerate(places.items()):
            chosen = [renumbered(text[slice(*spans[at])], number) for at, number in own]
            new = {where["choices"]: selection(text, spans, chosen)}
            if usages is not None:
                new[where["usage"]] = usages[turn]
            parts.append((whose, replaced(data, new)))
        return parts

    def _take(self, choice: _Choice) -> tuple[int, int]:
        """Note what a choice says; whose it is, and which of its own. Raises CannotSplit for one that nobody asked for."""
        at = choice.index
        if not 0 <= at < len(self._place):
            raise CannotSplit("an event speaks of an input that was not sent")
        whose, number = self._place[at]
        self._begun[whose] = True
        self._tokens[whose] += bool(choice.text)
        if choice.finish_reason is not None and not self._finished[at]:
            self._finished[at] = True
            self._open[whose] -= 1
        return whose, number

    def _end_early(self, whose: int, after: bytes, parts: Parts) -> None:
        """End the stream of a member that has all it can get; the others may write for minutes yet."""
        if not self._usage and not self._open[whose] and not self._ended[whose]:
            self._ended[whose] = True
            line_ends = after[len(after.rstrip(b"\r\n")) :]
            done = b"data: " + _DONE
            parts.append((whose, done + line_ends if at_boundary(line_ends) else b"\n\n%b\n\n" % done))
