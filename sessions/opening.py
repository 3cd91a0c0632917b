"""When a stream has begun to say something. No I/O.

A provider opens its stream long before its first token: with a role, an empty message, pings. Who has been sent such an opening
has been told nothing, so it is held until the first event that means something, and another target can still be asked. An error
that comes first is no beginning either. Commit is at the first meaningful event (Bifrost's and TensorZero's rule, `ai-gateways.md`
§5.3); what is held then goes out with it, every byte as it came.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

HELD_MAX_BYTES: Final = 65_536
"""More than this is no opening, whatever it is."""

_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_DATA: Final = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)
_NAME: Final = re.compile(rb"^event: ?(\S*)", re.MULTILINE)
_OPENINGS: Final = frozenset(
    (
        "ping",
        "message_start",
        "response.created",
        "response.in_progress",
        "response.queued",
        "response.output_item.added",
        "response.content_part.added",
    )
)
_SAYS: Final = ("content", "reasoning", "reasoning_content", "tool_calls", "function_call", "refusal", "audio")

OnError = Callable[[tuple[object, ...]], None]
"""Told the code and type of an error that a stream begins with; raises to have the attempt given up."""


class Opening:
    """Holds the opening of one stream. ``over``: something has been said, and nothing is held any more."""

    __slots__ = ("_held", "_on_error", "_seen", "over")

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._held = b""
        self._seen = 0
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """What may go on of what has come so far: nothing, or all. Raises what ``on_error`` raises."""
        if self.over:
            return data
        held = self._held = self._held + data
        while (end := _EVENT_END.search(held, self._seen)) is not None:
            event = held[self._seen : end.end()]
            self._seen = end.end()
            if _means_something(event, self._on_error):
                return self.rest()
        return self.rest() if len(held) > HELD_MAX_BYTES else b""

    def rest(self) -> bytes:
        """All that is held: the stream is over, or it has said something."""
        held, self._held = self._held, b""
        self.over = True
        return held


def _means_something(event: bytes, on_error: OnError) -> bool:
    data = b"\n".join(_DATA.findall(event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")))
    if not data:
        return False  # comments, or a name alone
    name = _NAME.search(event)
    try:
        said = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True  # [DONE], or nothing that we know
    if not isinstance(said, dict):
        return True
    error = said.get("error")
    if said.get("type") == "error" or (name is not None and name[1] == b"error") or isinstance(error, dict | str):
        on_error(_words(said, error))
        return True
    return not _opens(said)


def _words(said: dict[str, Any], error: object) -> tuple[object, ...]:
    """Code and type of an error, in the shapes of OpenAI's, Anthropic's and the Responses API."""
    inner = error if isinstance(error, dict) else {}
    return inner.get("code"), inner.get("type"), inner.get("status"), said.get("code")


def _opens(said: dict[str, Any]) -> bool:
    kind = said.get("type")
    if kind in _OPENINGS:
        return True
    if kind == "content_block_start":
        block = said.get("content_block")
        return isinstance(block, dict) and block.get("type") in {"text", "thinking"} and not (block.get("text") or block.get("thinking"))
    choices = said.get("choices")
    if not isinstance(choices, list) or said.get("usage"):
        return False
    return all(isinstance(choice, dict) and _is_empty(choice) for choice in choices)


def _is_empty(choice: dict[str, Any]) -> bool:
    if choice.get("finish_reason") or choice.get("text"):
        return False
    delta = choice.get("delta")
    return isinstance(delta, dict) and not any(delta.get(key) for key in _SAYS)
