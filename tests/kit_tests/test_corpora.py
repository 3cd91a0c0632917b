"""A corpus is found where it lies, or the test that needs it is skipped with words."""

from pathlib import Path

import pytest

from tests.kit.corpora import corpus


def test_the_environment_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sse-format").mkdir()
    monkeypatch.setenv("STREAMGATE_CORPORA", str(tmp_path))
    try:
        assert corpus("sse-format") == tmp_path / "sse-format"
    except pytest.skip.Exception:
        pytest.fail("it looked elsewhere")  # and would have skipped this very test


def test_an_absent_corpus_skips_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMGATE_CORPORA", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="sse-format is not here: STREAMGATE_CORPORA"):
        corpus("sse-format")
