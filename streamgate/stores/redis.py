"""One client of Redis per worker: scripts loaded once, a deadline for every call, a breaker, callers who may leave at any time.

Every call is a task of its own, so a caller that is cancelled takes nothing with it: the reply still finds the call it belongs to
(redis-py once handed it to the next caller, CVE-2023-28858). The same holds for a deadline that has passed: the caller goes on,
the call is given a second more, which a first connection with TLS may need.

When Redis is away, `StoreAway` is raised: within the deadline at first, at once while the breaker is open. What is done without
Redis is for each feature to say. The gateway starts without it, since nothing is connected before the first call.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from streamgate.stores.breaker import Breaker, BreakerState
from streamgate.tasks import Tasks

DEADLINE_S: Final = 0.05
"""How long a caller waits."""
PATIENCE_S: Final = 1.0
"""How long a call, or connecting, may go on without its caller."""
MOST_AT_ONCE: Final = 256
MOST_CONNECTIONS: Final = 16
PREFIX: Final = "streamgate"

Word: TypeAlias = str | bytes | int | float

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_OPTIONS: Final = frozenset((
    "db", "username", "password", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
))  # fmt: skip


class StoreAway(Exception):
    """Redis did not do what it was asked, or not in time. The text names the kind of fault: no address, no key, no value."""


class Script:
    """A Lua script; Redis keeps its text and is told its digest."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def file(cls, name: str) -> Script:
        """Read the script that lies beside this file."""
        return cls(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a store has done. `failures` are calls without their answer, `late` those of them that a deadline ended,
    `refused` those that were not made because the breaker was open or too many were under way.
    """

    calls: int
    failures: int
    late: int
    refused: int
    breaker: BreakerState
    last_error: str | None


class _Failed:
    """Why a call has no answer: the kind of error, and whether Redis has said so itself."""

    __slots__ = ("answered", "kind")

    def __init__(self, kind: str, *, answered: bool = False) -> None:
        self.kind = kind
        self.answered = answered


class Store:
    """One worker's way to Redis."""

    def __init__(
        self,
        url: str,
        *,
        now: Callable[[], float],
        namespace: str = "",
        deadline_s: float = DEADLINE_S,
        on_change: Callable[[bool, str], None] | None = None,
    ) -> None:
        """Remember where Redis is; nothing is connected before the first call.

        `url` is redis://HOST:PORT/DB, rediss://… or unix:///PATH, and may carry a password; `namespace` keeps gates apart that share a
        Redis; `now` returns monotonic seconds. `on_change` is told (away, kind of error) when the breaker opens and (False, "") when it
        closes again. Raises ValueError, without the password, for a URL or a namespace that cannot be used.
        """
        if _NAMESPACE.fullmatch(namespace) is None:
            raise ValueError("the namespace of a store has up to 64 letters, digits, dots, hyphens and underscores")
        address = _address(url)
        self.place = str(address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}")
        """Where Redis is, fit for a log."""
        pool = BlockingConnectionPool(
            max_connections=MOST_CONNECTIONS, timeout=PATIENCE_S, protocol=2, socket_timeout=None,
            socket_connect_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0), **address,
        )  # fmt: skip
        self._client = Redis.from_pool(pool)
        self._prefix = f"{PREFIX}:{namespace}:" if namespace else f"{PREFIX}:"
        self._now = now
        self._deadline_s = deadline_s
        self._on_change = on_change
        self._breaker = Breaker()
        self._tasks = Tasks(self._broke)
        self._closed = False
        self._calls = self._failures = self._late = self._refused = 0
        self._last_error: str | None = None

    def key(self, *parts: str) -> str:
        """The key, or the channel, of a thing in this gate's part of Redis."""
        return self._prefix + ":".join(parts)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """Run a script and return what it returns: int, bytes, None, or lists of them. Raises StoreAway."""
        return await self._call(lambda: self._evaluate(script, keys, args))

    async def command(self, *words: Word) -> Any:
        """Send one command and return its reply as redis-py shapes it. Raises StoreAway."""
        return await self._call(lambda: self._client.execute_command(*words))  # type: ignore[no-untyped-call]

    def subscriptions(self) -> PubSub:
        """A connection to listen on, for `News`; it connects when it subscribes."""
        return self._client.pubsub()

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        words = (len(keys), *keys, *args)
        try:
            return await self._client.execute_command("EVALSHA", script.digest, *words)  # type: ignore[no-untyped-call]
        except NoScriptError:  # a new Redis, or one that was told to forget: this runs it and keeps it
            return await self._client.execute_command("EVAL", script.text, *words)  # type: ignore[no-untyped-call]

    async def _call(self, work: Callable[[], Awaitable[Any]]) -> Any:
        if self._closed:
            raise StoreAway("the store is closed")
        if len(self._tasks) >= 2 * MOST_AT_ONCE:
            self._refused += 1
            raise StoreAway("too many calls are under way")
        if not self._breaker.try_pass(self._now()):
            self._refused += 1
            raise StoreAway(f"the breaker is open after {self._last_error}")
        self._calls += 1
        call = self._tasks.spawn(self._in_time(work), name="store call")
        await asyncio.wait((call,))  # cancelling this leaves the call alone
        if call.cancelled():
            raise StoreAway("the store was closed")
        outcome = call.result()
        if isinstance(outcome, _Failed):
            raise StoreAway(outcome.kind)
        return outcome

    async def _in_time(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """The outcome as it is when the deadline has come; counted here, since a caller may have gone."""
        done, _ = await asyncio.wait((self._tasks.spawn(_outcome(work), name="store command"),), timeout=self._deadline_s)
        if not done:
            self._late += 1
        outcome = done.pop().result() if done else _Failed("Deadline")
        if isinstance(outcome, _Failed):
            self._failures += 1
            self._last_error = outcome.kind
        was = self._breaker.state
        if isinstance(outcome, _Failed) and not outcome.answered:
            self._breaker.failed(self._now())
        else:
            self._breaker.succeeded()
        self._tell(was)
        return outcome

    def _tell(self, was: BreakerState) -> None:
        """Tell of a breaker that has opened or closed; that a half-open one has opened again is no news."""
        is_closed = self._breaker.state == "closed"
        if self._on_change is not None and is_closed != (was == "closed"):
            self._on_change(not is_closed, "" if is_closed else self._last_error or "")

    def _broke(self, _name: str, error: BaseException) -> NoReturn:
        """A call turns errors of Redis into outcomes; whatever comes here is a defect, and the loop's own handler is loud."""
        raise error

    async def close(self) -> None:
        """End what is under way (its callers get StoreAway) and leave Redis; what goes wrong then is nobody's concern."""
        self._closed = True
        await self._tasks.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._client.aclose()
        except Exception:  # noqa: BLE001, S110  a connection that cannot even be closed is gone
            pass

    def statistics(self) -> StoreStatistics:
        """Return the figures of this moment."""
        return StoreStatistics(
            calls=self._calls, failures=self._failures, late=self._late, refused=self._refused,
            breaker=self._breaker.state, last_error=self._last_error,
        )  # fmt: skip


async def _outcome(work: Callable[[], Awaitable[Any]]) -> Any:
    """What Redis answers, or why there is nothing."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await work()
    except ResponseError as error:
        return _Failed(type(error).__name__, answered=True)
    except Exception as error:  # noqa: BLE001  the client raises more than its own errors when a connection breaks
        return _Failed(type(error).__name__)


def _address(url: str) -> dict[str, Any]:
    """What the client needs to connect; its other options are not for a URL to set."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        address = dict(parse_url(url))
    except ValueError:  # its text may quote the URL
        raise ValueError("the store's URL cannot be read; write redis://HOST:PORT/DB, rediss://… or unix:///PATH") from None
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"the store's URL sets {', '.join(unknown)}; it may set {', '.join(sorted(_OPTIONS))}")
    return address
