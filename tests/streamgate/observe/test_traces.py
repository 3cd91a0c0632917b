"""W3C Trace Context, to the letter."""

from __future__ import annotations

import json
import re
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.observe.traces import Outgoing, TraceContext, incoming, outgoing
from tests.kit.corpora import corpus

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE, PARENT = "12345678901234567890123456789012", "1234567890123456"
PLAIN = f"00-{TRACE}-{PARENT}-01".encode()
WELL_FORMED = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")


def ones(size_bytes: int) -> bytes:
    return b"\x11" * size_bytes


def tracestate(*values: bytes) -> bytes | None:
    context = incoming([PLAIN], values)
    assert context is not None
    return context.tracestate


# --- in ---------------------------------------------------------------------------------------------------------------


def test_a_context_is_read() -> None:
    context = incoming([PLAIN], [b"a=1"])
    assert context == TraceContext(TRACE, PARENT, 1, b"a=1")
    assert context.sampled


def test_without_a_traceparent_there_is_no_context_whatever_the_tracestate() -> None:
    assert incoming([]) is None
    assert incoming([], [b"a=1"]) is None


def test_two_traceparents_are_none_even_if_equal() -> None:
    assert incoming([PLAIN, PLAIN]) is None


@pytest.mark.parametrize(("given_flags", "known"), [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("ff", 3), ("fc", 0)])
def test_of_the_flags_only_the_known_ones_are_kept(given_flags: str, known: int) -> None:
    context = incoming([f"00-{TRACE}-{PARENT}-{given_flags}".encode()])
    assert context is not None
    assert context.flags == known
    assert context.sampled is bool(known & 1)


@pytest.mark.parametrize(
    "value",
    [
        f"cc-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like",
        f"01-{TRACE}-{PARENT}-01-",
        f" \t00-{TRACE}-{PARENT}-01 ",
    ],
)
def test_a_later_version_is_read_by_what_this_one_knows(value: str) -> None:
    assert incoming([value.encode()]) == TraceContext(TRACE, PARENT, 1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"cc-{TRACE}-{PARENT}-01.",
        f"cc-{TRACE}-{PARENT}-011",
        f"00-{TRACE}-{PARENT}-01x",
        f"00-{TRACE.replace('1', 'A')}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0A",
        f"0A-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01",
    ],
)
def test_a_traceparent_that_is_wrong_in_any_way_is_none(value: str) -> None:
    assert incoming([value.encode()]) is None


@given(st.binary(max_size=60) | st.text("0123456789abcf-", min_size=50, max_size=60).map(str.encode))
def test_any_bytes_give_a_well_formed_context_or_none(value: bytes) -> None:
    context = incoming([value], [value])
    assert WELL_FORMED.fullmatch(outgoing(context, ones).traceparent)


# --- tracestate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "combined"),
    [
        ([b"a=1,b=2"], b"a=1,b=2"),
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b" a=1\t,\t, b=2 ,"], b"a=1,b=2"),
        ([b""], None),
        ([b" , ,", b"\t"], None),
        ([b"a= 1"], b"a= 1"),
        ([b"1a@b/c*d_e-f=!~"], b"1a@b/c*d_e-f=!~"),
        ([b"a=1,b=2,a=3"], b"a=1,b=2"),
        ([b"a=1", b"a=2"], b"a=1"),
        ([b"k" * 256 + b"=1"], b"k" * 256 + b"=1"),
        ([b"k=" + b"v" * 256], b"k=" + b"v" * 256),
        ([b",".join(b"k%d=1" % number for number in range(32))], b",".join(b"k%d=1" % number for number in range(32))),
    ],
)
def test_all_lines_make_one_list(values: list[bytes], combined: bytes | None) -> None:
    assert tracestate(*values) == combined


@pytest.mark.parametrize(
    "values",
    [
        [b"a=1,b"],
        [b"a=1,=2"],
        [b"a=1,b="],
        [b"a=1,B=2"],
        [b"a=1,b =2"],
        [b"a=1,_b=2"],
        [b"a=1,b.c=2"],
        [b"a=1,b=c=d"],
        [b"a=1,b=\xc3\xa9"],
        [b"a=1", b"b=\x1f"],
        [b"a=1," + b"k" * 257 + b"=1"],
        [b"a=1,k=" + b"v" * 257],
        [b",".join(b"k%d=1" % number for number in range(33))],
        [b",".join([b"k=1"] * 33)],
    ],
)
def test_one_that_is_wrong_anywhere_is_dropped_whole_and_alone(values: list[bytes]) -> None:
    assert incoming([PLAIN], values) == TraceContext(TRACE, PARENT, 1, None)


def test_beyond_512_bytes_long_members_go_first_then_those_at_the_end() -> None:
    short = [b"k%02d=" % number + b"v" * 36 for number in range(12)]  # 12 * 40 bytes and 11 commas: 491
    assert tracestate(b",".join(short)) == b",".join(short)
    long = b"long=" + b"v" * 200
    assert tracestate(b",".join([short[0], long, *short[1:]])) == b",".join(short)
    assert tracestate(b",".join([*short, b"k=" + b"v" * 30])) == b",".join(short)
    assert tracestate(b",".join([*short, b"k=" + b"v" * 18])) == b",".join([*short, b"k=" + b"v" * 18])  # 512 exactly
    exact = [*short, b"k=" + b"v" * 18]
    assert tracestate(b",".join([*exact, b"l=1"])) == b",".join(exact)
    assert tracestate(b",".join([long, *exact])) == b",".join(exact)
    edge = b"edge=" + b"v" * 123  # 128 bytes: not long yet, so the rightmost goes
    assert tracestate(b",".join([edge, *short])) == b",".join([edge, *short[:9]])
    over = b"over=" + b"v" * 124
    assert tracestate(b",".join([over, *short])) == b",".join(short)
    rest = [b"k%02d=" % number + b"v" * 96 for number in range(6)]
    assert tracestate(b",".join([long, *rest])) == b",".join(rest[:5])
    assert tracestate(b"k" * 256 + b"=" + b"v" * 256) is None
    left = b"left=" + b"v" * 200
    assert tracestate(b",".join([left, *short[:5], long])) == b",".join([left, *short[:5]])  # one was enough


KEYS = st.from_regex(rb"[a-z0-9][a-z0-9_*/@-]{0,20}", fullmatch=True)
TEXTS = st.from_regex(rb"[ -+\--<>-~]{0,150}[!-+\--<>-~]", fullmatch=True)


@given(st.lists(st.tuples(KEYS, TEXTS), max_size=40), st.integers(0, 40))
def test_what_is_handed_on_came_in_in_that_order_and_fits(members: list[tuple[bytes, bytes]], cut: int) -> None:
    texts = [key + b"=" + value for key, value in members]
    combined = tracestate(b" , ".join(texts[:cut]), b",".join(texts[cut:]))
    if combined is None:
        assert len(texts) > 32 or not texts or all(len(text) > 128 for text in texts)
        return
    kept = combined.split(b",")
    assert len(combined) <= 512
    assert len({text.split(b"=")[0] for text in kept}) == len(kept) <= 32
    rest = iter(texts)
    assert all(any(text == other for other in rest) for text in kept)
    assert tracestate(combined) == combined


# --- out --------------------------------------------------------------------------------------------------------------


def test_a_trace_goes_on_with_our_span_as_parent() -> None:
    context = TraceContext(TRACE, PARENT, 3, b"a=1")
    assert outgoing(context, ones) == Outgoing(
        f"00-{TRACE}-{'11' * 8}-03".encode(), b"a=1", trace_id=TRACE, span_id="11" * 8
    )


def test_a_new_trace_is_random_and_says_so() -> None:
    sent = outgoing(None, lambda size_bytes: bytes(range(1, size_bytes + 1)))
    traceparent, state, trace_id, span_id = sent.traceparent, sent.tracestate, sent.trace_id, sent.span_id
    assert (trace_id, span_id) == ("0102030405060708090a0b0c0d0e0f10", "1112131415161718")
    assert traceparent == f"00-{trace_id}-{span_id}-02".encode()
    assert state is None
    assert outgoing(None, ones, sampled=True).traceparent.endswith(b"-03")


def test_every_hop_has_a_span_of_its_own() -> None:
    chance = Random(3)
    context = TraceContext(TRACE, PARENT, 0)
    spans = {outgoing(context, chance.randbytes).span_id for _ in range(100)}
    assert len(spans) == 100
    assert PARENT not in spans
    assert len({outgoing(None, chance.randbytes).trace_id for _ in range(100)}) == 100


@pytest.mark.parametrize("context", [None, TraceContext(TRACE, PARENT, 0)])
def test_zeros_drawn_by_chance_make_no_invalid_id(context: TraceContext | None) -> None:
    assert WELL_FORMED.fullmatch(outgoing(context, bytes).traceparent)


def test_what_goes_out_comes_in_again() -> None:
    sent = outgoing(TraceContext(TRACE, PARENT, 2, b"a=1"), ones)
    assert sent.tracestate is not None
    assert incoming([sent.traceparent], [sent.tracestate]) == TraceContext(TRACE, sent.span_id, 2, b"a=1")


# --- the words of others ----------------------------------------------------------------------------------------------


def _values(case: dict[str, Any], name: str) -> list[bytes]:
    return [value.encode() for spelled, value in case["headers"] if spelled.lower() == name]


def _holds(check: str, wanted: Any, sent: Outgoing) -> bool:
    trace_id, parent_id, flags = sent.traceparent.decode().split("-")[1:]
    text = (sent.tracestate or b"").decode()
    members = dict(member.split("=", 1) for member in text.split(",") if member)
    verdicts: dict[str, Callable[[], bool]] = {
        "trace_id": lambda: trace_id == wanted,
        "trace_id_not": lambda: trace_id != wanted,
        "parent_id": lambda: parent_id == wanted,
        "parent_id_not": lambda: parent_id != wanted,
        "tracestate_has": lambda: members.get(wanted[0]) == wanted[1],
        "tracestate_key": lambda: wanted in members,
        "tracestate_no_key": lambda: wanted not in members,
        "tracestate_contains": lambda: wanted in text,
        "tracestate_contains_one_of": lambda: any(one in text for one in wanted),
        "tracestate_order": lambda: list(members).index(wanted[0]) < list(members).index(wanted[1]),
        "tracestate_members": lambda: len(members) == wanted,
        "tracestate_dropped": lambda: not text,
        "tracestate_not_empty_text": lambda: sent.tracestate != b"",
        "random_flag": lambda: bool(int(flags, 16) & 2) is wanted,
    }
    return verdicts[check]()


def test_every_case_of_the_w3c_suite() -> None:
    with (corpus("trace-context") / "cases.jsonl").open() as lines:
        cases = [json.loads(line) for line in lines]
    wrong = []
    for case in cases:
        sent = outgoing(incoming(_values(case, "traceparent"), _values(case, "tracestate")), Random(1).randbytes)
        assert WELL_FORMED.fullmatch(sent.traceparent), case["id"]
        wrong += [
            (case["id"], check, wanted)
            for checks in case["checks"]
            for check, wanted in checks.items()
            if not _holds(check, wanted, sent)
        ]
    assert wrong == []
    assert len(cases) >= 55
