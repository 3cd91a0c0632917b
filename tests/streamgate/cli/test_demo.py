"""`streamgate demo` as a user runs it: what it prints, and what it leaves behind."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamgate.demo.script import words
from tests.kit.wait import eventually

HOST = "127.0.0.1"
COMMAND = [sys.executable, "-m", "streamgate.cli", "demo", "--scripted"]
SAID = "".join(words(0, 40))


def environment(folder: Path) -> dict[str, str]:
    """Temporary files where this test can see that they are gone; tokens where it can read them."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}


def test_once_streams_a_completion_and_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--once", "--port", "0", "--admin-port", "0"],
        capture_output=True, check=False, timeout=60, env=environment(tmp_path), encoding="utf-8",
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert SAID in ended.stdout
    assert re.search(r"^40 pieces, the first after \d+\.\d\d s, all after \d+\.\d\d s$", ended.stdout, re.MULTILINE)
    assert "\x1b" not in ended.stdout
    assert "Try it" not in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_stays_up_until_it_is_told_to_stop(tmp_path: Path, stop: signal.Signals) -> None:
    output = tmp_path / "output"
    (tmp_path / "temporary").mkdir()
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "--port",
            "0",
            "--admin-port",
            "0",
            stdout=out,
            stderr=out,
            env=environment(tmp_path / "temporary"),
        )
    try:
        await eventually(lambda: b"Ctrl-C stops" in output.read_bytes() or process.returncode is not None, timeout=60)
        said = output.read_text()
        assert "Ctrl-C stops everything." in said
        url = re.search(r"^gateway  (\S+)$", said, re.MULTILINE)
        config = re.search(r"^config   (\S+)$", said, re.MULTILINE)
        records = re.search(r"^records  (\S+)$", said, re.MULTILINE)
        body = re.search(r"-d '(\{.*\})'", said)
        assert url is not None
        assert config is not None
        assert records is not None
        assert body is not None
        assert json.loads(body[1])["model"] == "scripted"
        assert f"curl -N {url[1]}/v1/chat/completions" in said
        assert Path(config[1]).exists()
        await eventually(lambda: '"llm"' in Path(records[1]).read_text())
        process.send_signal(stop)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:  # the test has failed; what it started must not outlive it
            process.terminate()
            await process.wait()
    assert list((tmp_path / "temporary").iterdir()) == []
    port = int(url[1].rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), 2)


def test_a_taken_port_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [*COMMAND, "--port", str(port), "--admin-port", "0"],
            capture_output=True, check=False, timeout=30, env=environment(tmp_path), encoding="utf-8",
        )  # fmt: skip
    assert ended.returncode == 1
    assert f"{HOST}:{port} cannot be had: Address already in use; choose another with --port N" in ended.stderr
    assert ended.stdout == ""


def test_a_terminal_sees_progress(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--once", "--port", "0", "--admin-port", "0"],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment(tmp_path),
    ) as process:  # fmt: skip
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 65536):
                said += piece
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in said
    assert b"starting the gateway" in said
    assert SAID.replace("\n", "").encode() in re.sub(rb"\r\n", b"", said)
