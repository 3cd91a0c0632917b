"""Flags of a remote service over real sockets: what is asked, what its answers mean, and what counts when it is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from routers import ofrep
from routers.flags import Verdict, failed
from routers.ofrep import OfrepFlags, Unanswered, judged
from tests.kit.clock import ManualClock
from tests.kit.ports import black_hole, refused_port
from tests.kit.upstream import RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer, head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.kit.upstream import Arrived

CONTEXT = {"targetingKey": "user-1", "tenant": "acme"}
STABLE = Verdict("f", "stable", "one", "STATIC")
AWAY = failed("f", "GENERAL")


def said(value: object = "stable", status: int = 200, headers: tuple[tuple[str, str], ...] = (), **more: object) -> bytes:
    told = {"key": "f", "value": value, "variant": "one", "reason": "STATIC", **more}
    return answer(json.dumps(told).encode(), status, [("content-type", "application/json"), *headers])


class Asked:
    """Flags of a service in the test's hand."""

    def __init__(self, url: str, clock: ManualClock, **more: Any) -> None:
        self.clock = clock
        self.problems: list[str] = []
        self.flags = OfrepFlags(url, now=clock.now, on_problem=self.problems.append, **{"headers": {}, "timeout_s": 5.0, **more})

    async def f(self, **context: object) -> Verdict:
        return await self.flags.decide("f", {**CONTEXT, **context})

    def now(self, **context: object) -> Verdict | None:
        return self.flags.evaluate_nowait("f", {**CONTEXT, **context})


@contextlib.asynccontextmanager
async def asking(url: str, **more: Any) -> AsyncIterator[Asked]:
    asked = Asked(url, ManualClock(), **more)
    yield asked
    await asked.flags.close()


async def test_what_is_asked_and_what_comes_of_it() -> None:
    async with RawUpstream() as service, asking(f"{service.url}/base/", headers={"X-API-Key": "hush"}) as asked:
        assert asked.now() is None, "it has to be asked for"
        service.answer_with(lambda _: said())
        assert await asked.f() == STABLE
        assert asked.now() == STABLE
        [request] = service.requests
        assert (request.method, request.target) == ("POST", "/base/ofrep/v1/evaluate/flags/f")
        assert json.loads(request.body) == {"context": CONTEXT}
        fields = {name.lower(): value for name, value in request.headers}
        assert (fields["x-api-key"], fields["content-type"]) == ("hush", "application/json")
        figures = asked.flags.statistics()
        assert (figures.provider, figures.is_ready, figures.refreshes, figures.kept) == ("ofrep", True, 1, 1)
        assert (figures.flags, figures.problems, figures.problem, figures.stale) == (None, 0, None, 0)


async def test_a_key_stays_one_segment_of_the_path() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda _: said())
        await asked.flags.decide("../a b/ü?x#y", {})
        assert service.requests[0].target == "/ofrep/v1/evaluate/flags/..%2Fa%20b%2F%C3%BC%3Fx%23y"


async def test_a_verdict_counts_for_half_a_second() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda _: said())
        await asked.f()
        service.answer_with(lambda _: said("next", variant="two"))
        asked.clock.advance(ofrep.FRESH_S - 0.001)
        assert await asked.f() == STABLE
        asked.clock.advance(0.001)
        assert asked.now() is None
        assert await asked.f() == Verdict("f", "next", "two", "STATIC")
        assert len(service.requests) == 2


async def test_each_context_is_asked_for_by_itself() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda arrived: said(json.loads(arrived.request.body)["context"]["tenant"]))
        assert (await asked.f(tenant="a")).value == "a"
        assert (await asked.f(tenant="b")).value == "b"


async def test_those_who_want_the_same_share_a_request_whoever_leaves() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        wanting = [asyncio.create_task(asked.f()) for _ in range(5)]
        arrived = await service.next_request()
        wanting[0].cancel()
        await arrived.send(said())
        assert await asyncio.gather(*wanting[1:]) == [STABLE] * 4
        assert wanting[0].cancelled()
        assert len(service.requests) == 1


# -- when it is away -------------------------------------------------------------------------------------------------------


async def test_without_an_answer_the_last_one_counts_as_stale_and_nobody_waits() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda _: said())
        await asked.f()
        service.answer_with(lambda _: said(status=503))
        asked.clock.advance(ofrep.FRESH_S)
        stale = Verdict("f", "stable", "one", "STALE")
        assert await asked.f() == stale
        assert asked.now() == stale, "the service is left alone"
        assert asked.now(tenant="other") == AWAY, "nothing is known about another context"
        assert len(service.requests) == 2
        assert asked.problems == ["the flag service answered 503; the last known verdicts stay in force"]
        assert asked.flags.statistics().stale == 2
        asked.clock.advance(ofrep.PAUSE_S)
        assert asked.now() is None
        assert await asked.f() == stale
        assert len(asked.problems) == 1, "told once, however long it lasts"
        service.answer_with(lambda _: said("next"))
        asked.clock.advance(ofrep.PAUSE_S)
        assert (await asked.f()).value == "next"
        assert asked.flags.statistics().problem is None
        service.answer_with(lambda _: said(status=503))
        asked.clock.advance(ofrep.FRESH_S)
        await asked.f()
        assert len(asked.problems) == 2, "the next time is news again"


async def test_a_flag_that_was_not_there_is_not_there_in_memory_either() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda _: said(status=404))
        assert await asked.f() == failed("f", "FLAG_NOT_FOUND")
        service.answer_with(lambda _: said(status=503))
        asked.clock.advance(ofrep.FRESH_S)
        assert await asked.f() == failed("f", "FLAG_NOT_FOUND")
        assert asked.flags.statistics().stale == 0


async def test_a_service_that_never_answers_is_waited_for_once() -> None:
    async with RawUpstream() as service, asking(service.url, timeout_s=0.05) as asked:
        async with asyncio.timeout(20):
            assert await asked.f() == AWAY
        assert asked.now() == AWAY
        assert asked.problems == ["the flag service did not answer within 0.05s; the last known verdicts stay in force"]
        await (await service.next_connection()).wait_closed()


async def test_an_answer_that_drips_is_cut_off() -> None:
    async with RawUpstream() as service, asking(service.url, timeout_s=0.1) as asked:
        deciding = asyncio.create_task(asked.f())
        arrived = await service.next_request()
        await arrived.send(head(200, [("content-length", "100000")]))
        with contextlib.suppress(ConnectionError):
            for _ in range(4000):
                await arrived.send(b" ")
                await asyncio.sleep(0.005)
        assert deciding.done(), "the connection was cut off while it still sent"
        assert await deciding == AWAY


async def test_nobody_there_is_no_error() -> None:
    with refused_port() as port:
        async with asking(f"http://127.0.0.1:{port}") as asked:
            assert await asked.f() == AWAY
            [told] = asked.problems
            assert told.startswith("the flag service cannot be asked: ClientConnectorError")


async def test_connecting_is_within_the_timeout() -> None:
    with black_hole() as port:
        async with asking(f"http://127.0.0.1:{port}", timeout_s=0.05) as asked, asyncio.timeout(20):
            assert await asked.f() == AWAY


async def test_one_flag_that_fails_does_not_silence_the_others() -> None:
    def of(arrived: Arrived) -> bytes:
        return said(status=500) if arrived.request.target.endswith("/f") else said()

    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(of)
        assert await asked.f() == AWAY
        assert asked.now() == AWAY
        assert (await asked.flags.decide("g", CONTEXT)).value == "stable"
        assert asked.now() == AWAY, "still left alone, though the service answers for another"
        assert asked.problems == ['the flag service answered 500 for flag "f"; the last known verdicts stay in force']
        assert asked.flags.statistics().problem == 'answered 500 for flag "f"'
        service.answer_with(lambda _: said())
        asked.clock.advance(ofrep.PAUSE_S)
        assert await asked.f() == STABLE
        assert asked.flags.statistics().problem is None


async def test_a_kept_connection_that_was_closed_is_not_a_failure() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda _: said())
        await asked.f()

        def close_the_first(arrived: Arrived) -> bytes | None:
            if arrived.connection.number == 0:
                arrived.reset()
                return None
            return said("next")

        service.answer_with(close_the_first)
        asked.clock.advance(ofrep.FRESH_S)
        assert (await asked.f()).value == "next"
        assert asked.problems == []


async def test_redirects_are_not_followed() -> None:
    async with RawUpstream() as other, RawUpstream() as service, asking(service.url, headers={"X-API-Key": "hush"}) as asked:
        service.answer_with(lambda _: answer(status=307, headers=[("location", f"{other.url}/x")]))
        assert await asked.f() == AWAY
        assert other.connections == []


async def test_too_long_an_answer_is_no_answer() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        service.answer_with(lambda _: said("x" * ofrep.ANSWER_MAX_BYTES))
        assert await asked.f() == AWAY
        assert "answered with more than 64KiB" in asked.problems[0]


async def test_what_json_cannot_say_is_not_asked() -> None:
    async with RawUpstream() as service, asking(service.url) as asked:
        for odd in (object(), "\ud800", {1: object()}):
            assert await asked.f(odd=odd) == failed("f", "INVALID_CONTEXT")
            assert asked.now(odd=odd) == failed("f", "INVALID_CONTEXT")
        assert service.connections == []


async def test_no_context_and_no_header_is_told_or_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    for reply in (said(status=500), said(errorDetails="hush", status=400), answer(b"hush"), said("hush", status=503), b"hush\r\n\r\n"):
        async with RawUpstream() as service, asking(service.url, headers={"X-API-Key": "hush"}) as asked:
            service.answer_with(lambda _, reply=reply: reply)
            await asked.f(secret="hush")
            assert "hush" not in f"{asked.problems}{asked.flags.statistics()}"
    assert "hush" not in caplog.text
    assert "hush" not in "".join(capfd.readouterr())


async def test_the_oldest_is_forgotten_past_the_bound() -> None:
    asked = Asked("http://127.0.0.1:1", ManualClock())
    for number in range(ofrep.REMEMBERED_MAX + 5):
        asked.flags._remember(("f", b"%d" % number), STABLE)
    asked.flags._remember(("f", b"5"), STABLE)
    assert asked.flags.statistics().kept == ofrep.REMEMBERED_MAX
    assert ("f", b"4") not in asked.flags._remembered
    assert list(asked.flags._remembered)[-1] == ("f", b"5"), "asked for again, it is the youngest"
    await asked.flags.close()


async def test_closing_answers_what_waits_and_leaves_nothing_open() -> None:
    async with RawUpstream() as service:
        asked = Asked(service.url, ManualClock())
        deciding = [asyncio.create_task(asked.f(n=number)) for number in range(3)]
        for _ in deciding:
            await service.next_request()
        await asked.flags.close()
        assert await asyncio.gather(*deciding) == [AWAY] * 3
        assert asked.problems == [], "being closed is no failure of the service"
        assert asked.now() == AWAY
        assert await asked.f() == AWAY
        await eventually(lambda: service.open_connections == 0)
        await asked.flags.close()


# -- what answers mean -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told", "verdict"),
    [
        (200, {"value": "a", "variant": "b", "reason": "SPLIT"}, Verdict("f", "a", "b", "SPLIT")),
        (200, {"value": "a", "variant": "b", "reason": "targeting_match"}, Verdict("f", "a", "b", "TARGETING_MATCH")),
        (200, {"value": "a", "reason": "RULE_17"}, Verdict("f", "a", None, "UNKNOWN")),
        (200, {"value": "a", "variant": 5}, Verdict("f", "a", None, "UNKNOWN")),
        (200, {"reason": "DISABLED"}, Verdict("f", None, None, "DISABLED")),
        (200, {"value": None, "reason": "DEFAULT", "variant": "b"}, Verdict("f", None, "b", "DEFAULT")),
        (200, {"value": True, "variant": "on", "reason": "STATIC"}, failed("f", "TYPE_MISMATCH")),
        (200, {"value": ["a"]}, failed("f", "TYPE_MISMATCH")),
        (400, {"errorCode": "TARGETING_KEY_MISSING"}, failed("f", "TARGETING_KEY_MISSING")),
        (400, {"errorCode": "OUT_OF_TEA"}, failed("f", "GENERAL")),
        (400, {"errorCode": ["x"]}, failed("f", "GENERAL")),
        (404, {"errorCode": "FLAG_NOT_FOUND"}, failed("f", "FLAG_NOT_FOUND")),
    ],
)
def test_an_answer_about_the_flag(status: int, told: dict[str, object], verdict: Verdict) -> None:
    assert judged("f", status, json.dumps({"key": "f", **told}).encode()) == verdict


@pytest.mark.parametrize(
    ("status", "body", "retry_after", "whole", "pause_s"),
    [
        (500, b"{}", "20", False, 1.0),
        (302, b"{}", None, False, 1.0),
        (401, b"", None, True, 1.0),
        (403, b"", None, True, 1.0),
        (429, b"", "7", True, 7.0),
        (429, b"", "0", True, 1.0),
        (503, b"", "86400", True, 30.0),
        (503, b"", "Wed, 21 Oct 2015 07:28:00 GMT", True, 1.0),
        (200, b"", None, False, 1.0),
        (200, b"[]", None, False, 1.0),
        (200, b'{"value"', None, False, 1.0),
        (404, b"<html>no such page", None, False, 1.0),
    ],
)
def test_an_answer_that_says_nothing_about_the_flag(
    status: int, body: bytes, retry_after: str | None, *, whole: bool, pause_s: float
) -> None:
    with pytest.raises(Unanswered) as info:
        judged("f", status, body, retry_after)
    assert (info.value.whole, info.value.pause_s) == (whole, pause_s)


@given(st.integers(100, 599), st.binary(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["value", "variant", "reason", "errorCode"]), inner, max_size=4), max_leaves=6)
    .map(lambda told: json.dumps(told).encode()), st.none() | st.text(max_size=5))  # fmt: skip
def test_any_answer_is_a_verdict_or_none(status: int, body: bytes, retry_after: str | None) -> None:
    try:
        verdict = judged("f", status, body, retry_after)
    except Unanswered as error:
        assert 1.0 <= error.pause_s <= 30.0
        return
    assert verdict.value is None or isinstance(verdict.value, str)
    assert verdict.reason in ofrep._REASONS
    assert verdict.error is None or verdict.error in ofrep._ERRORS


async def test_sound_answers_mean_what_the_published_provider_makes_of_them() -> None:
    replies: dict[str, tuple[int, dict[str, object]]] = {
        "text": (200, {"value": "a", "variant": "b", "reason": "TARGETING_MATCH"}),
        "number": (200, {"value": 1, "variant": "b", "reason": "STATIC"}),
        "none": (200, {"variant": "b", "reason": "DISABLED"}),
        "missing": (404, {"errorCode": "FLAG_NOT_FOUND", "errorDetails": "x"}),
        "unparsable": (400, {"errorCode": "PARSE_ERROR", "errorDetails": "x"}),
        "keyless": (400, {"errorCode": "TARGETING_KEY_MISSING", "errorDetails": "x"}),
        "odd": (400, {"errorCode": "INVALID_CONTEXT", "errorDetails": "x"}),
        "broken": (500, {"errorDetails": "x"}),
        "locked": (401, {}),
    }
    bodies: list[dict[str, object]] = []

    def reply(arrived: Arrived) -> bytes:
        key = arrived.request.target.rpartition("/")[2]
        bodies.append(json.loads(arrived.request.body))
        return answer(json.dumps({"key": key, **replies[key][1]}).encode(), replies[key][0], [("content-type", "application/json")])

    async with RawUpstream() as service:
        service.answer_with(reply)
        api.set_provider_and_wait(OFREPProvider(service.url), "streamgate-ofrep-test")
        client = api.get_client("streamgate-ofrep-test")
        for key in replies:
            context = EvaluationContext("user-1", {"tenant": "acme"})
            theirs = await asyncio.to_thread(client.get_string_details, key, "\0default", context)
            async with asking(service.url) as asked:
                ours = await asked.flags.decide(key, CONTEXT)
            value = None if theirs.value == "\0default" else theirs.value
            assert ours == Verdict(key, value, theirs.variant, str(theirs.reason), theirs.error_code and theirs.error_code.value), key
            assert bodies[-1] == bodies[-2]
