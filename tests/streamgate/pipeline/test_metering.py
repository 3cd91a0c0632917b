"""The meter of one request: what is asked for upstream and taken out again, what is held and added, and what is settled, once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.relay import Again, Framing
from streamgate.exchange import Dialect, Exchange, Terminal
from streamgate.pipeline.ask import Ask
from streamgate.pipeline.metering import Metering, Passage, Tally
from streamgate.prompt import Prompt
from tests.end_to_end.models_stage import DONE, ROLE, USAGE, token
from tests.kit.clock import ManualClock
from tests.streamgate.pipeline.models_bench import ModelsBench, unheard

EVENTS = Framing(head=b"", chunked=True, open=False, stream=True, watched=True, adds=True)
WHOLE = Framing(head=b"", chunked=False, open=False, stream=False, watched=False, adds=False)
LONG = Framing(head=b"", chunked=False, open=False, stream=True, watched=True, adds=True)
ERROR = b'data: {"error":{"code":"server_error","type":"x"}}\n\n'


class Meter:
    """One request's, of a model with a price."""

    def __init__(self, *, include_usage: bool = True, leaves_out: bool = True, route: Any = None, operation: str = "chat", **members: Any) -> None:
        self.clock = ManualClock()
        self.bench: ModelsBench = unheard(self.clock, route=route)
        self.bench.reload(prices={"tutor": {"input": 1, "output": 10}, "b/up-b": {"input": 100, "currency": "EUR"}})
        models = self.bench.plan.models
        assert models is not None
        self.ask = Ask(json.dumps({"model": "tutor", **members}).encode())
        self.prompt = Prompt("tutor", operation, stream=self.ask.stream)
        self.one = Metering(self.prompt, models, self.ask, include_usage=include_usage, leaves_out=leaves_out)
        self.exchange = Exchange(
            method=b"POST", path=b"/v1/chat/completions", query=None, host=b"h", headers=[], http10=False, started_at=self.clock.now()
        )  # fmt: skip
        self.exchange.dialect = Dialect.OPENAI
        self.exchange.prompt = self.prompt

    def body(self, name: str = "up", dialect: Dialect = Dialect.OPENAI) -> Any:
        return json.loads(self.one.body_for(name, dialect))

    def tap(self, framing: Framing = EVENTS, on_error: Any = None) -> Passage:
        return self.one.tap(self.exchange, framing, on_error or (lambda _words: None))

    def ends(self, terminal: Terminal = Terminal.COMPLETE) -> Prompt:
        self.exchange.end(terminal)
        self.one.settle(self.exchange, self.clock.now())
        return self.prompt


# -- what is asked ---------------------------------------------------------------------------------------------------------


def test_usage_is_asked_for_where_a_stream_would_not_tell_it() -> None:
    meter = Meter(stream=True)
    assert meter.body() == {"model": "up", "stream": True, "stream_options": {"include_usage": True}}
    assert meter.one.body_for("up", Dialect.OPENAI) is meter.one.body_for("up", Dialect.OPENAI)
    assert meter.body("other")["model"] == "other"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stream": True, "include_usage": False},
        {"stream": True, "operation": "embeddings"},
        {"stream": True, "stream_options": {"include_usage": True}},
    ],
)
def test_it_is_not_asked_for_anywhere_else(how: dict[str, Any]) -> None:
    meter = Meter(**how)
    assert meter.body() == json.loads(meter.ask.with_model("up"))
    tap = meter.tap()
    assert tap.feed(token("a") + USAGE + DONE) == token("a") + USAGE + DONE


@pytest.mark.parametrize("dialect", [Dialect.ANTHROPIC, Dialect.RESPONSES])
def test_nor_of_those_who_tell_it_anyway(dialect: Dialect) -> None:
    assert "stream_options" not in Meter(stream=True).body(dialect=dialect)


def test_options_that_are_none_are_for_the_upstream_to_judge() -> None:
    meter = Meter()
    meter.ask = Ask(b'{"model":"tutor","stream":true,"stream_options":{"include_usage":false,"include_usage":false}}')
    assert meter.bench.plan.models is not None
    meter.one = Metering(meter.prompt, meter.bench.plan.models, meter.ask, include_usage=True, leaves_out=True)
    assert meter.one.body_for("tutor", Dialect.OPENAI) == meter.ask.body
    assert meter.tap().feed(token("a") + USAGE) == token("a") + USAGE


# -- what goes by ----------------------------------------------------------------------------------------------------------


def test_what_the_client_did_not_ask_for_is_taken_out() -> None:
    meter = Meter(stream=True)
    meter.body()
    tap = meter.tap()
    assert tap.feed(ROLE) == b""  # it says nothing yet
    assert tap.feed(token("a") + USAGE) == ROLE + token("a")
    assert tap.feed(DONE) == DONE
    assert tap.rest() == b""


@pytest.mark.parametrize(("framing", "leaves_out"), [(LONG, True), (EVENTS, False)])
def test_but_not_of_a_length_that_was_promised_nor_for_a_row(framing: Framing, leaves_out: bool) -> None:
    meter = Meter(stream=True, leaves_out=leaves_out, route={"summary": True})
    meter.body()
    tap = meter.tap(framing)
    assert tap.feed(token("a") + USAGE + DONE) + tap.rest() == token("a") + USAGE + DONE


def test_an_answer_in_one_piece_is_not_held() -> None:
    tap = Meter().tap(WHOLE)
    assert tap.feed(ERROR[:9]) == ERROR[:9]
    assert tap.rest() == b""


def test_an_error_that_comes_first_is_asked_about() -> None:
    told: list[Any] = []

    def judge(words: Any) -> None:
        told.append(words)
        if len(told) == 1:
            raise Again("in_band", 0.0)

    meter = Meter(stream=True)
    with pytest.raises(Again):
        meter.tap(on_error=judge).feed(ROLE + ERROR)
    assert meter.tap(on_error=judge).feed(ROLE + ERROR) == ROLE + ERROR
    assert told == [("server_error", "x", None, None)] * 2


def test_of_an_opening_that_nothing_followed_nothing_is_said() -> None:
    tap = Meter(stream=True, route={"summary": True}).tap()
    assert tap.feed(ROLE) + tap.rest() == b""


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_however_it_is_cut(cuts: list[int]) -> None:
    meter = METER
    meter.one.tally = None
    tap = meter.tap()
    whole, out, at = ROLE + token("a") + token("é") + USAGE + DONE, b"", 0
    for size in cuts:
        out += tap.feed(whole[at : at + size])
        at += size
    out += tap.feed(whole[at:]) + tap.rest()
    assert out == ROLE + token("a") + token("é") + DONE
    assert (tap.usage.result(complete=True).input_tokens, tap.usage.result(complete=True).output_tokens) == (7, 2)


METER = Meter(stream=True)
METER.body()


def test_a_summary_ends_a_stream_that_asks_for_one() -> None:
    meter = Meter(stream=True, route={"summary": True})
    meter.prompt.routed, meter.prompt.split, meter.exchange.service, meter.exchange.attempts = "up", "stable", "a", 2
    meter.prompt.queue_s = 0.25
    meter.body()
    tap = meter.tap()
    tap.feed(token("a") + USAGE + DONE)
    meter.exchange.first_byte_at = meter.clock.now() + 1.5
    line = tap.rest()
    assert line.startswith(b": streamgate {") and line.endswith(b"}\n") and line.count(b"\n") == 1
    assert json.loads(line[len(b": streamgate ") :]) == {
        "model": "tutor", "routed": "up", "answering": "up", "split": "stable", "service": "a", "attempts": 2, "queue_ms": 250.0,
        "ttft_ms": 1500.0, "input_tokens": 7, "output_tokens": 2, "cost": pytest.approx(27e-6),
    }  # fmt: skip


# -- what is settled -------------------------------------------------------------------------------------------------------


def counted(meter: Meter) -> dict[str, float]:
    (tokens,) = (one for one in meter.bench.gen_ai.families() if one.name == "streamgate_tokens")
    return {" ".join(sample.labels): sample.value for sample in tokens.samples}


def test_it_is_settled_once_by_the_upstreams_own_numbers() -> None:
    meter = Meter(stream=True)
    meter.body()
    meter.tap().feed(token("a") + USAGE + DONE)
    meter.exchange.first_byte_at = meter.clock.now()
    for _ in range(2):
        prompt = meter.ends()
    assert (prompt.input_tokens, prompt.output_tokens, prompt.estimated, prompt.answering) == (7, 2, False, "up")
    assert (prompt.cost, prompt.currency) == (pytest.approx(27e-6), "USD")
    assert counted(meter) == {"tutor input false": 7, "tutor output false": 2}


def test_the_first_token_is_timed_where_it_is_waited_for() -> None:
    for streamed, times in ((True, 1), (False, 0)):
        meter = Meter(stream=streamed)
        meter.tap().feed(token("a") + DONE)
        meter.one.first(1.5)
        meter.ends()
        (first,) = (one for one in meter.bench.gen_ai.families() if one.name == "gen_ai_server_time_to_first_token_seconds")
        assert [(sum(sample.counts or ()), sample.value) for sample in first.samples] == [(times, 1.5 * times)]


def test_what_was_cut_off_is_counted_by_what_was_delivered() -> None:
    meter = Meter(stream=True, messages=["x" * 400])
    meter.body()
    meter.tap().feed(token("a") + token("b"))
    meter.exchange.first_byte_at = meter.clock.now()
    meter.ask.forget()  # the body is let go of with the first token
    prompt = meter.ends(Terminal.CLIENT_CLOSED)
    assert (prompt.output_tokens, prompt.estimated) == (2, True)
    assert prompt.input_tokens is not None and prompt.input_tokens > 50


def test_of_attempts_the_last_one_counts_and_before_any_nothing_does() -> None:
    meter = Meter(stream=True)
    meter.tap().feed(token("a") * 5)
    meter.tap().feed(ROLE)
    prompt = meter.ends(Terminal.UPSTREAM_ERROR)
    assert (prompt.input_tokens, prompt.output_tokens, prompt.cost) == (None, 0, 0.0)
    prompt = Meter().ends(Terminal.UPSTREAM_ERROR)
    assert (prompt.input_tokens, prompt.output_tokens, prompt.cost, prompt.answering) == (None, None, None, None)


def test_a_price_of_the_target_goes_before_one_of_the_model() -> None:
    meter = Meter()
    meter.prompt.routed, meter.prompt.service = "up-b", "b"
    meter.tap(WHOLE).feed(b'{"model":"up","usage":{"prompt_tokens":1000000,"completion_tokens":1}}')
    prompt = meter.ends()
    assert (prompt.cost, prompt.currency) == (100.0, "EUR")


def test_where_an_answer_was_made_is_remembered_for_who_goes_on_from_it() -> None:
    meter = Meter()
    meter.exchange.dialect, meter.exchange.service, meter.prompt.routed = Dialect.RESPONSES, "a", "up"
    meter.tap(WHOLE).feed(b'{"id":"resp_1","object":"response","model":"up","usage":{"input_tokens":1,"output_tokens":1}}')
    meter.ends()
    models = meter.bench.plan.models
    assert models is not None
    assert models.answers.known("resp_1", meter.clock.now()) == "a up"


# -- who counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leave", "counts"),
    [
        ([True, True, True], [True, False, False]),
        ([False, True, True], [False, True, False]),
        ([False, False, True], [False, False, True]),
        ([False, False, False], [False, False, True]),
        ([True, False, False], [True, False, False]),
    ],
)
def test_one_of_several_counts(leave: list[bool], counts: list[bool]) -> None:
    tally = Tally()
    for _ in leave:
        tally.joins()
    assert [tally.counts(complete=complete) for complete in leave] == counts
    assert tally.riders == 3


@given(st.lists(st.one_of(st.none(), st.booleans()), max_size=12))
def test_never_two_and_never_nobody(happens: list[bool | None]) -> None:
    tally, there, counted = Tally(), 0, 0
    for what in [None, *happens]:
        if what is None:
            if counted and not there:
                break  # nobody joins what is over
            tally.joins()
            there += 1
        elif there:
            there -= 1
            counted += tally.counts(complete=what)
            if not there:
                break
    for _ in range(there):
        counted += tally.counts(complete=False)
    assert counted == 1


def test_who_does_not_count_is_told_all_the_same() -> None:
    meter = Meter()
    meter.one.tally = tally = Tally()
    for _ in range(2):
        tally.joins()
    assert tally.counts(complete=True)
    meter.prompt.shared = "flight"
    meter.tap(WHOLE).feed(b'{"model":"up","usage":{"prompt_tokens":7,"completion_tokens":2}}')
    prompt = meter.ends()
    assert (prompt.input_tokens, prompt.output_tokens, prompt.cost, prompt.shared) == (7, 2, None, "flight")
    assert counted(meter) == {}


@pytest.mark.parametrize(("terminal", "counts"), [(Terminal.COMPLETE, True), (Terminal.CLIENT_CLOSED, False)])
def test_the_first_to_go_counts_if_he_heard_all_of_it(terminal: Terminal, *, counts: bool) -> None:
    meter = Meter()
    meter.one.tally = tally = Tally()
    for _ in range(2):
        tally.joins()
    meter.tap(WHOLE).feed(b'{"model":"up","usage":{"prompt_tokens":7,"completion_tokens":2}}')
    meter.ends(terminal)
    assert bool(counted(meter)) is counts
