"""What goes out, and what is counted, for every fault a script can ask for; spoken to as a server would, by ASGI."""

import asyncio
import json
from typing import Any

import pytest

from streamgate.demo.ask import Ask
from streamgate.demo.dialects import DONE, spoken
from streamgate.demo.ledger import Counts, Ledger
from streamgate.demo.performance import MALFORMED, CutError, Performance
from streamgate.demo.script import Script, words
from tests.kit.wait import eventually

PATH = "/v1/chat/completions"
SCOPE = {"type": "http", "method": "POST", "path": PATH}
LONG_MS = 600_000
"""Nobody waits that long: a test with it passes only when something ends the wait."""


class Reader:
    """The far end of one ASGI exchange: keeps what is sent, and leaves when told to."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def ended(self) -> bool:
        """The body has its proper end."""
        return len(self.messages) > 1 and not self.messages[-1].get("more_body")

    @property
    def data(self) -> list[str]:
        """The data line of every event."""
        lines = self.body.decode().split("\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def performance(ledger: Ledger, *, streamed: bool = True, **script: Any) -> Performance:
    told = Script(**{"tokens": 4, **script})
    answer = spoken(PATH, Ask(), 0, told.tokens)
    return Performance(told, ledger, answer, answer if streamed else None)


def start(play: Performance, reader: Reader) -> asyncio.Task[None]:
    return asyncio.create_task(play(SCOPE, reader.receive, reader.send))


def ended(ledger: Ledger) -> tuple[int, int, int, int, int]:
    """Open, completed, cancelled, broken, tokens."""
    counts: Counts = ledger.statistics()
    return counts.open_streams, counts.completed, counts.cancelled, counts.broken, counts.tokens_sent


async def test_a_plain_stream_ends_properly_and_counts_as_completed() -> None:
    ledger, reader = Ledger(), Reader()
    await start(performance(ledger), reader)
    assert reader.ended
    assert reader.data[-1] == DONE
    assert ended(ledger) == (0, 1, 0, 0, 4)


@pytest.mark.parametrize("sent", [0, 2, 4])
async def test_a_cut_raises_after_its_tokens_with_no_end(sent: int) -> None:
    ledger, reader = Ledger(), Reader()
    with pytest.raises(CutError):
        await start(performance(ledger, cut_after=sent), reader)
    assert len(reader.data) == 1 + sent
    assert not reader.ended
    assert ended(ledger) == (0, 0, 0, 1, sent)


async def test_an_early_end_is_a_proper_end_without_the_terminal_event() -> None:
    ledger, reader = Ledger(), Reader()
    await start(performance(ledger, end_after=3), reader)
    assert reader.ended
    assert len(reader.data) == 4
    assert DONE not in reader.data
    assert ended(ledger) == (0, 0, 0, 1, 3)


async def test_a_providers_error_ends_the_stream() -> None:
    ledger, reader = Ledger(), Reader()
    await start(performance(ledger, error_after=1), reader)
    assert reader.ended
    assert json.loads(reader.data[-1])["error"]["type"] == "server_error"
    assert ended(ledger) == (0, 0, 0, 1, 1)


async def test_a_malformed_event_does_not_end_the_stream() -> None:
    ledger, reader = Ledger(), Reader()
    await start(performance(ledger, malformed_after=1), reader)
    assert reader.data[2] == MALFORMED
    assert reader.data[-1] == DONE
    assert ended(ledger) == (0, 1, 0, 0, 4)


async def test_a_stall_lasts_until_the_reader_leaves() -> None:
    ledger, reader = Ledger(), Reader()
    task = start(performance(ledger, stall_after=2), reader)
    await eventually(lambda: len(reader.data) == 3)
    assert ended(ledger) == (1, 0, 0, 0, 2)
    reader.gone.set()
    await task
    assert len(reader.data) == 3
    assert not reader.ended
    assert ended(ledger) == (0, 0, 1, 0, 2)


@pytest.mark.parametrize(
    ("delay", "sent"),
    [("head_delay_ms", None), ("first_delay_ms", 0), ("open_delay_ms", 1), ("delay_ms", 2)],
)
async def test_each_delay_holds_back_its_own_part_and_a_reader_who_leaves_ends_it(delay: str, sent: int | None) -> None:
    ledger, reader = Ledger(), Reader()
    task = start(performance(ledger, streamed=True, **{delay: LONG_MS}), reader)
    await eventually(lambda: (reader.status is not None and len(reader.data) == sent) or sent is None)
    for _ in range(20):  # as many turns as the rest of the stream would take, were it not held back
        await asyncio.sleep(0)
    assert len(reader.data) == (sent or 0)
    assert reader.status == (None if sent is None else 200)
    reader.gone.set()
    await task
    assert ended(ledger)[:4] == (0, 0, 1, 0)


@pytest.mark.parametrize("delay", ["head_delay_ms", "first_delay_ms", "open_delay_ms", "delay_ms"])
async def test_every_delay_of_a_whole_answer_comes_before_its_head(delay: str) -> None:
    ledger, reader = Ledger(), Reader()
    task = start(performance(ledger, streamed=False, **{delay: LONG_MS}), reader)
    reader.gone.set()
    await task
    assert reader.messages == []
    assert ended(ledger) == (0, 0, 1, 0, 0)


async def test_a_delay_that_is_over_is_followed_by_the_answer() -> None:
    ledger, reader = Ledger(), Reader()
    await start(performance(ledger, streamed=False, head_delay_ms=1, delay_ms=1), reader)
    assert json.loads(reader.body)["choices"][0]["message"]["content"] == "".join(words(0, 4))
    assert ended(ledger) == (0, 1, 0, 0, 4)


async def test_a_whole_answer_is_cut_in_its_middle() -> None:
    ledger, reader = Ledger(), Reader()
    with pytest.raises(CutError):
        await start(performance(ledger, streamed=False, cut_after=0), reader)
    length = int(dict(reader.messages[0]["headers"])[b"content-length"])
    assert len(reader.body) == length // 2
    assert ended(ledger)[:4] == (0, 0, 0, 1)


async def test_a_whole_answer_stalls_in_its_middle() -> None:
    ledger, reader = Ledger(), Reader()
    task = start(performance(ledger, streamed=False, stall_after=0), reader)
    await eventually(lambda: len(reader.messages) == 2)
    assert not reader.ended
    reader.gone.set()
    await task
    assert ended(ledger)[:4] == (0, 0, 1, 0)


async def test_a_whole_answer_can_be_broken_json_or_an_error() -> None:
    ledger, broken, failed = Ledger(), Reader(), Reader()
    await start(performance(ledger, streamed=False, malformed_after=0), broken)
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.body)
    assert (broken.status, broken.ended) == (200, True)
    await start(performance(ledger, streamed=False, error_after=0), failed)
    assert (failed.status, json.loads(failed.body)["error"]["type"]) == (500, "server_error")
    assert ended(ledger)[:4] == (0, 1, 0, 1)


async def test_a_status_answers_in_place_of_a_stream() -> None:
    ledger, reader = Ledger(), Reader()
    await start(performance(ledger, status=429, retry_after="7"), reader)
    assert reader.status == 429
    assert dict(reader.messages[0]["headers"])[b"retry-after"] == b"7"
    assert json.loads(reader.body)["error"]["code"] == "rate_limit_exceeded"
    assert ended(ledger) == (0, 1, 0, 0, 0)


@pytest.mark.parametrize("streamed", [True, False])
async def test_chunks_can_be_cut_anywhere_and_say_the_same(streamed: bool) -> None:
    usual, cut = Reader(), Reader()
    await start(performance(Ledger(), streamed=streamed), usual)
    await start(performance(Ledger(), streamed=streamed, chunk_bytes=3), cut)
    assert cut.body == usual.body
    assert cut.ended
    assert max(len(message["body"]) for message in cut.messages[1:]) == 3


async def test_pings_come_in_a_silence() -> None:
    ledger, reader = Ledger(), Reader()
    task = start(performance(ledger, stall_after=1, ping_ms=1), reader)
    await eventually(lambda: reader.body.count(b": ping\n\n") > 2)
    reader.gone.set()
    await task
