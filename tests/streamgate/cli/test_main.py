"""One program that knows its commands without importing them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

import click
import pytest
from click.testing import CliRunner

from streamgate.cli.main import COMMANDS, main


def present() -> list[str]:
    return [name for name in COMMANDS if find_spec(f"streamgate.cli.{name}") is not None]


def test_help_lists_the_commands_in_their_order() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    lines = result.output.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == present()
    assert {"check", "schema"} <= set(present())
    assert "Say everything that is wrong with a configuration." in result.output


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert version("streamgate") in result.output


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from streamgate.cli.main import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print(*(name for name in sys.modules if name in {'pydantic', 'sanic', 'yaml'} or 'streamgate.cli.' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["streamgate.cli.main"]


@pytest.mark.parametrize(("typed", "hint"), [("chek", 'did you mean "check"?'), ("xyzzy", "there are: ")])
def test_a_command_misspelt_is_answered_with_what_there_is(typed: str, hint: str) -> None:
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert f'no command "{typed}"; {hint}' in result.output


def test_what_is_no_command_is_none() -> None:
    assert isinstance(main, click.Group)
    assert main.get_command(click.Context(main), "main") is None
    assert main.get_command(click.Context(main), "check") is not None


def test_no_command_shows_the_help() -> None:
    result = CliRunner().invoke(main, [])
    assert "Commands:" in result.output


@pytest.mark.parametrize("name", ["check", "schema"])
def test_a_command_has_its_own_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "-h"])
    assert result.exit_code == 0
    assert f"main {name}" in result.output
