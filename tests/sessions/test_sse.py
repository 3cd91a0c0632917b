"""Where event streams end: every recorded one, however it is cut, and none before its end."""

import base64
import json
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.sse import StreamEnd, at_boundary
from streamgate.edge.enter import dialect_of
from streamgate.errors import UpstreamTruncated, in_band
from streamgate.exchange import Dialect
from tests.kit.corpora import corpus

CHAT, LEGACY, MESSAGES, RESPONSES = b"/v1/chat/completions", b"/v1/completions", b"/v1/messages", b"/v1/responses"
PATHS = {Dialect.OPENAI: CHAT, Dialect.ANTHROPIC: MESSAGES, Dialect.RESPONSES: RESPONSES}
LAST = {
    Dialect.OPENAI: b"data: [DONE]",
    Dialect.ANTHROPIC: b"message_stop",
    Dialect.RESPONSES: b"response.completed",
}
REFRAMED = {"anthropic": MESSAGES, "openai.responses": RESPONSES, "azure": RESPONSES}
OTHERS = {"google", "amazon-bedrock", "cohere"}
TRANSLATION = "openai-realtime-speech-translation"
Cut = list[bytes]


class Recorded(NamedTuple):
    name: str
    path: bytes
    body: bytes


def _rows(*names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        for line in (corpus("llm-streams") / name).read_text().splitlines():
            yield json.loads(line)


def recorded() -> list[Recorded]:
    """Every recorded event stream on a path of a dialect; the reframed ones, which have none, on the path they belong to."""
    found = []
    for row in _rows("recorded-a.jsonl", "recorded-b.jsonl"):
        path = row["path"].partition("?")[0].encode()
        if dialect_of(path) is not Dialect.PROBLEM and row["content_type"].startswith("text/event-stream"):
            found.append(Recorded(row["id"], path, row["body"].encode()))
    for row in _rows("reframed-events.jsonl"):
        if row["api"] not in OTHERS and TRANSLATION not in row["id"]:
            path = REFRAMED.get(row["api"], LEGACY if "/completion/" in row["id"] else CHAT)
            found.append(Recorded(row["id"], path, row["body"].encode()))
    return found


def watched(path: bytes, pieces: Iterable[bytes], *, ask_each: bool = False) -> StreamEnd:
    end = StreamEnd(dialect_of(path), path)
    for piece in pieces:
        end.feed(piece)
        if ask_each:
            assert end.complete in {True, False}  # whoever asks makes it look
    return end


def cuts(body: bytes, chance: random.Random) -> Iterator[Cut]:
    """All at once, between CR and LF, inside characters, between events, at random."""
    yield [body]
    yield [part for part in re.split(rb"(?<=\r)(?=\n)", body) if part]
    yield [part for part in re.split(rb"(?<=[\xc2-\xf4])", body) if part]
    yield [part for part in re.split(rb"(?<=\n)(?=\n)", body) if part]
    places = sorted(chance.sample(range(1, len(body)), min(20, len(body) - 1)))
    yield [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]


def singly(body: bytes) -> Cut:
    return [body[at : at + 1] for at in range(len(body))]


# -- recorded streams ------------------------------------------------------------------------------------------------------


def test_every_recorded_stream_is_whole_however_it_is_cut() -> None:
    chance = random.Random(7)
    seen: dict[Dialect, int] = dict.fromkeys(PATHS, 0)
    for one in recorded():
        said = [(end.whole, end.failed) for end in (watched(one.path, cut) for cut in cuts(one.body, chance))]
        assert len(set(said)) == 1, (one.name, said)
        whole, failed = said[0]
        assert whole or failed, one.name
        seen[dialect_of(one.path)] += 1
    assert seen == {Dialect.OPENAI: 124, Dialect.ANTHROPIC: 37, Dialect.RESPONSES: 75}


def test_the_only_recorded_streams_without_their_end_are_those_that_report_an_error() -> None:
    unfinished = [one for one in recorded() if not watched(one.path, [one.body]).whole]
    assert len(unfinished) == 2
    assert all(b"tool_use_failed" in one.body and b"event: error" in one.body for one in unfinished)


@pytest.mark.parametrize("ask_each", [False, True])
def test_the_end_is_found_byte_by_byte(*, ask_each: bool) -> None:
    small = [one for one in recorded() if len(one.body) < 4_000]
    assert len(small) > 40
    for one in small:
        assert watched(one.path, singly(one.body), ask_each=ask_each).whole, one.name


def _end_of(one: Recorded) -> int:
    """Where the terminal event's data line begins, found without the code under test."""
    dialect = dialect_of(one.path)
    events = list(re.finditer(rb"(?:[^\r\n]+(?:\r\n|\n|\r))+", one.body))
    for event in events:
        data = re.search(rb"^data: ?(.*)", event[0], re.MULTILINE)
        if data is None:
            continue
        if dialect is Dialect.OPENAI:
            last = data[1].startswith(b"[DONE]")
        else:
            kind = json.loads(data[1]).get("type", "")
            last = kind in {"message_stop", "response.completed", "response.incomplete", "response.failed"}
        if last:
            return event.start() + data.end()
    raise AssertionError(one.name)


def test_no_prefix_of_a_stream_is_called_complete() -> None:
    chance = random.Random(11)
    for one in recorded():
        if not watched(one.path, [one.body]).complete:
            continue
        end = _end_of(one)
        places = {end - 1, max(1, end - 20), *(chance.randrange(1, end) for _ in range(12))}
        places |= {at for at in range(max(1, end - 60), end) if one.body[at - 1 : at] in {b"\n", b"\r"}}
        for at in places:
            prefix = watched(one.path, [one.body[:at]])
            assert not prefix.complete, (one.name, at, one.body[at - 40 : at])
            assert not prefix.whole or not prefix._owed, (one.name, at)


# -- the rule, case by case ------------------------------------------------------------------------------------------------

STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
DONE = b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{}}}\n\n'

ENDED = [
    (CHAT, b"data: [DONE]\n\n"),
    (CHAT, b"data:[DONE]\n\n"),
    (CHAT, b"data: [DONE]"),
    (CHAT, b"\xef\xbb\xbfdata: [DONE]\r\n\r\n"),
    (CHAT, b'data: {"choices":[]}\r\rdata: [DONE]\r\r'),
    (CHAT, b"data: [DONE]\n\n: and a comment after it"),
    (MESSAGES, STOP),
    (MESSAGES, STOP.replace(b"\n", b"\r\n")),
    (MESSAGES, STOP.replace(b"\n", b"\r")),
    (MESSAGES, STOP[:-1]),
    (MESSAGES, b'data: {"type": "message_stop"}\n\n'),
    (MESSAGES, b'event: message_stop\nid: 7\ndata: {"foo":1,"type":"message_stop"}\n\n'),
    (MESSAGES, b"event: message_stop\n\n" + STOP),
    (RESPONSES, DONE),
    (RESPONSES, b'data: {"id":1}\nevent: response.completed\n\n'),
    (RESPONSES, b'data: {"id":1}\r\nevent: response.completed\r\n\r\n'),
    (RESPONSES, b'data: {"type":"response.incomplete","response":{}}\n\ndata: [DONE]\n\n'),
    (RESPONSES, b'event: response.failed\ndata: {"sequence_number":4,"type":"response.failed"}\n\n'),
]
NOT_ENDED = [
    (CHAT, b""),
    (CHAT, b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n'),
    (CHAT, b'data: {"choices":[{"delta":{"content":"\\n\\ndata: [DONE]\\n\\n"}}]}\n\n'),
    (CHAT, b": data: [DONE]\n\n"),
    (CHAT, b"event: [DONE]\n\n"),
    (CHAT, b"data:  [DONE]\n\n"),
    (CHAT, b"data: [DONE\n\n"),
    (CHAT, b'data: {"value":"x"}\n\n'),
    (CHAT, b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'),
    (CHAT, STOP),
    (MESSAGES, b"event: message_stop\n"),
    (MESSAGES, b"event: message_stop\n\n"),
    (MESSAGES, b"event: message_stop\ndata: {"),
    (MESSAGES, b'event: message_stopped\ndata: {"type":"message_stopped"}\n\n'),
    (
        MESSAGES,
        b'data: {"type":"content_block_delta","delta":{"text":"event: message_stop\\ndata: {\\"type\\":\\"message_stop\\"}"}}\n\n',
    ),
    (MESSAGES, b"data: [DONE]\n\n"),
    (RESPONSES, b"event: response.completed\n"),
    (RESPONSES, b'data: {"id":1}\r\nevent: response.completed\r\n'),
    (RESPONSES, b'event: response.completed\ndata: {"type":"response.completed","response":{}'),
    (RESPONSES, b'data: {"type":"response.output_text.delta","delta":"event: response.completed"}\n\n'),
    (RESPONSES, b'event: response.content_part.done\ndata: {"type":"response.content_part.done"}\n\n'),
    (RESPONSES, b"data: [DONE]\n\n"),
]


@pytest.mark.parametrize(("path", "body"), ENDED)
def test_an_end_is_an_end(path: bytes, body: bytes) -> None:
    assert watched(path, [body]).complete
    assert watched(path, singly(body)).complete
    assert watched(path, singly(body), ask_each=True).complete


@pytest.mark.parametrize(("path", "body"), NOT_ENDED)
def test_what_only_looks_like_an_end_is_none(path: bytes, body: bytes) -> None:
    for pieces in ([body], singly(body)):
        end = watched(path, pieces)
        assert not end.complete
        assert not end.whole


def test_an_end_stays_one_whatever_follows() -> None:
    end = watched(CHAT, [b"data: [DONE]\n\n"])
    for piece in (b"data: {", b'"x":', b"1}", *[b": x\n\n"] * 40):
        end.feed(piece)
        assert end.complete


def test_a_long_last_event_is_complete_with_its_last_byte_alone() -> None:
    head, text = b'event: response.completed\ndata: {"type":"response.completed","output":"', b"\xe2\x82\xac" * 5_000
    end = watched(RESPONSES, [head, *(text[at : at + 7] for at in range(0, len(text), 7)), b'"}'])
    assert not end.complete
    end.feed(b"\r")
    assert end.complete


def test_little_of_a_stream_is_held() -> None:
    end = watched(CHAT, [])
    for _ in range(2_000):
        end.feed(b'data: {"choices":[]}\n\n')
        assert len(end._seen) <= 17
    end.feed(bytes(100_000))
    assert sum(map(len, end._seen)) + len(end._tail) < 1_000


# -- streams that owe no end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [LEGACY, b"/v1/audio/transcriptions", b"/v1/images/generations"])
def test_another_shape_on_a_path_of_many_owes_no_end(path: bytes) -> None:
    body = b'data: {"type":"transcript.text.delta","delta":"a"}\n\ndata: {"type":"transcript.text.done"}\n\n'
    end = watched(path, [body])
    assert end.whole
    assert not end.complete
    assert not watched(path, [body[:-1]]).whole, "its last event did not end"
    assert not watched(path, [b": only a comment\n\n"]).whole
    assert not watched(path, []).whole


def test_once_it_has_shown_choices_it_owes_the_end() -> None:
    choices = b'data: {"id":"c","choices":[{"text":"a"}]}\n\n'
    assert not watched(LEGACY, [choices]).whole
    assert not watched(LEGACY, singly(choices)).whole
    assert watched(LEGACY, [choices, b"data: [DONE]\n\n"]).whole


# -- the provider's own errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'data: {"error":{"message":"overloaded"}}\n\n'),
        (CHAT, b'data: {"error": "out of memory"}\n\n'),
        (CHAT, b'event: error\r\ndata: {"message":"x"}\r\n\r\n'),
        (MESSAGES, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'),
        (MESSAGES, b'data: {"type":"error","error":{}}\n\n'),
        (RESPONSES, b'event: error\ndata: {"type":"error","code":"server_error"}\n\n'),
    ],
)
def test_an_error_of_the_provider_is_noticed(path: bytes, body: bytes) -> None:
    assert watched(path, [body]).failed
    assert watched(path, singly(body)).failed


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"choices":[{"delta":{"content":"event: error"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"{\\"error\\":{}}"}}]}\n\n',
        b'data: {"error":null,"choices":[]}\n\n',
        b"event: errors\ndata: {}\n\n",
        b": error\n\n",
    ],
)
def test_talk_of_errors_is_no_error(body: bytes) -> None:
    assert not watched(CHAT, [body]).failed
    assert not watched(CHAT, singly(body)).failed


# -- boundaries, judged by the standard's own grammar ----------------------------------------------------------------------


def events(stream: bytes) -> list[tuple[str, str]]:
    """(type, data) of every event a decoder dispatches, by the standard's own steps."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    found, kind, data = [], "", None
    lines = re.split(r"\r\n|\n|\r", text)
    for line in lines[:-1]:  # a line without its end is none
        if not line:
            if data is not None:
                found.append((kind or "message", data))
            kind, data = "", None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data = value if data is None else f"{data}\n{value}"
    return found


def test_our_grammar_is_the_browsers() -> None:
    cases = [json.loads(line) for line in (corpus("sse-format") / "cases.jsonl").read_text().splitlines()]
    assert len(cases) == 49
    for case in cases:
        wanted = [(event["type"], event["data"]) for event in case["events"]]
        assert events(base64.b64decode(case["stream_b64"])) == wanted, case["id"]


def _appended(stream: bytes) -> None:
    ours = in_band(UpstreamTruncated(), Dialect.PROBLEM, b"r-1")
    (said,) = events(ours)
    if at_boundary((b"\n\n" + stream)[-4:]):
        assert events(stream + ours) == [*events(stream), said]
    else:
        assert events(stream + b"\n\n" + ours)[-1] == said


def test_our_error_is_read_after_any_stream_of_the_format_corpus() -> None:
    for line in (corpus("sse-format") / "cases.jsonl").read_text().splitlines():
        stream = base64.b64decode(json.loads(line)["stream_b64"])
        for at in range(max(0, len(stream) - 30), len(stream) + 1):
            _appended(stream[:at])


@settings(max_examples=500)
@given(st.lists(st.sampled_from([b"\r", b"\n", b"data: x", b"id: 1", b": c", b"event: e", b"da", b"\xe2", b"\xef\xbb\xbf"])))
def test_our_error_is_read_after_any_bytes(parts: list[bytes]) -> None:
    _appended(b"".join(parts))


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from([b"\r", b"\n", b"data: [DONE]", b"event: message_stop", b'data: {"type":"message_stop"}', b"x"]),
        max_size=8,
    ),
    st.data(),
)
def test_what_is_found_does_not_depend_on_the_cuts(parts: list[bytes], data: st.DataObject) -> None:
    body = b"".join(parts)
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]
    for path in (CHAT, MESSAGES):
        one, other = watched(path, [body]), watched(path, pieces, ask_each=True)
        assert (one.complete, one.failed, one.at_boundary) == (other.complete, other.failed, other.at_boundary)
