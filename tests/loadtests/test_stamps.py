import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from loadtests import stamps

EVENT = stamps.template(200)


def payload(chunk: bytes) -> bytes:
    size, _, rest = chunk.partition(b"\r\n")
    body, end = rest[: int(size, 16)], rest[int(size, 16) :]
    assert end == b"\r\n"
    return body


def test_a_chunk_has_the_size_asked_for_and_says_so() -> None:
    for size in (stamps.SMALLEST, 200, 500):
        assert len(payload(stamps.template(size) % 1)) == size
    assert len(payload(stamps.template(1) % 1)) == stamps.SMALLEST


def test_an_event_is_what_openai_clients_read() -> None:
    event = payload(EVENT % 123)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:])["choices"][0]["delta"]["content"].startswith("t=0000000000000000123")


@given(
    st.lists(st.integers(min_value=0, max_value=10**19 - 1), min_size=1, max_size=20),
    st.lists(st.integers(min_value=0, max_value=5000), max_size=30),
)
def test_every_stamp_is_found_once_however_the_bytes_are_cut(sent: list[int], cuts: list[int]) -> None:
    data = b"".join(payload(EVENT % stamp) for stamp in sent) + stamps.STOP + stamps.DONE
    reader = stamps.Reader()
    found: list[bytes] = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += reader.stamps(data[start:end])
    assert [int(stamp) for stamp in found] == sent
    assert reader.done


def test_a_stream_without_its_end_is_not_done() -> None:
    reader = stamps.Reader()
    assert reader.stamps(payload(EVENT % 1)) == [b"%019d" % 1]
    assert not reader.done
