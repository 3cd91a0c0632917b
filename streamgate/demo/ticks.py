"""A plain event stream for EventSource clients: ids, event names, retry, comments, several data lines."""

from typing import Any, Final

from sse_starlette import ServerSentEvent

from streamgate.demo.dialects import Events, event
from streamgate.demo.refusals import openai_error
from streamgate.demo.script import words

RETRY_MS: Final = 200
"""How long an EventSource shall wait before it comes back; browsers take 3000 by themselves."""


class Ticks:
    """Events numbered from `first`, so that a reader who comes back with Last-Event-ID goes on where it was cut."""

    def __init__(self, first: int, count: int, seed: int) -> None:
        self._first = first
        self._texts = words(seed, first + count)[first:]

    def length(self) -> int:
        """How many events carry data, the last one not counted."""
        return len(self._texts)

    def opening(self) -> Events:
        """A comment, and the time to wait before coming back."""
        return [ServerSentEvent(comment="a scripted event stream", retry=RETRY_MS, sep="\n")]

    def token(self, position: int) -> Events:
        """One event; every third has two data lines, every fourth a comment inside."""
        number, text = self._first + position, self._texts[position]
        data = f"{text}\nline two" if number % 3 == 2 else text  # noqa: PLR2004 (every third, from 0)
        return [event(data, "tick", id=str(number), comment="inside" if number % 4 == 3 else None)]  # noqa: PLR2004

    def closing(self) -> Events:
        """Tells the reader that it may stop; an EventSource would come back by itself otherwise."""
        return [event("over", "end", id=str(self._first + len(self._texts)))]

    def fault(self) -> Events:
        """An error as an event with a name of its own."""
        return [event(openai_error(500, "The scripted stream failed, as asked."), "fault")]

    def ping(self) -> ServerSentEvent:
        """A comment."""
        return ServerSentEvent(comment="ping", sep="\n")

    def whole(self) -> dict[str, Any]:
        """All of it as JSON, for a reader that did not ask for an event stream."""
        return {"first": self._first, "texts": self._texts}

    def refusal(self, status: int) -> dict[str, Any]:
        """An error body."""
        return openai_error(status, f"The scripted stream answers {status}, as asked.")
