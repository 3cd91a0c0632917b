"""Every problem on a line of its own, and an exit status that scripts can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from streamgate.cli.main import main

if TYPE_CHECKING:
    from click.testing import Result

ROUTE = '  - {id: %s, match: {paths: ["/%s"]}, to: {service: %s}}\n'
SOUND = (
    "services:\n  - {id: a, url: http://a}\n  - {id: b, url: http://b}\nroutes:\n"
    + ROUTE % ("r", "r", "a")
    + ROUTE % ("s", "s", "b")
    + ROUTE % ("t", "t", "b")
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(text: str | None, *more: str, color: bool = False) -> Result:
    if text is not None:
        Path("streamgate.yaml").write_text(text, encoding="utf-8")
    return CliRunner().invoke(main, ["check", "-c", "streamgate.yaml", *more], color=color)


def test_a_sound_configuration_is_counted() -> None:
    result = check(SOUND)
    assert result.output == "streamgate.yaml: ok (2 services, 3 routes)\n"
    assert result.exit_code == 0


def test_one_is_counted_as_one() -> None:
    result = check("services: [{id: a, url: http://a}]\nroutes:\n" + ROUTE % ("r", "r", "a"))
    assert result.output == "streamgate.yaml: ok (1 service, 1 route)\n"


def test_every_problem_is_a_line_and_the_status_is_2() -> None:
    result = check("gate: {drain: 5, bynd: x}\n" + SOUND.replace("url: http://b", "url: b"))
    assert result.output.splitlines() == [
        'streamgate.yaml:1:15: gate.drain: 5 has no unit; write "5s" for seconds, "5ms" for milliseconds',
        'streamgate.yaml:1:18: gate.bynd: unknown key; did you mean "bind"?',
        "streamgate.yaml:4:18: services[1].url: must be http://HOST or https://HOST with an optional :PORT",
    ]
    assert result.exit_code == 2


def test_warnings_are_told_and_the_status_is_0() -> None:
    result = check(SOUND.replace("service: a", "service: b"))
    warning, ok = result.output.splitlines()
    assert warning.startswith("streamgate.yaml:2:10: warning: services[0].id: no route uses this service")
    assert ok == "streamgate.yaml: ok (2 services, 3 routes)"
    assert result.exit_code == 0


def test_a_file_that_is_not_there_is_a_problem_like_others() -> None:
    result = check(None)
    assert result.output == "streamgate.yaml: no such file; check the name and the folder\n"
    assert result.exit_code == 2


def test_an_environment_is_laid_over() -> None:
    Path("streamgate.prod.yaml").write_text("services: [{id: c, url: http://c}]\n", encoding="utf-8")
    assert "(3 services, 3 routes)" in check(SOUND, "--env", "prod").output
    assert check(SOUND, "--env", "test").exit_code == 2


def test_secrets_come_from_the_environment_and_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SOUND + "gate: {admin_token: '${env:STREAMGATE_TEST_TOKEN}'}\n"
    assert "STREAMGATE_TEST_TOKEN is not set" in check(text).output
    monkeypatch.setenv("STREAMGATE_TEST_TOKEN", "t0ken")
    assert check(text).exit_code == 0
    monkeypatch.setenv("STREAMGATE_TEST_TOKEN", "t0ken\nx")
    result = check(text)
    assert result.exit_code == 2
    assert "t0ken" not in result.output


def test_a_terminal_shows_colour_and_a_pipe_does_not() -> None:
    wrong = "gate: {drain: 5}\n" + SOUND.replace("service: a", "service: b")
    assert "\x1b[" not in check(wrong).output
    coloured = check(wrong, color=True).output
    assert "\x1b[31mstreamgate.yaml:1:15\x1b[0m" in coloured
    assert "\x1b[33mstreamgate.yaml:3:10\x1b[0m" in coloured
    assert "\x1b[32mok" in check(SOUND, color=True).output


def test_json_is_one_document() -> None:
    good = check(SOUND, "--json")
    assert good.exit_code == 0
    told = json.loads(good.output)
    assert (told["ok"], told["services"], told["routes"], told["problems"]) == (True, 2, 3, [])
    assert len(told["hash"]) == 64
    bad = check("gate: {bynd: x}\n" + SOUND, "--json")
    assert bad.exit_code == 2
    assert json.loads(bad.output) == {
        "file": "streamgate.yaml",
        "ok": False,
        "hash": None,
        "services": None,
        "routes": None,
        "problems": [
            {
                "path": "gate.bynd",
                "line": 1,
                "column": 8,
                "file": "streamgate.yaml",
                "message": "unknown key",
                "suggestion": "bind",
                "severity": "error",
            }
        ],
    }


def test_a_file_has_to_be_named() -> None:
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 2
    assert "--config" in result.output
