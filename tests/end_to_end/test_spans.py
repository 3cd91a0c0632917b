"""A span of each request at a collector, in the caller's trace."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.models_stage import stage, told
from tests.kit.quiet import at_rest
from tests.kit.wait import eventually
from tests.streamgate.observe.test_spans import collector


async def test_variant_and_reason_are_in_the_span(tmp_path: Path) -> None:
    async with collector() as (url, got), stage(tmp_path, config={"telemetry": {"spans": url}}) as models:
        models.a.answer_with(lambda _one: told("hello"))
        await models.ask(f"traceparent: 00-{'a' * 32}-{'b' * 16}-01")
        await eventually(lambda: got)
        said = {one["key"]: next(iter(one["value"].values())) for one in got[0]["attributes"]}
        assert (got[0]["traceId"], got[0]["parentSpanId"]) == ("a" * 32, "b" * 16)
        assert (said["feature_flag.result.variant"], said["feature_flag.result.reason"]) == ("stable", "static")
        sent = models.a.requests[0].header("traceparent") or ""
        assert sent.split("-")[2] == got[0]["spanId"]
        await models.ask()
        await eventually(lambda: len(got) == 2)
        await at_rest(models.gateway)
        assert await models.gateway.metric("streamgate_spans_total", outcome="sent") == 2
