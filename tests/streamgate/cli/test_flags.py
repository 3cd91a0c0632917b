"""`streamgate flags`: what is listed, shown, flipped and watched, and who is told why it will not work."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from routers.flagd import FlagdFlags
from streamgate.cli.main import main
from tests.kit.ports import refused_port
from tests.kit.upstream import RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer

if TYPE_CHECKING:
    from click.testing import Result

    from tests.kit.upstream import Arrived

CONFIG = """\
services: [{id: a, url: "http://a"}]
models:
  - name: tutor
    flag: tutor-split
    splits: {stable: [{service: a}], canary: [{service: a}]}
routes: [{id: llm, match: {paths: ["/v1/*"]}, to: {models: true}}]
flags: {provider: flagd, file: flags.json}
"""
FLAGS = """\
{
  "flags": {
    "tutor-split": {
      "state": "ENABLED",
      "variants": {"stable": "stable", "canary": "canary", "new": "next"},
      "defaultVariant": "stable"
    },
    "ruled": {
      "state": "DISABLED",
      "variants": {"on": "on", "off": "off"},
      "defaultVariant": "off",
      "targeting": {"if": [{"==": [{"var": "tenant"}, "acme"]}, "on", null]}
    }
  }
}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMGATE_USER", "ann")
    Path("streamgate.yaml").write_text(CONFIG, encoding="utf-8")
    Path("flags.json").write_text(FLAGS, encoding="utf-8")


def flags(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["flags", "-c", "streamgate.yaml", *arguments])


def told(*arguments: str, status: int = 0) -> Any:
    result = flags("--json", *arguments)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def test_a_pipe_gets_plain_text() -> None:
    result = flags("list")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "flag         state     default  value   variants             rules  changed",
        "tutor-split  ENABLED   stable   stable  stable, canary, new  no",
        "ruled        DISABLED  off      off     on, off              yes",
    ]


def test_a_flip_is_noted_and_listed() -> None:
    result = flags("set", "tutor-split", "canary")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "tutor-split: stable -> canary\n", "")
    assert Path("flags.json").read_text() == FLAGS.replace('Variant": "stable"', 'Variant": "canary"')
    again = flags("set", "tutor-split", "canary")
    assert (again.exit_code, again.stdout) == (0, "tutor-split: canary already\n")
    line = next(line for line in flags("list").stdout.splitlines() if line.startswith("tutor"))
    assert line.split()[1:3] == ["ENABLED", "canary"]
    assert line.endswith("Z by ann")
    listed = told("list")
    assert listed["file"].endswith("flags.json")
    assert [flag["key"] for flag in listed["flags"]] == ["tutor-split", "ruled"]
    assert listed["flags"][0]["last_change"]["who"] == "ann"


def test_a_flip_for_programs() -> None:
    assert told("set", "tutor-split", "canary") == {
        "key": "tutor-split", "from": "stable", "to": "canary", "changed": True, "who": "ann", "warnings": [],
    }  # fmt: skip


def test_a_flip_that_requests_will_not_follow_says_so() -> None:
    result = flags("set", "ruled", "on")
    assert (result.exit_code, result.stdout) == (0, "ruled: off -> on\n")
    disabled, ruled = result.stderr.splitlines()
    assert disabled.startswith('warning: flag "ruled" is DISABLED')
    assert ruled.startswith('warning: flag "ruled" has targeting')
    [no_split] = flags("set", "tutor-split", "new").stderr.splitlines()
    assert no_split == (
        'warning: model "tutor" has no split "next" and uses its default; its splits are: "stable", "canary"'
    )
    assert len(told("set", "ruled", "off")["warnings"]) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("set", "tutor-splt", "canary"), 'flags.json: no flag "tutor-splt"; did you mean "tutor-split"?'),
        (("set", "tutor-split", "next"), 'has no variant "next"; that is the value of its variant "new"'),
        (("get", "zzz"), 'flags.json: no flag "zzz"; there are: "tutor-split", "ruled"'),
    ],
)
def test_what_is_not_there_is_status_2(arguments: tuple[str, ...], why: str) -> None:
    result = flags(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr
    assert why in told(*arguments, status=2)["error"]
    assert Path("flags.json").read_text() == FLAGS


@pytest.mark.parametrize("command", [("list",), ("get", "f"), ("set", "f", "x"), ("watch",)])
def test_a_broken_flag_file_is_told_with_its_line(command: tuple[str, ...]) -> None:
    Path("flags.json").write_text('{"flags": {\n"f": }}')
    result = flags(*command)
    assert result.exit_code == 2
    assert "flags.json:2:6: is not JSON: expecting value" in result.stderr


def test_a_flag_is_shown_with_what_it_says() -> None:
    result = flags("get", "tutor-split")
    assert result.exit_code == 0
    shown = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert {name: text.strip() for name, text in shown.items() if name in {"says", "because", "default", "variant"}} == {
        "says": "stable", "because": "STATIC", "default": "stable", "variant": "stable",
    }  # fmt: skip
    flags("set", "tutor-split", "canary")
    assert "by ann: stable -> canary" in flags("get", "tutor-split").stdout
    disabled = flags("get", "ruled").stdout
    assert "nothing; models use their own default" in disabled
    assert "DISABLED" in disabled


def test_a_flag_is_evaluated_for_somebody() -> None:
    Path("flags.json").write_text(FLAGS.replace("DISABLED", "ENABLED"))
    verdict = told("get", "ruled", "-t", "user-1", "--context", "tenant=acme", "--context", "level=3")
    assert verdict["context"] == {"targetingKey": "user-1", "tenant": "acme", "level": 3}
    assert verdict["verdict"] == {"key": "ruled", "value": "on", "variant": "on", "reason": "TARGETING_MATCH", "error": None}
    assert told("get", "ruled")["verdict"]["reason"] == "DEFAULT"
    wrong = flags("get", "ruled", "--context", "tenant")
    assert wrong.exit_code == 2
    assert "write it as NAME=VALUE" in wrong.stderr


def test_options_may_stand_behind_the_command_too() -> None:
    result = CliRunner().invoke(main, ["flags", "list", "-c", "streamgate.yaml", "--json"])
    assert (result.exit_code, len(json.loads(result.stdout)["flags"])) == (0, 2)
    missing = CliRunner().invoke(main, ["flags", "list"])
    assert missing.exit_code == 2
    assert "Missing option '-c'" in missing.stderr


def test_an_environment_has_its_own_flags() -> None:
    Path("streamgate.prod.yaml").write_text("flags: {file: prod.json}\n")
    Path("prod.json").write_text('{"flags": {}}')
    assert told("--env", "prod", "list")["flags"] == []
    result = flags("list", "--env", "prod")
    assert result.stdout.endswith("prod.json: no flags\n")


def test_without_flags_it_says_what_to_write() -> None:
    Path("streamgate.yaml").write_text(CONFIG.replace("flags: {provider: flagd, file: flags.json}", ""))
    result = flags("list")
    assert (result.exit_code, result.stderr) == (
        2, "streamgate.yaml: has no flags; add `flags: {provider: flagd, file: flags.json}`\n",
    )  # fmt: skip


def test_a_wrong_configuration_is_every_problem() -> None:
    Path("streamgate.yaml").write_text("flags: {provider: flagd}\nroutes: 5\n")
    result = flags("list")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 2


def test_help_names_the_subcommands() -> None:
    result = CliRunner().invoke(main, ["flags", "-h"])
    assert result.exit_code == 0
    for name in ("list", "get", "set", "watch"):
        assert f"\n  {name} " in result.output
    assert "Make VARIANT the default variant" in CliRunner().invoke(main, ["flags", "set", "-h"]).output


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    Path("flags.json").write_text(FLAGS.replace('"tutor-split"', '"tutor\\u001b[2J"'))
    for arguments in (("list",), ("get", "tutor\x1b[2J"), ("set", "tutor\x1b[2J", "new"), ("get", "x\x1b[2J")):
        result = flags(*arguments)
        assert "\x1b" not in result.stdout + result.stderr


# -- where flags live elsewhere --------------------------------------------------------------------------------------------


def remote(url: str) -> None:
    Path("streamgate.yaml").write_text(CONFIG.replace("{provider: flagd, file: flags.json}",
        f'{{provider: ofrep, url: "{url}", headers: {{X-API-Key: hush}}, timeout: 5s}}'))  # fmt: skip


@pytest.mark.parametrize("command", [("list",), ("set", "f", "x"), ("watch",)])
def test_flags_of_a_service_are_not_ours_to_list_or_change(command: tuple[str, ...]) -> None:
    remote("http://flags.example")
    result = flags(*command)
    assert result.exit_code == 2
    assert result.stderr == (
        "the flags live in the OFREP service at http://flags.example; list and change them there, `get KEY` asks it\n"
    )


async def test_a_service_is_asked_for_a_flag() -> None:
    def reply(arrived: Arrived) -> bytes:
        if arrived.request.target.endswith("/missing"):
            return answer(b'{"errorCode": "FLAG_NOT_FOUND"}', 404)
        if arrived.request.target.endswith("/broken"):
            return answer(b"", 500)
        return answer(b'{"value": "canary", "variant": "b", "reason": "SPLIT"}')

    async with RawUpstream() as service:
        remote(service.url)
        service.answer_with(reply)
        found = await asyncio.to_thread(told, "get", "tutor-split", "-t", "user-1")
        assert found["verdict"] == {"key": "tutor-split", "value": "canary", "variant": "b", "reason": "SPLIT", "error": None}
        assert json.loads(service.requests[0].body) == {"context": {"targetingKey": "user-1"}}
        assert ("X-API-Key", "hush") in service.requests[0].headers
        shown = (await asyncio.to_thread(flags, "get", "tutor-split")).stdout
        assert "says          canary" in shown
        missing = await asyncio.to_thread(flags, "get", "missing")
        assert (missing.exit_code, missing.stderr) == (2, 'the service has no flag "missing"\n')
        broken = await asyncio.to_thread(flags, "get", "broken")
        assert broken.exit_code == 1
        assert 'answered 500 for flag "broken"' in broken.stderr


def test_a_service_that_is_away_is_status_1() -> None:
    with refused_port() as port:
        remote(f"http://127.0.0.1:{port}")
        result = flags("get", "f")
    assert result.exit_code == 1
    assert "the flag service cannot be asked" in result.stderr
    assert "hush" not in result.stderr


# -- as it is used ---------------------------------------------------------------------------------------------------------


class Running:
    """The program as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str) -> Running:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "streamgate.cli", "flags", "-c", "streamgate.yaml", *arguments]
        return cls(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe))

    async def line(self, stream: str = "stdout") -> str:
        reader: asyncio.StreamReader = getattr(self.process, stream)
        return (await asyncio.wait_for(reader.readline(), 30)).decode().rstrip("\n")

    async def end(self) -> tuple[int | None, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode, (out + err).decode()


async def flip(variant: str) -> None:
    status, output = await (await Running.start("set", "tutor-split", variant)).end()
    assert status == 0, output


async def test_a_flip_reaches_an_open_gateway_s_flags() -> None:
    """As a worker has them, at the pace a worker has."""
    problems: list[str] = []
    open_flags = FlagdFlags(Path("flags.json"), on_problem=problems.append)
    assert open_flags.evaluate_nowait("tutor-split", {}).value == "stable"
    for variant in ("canary", "stable", "canary"):
        await flip(variant)
        await eventually(lambda variant=variant: open_flags.evaluate_nowait("tutor-split", {}).value == variant)
    await open_flags.close()
    assert problems == []


async def test_a_watch_tells_each_change_until_it_is_interrupted() -> None:
    watch = await Running.start("watch")
    assert (await watch.line()).endswith("Z tutor-split: stable")
    assert (await watch.line()).endswith("Z ruled: off (DISABLED)")
    await flip("canary")
    assert (await watch.line()).endswith("Z tutor-split: stable -> canary by ann")
    Path("flags.json").write_text("{")
    assert (await watch.line("stderr")).endswith("the gateway keeps the flags it has")
    Path("flags.json").write_text(FLAGS.replace("DISABLED", "ENABLED"))
    lines = {(await watch.line()).partition("Z ")[2] for _ in range(2)}
    assert lines == {"tutor-split: canary -> stable", "ruled: state DISABLED -> ENABLED"}
    watch.process.send_signal(signal.SIGINT)
    assert await watch.end() == (0, "")


async def test_a_watch_for_programs_is_a_document_a_line() -> None:
    watch = await Running.start("watch", "--json")
    first = json.loads(await watch.line())
    assert (first["key"], first["what"], first["before"], first["after"]) == ("tutor-split", "is", None, "stable")
    await watch.line()
    await flip("canary")
    changed = json.loads(await watch.line())
    assert (changed["what"], changed["before"], changed["after"], changed["who"]) == ("default", "stable", "canary", "ann")
    watch.process.send_signal(signal.SIGINT)
    assert await watch.end() == (0, "")
