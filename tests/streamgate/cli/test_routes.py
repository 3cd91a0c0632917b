"""Which requests go where, best first: a table for people, plain text in a pipe, JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from rich.console import Console

from streamgate.cli.main import main
from streamgate.cli.table import show

if TYPE_CHECKING:
    from click.testing import Result

CONFIG = """\
services:
  - {id: a, url: "http://a", credentials: {bearer: sk-secret}}
  - {id: b, url: "http://b"}
routes:
  - {id: rest, match: {paths: ["/*"]}, to: {service: b}}
  - {id: llm, match: {paths: ["/v1/*", /v1]}, to: {service: a}}
  - {id: models, match: {paths: [/v1/models], methods: [GET, POST]}, to: {service: a}}
  - {id: hello, match: {paths: [/hello], hosts: [a.example, "*.b.example"]}, to: {respond: {status: 418, body: hi}}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def routes(text: str, *more: str) -> Result:
    Path("streamgate.yaml").write_text(text, encoding="utf-8")
    return CliRunner().invoke(main, ["routes", "-c", "streamgate.yaml", *more])


def test_a_pipe_gets_plain_text_best_match_first() -> None:
    result = routes(CONFIG)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "#  host         path        methods   route   target",
        "1  a.example    /hello      any       hello   answers 418",
        "2  *.b.example  /hello      any       hello   answers 418",
        "3  any          /v1/models  GET,POST  models  service a",
        "4  any          /v1         any       llm     service a",
        "5  any          /v1/*       any       llm     service a",
        "6  any          /*          any       rest    service b",
    ]


def test_json_says_the_same() -> None:
    result = routes(CONFIG, "--json")
    document = json.loads(result.output)
    assert result.exit_code == 0
    assert document["file"] == "streamgate.yaml"
    assert len(document["hash"]) == 64
    rows = document["routes"]
    assert [(row["order"], row["id"], row["path"]) for row in rows] == [
        (1, "hello", "/hello"), (2, "hello", "/hello"), (3, "models", "/v1/models"), (4, "llm", "/v1"), (5, "llm", "/v1/*"),
        (6, "rest", "/*"),
    ]  # fmt: skip
    assert rows[0] == {
        "order": 1, "id": "hello", "host": "a.example", "path": "/hello", "methods": [], "target": {"respond": 418},
    }  # fmt: skip
    assert rows[2]["methods"] == ["GET", "POST"]
    assert rows[2]["target"] == {"service": "a"}
    assert "sk-secret" not in result.output


def test_a_route_to_the_models_says_so() -> None:
    config = CONFIG.replace("to: {service: b}", "to: {models: true}") + "models: [{name: tutor, splits: {one: [{service: b}]}}]\n"
    assert routes(config).output.splitlines()[-1].split() == ["6", "any", "/*", "any", "rest", "models"]
    assert json.loads(routes(config, "--json").output)["routes"][-1]["target"] == {"models": True}


def test_an_environment_is_laid_over() -> None:
    Path("streamgate.prod.yaml").write_text("services: [{id: c, url: 'http://c'}]\n", encoding="utf-8")
    assert json.loads(routes(CONFIG, "--json", "--env", "prod").output)["environment"] == "prod"


def test_no_routes_is_told() -> None:
    result = routes("services: []")
    assert (result.exit_code, result.output) == (0, "no routes: every request is answered 404\n")


def test_a_wrong_configuration_is_every_problem_and_status_2() -> None:
    result = routes(CONFIG.replace("to: {service: b}", "to: {service: c}").replace("paths: [/hello]", "paths: [hello]"))
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("streamgate.yaml:5:")
    assert "routes[3].match.paths[0]" in lines[1]


def test_a_wrong_configuration_in_json() -> None:
    result = routes("routes: 5", "--json")
    assert result.exit_code == 2
    [problem] = json.loads(result.output)["problems"]
    assert (problem["path"], problem["line"]) == ("routes", 1)


def test_a_file_that_is_not_there() -> None:
    result = CliRunner().invoke(main, ["routes", "-c", "nowhere.yaml"])
    assert result.exit_code == 2
    assert "nowhere.yaml" in result.output


def test_a_terminal_gets_a_frame_and_colour() -> None:
    console = Console(force_terminal=True, width=60, color_system="standard")
    with console.capture() as capture:
        show(console, ("name", "what"), [["a", "x" * 80], ["[b]", "y"]], marked=1)
    text = capture.get()
    assert "\x1b[" in text
    assert text.count("x") == 80, "what is too long is folded, not cut"
    assert "[b]" in text, "brackets are no markup"


def test_a_pipe_gets_every_cell_whole() -> None:
    console = Console(force_terminal=False, width=20)
    with console.capture() as capture:
        show(console, ("name", "what"), [["[b]", "x" * 80]])
    assert capture.get().splitlines() == ["name  what", "[b]   " + "x" * 80]
