"""`streamgate schema`: the configuration language as a JSON Schema."""

import json

import click

from streamgate.config.schema import json_schema


@click.command("schema")
def command() -> None:
    """Print the configuration language as a JSON Schema, for editors and for reading."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
