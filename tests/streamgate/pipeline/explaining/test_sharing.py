"""Whether a request would share its call, be hedged, or have its usage asked for; and why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamgate.exchange import Dialect
from streamgate.pipeline.ask import OPERATIONS, Ask
from streamgate.pipeline.explaining.sharing import Wish, sharing_of, usage_of
from tests.streamgate.pipeline.explaining.stand import Stand

BATCH = {"window": "5ms", "max_items": 4, "max_bytes": "200B"}


def wish(kind: bytes = b"chat/completions", *, stand: Stand | None = None, has_other: bool = True, **body: Any) -> Wish:
    here = stand or Stand()
    models = next(entry.plan.models for entry in here.built.routes.rows())
    assert models is not None
    ask = Ask(json.dumps({"model": "tutor", **body}).encode())
    return Wish(ask, kind, here.model, models, here.spec.models[0], has_other)


def told(name: str, *args: Any, **more: Any) -> tuple[bool, str]:
    found = sharing_of(wish(*args, **more))[name]
    return found["would"], found["because"]


def test_everything_is_off_by_default() -> None:
    assert sharing_of(wish()) == {
        "batch": {"would": False, "because": "batch is off for this model"},
        "flight": {"would": False, "because": "single_flight is off for this route"},
        "hedge": {"would": False, "because": "hedge is off for this model"},
    }


@pytest.mark.parametrize(
    ("kind", "body", "would", "says"),
    [
        (b"embeddings", {"input": "a"}, True, "after 5ms at most"),
        (b"completions", {"prompt": ["a", "b"]}, True, "with others like it"),
        (b"completions", {"prompt": "a", "seed": 3}, False, "or seed"),
        (b"embeddings", {"input": ["a"] * 4}, False, "too many inputs"),
        (b"embeddings", {"input": "a" * 200}, False, "batch.max_bytes is 200B"),
        (b"chat/completions", {"messages": []}, False, "only embeddings and completions"),
    ],
)
def test_a_batch(kind: bytes, body: dict[str, Any], would: bool, says: str) -> None:
    found = told("batch", kind, stand=Stand(batch=BATCH), **body)
    assert found[0] is would
    assert says in found[1]


def test_a_batch_of_one_is_none() -> None:
    assert told("batch", b"embeddings", stand=Stand(batch={**BATCH, "max_items": 1}), input="a") == (False, "batch is off for this model")


@pytest.mark.parametrize(
    ("kind", "body", "would"),
    [
        (b"chat/completions", {"temperature": 0, "messages": []}, True),
        (b"chat/completions", {"messages": []}, False),
        (b"responses", {"temperature": 0, "input": "a"}, False),
        (b"embeddings", {"input": "a"}, True),
    ],
)
def test_a_flight(kind: bytes, body: dict[str, Any], would: bool) -> None:
    assert told("flight", kind, stand=Stand(route={"single_flight": True}), **body)[0] is would


def test_only_the_first_that_would_is() -> None:
    stand = Stand(batch=BATCH, hedge={"after": "2s"}, route={"single_flight": True})
    assert told("batch", b"embeddings", stand=stand, input="a")[0]
    assert told("flight", b"embeddings", stand=stand, input="a") == (False, "it may share a batch")
    assert told("hedge", b"embeddings", stand=stand, input="a") == (False, "its call is shared")
    assert told("flight", b"embeddings", stand=stand, input="a" * 300)[0]
    assert told("hedge", b"embeddings", stand=stand, input="a" * 300) == (False, "its call is shared")


def test_a_hedge() -> None:
    stand = Stand(hedge={"after": "2s", "share": "10%"}, queue={"max_in_flight": 2})
    assert told("hedge", stand=stand) == (True, "after 2s without a first byte, in at most 10% of the calls")
    assert told("hedge", stand=stand, has_other=False) == (False, "there is no other target that could be asked now")
    assert told("hedge", stand=stand, previous_response_id="r") == (False, "it goes on from an answer that one target alone knows")
    stand.model.line.count.take()
    assert told("hedge", stand=stand)[0], "half of it is in use"
    stand.model.line.count.take()
    assert told("hedge", stand=stand) == (False, "the model is busy")


def test_nothing_is_hedged_while_others_wait() -> None:
    stand = Stand(hedge={"after": "2s"}, services={"a": {"max_in_flight": 1}})
    stand.model.line.enter("x", granted=lambda _slot: None, refused=lambda _fault: None, ready=lambda: False)
    assert told("hedge", stand=stand) == (False, "the model is busy")


@pytest.mark.parametrize(
    ("kind", "dialect", "body", "model", "asked", "because"),
    [
        (b"chat/completions", Dialect.OPENAI, {"stream": True}, {}, True, "the client did not ask for it"),
        (b"completions", Dialect.OPENAI, {"stream": True, "stream_options": None}, {}, True, "taken out of the answer again"),
        (b"chat/completions", Dialect.OPENAI, {"stream": True, "stream_options": {"include_usage": True}}, {}, False, "the client asks for it"),
        (b"chat/completions", Dialect.OPENAI, {"stream": True, "stream_options": 7}, {}, False, "for the upstream to judge"),
        (b"chat/completions", Dialect.OPENAI, {}, {}, False, "by itself"),
        (b"chat/completions", Dialect.OPENAI, {"stream": True}, {"include_usage": False}, False, "include_usage is off"),
        (b"responses", Dialect.RESPONSES, {"stream": True}, {}, False, "by themselves"),
        (b"messages", Dialect.ANTHROPIC, {"stream": True}, {}, False, "by themselves"),
    ],
)
def test_the_usage(kind: bytes, dialect: Dialect, body: dict[str, Any], model: dict[str, Any], asked: bool, because: str) -> None:
    one = wish(kind, stand=Stand(**model), **body)
    found, sent = usage_of(one, OPERATIONS[kind], dialect, "up")
    assert found["asked_upstream"] is asked
    assert because in found["because"]
    assert json.loads(sent)["model"] == "up"
    assert (json.loads(sent).get("stream_options") == {"include_usage": True}) is (asked or body.get("stream_options") == {"include_usage": True})
