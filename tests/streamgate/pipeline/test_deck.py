"""Where there is no client: everything is taken at once and handed to the row."""

from __future__ import annotations

import asyncio
from typing import Any

from streamgate.errors import Fault
from streamgate.pipeline.deck import Deck
from tests.streamgate.pipeline.bench import Client


class _Row:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_body(self, data: bytes) -> None:
        self.told.append(data)

    def flush(self) -> None:
        self.told.append("flush")


async def test_content_goes_to_the_row_each_piece_with_a_flush() -> None:
    client = Client()
    client.loop = asyncio.get_running_loop()
    deck, row = Deck(client, b"{}"), _Row()  # type: ignore[arg-type]  # of a link it wants what this has
    deck.write(b"nobody hears this")
    deck.row = row  # type: ignore[assignment]
    deck.write(b"one")
    deck.write(b"")
    deck.write(b"two")
    assert row.told == [b"one", "flush", b"two", "flush"]
    assert client.got == b""


async def test_it_is_as_the_client_was_and_never_in_the_way() -> None:
    client = Client()
    client.loop = asyncio.get_running_loop()
    deck = Deck(client, b"{}")  # type: ignore[arg-type]
    assert (deck.loop, deck.peer) == (client.loop, client.peer)
    assert await deck.read_whole(0.0) == b"{}"
    assert (deck.waiting_bytes(), deck.keeps_alive(until_close=True)) == (0, True)
    deck.cut(reset=True)
    deck.say_continue()
    deck.pull()
    deck.refuse(None, Fault())  # type: ignore[arg-type]  # it tells nobody
    assert (client.cuts, client.continued, client.refusals) == (0, 0, [])
