"""Tokens that carry the moment they were sent, in the shape of OpenAI's stream chunks, so that any gateway passes them on.

The stamp is `time.monotonic_ns()`, which all processes of one Linux machine share. It stands inside the content, because a
gateway that rewrites chunks (LiteLLM does) keeps the content and drops fields it does not know.
"""

import re
from functools import cache

PATTERN = re.compile(rb"t=(\d{19})")
BLANK = b"t=%019d"
DONE = b"data: [DONE]\n\n"
_BEFORE = b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"fake","choices":[{"index":0,"delta":{"content":"'
_AFTER = b'"},"finish_reason":null}]}\n\n'
SMALLEST = len(_BEFORE) + len(BLANK % 0) + len(_AFTER)
STOP = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"fake",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)


def chunked(payload: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


@cache
def template(size_bytes: int) -> bytes:
    """A whole chunk for one token event of this size (or the smallest possible), with one `%019d` for its stamp."""
    padding = b" " + b"x" * (size_bytes - SMALLEST - 1) if size_bytes > SMALLEST else b""
    event = b"%b%b%b%b" % (_BEFORE, BLANK % 0, padding, _AFTER)
    return chunked(event).replace(BLANK % 0, BLANK)


END_OF_STREAM = chunked(STOP) + chunked(DONE) + b"0\r\n\r\n"


class Reader:
    """Finds stamps in body bytes as they come, also where an event was cut in two by the network."""

    __slots__ = ("_rest", "done")

    def __init__(self) -> None:
        """Nothing read yet."""
        self._rest = b""
        self.done = False

    def stamps(self, data: bytes) -> list[bytes]:
        """The stamps, 19 digits each, of the events that these bytes complete. Sets `done` once `[DONE]` has come."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            end = data.rfind(b"\n\n") + 2
            if end == 1:  # rfind found none
                self._rest = data
                return []
            self._rest = data[end:]
            data = data[:end]
        if data.endswith(DONE):
            self.done = True
        return PATTERN.findall(data)
