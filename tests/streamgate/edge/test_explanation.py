"""What would happen to one request, through the gateway's own stages, while the gateway lives. What the command line tells of
requests to services stands in tests/streamgate/cli/test_explain.py, of models in tests/streamgate/pipeline/explaining.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgate.catalogue import PICKERS
from streamgate.config.spec import Spec
from streamgate.edge.explanation import Scene, explained
from streamgate.kept import Kept
from streamgate.observe.metrics import Metrics
from streamgate.pipeline.build import Builder
from streamgate.pipeline.explaining.asked import asked_for
from tests.kit.around import around
from tests.kit.clock import ManualClock

ENDPOINTS = [{"url": "http://x.example"}, {"url": "http://y.example"}]


class Gate:
    """Routes to a service with two endpoints, and to an answer."""

    def __init__(self, *, is_live: bool = True, **service: Any) -> None:
        self.clock = ManualClock()
        self.spec = Spec.model_validate(
            {
                "services": [{"id": "s", "endpoints": ENDPOINTS, "max_in_flight": 1, **service}],
                "routes": [
                    {"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "s"}, "max_body": "4B"},
                    {"id": "hello", "match": {"paths": ["/hello"]}, "to": {"respond": {"status": 200, "body": "hi"}}},
                ],
            }
        )
        self.metrics = Metrics()
        builder = Builder(kept=Kept(), metrics=self.metrics, clock=self.clock, pickers=PICKERS, around=around(self.clock))
        self.built = builder.build(self.spec)
        self.scene = Scene(self.spec, self.built, self.clock, b"gate-1", is_live=is_live)
        plan = next(entry.plan for entry in self.built.routes.rows() if entry.plan.route == "all")
        assert plan.service is not None
        self.pool = plan.service.pool

    async def told(self, url: str = "/x", *headers: tuple[str, str], method: str = "GET", body: bytes | None = None) -> dict[str, Any]:
        found = await explained(asked_for(method, url, headers, host="gate.example", body=body), self.scene)
        json.dumps(found)
        return found


async def test_loads_are_those_of_now() -> None:
    gate = Gate()
    x, y = gate.pool.endpoints
    lease = x.count.take()
    found = await gate.told()
    assert [(one["in_flight"], one["verdict"]) for one in found["service"]["endpoints"]] == [(1, "full: 1 of 1 in flight"), (0, "picked")]
    assert (found["live"], found["outcome"], found["upstream"]["host"]) == (True, "relayed", "y.example")
    y.failed(gate.clock.now())
    assert (await gate.told())["upstream"]["host"] == "y.example", "nobody else has room"
    y.count.take()
    busy = await gate.told()
    assert (busy["outcome"], busy["refusal"]["code"]) == ("refused", "overloaded")
    assert "upstream" not in busy
    assert lease is not None
    lease.release()
    assert (await gate.told())["upstream"]["host"] == "x.example"


async def test_a_request_that_has_passed_here_before() -> None:
    via = ("Via", "1.1 gate-1")
    assert (await Gate().told("/x", via))["refusal"]["code"] == "loop_detected"
    assert (await Gate().told("/hello", via))["outcome"] == "answered"
    assert (await Gate(is_live=False).told("/x", via))["outcome"] == "relayed", "what it will call itself is not known yet"


async def test_a_body_as_large_as_may_be() -> None:
    assert (await Gate().told(method="POST", body=b"1234"))["outcome"] == "relayed"
    for framing in ([], [("Transfer-Encoding", "chunked")]):
        found = await Gate().told("/x", *framing, method="POST", body=b"12345")
        assert (found["outcome"], found["matched"], found["refusal"]["status"]) == ("refused", True, 413)


async def test_nothing_is_counted() -> None:
    gate = Gate(balance="round_robin")
    before = list(gate.metrics.families())
    for _ in range(100):
        for url in ("/x", "/hello", "/%00"):
            await gate.told(url)
    assert list(gate.metrics.families()) == before
    assert [one.count.taken for one in gate.pool.endpoints] == [0, 0]
    assert [one.credit for one in gate.pool.endpoints] == [0, 0]


TEXT = st.text(st.characters(codec="latin-1"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT", "x", ""]),
    st.one_of(TEXT.map(lambda text: "/" + text), st.just("*"), TEXT.map(lambda text: "http://" + text)),
    st.lists(st.tuples(st.sampled_from(["Host", "Content-Length", "Transfer-Encoding", "Via", "x"]), TEXT), max_size=3),
    st.one_of(st.none(), st.binary(max_size=6)),
)
def test_whatever_is_asked_there_is_an_answer(method: str, url: str, headers: list[tuple[str, str]], body: bytes | None) -> None:
    try:
        asked = asked_for(method, url, headers, host="gate.example", body=body)
    except ValueError:
        return
    found = _at_once(explained(asked, Gate().scene))
    assert json.dumps(found)
    assert (found["outcome"] == "refused") is (found["refusal"] is not None)
    assert found["matched"] or found["outcome"] == "refused"


def _at_once(question: Any) -> dict[str, Any]:
    """The answer of a question that nothing has to be waited for."""
    with pytest.raises(StopIteration) as end:
        question.send(None)
    found: dict[str, Any] = end.value.value
    return found
