"""A gateway with models in this process, between clients and two upstreams in the test's hand; and what must be true after anything.

async with models_bench(queue={"max_in_flight": 1}) as bench:
    task = bench.asks(messages=[])
    await (await bench.a.next_request()).send(told("hello"))
    assert (await task).status == 200
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from streamgate.catalogue import PICKERS
from streamgate.clock import SystemClock
from streamgate.config.spec import Spec
from streamgate.edge.enter import Gateway
from streamgate.kept import Kept
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.metrics import Metrics
from streamgate.observe.records import Record
from streamgate.pipeline.build import Builder, Built
from streamgate.pipeline.models import ModelPlan
from streamgate.pipeline.plan import Plan
from streamgate.pipeline.prompting import Prompting
from tests.end_to_end.models_stage import CHAT
from tests.kit.around import SetFlags, around
from tests.kit.client import RawClient, Response
from tests.kit.inside import Told, edge_of, serving
from tests.kit.upstream import RawUpstream
from tests.kit.wait import eventually


class Chance(SystemClock):
    """The machine's clock, whose wall breaks once when it is told to: a defect in the middle of an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def wall(self) -> float:  # type: ignore[override]
        if self.broken:
            self.broken = False
            raise ZeroDivisionError("hunter2")
        return 1_750_000_000.0


class ModelsBench:
    """``a`` and ``b`` are what services a and b lead to; ``model`` and ``route`` are laid over a plain configuration of both."""

    def __init__(self, a: RawUpstream, b: RawUpstream, config: Mapping[str, Any], **parts: Any) -> None:
        self.a, self.b = a, b
        self.clock = parts.pop("clock", None) or Chance()
        self.flags = parts.pop("flags", None) or SetFlags()
        self._around = replace(around(self.clock, self.flags), **parts)
        self._kept, self._metrics = Kept(), Metrics()
        self._builder = Builder(
            kept=self._kept, metrics=self._metrics, clock=self.clock, pickers=PICKERS, around=self._around
        )  # fmt: skip
        self.config = dict(config)
        self.built: list[Built] = []
        self.asked = 0
        self.port = 0
        self.lost: list[Any] = []
        spec = Spec.model_validate(self.config)
        self.gateway: Gateway = edge_of(spec, self._build(spec), self._metrics, self.clock)

    def _build(self, spec: Spec) -> Built:
        self.built.append(self._builder.build(spec))
        return self.built[-1]

    def reload(self, **changed: Any) -> None:
        """Put another configuration in force: these parts of it are new."""
        self.config |= changed
        built = self._build(Spec.model_validate(self.config))
        self.gateway.routes = built.routes
        self._kept.retain(built.keys)

    def remodel(self, **changed: Any) -> None:
        """The same with other settings of the model."""
        self.reload(models=[self.config["models"][0] | changed])

    @property
    def gen_ai(self) -> GenAi:
        return self._around.gen_ai

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def model(self) -> ModelPlan:
        return self.built[-1].models["tutor"]

    @property
    def plan(self) -> Plan:
        found = self.gateway.routes.match(b"", CHAT.encode(), b"POST")
        plan: Plan = found.plan  # type: ignore[union-attr]
        return plan

    @property
    def live(self) -> list[Prompting]:
        """Every request that is under way."""
        return [one for one in self.gateway.kit.registry if isinstance(one, Prompting)]

    @property
    def records(self) -> list[Any]:
        told = self.gateway.records
        assert isinstance(told, Told)
        found: list[Record] = told.seen
        return found

    # -- clients -------------------------------------------------------------------------------------------------------

    def request(self, members: Mapping[str, Any], *lines: str, path: str = CHAT) -> bytes:
        """A request for the model ``tutor``."""
        body = json.dumps({"model": "tutor", **members}).encode()
        self.asked += 1
        return "\r\n".join([f"POST {path} HTTP/1.1", "Host: gate", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body

    async def sent(self, *lines: str, path: str = CHAT, **members: Any) -> RawClient:
        """A client that has asked."""
        client = await RawClient.open(self.port)
        await client.send(self.request(members, *lines, path=path))
        return client

    def asks(self, *lines: str, path: str = CHAT, **members: Any) -> asyncio.Task[Response]:
        """Ask, and read the whole answer."""

        async def ask() -> Response:
            async with await self.sent(*lines, path=path, **members) as client:
                return await client.answer()

        return asyncio.ensure_future(ask())

    def aborts(self) -> None:
        """Every client's connection is lost, at this place of the loop's turn."""
        for connection in tuple(self.gateway.connections):
            connection.transport.abort()

    # -- after anything ------------------------------------------------------------------------------------------------

    def loses(self, context: dict[str, Any]) -> None:
        """The loop tells of an error that nobody took; that the test's own ends of connections break is no such error."""
        error = context.get("exception")
        of_another_loop = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"  # a client that an SDK left open
        if not isinstance(error, ConnectionError) and not of_another_loop:
            self.lost.append(context)

    async def nothing_is_held(self) -> None:
        """Every lease of every kind is back, nothing runs, and each request has been recorded once."""
        await eventually(lambda: len(self.records) == self.asked)
        await eventually(lambda: not len(self.gateway.kit.tasks))
        await eventually(lambda: not any(busy for _, busy in self._connections()))
        assert self.held() == {}
        assert len({record.request_id for record in self.records}) == self.asked
        gc.collect(1)  # a future whose exception nobody took says so when it goes
        await asyncio.sleep(0)
        assert not self.lost, self.lost

    def held(self) -> dict[str, Any]:
        """What is not back, by its name; of everything that was ever built."""
        kit = self.gateway.kit
        found: dict[str, Any] = {"registry": len(kit.registry), "drains": kit.drains.held, "watch": len(kit.watch)}
        for number, built in enumerate(self.built):
            for plan in built.models.values():
                name = f"{plan.model.name} {number}"
                line, sharing = plan.line.statistics(), plan.sharing
                found |= {
                    f"{name} line": line.held,
                    f"{name} waiting": (line.waiting + line.waiting_bytes) or plan.line.waiting,
                    f"{name} loads": len(plan.loads.statistics().held),
                    f"{name} probes": sum(one._probes.held for one in plan.cooldowns.values()),
                    f"{name} endpoints": sum(one.count.held for service in plan.services.values() for one in service.keepers),
                    f"{name} flights": sharing.flights.statistics().flying + sharing.flights.statistics().riding,
                }
                if sharing.batches is not None:
                    batches = sharing.batches.statistics()
                    calls = len(sharing._batching._calls)  # type: ignore[union-attr]  # it has batches
                    found[f"{name} batches"] = batches.flying + batches.waiting + batches.keys + calls
            found[f"route {number}"] = sum(row.plan.metrics.in_flight.held for row in built.routes.rows())
        return {name: count for name, count in found.items() if count}

    def _connections(self) -> list[tuple[str, int]]:
        keepers = {keeper for built in self.built for plan in built.models.values() for one in plan.services.values() for keeper in one.keepers.values()}
        return [(keeper.endpoint.id, keeper.counts()[0]) for keeper in keepers]

    def close(self) -> None:
        """Keep no connection."""
        self._kept.retain(())


def configured(a: str, b: str, *, route: Mapping[str, Any] | None = None, services: Mapping[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    """The model ``tutor`` at a, b its fallback; ``services`` is laid over both, ``model`` over the model."""
    timeouts = {"connect": "20s", "first_byte": "30s", "idle": "30s"}  # nothing ends by itself
    return {
        "flags": {"provider": "flagd", "file": "/nowhere/flags.json"},
        "services": [{"id": name, "url": url, "timeouts": timeouts, **(services or {})} for name, url in (("a", a), ("b", b))],
        "models": [
            {
                "name": "tutor",
                "splits": {"stable": [{"service": "a", "model": "up"}], "canary": [{"service": "b", "model": "up-b"}]},
                "fallback": ["canary"],
                **model,
            }
        ],
        "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}, **(route or {})}],
    }


def unheard(clock: Any = None, **config: Any) -> ModelsBench:
    """One whose upstreams are nobody, for what sends nothing."""
    nobody: Any = None
    return ModelsBench(nobody, nobody, configured("http://127.0.0.1:9001", "http://127.0.0.1:9002", **config), clock=clock)


@asynccontextmanager
async def models_bench(*, parts: Mapping[str, Any] | None = None, checks: bool = True, **config: Any) -> AsyncIterator[ModelsBench]:
    """Start it; at the end nothing may be held, unless that is not to be asked. ``parts`` go into its ``Around``."""
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(RawUpstream()) for _ in range(2)]
        bench = ModelsBench(a, b, configured(a.url, b.url, **config), **(parts or {}))
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: bench.loses(context))
        bench.port = await stack.enter_async_context(serving(bench.gateway))
        yield bench
        if checks:
            await bench.nothing_is_held()
        bench.close()
