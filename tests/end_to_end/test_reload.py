"""Reloading while running: one swap, nothing lost, open streams finish on what they began with, a bad file changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.ports import free_port
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, answer, chunk, head

SSE = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
BROKEN = "services: [{id: a, url: 'http://127.0.0.1:9'}]\nroutes: [{id: all, match: {paths: [no-slash]}, to: {service: b}}]\n"


def config(services: Mapping[str, str], to: str, *, gate: Mapping[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {
        "gate": dict(gate or {}),
        "services": [{"id": name, "url": url} for name, url in services.items()],
        "routes": [{"id": "all", "match": {"paths": ["/*"]}, "to": {"service": to}}],
        **top,
    }


def get(path: bytes = b"/plain") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


async def shown(gateway: RunningGateway) -> dict[str, Any]:
    status, body = await asyncio.to_thread(gateway.admin, "/-/config")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


async def applied(gateway: RunningGateway, count: int) -> dict[str, Any]:
    async def enough() -> bool:
        return bool((await shown(gateway))["reloads"]["applied"] >= count)

    await eventually(enough, timeout=15)
    return await shown(gateway)


async def refused(gateway: RunningGateway, count: int = 1) -> dict[str, Any]:
    async def enough() -> bool:
        return bool((await shown(gateway))["reloads"]["refused"] >= count)

    await eventually(enough, timeout=15)
    return await shown(gateway)


def log_lines(gateway: RunningGateway) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gateway.log_file.read_text().splitlines()]
    assert not any("trace" in line for line in lines), lines
    return lines


async def rest_of(client: RawClient) -> bytes:
    found = b""
    while piece := await client.chunk():
        found += piece
    assert await client.trailers() == ()
    return found


@pytest.mark.parametrize("by_signal", [True, False], ids=["by signal", "by watching"])
async def test_an_open_stream_finishes_on_what_it_began_with(tmp_path: Path, by_signal: bool) -> None:
    async with RawUpstream() as old, RawUpstream() as new:
        services = {"a": old.url, "b": new.url}
        async with RunningGateway(tmp_path, config(services, "a")) as gateway, await RawClient.open(gateway.port) as client:
            before = await shown(gateway)
            await client.send(POST)
            arrived = await old.next_request()
            await arrived.send(head(200, SSE) + chunk(TOKEN))
            await client.head()
            await client.chunk()

            gateway.write(config(services, "b"))
            if by_signal:
                gateway.tell(signal.SIGHUP)
            after = await applied(gateway, 1)
            assert (before["number"], after["number"]) == (1, 2)
            assert after["hash"] != before["hash"]
            assert after["loaded_at"] > before["loaded_at"]
            async with await RawClient.open(gateway.port) as other:
                await other.send(get())
                await (await new.next_request()).send(answer(b"new"))
                assert (await other.answer()).body == b"new"

            await arrived.send(chunk(TOKEN) + chunk(DONE) + LAST_CHUNK)
            assert await rest_of(client) == TOKEN + DONE
            # the same connection follows the new configuration from its next request on
            await client.send(get())
            await (await new.next_request()).send(answer(b"new again"))
            assert (await client.answer()).body == b"new again"
            assert await gateway.metric("streamgate_reloads_total", outcome="applied") == 1
        records = {(record["service"], record["config"], record["state"]) for record in gateway.records()}
        assert records == {("a", 1, "complete"), ("b", 2, "complete")}
        assert sum("configuration applied" in line["message"] for line in log_lines(gateway)) == 1


async def test_an_invalid_file_changes_nothing_and_says_so(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config({"a": upstream.url}, "a")) as gateway:
        upstream.answer_with(lambda _arrived: answer(b"ok"))
        before = await shown(gateway)

        async def still_serves() -> None:
            async with await RawClient.open(gateway.port) as client:
                assert (await client.ask(get())).body == b"ok"

        gateway.write_text(BROKEN)
        seen = await refused(gateway)
        assert {"hash": seen["hash"], "number": seen["number"]} == {"hash": before["hash"], "number": 1}
        assert "routes[0].match.paths[0]" in seen["last_error"]
        assert 'no service has the id "b"' in seen["last_error"], "every problem, not the first alone"
        assert await gateway.metric("streamgate_reloads_total", outcome="refused") == 1
        [line] = [line for line in log_lines(gateway) if line["level"] == "error"]
        assert "stays in force" in line["message"]
        assert len(line["problems"]) == 2
        assert "routes[0].match.paths[0]" in line["message"], "a terminal shows the message alone"
        await still_serves()
        assert (await asyncio.to_thread(gateway.admin, "/-/readyz"))[0] == 200

        for count, text in enumerate(["", "[", "\0", "x: &a [*a]\n"], 2):
            gateway.write_text(text)
            await refused(gateway, count)
            await still_serves()
        gateway.file.unlink()
        assert "no such file" in (await refused(gateway, 6))["last_error"]
        await still_serves()

        gateway.write(config({"a": upstream.url, "b": "http://127.0.0.1:9"}, "a"))
        fixed = await applied(gateway, 1)
        assert fixed["last_error"] is None
        assert (fixed["number"], fixed["services"]) == (2, 2)
        await still_serves()


async def test_the_same_content_is_no_change(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config({"a": upstream.url}, "a")) as gateway:
        gateway.tell(signal.SIGHUP)

        async def counted() -> bool:
            return bool((await shown(gateway))["reloads"]["unchanged"] == 1)

        await eventually(counted)
        after = await shown(gateway)
        assert (after["number"], after["reloads"]["applied"]) == (1, 0)
        assert await gateway.metric("streamgate_reloads_total", outcome="unchanged") == 1


async def test_a_secret_that_has_changed_is_a_change(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-first")
    async with RawUpstream() as upstream:
        upstream.answer_with(lambda arrived: answer((arrived.request.header("authorization") or "").encode()))
        with_key = config({"a": upstream.url}, "a")
        with_key["services"][0]["credentials"] = {"bearer": f"${{file:{secret}}}"}
        async with RunningGateway(tmp_path, with_key) as gateway, await RawClient.open(gateway.port) as client:
            assert (await client.ask(get())).body == b"Bearer sk-first"
            secret.write_text("sk-second")
            seen = await applied(gateway, 1)
            assert (await client.ask(get())).body == b"Bearer sk-second"
        assert "sk-" not in json.dumps(seen) + gateway.log_file.read_text() + gateway.records_file.read_text()


async def test_connections_of_a_removed_service(tmp_path: Path) -> None:
    async with RawUpstream() as old, RawUpstream() as kept:
        services = {"a": old.url, "b": kept.url}
        two_routes = config(services, "a")
        two_routes["routes"].append({"id": "other", "match": {"paths": ["/b/*"]}, "to": {"service": "b"}})
        kept.answer_with(lambda _arrived: answer(b"kept"))
        async with (
            RunningGateway(tmp_path, two_routes) as gateway,
            await RawClient.open(gateway.port) as one,
            await RawClient.open(gateway.port) as two,
        ):
            await two.ask(get(b"/b/"))
            await one.send(POST)
            streaming = await old.next_request()
            await streaming.send(head(200, SSE) + chunk(TOKEN))
            await one.head()
            await two.send(get())
            await (await old.next_request()).send(answer(b"x"))
            await two.answer()
            busy, idle = old.connections
            assert await gateway.metric("streamgate_upstream_connections", service="a", state="idle") == 1

            gateway.write(config({"b": kept.url}, "b"))
            gateway.tell(signal.SIGHUP)
            await applied(gateway, 1)
            await idle.wait_closed()
            assert busy.is_open
            assert await gateway.metric("streamgate_upstream_connections", service="a") == 0

            await streaming.send(chunk(DONE) + LAST_CHUNK)
            assert (await one.chunk()) + await rest_of(one) == TOKEN + DONE
            await busy.wait_closed()
            assert (await one.ask(get())).body == b"kept"
            assert len(kept.connections) == 1, "what stays in the configuration keeps its connections"
        assert [record["state"] for record in gateway.records()].count("complete") == 4


async def test_changes_that_need_a_restart_are_named(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config({"a": upstream.url}, "a")) as gateway:
        upstream.answer_with(lambda _arrived: answer(b"ok"))
        assert (await shown(gateway))["restart_needed"] == []
        gate = {
            "bind": f"127.0.0.1:{free_port()}",
            "admin": f"127.0.0.1:{free_port()}",
            "workers": 2,
            "limits": {"target": "100B"},
        }
        gateway.write(
            config({"a": upstream.url}, "a", gate=gate, state={"url": "redis://127.0.0.1:1/0"}, telemetry={"records": "off"})
        )
        gateway.tell(signal.SIGHUP)
        seen = await applied(gateway, 1)
        wanted = ["gate.bind", "gate.admin", "gate.workers", "telemetry.records"]
        assert seen["restart_needed"] == wanted
        [line] = [line for line in log_lines(gateway) if line.get("restart_needed")]
        assert line["level"] == "warning"
        assert "gate.bind, gate.admin, gate.workers, telemetry.records" in line["message"]
        async with await RawClient.open(gateway.port) as client:
            assert (await client.ask(get())).body == b"ok"
            # all else in that file is in force
            assert (await client.ask(get(b"/" + b"x" * 200))).status == 414

        gateway.write(config({"a": upstream.url}, "a"))
        gateway.tell(signal.SIGHUP)
        assert (await applied(gateway, 2))["restart_needed"] == []


async def listens(gateway: RunningGateway) -> bool:
    """Whether its port is open, which it is for a while before anybody is served."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    except OSError:
        return False
    writer.close()
    return True


async def test_what_changed_while_it_started_is_not_missed(tmp_path: Path) -> None:
    """The ports are open as soon as the file has been read, and the file is watched a little later."""
    first, second = RawUpstream(), RawUpstream()
    async with first, second:
        first.answer_with(lambda _arrived: answer(b"first"))
        second.answer_with(lambda _arrived: answer(b"second"))
        gateway = RunningGateway(tmp_path, config({"a": first.url}, "a"))

        async def change_early() -> None:
            await eventually(lambda: listens(gateway), timeout=20)
            gateway.write(config({"a": second.url}, "a"))

        change = asyncio.create_task(change_early())
        async with gateway:
            await change
            await applied(gateway, 1)
            async with await RawClient.open(gateway.port) as client:
                assert (await client.ask(get())).body == b"second"


def issue(authority: trustme.CA, folder: Path, *, key_of: trustme.LeafCert | None = None) -> trustme.LeafCert:
    """A new certificate in the files, by renaming, the key first."""
    leaf = authority.issue_cert("localhost")
    for name, content in (
        ("key.pem", (key_of or leaf).private_key_pem.bytes()),
        ("cert.pem", leaf.cert_chain_pems[0].bytes()),
    ):
        new = folder / f"{name}.new"
        new.write_bytes(content)
        new.replace(folder / name)
    return leaf


async def test_a_certificate_is_renewed_in_place(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = issue(authority, tmp_path)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def certificate(gateway: RunningGateway) -> bytes | None:
        async with await RawClient.open(gateway.port, tls=context, name="localhost") as client:
            assert (await client.ask(get())).body == b"ok"
            return client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

    async with RawUpstream() as upstream:
        upstream.answer_with(lambda _arrived: answer(b"ok"))
        tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
        async with RunningGateway(tmp_path, config({"a": upstream.url}, "a", gate={"tls": tls})) as gateway:
            first = await certificate(gateway)
            async with await RawClient.open(gateway.port, tls=context, name="localhost") as before:
                assert (await before.ask(get())).body == b"ok"
                issue(authority, tmp_path)

                async def renewed() -> bool:
                    return await certificate(gateway) != first

                await eventually(renewed, timeout=15)
                assert (await before.ask(get())).body == b"ok", "connections that stand are not touched"
            second = await certificate(gateway)

            issue(authority, tmp_path, key_of=leaf)

            async def told() -> bool:
                return "the key does not belong to the certificate" in ((await shown(gateway))["last_error"] or "")

            await eventually(told, timeout=15)
            assert await certificate(gateway) == second
            issue(authority, tmp_path)

            async def third() -> bool:
                return await certificate(gateway) not in {first, second}

            await eventually(third, timeout=15)
            seen = await shown(gateway)
            assert seen["last_error"] is None

            gateway.write(config({"a": upstream.url}, "a"))
            gateway.tell(signal.SIGHUP)
            assert (await applied(gateway, seen["reloads"]["applied"] + 1))["restart_needed"] == ["gate.tls"]
            await certificate(gateway)


STORM_S = 3.0


async def test_a_storm_of_reloads_under_load(tmp_path: Path) -> None:
    async with RawUpstream() as one, RawUpstream() as two:
        for upstream in (one, two):
            upstream.answer_with(in_the_storm)
        services = {"a": one.url, "b": two.url}
        async with RunningGateway(tmp_path, config(services, "a")) as gateway:
            over = asyncio.Event()
            load = [asyncio.create_task(ask_on(gateway, over)) for _ in range(6)]
            streams = [asyncio.create_task(stream_on(gateway, over)) for _ in range(10)]
            end = asyncio.get_running_loop().time() + STORM_S
            resident: list[float] = []
            count = 0
            while asyncio.get_running_loop().time() < end:
                count += 1
                gateway.write(config({**services, f"c{count}": one.url}, "ab"[count % 2]))
                gateway.tell(signal.SIGHUP)
                await asyncio.sleep(0.05)  # the storm itself
                if count % 10 == 0:
                    resident.append(await gateway.metric("process_resident_memory_bytes"))
            over.set()
            asked = await asyncio.gather(*load)
            streamed = await asyncio.gather(*streams)
            assert sum(asked) > 50
            assert sum(streamed) >= 10

            async def last_one() -> bool:
                return any(("service", f"c{count}") in labels for _, labels in await gateway.metrics())

            await eventually(last_one, timeout=15)
            seen = await shown(gateway)
            assert seen["reloads"]["applied"] >= 5
            assert seen["reloads"]["refused"] == 0
            assert resident[-1] - resident[0] < 24 * 1024 * 1024, resident
            in_flight = await gateway.metric("streamgate_in_flight")
            assert in_flight == 0
        records = gateway.records()
        assert {(record["status"], record["state"]) for record in records} == {(200, "complete")}
        assert {record["service"] for record in records} == {"a", "b"}
        assert len(records) == sum(asked) + sum(streamed)
        log_lines(gateway)


async def in_the_storm(arrived: Arrived) -> bytes:
    if arrived.request.target != "/v1/chat/completions":
        return answer(b"ok")
    await arrived.send(head(200, SSE))
    for _ in range(20):
        await arrived.send(chunk(TOKEN))
        await asyncio.sleep(0.02)
    return chunk(DONE) + LAST_CHUNK


async def ask_on(gateway: RunningGateway, over: asyncio.Event) -> int:
    count = 0
    async with await RawClient.open(gateway.port) as client:
        while not over.is_set():
            response = await client.ask(get())
            assert (response.status, response.body, response.closes) == (200, b"ok", False)
            count += 1
            await asyncio.sleep(0.005)
    return count


async def stream_on(gateway: RunningGateway, over: asyncio.Event) -> int:
    count = 0
    async with await RawClient.open(gateway.port) as client:
        while not over.is_set():
            await client.send(POST)
            assert (await client.head()).status == 200
            assert await rest_of(client) == TOKEN * 20 + DONE
            count += 1
    return count


async def test_sighup_before_it_is_ready_is_no_end(tmp_path: Path) -> None:
    async with RawUpstream() as upstream:
        gateway = RunningGateway(tmp_path, config({"a": upstream.url}, "a"))

        async def hang_up_early() -> None:
            await eventually(lambda: listens(gateway), timeout=20)
            for _ in range(20):
                gateway.tell(signal.SIGHUP)
                await asyncio.sleep(0.01)

        early = asyncio.create_task(hang_up_early())
        async with gateway:
            await early
            assert (await shown(gateway))["last_error"] is None
