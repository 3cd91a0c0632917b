"""What one worker is made of, seen without its sockets; its life from outside stands in end_to_end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from streamgate.config.source import Source
from streamgate.edge.tls import server_context
from streamgate.worker import Post, Worker

SERVICE = {"id": "a", "url": "http://127.0.0.1:9", "credentials": {"bearer": "sk-secret"}}


class Desk:
    """A configuration file and the worker that reads it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "streamgate.yaml"
        self.socket = socket.socket()
        self.write()

    def write(self, gate: dict[str, Any] | None = None, *, to: str = "a", **top: Any) -> None:
        route = {"id": "all", "match": {"paths": ["/*"]}, "to": {"service": to}}
        gate = {"admin_token": "t0ken", **(gate or {})}
        records = {"records": "off"}
        self.file.write_text(
            yaml.safe_dump({"gate": gate, "telemetry": records, "services": [SERVICE], "routes": [route], **top})
        )

    def post(self, **changes: Any) -> Post:
        source = Source(self.file)
        loaded = source.read()
        fields = {
            "source": source,
            "loaded": loaded,
            "started": loaded.spec,
            "name": b"gate",
            "data": self.socket,
            "admin": None,
        }
        return Post(**{**fields, **changes})

    def worker(self, **changes: Any) -> Worker:
        return Worker(self.post(**changes), None)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.socket.close()


def test_what_a_worker_begins_with_travels_to_its_process(desk: Desk) -> None:
    loaded = desk.post().loaded
    assert ForkingPickler.loads(ForkingPickler.dumps(loaded)) == loaded


async def test_it_begins_with_what_it_was_given_not_with_the_file(desk: Desk) -> None:
    given = desk.post()
    desk.file.write_text("routes: broken")
    worker = Worker(given, None)
    assert worker._shown()["hash"] == given.loaded.hash
    assert worker._shown()["last_error"] is None


async def test_what_it_shows_holds_no_secret(desk: Desk) -> None:
    worker = desk.worker()
    shown = worker._shown()
    assert {
        "hash",
        "source",
        "environment",
        "loaded_at",
        "number",
        "warnings",
        "last_error",
        "restart_needed",
        "reloads",
    } <= set(shown)
    desk.write(to="nowhere")
    await worker.reload()
    for text in (json.dumps(shown), json.dumps(worker._shown())):
        assert "sk-secret" not in text
        assert "t0ken" not in text


async def test_it_is_ready_once_it_listens_and_until_it_drains(desk: Desk) -> None:
    worker = desk.worker()
    assert worker._why_not_ready() == "starting"
    worker._listens = True
    assert worker._why_not_ready() is None
    worker._obey("drain")
    assert worker._why_not_ready() == "shutting down"
    assert worker.asked_to_end.is_set()


async def test_a_reload_puts_all_of_it_in_force(desk: Desk) -> None:
    worker = desk.worker()
    gateway = worker.gateway
    routes = gateway.routes
    desk.write(
        {
            "admin_token": "an0ther",
            "limits": {"head": "2KiB", "target": "1KiB", "fields": 7},
            "timeouts": {"head": "1s", "keep_alive": "2s", "write": "3s"},
            "trusted_proxies": ["10.0.0.0/8"],
            "disconnect_drain": {"time": "4s", "bytes": "5KiB", "at_once": 6},
        }
    )
    await worker.reload()
    assert worker._shown()["reloads"]["applied"] == 1
    assert (gateway.head_limits.head_bytes, gateway.head_limits.target_bytes, gateway.head_limits.fields) == (2048, 1024, 7)
    assert (gateway.timeouts.head_s, gateway.timeouts.keep_alive_s, gateway.timeouts.write_s) == (1.0, 2.0, 3.0)
    assert gateway.trusted.contains("10.1.1.1")
    assert (gateway.kit.drain_s, gateway.kit.drain_bytes, gateway.kit.drains.capacity) == (4.0, 5 * 1024, 6)
    assert gateway.number == 2
    assert gateway.routes is not routes
    assert worker._token() == "an0ther"


async def test_a_refused_reload_changes_nothing(desk: Desk) -> None:
    worker = desk.worker()
    routes = worker.gateway.routes
    desk.write({"limits": {"fields": 7}}, to="nowhere")
    await worker.reload()
    shown = worker._shown()
    assert "nowhere" in shown["last_error"]
    assert (shown["number"], shown["reloads"]["refused"]) == (1, 1)
    assert worker.gateway.routes is routes
    assert worker.gateway.head_limits.fields == 100
    assert worker._metrics.reloads["refused"] == 1


async def test_what_changed_before_the_watching_is_caught_up_with(desk: Desk) -> None:
    worker = desk.worker()
    await worker._catch_up()
    assert worker._shown()["reloads"] == {"applied": 0, "unchanged": 0, "refused": 0}, "nothing had changed, nothing is counted"
    desk.write({"limits": {"fields": 7}})
    await worker._catch_up()
    assert worker.gateway.head_limits.fields == 7
    desk.file.write_text("routes: broken")
    await worker._catch_up()
    assert worker._shown()["reloads"] == {"applied": 1, "unchanged": 0, "refused": 1}


async def test_signals_that_come_together_are_one_reload(desk: Desk) -> None:
    worker = desk.worker()
    for _ in range(50):
        worker._hang_up()
    assert len(worker._tasks) == 1
    while len(worker._tasks):
        await asyncio.sleep(0)
    assert worker._shown()["reloads"]["unchanged"] == 1
    worker._hang_up()
    while len(worker._tasks):
        await asyncio.sleep(0)
    assert worker._shown()["reloads"]["unchanged"] == 2


async def test_restart_needed_is_measured_by_what_the_ports_were_opened_with(desk: Desk) -> None:
    started = desk.post().started
    desk.write({"bind": "127.0.0.1:9"})
    worker = desk.worker(started=started)  # as a replacement begins, when the file has changed since
    assert worker._shown()["restart_needed"] == ["gate.bind"]


async def test_a_second_and_a_third_signal(desk: Desk) -> None:
    worker = desk.worker()
    died: list[int] = []
    worker._die = died.append  # type: ignore[method-assign,assignment]  # what it would do ends this process
    for wanted in ((True, False, 0), (True, True, 0), (True, True, 1)):
        worker._end_asked(15)  # type: ignore[arg-type]
        assert (worker.asked_to_end.is_set(), worker._hurry.is_set(), len(died)) == wanted


async def test_a_new_certificate_is_put_in_place_and_a_broken_one_is_not(desk: Desk, tmp_path: Path) -> None:
    authority = trustme.CA()

    def issue() -> None:
        leaf = authority.issue_cert("localhost")
        leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    issue()
    desk.write({"tls": {"cert": "cert.pem", "key": "key.pem"}})
    post = desk.post()
    assert post.tls is not None
    worker = Worker(post, server_context(post.tls))
    first = worker._certificate
    await worker.reload()
    assert worker._certificate == first
    issue()
    await worker.reload()
    second = worker._certificate
    assert second != first
    assert {tmp_path / "key.pem", tmp_path / "cert.pem"} <= set(worker._reload.files)
    (tmp_path / "key.pem").write_text("rubbish")
    await worker.reload()
    assert worker._certificate == second
    assert "gate.tls.cert" in worker._shown()["last_error"]


async def test_a_new_authority_for_an_upstream_is_believed(desk: Desk, tmp_path: Path) -> None:
    """Nothing in the document has changed, and connections made from now on rest on the new file."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    service = {"id": "a", "url": "https://127.0.0.1:9", "tls": {"ca": "ca.pem"}}
    desk.write(services=[service])
    worker = desk.worker()

    def authorities() -> list[bytes]:
        [row] = worker.gateway.routes.rows()
        assert row.plan.service is not None
        [keeper] = row.plan.service.keepers.values()
        assert keeper.tls is not None
        return keeper.tls.get_ca_certs(binary_form=True)

    first = authorities()
    await worker.reload()
    assert authorities() == first
    assert worker._shown()["reloads"]["unchanged"] == 1
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    await worker.reload()
    assert authorities() != first
    assert worker._shown()["reloads"]["applied"] == 1


def test_tls_stays_as_it_was_started(desk: Desk, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    plain = desk.post()
    desk.write({"tls": {"cert": "cert.pem", "key": "key.pem"}})
    with_tls = desk.post()
    assert plain.tls is None
    assert with_tls.tls == with_tls.started.gate.tls
    assert desk.post(started=plain.started).tls is None
    desk.write()
    assert desk.post(started=with_tls.started).tls == with_tls.started.gate.tls
