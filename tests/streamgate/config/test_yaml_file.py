"""A file is read with its lines, or refused with a sentence; nothing in it can hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgate.config.problem import Place
from streamgate.config.yaml_file import DEPTH_MAX, EXAMPLE, SIZE_MAX_BYTES, VALUES_MAX, parse_document, read_document

if TYPE_CHECKING:
    from pathlib import Path


def plain(text: str) -> object:
    document = parse_document(text, "a.yaml")
    assert not document.findings
    assert document.root is not None
    return document.root.plain()


def told(text: str) -> list[tuple[int | None, int | None, str]]:
    """Line, column and text of everything that is wrong."""
    findings = parse_document(text, "a.yaml").findings
    places = [finding.place for finding in findings]
    assert all(place is not None for place in places)
    return [(place.line, place.column, one.message) for place, one in zip(places, findings, strict=True) if place]


def test_values_are_what_yaml_says() -> None:
    text = "a: 1\nb: x\nc: [1.5, true, null, ~]\nd: {e: 'f'}\ng: off\nh: 0x10\n"
    assert plain(text) == {
        "a": 1,
        "b": "x",
        "c": [1.5, True, None, None],
        "d": {"e": "f"},
        "g": False,
        "h": 16,
    }


def test_a_bare_off_is_false_as_a_value_and_a_word_as_a_key() -> None:
    assert plain("total: off\non: [connect]\noff: 1\nno: 2\n") == {"total": False, "on": ["connect"], "off": 1, "no": 2}


def test_a_date_stays_the_text_it_is() -> None:
    assert plain("a: 2024-01-01\nb: 2024-01-01 10:00:00\nc: =\n") == {
        "a": "2024-01-01",
        "b": "2024-01-01 10:00:00",
        "c": "=",
    }


def test_places_count_from_one() -> None:
    root = parse_document("a: 1\nb:\n  - c: 2\n", "a.yaml").root
    assert root is not None
    assert root.place_of(("b", 0, "c")) == Place("a.yaml", 3, 8)
    assert root.place_of(("b", 0, "c"), on_key=True) == Place("a.yaml", 3, 5)


def test_aliases_and_merge_keys_are_resolved() -> None:
    text = "x: &slow {idle: 5m, total: 1h}\na: *slow\nb: {<<: *slow, idle: 1s}\nc: {<<: [{p: 1}, {p: 2, q: 3}]}\n"
    assert plain(text) == {
        "x": {"idle": "5m", "total": "1h"},
        "a": {"idle": "5m", "total": "1h"},
        "b": {"idle": "1s", "total": "1h"},
        "c": {"p": 1, "q": 3},
    }


def test_what_is_merged_must_be_a_map() -> None:
    assert told("a: {<<: 5}\nb: {<<: [{c: 1}, 6]}\n") == [
        (1, 9, "what `<<` merges must be a map"),
        (2, 18, "what `<<` merges must be a map"),
    ]


def test_a_key_twice_is_told_with_both_lines_and_the_first_counts() -> None:
    document = parse_document("a: 1\nb: {c: 1, c: 2}\na: 3\n", "a.yaml")
    assert [(finding.path, finding.place) for finding in document.findings] == [
        ("b.c", Place("a.yaml", 2, 11)),
        ("a", Place("a.yaml", 3, 1)),
    ]
    assert "first in line 1" in document.findings[1].message
    assert document.root is not None
    assert document.root.plain() == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a:\n", 1, 3, "has no value"),
        ("a: [1, ]\nb: {c: , d: 1}\n", 2, 7, "has no value"),
        ("a: !x 1\n", 1, 4, "a YAML tag"),
        ("a: !!python/object:os.system [x]\n", 1, 4, "a YAML tag"),
        ("a: !!binary aGk=\n", 1, 4, "a YAML tag"),
        ("a: !x {b: 1}\n", 1, 4, "a YAML tag"),
        ("a: !!set {b, c}\n", 1, 4, "a YAML tag"),
        ("a: !!int x\n", 1, 4, "put quotes around it"),
        ("a: !!bool x\n", 1, 4, "put quotes around it"),
        ("a: " + "9" * 5000 + "\n", 1, 4, "put quotes around it"),
        ('a: "\\ud800"\n', 1, 4, "surrogate"),
        ('"\\ud800": 1\n', 1, 1, "surrogate"),
        ("? [a]\n: 1\nb: 2\n", 1, 3, "a key must be a plain word"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_and_the_rest_is_read(text: str, line: int, column: int, says: str) -> None:
    [(at_line, at_column, message)] = told(text)
    assert (at_line, at_column) == (line, column)
    assert says in message
    assert parse_document(text, "a.yaml").root is not None


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\n\tb: 2\n", 2, "tab"),
        ("a: *b\n", 1, "alias"),
        ("a: &x 1\nb: &x 2\nc: *x\n", 2, "stands twice"),
        ("a: b: c\n", 1, "colon"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a:\n    b: 1\n  c: 2\n", 3, "indentation"),
        ('a: "x\n', 2, "never closed"),
        ("a: 1\nb\nc: 2\n", 3, "colon"),
        ("a: @x\n", 1, "quotes"),
        ("a: [1, 2\n", 2, "bracket"),
        ("a: {b: 1\n", 2, "bracket"),
        ("%FOO\n", 2, "not valid YAML"),
        ("a: \x01\n", 1, "control character"),
        ("a: 1\nb: x\x00\n", 2, "control character"),
    ],
)
def test_what_is_no_yaml_is_told_in_plain_words(text: str, line: int, says: str) -> None:
    [(at_line, _, message)] = told(text)
    assert at_line == line
    assert says in message


@pytest.mark.parametrize("secret", ["*tok3n-s3cret", "&tok3n-s3cret x y: z", "@tok3n-s3cret", "%tok3n-s3cret", "!tok3n-s3cret"])
def test_a_secret_without_quotes_is_not_repeated(secret: str) -> None:
    messages = [message for _, _, message in told(f"admin_token: {secret}\n")]
    assert messages
    assert not any("tok3n" in message for message in messages)


@pytest.mark.parametrize("text", ["", "   \n", "# nothing\n", "---\n", "\n\n"])
def test_an_empty_file_says_how_a_small_one_looks(text: str) -> None:
    [(_, _, message)] = told(text)
    assert "the file is empty" in message
    assert message.endswith(EXAMPLE)
    document = parse_document(text, "a.yaml", may_be_empty=True)
    assert document.root is not None
    assert document.root.plain() == {}


@pytest.mark.parametrize("text", ["[a, b]\n", "hello\n", "5\n", "null\n", '""\n'])
def test_a_document_is_a_map(text: str) -> None:
    [(line, _, message)] = told(text)
    assert line == 1
    assert "must be a map" in message


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 10)]
    [(_, _, message)] = told("\n".join(lines))
    assert "more than 100,000 values" in message


def test_an_alias_of_itself_is_refused() -> None:
    for text in ("a: &a [*a]\n", "a: &a {b: {c: *a}}\n"):
        [(_, _, message)] = told(text)
        assert "an alias (*) of itself" in message


def test_an_anchor_may_be_used_often() -> None:
    assert plain("a: &a [1]\nb: [*a, *a]\n") == {"a": [1], "b": [[1], [1]]}


def test_a_deep_document_is_refused_with_its_place() -> None:
    deep = "[" * DEPTH_MAX + "]" * DEPTH_MAX
    [(line, _, message)] = told(f"a: {deep}")
    assert line == 1
    assert "levels deep" in message
    chained = ["a0: &a0 [x]", *(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 3000))]
    [(_, _, message)] = told("\n".join(chained))
    assert "levels deep" in message
    assert told("[" * 100_000)


def test_as_deep_as_is_allowed_is_read() -> None:
    inner = DEPTH_MAX - 2
    assert plain(f"a: {'[' * inner + 'x' + ']' * inner}")


def test_many_values_are_read() -> None:
    count = VALUES_MAX - 2
    root = parse_document("a: [" + "1," * count + "]", "a.yaml").root
    assert root is not None


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@#,?\\\n\t 01<.~", max_size=60))
def test_any_text_is_read_or_told(text: str) -> None:
    document = parse_document(text, "a.yaml")
    assert document.root is not None or document.findings
    for finding in document.findings:
        assert finding.place is not None
        assert "\n" not in finding.message


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(alphabet="abcdef", min_size=1, max_size=3),
        st.one_of(st.integers(), st.booleans(), st.text(alphabet="xyz -:#'\"", max_size=8), st.lists(st.integers())),
        min_size=1,
    )
)
def test_what_yaml_wrote_is_read_back(value: dict[str, object]) -> None:
    assert plain(yaml.safe_dump(value)) == value


def test_a_file_is_read_with_or_without_a_mark_of_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for prefix in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(prefix + "a: é\n".encode())
        root = read_document(path).root
        assert root is not None
        assert root.plain() == {"a": "é"}


def file_told(path: Path) -> tuple[Place | None, str]:
    [finding] = read_document(path).findings
    return finding.place, finding.message


def test_a_file_that_is_not_utf_8_is_told_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    place, message = file_told(path)
    assert place == Place(str(path), 2, 7)
    assert "UTF-8" in message
    path.write_bytes("a: 1\n".encode("utf-16"))
    assert "UTF-8" in file_told(path)[1]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\n" + b"#" * (SIZE_MAX_BYTES - 5))
    assert read_document(path).root is not None
    path.write_bytes(b"a: 1\n" + b"#" * (SIZE_MAX_BYTES - 4))
    assert "larger than 1 MiB" in file_told(path)[1]


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    assert file_told(tmp_path / "nix.yaml") == (
        Place(str(tmp_path / "nix.yaml")),
        "no such file; check the name and the folder",
    )
    assert "is a folder" in file_told(tmp_path)[1]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in file_told(tmp_path / "loop")[1]
    assert read_document(tmp_path / "nix.yaml", absent="gone").findings[0].message == "gone"
