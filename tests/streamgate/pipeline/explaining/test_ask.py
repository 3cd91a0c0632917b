"""What would happen to a request to a model: every stage in its turn, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.streamgate.pipeline.explaining.stand import Stand

SECRET = "s3cret-words"
KEY = ("x-session-id", "the-key")
STICKY = ["header:x-session-id", "body:user"]


async def test_a_request_with_a_key_from_its_model_to_its_upstream() -> None:
    stand = Stand(sticky=STICKY, fallback=["stable"], top={"auth": {"tenant": {"from": ["header:x-tenant", "host"]}}})
    stand.flags.values["f"] = "canary"
    found = await stand.explain({"stream": True, "messages": [{"content": SECRET}]}, KEY)
    model, target = found["model"], found["model"]["target"]
    assert (found["outcome"], found["matched"], found["live"], found["route"]["id"]) == ("relayed", True, True, "llm")
    assert (model["name"], model["operation"], model["stream"]) == ("tutor", "chat", True)
    assert model["tenant"] == {"name": "gate", "from": "host"}
    assert model["sticky"] == {"from": "header:x-session-id", "sources": STICKY}
    assert [one["name"] for one in model["flag"]["context"]] == ["route", "model", "tenant", "targetingKey"]
    assert stand.flags.asked == [("f", {"route": "llm", "model": "tutor", "tenant": "gate", "targetingKey": "the-key"})]
    assert (model["split"]["name"], model["split"]["why"]) == ("canary", "flag")
    assert [one["service"] for one in model["split"]["targets"]] == ["a", "b"]
    assert (target["how"], target["because"]) == ("sticky", "it is its key's own")
    assert model["order"][0] == {
        "split": "canary", "how": "sticky", "targets": [{"service": target["service"], "model": target["model"], "share": 1.0}],
    }  # fmt: skip
    assert [step["split"] for step in model["order"]] == ["canary", "canary", "stable"]
    assert [service["id"] for service in found["services"]] == list(dict.fromkeys(step["targets"][0]["service"] for step in model["order"]))
    assert found["upstream"]["model"] == target["model"]
    assert found["upstream"]["host"] == f"{target['service']}.example"
    fields = dict(found["upstream"]["headers"])
    assert int(fields["Content-Length"]) == found["upstream"]["body_bytes"]
    assert model["usage"]["asked_upstream"]
    text = json.dumps(found)
    assert SECRET not in text
    assert "the-key" not in text


async def test_the_body_says_what_sticks() -> None:
    stand = Stand(sticky=STICKY)
    model = await stand.told({"user": "the-key"})
    assert model["sticky"]["from"] == "body:user"
    assert "the-key" not in json.dumps(model)
    assert (await stand.told())["sticky"]["from"] is None


async def test_the_key_s_own_header_is_not_shown_whatever_its_name() -> None:
    found = await Stand(sticky=["header:x-who"]).explain({}, ("X-Who", "the-key"))
    assert ["X-Who", "(hidden)"] in found["upstream"]["headers"]


async def test_without_a_key_targets_are_in_turn_and_no_upstream_is_certain() -> None:
    stand = Stand(default="canary", flag=None)
    found = await stand.explain({})
    assert found["model"]["target"] == {"service": None, "model": None, "split": "canary", "how": "turn", "because": "in turn, and the others of these next"}
    assert [one["share"] for one in found["model"]["order"][0]["targets"]] == [0.75, 0.25]
    assert found["upstream"] is None
    stand.cool("a", "tutor")
    found = await stand.explain({})
    assert found["model"]["target"]["because"] == "it is the only one of its split that can be asked now"
    assert found["upstream"]["model"] == "up-b"


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"", 400, "bad_request", "no JSON"),
        (b"{}", 400, "bad_request", 'send "model"'),
        (b"[1]", 400, "bad_request", "must be a JSON object"),
        (b'{"model":"tutor","model":"x"}', 400, "bad_request", "2 times"),
        (b'{"model":"tuto"}', 404, "model_not_found", "did you mean 'tutor'"),
        (b'{"model":"tutor","x":' + b"[" * 5000 + b"]" * 5000 + b"}", None, None, ""),
        (b'{"model":"tutor","user":"\xff"}', None, None, ""),
    ],
)
async def test_what_is_refused_says_why(body: bytes, status: int | None, code: str | None, says: str) -> None:
    stand = Stand(sticky=STICKY)
    found = await stand.explain(body)
    assert (found["outcome"], found["matched"]) == ("refused", True)
    assert "model" not in found
    assert says in found["refusal"]["message"]
    if status is not None:
        assert (found["refusal"]["status"], found["refusal"]["code"]) == (status, code)
    assert stand.flags.asked == []


async def test_without_a_body_all_models_are_told() -> None:
    stand = Stand()
    found = await stand.explain(None)
    assert (found["outcome"], found["refusal"]) == ("depends", None)
    [model] = found["models"]
    assert (model["name"], model["flag"], model["default"]) == ("tutor", "f", "stable")
    assert {split["name"]: [one["requested_share"] for one in split["targets"]] for split in model["splits"]} == {"stable": [1.0], "canary": [0.75, 0.25]}


@pytest.mark.parametrize(("path", "method"), [("/v1/audio/speech", "POST"), ("/v1/chat/completions", "GET")])
async def test_what_no_model_serves(path: str, method: str) -> None:
    found = await Stand().explain(None, path=path, method=method)
    assert (found["outcome"], found["refusal"]["code"]) == ("refused", "no_route")


async def test_the_list_of_models_is_the_gateway_s_own() -> None:
    found = await Stand().explain(None, path="/v1/models", method="GET")
    assert (found["outcome"], found["answer"]["status"]) == ("answered", 200)


async def test_a_full_line_refuses() -> None:
    stand = Stand(queue={"max_in_flight": 1, "max_waiting": 0})
    assert (await stand.explain({}))["outcome"] == "relayed"
    stand.model.line.count.take()
    found = await stand.explain({})
    assert (found["outcome"], found["refusal"]["status"], found["refusal"]["code"]) == ("refused", 429, "queue_full")
    assert found["model"]["queue"]["verdict"] == "refused"
    assert found["upstream"] is None


async def test_who_waits_is_told_where_it_will_go() -> None:
    stand = Stand(services={"a": {"max_in_flight": 1}})
    stand.model.services["a"].pool.endpoints[0].count.take()
    found = await stand.explain({})
    assert (found["outcome"], found["model"]["queue"]["verdict"]) == ("relayed", "waits")
    assert found["model"]["target"]["because"].endswith("once there is room")


async def test_nobody_to_ask() -> None:
    nobody = await Stand(splits={"stable": [{"service": "a", "weight": 0}]}).explain({})
    assert (nobody["refusal"]["status"], nobody["refusal"]["code"]) == (503, "no_healthy_upstream")
    assert nobody["model"]["target"] is None
    assert nobody["model"]["usage"] is None
    never = Stand(services={"a": {"url": None, "endpoints": [{"url": "http://x.example", "weight": 0}]}})
    assert (await never.explain({}))["refusal"]["code"] == "overloaded"


async def test_a_broken_target_is_tried_by_one_at_a_time() -> None:
    stand = Stand()
    for _ in range(3):
        stand.model.cooldowns["a", "up"].failed(stand.clock.now(), "connect")
    for _ in range(3):
        found = await stand.explain({})
        assert (found["outcome"], found["model"]["target"]["how"]) == ("relayed", "cooling")
    probe = stand.model.cooldowns["a", "up"].probe(stand.clock.now())
    assert probe is not None
    assert (await stand.explain({}))["refusal"]["code"] == "no_healthy_upstream"
    probe.release()
    assert (await stand.explain({}))["outcome"] == "relayed"


async def test_an_answer_is_gone_on_from_where_it_was_given() -> None:
    stand = Stand(fallback=["canary"])
    stand.around.answers.remember("resp_1", "b up-b", stand.clock.now())
    found = await stand.explain({"previous_response_id": "resp_1"}, path="/v1/responses")
    model = found["model"]
    assert (model["continues"], model["target"]["service"], model["target"]["how"]) == ({"known": True}, "b", "pinned")
    assert (model["fallback"]["attempts"], len(model["order"])) == (1, 1)
    other = await stand.told({"previous_response_id": "resp_2"}, path="/v1/responses")
    assert (other["continues"], other["target"]["service"], other["fallback"]["attempts"]) == ({"known": False}, "a", 4)
    stand.around.answers.remember("resp_3", "gone up", stand.clock.now())
    assert (await stand.told({"previous_response_id": "resp_3"}, path="/v1/responses"))["continues"] == {"known": False}


@pytest.mark.parametrize(("retries", "attempts"), [(None, 4), ("0", 4), ("1", 2), ("99", 2), ("x", 4), ("9" * 30, 4)])
async def test_who_repeats_itself_gets_fewer_attempts(retries: str | None, attempts: int) -> None:
    headers = [] if retries is None else [("X-Stainless-Retry-Count", retries)]
    assert (await Stand().told({}, *headers))["fallback"]["attempts"] == attempts


async def test_a_refused_key_is_a_reason_where_it_is_ours() -> None:
    assert "credentials" not in (await Stand().told())["fallback"]["after"]
    ours = await Stand(services={"a": {"credentials": {"bearer": SECRET}}}).explain({})
    assert "credentials" in ours["model"]["fallback"]["after"]
    assert SECRET not in json.dumps(ours)


async def test_deadlines_are_the_route_s_over_the_service_s() -> None:
    timeouts = {"connect": "1s", "first_byte": "2s", "idle": "3s", "total": "4s"}
    found = await Stand(services={"a": {"timeouts": timeouts}}, route={"timeouts": {"idle": "30s"}}).explain({})
    assert found["services"][0]["timeouts"] == timeouts | {"idle": "30s"}


@pytest.mark.parametrize(("hedge", "kept"), [(None, True), ({"after": "1s"}, False)])
async def test_a_shared_call_takes_its_answer_as_it_is(hedge: Any, kept: bool) -> None:
    stand = Stand(fallback=["canary"], hedge=hedge)
    found = await stand.explain({}, ("Accept-Encoding", "gzip"), ("X-Other", "1"))
    assert (["Accept-Encoding", "gzip"] in found["upstream"]["headers"]) is kept
    assert ["X-Other", "1"] in found["upstream"]["headers"]


async def test_a_cooling_target_is_nobody_to_hedge_with() -> None:
    stand = Stand(splits={"stable": [{"service": "a"}, {"service": "b"}]}, hedge={"after": "1s"})
    assert (await stand.told())["sharing"]["hedge"]["would"] is True
    stand.cool("b", "tutor")
    assert (await stand.told())["sharing"]["hedge"] == {"would": False, "because": "there is no other target that could be asked now"}


async def test_a_thousand_questions_change_nothing() -> None:
    """Whose turn it is, what is counted, held, waited for and remembered: all as without them."""
    asked, left_alone = (Stand(sticky=STICKY, default="canary", fallback=["stable"], hedge={"after": "1s"}, queue={"max_in_flight": 2}) for _ in range(2))
    bodies: list[Any] = [{}, {"user": "u"}, {"stream": True}, None, b"", b'{"model":"tuto"}', {"previous_response_id": "r"}]
    seen = []
    for stand in (asked, left_alone):
        stand.flags.values["f"] = "odd"
        stand.cool("a", "up")
        if stand is asked:
            for number in range(1000):
                await stand.explain(bodies[number % len(bodies)], *([KEY] if number % 2 else []))
                if number % 100 == 0:
                    await asyncio.sleep(0)
        split = stand.model.model.splits["canary"]
        turns = [split.pick(None, lambda _index: True, stand.model.loads, float) for _ in range(50)]
        model = stand.model
        seen.append(
            (
                [None if one is None else one.pair for one in turns],
                model.line.statistics(), model.loads.statistics(), model.model.statistics(), model.fallbacks.statistics(),
                model.hedging and model.hedging.statistics(), model.sharing.flights.statistics(),
                {pair: one.statistics() for pair, one in model.cooldowns.items()},
                {name: service.pool.statistics() for name, service in model.services.items()},
                [(family.name, family.samples) for family in stand.around.cells.families()],
                [(family.name, family.samples) for family in stand.around.gen_ai.families()],
                [(family.name, family.samples) for family in stand.metrics.families()],
            )
        )  # fmt: skip
    assert seen[0] == seen[1]
