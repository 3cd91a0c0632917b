"""A request that is only asked about: what becomes of a URL, and what is refused with words that help."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.pipeline.explaining.asked import Asked, asked_for


def of(url: str = "/x", *headers: tuple[str, str], method: str = "GET", body: bytes | None = None, client: str = "127.0.0.1") -> Asked:
    return asked_for(method, url, headers, host="gate:80", client=client, body=body)


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("/v1/models?a=b#top", "gate:80", "/v1/models?a=b"),
        ("http://h.example", "h.example", "/"),
        ("HTTPS://u:p@h.example:81/a?b#c", "h.example:81", "/a?b"),
        ("http://h.example?q", "h.example", "/?q"),
        ("*", "gate:80", "*"),
        ("/a/../%2f", "gate:80", "/a/../%2f"),
        ("http:///a", "gate:80", "/a"),
    ],
)
def test_what_a_client_makes_of_a_url(url: str, host: str, target: str) -> None:
    asked = of(url)
    assert (dict(asked.headers)["Host"], asked.target) == (host, target)


def test_a_host_of_its_own_is_kept() -> None:
    assert of("http://a.example/", ("host", "b.example")).headers == (("host", "b.example"),)


def test_its_head_as_it_would_be_sent() -> None:
    asked = of("/x", ("A", "é"), method="POST", body=b"{}")
    assert asked.wire() == "POST /x HTTP/1.1\r\nHost: gate:80\r\nA: é\r\nContent-Length: 2\r\n\r\n".encode()
    assert of("/x", ("A", "\udcff")).wire().endswith(b"A: \xff\r\n\r\n"), "bytes of a terminal that are no text"


def test_a_body_brings_its_length_once() -> None:
    assert [name for name, _ in of(body=b"").headers] == ["Host", "Content-Length"]
    assert of("/x", ("content-length", " 3"), body=b"abc").headers[-1] == ("content-length", " 3")
    assert ("Content-Length", "3") not in of("/x", ("Transfer-Encoding", "chunked"), body=b"abc").headers
    assert of("/x", ("Content-Length", "9")).body is None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"url": "v1/models"}, "write a path"),
        ({"url": ""}, "write a path"),
        ({"url": "ftp://a/b"}, "http://HOST/PATH"),
        ({"url": "/a\r\nX: y"}, "one line"),
        ({"method": "GET / HTTP/1.1\r\nX:"}, "one line"),
        ({"headers": [("a b", "c")]}, "without blanks"),
        ({"headers": [("a:", "c")]}, "without blanks"),
        ({"headers": [("", "c")]}, "without blanks"),
        ({"headers": [("a", "c\nd: e")]}, "of one line"),
        ({"client": "nobody"}, "write one such as 192.0.2.1"),
        ({"client": ""}, "write one such as"),
        ({"body": b"abc", "headers": [("Content-Length", "4")]}, "leave the header out"),
    ],
)
def test_what_is_no_request_says_what_to_write(asked: dict[str, object], says: str) -> None:
    whole: dict[str, object] = {"method": "GET", "url": "/x", "headers": [], **asked}
    with pytest.raises(ValueError, match=says):
        asked_for(**whole, host="gate")  # type: ignore[arg-type]


def test_what_is_wrong_is_not_told_at_length() -> None:
    with pytest.raises(ValueError, match="is no URL") as told:
        of("x" * 100_000)
    assert len(str(told.value)) < 300


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=4), st.text(max_size=9))
def test_whatever_is_sent_no_line_is_smuggled_in(method: str, url: str, headers: list[tuple[str, str]], client: str) -> None:
    try:
        asked = asked_for(method, url, headers, host="gate", client=client)
    except ValueError:
        return
    assert len(asked.headers) <= len(headers) + 1
    assert asked.wire().count(b"\r\n") == len(asked.headers) + 2


def test_a_question_holds_its_body_back() -> None:
    assert "s3cret" not in repr(of("/x", ("authorization", "s3cret"), body=b"s3cret"))
