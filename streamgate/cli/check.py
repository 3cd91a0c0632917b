"""`streamgate check`: everything that is wrong with a configuration, one problem a line."""

import dataclasses
import json
import os
from pathlib import Path

import click

from streamgate.config.load import Loaded, load
from streamgate.config.problem import ConfigurationError, Problem

_COLOURS = {"error": "red", "warning": "yellow"}


@click.command("check")
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), required=True, help="The configuration.")
@click.option("--env", "env", metavar="NAME", help="Lay FILE's neighbour for this environment over it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
@click.pass_context
def command(ctx: click.Context, file: Path, env: str | None, *, as_json: bool) -> None:
    """Say everything that is wrong with a configuration.

    Exit status 0 when it can be used (there may be warnings), 2 when it cannot.
    """
    try:
        loaded = load(file, env=env, environ=os.environ)
    except ConfigurationError as error:
        click.echo(_as_json(file, error.problems, None) if as_json else _as_lines(error.problems))
        ctx.exit(2)
    if as_json:
        click.echo(_as_json(file, loaded.warnings, loaded))
        return
    if loaded.warnings:
        click.echo(_as_lines(loaded.warnings))
    click.echo(f"{file}: {click.style('ok', fg='green')} ({_counted(loaded)})")


def _counted(loaded: Loaded) -> str:
    counts = {"service": len(loaded.spec.services), "route": len(loaded.spec.routes)}
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())


def _as_lines(problems: tuple[Problem, ...]) -> str:
    """One line a problem. click takes the colours out again when this is not a terminal."""
    return "\n".join(
        f"{click.style(problem.where, fg=_COLOURS[problem.severity])}: "
        f"{'warning: ' if problem.severity == 'warning' else ''}{problem.what}"
        for problem in problems
    )


def _as_json(file: Path, problems: tuple[Problem, ...], loaded: Loaded | None) -> str:
    return json.dumps(
        {
            "file": str(file),
            "ok": loaded is not None,
            "hash": None if loaded is None else loaded.hash,
            "services": None if loaded is None else len(loaded.spec.services),
            "routes": None if loaded is None else len(loaded.spec.routes),
            "problems": [dataclasses.asdict(problem) for problem in problems],
        },
        indent=2,
        ensure_ascii=False,
    )
