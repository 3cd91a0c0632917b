"""What may stand under services."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamgate.config.spec_service import Credentials, EndpointSpec, Service, Timeouts, UpstreamTls, parse_upstream_url


def service(**keys: object) -> Service:
    address = {} if "endpoints" in keys else {"url": "http://a"}
    return Service.model_validate({"id": "a", **address, **keys})


def kinds(**keys: object) -> list[tuple[str, str]]:
    """Where and what kind each mistake is."""
    with pytest.raises(ValidationError) as info:
        service(**keys)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in info.value.errors()]


def test_the_defaults_are_those_of_the_design() -> None:
    one = service()
    assert (one.balance, one.hash_by, one.max_in_flight) == ("least_in_flight", ("client_ip",), None)
    assert (one.credentials, one.tls) == (None, None)
    assert (one.pool.max_idle, one.pool.idle) == (64, 55.0)
    assert one.timeouts == Timeouts.model_validate({"connect": "2s", "first_byte": "60s", "idle": "120s", "total": "off"})
    assert one.timeouts.total is None
    tls = UpstreamTls()
    assert (tls.ca, tls.verify, tls.server_name, tls.cert, tls.key) == (None, True, None, None, None)


def test_one_address_or_several_are_read_alike() -> None:
    assert service(url="http://a:1").all_endpoints == (EndpointSpec(url="http://a:1", weight=1, region=None),)
    several = service(endpoints=[{"url": "http://a"}, {"url": "https://b", "weight": 0, "region": "eu"}])
    assert several.all_endpoints == (
        EndpointSpec(url="http://a"),
        EndpointSpec(url="https://b", weight=0, region="eu"),
    )


@pytest.mark.parametrize("keys", [{"url": None}, {"url": "http://a", "endpoints": [{"url": "http://b"}]}, {"endpoints": []}])
def test_an_address_is_given_in_one_way(keys: dict[str, object]) -> None:
    assert kinds(**keys) == [("", "service_address")]


@pytest.mark.parametrize(
    ("written", "url", "host", "port", "is_tls"),
    [
        ("http://a", "http://a", "a", 80, False),
        ("https://A.example/", "https://a.example", "a.example", 443, True),
        ("HTTP://127.0.0.1:9001", "http://127.0.0.1:9001", "127.0.0.1", 9001, False),
        ("https://[::1]:8443", "https://[::1]:8443", "::1", 8443, True),
        ("http://[::1]", "http://[::1]", "::1", 80, False),
    ],
)
def test_a_url_is_scheme_host_and_port(written: str, url: str, host: str, port: int, *, is_tls: bool) -> None:
    endpoint = EndpointSpec(url=written)
    assert (endpoint.url, endpoint.host, endpoint.port, endpoint.is_tls) == (url, host, port, is_tls)
    assert endpoint.authority == url.partition("//")[2]
    assert parse_upstream_url(url) == url


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("a", "upstream_url"),
        ("ftp://a", "upstream_url"),
        ("http://", "upstream_url"),
        ("http://a:0", "upstream_url"),
        ("http://a:65536", "upstream_url"),
        ("http://a:", "upstream_url"),
        ("http://a b", "upstream_url"),
        ("http://::1", "upstream_url"),
        ("http://a\n", "upstream_url"),
        ("http:/a", "upstream_url"),
        ("http://a/v1", "upstream_url_path"),
        ("http://a//", "upstream_url_path"),
        ("http://a?b", "upstream_url_path"),
        ("http://a#b", "upstream_url_path"),
        ("http://u:p4ss@a", "upstream_url_userinfo"),
        ("http://u:p4ss@a/v1", "upstream_url_userinfo"),
    ],
)
def test_what_is_no_url_of_an_upstream(url: str, kind: str) -> None:
    assert kinds(url=url) == [("url", kind)]
    assert kinds(endpoints=[{"url": url}]) == [("endpoints.0.url", kind)]
    with pytest.raises(ValueError, match="must ") as info:
        parse_upstream_url(url)
    assert "p4ss" not in str(info.value)


@given(st.text(max_size=30))
def test_any_url_is_read_or_refused(text: str) -> None:
    try:
        url = parse_upstream_url(f"http://{text}")
    except ValueError:
        return
    endpoint = EndpointSpec(url=url)
    assert endpoint.host
    assert 0 < endpoint.port < 65536


@pytest.mark.parametrize(
    ("keys", "loc", "kind"),
    [
        ({"id": "A"}, "id", "slug"),
        ({"id": 5}, "id", "string_type"),
        ({"balance": "random"}, "balance", "literal_error"),
        ({"hash_by": []}, "hash_by", "list_empty"),
        ({"hash_by": ["body"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["header:"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["header"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["query:"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["cookie:a;b"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["body:x"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["header:a b"]}, "hash_by.0", "hash_key"),
        ({"hash_by": ["path:x"]}, "hash_by.0", "hash_key"),
        ({"hash_by": "path"}, "hash_by", "tuple_type"),
        ({"max_in_flight": 0}, "max_in_flight", "count_or_off"),
        ({"max_in_flight": True}, "max_in_flight", "whole_number"),
        ({"timeouts": {"connect": "off"}}, "timeouts.connect", "duration_off"),
        ({"timeouts": {"idle": "0s"}}, "timeouts.idle", "duration_zero_or_off"),
        ({"timeouts": {"idle": 5}}, "timeouts.idle", "duration_unit"),
        ({"credentials": {}}, "credentials", "credentials"),
        ({"credentials": {"header": "X-K"}}, "credentials", "credentials"),
        ({"credentials": {"value": "x"}}, "credentials", "credentials"),
        ({"credentials": {"bearer": "x", "header": "X-K", "value": "x"}}, "credentials", "credentials"),
        ({"credentials": {"bearer": "Bearer x"}}, "credentials.bearer", "bearer_word"),
        ({"credentials": {"bearer": ""}}, "credentials.bearer", "secret_empty"),
        ({"credentials": {"header": "Host", "value": "x"}}, "credentials.header", "header_name_framing"),
        ({"pool": {"max_idle": -1}}, "pool.max_idle", "greater_than_equal"),
        ({"tls": {"cert": "c"}}, "tls", "tls_pair"),
        ({"tls": {"key": "c"}}, "tls", "tls_pair"),
        ({"tls": {"verify": "maybe"}}, "tls.verify", "bool_parsing"),
        ({"endpoints": [{"url": "http://a", "weight": -1}]}, "endpoints.0.weight", "greater_than_equal"),
        ({"endpoints": [{}]}, "endpoints.0.url", "missing"),
    ],
)
def test_what_a_service_cannot_be(keys: dict[str, object], loc: str, kind: str) -> None:
    assert kinds(**keys) == [(loc, kind)]


def test_what_is_hashed_may_be_any_part_of_a_request() -> None:
    one = service(balance="hash", hash_by=["header:X-Session-Id", "cookie:Sid", "query:Q[a]", "path", "client_ip"])
    assert one.hash_by == ("header:x-session-id", "cookie:Sid", "query:Q[a]", "path", "client_ip")


@pytest.mark.parametrize(("value", "count"), [(64, 64), ("64", 64), (1, 1), ("off", None), (False, None)])
def test_in_flight_is_counted_or_off(value: object, count: int | None) -> None:
    assert service(max_in_flight=value).max_in_flight == count


def test_credentials_are_one_header() -> None:
    bearer = Credentials.model_validate({"bearer": "s3cret"})
    assert bearer.as_header == ("authorization", "Bearer s3cret")
    header = Credentials.model_validate({"header": "X-Api-Key", "value": "s3cret"})
    assert header.as_header == ("X-Api-Key", "s3cret")
    assert "s3cret" not in f"{bearer!r}{header!r}{service(credentials={'bearer': 's3cret'})!r}"


@given(st.fixed_dictionaries({}, optional={name: st.sampled_from(["1s", "7s"]) for name in Timeouts.model_fields}))
def test_timeouts_win_field_by_field(named: dict[str, str]) -> None:
    base = Timeouts.model_validate({"connect": "3s", "first_byte": "4s", "idle": "off", "total": "6s"})
    both = Timeouts.model_validate(named).over(base)
    for name in Timeouts.model_fields:
        wanted = {"1s": 1.0, "7s": 7.0}[named[name]] if name in named else getattr(base, name)
        assert getattr(both, name) == wanted


def test_off_wins_over_a_number_when_it_is_said() -> None:
    base = Timeouts.model_validate({"total": "6s"})
    assert Timeouts.model_validate({"total": "off"}).over(base).total is None
    assert Timeouts().over(base).total == 6.0
