"""Wait for a condition, not for a time."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

POLL_S = 0.002


@overload
async def eventually(predicate: Callable[[], Coroutine[Any, Any, T | None]], timeout: float = 5) -> T: ...
@overload
async def eventually(predicate: Callable[[], T | None], timeout: float = 5) -> T: ...
async def eventually(predicate: Callable[[], Any], timeout: float = 5) -> Any:
    """What `predicate` returns, or awaits, as soon as that is true.

    Asked every 2 ms. Raises AssertionError with its last answer when `timeout` seconds are over.
    """
    end = time.monotonic() + timeout
    while True:
        answer = predicate()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {timeout:g} s: {_named(predicate)}; its last answer was {value!r}")
        await asyncio.sleep(POLL_S)


def _named(predicate: Callable[[], object]) -> str:
    code = getattr(predicate, "__code__", None)
    name = getattr(predicate, "__qualname__", repr(predicate))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name
