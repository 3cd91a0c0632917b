"""`streamgate explain`: what would happen to a request, and why, without sending it."""

import asyncio
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from streamgate.catalogue import PICKERS
from streamgate.cli.explain_lines import Line, candidate_rows, lines_of, model_rows
from streamgate.cli.explanation import explained
from streamgate.cli.reading import read
from streamgate.cli.table import show
from streamgate.config.units import Address
from streamgate.pipeline.explaining.asked import Asked, asked_for

NO_MATCH: Final = 1
_FIELD: Final = re.compile(r"([^\s:]+):[ \t]*([^\r\n]*)")
_NAME_WIDTH: Final = 14


def _field(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in given:
        match = _FIELD.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"{text!r} is no header; write it as 'Name: value'")
        found.append((match[1], match[2]))
    return tuple(found)


def _body(_ctx: click.Context, _param: click.Parameter, given: str | None) -> bytes | None:
    if given is None or not given.startswith("@"):
        return None if given is None else given.encode("utf-8", "surrogateescape")
    try:
        return sys.stdin.buffer.read() if given == "@-" else Path(given[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{given[1:]} cannot be read: {(error.strerror or 'unknown reason').lower()}") from None


@click.command("explain")
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), required=True, help="The configuration.")
@click.option("--env", "env", metavar="NAME", help="Lay FILE's neighbour for this environment over it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.option("-H", "--header", "fields", multiple=True, callback=_field, metavar="'NAME: VALUE'", help="A header of it.")
@click.option("-d", "--data", "body", callback=_body, metavar="BODY", help="Its body; @FILE reads a file, @- what is piped in.")
@click.option("--client", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where the request comes from.")
@click.argument("method")
@click.argument("url")
@click.pass_context
def command(  # noqa: PLR0913, PLR0917  # a parameter for each option
    ctx: click.Context, file: Path, env: str | None, fields: tuple[tuple[str, str], ...], body: bytes | None, client: str,
    method: str, url: str, *, as_json: bool,
) -> None:  # fmt: skip
    """Say what would happen to a request, and why, without sending it.

    URL is a path, or http://HOST/PATH. With a body, a request to a model is followed to its target; nothing of the body is shown.
    Exit status 0 when a route takes it, 1 when none does, 2 when the configuration cannot be used.
    """
    loaded = read(ctx, file, env, as_json=as_json)
    asked = _asked(method, url, fields, client, body, loaded.spec.gate.bind)
    found = asyncio.run(explained(loaded, asked, PICKERS))
    if as_json:
        click.echo(json.dumps(found | {"config": {"source": loaded.source, "hash": loaded.hash}}, indent=2, ensure_ascii=False))
    else:
        _tell(Console(highlight=False, soft_wrap=True), found)
    if not found["matched"]:
        ctx.exit(NO_MATCH)


def _asked(  # what was typed
    method: str, url: str, fields: tuple[tuple[str, str], ...], client: str, body: bytes | None, bind: Address
) -> Asked:
    try:
        return asked_for(method, url, fields, host=str(bind), client=client, body=body)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _tell(console: Console, found: dict[str, Any]) -> None:
    request = found["request"]
    console.print(f"{request['method']} {request['target']} at {request['host']}", style="bold", markup=False)
    console.print()
    _print(console, lines_of(found))
    for titles, rows, marked in (model_rows(found), candidate_rows(found)):
        if rows:
            console.print()
            show(console, titles, rows, marked=marked)


def _print(console: Console, lines: Iterable[Line]) -> None:
    for name, value in lines:
        console.print(f"{name.ljust(_NAME_WIDTH)}{value}".rstrip(), markup=False)
