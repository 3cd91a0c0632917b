"""Wait for a condition, not for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.005


async def eventually(predicate: Callable[[], T | Awaitable[T]], timeout: float = 5) -> T:
    """What `predicate` returns, or awaits, as soon as that is true.

    Asked every 5 ms. Raises AssertionError with its last answer when `timeout` seconds are over.
    """
    end = time.monotonic() + timeout
    while True:
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {timeout:g} s: {_named(predicate)}; its last answer was {value!r}")
        await asyncio.sleep(POLL_S)


def _named(predicate: Callable[[], object]) -> str:
    code = getattr(predicate, "__code__", None)
    name = getattr(predicate, "__qualname__", repr(predicate))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name
