"""One stream taken apart, however it is cut: each part is what its member would have got alone."""

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.batch_answers import CannotSplit
from sessions.batch_asks import Ask, ask_of, merged_body
from sessions.batch_streams import EVENT_BYTES_MAX, StreamSplit
from streamgate.demo.ask import read_ask
from streamgate.demo.dialects import spoken
from tests.kit.corpora import corpus


def ask(*prompts: str, **more: Any) -> Ask:
    body = {"model": "m", "prompt": list(prompts), "stream": True, **more}
    one = ask_of(b"/v1/completions", json.dumps(body).encode(), max_items=99, max_bytes=9_999)
    assert one is not None
    return one


def told(splitter: StreamSplit, pieces: Iterable[bytes], members: int) -> list[bytes]:
    got = [b""] * members
    for piece in pieces:
        for whose, part in splitter.feed(piece):
            got[whose] += part
    for whose, part in splitter.finish():
        got[whose] += part
    return got


def two(*, usage: bool = False) -> StreamSplit:
    return StreamSplit([ask("a"), ask("b")], usage=usage)


def singly(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


# -- twins -----------------------------------------------------------------------------------------------------------------


class Upstream:
    """How some server writes its events: the style is the same whatever is asked."""

    def __init__(self, eol: str, style: dict[str, Any], *, named: bool, usage: bool) -> None:
        self.eol, self.style, self.named, self.usage = eol, style, named, usage

    def event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        body = {"id": "cmpl-1", "choices": choices, "model": "m", **more}
        lines = [f"data: {json.dumps(body, **self.style)}"]
        if self.named:
            lines = ["event: completion", *lines, "id: 7"]
        return self.eol.join([*lines, "", ""])

    def choice(self, index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}

    def end(self, asked: int, generated: int) -> str:
        used = {"prompt_tokens": asked, "completion_tokens": generated, "total_tokens": asked + generated}
        return (self.event([], usage=used) if self.usage else "") + f"data: [DONE]{self.eol}{self.eol}"

    def alone(self, weight: int, texts: list[list[str]], order: list[tuple[int, bool]]) -> bytes:
        """A member's own stream, its choices in the order in which the batch had them."""
        return self.stream(weight, texts, [[one] for one in order])

    def stream(self, weight: int, texts: list[list[str]], order: list[list[tuple[int, bool]]]) -> bytes:
        """``order``: the events, each the inputs it has a choice of, and whether that is the input's last."""
        taken = [iter(own) for own in texts]
        events = [
            self.event([self.choice(at, "", "stop") if last else self.choice(at, next(taken[at])) for at, last in event])
            for event in order
        ]
        return ("".join(events) + self.end(weight, sum(map(len, texts)))).encode()


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[int], list[list[str]], list[list[tuple[int, bool]]]]:
    """(inputs of each member, texts of each input, events of the batch): one choice an event, or one choice of several inputs."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=5))
    word = st.text('ab \n"\\\u00e9\U0001f600', min_size=1, max_size=4) | st.just('data: [DONE]\n\n"index": 9')
    texts = draw(st.lists(st.lists(word, max_size=4), min_size=sum(sizes), max_size=sum(sizes)))
    left = {at: len(own) for at, own in enumerate(texts)}
    order: list[list[tuple[int, bool]]] = []
    while left:
        chosen = draw(st.lists(st.sampled_from(sorted(left)), min_size=1, max_size=3, unique=True))
        order.append([])
        for at in chosen:
            order[-1].append((at, not left[at]))
            if left[at]:
                left[at] -= 1
            else:
                del left[at]
    return sizes, texts, order


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    how = draw(st.sampled_from(["whole", "singly", "anywhere", "lines"]))
    if how == "singly":
        return singly(stream)
    if how == "lines":
        return stream.splitlines(keepends=True)
    places = sorted(draw(st.sets(st.integers(1, len(stream) - 1), max_size=12))) if how == "anywhere" else []
    return [stream[start:stop] for start, stop in zip([0, *places], [*places, len(stream)], strict=True)]


STYLES = st.sampled_from([{}, {"separators": (",", ":")}, {"ensure_ascii": False}])


@given(conversations(), st.sampled_from(["\n", "\r\n", "\r"]), STYLES, st.booleans(), st.booleans(), st.data())
def test_each_gets_to_the_byte_what_it_would_have_got_alone(
    conversation: tuple[list[int], list[list[str]], list[list[tuple[int, bool]]]],
    eol: str, style: dict[str, Any], named: bool, usage: bool, data: st.DataObject,
) -> None:  # fmt: skip
    sizes, texts, order = conversation
    server = Upstream(eol, style, named=named, usage=usage)
    asks = [ask(*(f"{whose}" * (whose + 1) for _ in range(size))) for whose, size in enumerate(sizes)]
    stream = server.stream(sum(one.weight for one in asks), texts, order)
    got = told(StreamSplit(asks, usage=usage), data.draw(cut(stream)), len(asks))
    first = 0
    for whose, (one, size) in enumerate(zip(asks, sizes, strict=True)):
        own = range(first, first + size)
        events = [[(at - first, last) for at, last in event if at in own] for event in order]
        alone = server.stream(one.weight, texts[first : first + size], [event for event in events if event])
        if usage:  # its numbers are the same, its spaces are ours
            assert read(got[whose]) == read(alone)
        else:
            assert got[whose] == alone
        first += size


def read(stream: bytes) -> list[Any]:
    values = [
        line[6:] for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n") if line.startswith(b"data: ")
    ]
    return [value if value == b"[DONE]" else json.loads(value) for value in values]


@pytest.mark.parametrize("usage", [False, True])
def test_the_scripted_models_streams_are_their_twins(usage: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if usage else {}
    asks = [ask("one word", **more), ask("two more", **more), ask("six more", "ten more", **more)]

    def stream(body: bytes) -> bytes:
        spoken_by = spoken("/v1/completions", read_ask(body), 3, 6)
        events = [
            *spoken_by.opening(),
            *(one for at in range(spoken_by.length()) for one in [*spoken_by.token(at), spoken_by.ping()]),
        ]
        return b"".join(event.encode() for event in [*events, *spoken_by.closing()])

    batched = stream(merged_body(asks))
    for pieces in ([batched], singly(batched)):
        got = told(StreamSplit(asks, usage=usage), pieces, 3)
        for one, own in zip(asks, got, strict=True):
            assert read(own) == read(stream(one.body))
            assert own.count(b": ping\n") == 6


def test_recorded_completions_put_together_come_apart_again() -> None:
    """Every recorded stream of a real server, as several members' at once, however it is cut."""
    chance = random.Random(5)
    seen = 0
    for line in (corpus("llm-streams") / "recorded-b.jsonl").read_text().splitlines():
        row = json.loads(line)
        body = row.get("body", "").encode()
        if row["api"] != "openai.completions" or b'"choices"' not in body or b'"choices":[{"delta"' in body:
            continue
        events = body.split(b"\n\n")[:-2]  # without the last, which is [DONE]
        streams = [[event.replace(b'"index":0', b'"index":%d' % at) for event in events] for at in range(3)]
        waiting = [list(own) for own in streams]
        together = b""
        while any(waiting):
            own = chance.choice([own for own in waiting if own])
            together += own.pop(0) + b"\n\n"
        together += b"data: [DONE]\n\n"
        for pieces in ([together], [together[at : at + 100] for at in range(0, len(together), 100)]):
            assert told(StreamSplit([ask("a"), ask("b"), ask("c")], usage=False), pieces, 3) == [body] * 3
        seen += 1
    assert seen > 5


# -- case by case ----------------------------------------------------------------------------------------------------------


def event(*choices: tuple[int, str | None], **more: Any) -> bytes:
    body = {"choices": [{"index": index, "text": "x", "finish_reason": finish} for index, finish in choices], **more}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def test_who_has_all_its_choices_need_not_wait_for_the_others() -> None:
    splitter = StreamSplit([ask("a", "b"), ask("c")], usage=False)
    assert splitter.feed(event((1, "stop"))) == [(0, event((1, "stop")))]
    assert not splitter.has_ended(0)
    assert splitter.feed(event((0, "length"))) == [(0, event((0, "length"))), (0, DONE)]
    assert splitter.has_ended(0)
    assert not splitter.has_ended(1)
    assert splitter.feed(b": ping\n\n") == [(1, b": ping\n\n")]
    assert splitter.feed(event((0, None))) == splitter.feed(event((0, None), (1, "stop"))) == []  # nobody's any more
    assert splitter.feed(event((2, None)) + DONE) == [(1, event((0, None))), (1, DONE)]
    assert splitter.has_ended(1)
    assert splitter.feed(DONE + b": ping\n\n") == []


def test_a_choice_that_ends_twice_has_ended_once() -> None:
    splitter = StreamSplit([ask("a", "b"), ask("c")], usage=False)
    splitter.feed(event((0, "stop")) * 2)
    assert not splitter.has_ended(0)
    splitter.feed(event((1, "stop")))
    assert splitter.has_ended(0)


def test_where_usage_is_to_come_everybody_waits_for_it() -> None:
    splitter = two(usage=True)
    assert splitter.feed(event((0, "stop"))) == [(0, event((0, "stop")))]
    parts = splitter.feed(event((1, "stop")) + event(usage={"prompt_tokens": 6, "completion_tokens": 4}) + DONE)
    used = event(usage={"prompt_tokens": 3, "completion_tokens": 2})
    assert parts == [(1, event((0, "stop"))), (0, used), (1, used), (0, DONE), (1, DONE)]


def test_what_is_generated_is_counted_by_the_events_that_brought_text() -> None:
    splitter = two(usage=True)
    splitter.feed(event((0, None)) * 3 + event((1, None)) + event((0, None), (1, None)))
    splitter.feed(b'data: {"choices":[{"index":1,"text":"","finish_reason":"stop"}]}\n\n')
    parts = splitter.feed(event(usage={"completion_tokens": 60}))
    assert [json.loads(part[6:])["usage"] for _, part in parts] == [{"completion_tokens": 40}, {"completion_tokens": 20}]


def test_usage_beside_one_choice_is_its_own_and_beside_several_their_sum() -> None:
    assert two().feed(event((1, None), usage={"prompt_tokens": 9})) == [(1, event((0, None), usage={"prompt_tokens": 9}))]
    parts = two().feed(event((1, None), (0, None), usage={"prompt_tokens": 9}))
    assert parts == [(1, event((0, None), usage={"prompt_tokens": 5})), (0, event((0, None), usage={"prompt_tokens": 4}))]


def test_an_event_that_a_plain_look_cannot_tell_is_read() -> None:
    tricky = b'data: { "index":7, "choices" : [ {"x":{"index":5}, "text":"\\u00e9", "index" : 1} ] }\r\n\r\n'
    assert two().feed(tricky) == [(1, tricky.replace(b'"index" : 1', b'"index" : 0'))]


@pytest.mark.parametrize(
    "data",
    [
        b'data:{"choices":[{"index":1}]}\n\n',
        b'\xef\xbb\xbfdata: {"choices":[{"index":1}]}\n\n',
        b'event: x\nid: 3\ndata: {"choices":[{"index":1}]}\nretry: 5\n\n',
    ],
)
def test_other_fields_and_forms_stay(data: bytes) -> None:
    assert two().feed(data) == [(1, data.replace(b":1}", b":0}"))]


def test_a_value_over_several_lines_becomes_one() -> None:
    assert two().feed(b'data: {"choices":\ndata: [{"index":\ndata:1}]}\nid: 1\n\n') == [
        (1, b'data: {"choices": [{"index": 0}]}\nid: 1\n\n')
    ]


@pytest.mark.parametrize(
    "data", [b": ping\n\n", b"\n\n", b"retry: 5\n\n", b"event: ping\n\n", b"data\n\n", b"data:\n\n", b"data: \ndata:\n\n"]
)
def test_what_has_no_data_is_everybodys(data: bytes) -> None:
    assert two().feed(data) == [(0, data), (1, data)]


def test_the_null_before_several_prompts_is_nobodys() -> None:
    assert two().feed(b"data: null\n\n") == []


def test_an_event_is_not_held_back_for_a_byte_it_does_not_need() -> None:
    for eol in (b"\n\n", b"\r\n\r\n", b"\n\r\n"):
        assert two().feed(b'data: {"choices":[{"index":0}]}' + eol)


def test_a_lone_cr_may_be_half_of_a_line_end() -> None:
    splitter = two()
    first = b'data: {"choices":[{"index":0}]}\r\n\r'
    assert splitter.feed(first) == []
    assert splitter.feed(b"\n") == [(0, first + b"\n")]


@pytest.mark.parametrize("rest", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n\r"])
def test_a_last_event_without_its_empty_line_counts(rest: bytes) -> None:
    splitter = two()
    assert splitter.feed(rest) == []
    assert splitter.finish() == [(0, rest), (1, rest)]
    assert splitter.has_ended(0)


def test_the_end_that_is_written_for_one_is_an_event_of_its_own() -> None:
    splitter = two()
    splitter.feed(b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n')
    assert (
        b"".join(part for _, part in splitter.finish())
        == b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n\ndata: [DONE]\n\n'
    )
    splitter = two()
    crlf = b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\r\nid: 2\r\n\r\n'
    assert splitter.feed(crlf) == [(0, crlf), (0, b"data: [DONE]\r\n\r\n")]


@pytest.mark.parametrize("rest", [b'data: {"choices":[{"ind', b"data: [DO", b"da"])
def test_a_part_of_an_event_is_not_an_event(rest: bytes) -> None:
    splitter = two()
    splitter.feed(rest)
    assert [part for _, part in splitter.finish() if part.startswith(b"data")] == []
    assert not splitter.has_ended(0)


ERRORS = [
    b'data: {"error":{"message":"no"}}\n\n',
    b"event: error\ndata: no\n\n",
    b'event:error\r\ndata: {"message":"no"}\r\n\r\n',
]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_everybodys_who_has_not_ended(error: bytes) -> None:
    splitter = StreamSplit([ask("a"), ask("b"), ask("c")], usage=False)
    splitter.feed(event((0, "stop")))
    assert splitter.feed(error) == [(1, error), (2, error)]
    assert [splitter.has_begun(whose) for whose in range(3)] == [True, False, False]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_before_anything_else_is_looked_for_one_by_one(error: bytes) -> None:
    with pytest.raises(CannotSplit):
        two().feed(b": ping\n\ndata: null\n\n" + error)


UNKNOWN = [
    b'{"value":"secret"}',
    b'{"choices":[]}',
    b'{"choices":null,"usage":null}',
    b'{"choices":[{"text":"x"}]}',
    b'{"choices":[{"delta":{},"finish_reason":"stop"}]}',
    b'{"choices":[{"index":2}]}',
    b'{"choices":[{"index":-1}]}',
    b'{"choices":[{"index":"0"}]}',
    b'{"choices":[{"index":0},{"index":2}]}',
    b'{"choices":[{"index":0}]',
    b'{"choices":[{"index":0}],"choices":[{"index":1}],"x":{"index":0}}',
    b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
    b'{"choices":[{"index":0}],"prompt_filter_results":[{"prompt_index":1}]}',
    b'"secret"',
    b"secret",
    b"[1]",
    b'{"choices":[{"index":0,"text":"\xff"}]}',
    b'{"choices":' + b"[" * 100_000 + b"]",
]


@pytest.mark.parametrize("data", UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_might_be_one_members_is_not_given_to_another(data: bytes) -> None:
    splitter = two()
    splitter.feed(event((0, None)))
    with pytest.raises(CannotSplit):
        splitter.feed(b"data: " + data + b"\n\n")


def test_an_event_without_end_is_not_kept() -> None:
    splitter = two()
    assert splitter.feed(b"data: " + b"x" * (EVENT_BYTES_MAX - 6)) == []
    with pytest.raises(CannotSplit):
        splitter.feed(b"x")


def test_a_large_event_in_small_pieces_is_looked_through_once() -> None:
    class Counted(bytes):
        looked = 0

        def find(self, *where: Any) -> int:
            Counted.looked += len(self) - (where[1] if len(where) > 1 else 0)
            return super().find(*where)

        def __add__(self, other: bytes) -> "Counted":
            return Counted(bytes(self) + other)

        def __getitem__(self, where: Any) -> Any:
            return Counted(super().__getitem__(where))

    splitter = two()
    splitter._rest = Counted(b"data: ")
    for _ in range(500):
        splitter.feed(b"x" * 100)
    assert Counted.looked < 10 * 50_000
