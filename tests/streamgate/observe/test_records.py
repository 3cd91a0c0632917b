"""Records: one line each, no content in them, and never in the way."""

import fcntl
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.errors import UpstreamReset
from streamgate.exchange import Exchange, State, Terminal
from streamgate.observe.records import QUEUE_RECORDS, Record, Records, masked, record_of
from tests.kit.wait import eventually

FIELDS = {
    "ts", "event", "request_id", "trace_id", "span_id", "route", "service", "endpoint", "method", "path", "status", "state",
    "fault", "note", "attempts", "bytes_in", "bytes_out", "duration_ms", "ttft_ms", "drained_bytes", "client", "config",
}  # fmt: skip
SECRET = b"hunter2"


def exchange() -> Exchange:
    """One with a secret wherever a client can put one."""
    made = Exchange(
        method=b"POST", path=b"/v1/" + SECRET, query=b"key=" + SECRET, host=SECRET + b".example",
        headers=[(b"Authorization", b"Bearer " + SECRET), (b"Cookie", SECRET)], http10=False, started_at=10.0,
        named={b"x-forwarded-for": [SECRET]},
    )  # fmt: skip
    made.request_id = b"r-1"
    made.trace_id, made.span_id = "t" * 32, "s" * 16
    made.tracestate = SECRET
    made.service, made.endpoint = "model-a", "10.0.0.1:9001"
    made.client_address = made.peer_address = "192.0.2.77"
    made.attempts = 2
    return made


def record(**changes: Any) -> Record:
    one = exchange()
    for name, value in changes.items():
        setattr(one, name, value)
    return record_of(one, ts="2025-01-01T00:00:00.000Z", route="llm", pattern="/v1/*", now=12.5, config=3)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "records.jsonl"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    yield path, fd
    os.close(fd)


# -- what is in a record ---------------------------------------------------------------------------------------------------


def test_its_fields_are_an_allow_list() -> None:
    assert set(Record.__struct_fields__) == FIELDS


def test_secrets_and_content_cannot_get_in(file: tuple[Path, int]) -> None:
    path, fd = file
    records = Records(fd)
    one = exchange()
    one.end(Terminal.UPSTREAM_ERROR, UpstreamReset("Bearer hunter2 was refused", note="closed before the head"))
    records.add(record_of(one, ts="t", route="llm", pattern="/v1/*", now=12.5, config=3))
    records.close()
    text = path.read_text()
    assert SECRET.decode() not in text
    assert "192.0.2.77" not in text, "no whole address of a client"
    (found,) = lines(path)
    assert set(found) == FIELDS
    assert (found["path"], found["fault"], found["note"]) == ("/v1/*", "upstream_reset", "closed before the head")


def test_what_it_says() -> None:
    one = exchange()
    one.status, one.bytes_in, one.bytes_out, one.first_byte_at = 200, 7, 99, 10.25
    one.end(Terminal.COMPLETE)
    found = record_of(one, ts="now", route="llm", pattern="/v1/*", now=12.5, config=3, drained_bytes=5)
    assert (found.event, found.ts, found.route, found.method) == ("exchange", "now", "llm", "POST")
    assert (found.status, found.state, found.fault, found.note) == (200, "complete", None, None)
    assert (found.bytes_in, found.bytes_out, found.attempts, found.config) == (7, 99, 2, 3)
    assert (found.duration_ms, found.ttft_ms, found.drained_bytes) == (2500.0, 250.0, 5)
    assert (found.service, found.endpoint, found.client) == ("model-a", "10.0.0.1:9001", "192.0.2.0/24")


def test_what_never_came_is_null() -> None:
    found = record(state=State.NEW)
    assert (found.state, found.ttft_ms, found.drained_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("255.255.255.255", "255.255.255.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("2001:db8::5", "2001:db8::/48"),
        ("::1", "::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("", ""),
        ("unix", ""),
        ("hunter2:8080", ""),
    ],
)
def test_addresses_are_networks(address: str, network: str) -> None:
    assert masked(address) == network


@given(st.ip_addresses())
def test_no_host_is_left_in_a_network(address: Any) -> None:
    network = masked(str(address)).partition("/")[0]
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is None:
        host_bits = 8 if address.version == 4 else 80
        assert int(type(address)(network)) & ((1 << host_bits) - 1) == 0


# -- how they are written --------------------------------------------------------------------------------------------------


async def test_they_are_written_in_order_a_line_each(file: tuple[Path, int]) -> None:
    path, fd = file
    records = Records(fd)
    for number in range(2_000):
        records.add(record(request_id=b"%d" % number))
    await eventually(lambda: records.written == 2_000)
    assert [line["request_id"] for line in lines(path)] == [str(number) for number in range(2_000)]
    records.close()
    assert records.dropped == 0


def test_closing_writes_what_waits(file: tuple[Path, int]) -> None:
    path, fd = file
    records = Records(fd)
    for _ in range(1_500):
        records.add(record())
    records.close()
    assert len(lines(path)) == records.written == 1_500
    records.close()


def test_off_swallows_them() -> None:
    records = Records(None)
    records.add(record())
    records.close()
    assert (records.written, records.dropped) == (0, 0)


async def test_a_full_pipe_holds_nobody_up_and_costs_no_more_than_its_queue() -> None:
    reading, writing = os.pipe()
    records = Records(writing)
    try:
        for _ in range(QUEUE_RECORDS * 2):
            records.add(record())
        assert records.dropped > 0
        assert records.dropped + QUEUE_RECORDS + 2_000 >= QUEUE_RECORDS * 2
        taken = b""
        while records.written + records.dropped < QUEUE_RECORDS * 2:
            taken += os.read(reading, 1 << 20)
        assert all(json.loads(line) for line in taken.splitlines()[:-1])
    finally:
        records.close(0.1)
        os.close(reading)
        os.close(writing)


def test_a_pipe_nobody_reads_does_not_hold_up_the_end() -> None:
    reading, writing = os.pipe()
    records = Records(writing)
    for _ in range(2_000):
        records.add(record())
    closing = threading.Thread(target=records.close, args=(0.2,))
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    os.close(reading)


async def test_a_pipe_that_was_closed_stays_closed() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert signal.getsignal(signal.SIGPIPE) in {signal.SIG_IGN, signal.Handlers.SIG_IGN}
    records = Records(writing)
    records.add(record())
    await eventually(lambda: records.dropped == 1)
    records.add(record())
    assert records.dropped == 2
    records.close()
    assert records.written == 0
    os.close(writing)


async def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    """Whoever shares our standard output may have made it so."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    os.set_blocking(writing, False)
    records = Records(writing)
    try:
        for number in range(200):
            records.add(record(request_id=b"%d" % number))
        taken = b""
        while taken.count(b"\n") < 200:
            taken += os.read(reading, 1 << 16)
        assert [json.loads(line)["request_id"] for line in taken.splitlines()] == [str(number) for number in range(200)]
        assert records.dropped == 0
    finally:
        records.close()
        os.close(reading)
        os.close(writing)


def test_a_pipe_that_does_not_block_does_not_hold_up_the_end() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    os.set_blocking(writing, False)
    records = Records(writing)
    for _ in range(200):
        records.add(record())
    records.close(0.2)
    records._thread.join(10)
    assert not records._thread.is_alive()
    assert records.dropped == 200
    os.close(reading)
    os.close(writing)


async def test_a_disk_that_was_full_is_written_on_a_new_line_when_it_has_room(file: tuple[Path, int]) -> None:
    """A limit on the file's size stands for the disk: both take a part of a line and then nothing."""
    path, fd = file
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    records = Records(fd)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
        for number in range(3):
            records.add(record(request_id=b"early-%d" % number))
        await eventually(lambda: records.dropped == 3)
        assert path.stat().st_size == 700
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        records.add(record(request_id=b"late"))
        await eventually(lambda: records.written == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        records.close()
    *_, torn, last = path.read_text().splitlines()
    assert json.loads(last)["request_id"] == "late"
    with pytest.raises(ValueError, match="delimiter|Expecting|Unterminated"):
        json.loads(torn)


def test_what_became_of_them_is_a_metric(file: tuple[Path, int]) -> None:
    _, fd = file
    records = Records(fd)
    records.add(record())
    records.close()
    (family,) = records.families()
    assert family.name == "streamgate_records"
    assert {sample.labels: sample.value for sample in family.samples} == {("written",): 1, ("dropped",): 0}


def test_a_descriptor_that_is_none_is_no_reason_to_fall() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    records = Records(writing)
    records.add(record())
    records.close()
    assert (records.written, records.dropped) == (0, 1)


async def test_a_disk_that_stays_full_for_a_while_glues_no_lines_together(file: tuple[Path, int]) -> None:
    path, fd = file
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    records = Records(fd)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        for number in (1, 2):  # a part of the first fits, of the second nothing
            records.add(record(request_id=b"early"))
            await eventually(lambda number=number: records.dropped == number)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        records.add(record(request_id=b"late"))
        await eventually(lambda: records.written == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        records.close()
    torn, last = path.read_text().splitlines()
    assert len(torn) == 100
    assert json.loads(last)["request_id"] == "late"


def test_two_writers_of_one_pipe_do_not_tear_each_other_s_lines() -> None:
    """As workers that share their stdout do, while whoever reads it is slow and the pipe is full most of the time."""
    reading, writing = os.pipe()
    writers = [Records(writing, shared=True) for _ in range(2)]
    for number in range(3000):
        for index, records in enumerate(writers):
            records.add(record(request_id=f"{index}-{number}".encode(), service="x" * (number % 400)))
    seen = b""
    while seen.count(b"\n") < 6000:
        piece = os.read(reading, 3000)
        assert piece
        seen += piece
    for records in writers:
        records.close()
    os.close(writing)
    os.close(reading)
    by_writer: dict[str, list[int]] = {"0": [], "1": []}
    for line in seen.splitlines():
        index, _, number = json.loads(line)["request_id"].partition("-")
        by_writer[index].append(int(number))
    assert by_writer == {"0": list(range(3000)), "1": list(range(3000))}
