"""A flag is flipped while 200 streams are open: new requests follow within a second on every worker, the streams end untouched."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.kit.gateway import RunningGateway
from tests.kit.quiet import at_rest, nothing_went_wrong
from tests.kit.redis_server import RedisServer
from tests.kit.scripted import scripted_server
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio
STREAMS = 200
MESSAGES: Any = [{"role": "user", "content": "x"}]


def config(url: str, redis: str) -> dict[str, Any]:
    splits = {"old": [{"service": "m", "model": "scripted"}], "new": [{"service": "m", "model": "scripted-large"}]}
    return {
        "gate": {"workers": 2},
        "state": {"url": redis},
        "flags": {"provider": "flagd", "file": "flags.json"},
        "services": [{"id": "m", "url": url}],
        "models": [{"name": "tutor", "flag": "who", "splits": splits, "queue": {"max_in_flight": 400}}],
        "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}}],
    }


async def test_a_flip_moves_new_requests_and_cuts_no_stream(tmp_path: Path) -> None:
    flag = {"state": "ENABLED", "variants": {"old": "old", "new": "new"}, "defaultVariant": "old"}
    (tmp_path / "flags.json").write_text(json.dumps({"flags": {"who": flag}}))
    with scripted_server(tmp_path) as server:
        async with RedisServer() as redis, RunningGateway(tmp_path, config(server.url, redis.url)) as gateway:
            client = openai.AsyncOpenAI(
                api_key="k", base_url=f"{gateway.url}/v1", max_retries=0, timeout=60,
                default_headers={"x-script": "tokens=150, delay_ms=80"},
            )  # fmt: skip

            async def whole() -> tuple[str, int]:
                chunks = await client.chat.completions.create(model="tutor", messages=MESSAGES, stream=True)
                models, tokens = set(), 0
                async for chunk in chunks:
                    models.add(chunk.model)
                    tokens += bool(chunk.choices and chunk.choices[0].delta.content)
                assert len(models) == 1
                return models.pop(), tokens

            async def answering() -> str:
                """On a connection of its own, so that the kernel chooses the worker anew."""
                quick = {"x-script": "tokens=1", "connection": "close"}
                found = await client.chat.completions.create(model="tutor", messages=MESSAGES, extra_headers=quick)
                return found.model

            streams = [asyncio.create_task(whole()) for _ in range(STREAMS)]

            async def open_streams() -> bool:
                return (await server.stats())["open_streams"] == STREAMS

            await eventually(open_streams, timeout=30)
            assert {await answering() for _ in range(10)} == {"scripted"}
            command = ["-m", "streamgate.cli", "flags", "-c", str(gateway.file), "set", "who", "new"]
            flipping = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
            said, _ = await flipping.communicate()
            assert flipping.returncode == 0, said
            flipped_at = time.monotonic()

            async def all_moved() -> bool:
                return {await answering() for _ in range(12)} == {"scripted-large"}

            await eventually(all_moved, timeout=10)
            print(f"every worker follows after {time.monotonic() - flipped_at:.2f} s")
            answers = await asyncio.gather(*streams)
            assert set(answers) == {("scripted", 150)}
            await at_rest(gateway)
            states = await gateway.metrics()
            cut = sum(n for (name, labels), n in states.items() if name == "streamgate_streams_total" and ("state", "complete") not in labels)
            assert cut == 0
            nothing_went_wrong(gateway)
