"""A plan is a value: made once, read by every exchange, changed by none."""

import dataclasses
from typing import Any

import pytest

from tests.streamgate.pipeline.bench import Bench, configured


def plans() -> list[Any]:
    bench = Bench(configured("http://127.0.0.1:9"))
    return [bench.plan, bench.service]


def test_nothing_in_a_plan_can_be_replaced() -> None:
    for plan in plans():
        for field in dataclasses.fields(plan):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(plan, field.name, None)
        with pytest.raises((AttributeError, TypeError)):
            plan.other = 1


def test_a_plan_does_one_thing() -> None:
    config = configured("http://127.0.0.1:9")
    config["routes"].append({"id": "t", "match": {"paths": ["/teapot"]}, "to": {"respond": {"status": 418}}})
    routes = Bench(config).gateway.routes
    for path in (b"/x", b"/teapot"):
        plan = routes.match(b"", path, b"GET").plan  # type: ignore[union-attr]
        assert (plan.service is None) is not (plan.respond is None)


def test_plans_do_not_show_secrets() -> None:
    bench = Bench(configured("http://127.0.0.1:9", service_credentials={"bearer": "hunter2"}))
    assert "hunter2" not in repr(bench.plan)
    assert "hunter2" not in repr(bench.service)
