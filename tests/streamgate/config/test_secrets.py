"""A reference resolves or is told; what it resolves to is never told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.config.secrets import SECRET_MAX_BYTES, Resolved, has_reference, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(b"from-file\n")
    return tmp_path


def resolved(document: object, folder: Path, environ: Mapping[str, str] | None = None) -> Resolved:
    return resolve(document, environ={"KEY": "s3cret", "EMPTY": ""} if environ is None else environ, folder=folder)


def told(text: str, folder: Path) -> str:
    result = resolved({"a": [text]}, folder)
    [finding] = result.findings
    assert finding.path == "a[0]"
    assert result.data == {"a": [text]}
    return finding.message


def test_a_reference_resolves_whole_or_inside_a_text(folder: Path) -> None:
    document = {"a": "${env:KEY}", "b": ["x-${env:KEY}-${file:key}", 5, None, True], "c": {"d": "plain $5 {}"}}
    result = resolved(document, folder)
    assert result.data == {"a": "s3cret", "b": ["x-s3cret-from-file", 5, None, True], "c": {"d": "plain $5 {}"}}
    assert result.findings == ()
    assert result.files == (folder / "key",)


def test_a_file_may_be_named_from_the_root(folder: Path) -> None:
    result = resolved(f"${{file:{folder}/key}}", folder / "elsewhere")
    assert result.data == "from-file"


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"a", "a"), (b"a\r", "a\r"), (b"\n", ""), (b" a ", " a ")],
)
def test_one_newline_at_the_end_of_a_file_is_not_part_of_the_secret(folder: Path, raw: bytes, value: str) -> None:
    (folder / "raw").write_bytes(raw)
    assert resolved("${file:raw}", folder).data == value


def test_an_empty_variable_is_empty_and_not_missing(folder: Path) -> None:
    assert resolved("a${env:EMPTY}b", folder).data == "ab"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${env:NIX}", "variable NIX is not set"),
        ("x${env:KEY}y${env:NIX}", "variable NIX is not set"),
        ("${env:A B}", "letters, digits and _"),
        ("${file:nix}", "no file nix"),
        ("${file:.}", "cannot be read: Is a directory"),
        ("${file:a\0b}", "cannot be read: not a file name"),
        ("${vault:path#key}", "${vault:…} is not available in this version"),
        ("${aws-sm:name#key}", "${aws-sm:…} is not available in this version"),
        ("${vault:}", "not available in this version"),
        ("${KEY}", "means nothing"),
        ("${vault}", "means nothing"),
        ("${env}", "means nothing"),
        ("${}", "means nothing"),
        ("${env:}", "means nothing"),
        ("${ENV:KEY}", "means nothing"),
        ("${envv:KEY}", "means nothing"),
        ("${env:KEY", "not closed"),
        ("${env:${env:KEY}}", "not closed"),
    ],
)
def test_what_does_not_resolve_says_what_to_do(folder: Path, text: str, says: str) -> None:
    message = told(text, folder)
    assert says in message
    assert "s3cret" not in message


def test_a_file_that_is_no_secret_is_told(folder: Path) -> None:
    (folder / "large").write_bytes(b"x" * (SECRET_MAX_BYTES + 1))
    (folder / "binary").write_bytes(b"\xff\xfe")
    assert "larger than 64 KiB" in told("${file:large}", folder)
    assert "not UTF-8" in told("${file:binary}", folder)
    (folder / "large").write_bytes(b"x" * SECRET_MAX_BYTES)
    assert resolved("${file:large}", folder).findings == ()


def test_every_reference_that_leads_nowhere_is_told(folder: Path) -> None:
    result = resolved({"a": "${env:X}${env:Y}", "b": "${file:z}"}, folder)
    assert [(finding.path, "X" in finding.message) for finding in result.findings] == [
        ("a", True),
        ("a", False),
        ("b", False),
    ]
    assert result.files == (folder / "z",)


def test_two_dollars_stand_for_the_characters_themselves(folder: Path) -> None:
    assert resolved("$${env:KEY} $${x} $$ $", folder).data == "${env:KEY} ${x} $$ $"
    assert has_reference("x${env:KEY}")
    assert has_reference("${")
    assert not has_reference("$${env:KEY}")
    assert not has_reference("$5")
    assert not has_reference(5)


@given(value=st.text(), around=st.text(alphabet="ab {}"))
def test_what_a_reference_gives_is_not_looked_into_again(value: str, around: str) -> None:
    from pathlib import Path

    result = resolve(f"{around}${{env:V}}", environ={"V": value}, folder=Path())
    assert result.data == around + value


@given(st.text(alphabet="${}:envfil/K ", max_size=30))
def test_any_text_resolves_or_is_told(text: str) -> None:
    from pathlib import Path

    result = resolve(text, environ={"K": "v"}, folder=Path("/nonexistent"))
    assert isinstance(result.data, str)
    if result.findings or "${" not in text:
        assert result.data == text
