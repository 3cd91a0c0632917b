"""A configuration becomes plans, and what lives longer than it is found again."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.paths import Matched, WrongMethod
from routers.pools import Picker
from sessions.relay import Limits
from streamgate.catalogue import PICKERS
from streamgate.config.spec import Spec
from streamgate.errors import Answer
from streamgate.exchange import Exchange
from streamgate.kept import Kept
from streamgate.observe.metrics import Metrics
from streamgate.pipeline.build import Builder, Built, hash_key
from streamgate.pipeline.connections import Connection, Keeper
from streamgate.pipeline.plan import Plan, ServicePlan
from tests.kit.clock import ManualClock

URL = "http://127.0.0.1:9001"


class House:
    """What builds share in one worker."""

    def __init__(self) -> None:
        self.kept, self.metrics, self.clock = Kept(), Metrics(), ManualClock()
        self.builder = Builder(kept=self.kept, metrics=self.metrics, clock=self.clock, pickers=PICKERS)

    def build(self, *routes: dict[str, Any], services: list[dict[str, Any]] | None = None, **gate: Any) -> Built:
        """Build, and keep what it names, as a worker does that puts it in force."""
        built = self.builder.build(spec(*routes, services=services, **gate))
        self.kept.retain(built.keys)
        return built

    def plan(self, *, service: dict[str, Any] | None = None, gate: dict[str, Any] | None = None, **route: Any) -> Plan:
        """The plan of one route, by default to one service."""
        return only(self.build(a_route(**route), services=[a_service(**(service or {}))], **(gate or {})))


def a_route(**changes: Any) -> dict[str, Any]:
    return {"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "s"}, **changes}


def a_service(**changes: Any) -> dict[str, Any]:
    return {"id": "s", **({} if "endpoints" in changes else {"url": URL}), **changes}


def spec(*routes: dict[str, Any], services: list[dict[str, Any]] | None = None, **gate: Any) -> Spec:
    return Spec.model_validate({"routes": list(routes), "services": services or [], "gate": gate})


def only(built: Built) -> Plan:
    (entry,) = built.routes.rows()
    return entry.plan


def service_of(plan: Plan) -> ServicePlan:
    assert plan.service is not None
    return plan.service


@pytest.fixture
def house() -> House:
    return House()


# -- a route ---------------------------------------------------------------------------------------------------------------


def test_a_route_that_says_nothing(house: House) -> None:
    plan = house.plan()
    assert (plan.route, plan.respond, plan.drains, plan.strip, plan.add, plan.host) == ("r", None, False, None, None, None)
    assert (plan.key, plan.keep_encoded_slash, plan.max_body_bytes) == (None, False, None)
    assert plan.limits == Limits(first_byte_s=60, idle_s=120, total_s=None, body_s=30, write_s=30)
    assert (plan.retries.attempts, plan.retries.on) == (2, {"connect", "reset"})
    assert plan.metrics is house.metrics.route("r")
    service = service_of(plan)
    assert (service.id, service.connect_s, service.credentials, service.withheld) == ("s", 2.0, b"", frozenset())
    assert service.metrics is house.metrics.service("s")


def test_a_route_that_says_everything(house: House) -> None:
    plan = house.plan(
        on_disconnect="drain",
        rewrite={"strip_prefix": "/api", "add_prefix": "/internal"},
        encoded_slash="keep",
        retries={"attempts": 5, "on": ["connect", 503]},
        max_body="1KiB",
    )
    assert (plan.drains, plan.strip, plan.add, plan.keep_encoded_slash) == (True, b"/api", b"/internal", True)
    assert (plan.retries.attempts, plan.retries.on) == (5, {"connect", 503})
    assert plan.max_body_bytes == 1024


@pytest.mark.parametrize(
    ("route", "host"),
    [
        ({"host": "upstream"}, None),
        ({"host": "preserve"}, b""),
        ({"host": "Model.example:8443"}, b"model.example:8443"),
        ({"rewrite": {"host": "preserve"}}, b""),
    ],
)
def test_whose_host_is_sent(house: House, route: dict[str, Any], host: bytes | None) -> None:
    assert house.plan(**route).host == host


@pytest.mark.parametrize(
    ("route", "gate", "most"),
    [
        ({}, {}, None),
        ({}, {"limits": {"body": "2KiB"}}, 2048),
        ({"max_body": "1KiB"}, {"limits": {"body": "2KiB"}}, 1024),
        ({"max_body": "off"}, {"limits": {"body": "2KiB"}}, None),
        ({"max_body": 0}, {}, 0),
    ],
)
def test_how_large_a_body_may_be(house: House, route: dict[str, Any], gate: dict[str, Any], most: int | None) -> None:
    assert house.plan(gate=gate, **route).max_body_bytes == most


def test_a_routes_deadlines_win_field_by_field_and_the_gates_are_the_clients(house: House) -> None:
    plan = house.plan(
        timeouts={"idle": "off", "total": "9s"},
        service={"timeouts": {"first_byte": "3s", "idle": "4s", "connect": "5s"}},
        gate={"timeouts": {"body": "6s", "write": "7s"}},
    )
    assert plan.limits == Limits(first_byte_s=3, idle_s=None, total_s=9, body_s=6, write_s=7)
    assert service_of(plan).connect_s == 5


def test_a_route_with_its_own_connect_deadline_shares_all_the_rest(house: House) -> None:
    built = house.build(
        a_route(id="plain"),
        a_route(id="hurried", match={"paths": ["/x"]}, timeouts={"connect": "100ms"}),
        services=[a_service(credentials={"bearer": "t"})],
    )
    plans = {entry.plan.route: service_of(entry.plan) for entry in built.routes.rows()}
    plain, hurried = plans["plain"], plans["hurried"]
    assert (plain.connect_s, hurried.connect_s) == (2.0, 0.1)
    for name in ("pool", "keepers", "budget", "metrics", "credentials", "withheld", "id"):
        assert getattr(hurried, name) is getattr(plain, name)


def test_an_answer_of_the_gateways_own(house: House) -> None:
    respond = {"status": 418, "body": "tea ü", "headers": {"X-A": "1"}}
    plan = only(house.build(a_route(to={"respond": respond})))
    headers = ((b"X-A", b"1"), (b"Content-Type", b"text/plain; charset=utf-8"))
    assert plan.respond == Answer(418, headers, "tea ü".encode())
    assert plan.service is None


@pytest.mark.parametrize(
    ("respond", "headers"),
    [
        ({"status": 200, "body": "<p>", "headers": {"content-TYPE": "text/html"}}, ((b"content-TYPE", b"text/html"),)),
        ({"status": 204}, ()),
    ],
)
def test_a_type_is_said_for_a_body_once(house: House, respond: dict[str, Any], headers: object) -> None:
    answer = only(house.build(a_route(to={"respond": respond}))).respond
    assert answer is not None
    assert answer.headers == headers


def test_where_requests_go(house: House) -> None:
    built = house.build(
        a_route(id="a", match={"paths": ["/v1/*"], "methods": ["POST"], "hosts": ["a.example"]}),
        a_route(id="b", match={"paths": ["/b"]}, to={"respond": {"status": 200}}),
        services=[a_service()],
    )
    found = built.routes.match(b"a.example", b"/v1/x", b"POST")
    assert isinstance(found, Matched)
    assert found.plan.route == "a"
    assert isinstance(built.routes.match(b"a.example", b"/v1/x", b"GET"), WrongMethod)
    assert built.routes.match(b"b.example", b"/v1/x", b"POST") is None
    assert (built.route_ids, built.service_ids) == (("a", "b"), ("s",))


# -- a service -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "line", "withheld"),
    [
        ({"bearer": "t0ken"}, b"authorization: Bearer t0ken\r\n", b"authorization"),
        ({"header": "X-Api-Key", "value": "k"}, b"X-Api-Key: k\r\n", b"x-api-key"),
    ],
)
def test_what_is_shown_to_an_upstream_takes_the_place_of_the_clients(
    house: House, credentials: dict[str, str], line: bytes, withheld: bytes
) -> None:
    service = service_of(house.plan(service={"credentials": credentials}))
    assert (service.credentials, service.withheld) == (line, {withheld})


def test_every_address_has_its_keeper_and_the_pool_their_order(house: House) -> None:
    endpoints = [{"url": "http://a.example", "weight": 3, "region": "eu"}, {"url": "https://[::1]:9"}]
    service = service_of(house.plan(service={"endpoints": endpoints, "max_in_flight": 7}))
    first, second = service.pool.endpoints
    assert (first.host, first.port, first.tls, first.weight, first.region) == ("a.example", 80, False, 3, "eu")
    assert (second.host, second.port, second.tls, second.weight, second.region) == ("::1", 9, True, 1, None)
    assert [endpoint.count.capacity for endpoint in service.pool.endpoints] == [7, 7]
    assert {endpoint: keeper.endpoint for endpoint, keeper in service.keepers.items()} == {first: first, second: second}
    assert service.keepers[first].tls is None
    assert isinstance(service.keepers[second].tls, ssl.SSLContext)


@pytest.mark.parametrize("balance", PICKERS)
def test_the_picker_is_the_named_one_with_the_clocks_chance(balance: str) -> None:
    chances = []

    def seen(name: str) -> Callable[[Callable[[], float]], Picker]:
        def make(random: Callable[[], float]) -> Picker:
            chances.append((name, random))
            return PICKERS[name](random)

        return make

    house = House()
    house.builder = Builder(
        kept=house.kept, metrics=house.metrics, clock=house.clock, pickers={name: seen(name) for name in PICKERS}
    )
    plan = house.plan(service={"balance": balance})
    assert chances == [(balance, house.clock.random)]
    assert type(service_of(plan).pool.picker) is type(PICKERS[balance](lambda: 0.0))
    assert (plan.key is not None) is (balance == "hash")


# -- what outlives it ------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_connections_counts_and_budget_and_takes_the_new_figures(house: House) -> None:
    before = house.plan(service={"endpoints": [{"url": URL}], "max_in_flight": 2})
    endpoint = service_of(before).pool.endpoints[0]
    lease = endpoint.count.take()
    after = house.plan(service={"endpoints": [{"url": URL, "weight": 9, "region": "eu"}], "max_in_flight": 5})
    service = service_of(after)
    assert service.pool.endpoints == (endpoint,)
    assert service.keepers[endpoint] is service_of(before).keepers[endpoint]
    assert service.budget is service_of(before).budget
    assert (endpoint.weight, endpoint.region) == (9, "eu")
    assert (endpoint.count.held, endpoint.count.capacity) == (1, 5)
    assert lease is not None
    assert after.metrics is before.metrics
    assert after.number == before.number + 1


@pytest.mark.parametrize(
    "change",
    [{"url": "http://127.0.0.1:9002"}, {"pool": {"max_idle": 1}}, {"pool": {"idle": "1s"}}, {"tls": {"verify": False}}, {"id": "t"}],
)
def test_another_address_or_another_way_there_is_another_keeper(house: House, change: dict[str, Any]) -> None:
    (old,) = service_of(house.plan(service={"url": "https://127.0.0.1:9001"})).keepers.values()
    service = {"url": "https://127.0.0.1:9001", **change}
    plan = house.plan(service=service, to={"service": service.get("id", "s")})
    (new,) = service_of(plan).keepers.values()
    assert new is not old
    assert list(house.kept.values(Keeper)) == [new], "the old one has been retired"


def test_two_services_at_one_address_share_nothing(house: House) -> None:
    routes = [a_route(id=name, match={"paths": [f"/{name}"]}, to={"service": name}) for name in ("a", "b")]
    built = house.build(*routes, services=[a_service(id="a"), a_service(id="b")])
    one, other = (service_of(entry.plan) for entry in built.routes.rows())
    assert one.pool.endpoints[0] is not other.pool.endpoints[0]
    assert one.budget is not other.budget


def test_nothing_is_changed_by_a_build_that_fails(house: House, tmp_path: Path) -> None:
    plan = house.plan(service={"endpoints": [{"url": URL, "weight": 3}], "max_in_flight": 2})
    (endpoint,), number = service_of(plan).pool.endpoints, len(list(house.kept.values(Keeper)))
    connections = house.metrics.service("s").connections
    broken = a_service(id="t", url="https://b.example", tls={"ca": str(tmp_path / "none.pem")})
    with pytest.raises(OSError, match="No such file"):
        house.builder.build(
            spec(
                a_route(),
                services=[a_service(endpoints=[{"url": URL, "weight": 9}], max_in_flight=1), broken],
            )
        )
    assert (endpoint.weight, endpoint.count.capacity) == (3, 2)
    assert house.metrics.service("s").connections is connections
    assert len(list(house.kept.values(Keeper))) == number


def test_connections_are_counted_by_service_over_all_endpoints(house: House) -> None:
    endpoints = [{"url": "http://127.0.0.1:9001"}, {"url": "http://127.0.0.1:9002"}]
    plan = house.plan(service={"endpoints": endpoints})
    for keeper, number in zip(service_of(plan).keepers.values(), (1, 2), strict=True):
        for _ in range(number):
            keeper.opened(Connection(keeper))
    assert dict(house.metrics.service("s").connections()) == {"active": 3, "idle": 0}


# -- what is hashed --------------------------------------------------------------------------------------------------------


def asked(path: bytes = b"/p", query: bytes | None = None, **headers: str) -> Exchange:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    exchange = Exchange(method=b"GET", path=path, query=query, host=b"a", headers=pairs, http10=False, started_at=0.0)
    exchange.client_address = "192.0.2.7"
    return exchange


@pytest.mark.parametrize(
    ("sources", "exchange", "key"),
    [
        (("client_ip",), asked(), b"192.0.2.7"),
        (("path",), asked(b"/a/b", b"q"), b"/a/b"),
        (("header:x-session",), asked(**{"X-Session": "one"}), b"one"),
        (("header:x-session",), asked(), None),
        (("header:x-session",), asked(**{"X-Session": ""}), None),
        (("query:user",), asked(query=b"a=1&user=me&user=you"), b"me"),
        (("query:user",), asked(query=b"xuser=no"), None),
        (("query:user",), asked(), None),
        (("cookie:sid",), asked(Cookie="a=b; sid=c=d; e=f"), b"c=d"),
        (("cookie:sid",), asked(Cookie="xsid=no; sid"), None),
        (("header:x-session", "cookie:sid", "client_ip"), asked(Cookie="sid=s"), b"s"),
        (("header:x-session", "cookie:sid", "client_ip"), asked(), b"192.0.2.7"),
    ],
)
def test_the_first_that_is_present_decides(sources: tuple[str, ...], exchange: Exchange, key: bytes | None) -> None:
    assert hash_key(sources)(exchange) == key


def test_cookies_in_several_fields_are_one_list() -> None:
    exchange = asked(Cookie="a=b")
    exchange.headers.append((b"cookie", b"sid=s"))
    assert hash_key(("cookie:sid",))(exchange) == b"s"


@given(st.binary(max_size=30), st.lists(st.binary(max_size=20), max_size=3))
def test_nothing_that_a_client_sends_breaks_it(query: bytes, cookies: list[bytes]) -> None:
    exchange = asked(query=query)
    exchange.headers.extend((b"Cookie", cookie) for cookie in cookies)
    found = hash_key(("query:q", "cookie:c"))(exchange)
    assert found is None or found
