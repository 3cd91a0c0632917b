"""What is known of targets now, and the list of models in each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamgate.exchange import Exchange
from streamgate.pipeline.models import ModelsPlan
from tests.kit.clock import ManualClock
from tests.streamgate.pipeline.models_bench import unheard

A = ("a", "up")


def plan(*names: str) -> ModelsPlan:
    bench = unheard(ManualClock(wall=1_750_000_000.0))
    model = bench.config["models"][0]
    bench.reload(models=[model | {"name": name} for name in names])
    models = bench.plan.models
    assert models is not None
    return models


def own(models: ModelsPlan, path: str, *headers: tuple[bytes, bytes], method: bytes = b"GET") -> Any:
    exchange = Exchange(method=method, path=path.encode(), query=None, host=b"h", headers=list(headers), http10=False, started_at=0.0)
    answer = models.own_answer(exchange)
    return None if answer is None else (answer.status, json.loads(answer.body))


def test_the_list_is_in_the_order_of_the_configuration() -> None:
    models = plan("zeta", "alpha/beta")
    created = 1_750_000_000
    entries = [{"id": name, "object": "model", "created": created, "owned_by": "streamgate"} for name in ("zeta", "alpha/beta")]
    assert own(models, "/v1/models") == (200, {"object": "list", "data": entries})
    assert own(models, "/team/v1/models", method=b"HEAD") == (200, {"object": "list", "data": entries})
    assert own(models, "/v1/models/alpha/beta") == (200, entries[1])


def test_who_speaks_as_anthropics_sdk_reads_its_list() -> None:
    models = plan("zeta", "alpha")
    theirs = (b"Anthropic-Version", b"2023-06-01")
    status, said = own(models, "/v1/models", theirs)
    assert (status, said["first_id"], said["last_id"], said["has_more"]) == (200, "zeta", "alpha", False)
    assert [(one["type"], one["id"]) for one in said["data"]] == [("model", "zeta"), ("model", "alpha")]
    assert own(models, "/v1/models/zeta", theirs)[1]["display_name"] == "zeta"
    assert own(models, "/v1/models")[1]["object"] == "list"


@pytest.mark.parametrize(("path", "method"), [("/v1/chat/completions", b"GET"), ("/v1/models", b"POST"), ("/v1/models", b"DELETE"), ("/v1/models/nobody", b"GET"), ("/v1/modelsx", b"GET")])
def test_everything_else_is_no_list(path: str, method: bytes) -> None:
    assert own(plan("tutor"), path, method=method) is None


def test_a_list_is_written_once() -> None:
    models = plan("tutor")
    exchange = Exchange(method=b"GET", path=b"/v1/models", query=None, host=b"h", headers=[], http10=False, started_at=0.0)
    assert models.own_answer(exchange) is models.own_answer(exchange)


def test_room_is_an_endpoints_and_cooling_the_targets() -> None:
    clock = ManualClock()
    bench = unheard(clock, services={"max_in_flight": 1})
    standing, model = bench.model.standing, bench.model
    (endpoint,) = model.services["a"].keepers
    assert (standing.has_room(A), standing.cools_until(A)) == (True, 0.0)
    lease = endpoint.count.take()
    assert lease is not None
    assert not standing.has_room(A)
    lease.release()
    model.cooldowns[A].failed(clock.now(), 429, 9.0)
    assert (standing.has_room(A), standing.cools_until(A)) == (True, clock.now() + 9.0)
