"""The stand stands until its block is left, and leaves nothing behind, whatever went wrong."""

import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest
import yaml

from streamgate.demo.child import ChildError
from streamgate.demo.stand import HOST, PortTakenError, configuration, stand
from tests.kit.wait import eventually


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: int = answer.status
    return found


async def test_it_stands_within_the_block_and_leaves_nothing() -> None:
    said: list[str] = []
    with stand(scripted=True, port=0, admin_port=0, say=said.append) as running:
        assert status(f"{running.admin_url}/-/readyz") == 200
        assert status(f"{running.gateway_url}/v1/models") == 200
        assert yaml.safe_load(running.config.read_text())["routes"][0]["to"] == {"service": "model"}
        running.check()
        pids = [child.pid for child in running.children]
        os.kill(pids[1], signal.SIGKILL)
        await eventually(running.children[1].has_ended)
        with pytest.raises(ChildError, match="the model has ended by itself"):
            running.check()
    assert not running.config.parent.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert said == [
        "loading the scripted model server",
        "starting the gateway",
        "stopping the gateway, then the model",
    ]


@pytest.mark.parametrize(("option", "which"), [("--port", "port"), ("--admin-port", "admin_port")])
def test_a_taken_port_is_said_before_anything_starts(option: str, which: str) -> None:
    said: list[str] = []
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"port": 0, "admin_port": 0, which: port}
        with (
            pytest.raises(PortTakenError, match=f"{HOST}:{port} cannot be had: .* in use; choose another with {option} N"),
            stand(scripted=True, say=said.append, **ports),
        ):
            pass
    assert said == []


def test_the_scripted_stand_shows_the_scripted_servers_other_pages_too() -> None:
    scripted = yaml.safe_load(configuration(1, 2, 3, Path("/r"), scripted=True))
    plain = yaml.safe_load(configuration(1, 2, 3, Path("/r"), scripted=False))
    assert scripted["routes"][0]["match"]["paths"] == ["/v1/*", "/events", "/echo", "/echo/*"]
    assert plain["routes"][0]["match"]["paths"] == ["/v1/*"]
    assert plain["gate"] == {"bind": f"{HOST}:1", "admin": f"{HOST}:2", "drain": "2s"}
    assert plain["services"] == [{"id": "model", "url": f"http://{HOST}:3"}]
