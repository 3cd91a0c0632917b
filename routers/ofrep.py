"""Flags of a remote service, asked by the OpenFeature Remote Evaluation Protocol (OFREP, one POST for a flag and a context).

Spoken here over aiohttp and not by openfeature-provider-ofrep, whose requests block a thread, follow redirects with the secret
headers, end only between two reads, and which takes an answer without a variant for an error.

A verdict counts for half a second, so that a flip is followed within one. What happens when the service is away: the last verdict
for the same flag and context counts on with reason STALE, however old; where there is none, the verdict is ERROR without a
value, and the model's own default split is used. After a failure nobody waits for a second: everything is answered from
memory, then one request tries again. Nothing of this ever makes a request fail.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from routers.flags import FlagsStatistics, Verdict, failed
from streamgate.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FRESH_S: Final = 0.5
"""How long a verdict counts without asking again."""
PAUSE_S: Final = 1.0
"""How long nobody asks after a failure."""
PAUSE_MAX_S: Final = 30.0
"""The longest Retry-After that is heeded."""
REMEMBERED_MAX: Final = 10_000
"""Verdicts kept, those not asked for longest forgotten first; one takes about a KiB with its context."""
CONNECTIONS_MAX: Final = 32
ANSWER_MAX_BYTES: Final = 64 * 1024
_EVERYTHING: Final = ""
_REASONS: Final = frozenset(("STATIC", "DEFAULT", "TARGETING_MATCH", "SPLIT", "CACHED", "DISABLED", "UNKNOWN", "STALE", "ERROR"))
_ERRORS: Final = frozenset(("PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "TYPE_MISMATCH", "GENERAL", "FLAG_NOT_FOUND"))
_WHOLE: Final = frozenset((401, 403, 429, 503))
"""Statuses that say something about the service, not about the flag."""
_encode = msgspec.json.Encoder().encode

Place = tuple[str, bytes]
"""A flag's key, and the body that asks for it with a context."""


class Unanswered(Exception):
    """The service said nothing about a flag. `whole`: it will not do so for others; `pause_s`: how long to leave it alone."""

    def __init__(self, why: str, *, whole: bool, pause_s: float = PAUSE_S) -> None:
        super().__init__(why)
        self.whole = whole
        self.pause_s = pause_s


class OfrepFlags:
    """Flags of the service at `url` (without `/ofrep`), asked with `headers`, each time within `timeout_s`.

    Bound to the event loop it is first awaited in. `on_problem` is told once when the service begins to fail: what it did, with
    the key of the flag, never with a context, a value or a header.
    """

    __slots__ = (
        *("_asking", "_headers", "_now", "_on_problem", "_paused", "_problems", "_refreshes", "_remembered"),
        *("_session", "_stale", "_tasks", "_timeout_s", "_url", "_wrong"),
    )

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        now: Callable[[], float],
        on_problem: Callable[[str], None],
    ) -> None:
        """Ask nothing yet. `now` gives monotonic seconds."""
        self._url = f"{url.rstrip('/')}/ofrep/v1/evaluate/flags/"
        self._headers = dict(headers)
        self._timeout_s = timeout_s
        self._now = now
        self._on_problem = on_problem
        self._session: aiohttp.ClientSession | None = None
        self._tasks = Tasks(lambda _name, error: self._failed(f"led to a {type(error).__name__}", _EVERYTHING))
        self._asking: dict[Place, asyncio.Task[Verdict]] = {}
        self._remembered: dict[Place, tuple[float, Verdict]] = {}
        self._paused: dict[str, float] = {}
        self._wrong: dict[str, str] = {}
        self._problems = self._refreshes = self._stale = 0

    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict | None:
        """The verdict where it is known or cannot be asked for now; None where the service has to be asked. Never raises."""
        place = self._place(key, context)
        return failed(key, "INVALID_CONTEXT") if place is None else self._known(place)

    async def decide(self, key: str, context: Mapping[str, object]) -> Verdict:
        """The verdict, asked for where it is not known. Those who want the same share one request, whoever leaves. Never raises."""
        place = self._place(key, context)
        if place is None:
            return failed(key, "INVALID_CONTEXT")
        known = self._known(place)
        if known is not None:
            return known
        task = self._asking.get(place)
        if task is None:
            task = self._asking[place] = self._tasks.spawn(self._ask(place), name=f"flag {key}")
            task.add_done_callback(lambda _task: self._asking.pop(place, None))
        await asyncio.wait((task,))
        return self._from_memory(place) if task.cancelled() or task.exception() is not None else task.result()

    def statistics(self) -> FlagsStatistics:
        """Return the figures of this moment."""
        return FlagsStatistics(
            provider="ofrep",
            is_ready=self._refreshes > 0,
            flags=None,
            refreshes=self._refreshes,
            problems=self._problems,
            problem=next(iter(self._wrong.values()), None),
            stale=self._stale,
            kept=len(self._remembered),
        )

    async def close(self) -> None:
        """Give up what is being asked and close the connections; what waits is answered from memory."""
        self._paused[_EVERYTHING] = float("inf")
        await self._tasks.close()
        if self._session is not None:
            await self._session.close()

    def _place(self, key: str, context: Mapping[str, object]) -> Place | None:
        try:
            return key, _encode({"context": context})
        except (TypeError, ValueError, RecursionError, OverflowError):  # what JSON cannot say
            return None

    def _known(self, place: Place) -> Verdict | None:
        now = self._now()
        remembered = self._remembered.get(place)
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        if now < self._paused.get(_EVERYTHING, 0.0) or now < self._paused.get(place[0], 0.0):
            return self._from_memory(place)
        return None

    def _from_memory(self, place: Place) -> Verdict:
        remembered = self._remembered.get(place)
        if remembered is None:
            return failed(place[0], "GENERAL")
        verdict = remembered[1]
        if verdict.error is None:
            self._stale += 1
            return Verdict(verdict.key, verdict.value, verdict.variant, "STALE")
        return verdict

    async def _ask(self, place: Place) -> Verdict:
        key, body = place
        try:
            async with asyncio.timeout(self._timeout_s):
                verdict = judged(key, *await self._asked(key, body))
        except Unanswered as error:
            self._failed(str(error), _EVERYTHING if error.whole else key, error.pause_s)
        except TimeoutError:
            self._failed(f"did not answer within {self._timeout_s:g}s", _EVERYTHING)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._failed(f"cannot be asked: {type(error).__name__}", _EVERYTHING)
        else:
            self._remember(place, verdict)
            return verdict
        return self._from_memory(place)

    async def _asked(self, key: str, body: bytes) -> tuple[int, bytes, str | None]:
        """The answer; asked a second time where a kept connection turned out to be closed, which is nobody's failure."""
        try:
            return await self._post(key, body)
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientConnectionError:
            return await self._post(key, body)

    async def _post(self, key: str, body: bytes) -> tuple[int, bytes, str | None]:
        """Status, body and Retry-After of the answer."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **self._headers},
            )
        url = URL(self._url + quote(key, safe=""), encoded=True)
        async with self._session.post(url, data=body, allow_redirects=False) as answer:
            content = b""
            async for piece in answer.content.iter_chunked(ANSWER_MAX_BYTES):
                content += piece
                if len(content) > ANSWER_MAX_BYTES:
                    raise Unanswered("answered with more than 64KiB", whole=False)
            return answer.status, content, answer.headers.get("Retry-After")

    def _remember(self, place: Place, verdict: Verdict) -> None:
        self._refreshes += 1
        for about in (_EVERYTHING, place[0]):
            self._wrong.pop(about, None)
            self._paused.pop(about, None)
        self._remembered.pop(place, None)
        self._remembered[place] = (self._now() + FRESH_S, verdict)
        if len(self._remembered) > REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]

    def _failed(self, why: str, about: str, pause_s: float = PAUSE_S) -> None:
        """Leave the service alone for a while, about one flag or altogether, and say so where that is news."""
        self._problems += 1
        self._paused[about] = self._now() + pause_s
        is_news = about not in self._wrong
        self._wrong[about] = why
        if is_news:
            self._on_problem(f"the flag service {why}; the last known verdicts stay in force")


def judged(key: str, status: int, body: bytes, retry_after: str | None = None) -> Verdict:
    """What an answer says about a flag. Raises Unanswered where it says nothing about it.

    200, 400 and 404 speak about the flag, as the protocol has it; a value that is no text is a TYPE_MISMATCH, and no value means
    that the caller's default counts. Reasons that OpenFeature does not know are UNKNOWN, error codes GENERAL.
    """
    if status not in {200, 400, 404}:
        pause_s = PAUSE_S
        if status in {429, 503} and retry_after is not None and retry_after.strip().isdecimal():
            pause_s = min(PAUSE_MAX_S, max(PAUSE_S, float(retry_after)))
        about = "" if status in _WHOLE else f" for flag {json.dumps(key)}"
        raise Unanswered(f"answered {status}{about}", whole=status in _WHOLE, pause_s=pause_s)
    told = _object(key, body)
    if status == 404:  # noqa: PLR2004
        return failed(key, "FLAG_NOT_FOUND")
    if status == 400:  # noqa: PLR2004
        code = told.get("errorCode")
        return failed(key, code if isinstance(code, str) and code in _ERRORS else "GENERAL")
    value, variant, reason = told.get("value"), told.get("variant"), told.get("reason")
    if value is not None and not isinstance(value, str):
        return failed(key, "TYPE_MISMATCH")
    known = reason.upper() if isinstance(reason, str) and reason.upper() in _REASONS else "UNKNOWN"
    return Verdict(key, value, variant if isinstance(variant, str) else None, known)


def _object(key: str, body: bytes) -> dict[str, Any]:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Unanswered(f"answered what is no JSON object for flag {json.dumps(key)}", whole=False)
    return told
