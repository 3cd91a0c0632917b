"""A checked configuration becomes plans: everything that can be decided before a request comes is decided here."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from routers.paths import Routes, Row
from routers.pools import Endpoint, Picker, Pool
from sessions.relay import Limits
from streamgate.clock import Clock
from streamgate.config.certificates import identities
from streamgate.config.spec import Spec
from streamgate.config.spec_gate import Gate
from streamgate.config.spec_route import Respond, Route
from streamgate.config.spec_service import EndpointSpec, Service, Timeouts
from streamgate.errors import Answer
from streamgate.exchange import Exchange
from streamgate.headers import values
from streamgate.kept import Kept
from streamgate.observe.metrics import Metrics, ServiceMetrics
from streamgate.pipeline.build_models import Around, ModelsBuilder
from streamgate.pipeline.connections import KeepAlive, Keeper
from streamgate.pipeline.models import ModelPlan
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.tls import upstream_context
from streamgate.policies.retries import Budget, Retries


@dataclass(frozen=True, slots=True)
class Built:
    """What a snapshot serves by: the route table, and what identifies the state it uses."""

    routes: Routes[Plan]
    keys: frozenset[Hashable]
    route_ids: tuple[str, ...]
    service_ids: tuple[str, ...]
    model_names: tuple[str, ...]
    models: Mapping[str, ModelPlan]


class Builder:
    """Makes plans of specs for one worker, over state that outlives them."""

    def __init__(
        self, *, kept: Kept, metrics: Metrics, clock: Clock, pickers: Mapping[str, Callable[[Callable[[], float]], Picker]],
        around: Around,
    ) -> None:  # fmt: skip
        self._models = ModelsBuilder(kept, around)
        self._pickers = pickers
        self._kept = kept
        self._metrics = metrics
        self._clock = clock
        self._number = 0

    def build(self, spec: Spec) -> Built:
        """Raises OSError or ssl.SSLError where a certificate cannot be read; nothing is changed then but the state's keys."""
        self._number += 1
        keys: set[Hashable] = set()
        keepers = [self._keepers(service, keys) for service in spec.services]  # all that can fail, before anything is changed
        services = {
            service.id: self._service(service, found, keys) for service, found in zip(spec.services, keepers, strict=True)
        }
        specs = {service.id: service for service in spec.services}
        models = self._models.plans(spec, services, keys)
        rows = []
        for route in spec.routes:
            service_id = route.to.service
            plan = self._plan(route, services.get(service_id or ""), specs.get(service_id or ""), spec.gate)
            if route.to.models:
                limits = {one.id: _limits(route, one.timeouts, spec.gate) for one in spec.services}
                led = self._models.route(route, spec, models, limits, self._nobody(), keys)
                plan = replace(plan, models=led, service=led.nobody)
            rows.append(Row(tuple(route.match.hosts), tuple(route.match.paths), tuple(route.match.methods), plan))
        names = tuple(model.name for model in spec.models)
        return Built(Routes(rows), frozenset(keys), tuple(route.id for route in spec.routes), tuple(services), names, models)

    def _nobody(self) -> ServicePlan:
        """Stands in an exchange until a service is chosen for it."""
        return ServicePlan(
            id="", pool=Pool("", (), self._pickers["least_in_flight"](self._clock.random)), keepers={}, connect_s=None,
            credentials=b"", withheld=frozenset(), budget=Budget(), metrics=ServiceMetrics(),
        )  # fmt: skip

    def _keepers(self, service: Service, keys: set[Hashable]) -> list[tuple[EndpointSpec, Keeper]]:
        tls_key: Hashable = None
        if (tls := service.tls) is not None:
            files = tuple(path for path in (tls.ca, tls.cert, tls.key) if path is not None)
            tls_key = (json.dumps(tls.model_dump(mode="json"), sort_keys=True), identities(files))
        found = []
        for one in service.all_endpoints:
            key = ("endpoint", service.id, one.url, tls_key, service.pool.max_idle, service.pool.idle)
            keys.add(key)
            found.append((one, self._kept.get(key, partial(self._keeper, service, one), retire=Keeper.retire)))
        return found

    def _service(self, service: Service, found: list[tuple[EndpointSpec, Keeper]], keys: set[Hashable]) -> ServicePlan:
        keepers: dict[Endpoint, Keeper] = {}
        for one, keeper in found:
            keeper.endpoint.weight = one.weight
            keeper.endpoint.region = one.region
            keeper.endpoint.count.resize(service.max_in_flight)
            keepers[keeper.endpoint] = keeper
        budget_key, lines_key = ("budget", service.id), ("lines", service.id)
        keys |= {budget_key, lines_key}
        metrics = self._metrics.service(service.id)
        kept = self._kept

        def connections() -> list[tuple[str, int]]:
            counts = [k.counts() for k in kept.values(Keeper) if k.service == service.id]
            return [("active", sum(active for active, _ in counts)), ("idle", sum(idle for _, idle in counts))]

        metrics.connections = connections
        name, value = service.credentials.as_header if service.credentials else ("", "")
        return ServicePlan(
            id=service.id,
            pool=Pool(service.id, keepers, self._pickers[service.balance](self._clock.random)),
            keepers=keepers,
            connect_s=service.timeouts.connect,
            credentials=f"{name}: {value}\r\n".encode("latin-1") if name else b"",
            withheld=frozenset({name.lower().encode()}) if name else frozenset(),
            budget=self._kept.get(budget_key, Budget),
            metrics=metrics,
            lines=self._kept.get(lines_key, list),
        )

    def _keeper(self, service: Service, one: EndpointSpec) -> Keeper:
        endpoint = Endpoint(one.host, one.port, tls=one.is_tls, weight=one.weight, region=one.region)
        return Keeper(
            endpoint,
            service=service.id,
            tls=upstream_context(service.tls) if one.is_tls else None,
            server_name=service.tls.server_name if service.tls else None,
            keep_alive=KeepAlive(service.pool.max_idle, service.pool.idle or 0.0),
            now=self._clock.now,
        )

    def _plan(self, route: Route, service: ServicePlan | None, spec: Service | None, gate: Gate) -> Plan:
        timeouts = route.timeouts_over(spec.timeouts if spec is not None else Timeouts())
        if service is not None and timeouts.connect != service.connect_s:
            service = ServicePlan(
                service.id, service.pool, service.keepers, timeouts.connect, service.credentials, service.withheld,
                service.budget, service.metrics, service.lines,
            )  # fmt: skip
        rewrite = route.rewrite
        host = route.host_policy
        return Plan(
            route=route.id,
            service=service,
            respond=_answer(route.to.respond) if route.to.respond is not None else None,
            limits=_limits(route, spec.timeouts if spec is not None else Timeouts(), gate),
            drains=route.on_disconnect == "drain",
            strip=rewrite.strip_prefix.encode() if rewrite and rewrite.strip_prefix else None,
            add=rewrite.add_prefix.encode() if rewrite and rewrite.add_prefix else None,
            host={"upstream": None, "preserve": b""}.get(host, host.encode()),
            retries=Retries(attempts=route.retries.attempts, on=frozenset(route.retries.on)),
            key=hash_key(spec.hash_by) if spec is not None and spec.balance == "hash" else None,
            keep_encoded_slash=route.encoded_slash == "keep",
            max_body_bytes=route.max_body_bytes(gate.limits.body),
            metrics=self._metrics.route(route.id),
            number=self._number,
        )


def _limits(route: Route, base: Timeouts, gate: Gate) -> Limits:
    """The deadlines of a route's exchanges with a service whose own timeouts are ``base``."""
    timeouts = route.timeouts_over(base)
    return Limits(
        first_byte_s=timeouts.first_byte,
        idle_s=timeouts.idle,
        total_s=timeouts.total,
        body_s=gate.timeouts.body,
        write_s=gate.timeouts.write,
    )


def _answer(respond: Respond) -> Answer:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in respond.headers.items()]
    if respond.body and not any(name.lower() == b"content-type" for name, _ in headers):
        headers.append((b"Content-Type", b"text/plain; charset=utf-8"))
    return Answer(respond.status, tuple(headers), respond.body.encode())


def hash_key(sources: tuple[str, ...]) -> Callable[[Exchange], bytes | None]:
    """A function from an exchange to what ``balance: hash`` hashes: the first of ``sources`` that is present."""
    readers = [_reader(source) for source in sources]

    def key(exchange: Exchange) -> bytes | None:
        for read in readers:
            found = read(exchange)
            if found:
                return found
        return None

    return key


def _reader(source: str) -> Callable[[Exchange], bytes | None]:
    kind, _, name = source.partition(":")
    wanted = name.encode("latin-1")
    match kind:
        case "header":
            return lambda exchange: next(iter(values(exchange.headers, wanted.lower())), None)
        case "cookie":
            return lambda exchange: _pair(b";".join(values(exchange.headers, b"cookie")), wanted, b";")
        case "query":
            return lambda exchange: _pair(exchange.query or b"", wanted, b"&")
        case "path":
            return lambda exchange: exchange.path
        case _:
            return lambda exchange: exchange.client_address.encode()


def _pair(text: bytes, name: bytes, separator: bytes) -> bytes | None:
    for part in text.split(separator):
        key, equals, value = part.strip().partition(b"=")
        if equals and key == name:
            return value
    return None
