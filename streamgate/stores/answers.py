"""Where a response was made, found by its id: whoever continues it (`previous_response_id`) must come to the same place.

Every worker remembers what it has seen, the latest ten thousand of an hour. With Redis the others find it too: written behind, never
waited for, kept until Redis takes it where it is away; read with the store's deadline. Without Redis an id that this worker has not
seen is unknown, and the request is routed like any other.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Final

from streamgate.stores.redis import Script, Store, StoreAway
from streamgate.tasks import Tasks

MOST: Final = 10_000
TTL_S: Final = 3600.0
BATCH: Final = 100
RETRY_S: Final = 0.25

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_WRITE: Final = Script("for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end")


@dataclass(frozen=True, slots=True)
class AnswersStatistics:
    """`kept` in this worker, `unwritten` still to be written to Redis, `dropped` never written, `invalid` ids refused,
    `found` of `asked` in Redis when this worker did not know.
    """

    kept: int
    unwritten: int
    dropped: int
    invalid: int
    asked: int
    found: int


class Answers:
    """Response ids and their places. `now` is monotonic seconds."""

    def __init__(
        self, *, tasks: Tasks, store: Store | None = None, most: int = MOST, ttl_s: float = TTL_S, most_unwritten: int = MOST
    ) -> None:
        """Remember the last `most` ids for `ttl_s` each, and share them through `store` where there is one.

        Up to `most_unwritten` wait for Redis; of more, the oldest are dropped.
        """
        self._tasks = tasks
        self._store = store
        self._most = most
        self._ttl_s = ttl_s
        self._most_unwritten = most_unwritten
        self._kept: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._unwritten: OrderedDict[str, str] = OrderedDict()
        self._writer: asyncio.Task[None] | None = None
        self._dropped = self._invalid = self._asked = self._found = 0

    def remember(self, response_id: str, place: str, now: float) -> None:
        """Note where a response was made. Returns at once; an id that is none (1 to 256 letters, digits, `_`, `-`) is not kept."""
        if _ID.fullmatch(response_id) is None:
            self._invalid += 1
            return
        self._keep(response_id, place, now)
        if self._store is None:
            return
        self._unwritten[response_id] = place
        if len(self._unwritten) > self._most_unwritten:
            self._unwritten.popitem(last=False)
            self._dropped += 1
        if self._writer is None or self._writer.done():
            self._writer = self._tasks.spawn(self._write(self._store), name="answers")

    def known(self, response_id: str, now: float) -> str | None:
        """The place as far as this worker knows."""
        found = self._kept.get(response_id)
        if found is None:
            return None
        if found[1] <= now:
            del self._kept[response_id]
            return None
        self._kept.move_to_end(response_id)
        return found[0]

    async def place_of(self, response_id: str, now: float) -> str | None:
        """The place, or None where nobody knows or Redis does not say within its deadline. Raises nothing."""
        place = self.known(response_id, now)
        if place is not None or self._store is None or _ID.fullmatch(response_id) is None:
            return place
        self._asked += 1
        try:
            reply = await self._store.command("GET", self._key(self._store, response_id))
        except StoreAway:
            return None
        if not isinstance(reply, bytes):
            return None
        self._found += 1
        place = reply.decode("utf-8", "replace")
        self._keep(response_id, place, now)
        return place

    async def close(self) -> None:
        """Write what is still to be written, if Redis takes it now."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait((self._writer,))
        if self._store is not None:
            await self._write_all(self._store)

    def statistics(self) -> AnswersStatistics:
        """Return the figures of this moment."""
        return AnswersStatistics(
            kept=len(self._kept), unwritten=len(self._unwritten), dropped=self._dropped, invalid=self._invalid,
            asked=self._asked, found=self._found,
        )  # fmt: skip

    def _keep(self, response_id: str, place: str, now: float) -> None:
        self._kept[response_id] = (place, now + self._ttl_s)
        self._kept.move_to_end(response_id)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    @staticmethod
    def _key(store: Store, response_id: str) -> str:
        return store.key("answer", response_id)

    async def _write(self, store: Store) -> None:
        while True:
            if await self._write_all(store):
                return
            await asyncio.sleep(RETRY_S)

    async def _write_all(self, store: Store) -> bool:
        """Write in batches until nothing is left; False when Redis is away. What it may have taken unseen is written again."""
        while self._unwritten:
            batch = list(islice(self._unwritten.items(), BATCH))
            keys = [self._key(store, response_id) for response_id, _ in batch]
            try:
                await store.run(_WRITE, keys, (int(self._ttl_s * 1000), *(place for _, place in batch)))
            except StoreAway:
                return False
            for response_id, place in batch:
                if self._unwritten.get(response_id) == place:
                    del self._unwritten[response_id]
        return True
