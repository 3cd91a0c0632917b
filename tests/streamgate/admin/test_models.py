"""Every model as it stands: what was given, what is got, who waits and what was tried."""

from __future__ import annotations

import json
from typing import Any

from streamgate.admin.models import models_seen
from tests.streamgate.pipeline.explaining.stand import Stand


def seen(stand: Stand) -> dict[str, Any]:
    found = models_seen(stand.built, stand.clock.now())
    assert json.dumps(found)
    [model] = found["models"]
    return model | {"flags": found["flags"]}


def test_a_model_at_rest() -> None:
    model = seen(Stand(sticky=["header:x-who", "prompt"], fallback=["canary"]))
    assert {name: model[name] for name in ("name", "flag", "default", "fallback", "sticky", "hedging", "batches", "unknown_values")} == {
        "name": "tutor", "flag": "f", "default": "stable", "fallback": ["canary"], "sticky": ["header:x-who", "prompt"], "hedging": None,
        "batches": None, "unknown_values": {},
    }  # fmt: skip
    assert [split["name"] for split in model["splits"]] == ["stable", "canary"]
    assert model["fallbacks"] == {"went_on": 0, "duplicates": 0, "denied": 0}
    assert model["flights"] == {"flying": 0, "riding": 0, "started": 0, "shared": 0}
    assert model["flags"]["provider"] == "flagd"
    assert model["queue"]["shared"] is False


def test_what_has_happened() -> None:
    stand = Stand(queue={"max_in_flight": 1, "max_waiting": 5, "max_wait": "9s"}, hedge={"after": "2s"}, batch={})
    plan, now = stand.model, stand.clock.now()
    stand.cool("b", "up-b", for_s=12.0)
    plan.model.decide("odd")
    plan.loads.take(("a", "tutor"), "k")
    for flow in ("acme", "acme", "globex"):
        plan.line.enter(flow, granted=lambda _slot: None, refused=lambda _fault: None, size_bytes=10)
    plan.fallbacks.decide(503, now, attempt=1, candidates_left=True, generated=False)
    assert plan.hedging is not None
    plan.hedging.deposit(now)
    model = seen(stand)
    a, b = model["splits"][1]["targets"]
    assert (a["in_flight"], a["effective_share"], b["cooling"]) == (1, 1.0, {"for_s": 12.0, "reason": "asked"})
    assert model["unknown_values"] == {"odd": 1}
    queue = model["queue"]
    assert (queue["held"], queue["capacity"], queue["waiting"], queue["waiting_bytes"], queue["max_waiting"], queue["max_wait_s"]) == (1, 1, 2, 20, 5, 9.0)
    assert {flow["flow"]: flow["waiting"] for flow in queue["flows"]} == {"acme": 1, "globex": 1}
    assert model["fallbacks"]["went_on"] == 1
    assert (model["hedging"]["after_s"], model["hedging"]["calls"]) == (2.0, 1)
    assert model["batches"]["flying"] == 0


def test_without_models_there_are_none() -> None:
    stand = Stand(route={"to": {"respond": {"status": 200}}})
    found = models_seen(stand.built, 0.0)
    assert (found["flags"], [one["name"] for one in found["models"]]) == (None, ["tutor"])
