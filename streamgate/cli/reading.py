"""A configuration for commands that look at one: read, or every problem told and exit status 2."""

import dataclasses
import json
import os
from pathlib import Path

import click

from streamgate.config.load import Loaded, load
from streamgate.config.problem import ConfigurationError

WRONG = 2
"""The exit status where the configuration cannot be used."""


def read(ctx: click.Context, file: Path, env: str | None, *, as_json: bool) -> Loaded:
    """The configuration, or the end of the program: problems as JSON on stdout, or a line each on stderr."""
    try:
        return load(file, env=env, environ=os.environ)
    except ConfigurationError as error:
        if as_json:
            problems = [dataclasses.asdict(problem) for problem in error.problems]
            click.echo(json.dumps({"file": str(file), "problems": problems}, indent=2, ensure_ascii=False))
        else:
            click.echo(str(error), err=True)
        ctx.exit(WRONG)
