"""One exchange's way through the pipeline, with a client in the test's hand and upstreams that are real."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from streamgate.edge.body import NO_BODY, Body
from streamgate.edge.enter import Gateway
from streamgate.errors import Fault
from streamgate.exchange import Dialect, Exchange
from streamgate.headers import Networks, Peer
from streamgate.observe.records import Record
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.run import run
from streamgate.pipeline.upstream import Sending
from tests.kit.inside import Told, gateway_of


class Client:
    """A client's connection: what was written to it, and what else happened."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self.peer = Peer("192.0.2.1", tls=False, trusted=Networks())
        self.live: Sending | None = None
        self.got = b""
        self.refusals: list[Fault] = []
        self.cuts = 0
        self.continued = 0
        self.body: Body = NO_BODY

    def write(self, data: bytes) -> None:
        self.got += data

    def waiting_bytes(self) -> int:
        return 0

    def cut(self, *, reset: bool) -> None:
        self.cuts += 1

    def keeps_alive(self, *, until_close: bool) -> bool:
        return not until_close

    def say_continue(self) -> None:
        self.continued += 1

    def pull(self) -> None:
        self.body.pull()

    def refuse(self, exchange: Exchange, fault: Fault) -> None:
        self.refusals.append(fault)

    def hold(self) -> None:
        """Of its body's reading."""

    def release(self) -> None:
        """Of its body's reading."""


class Bench:
    """A gateway without an edge. ``config`` as in a file; the first route is taken."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.gateway: Gateway = gateway_of(config)
        self.kit = self.gateway.kit
        self.settled = 0
        settle = self.kit.settle

        def counted(*args: Any) -> None:
            self.settled += 1
            settle(*args)

        self.kit.settle = counted
        self.client = Client()

    @property
    def records(self) -> list[Record]:
        told = self.gateway.records
        assert isinstance(told, Told)
        return told.seen

    @property
    def plan(self) -> Plan:
        found = self.gateway.routes.match(b"", b"/x", b"GET")
        plan: Plan = found.plan  # type: ignore[union-attr]
        return plan

    @property
    def service(self) -> ServicePlan:
        service = self.plan.service
        assert service is not None
        return service

    def exchange(self, method: bytes = b"GET", path: bytes = b"/x", **named: list[bytes]) -> Exchange:
        made = Exchange(
            method=method, path=path, query=None, host=b"a", headers=[], http10=False, started_at=self.kit.clock.now(),
            named={name.encode(): values for name, values in named.items()},
        )  # fmt: skip
        made.request_id = b"r-1"
        made.pattern = "/*"
        made.client_address = "192.0.2.1"
        if path.startswith(b"/v1/chat"):
            made.dialect = Dialect.OPENAI
        return made

    def starts(
        self, exchange: Exchange | None = None, body: bytes | None = None, length: int | None = None
    ) -> asyncio.Task[None]:
        """Run one exchange in a task of its own, as a connection does."""
        self.client.body = (
            NO_BODY if body is None else Body(bytearray(body), len(body) if length is None else length, self.client)
        )
        self.client.loop = asyncio.get_running_loop()
        self.client.body.look()
        self.buffer = self.client.body._buffer
        self.last = exchange or self.exchange()
        plan = self.plan
        assert plan.service is not None
        return asyncio.ensure_future(run(self.last, plan, plan.service, self.client, self.client.body, self.kit))

    def nothing_is_held(self) -> None:
        """After an exchange: every permit given back, nothing open, settled once."""
        assert self.settled == len(self.records)
        assert len(self.kit.registry) == 0
        assert self.client.live is None
        assert self.plan.metrics.in_flight.held == 0
        assert self.kit.drains.held == 0
        assert [endpoint.count.held for endpoint in self.service.keepers] == [0] * len(self.service.keepers)
        assert sum(keeper.counts()[0] for keeper in self.service.keepers.values()) == 0

    def close(self) -> None:
        for keeper in self.service.keepers.values():
            keeper.retire()


def configured(*urls: str, **route: Any) -> dict[str, Any]:
    """One service of these endpoints and one route to it; keys that begin with ``service_`` are the service's."""
    service = {name.removeprefix("service_"): value for name, value in route.items() if name.startswith("service_")}
    rest = {name: value for name, value in route.items() if not name.startswith("service_")}
    return {
        "services": [{"id": "s", "endpoints": [{"url": url} for url in urls], **service}],
        "routes": [{"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "s"}, **rest}],
    }
