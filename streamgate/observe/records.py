"""One structured record per exchange, written once at its end: JSON lines with identifiers, times and sizes, no content.

Writing fails open: records wait in a bounded queue for a thread of their own, so that a full pipe or disk never holds up an
exchange; what does not fit is dropped and counted. Fields are an allow-list: no query, header, body or full client address
can reach a record, because there is no field for it.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

import msgspec

from streamgate.exchange import Exchange
from streamgate.observe.metrics import Family, Sample
from streamgate.prompt import Prompt

QUEUE_RECORDS: Final = 20_000
FLUSH_S: Final = 0.05
_GONE: Final = frozenset({errno.EPIPE, errno.EBADF, errno.ECONNRESET})


class Record(msgspec.Struct, omit_defaults=False):
    """What one exchange left behind. Times in milliseconds; ``ttft_ms`` from the head to the first body byte."""

    ts: str
    event: str
    request_id: str
    trace_id: str
    span_id: str
    route: str
    service: str | None
    endpoint: str | None
    method: str
    path: str
    status: int
    state: str | None
    fault: str | None
    note: str | None
    attempts: int
    bytes_in: int
    bytes_out: int
    duration_ms: float
    ttft_ms: float | None
    drained_bytes: int | None
    client: str
    config: int


class PromptRecord(Record):
    """The record of a request to a model: besides, which model was asked for, who answered, why, and what it used."""

    tenant: str | None
    model: str
    routed_model: str | None
    answering_model: str | None
    operation: str
    stream: bool
    split: str | None
    sticky: str | None
    flag: str | None
    variant: str | None
    reason: str | None
    queue_ms: float
    fallbacks: int
    duplicates: int
    hedged: bool
    shared: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    usage_estimated: bool
    cost: float | None


_encoder: Final = msgspec.json.Encoder()


@lru_cache(maxsize=4096)
def masked(address: str) -> str:
    """A client address as a network: /24 for IPv4, also inside IPv6; /48 for IPv6. What is no address is left out."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found
    return str(ip_network((found, 24 if isinstance(found, IPv4Address) else 48), strict=False))


def record_of(  # a record names what it says
    exchange: Exchange, *, ts: str, route: str, pattern: str, now: float, config: int, drained_bytes: int | None = None
) -> Record:
    """The record of a settled exchange. ``pattern`` stands for the path, which may hold what belongs to nobody else."""
    fault = exchange.fault
    first = exchange.first_byte_at
    common = (  # by position: names cost a microsecond for each exchange
        ts,
        "exchange",
        exchange.request_id.decode("ascii"),
        exchange.trace_id,
        exchange.span_id,
        route,
        exchange.service,
        exchange.endpoint,
        exchange.method.decode("ascii", "replace"),
        pattern,
        exchange.status,
        exchange.terminal,
        None if fault is None else fault.name,
        None if fault is None else fault.note or None,
        exchange.attempts,
        exchange.bytes_in,
        exchange.bytes_out,
        int((now - exchange.started_at) * 1e6) / 1e3,
        None if first is None else int((first - exchange.started_at) * 1e6) / 1e3,
        drained_bytes,
        masked(exchange.client_address),
        config,
    )
    prompt = exchange.prompt
    return Record(*common) if prompt is None else PromptRecord(*common, *_of_prompt(prompt))


def _of_prompt(prompt: Prompt) -> tuple[Any, ...]:
    """The further fields of a ``PromptRecord``, in their order."""
    return (
        prompt.tenant,
        prompt.model,
        prompt.routed,
        prompt.answering,
        prompt.operation,
        prompt.stream,
        prompt.split,
        prompt.sticky,
        prompt.flag,
        prompt.variant,
        prompt.reason,
        int(prompt.queue_s * 1e6) / 1e3,
        prompt.fallbacks,
        prompt.duplicates,
        prompt.hedged,
        prompt.shared,
        prompt.input_tokens,
        prompt.output_tokens,
        prompt.cached_tokens,
        prompt.estimated,
        prompt.cost,
    )


class Records:
    """Where records go: a file descriptor, written by one thread in batches. ``fd`` None swallows them.

    ``shared``: others write to it, too. Into a pipe, as much goes at a time then as the system does not take apart (PIPE_BUF,
    POSIX write()), or a line of theirs could stand in the middle of one of ours.
    """

    def __init__(self, fd: int | None, *, shared: bool = False) -> None:
        self._fd = fd
        self._most_bytes = select.PIPE_BUF if shared and fd is not None and stat.S_ISFIFO(os.fstat(fd).st_mode) else 0
        self._queue: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._broken = False
        self._torn = False
        """The last line was written in part: the next one begins anew."""
        self._give_up_at = 0.0
        self.dropped = 0
        self.written = 0
        self._thread = threading.Thread(target=self._write_on, name="records", daemon=True)
        if fd is not None:
            self._thread.start()

    def add(self, record: Record) -> None:
        """Queue one record; never blocks, never raises."""
        if self._fd is None:
            return
        if len(self._queue) >= QUEUE_RECORDS or self._broken:
            self.dropped += 1
            return
        self._queue.append(_encoder.encode(record))

    def close(self, wait_s: float = 2.0) -> None:
        """Write what waits and end the thread; a blocked pipe is given up after ``wait_s``."""
        self._give_up_at = time.monotonic() + wait_s
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def families(self) -> Iterable[Family]:
        """How many records were written and dropped."""
        samples = [Sample(("written",), self.written), Sample(("dropped",), self.dropped)]
        yield Family("streamgate_records", "counter", "Access records by what became of them.", ("outcome",), samples)

    def _write_on(self) -> None:
        while not self._closing:
            self._wake.wait(FLUSH_S)
            self._write()
        self._write()
        self.dropped += len(self._queue)

    def _write(self) -> None:
        queue = self._queue
        while queue:
            batch = self._next_batch() if self._most_bytes else [queue.popleft() for _ in range(min(len(queue), 512))]
            data = (b"\n" if self._torn else b"") + b"\n".join(batch) + b"\n"
            try:
                self._put(data)
            except OSError as error:
                self.dropped += len(batch)
                if error.errno in _GONE:  # it stays closed: stop encoding for nobody
                    self._broken = True
                    self.dropped += len(queue)
                    queue.clear()
                return  # a disk may have room again
            self.written += len(batch)

    def _next_batch(self) -> list[bytes]:
        """What fits into one write that is not taken apart; one record at least."""
        queue = self._queue
        batch = [queue.popleft()]
        size = len(batch[0]) + 2  # its end, and perhaps one before it
        while queue and (size := size + len(queue[0]) + 1) <= self._most_bytes:
            batch.append(queue.popleft())
        return batch

    def _put(self, data: bytes) -> None:
        fd = self._fd or 0
        while data:
            try:
                size = os.write(fd, data)
            except BlockingIOError:  # whoever shares the pipe has made it non-blocking
                if self._closing and time.monotonic() > self._give_up_at:
                    raise
                select.select((), (fd,), (), FLUSH_S)
                continue
            self._torn = data[size - 1 : size] != b"\n"
            data = data[size:]
