"""How `streamgate run` begins, and how it says that it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.ports import free_port
from tests.kit.upstream import RawUpstream
from tests.kit.wire import answer

ROUTE = {"id": "r", "match": {"paths": ["/*"]}, "to": {"respond": {"status": 200, "body": "hi"}}}
COMMAND = [sys.executable, "-m", "streamgate.cli", "run", "-c"]


def write(folder: Path, gate: Mapping[str, Any], **top: Any) -> Path:
    file = folder / "streamgate.yaml"
    ports = {"bind": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    file.write_text(yaml.safe_dump({"gate": {**ports, **gate}, "routes": [ROUTE], **top}))
    return file


def run(file: Path, *more: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end: for beginnings that fail."""
    return subprocess.run(
        [*COMMAND, str(file), *more], capture_output=True, text=True, timeout=30, env={**os.environ, **(env or {})}
    )


@pytest.mark.parametrize("key", ["bind", "admin"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_one_line_and_status_1(tmp_path: Path, key: str, workers: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file = write(tmp_path, {key: address, "workers": workers}, state={"url": "redis://127.0.0.1:1/0"})
        done = run(file)
    assert done.stderr == f"streamgate cannot start: gate.{key} {address}: address already in use\n"
    assert (done.returncode, done.stdout) == (1, "")


async def test_a_second_gateway_does_not_share_the_first_one_s_port(tmp_path: Path) -> None:
    """Workers share their port; that must not let another gateway take half of the connections."""
    state = {"url": "redis://127.0.0.1:1/0"}
    async with RunningGateway(tmp_path, {"gate": {"workers": 2}, "state": state, "routes": [ROUTE]}) as gateway:
        done = await asyncio.to_thread(run, gateway.file)
    assert done.returncode == 1
    assert done.stderr == f"streamgate cannot start: gate.bind 127.0.0.1:{gateway.port}: address already in use\n"


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    done = run(write(tmp_path, {"bind": "192.0.2.1:80"}))
    assert done.returncode == 1
    assert done.stderr == "streamgate cannot start: gate.bind 192.0.2.1:80: cannot assign requested address\n"


def test_records_that_can_be_written_nowhere(tmp_path: Path) -> None:
    done = run(write(tmp_path, {}, telemetry={"records": "/nowhere/records.jsonl"}))
    assert done.returncode == 1
    assert done.stderr == "streamgate cannot start: telemetry.records /nowhere/records.jsonl: no such file or directory\n"


def test_a_wrong_configuration_is_every_problem_and_status_2(tmp_path: Path) -> None:
    done = run(write(tmp_path, {"drain": 5, "bynd": "x", "workers": 2}))
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [re.sub(r"^.*?:\d+:\d+: (\S+): .*", r"\1", line) for line in lines] == ["gate.bynd", "gate.drain", "gate.workers"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere.yaml")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_an_environment_without_a_file(tmp_path: Path) -> None:
    done = run(write(tmp_path, {}), "--env", "prod")
    assert done.returncode == 2
    assert "streamgate.prod.yaml" in done.stderr


def test_a_certificate_that_cannot_be_used_is_a_wrong_configuration(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("a").private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.issue_cert("a").cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    done = run(write(tmp_path, {"tls": {"cert": "cert.pem", "key": "key.pem"}}))
    assert done.returncode == 2
    assert "gate.tls.cert: the key does not belong to the certificate" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_it_says_where_it_listens_and_what_it_warns_of(tmp_path: Path) -> None:
    services = [{"id": "unused", "url": "http://127.0.0.1:9"}]
    async with RunningGateway(tmp_path, {"services": services, "routes": [ROUTE]}) as gateway:
        lines = [json.loads(line) for line in gateway.log_file.read_text().splitlines()]
    warning, listening = lines[:2]
    assert warning["level"] == "warning"
    assert "services[0].id: no route uses this service" in warning["message"]
    assert listening["level"] == "info"
    assert (listening["data"], listening["admin"], listening["workers"]) == (gateway.url, gateway.admin_url, 1)


def terminal(file: Path, *, until: str) -> tuple[str, int]:
    """Run it on a terminal until it has said something, then press Ctrl-C: what was to be read there, and the status."""
    pid, screen = pty.fork()
    if not pid:
        os.execv(sys.executable, [*COMMAND, str(file)])
    seen = ""
    end = time.monotonic() + 20
    pressed = False
    while time.monotonic() < end:
        try:
            seen += os.read(screen, 65_536).decode()
        except OSError:
            break  # the other side has closed: it has ended
        if until in seen and not pressed:
            os.write(screen, b"\x03")
            pressed = True
    _, status = os.waitpid(pid, 0)
    os.close(screen)
    return seen, os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminal_is_told_in_plain_words_and_ctrl_c_ends_it(tmp_path: Path, workers: int) -> None:
    gate = {"bind": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers}
    file = write(tmp_path, gate, state={"url": "redis://127.0.0.1:1/0"}, telemetry={"records": "off"})
    seen, status = terminal(file, until="ends it")
    line = next(line for line in seen.splitlines() if "listens on" in line)
    assert re.search(r"listens on http://127\.0\.0\.1:[1-9]\d*, admin on http://127\.0\.0\.1:[1-9]\d*", line), seen
    assert "{" not in seen
    assert "Traceback" not in seen
    assert seen.count("drained, 0 ended early") == workers
    assert status == 0


async def test_what_is_left_in_the_environment_says_nothing(tmp_path: Path) -> None:
    """Two gateways started from one environment, one behind the other: they are two, and none asks the other's workers."""
    leftovers = {"STREAMGATE_INSTANCE": "same", "STREAMGATE_RUN_DIR": str(tmp_path), "SANIC_WORKER_NAME": "Sanic-Server-0-0"}
    (tmp_path / "1.sock").write_text("")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        upstream.answer_with(lambda _arrived: answer(b"ok"))
        behind = await stack.enter_async_context(RunningGateway(tmp_path / "a", to(upstream.url), environ=leftovers))
        before = await stack.enter_async_context(RunningGateway(tmp_path / "b", to(behind.url), environ=leftovers))
        async with await RawClient.open(before.port) as client:
            response = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.status, response.body) == (200, b"ok")
        assert await before.metric("streamgate_workers") == 1


def to(url: str) -> dict[str, Any]:
    return {
        "services": [{"id": "a", "url": url}],
        "routes": [{"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "a"}}],
    }


def test_a_signal_before_it_listens_is_an_ordinary_end(tmp_path: Path) -> None:
    """Whenever it comes: it is neither lost nor fatal once the ports are open."""
    file = write(tmp_path, {})
    port = int(yaml.safe_load(file.read_text())["gate"]["bind"].rpartition(":")[2])
    process = subprocess.Popen([*COMMAND, str(file)], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            continue
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
