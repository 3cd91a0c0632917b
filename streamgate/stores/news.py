"""What other workers have to say to this one, at once: a channel of its own in Redis, and who listens for which subject.

Redis keeps no message for whoever is not there, so nothing may depend on one: it spares a listener to wait until it looks for itself.
When a connection is new, every listener is told "" since something may have been missed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from streamgate.stores.redis import PATIENCE_S, Store
from streamgate.tasks import Tasks

RETRY_S: Final = 0.25
SILENCE_S: Final = 1.0

_WORKER_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class NewsStatistics:
    """Messages heard, and how often the connection had to be made anew."""

    is_live: bool
    heard: int
    connected: int


class News:
    """One worker's ear. `is_live` while messages can arrive."""

    def __init__(self, store: Store, worker_id: str, *, tasks: Tasks, silence_s: float = SILENCE_S) -> None:
        """Listen for `worker_id`, which names this process and no other, an earlier one neither: letters, digits, `_`, `.`, `-`.

        After `silence_s` without a word Redis is asked whether it is there, after as much again the connection is made anew. Raises
        ValueError for another id.
        """
        if _WORKER_ID.fullmatch(worker_id) is None:
            raise ValueError("the id of a worker has 1 to 128 letters, digits, dots, hyphens and underscores")
        self.worker_id = worker_id
        self.channels = store.key("to", "")
        """What the channel of every worker begins with; its id follows."""
        self.is_live = False
        self._store = store
        self._tasks = tasks
        self._silence_s = silence_s
        self._listeners: dict[str, Callable[[str], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._heard = 0
        self._connected = 0

    def open(self) -> None:
        """Begin to listen."""
        if self._task is None:
            self._task = self._tasks.spawn(self._keep_listening(), name="news")

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    def hear(self, subject: str, listener: Callable[[str], None]) -> None:
        """Call `listener` with every text that is sent on this subject, one listener each; "" when some may be missing."""
        self._listeners[subject] = listener

    def forget(self, subject: str) -> None:
        """Tell nobody about this subject any more."""
        self._listeners.pop(subject, None)

    def statistics(self) -> NewsStatistics:
        """Return the figures of this moment."""
        return NewsStatistics(is_live=self.is_live, heard=self._heard, connected=self._connected)

    async def _keep_listening(self) -> None:
        while True:
            try:
                async with self._store.subscriptions() as subscriptions:
                    await self._listen(subscriptions)
            except (RedisError, OSError, EOFError):  # TimeoutError is an OSError
                pass
            finally:
                self.is_live = False
            await asyncio.sleep(RETRY_S)

    async def _listen(self, subscriptions: PubSub) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await subscriptions.subscribe(self.channels + self.worker_id)
        asked = False
        while True:
            message = await subscriptions.get_message(timeout=self._silence_s)
            if message is None:
                if asked or not self.is_live:
                    return
                asked = True
                async with asyncio.timeout(PATIENCE_S):
                    await subscriptions.ping()
                continue
            asked = False
            if message["type"] == "subscribe":
                self._begin()
            elif message["type"] == "message":
                self._tell(message["data"])

    def _begin(self) -> None:
        self.is_live = True
        self._connected += 1
        for listener in list(self._listeners.values()):
            listener("")

    def _tell(self, data: bytes) -> None:
        """A message is SUBJECT, a line feed, TEXT; a subject nobody listens for was somebody's a moment ago."""
        subject, _, text = data.decode("utf-8", "replace").rpartition("\n")
        self._heard += 1
        listener = self._listeners.get(subject)
        if listener is not None:
            listener(text)
