"""A configuration becomes plans; what identifies a thing keeps it."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from routers.paths import Matched
from streamgate.catalogue import PICKERS
from streamgate.config.spec import Spec
from streamgate.exchange import Exchange
from streamgate.kept import Kept
from streamgate.observe.metrics import Metrics
from streamgate.pipeline.build import Builder, Built, hash_key
from streamgate.pipeline.plan import Plan
from tests.kit.around import around
from tests.kit.clock import ManualClock

SERVICE = {"id": "s", "url": "http://127.0.0.1:9001"}
ROUTE = {"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "s"}}


class Works:
    """A builder and what it builds upon."""

    def __init__(self) -> None:
        self.kept, self.metrics = Kept(), Metrics()
        clock = ManualClock()
        self.builder = Builder(kept=self.kept, metrics=self.metrics, clock=clock, pickers=PICKERS, around=around(clock))

    def built(self, service: dict[str, Any] | None = None, route: dict[str, Any] | None = None, **top: Any) -> Built:
        spec = {"services": [{**SERVICE, **(service or {})}], "routes": [{**ROUTE, **(route or {})}], **top}
        return self.builder.build(Spec.model_validate(spec))

    def plan(self, *args: Any, **options: Any) -> Plan:
        return plan_of(self.built(*args, **options))


def plan_of(built: Built) -> Plan:
    found = built.routes.match(b"", b"/x", b"GET")
    assert isinstance(found, Matched)
    plan: Plan = found.plan
    return plan


def exchange(**options: Any) -> Exchange:
    made = Exchange(
        method=b"GET", path=options.pop("path", b"/x"), query=options.pop("query", None), host=b"a",
        headers=options.pop("headers", []), http10=False, started_at=0.0,
    )  # fmt: skip
    made.client_address = "192.0.2.1"
    return made


# -- plans -----------------------------------------------------------------------------------------------------------------


def test_a_route_to_a_service_and_one_that_answers_itself() -> None:
    to_service = Works().plan()
    assert to_service.service is not None
    assert to_service.respond is None
    answers = Works().plan(route={"to": {"respond": {"status": 418, "body": "é", "headers": {"X-A": "b"}}}})
    assert answers.service is None
    assert answers.respond is not None
    assert (answers.respond.status, answers.respond.body) == (418, "é".encode())
    assert answers.respond.headers == ((b"X-A", b"b"), (b"Content-Type", b"text/plain; charset=utf-8"))
    typed = Works().plan(
        route={"to": {"respond": {"status": 200, "body": "{}", "headers": {"content-type": "application/json"}}}}
    )
    assert typed.respond is not None
    assert typed.respond.headers == ((b"content-type", b"application/json"),)


def test_timeouts_of_the_route_win_one_by_one() -> None:
    service = {"timeouts": {"connect": "1s", "first_byte": "2s", "idle": "3s", "total": "4s"}}
    plan = Works().plan(service, {"timeouts": {"first_byte": "20s", "total": "off"}})
    assert plan.service is not None
    assert plan.service.connect_s == 1
    assert (plan.limits.first_byte_s, plan.limits.idle_s, plan.limits.total_s) == (20, 3, None)
    plan = Works().plan(service, {"timeouts": {"connect": "10s"}})
    assert plan.service is not None
    assert plan.service.connect_s == 10
    assert plan.limits.first_byte_s == 2


def test_the_gates_own_timeouts_are_in_every_plan() -> None:
    plan = Works().plan(gate={"timeouts": {"body": "7s", "write": "8s"}})
    assert (plan.limits.body_s, plan.limits.write_s) == (7, 8)


def test_two_routes_share_a_service_but_not_their_deadlines() -> None:
    routes = [
        {**ROUTE, "id": "a", "match": {"paths": ["/a"]}},
        {**ROUTE, "id": "b", "match": {"paths": ["/b"]}, "timeouts": {"connect": "9s"}},
    ]
    built = Works().builder.build(Spec.model_validate({"services": [SERVICE], "routes": routes}))
    plans = [built.routes.match(b"", path, b"GET").plan for path in (b"/a", b"/b")]  # type: ignore[union-attr]
    assert plans[0].service.pool is plans[1].service.pool
    assert plans[0].service.budget is plans[1].service.budget
    assert (plans[0].service.connect_s, plans[1].service.connect_s) == (2, 9)
    assert built.route_ids == ("a", "b")
    assert built.service_ids == ("s",)


@pytest.mark.parametrize(("host", "wanted"), [("upstream", None), ("preserve", b""), ("other.example", b"other.example")])
def test_which_host_is_named(host: str, wanted: bytes | None) -> None:
    assert Works().plan(route={"host": host}).host == wanted


def test_what_else_a_route_says() -> None:
    plan = Works().plan(
        route={
            "on_disconnect": "drain", "rewrite": {"strip_prefix": "/api", "add_prefix": "/in"}, "encoded_slash": "keep",
            "max_body": "1KiB", "retries": {"attempts": 5, "on": ["reset", "503"]},
        }
    )  # fmt: skip
    assert (plan.drains, plan.strip, plan.add) == (True, b"/api", b"/in")
    assert (plan.keep_encoded_slash, plan.max_body_bytes) == (True, 1024)
    assert (plan.retries.attempts, plan.retries.on) == (5, {"reset", 503})
    plain = Works().plan()
    assert (plain.drains, plain.strip, plain.add, plain.keep_encoded_slash, plain.max_body_bytes) == (
        False,
        None,
        None,
        False,
        None,
    )
    assert (plain.retries.attempts, plain.retries.on) == (2, {"connect", "reset"})


def test_credentials_replace_what_a_client_sent() -> None:
    plan = Works().plan({"credentials": {"bearer": "hunter2"}})
    assert plan.service is not None
    assert plan.service.credentials.lower() == b"authorization: bearer hunter2\r\n"
    assert plan.service.withheld == {b"authorization"}
    plan = Works().plan({"credentials": {"header": "X-Api-Key", "value": "hunter2"}})
    assert plan.service is not None
    assert plan.service.credentials == b"X-Api-Key: hunter2\r\n"
    assert plan.service.withheld == {b"x-api-key"}
    plan = Works().plan()
    assert plan.service is not None
    assert (plan.service.credentials, plan.service.withheld) == (b"", frozenset())


def test_each_snapshot_has_its_number() -> None:
    works = Works()
    assert [works.plan().number for _ in range(3)] == [1, 2, 3]


# -- what is hashed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "made", "wanted"),
    [
        ("header:X-User", {"headers": [(b"x-USER", b"u1"), (b"X-User", b"u2")]}, b"u1"),
        ("cookie:sid", {"headers": [(b"Cookie", b"a=1; sid=c1; sid=c2")]}, b"c1"),
        ("cookie:sid", {"headers": [(b"Cookie", b"a=1"), (b"cookie", b"sid=c1")]}, b"c1"),
        ("cookie:sid", {"headers": [(b"Cookie", b"xsid=1; sid")]}, None),
        ("query:u", {"query": b"a=1&u=q1"}, b"q1"),
        ("query:u", {"query": b"uu=1"}, None),
        ("query:u", {}, None),
        ("path", {"path": b"/p"}, b"/p"),
        ("client_ip", {}, b"192.0.2.1"),
    ],
)
def test_a_key_is_read_from_where_it_says(source: str, made: dict[str, Any], wanted: bytes | None) -> None:
    assert hash_key((source,))(exchange(**made)) == wanted


def test_the_first_that_is_present_decides_and_an_empty_one_is_not() -> None:
    key = hash_key(("header:x-user", "query:u", "client_ip"))
    assert key(exchange(headers=[(b"X-User", b"u")], query=b"u=q")) == b"u"
    assert key(exchange(headers=[(b"X-User", b"")], query=b"u=q")) == b"q"
    assert key(exchange()) == b"192.0.2.1"


def test_only_a_service_balanced_by_hash_has_a_key() -> None:
    assert Works().plan().key is None
    assert Works().plan({"balance": "hash"}).key is not None


# -- what outlives a reload ------------------------------------------------------------------------------------------------


def endpoints(plan: Plan) -> list[Any]:
    assert plan.service is not None
    return list(plan.service.keepers)


def test_an_endpoint_that_stays_keeps_its_load_and_its_connections() -> None:
    works = Works()
    before, after = works.plan(), works.plan({"max_in_flight": 3, "balance": "round_robin", "timeouts": {"idle": "1s"}})
    assert endpoints(before)[0] is endpoints(after)[0]
    assert endpoints(after)[0].count.capacity == 3
    assert before.service is not None
    assert after.service is not None
    assert list(before.service.keepers.values()) == list(after.service.keepers.values())
    assert before.service.budget is after.service.budget
    assert before.metrics is after.metrics


def test_an_endpoint_that_goes_is_retired_and_one_that_changes_its_pool_is_another() -> None:
    works = Works()
    first = works.built()
    second = works.built({"pool": {"max_idle": 1}})
    third = works.built({"url": "http://127.0.0.1:9002"})
    one, two, three = (endpoints(plan_of(built))[0] for built in (first, second, third))
    assert len({id(one), id(two), id(three)}) == 3
    keepers = [plan_of(built).service.keepers[endpoint] for built, endpoint in ((first, one), (third, three))]  # type: ignore[union-attr]
    works.kept.retain(third.keys)
    assert [keeper._retired for keeper in keepers] == [True, False]


def test_weights_are_in_force_at_once_for_the_new_pool() -> None:
    works = Works()
    urls = ("http://127.0.0.1:9001", "http://127.0.0.1:9002")

    def weighted(*weights: int) -> Plan:
        return works.plan(
            {"url": None, "endpoints": [{"url": url, "weight": weight} for url, weight in zip(urls, weights, strict=True)]}
        )

    for weights in ((1, 0), (0, 1), (2, 3)):
        plan = weighted(*weights)
        assert [endpoint.weight for endpoint in endpoints(plan)] == list(weights)
        assert plan.service is not None
        picked = {plan.service.pool.pick(0.0) for _ in range(20)}
        assert picked == {endpoint for endpoint, weight in zip(endpoints(plan), weights, strict=True) if weight}


def test_what_cannot_be_built_changes_nothing(tmp_path: Path) -> None:
    works = Works()
    before = works.plan({"max_in_flight": 5})
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")
    broken = {"id": "t", "url": "https://127.0.0.1:9443", "tls": {"ca": str(bad)}}
    spec = {"services": [{**SERVICE, "max_in_flight": 1, "url": None, "endpoints": [{"url": SERVICE["url"], "weight": 0}]}, broken],
            "routes": [ROUTE]}  # fmt: skip
    with pytest.raises((OSError, ssl.SSLError)):
        works.builder.build(Spec.model_validate(spec))
    (endpoint,) = endpoints(before)
    assert (endpoint.weight, endpoint.count.capacity) == (1, 5)
    assert before.service is not None
    assert before.service.pool.pick(0.0) is endpoint


def test_connections_are_counted_for_the_scrape() -> None:
    works = Works()
    works.plan()
    assert list(works.metrics.service("s").connections()) == [("active", 0), ("idle", 0)]


def test_an_https_endpoint_has_a_context_of_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    plan = Works().plan({"url": "https://127.0.0.1:9443", "tls": {"ca": str(file), "server_name": "model.example"}})
    assert plan.service is not None
    (keeper,) = plan.service.keepers.values()
    assert keeper.tls is not None
    assert keeper.tls.verify_mode is ssl.CERT_REQUIRED
    (keeper,) = Works().plan().service.keepers.values()  # type: ignore[union-attr]
    assert keeper.tls is None
