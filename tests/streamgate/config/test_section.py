"""The small types that every section is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, TypeAdapter, ValidationError

from streamgate.config.section import (
    FOLDER,
    File,
    HeaderName,
    HeaderValue,
    Later,
    NotEmpty,
    Prefix,
    Secret,
    Section,
    Slug,
    StatusWord,
    has_dots,
    is_path,
    is_token,
)


def read(kind: Any, value: object, folder: Path | None = None) -> Any:
    return TypeAdapter(kind).validate_python(value, context=None if folder is None else {FOLDER: folder})


def refused(kind: Any, value: object) -> str:
    """The kind of the mistake."""
    with pytest.raises(ValidationError) as info:
        read(kind, value)
    [error] = info.value.errors()
    return error["type"]


class Example(Section):
    """A section with one key of a later version."""

    auth: Later = None
    secret: Secret | None = None


def test_a_section_is_frozen_and_knows_its_keys() -> None:
    example = Example()
    with pytest.raises(ValidationError):
        example.auth = None
    with pytest.raises(ValidationError):
        Example.model_validate({"other": 1})


@pytest.mark.parametrize("value", [None, {}, [], "", False])
def test_an_empty_key_of_a_later_version_is_ignored(value: object) -> None:
    assert Example.model_validate({"auth": value}).auth is None


@pytest.mark.parametrize("value", [{"any": []}, ["x"], "x", True, 1])
def test_a_key_of_a_later_version_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValidationError, match="`auth` is not available in this version; remove it"):
        Example.model_validate({"auth": value})


@pytest.mark.parametrize("text", ["a", "model-a", "0", "a.b_c-d", "a" * 63])
def test_an_id(text: str) -> None:
    assert read(Slug, text) == text


@pytest.mark.parametrize("text", ["", "A", "-a", ".a", "a b", "a/b", "a" * 64, "é", "a\n"])
def test_what_is_no_id(text: str) -> None:
    assert refused(Slug, text) == "slug"


@pytest.mark.parametrize("text", ["X-Api-Key", "x", "accept"])
def test_a_header_name(text: str) -> None:
    assert read(HeaderName, text) == text


@pytest.mark.parametrize("text", ["", "a b", "a:", "é", "a\r\nb"])
def test_what_is_no_header_name(text: str) -> None:
    assert refused(HeaderName, text) == "header_name"


@pytest.mark.parametrize("text", ["Host", "content-length", "Transfer-Encoding", "connection", "Upgrade"])
def test_headers_that_frame_are_the_gateways_own(text: str) -> None:
    assert refused(HeaderName, text) == "header_name_framing"


@pytest.mark.parametrize("text", ["", "a", "a b\tc", "caf\xe9", "text/plain; q=1"])
def test_a_header_value(text: str) -> None:
    assert read(HeaderValue, text) == text


@pytest.mark.parametrize("text", [" a", "a ", "a\r\nb: c", "a\0", "\u20ac"])
def test_what_is_no_header_value(text: str) -> None:
    assert refused(HeaderValue, text) == "header_value"


@pytest.mark.parametrize("text", ["x", "a b", "~!"])
def test_a_secret_is_hidden_wherever_it_is_printed(text: str) -> None:
    secret = read(Secret, text)
    assert secret.get_secret_value() == text
    assert text not in repr(secret).removeprefix("SecretStr") or text == "x"
    assert str(secret) == "**********"


@pytest.mark.parametrize(("text", "kind"), [("", "secret_empty"), *((t, "secret_characters") for t in (" a", "a\n", "é"))])
def test_what_is_no_secret(text: str, kind: str) -> None:
    assert refused(Secret, text) == kind


def test_a_mistaken_secret_is_not_shown_even_by_pydantic_itself() -> None:
    with pytest.raises(ValidationError) as info:
        Example.model_validate({"secret": "tok3n\n"})
    assert "tok3n" not in str(info.value)


def test_a_relative_file_is_taken_from_the_folder_of_the_configuration() -> None:
    assert read(File, "a/b.pem", Path("/etc/x")) == Path("/etc/x/a/b.pem")
    assert read(File, "/b.pem", Path("/etc/x")) == Path("/b.pem")
    assert read(File, Path("b.pem")) == Path("b.pem")


@pytest.mark.parametrize("value", ["", " ", 5, None, "a\0b", ["a"]])
def test_what_is_no_file(value: object) -> None:
    assert refused(File, value) == "file_name"


@pytest.mark.parametrize(("text", "prefix"), [("/api", "/api"), ("/api/", "/api"), ("/a/b/", "/a/b"), ("/%C3%A9", "/%C3%A9")])
def test_a_prefix_ends_without_a_slash(text: str, prefix: str) -> None:
    assert read(Prefix, text) == prefix


@pytest.mark.parametrize("text", ["", "api", "/a b", "/a*", "/a?b", "/a//b", "/a/../b", "/.", "/é", "/a;b"])
def test_what_is_no_prefix(text: str) -> None:
    assert refused(Prefix, text) == "prefix"


def test_the_root_is_no_prefix() -> None:
    assert refused(Prefix, "/") == "prefix_root"


@pytest.mark.parametrize("text", ["/", "/a/b", "/a%20b", "/[x]|", "/a%5B"])
def test_what_may_be_a_path(text: str) -> None:
    assert is_path(text)


@pytest.mark.parametrize(
    "text",
    ["a", "/a?b", "/a#b", "/a;b", "/a b", "/a\\b", "/%", "/%4", "/%zz", "/%00", "/%5c", "/%5C", "/\x7f", "/\xe9", ""],
)
def test_what_is_no_path(text: str) -> None:
    assert not is_path(text)


@given(st.text(max_size=20))
def test_a_path_holds_nothing_that_ends_it(text: str) -> None:
    if is_path(text):
        assert text.startswith("/")
        assert text.isascii()
        assert not set("?#; \\\r\n\0") & set(text)


def test_dots_count_as_whole_segments_only() -> None:
    assert has_dots("/a/./b")
    assert has_dots("/..")
    assert has_dots("/%2e%2E/x")
    assert has_dots("/a%2f.%2e")
    assert not has_dots("/a.b/..c/...")
    assert not has_dots("/a%2e/%2f%2eb")


def test_a_list_that_must_not_be_empty() -> None:
    kind = Annotated[tuple[str, ...], NotEmpty]
    assert read(kind, ["a"]) == ("a",)
    assert refused(kind, []) == "list_empty"


def test_a_status_may_come_as_text() -> None:
    kind = Annotated[Literal["reset", 502], StatusWord]
    assert [read(kind, value) for value in (502, "502", "reset")] == [502, 502, "reset"]
    for value in ("50", "5022", "404", "", None):
        assert refused(kind, value) == "literal_error"


def test_tokens() -> None:
    assert is_token("GET")
    assert is_token("x-1!#$%&'*+.^_`|~")
    assert not any(is_token(text) for text in ("", "a b", "a:b", "(a)", "é"))


def test_a_secret_that_is_one_already_stays_one() -> None:
    assert read(Secret, SecretStr("abc")).get_secret_value() == "abc"
