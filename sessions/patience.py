"""How long a request may wait in a line: what its route allows, and no longer than its client will listen."""

from __future__ import annotations

import re
from typing import Final

SHARE: Final = 0.8
"""What is left of the client's own timeout after the wait is for the answer's beginning to reach it (`ai-gateways.md` §4, 12)."""

_SECONDS: Final = re.compile(rb"[0-9]{1,12}(?:\.[0-9]{0,20})?")


def patience_s(max_wait_s: float, read_timeout: bytes | None) -> float:
    """Return the shorter of `max_wait_s` and 0.8 of what the client said that it waits for bytes.

    `read_timeout` is the value of `x-stainless-read-timeout` in seconds, as OpenAI's and Anthropic's SDKs send it, or None where
    there was none. What is no positive decimal number ("None", "-1", "0", "nan", "1e9") says nothing. A client can only shorten.
    """
    if read_timeout is None:
        return max_wait_s
    text = read_timeout.strip()
    if _SECONDS.fullmatch(text) is None:
        return max_wait_s
    listens_s = float(text)
    return min(max_wait_s, SHARE * listens_s) if listens_s > 0.0 else max_wait_s
