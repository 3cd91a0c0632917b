"""A sentence shows what it may, on one line."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from streamgate.config.sentences import SENTENCES, UNKNOWN, quoted, refused, sentence


def test_every_sentence_is_finished_by_given_and_details_alone() -> None:
    known = {"given", "bare", "about", "choices", "name", "ge", "le", "low", "high"}
    for kind, template in SENTENCES.items():
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        assert fields <= known, kind


def test_secrets_urls_and_headers_have_no_place_for_their_value() -> None:
    hidden = ("secret", "bearer", "credentials", "header_value", "state_url", "upstream_url", "string_type")
    for kind, template in SENTENCES.items():
        if kind.startswith(hidden):
            assert "{given}" not in template, kind
            assert "{bare}" not in template, kind


def test_a_value_is_shown_as_the_document_has_it() -> None:
    assert [quoted(value) for value in ("a", 5, True, False, None, {"k": 1}, [1], (1,))] == [
        '"a"',
        "5",
        "true",
        "false",
        "nothing",
        "a map",
        "a list",
        "a list",
    ]
    assert sentence("duration_unit", "5").startswith('"5" has no unit; write "5s"')
    assert sentence("duration_unit", 5).startswith('5 has no unit; write "5s"')


@given(st.text(max_size=200))
def test_a_value_is_shown_on_one_short_line(text: str) -> None:
    shown = quoted(text)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert len(shown) <= 6 * 60 + 2


def test_a_kind_nobody_wrote_a_sentence_for_still_says_what_to_do() -> None:
    assert sentence("some_new_type", "x", limit=3) == UNKNOWN


def test_a_refusal_is_a_value_error_with_its_kind_and_details() -> None:
    refusal = refused("not_available", name="auth")
    assert isinstance(refusal, ValueError)
    assert str(refusal) == "`auth` is not available in this version; remove it"
    assert refusal.type == "not_available"
    assert refusal.context == {"name": "auth"}
