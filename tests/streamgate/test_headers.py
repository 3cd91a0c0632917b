"""What passes, what is asserted, who is believed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate import headers as module
from streamgate.headers import (
    ASSERTED,
    ASSERTED_PREFIXES,
    HOP_BY_HOP,
    Headers,
    Names,
    Networks,
    Peer,
    client_address,
    connection_tokens,
    for_client,
    for_upstream,
    forwarded_headers,
    normal,
    safe_trailer,
    valid_request_id,
    values,
    via_line,
    via_loops,
)

PRIVATE = Networks([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
NOBODY = Networks()


def names(headers: Headers) -> list[bytes]:
    return [name for name, _ in headers]


def lines(*spelled: str) -> Headers:
    pairs = (line.partition(": ") for line in spelled)
    return [(name.encode(), value.encode()) for name, _, value in pairs]


# --- small questions --------------------------------------------------------------------------------------------------


def test_normal_is_how_a_lenient_server_reads_a_name() -> None:
    assert normal(b"X_User.Id") == b"x-user-id"
    assert normal(b"x-user-id") == b"x-user-id"


@given(st.binary(max_size=40))
def test_normal_is_lower_with_underscores_and_dots_as_dashes(name: bytes) -> None:
    assert normal(name) == name.lower().replace(b"_", b"-").replace(b".", b"-")


def test_values_finds_every_spelling_in_order() -> None:
    assert values(lines("Via: a", "X: b", "VIA: c"), b"via") == [b"a", b"c"]


def test_connection_tokens_are_lower_case_without_blanks_or_empties() -> None:
    assert connection_tokens([b"Keep-Alive,\t X-One ,", b"", b"x-one,TE"]) == {b"keep-alive", b"x-one", b"te"}


# --- to the upstream --------------------------------------------------------------------------------------------------


def test_an_ordinary_request_passes_without_what_is_ours_to_say() -> None:
    request = lines(
        "Host: api.example", "User-Agent: curl/8", "Accept: */*", "Connection: keep-alive", "Content-Type: text/plain",
        "Content-Length: 3", "Authorization: Bearer x", "Cookie: a=b", "Expect: 100-continue",
    )  # fmt: skip
    assert names(for_upstream(request)) == [b"User-Agent", b"Accept", b"Content-Type", b"Authorization", b"Cookie"]


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"te"}))
def test_nothing_that_concerns_one_connection_passes(name: bytes) -> None:
    assert for_upstream([(name.title(), b"x"), (b"A", b"b")]) == [(b"A", b"b")]
    assert for_client([(name.upper(), b"x"), (b"A", b"b")]) == [(b"A", b"b")]


@pytest.mark.parametrize(
    "name",
    [
        *sorted(ASSERTED),
        *(b"x-forwarded-" + word for word in (b"for", b"proto", b"host", b"port", b"prefix", b"server", b"uri")),
        *(b"x-streamgate-" + word for word in (b"model", b"tenant")),
    ],
)
@pytest.mark.parametrize("separator", [b"-", b"_", b"."])
def test_what_the_gateway_asserts_no_client_can_in_any_spelling(name: bytes, separator: bytes) -> None:
    spelled = name.replace(b"-", separator)
    assert for_upstream([(spelled, b"1"), (spelled.upper(), b"2"), (spelled.title(), b"3")]) == []


@pytest.mark.parametrize(
    "name",
    [
        b"content_length", b"Content.Type", b"TRANSFER_ENCODING", b"keep_alive", b"proxy_authorization", b"user_agent",
        b"accept.encoding", b"if_match", b"x_api_key", b"Idempotency_Key", b"x_http_method_override",
        b"sec_fetch_site", b"set_cookie", b"access_control_request_method", b"x.method.override", b"api_key",
    ],
)  # fmt: skip
def test_standard_names_pass_in_their_standard_spelling_only(name: bytes) -> None:
    assert for_upstream([(name, b"x")]) == []


@pytest.mark.parametrize(
    "name", [b"x_own", b"trace.id", b"X-API-Key", b"Idempotency-Key", b"Content-Type", b"If-Match"]
)
def test_names_of_applications_and_standard_spellings_pass(name: bytes) -> None:
    assert for_upstream([(name, b"x")]) == [(name, b"x")]


def test_a_route_may_withhold_more_in_any_spelling() -> None:
    request = lines("Authorization: Bearer x", "X-User-Id: 1", "x_user.id: 2", "X-Other: 3")
    assert for_upstream(request, drop=frozenset({b"authorization", b"X-User-Id"})) == [(b"X-Other", b"3")]
    assert for_upstream(request) == request


def test_what_connection_names_is_removed_wherever_it_stands() -> None:
    request = lines("X-One: 1", "Connection: x-one, close", "x-two: 2", "X-ONE: 3", "Connection: X-Three", "x-three: 4")
    assert for_upstream(request) == [(b"x-two", b"2")]
    assert for_client(request) == [(b"x-two", b"2")]


def test_only_connection_names_what_else_is_removed() -> None:
    request = lines("Upgrade: x-one", "Keep-Alive: x-one", "Via: x-one", "Accept: x-one", "X-One: 1")
    assert names(for_upstream(request)) == [b"Accept", b"X-One"]
    assert names(for_client(request)) == [b"Via", b"Accept", b"X-One"]


@pytest.mark.parametrize("value", ["trailers", "gzip, Trailers", "deflate;q=0.5,trailers"])
def test_te_keeps_only_trailers_also_when_connection_names_it(value: str) -> None:
    request = lines(f"te: {value}", "Connection: TE, X-A", "x-a: 1")
    assert for_upstream(request) == [(b"TE", b"trailers")]


@pytest.mark.parametrize("value", ["gzip", "trailersx", ""])
def test_te_without_trailers_goes(value: str) -> None:
    assert for_upstream(lines(f"TE: {value}", "Connection: TE")) == []


NAMES = st.sampled_from(
    [b"Accept", b"x_forwarded_for", b"X-Forwarded-For", b"Host", b"TE", b"Connection", b"X-A", b"x_a", b"Content_Type",
     b"Content-Type", b"Upgrade", b"Via", b"X-Streamgate-Model", b"traceparent"],
) | st.text("abXY-_.", min_size=1, max_size=8).map(str.encode)  # fmt: skip
VALUES = st.sampled_from([b"keep-alive", b"close, X-A", b"x-a", b"trailers", b"gzip", b"TE", b"accept,", b""])
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


@given(LISTS, st.frozensets(st.sampled_from([b"x-a", b"accept"])))
def test_a_filtered_list_is_a_part_in_order_and_asserts_nothing(request: Headers, drop: frozenset[bytes]) -> None:
    kept = for_upstream(request, drop=drop)
    rest = iter(request)
    assert all(any(pair == other for other in rest) for pair in kept if pair[0] != b"TE")
    named = connection_tokens(values(request, b"connection"))
    for name, value in kept:
        plain = normal(name)
        assert plain not in ASSERTED | drop | {b"host", b"content-length"}
        assert not plain.startswith(ASSERTED_PREFIXES)
        assert name.lower() not in named or name == b"TE"
        assert plain not in HOP_BY_HOP or (name, value) == (b"TE", b"trailers")
    assert for_upstream(kept, drop=drop) == kept


@given(LISTS)
def test_what_is_removed_had_a_reason(request: Headers) -> None:
    named = connection_tokens(values(request, b"connection"))
    kept = for_upstream(request)
    for name, value in request:
        lower, plain = name.lower(), normal(name)
        ours = plain in HOP_BY_HOP | ASSERTED | {b"host"} or plain.startswith(ASSERTED_PREFIXES)
        variant = lower != plain and plain.startswith(b"content-")
        assert (name, value) in kept or ours or variant or lower in named


def test_names_are_known_in_every_spelling_and_no_other() -> None:
    known = Names(b"date", b"content-type")
    for _ in range(2):  # the second time it is remembered
        assert [known[name] for name in (b"Date", b"date", b"CONTENT-TYPE")] == [b"date", b"date", b"content-type"]
        assert [known[name] for name in (b"dat", b"content_type", b"", b"x" * 100)] == [b"", b"", b"", b""]
    for number in range(10_000):
        assert known[b"x-%d" % number] == b""
    assert known[b"y" * 100] == b""
    assert 0 < len(known) <= 2048
    assert b"y" * 100 not in known


def test_only_so_many_spellings_and_drop_lists_are_remembered() -> None:
    few = frozenset({b"x-few"})
    for number in range(5000):
        assert for_upstream([(b"x-%d" % number, b""), (b"Via", b"")], drop=few) == [(b"x-%d" % number, b"")]
    for number in range(1200):
        assert for_upstream([(b"X-Own", b""), (b"x-few", b"")], drop=frozenset({b"x-%d" % number, b"x-few"})) == [
            (b"X-Own", b"")
        ]
        assert for_client([(b"x-%d" % number, b"")], drop=frozenset({b"x-%d" % number})) == []
    assert len(module._upstream) <= 512
    assert len(module._client) <= 512
    assert all(len(verdicts) <= 2048 for verdicts in module._upstream.values())
    assert for_upstream([(b"y" * 500, b"")]) == [(b"y" * 500, b"")]
    assert max(len(name) for verdicts in module._upstream.values() for name in verdicts) <= 64


# --- to the client ----------------------------------------------------------------------------------------------------


def test_an_ordinary_answer_passes_with_its_length_and_without_its_connection() -> None:
    answer = lines("Content-Length: 3", "Connection: keep-alive", "Keep-Alive: timeout=5", "Set-Cookie: a", "x-up: 1")
    assert names(for_client(answer)) == [b"Content-Length", b"Set-Cookie", b"x-up"]
    assert names(for_client(answer, drop=frozenset({b"X-Up"}))) == [b"Content-Length", b"Set-Cookie"]


UNSAFE_TRAILERS = (
    b"Content-Length content_length Transfer-Encoding Host Trailer Set-Cookie Authorization Cache-Control TE Location"
    b" Content-Encoding Content-Type Content-Range WWW-Authenticate Vary X-Forwarded-For X-Streamgate-State If-Match"
    b" Access-Control-Allow-Origin via Accept-Ranges Proxy-Status Sec-Purpose X-Frame-Options Age X-Real-IP Expect"
).split()


@pytest.mark.parametrize("name", UNSAFE_TRAILERS)
def test_a_trailer_that_would_undo_a_decision_is_unsafe(name: bytes) -> None:
    assert not safe_trailer(name)


@pytest.mark.parametrize("name", [b"grpc-status", b"Grpc-Message", b"Server-Timing", b"ETag", b"X-Checksum", b"Digest"])
def test_a_trailer_that_only_tells_is_safe(name: bytes) -> None:
    assert safe_trailer(name)


# --- who is asking ----------------------------------------------------------------------------------------------------

V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address)
NETWORKS = st.one_of(
    st.builds(lambda address, bits: ip_network((address, bits), strict=False), V4, st.integers(0, 32)),
    st.builds(lambda address, bits: ip_network((address, bits), strict=False), V6, st.integers(0, 128)),
)


@given(st.lists(NETWORKS, max_size=6), st.lists(V4 | V6, max_size=6))
def test_contains_agrees_with_asking_each_network(
    networks: list[IPv4Network], addresses: list[IPv4Address | IPv6Address]
) -> None:
    compiled = Networks(networks)
    ends = [address for network in networks for address in (network[0], network[-1])]
    for address in (*addresses, *ends):
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            continue
        assert compiled.contains(str(address)) is any(address in network for network in networks)
    assert bool(compiled) is bool(networks)


def test_mapped_addresses_and_networks_are_the_ipv4_ones_they_stand_for() -> None:
    assert PRIVATE.contains("::ffff:10.1.2.3")
    assert Networks([ip_network("::ffff:10.0.0.0/104")]).contains("10.9.9.9")
    assert not Networks([ip_network("::ffff:10.0.0.0/104")]).contains("11.0.0.0")
    assert Networks([ip_network("::ffff:0:0/96")]).contains("9.9.9.9")
    assert not Networks([ip_network("::fffe:0:0/95")]).contains("9.9.9.9")
    assert Networks([ip_network("::/0")]).contains("::1")
    assert not Networks([ip_network("::/0")]).contains("::ffff:10.0.0.1")


def test_a_zone_is_not_part_of_an_address_and_garbage_is_in_no_network() -> None:
    assert Networks([ip_network("fe80::/10")]).contains("fe80::1%eth0")
    everything = Networks([ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert not any(map(everything.contains, ("", "unknown", "10.0.0", "10.0.0.1:80", "010.0.0.1")))
    assert not NOBODY.contains("10.0.0.1")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("192.0.2.1", [b"1.1.1.1"], "192.0.2.1"),  # an untrusted peer is the client, whatever it says
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),  # what stands left of an untrusted step is hearsay
        ("10.0.0.1", [b"6.6.6.6", b"1.1.1.1", b"10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all trusted: the farthest
        ("10.0.0.1", [b"1.1.1.1, garbage, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"1.1.1.1,,10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b"1.1.1.1:4711"], "1.1.1.1"),
        ("10.0.0.1", [b"[2001:0DB8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", [b"2606:4700:0::1, [2001:db8::2]"], "2606:4700::1"),
        ("10.0.0.1", [b"::ffff:1.1.1.1"], "1.1.1.1"),
        ("::ffff:10.0.0.1", [b"1.1.1.1"], "1.1.1.1"),
        ("::ffff:192.0.2.1", [b"1.1.1.1"], "192.0.2.1"),
        ("10.0.0.1", [b"fe80::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", [b"1.1.1.1" + b" " * 100], "10.0.0.1"),
        ("10.0.0.1", [b"\xff\xfe"], "10.0.0.1"),
        ("10.0.0.1", [b"[]"], "10.0.0.1"),
        ("", [b"1.1.1.1"], ""),
    ],
)
def test_the_client_is_the_last_step_that_is_not_a_trusted_proxy(
    peer: str, forwarded_for: list[bytes], client: str
) -> None:
    assert client_address(peer, forwarded_for, PRIVATE) == client


def test_by_default_nobody_is_believed() -> None:
    assert client_address("10.0.0.1", [b"1.1.1.1"], NOBODY) == "10.0.0.1"


@given(st.lists(st.binary(max_size=20), max_size=3), V4)
def test_whatever_a_client_writes_it_cannot_pass_for_another(said: list[bytes], client: IPv4Address) -> None:
    """The proxy appends the address it saw: with that on the right, nothing on the left counts."""
    if not PRIVATE.contains(str(client)):
        appended = [*said, str(client).encode()]
        assert client_address("10.0.0.1", appended, PRIVATE) == str(client)
        assert client_address("10.0.0.1", [b", ".join(appended)], PRIVATE) == str(client)


@given(st.lists(V4, max_size=5), V4)
def test_the_client_is_untrusted_or_the_farthest(chain: list[IPv4Address], peer: IPv4Address) -> None:
    client = client_address(str(peer), [b", ".join(str(step).encode() for step in chain)] if chain else [], PRIVATE)
    steps = [*chain, peer]
    while len(steps) > 1 and steps[-1] in ip_network("10.0.0.0/8"):
        steps.pop()
    assert ip_address(client) == steps[-1]


def test_an_untrusted_peer_is_described_by_what_we_know() -> None:
    peer = Peer("::ffff:192.0.2.1", tls=True, trusted=PRIVATE)
    request = lines("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: gopher", "X-Forwarded-Host: evil")
    assert forwarded_headers(peer, b"a.example:8443", request) == (
        b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example:8443\r\n"
    )
    assert not peer.trusted


def test_a_request_without_host_gets_no_host_line() -> None:
    expected = b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
    assert forwarded_headers(Peer("192.0.2.1", tls=False, trusted=NOBODY), b"", []) == expected
    trusted = Peer("10.0.0.1", tls=False, trusted=PRIVATE)
    assert forwarded_headers(trusted, b"", []) == expected.replace(b"192.0.2.1", b"10.0.0.1")


def test_a_trusted_peer_is_appended_and_its_word_is_kept() -> None:
    peer = Peer("10.0.0.1", tls=False, trusted=PRIVATE)
    request = lines(
        "X-Forwarded-For: 6.6.6.6, 1.1.1.1", "x-forwarded-proto: https", "X-FORWARDED-HOST: shop.example",
        "X-Forwarded-For: 10.0.0.9", "Accept: */*",
    )  # fmt: skip
    assert forwarded_headers(peer, b"inner", request) == (
        b"X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.9, 10.0.0.1\r\n"
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
    )
    assert forwarded_headers(peer, b"inner", []) == (
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: inner\r\n"
    )


def test_of_several_words_the_trusted_peers_own_counts_if_it_makes_sense() -> None:
    peer = Peer("10.0.0.1", tls=False, trusted=PRIVATE)
    said = lines("X-Forwarded-Proto: http, https", "X-Forwarded-Host: a.example, b.example")
    assert forwarded_headers(peer, b"h", said).endswith(b"-Proto: https\r\nX-Forwarded-Host: b.example\r\n")
    odd = lines("X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b")
    assert forwarded_headers(peer, b"h", odd).endswith(b"-Proto: http\r\nX-Forwarded-Host: h\r\n")


@pytest.mark.parametrize("proto", ["http", "https", "ws", "wss"])
def test_each_protocol_of_ours_is_kept(proto: str) -> None:
    peer = Peer("10.0.0.1", tls=False, trusted=PRIVATE)
    said = lines(f"X-Forwarded-Proto: gopher, {proto}\t")
    assert b"\r\nX-Forwarded-Proto: %b\r\n" % proto.encode() in forwarded_headers(peer, b"h", said)


def test_a_unix_socket_has_no_address_and_is_trusted_by_nobody() -> None:
    peer = Peer("", tls=False, trusted=Networks([ip_network("0.0.0.0/0")]))
    assert not peer.trusted
    assert forwarded_headers(peer, b"h", []).startswith(b"X-Forwarded-For: unknown\r\n")


# --- Via and request ids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "loops"),
    [
        ([], False),
        ([b"1.1 sg-1"], True),
        ([b"1.0 a, 1.1 SG-1 (streamgate)", b"1.1 b"], True),
        ([b"1.1 sg-12"], False),
        ([b"1.1 a (sg-1)"], False),
        ([b"sg-1 a"], False),
        ([b"1.1 a sg-1"], False),
        ([b"1.1 a (open, 1.1 sg-1"], True),  # a comment a client left open hides nothing
        ([b"HTTP/1.1 sg-1:8080"], False),
    ],
)
def test_a_loop_is_our_pseudonym_as_received_by(received: list[bytes], loops: bool) -> None:
    assert via_loops(received, b"sg-1") is loops


def test_via_says_who_came_before_then_us() -> None:
    assert via_line([], b"sg-1") == b"Via: 1.1 sg-1\r\n"
    assert via_line([b"1.0 a, 1.1 b", b"", b"2 c"], b"sg-1", b"1.0") == b"Via: 1.0 a, 1.1 b, 2 c, 1.0 sg-1\r\n"


@given(st.lists(st.text("ab ,()1.", max_size=12).map(str.encode), max_size=3))
def test_a_request_that_passed_us_is_known_again_whatever_the_client_wrote(before: list[bytes]) -> None:
    line = via_line(before, b"sg-1")
    assert via_loops([line.removeprefix(b"Via: ").removesuffix(b"\r\n")], b"sg-1")


@pytest.mark.parametrize("value", [b"a", b"A-Z_0.9", b"x" * 128])
def test_a_plain_request_id_is_taken_over(value: bytes) -> None:
    assert valid_request_id(value)


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\n", b"a\r\nb", b"\xc3\xa9", b'"', b"a/b"])
def test_any_other_request_id_is_not(value: bytes) -> None:
    assert not valid_request_id(value)
