"""What may stand under flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamgate.config.load import ConfigurationError, load
from streamgate.config.spec import Spec
from streamgate.config.spec_flags import Flags, parse_ofrep_url

if TYPE_CHECKING:
    from pathlib import Path

    from streamgate.config.load import Loaded

OFREP = {"provider": "ofrep", "url": "http://flags"}


def kinds(**keys: object) -> list[tuple[str, str]]:
    """Where and what kind each mistake is."""
    with pytest.raises(ValidationError) as info:
        Flags.model_validate(keys)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in info.value.errors()]


def loaded(folder: Path, flags: str, **environ: str) -> Loaded:
    file = folder / "streamgate.yaml"
    file.write_text(f"routes: [{{id: r, match: {{paths: [/]}}, to: {{respond: {{status: 204}}}}}}]\nflags: {flags}\n")
    return load(file, environ=environ)


def test_flagd_needs_a_file_taken_from_the_configuration_s_folder(tmp_path: Path) -> None:
    flags = loaded(tmp_path, "{provider: flagd, file: flags.json}").spec.flags
    assert flags is not None
    assert (flags.provider, flags.file, flags.url) == ("flagd", tmp_path / "flags.json", None)
    assert kinds(provider="flagd") == [("", "flags_flagd")]


def test_no_flags_by_default() -> None:
    assert Spec().flags is None


def test_ofrep_needs_a_url_and_hides_its_secrets(tmp_path: Path) -> None:
    written = '{provider: ofrep, url: "https://Flags.example/Base/", headers: {Authorization: "Bearer ${env:KEY}"}}'
    flags = loaded(tmp_path, written, KEY="hush-hush").spec.flags
    assert flags is not None
    assert (flags.url, flags.timeout, flags.file) == ("https://flags.example/Base", 0.25, None)
    assert flags.headers["Authorization"].get_secret_value() == "Bearer hush-hush"
    assert "hush" not in repr(flags)
    assert "hush" not in flags.model_dump_json()
    assert kinds(provider="ofrep") == [("", "flags_ofrep")]


def test_what_the_other_provider_has_is_refused_not_passed_over(tmp_path: Path) -> None:
    assert kinds(provider="flagd", file="f", timeout="1s") == [("", "flags_misplaced")]
    assert kinds(**OFREP, file="f") == [("", "flags_misplaced")]
    with pytest.raises(ConfigurationError, match="`timeout` means nothing with provider flagd; remove it") as info:
        loaded(tmp_path, "{provider: flagd, file: f, timeout: 1s, url: http://x}")
    assert len(info.value.problems) == 1


@pytest.mark.parametrize(
    ("keys", "loc", "kind"),
    [
        ({}, "provider", "missing"),
        ({"provider": "openfeature"}, "provider", "literal_error"),
        ({"provider": "flagd", "file": ""}, "file", "file_name"),
        ({**OFREP, "timeout": "0s"}, "timeout", "duration_zero"),
        ({**OFREP, "timeout": "off"}, "timeout", "duration_off"),
        ({**OFREP, "headers": {"content-length": "1"}}, "headers.content-length.[key]", "header_name_framing"),
        ({**OFREP, "headers": {"x-key": "a\nb"}}, "headers.x-key", "secret_characters"),
        ({**OFREP, "ur": "http://x"}, "ur", "extra_forbidden"),
    ],
)
def test_what_flags_cannot_be(keys: dict[str, object], loc: str, kind: str) -> None:
    assert kinds(**keys) == [(loc, kind)]


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("HTTP://A", "http://a"),
        ("http://a:8016/", "http://a:8016"),
        ("https://[::1]:1/x/y", "https://[::1]:1/x/y"),
        ("http://a/X%20y", "http://a/X%20y"),
    ],
)
def test_a_url_may_have_a_path(written: str, url: str) -> None:
    assert parse_ofrep_url(written) == url
    assert parse_ofrep_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "a", "ftp://a", "http://", "http://u:hush@a", "http://a?x", "http://a#x", "http://a/b c", "http://a:0", "http://a/\n"],
)
def test_what_no_url_is_and_that_it_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="must be http://HOST") as info:
        parse_ofrep_url(url)
    assert "hush" not in str(info.value)


@given(st.text())
def test_any_text_is_a_url_that_stays_itself_or_is_refused(text: str) -> None:
    try:
        url = parse_ofrep_url(text)
    except ValueError:
        return
    assert parse_ofrep_url(url) == url


def test_what_was_read_can_be_written_and_read_again() -> None:
    first = Flags.model_validate({**OFREP, "timeout": "1500ms"})
    assert Flags.model_validate(first.model_dump(mode="json", exclude_unset=True)) == first
