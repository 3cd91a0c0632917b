"""One spelling for every path, and the best route for it."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from routers.paths import (
    BadTarget,
    Matched,
    Routes,
    Row,
    Target,
    Way,
    WrongMethod,
    canonical,
    rewrite,
    split_target,
)
from tests.kit.corpora import corpus

# --- one spelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "spelled"),
    [
        (b"/", b"/"),
        (b"/v1/chat/completions", b"/v1/chat/completions"),
        (b"/a.b/c..d/...", b"/a.b/c..d/..."),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/%7euser/%41%2D%5f", b"/~user/A-_"),
        (b"/a%20b%c3%a9%3f%23%25", b"/a%20b%C3%A9%3F%23%25"),
        (b"/%252e%252e/x", b"/%252e%252e/x"),  # decoded once, or never: not twice
        (b"//a///b//", b"/a/b/"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/b/../c", b"/a/c"),
        (b"/a/b/..", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a//../b", b"/b"),  # slashes merge first, as in nginx; keeping the empty segment would leave /a/b
        (b"/a;v=1/b;", b"/a;v=1/b;"),
        (b'/a|b{c}[d]^`"<>', b"/a%7Cb%7Bc%7D%5Bd%5D%5E%60%22%3C%3E"),
        (b"/!$&'()*+,=:@", b"/!$&'()*+,=:@"),
    ],
)
def test_every_path_has_one_spelling(path: bytes, spelled: bytes) -> None:
    assert canonical(path) == spelled


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"", "begin with /"),
        (b"a", "begin with /"),
        (b"*", "begin with /"),
        (b"%2Fa", "encoded slash"),
        (b"/..", "climbs"),
        (b"/a/../../b", "climbs"),
        (b"/a/%2e%2e/.%2e/b", "climbs"),
        (b"/./..", "climbs"),
        (b"/a%00", "NUL"),
        (b"/a\\b", "backslash"),
        (b"/a%5cb", "backslash"),
        (b"/a%5C..", "backslash"),
        (b"/a b", "space"),
        (b"/a\tb", "control"),
        (b"/a\x7f", "control"),
        (b"/caf\xc3\xa9", "non-ASCII"),
        (b"/a#b", "fragment"),
        (b"/a?b", "question mark"),
        (b"/a%", "hexadecimal"),
        (b"/a%4", "hexadecimal"),
        (b"/a%zz", "hexadecimal"),
        (b"/a%%41", "hexadecimal"),
        (b"/a%u002e", "hexadecimal"),
        (b"/a%2fb", "encoded slash"),
        (b"/a%2Fb", "encoded slash"),
        (b"/a/..;/b", "parameters"),
        (b"/a/.;x=1/b", "parameters"),
        (b"/a/%2e%2e;/b", "parameters"),
        (b"/a/..%3b/b", "parameters"),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(path: bytes, reason: str) -> None:
    with pytest.raises(BadTarget, match=re.escape(reason)) as refused:
        canonical(path)
    assert refused.value.reason == str(refused.value)


def test_every_unreserved_character_is_decoded_and_no_other() -> None:
    unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    for code in set(range(1, 256)) - set(b"/\\"):
        spelled = b"/x" + (bytes([code]) if code in unreserved else b"%%%02X" % code)
        assert canonical(b"/x%%%02x" % code) == spelled
        assert canonical(b"/x%%%02X" % code) == spelled


def test_a_kept_encoded_slash_is_a_character_of_its_segment() -> None:
    assert canonical(b"/projects/a%2fb/issues", keep_encoded_slash=True) == b"/projects/a%2Fb/issues"
    assert canonical(b"/projects/a%2fb/../x", keep_encoded_slash=True) == b"/projects/x"
    assert canonical(b"/a%2F...%2F.b/c%2F", keep_encoded_slash=True) == b"/a%2F...%2F.b/c%2F"


@pytest.mark.parametrize(
    "path", [b"/a%2f..%2fb", b"/..%2fb", b"/a/%2e%2e%2fb", b"/a%2f.", b"/a%2f..;x/b", b"/..%3b%2f"]
)
def test_no_dot_segment_hides_behind_an_encoded_slash(path: bytes) -> None:
    with pytest.raises(BadTarget):
        canonical(path, keep_encoded_slash=True)


WORDS = "/ / / a b . .. %2e %2E %41 %7e %20 %25 %2f %2F %3b ; ;x=1 %c3%a9 // ~ | [ %252e %25%32%65 * @"
PIECES = st.sampled_from(WORDS.split())
PATHS = st.lists(PIECES, max_size=14).map(lambda pieces: b"/" + "".join(pieces).encode())


def spelled_or_not(path: bytes, *, keep: bool = False) -> bytes | None:
    try:
        return canonical(path, keep_encoded_slash=keep)
    except BadTarget:
        return None


@given(PATHS | st.binary(max_size=30).map(b"/".__add__), st.booleans())
def test_the_canonical_form_is_its_own(path: bytes, keep: bool) -> None:
    spelled = spelled_or_not(path, keep=keep)
    assume(spelled is not None)
    assert spelled is not None
    assert canonical(spelled, keep_encoded_slash=keep) == spelled
    assert re.fullmatch(rb"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})*)+", spelled)
    assert b"//" not in spelled
    assert not {b".", b".."} & set(re.split(rb"/|%2F", spelled))
    escaped = unquote_to_bytes(b"".join(re.findall(rb"%..", spelled)))
    assert not re.search(rb"[A-Za-z0-9._~\\\0-]", escaped)
    assert keep or b"/" not in escaped


@given(PATHS)
def test_the_canonical_form_means_what_the_path_meant(path: bytes) -> None:
    """Decoding first and resolving then, as a file server would, leads to the same place."""
    spelled = spelled_or_not(path)
    assume(spelled is not None)
    assert spelled is not None
    resolved = posixpath.normpath(re.sub(rb"/+", b"/", unquote_to_bytes(path)))
    assert posixpath.normpath(unquote_to_bytes(spelled)) == resolved


@given(st.text("ab./~", max_size=12).map(str.encode), st.data())
def test_escaping_a_letter_makes_no_difference(path: bytes, data: st.DataObject) -> None:
    path = b"/" + path
    place = data.draw(st.integers(1, len(path)))
    letter = path[place : place + 1]
    escaped = path[:place] + (b"%%%02x" % letter[0] if letter and letter != b"/" else letter) + path[place + 1 :]
    assert spelled_or_not(escaped) == spelled_or_not(path)


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        (b"/a/b", b"h", Target(b"/a/b")),
        (b"/a?", b"h", Target(b"/a", b"")),
        (b"/a?!~", b"h", Target(b"/a", b"!~")),
        (b"/a?b=c?d/..%zz", None, Target(b"/a", b"b=c?d/..%zz")),
        (b"//evil.example/a", b"h", Target(b"//evil.example/a")),
        (b"*", b"h", Target(b"*")),
        (b"http://h/a?b", b"h", Target(b"/a", b"b", b"h")),
        (b"HTTP://Example.COM:80", b"example.com", Target(b"/", None, b"example.com")),
        (b"https://h:443/", b"H:443", Target(b"/", None, b"h")),
        (b"https://h:0443/", b"h:", Target(b"/", None, b"h")),
        (b"http://h.?x", b"h", Target(b"/", b"x", b"h")),
        (b"http://h:8080/", b"h:8080", Target(b"/", None, b"h:8080")),
        (b"http://user:pw@h/", b"h", Target(b"/", None, b"h")),
        (b"http://[2001:DB8::1]:81/a", b"[2001:db8::1]:81", Target(b"/a", None, b"[2001:db8::1]:81")),
        (b"http://h/a", None, Target(b"/a", None, b"h")),
        (b"Example.com:443", b"example.com", Target(b"", None, b"example.com:443")),
        (b"[::1]:443", None, Target(b"", None, b"[::1]:443")),
    ],
)
def test_a_target_in_each_form(target: bytes, host: bytes | None, expected: Target) -> None:
    assert split_target(target, host) == expected


@pytest.mark.parametrize(
    ("target", "host", "reason"),
    [
        (b"http://a/", b"b", "different authorities"),
        (b"http://a:81/", b"a", "different authorities"),
        (b"https://a:80/", b"a", "different authorities"),
        (b"http://a@b/", b"a", "different authorities"),
        (b"http://a@b@c/", b"c", "more than one @"),
        (b"http:///a", b"", "host name"),
        (b"http://a/", b"", "host name"),
        (b"http://a b/", b"a b", "host name"),
        (b"http://a:x/", b"a:x", "host name"),
        (b"http://a#b/", b"a#b", "host name"),
        (b"http://a/?b#c", b"a", "fragment"),
        (b"http://a/?b c", b"a", "query"),
        (b"/a?b#c", b"a", "fragment"),
        (b"/a?b c", b"a", "query"),
        (b"/a?\xc3\xa9", b"a", "query"),
        (b"/a?\x00", b"a", "query"),
        (b"/a?\x7f", b"a", "query"),
        (b"", b"a", "none of"),
        (b"a", b"a", "none of"),
        (b"a:", b"a", "none of"),
        (b"a/b", b"a", "none of"),
        (b"?a", b"a", "none of"),
        (b"**", b"a", "none of"),
        (b"ftp://a/", b"a", "none of"),
        (b"https:/a", b"a", "none of"),
        (b"a@b:1 ", b"a", "none of"),
        (b"!", b"a", "none of"),
    ],
)
def test_a_target_of_no_form_is_refused(target: bytes, host: bytes, reason: str) -> None:
    with pytest.raises(BadTarget, match=re.escape(reason)):
        split_target(target, host)


@given(st.binary(max_size=40), st.none() | st.binary(max_size=10))
def test_any_bytes_are_a_target_or_refused(target: bytes, host: bytes | None) -> None:
    try:
        split = split_target(target, host)
    except BadTarget:
        return
    if split.query is not None:
        assert re.fullmatch(rb"[!-~]*", split.query)
        assert b"#" not in split.query
    if target.startswith(b"/"):
        assert (split.path if split.query is None else split.path + b"?" + split.query) == target
        assert split.authority is None


# --- rewriting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "strip", "add", "rewritten"),
    [
        (b"/a", None, None, b"/a"),
        (b"/api/v1", b"/api", None, b"/v1"),
        (b"/api/v1", b"/api/", None, b"/v1"),
        (b"/api/", b"/api", None, b"/"),
        (b"/api", b"/api", None, b"/"),
        (b"/apiary", b"/api", None, b"/apiary"),
        (b"/other", b"/api", b"/in", b"/in/other"),
        (b"/api", b"/api", b"/in", b"/in"),
        (b"/api/", b"/api", b"/in/", b"/in/"),
        (b"/api/v1", b"/api", b"/in", b"/in/v1"),
        (b"/", None, b"/in", b"/in/"),
        (b"/a", b"/x", b"/in/x", b"/in/x/a"),
        (b"/x/a", b"/x", None, b"/a"),
        (b"/a", b"/", b"/", b"/a"),
        (b"/", b"/", b"/", b"/"),
        (b"/api;v=1/x;y", b"/api", None, b"/x;y"),
        (b"/a/b;c/d", b"/a/b", b"/in", b"/in/d"),
        (b"/a;x/b/c", b"/a/b", None, b"/c"),
        (b"/api;v=1", b"/api", None, b"/"),
        (b"/apiary;v=1", b"/api", None, b"/apiary;v=1"),
        (b"/a;x", b"/a/b", None, b"/a;x"),
    ],
)
def test_a_prefix_is_taken_off_and_another_put_on_at_slashes(
    path: bytes, strip: bytes | None, add: bytes | None, rewritten: bytes
) -> None:
    assert rewrite(path, strip, add) == rewritten


SIMPLE = st.lists(st.sampled_from(["a", "b", "ab", "a;x", ""]), max_size=4).map(
    lambda names: canonical("/".join(["", *names]).encode() or b"/")
)


@given(SIMPLE, st.none() | SIMPLE.filter(lambda path: b";" not in path), st.none() | SIMPLE)
def test_a_rewritten_path_is_canonical_and_stripping_undoes_adding(
    path: bytes, strip: bytes | None, add: bytes | None
) -> None:
    rewritten = rewrite(path, strip, add)
    assert canonical(rewritten) == rewritten
    if add and b";" not in add:
        assert rewrite(rewrite(path, None, add), add, None) == path


# --- routes -----------------------------------------------------------------------------------------------------------


def row(plan: str, paths: str, methods: str = "", hosts: str = "") -> Row[str]:
    return Row(hosts.split(), paths.split(), methods.split(), plan)


def plan(found: Matched[str] | WrongMethod | None) -> str:
    assert isinstance(found, Matched)
    return found.plan


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/v1/*", b"/v1/", True),
        ("/v1/*", b"/v1/a/b", True),
        ("/v1/*", b"/v1", False),
        ("/v1/*", b"/v1x", False),
        ("/v1/*", b"/v1x/a", False),
        ("/v1/*", b"/", False),
        ("/*", b"/", True),
        ("/*", b"/a/b", True),
        ("/*", b"*", False),
        ("/v1", b"/v1", True),
        ("/v1", b"/v1/", False),
        ("/v1/", b"/v1", False),
        ("/v1", b"/V1", False),
        ("/v1", b"/v1;p=1", True),
        ("/v1/*", b"/v1;p=1/a", True),
        ("/v1/*", b"/x;/v1/a", False),
        ("/admin/*", b"/;x/admin/a", True),  # a server that drops parameters and empty segments reads /admin/a
        ("/a%7eb", b"/a~b", True),
        ("/a%2fb", b"/a%2Fb", True),
    ],
)
def test_a_pattern_is_a_whole_path_or_a_prefix_of_segments(pattern: str, path: bytes, matches: bool) -> None:
    assert (Routes([row("p", pattern)]).match(b"h", path, b"GET") is not None) is matches


def test_the_pattern_is_told_as_a_label() -> None:
    routes = Routes([row("p", "/v1/* /v1/models")])
    assert routes.match(b"h", b"/v1/x", b"GET") == Matched("p", "/v1/*")
    assert routes.match(b"h", b"/v1/models", b"GET") == Matched("p", "/v1/models")


def test_an_exact_host_beats_the_longest_wildcard_beats_any() -> None:
    routes = Routes(
        [
            row("any", "/a"),
            row("wide", "/*", hosts="*.example.com"),
            row("near", "/*", hosts="*.b.example.com"),
            row("exact", "/*", hosts="a.b.example.com"),
        ]
    )
    assert plan(routes.match(b"a.b.example.com", b"/a", b"GET")) == "exact"
    assert plan(routes.match(b"x.b.example.com", b"/a", b"GET")) == "near"
    assert plan(routes.match(b"x.y.b.example.com", b"/a", b"GET")) == "near"
    assert plan(routes.match(b"b.example.com", b"/a", b"GET")) == "wide"
    assert plan(routes.match(b"example.com", b"/a", b"GET")) == "any"
    assert plan(routes.match(b".example.com", b"/a", b"GET")) == "any"
    assert plan(routes.match(b"xexample.com", b"/a", b"GET")) == "any"
    assert plan(routes.match(b"", b"/a", b"GET")) == "any"
    assert plan(routes.match(b"x." * 200 + b"example.com", b"/a", b"GET")) == "any"
    assert routes.match(b"example.com", b"/b", b"GET") is None


def test_hosts_are_compared_in_lower_case_without_a_trailing_dot() -> None:
    routes = Routes([row("one", "/*", hosts="API.Example.com."), row("six", "/*", hosts="[::1]")])
    assert plan(routes.match(b"api.EXAMPLE.com.", b"/", b"GET")) == "one"
    assert plan(routes.match(b"[::1]", b"/", b"GET")) == "six"
    assert plan(routes.match(b"[::1]:8080", b"/", b"GET")) == "six"
    assert routes.match(b"other", b"/", b"GET") is None


@pytest.mark.parametrize("port", [b":80", b":8443", b":", b".:80"])
def test_a_port_does_not_lead_past_the_routes_of_a_host(port: bytes) -> None:
    routes = Routes([row("any", "/*"), row("own", "/*", hosts="a.example *.b.example")])
    for host in (b"a.example", b"x.b.example"):
        assert plan(routes.match(host + port, b"/", b"GET")) == "own"
        assert routes.explain(host + port, b"/", b"GET")[0].entry.plan == "own"
    assert plan(routes.match(b"b.example" + port, b"/", b"GET")) == "any"


def test_a_whole_path_beats_the_longest_prefix() -> None:
    routes = Routes([row("all", "/*"), row("v1", "/v1/*"), row("chat", "/v1/chat/*"), row("models", "/v1/models")])
    assert plan(routes.match(b"h", b"/v1/models", b"GET")) == "models"
    assert plan(routes.match(b"h", b"/v1/models/x", b"GET")) == "v1"
    assert plan(routes.match(b"h", b"/v1/chat/x", b"GET")) == "chat"
    assert plan(routes.match(b"h", b"/v1/chat", b"GET")) == "v1"
    assert plan(routes.match(b"h", b"/v2", b"GET")) == "all"


def test_a_route_that_names_methods_beats_one_that_does_not_then_the_file_decides() -> None:
    routes = Routes([row("any", "/a"), row("post", "/a", "POST"), row("later", "/a", "POST PUT")])
    assert plan(routes.match(b"h", b"/a", b"POST")) == "post"
    assert plan(routes.match(b"h", b"/a", b"PUT")) == "later"
    assert plan(routes.match(b"h", b"/a", b"GET")) == "any"


def test_a_route_whose_methods_do_not_fit_is_passed_over() -> None:
    routes = Routes([row("exact", "/v1/a", "POST"), row("prefix", "/v1/*", "GET"), row("host", "/v1/a", "PUT", "h")])
    assert plan(routes.match(b"h", b"/v1/a", b"GET")) == "prefix"
    assert plan(routes.match(b"h", b"/v1/a", b"PUT")) == "host"
    assert routes.match(b"h", b"/v1/a", b"DELETE") == WrongMethod((b"PUT", b"POST", b"GET", b"HEAD"))
    assert routes.match(b"h", b"/v1/b", b"POST") == WrongMethod((b"GET", b"HEAD"))
    assert routes.match(b"h", b"/v2", b"POST") is None


def test_every_shorter_prefix_gets_its_turn() -> None:
    routes = Routes([row(str(depth), "/a" * depth + "/*", "POST" if depth > 1 else "GET") for depth in range(5)])
    assert plan(routes.match(b"h", b"/a/a/a/a/a", b"GET")) == "1"
    assert plan(routes.match(b"h", b"/a/a/b/a", b"POST")) == "2"
    assert plan(routes.match(b"h", b"/b/a", b"GET")) == "0"


def test_whoever_allows_get_allows_head_and_methods_keep_their_case() -> None:
    routes = Routes([row("get", "/a", "GET"), row("head", "/b", "HEAD GET"), row("post", "/c", "POST")])
    assert plan(routes.match(b"h", b"/a", b"HEAD")) == "get"
    assert routes.match(b"h", b"/a", b"get") == WrongMethod((b"GET", b"HEAD"))
    assert routes.match(b"h", b"/b", b"POST") == WrongMethod((b"HEAD", b"GET"))
    assert routes.match(b"h", b"/c", b"HEAD") == WrongMethod((b"POST",))


def test_an_empty_table_matches_nothing() -> None:
    assert Routes[str]([]).match(b"h", b"/", b"GET") is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("p", "/a*"), "ends in /*"),
        (row("p", "/*/b"), "ends in /*"),
        (row("p", "/*/*"), "ends in /*"),
        (row("p", "/a;b"), "no ;"),
        (row("p", "a"), "begin with /"),
        (row("p", "*"), "ends in /*"),
        (row("p", "/../a"), "climbs"),
        (row("p", "/é"), "non-ASCII"),
        (row("p", "/a", hosts="a.*"), "host"),
        (row("p", "/a", hosts="*"), "host"),
        (row("p", "/a", hosts="*x.example"), "host"),
        (row("p", "/a", hosts="a:80"), "without scheme, port"),
        (row("p", "/a", hosts="http://a"), "host"),
        (Row([""], ["/a"], [], "p"), "host"),
        (row("p", "/a", "GE,T"), "method"),
        (Row([], ["/a"], [""], "p"), "method"),
    ],
)
def test_a_row_that_could_never_match_is_refused(bad: Row[str], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Routes([bad])


HOSTS = ["a.example", "b.a.example", "*.example", "*.a.example"]
PATTERNS = ["/*", "/a", "/a/", "/a/*", "/a/b", "/a/b/*", "/ab"]
METHODS = ["GET", "POST", "HEAD"]
ROWS = st.builds(
    lambda hosts, paths, methods: (hosts, paths, methods),
    st.lists(st.sampled_from(HOSTS), max_size=2),
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
    st.lists(st.sampled_from(METHODS), max_size=2),
)


def ranks(entry: tuple[list[str], list[str], list[str]], host: str, path: str) -> list[tuple[int, int, int]]:
    """Say how well a row fits, best first, straight from the sentences that promise it."""
    hosts, paths, methods = entry
    of_host = [
        (0, 0) if pattern == host else (1, -len(pattern))
        for pattern in hosts
        if pattern == host or (pattern[0] == "*" and host.endswith(pattern[1:]))
    ] or ([] if hosts else [(2, 0)])
    of_path = [
        (0, 0) if pattern == path else (1, -len(pattern))
        for pattern in paths
        if pattern == path or (pattern[-1] == "*" and path.startswith(pattern[:-1]))
    ]
    return sorted(
        (10_000 * kind + host_length, 10_000 * way + length, not methods)
        for kind, host_length in of_host
        for way, length in of_path
    )


@given(
    st.lists(ROWS, max_size=6),
    st.sampled_from(["a.example", "b.a.example", "c.example", "example", "x.b.a.example"]),
    st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/c"]),
    st.sampled_from(METHODS),
)
def test_match_and_explain_agree_with_the_rules_read_aloud(
    rows: list[tuple[list[str], list[str], list[str]]], host: str, path: str, method: str
) -> None:
    routes = Routes([Row(*entry, plan=number) for number, entry in enumerate(rows)])
    fits = [(rank, number) for number, entry in enumerate(rows) for rank in ranks(entry, host, path)]

    def allows(number: int) -> bool:
        methods = rows[number][2]
        return not methods or method in methods or (method == "HEAD" and "GET" in methods)

    best = min(((rank, number) for rank, number in fits if allows(number)), default=None)
    asked = (host.encode(), path.encode(), method.encode())
    found = routes.match(*asked)
    assert routes.match(*asked) is found or isinstance(found, WrongMethod)
    chosen = [candidate.entry for candidate in routes.explain(*asked) if candidate.chosen]
    if best is not None:
        assert isinstance(found, Matched)
        assert found.plan == best[1]
        assert [(entry.plan, entry.pattern) for entry in chosen] == [(found.plan, found.pattern)]
    else:
        assert chosen == []
        if fits:
            assert isinstance(found, WrongMethod)
            named = {allowed for _, number in fits for allowed in rows[number][2]}
            assert {allowed.decode() for allowed in found.allow} == named | ({"HEAD"} if "GET" in named else set())
        else:
            assert found is None


def test_answers_are_remembered_but_only_so_many() -> None:
    routes = Routes([row("p", "/*", "GET")])
    for host, target in [(b"h", b"/%d" % number) for number in range(10_000)] + [(b"h", b"/" + b"x" * 5000), (b"h" * 999, b"/")]:
        way, _ = routes.lead(host, target, b"GET")
        assert isinstance(way, Way)
    memo = routes._memo
    assert 0 < len(memo) <= 4096
    assert max(len(host) + len(path) for host, path, _ in memo) <= 256


def test_a_target_leads_to_its_route_and_keeps_its_query() -> None:
    routes = Routes([row("a", "/a/*"), row("b", "/b", "POST", hosts="b.example")])
    for _ in range(2):  # the second time it is remembered
        assert routes.lead(b"h", b"/%61/./x", b"GET") == (Way("a", "/a/*", b"/a/x", b"h"), None)
        assert routes.lead(b"h", b"/%61/./x?q=/../?", b"GET") == (Way("a", "/a/*", b"/a/x", b"h"), b"q=/../?")
        assert routes.lead(b"h", b"/a/x?", b"GET") == (Way("a", "/a/*", b"/a/x", b"h"), b"")
        assert routes.lead(b"b.example", b"/b", b"POST") == (Way("b", "/b", b"/b", b"b.example"), None)
        assert routes.lead(b"B.example:80", b"http://b.example/b?q", b"POST") == (Way("b", "/b", b"/b", b"b.example"), b"q")
        assert routes.lead(b"B.example:80", b"/b", b"POST") == (Way("b", "/b", b"/b", b"B.example:80"), None)
        assert routes.lead(b"b.example", b"/b?q", b"GET") == (WrongMethod((b"POST",)), b"q")
        assert routes.lead(b"h", b"/b", b"POST") == (None, None)
    assert {path for _, path, _ in routes._memo} == {b"/%61/./x", b"/a/x", b"/b"}, "by the bytes that clients send"


@pytest.mark.parametrize("target", [b"/a/x?q=\x01", b"/a/x?#", b"/a/x#", b"*?", b"a/x"])
def test_a_known_path_makes_no_bad_target_good(target: bytes) -> None:
    routes = Routes([row("a", "/*")])
    for known in (b"/a/x", b"*"):
        routes.lead(b"h", known, b"GET")
    with pytest.raises(BadTarget):
        routes.lead(b"h", target, b"GET")


@given(target=st.binary(max_size=12).map(lambda rest: b"/a" + rest))
def test_what_is_remembered_is_what_would_be_found(target: bytes) -> None:
    routes = Routes([row("a", "/*")])

    def led() -> object:
        try:
            return routes.lead(b"h", target, b"GET")
        except BadTarget as error:
            return error.reason

    assert led() == led()


def test_rows_are_listed_best_first() -> None:
    routes = Routes([row("b", "/* /b", hosts="*.example x.example"), row("a", "/a/* /a", "GET")])
    assert [(entry.host, entry.pattern, entry.plan) for entry in routes.rows()] == [
        ("x.example", "/b", "b"),
        ("x.example", "/*", "b"),
        ("*.example", "/b", "b"),
        ("*.example", "/*", "b"),
        (None, "/a", "a"),
        (None, "/a/*", "a"),
    ]
    assert routes.rows()[-1].methods == ("GET",)


def test_the_longest_wildcard_is_listed_and_chosen_first_whatever_the_file_says() -> None:
    routes = Routes([row("wide", "/*", hosts="*.example"), row("near", "/*", hosts="*.long.example")])
    assert [entry.plan for entry in routes.rows()] == ["near", "wide"]
    chosen = [told.entry.plan for told in routes.explain(b"a.long.example", b"/", b"GET") if told.chosen]
    assert chosen == [plan(routes.match(b"a.long.example", b"/", b"GET"))] == ["near"]


def test_explain_reads_a_wildcard_as_match_does() -> None:
    routes = Routes([row("p", "/*", hosts="*.example")])
    for host in (b"xexample", b".example", b"example", b"a.example", b"a.b.example"):
        assert routes.explain(host, b"/", b"GET")[0].chosen is (routes.match(host, b"/", b"GET") is not None)
    assert routes.match(b".example", b"/", b"GET") is None


def test_explain_says_why_for_each() -> None:
    routes = Routes(
        [row("far", "/*", hosts="*.example"), row("post", "/a", "POST"), row("get", "/a", "GET"), row("all", "/*"),
         row("other", "/b")]
    )  # fmt: skip
    told = {candidate.entry.plan: candidate for candidate in routes.explain(b"H.", b"/a;x", b"HEAD")}
    assert {name: candidate.reason for name, candidate in told.items()} == {
        "far": "host is not *.example",
        "post": "method is not POST",
        "get": "matches",
        "all": "would match, but any host /a comes first",
        "other": "path is not /b",
    }
    assert [name for name, candidate in told.items() if candidate.chosen] == ["get"]


# --- the words of others ----------------------------------------------------------------------------------------------


def gateway_api(name: str) -> dict[str, Any]:
    with (corpus("gateway-api") / "cases.jsonl").open() as lines:
        found = [case for case in map(json.loads, lines) if case["id"] == name]
    assert len(found) == 1
    case: dict[str, Any] = found[0]
    return case


@pytest.mark.parametrize("name", ["HTTPRoutePathMatchOrder", "HTTPRouteMatching"])
def test_gateway_api_conformance(name: str) -> None:
    """Their PathPrefix `/v2` is our `/v2` and `/v2/*`; matches by header are another feature and left out."""
    case = gateway_api(name)
    rows = []
    for rule in yaml.safe_load(case["manifests"][0])["spec"]["rules"]:
        for match in rule["matches"]:
            if "path" not in match:
                continue
            value = match["path"]["value"].rstrip("/")
            prefix = [f"{value}/*"] if match["path"]["type"] == "PathPrefix" else []
            rows.append(Row([], [*([value] if value else []), *prefix], [], rule["backendRefs"][0]["name"]))
    routes = Routes(rows)
    asked = [request for request in case["cases"] if "Headers" not in request["Request"]]
    assert len(asked) >= 6
    for request in asked:
        assert plan(routes.match(b"h", request["Request"]["Path"].encode(), b"GET")) == request["Backend"]
