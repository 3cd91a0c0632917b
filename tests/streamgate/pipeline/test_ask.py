"""Bodies of model requests: what is read, what is refused, and that nothing but the model's name is ever written anew."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.exchange import Exchange
from streamgate.pipeline.ask import OPERATIONS, Ask, BadAsk, kind_of, listed, sticky_key, sticky_source

CHAT = b"/v1/chat/completions"


def ask(body: bytes | dict[str, object]) -> Ask:
    return Ask(body if isinstance(body, bytes) else json.dumps(body).encode())


def exchange(*headers: tuple[bytes, bytes]) -> Exchange:
    return Exchange(
        method=b"POST", path=CHAT, query=None, host=b"gate", headers=list(headers), http10=False, started_at=0.0
    )


def test_model_and_stream_are_read() -> None:
    one = ask({"model": "tutor", "stream": True, "stream_options": {"include_usage": True}})
    assert (one.model, one.stream, one.wants_usage) == ("tutor", True, True)
    other = ask({"model": "tutor", "stream": None})
    assert (other.stream, other.wants_usage, other.previous_response_id) == (False, False, None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": "a"', "no JSON"),
        (b'{"model": "a"} x', "no JSON"),
        (b'{"model": "\xff"}', "no JSON"),
        (b"{}", 'send "model"'),
        (b'{"model": ""}', 'send "model"'),
        (b'{"model": 5}', 'send "model"'),
        (b'{"model": "a", "model": "b"}', "2 times"),
        (b'{"model": "a", "Model": "b"}', "2 times"),
        (b'{"model": "a", "stream": "yes"}', "true or false"),
        (b'{"model": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deep"),
    ],
)
def test_what_is_no_request_to_a_model(body: bytes, says: str) -> None:
    with pytest.raises(BadAsk, match=says) as caught:
        ask(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"tutor","messages":[]}',
        b' {\n "messages": [{"model": "tutor", "content": "\\"model\\": \\"tutor\\""}],\r\n\t"model" :  "tutor" , "x": 1.0}\n',
        '{"mod\\u0065l": "tutor", "messages": "schön 🙂"}'.encode(),
    ],
)
def test_every_byte_but_the_name_stays(body: bytes) -> None:
    sent = ask(body).with_model('gem"ma')
    assert json.loads(sent) == {**json.loads(body), "model": 'gem"ma'}
    start, end = ask(body).span
    assert sent[:start] == body[:start]
    assert sent.endswith(body[end:])
    assert ask(body).with_model("tutor") is ask(body).with_model("tutor") or ask(body).with_model("tutor") == body


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), max_size=6))
def test_any_object_is_read_as_json_reads_it(members: dict[str, object]) -> None:
    members = {key: value for key, value in members.items() if key.casefold() not in {"model", "stream"}} | {"model": "m"}
    for ascii_only in (True, False):
        body = json.dumps(members, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        try:
            sent = ask(body).with_model("other")
        except BadAsk:
            continue  # a lone surrogate, which is no UTF-8
        assert json.loads(sent) == members | {"model": "other"}


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        (b"/v1/chat/completions", "chat"), (b"/api/v1/completions", "text_completion"), (b"/v1/embeddings", "embeddings"),
        (b"/v1/responses", "chat"), (b"/v1/messages", "chat"), (b"/v1/messages/count_tokens", "chat"),
        (b"/v1/audio/speech", None), (b"/v1/models", None), (b"/v2/embeddings", None), (b"/v1/chat/completions/", None),
    ],
)  # fmt: skip
def test_which_paths_are_served(path: bytes, operation: str | None) -> None:
    kind = kind_of(path)
    assert (None if kind is None else OPERATIONS[kind]) == operation


def test_the_list_of_models_is_a_path_of_its_own() -> None:
    assert listed(b"/v1/models") == ""
    assert listed(b"/api/v1/models/meta/llama") == "meta/llama"
    assert listed(b"/v1/chat/completions") is None


def test_the_first_source_that_is_present_decides() -> None:
    sources = tuple((w, sticky_source(w)) for w in ("header:x-session", "cookie:sid", "body:metadata.user_id", "body:user"))
    body = {"model": "m", "user": "u", "metadata": {"user_id": 7}}
    assert sticky_key(exchange(), ask(body), sources) == ("body:metadata.user_id", "7")
    assert sticky_key(exchange((b"Cookie", b"a=b; sid=c")), ask(body), sources) == ("cookie:sid", "c")
    assert sticky_key(exchange((b"X-Session", b" s ")), ask(body), sources) == ("header:x-session", "s")
    assert sticky_key(exchange(), ask({"model": "m", "user": "u", "metadata": []}), sources) == ("body:user", "u")
    assert sticky_key(exchange(), ask({"model": "m", "user": True}), sources) is None
    assert sticky_key(exchange(), ask({"model": "m"}), (("claim:sub", sticky_source("claim:sub")),)) is None


def test_a_sticky_field_that_cannot_be_read_is_told() -> None:
    with pytest.raises(BadAsk, match='"user"'):
        ask(b'{"model": "m", "user": "\xff"}').member("user")


def test_one_conversation_has_one_prompt_key() -> None:
    first = {"model": "m", "messages": [{"role": "system", "content": "s" * 2_000}]}
    later = {"stream": True, "model": "m", "messages": [*first["messages"], {"role": "user", "content": "more"}]}
    other = {"model": "m", "messages": [{"role": "system", "content": "t" * 2_000}]}
    keys = [ask(body).prompt_key() for body in (first, later, other)]
    assert keys[0] == keys[1] != keys[2]
    assert ask({"model": "m"}).prompt_key() is None
