"""A configuration is read from its source, and can be read ahead of the one who asks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from streamgate.config.problem import ConfigurationError
from streamgate.config.source import Ahead, Source

GOOD = "routes: [{id: %s, match: {paths: [/]}, to: {respond: {status: 200}}}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "streamgate.yaml"
    file.write_text(GOOD % "first")
    return file


def test_it_reads_what_is_there_now(file: Path) -> None:
    source = Source(file)
    assert source.read().spec.routes[0].id == "first"
    file.write_text(GOOD % "second")
    assert source.read().spec.routes[0].id == "second"


def test_the_environment_s_file_is_laid_over(file: Path) -> None:
    (file.parent / "streamgate.prod.yaml").write_text("gate: {drain: 7s}\n")
    assert Source(file, "prod").read().spec.gate.drain == 7.0
    assert Source(file).read().spec.gate.drain == 30.0


def test_secrets_come_from_this_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("gate: {admin_token: '${env:STREAMGATE_TEST_TOKEN}'}\n" + GOOD % "r")
    with pytest.raises(ConfigurationError):
        Source(file).read()
    monkeypatch.setenv("STREAMGATE_TEST_TOKEN", "t0ken")
    token = Source(file).read().spec.gate.admin_token
    assert token is not None
    assert token.get_secret_value() == "t0ken"


def test_what_was_read_travels_to_a_worker_whole(file: Path) -> None:
    file.write_text("gate: {admin_token: t0ken, trusted_proxies: [10.0.0.0/8]}\n" + GOOD % "r")
    loaded = Source(file, None).read()
    same = pickle.loads(pickle.dumps((Source(file), loaded)))
    assert same == (Source(file), loaded)


def test_ahead_answers_once_with_what_was_found_before(file: Path) -> None:
    source = Source(file)
    ahead = Ahead(source, source.read())
    file.write_text(GOOD % "second")
    assert ahead().spec.routes[0].id == "first"
    assert ahead().spec.routes[0].id == "second"


def test_ahead_answers_with_what_was_fetched(file: Path) -> None:
    source = Source(file)
    ahead = Ahead(source, source.read())
    file.write_text(GOOD % "second")
    fetched = ahead.fetch()
    file.write_text(GOOD % "third")
    assert ahead() is fetched


def test_ahead_raises_what_was_wrong_then(file: Path) -> None:
    source = Source(file)
    ahead = Ahead(source, source.read())
    file.write_text("routes: 5")
    error = ahead.fetch()
    assert isinstance(error, ConfigurationError)
    file.write_text(GOOD % "mended")
    with pytest.raises(ConfigurationError) as caught:
        ahead()
    assert caught.value is error
    assert ahead().spec.routes[0].id == "mended"
