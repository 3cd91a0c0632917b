"""A configuration that nobody serves by yet is asked, and everything that was opened for it is closed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import yaml
from aiohttp import web

from streamgate.catalogue import PICKERS
from streamgate.cli.explanation import explained
from streamgate.config.load import Loaded, load
from streamgate.pipeline.explaining.asked import asked_for
from tests.kit.ports import free_port

BODY = b'{"model":"tutor","messages":[]}'


def loaded(folder: Path, **flags: object) -> Loaded:
    config = {
        "flags": flags,
        "services": [{"id": "a", "url": "http://127.0.0.1:9"}],
        "models": [{"name": "tutor", "flag": "f", "splits": {"one": [{"service": "a"}], "two": [{"service": "a", "model": "x"}]}}],
        "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}}],
    }
    file = folder / "streamgate.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return load(file, environ={})


async def told(config: Loaded) -> dict[str, object]:
    asked = asked_for("POST", "/v1/chat/completions", (), host="gate", body=BODY)
    found: dict[str, object] = (await explained(config, asked, PICKERS))["model"]
    return found


async def test_a_flag_service_is_asked_once(tmp_path: Path) -> None:
    asked: list[object] = []

    async def evaluate(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers["x-key"], await request.json()))
        return web.json_response({"key": "f", "value": "two", "variant": "on", "reason": "SPLIT"})

    app = web.Application()
    app.router.add_post("/ofrep/v1/evaluate/flags/{key}", evaluate)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        model = await told(loaded(tmp_path, provider="ofrep", url=f"http://127.0.0.1:{port}", headers={"x-key": "s3cret"}))
    finally:
        await runner.cleanup()
    assert asked == [("/ofrep/v1/evaluate/flags/f", "s3cret", {"context": {"route": "llm", "model": "tutor"}})]
    assert model["split"]["name"] == "two"  # type: ignore[index]
    assert "s3cret" not in str(model)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_flag_service_that_is_away(tmp_path: Path) -> None:
    model = await told(loaded(tmp_path, provider="ofrep", url=f"http://127.0.0.1:{free_port()}", timeout="1s"))
    assert (model["split"]["name"], model["split"]["why"]) == ("one", "unset")  # type: ignore[index]
    assert (model["flag"]["error"], bool(model["flag"]["problem"])) == ("GENERAL", True)  # type: ignore[index]


async def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    (tmp_path / "flags.json").write_text('{"flags": {}}', encoding="utf-8")
    config = loaded(tmp_path, provider="flagd", file=str(tmp_path / "flags.json"))
    assert (await told(config))["flag"]["error"] == "FLAG_NOT_FOUND"  # type: ignore[index]
    assert threading.active_count() == before
