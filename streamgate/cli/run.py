"""``streamgate run``: the gateway, until it is told to end."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("run", help="Run the gateway.")
@click.option("-c", "--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--env", default=None, help="Merge FILE's neighbour of this environment over it.")
def command(file: Path, env: str | None) -> None:
    """Exit 2 where the configuration is wrong, 1 where the port is taken, 0 after a drain."""
    from streamgate.app import Source, serve  # noqa: PLC0415  # Sanic takes its time; --help should not
    from streamgate.config.problem import ConfigurationError  # noqa: PLC0415

    try:
        status = serve(Source(file.absolute(), env))
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"streamgate cannot start: {error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(status)
