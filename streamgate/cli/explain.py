"""`streamgate explain`: what would happen to a request, and why, without sending it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from streamgate.catalogue import PICKERS
from streamgate.cli.explanation import Asked, explained
from streamgate.cli.reading import read
from streamgate.cli.table import show
from streamgate.config.units import Address

NO_MATCH: Final = 1
_URL: Final = re.compile(r"https?://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
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


@click.command("explain")
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), required=True, help="The configuration.")
@click.option("--env", "env", metavar="NAME", help="Lay FILE's neighbour for this environment over it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.option("-H", "--header", "fields", multiple=True, callback=_field, metavar="'NAME: VALUE'", help="A header of it.")
@click.option("--client", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where the request comes from.")
@click.argument("method")
@click.argument("url")
@click.pass_context
def command(  # noqa: PLR0913, PLR0917  # a parameter for each option
    ctx: click.Context, file: Path, env: str | None, fields: tuple[tuple[str, str], ...], client: str, method: str, url: str,
    *, as_json: bool,
) -> None:  # fmt: skip
    """Say what would happen to a request, and why, without sending it.

    URL is a path, or http://HOST/PATH. Exit status 0 when a route takes it, 1 when none does, 2 when the configuration
    cannot be used.
    """
    loaded = read(ctx, file, env, as_json=as_json)
    found = explained(loaded, _asked(method, url, fields, client, loaded.spec.gate.bind), PICKERS)
    if as_json:
        click.echo(json.dumps(found | {"config": {"source": loaded.source, "hash": loaded.hash}}, indent=2, ensure_ascii=False))
    else:
        _tell(Console(highlight=False, soft_wrap=True), found)
    if not found["matched"]:
        ctx.exit(NO_MATCH)


def _asked(method: str, url: str, fields: tuple[tuple[str, str], ...], client: str, bind: Address) -> Asked:
    """What a client makes of a URL: the target as it stands, not tidied, since that is what a hostile one would send."""
    if any(mark in method + url for mark in "\r\n"):
        raise click.BadParameter("a method and a URL are one line each")
    host, target = str(bind), url
    if (match := _URL.fullmatch(url)) is not None:
        host, target = match[1].rpartition("@")[2], match[2] or "/"
        target = target if target.startswith("/") else f"/{target}"
    elif url.startswith("/"):
        target = url.partition("#")[0]
    elif url != "*":
        raise click.BadParameter(f"{url!r} is no URL; write a path such as /v1/models, or http://HOST/PATH", param_hint="URL")
    named = any(name.lower() == "host" for name, _ in fields)
    return Asked(method, target, fields if named else (("Host", host), *fields), client)


def _tell(console: Console, found: dict[str, Any]) -> None:
    request = found["request"]
    console.print(f"{request['method']} {request['target']} at {request['host']}", style="bold", markup=False)
    console.print()
    for name, value in _lines(found):
        console.print(f"{name.ljust(_NAME_WIDTH)}{value}".rstrip(), markup=False)
    candidates = found["candidates"]
    if candidates:
        console.print()
        rows = [
            [str(number), one["route"], one["host"] or "any", one["path"], ",".join(one["methods"]) or "any", one["reason"]]
            for number, one in enumerate(candidates, 1)
        ]
        chosen = next((number for number, one in enumerate(candidates) if one["chosen"]), None)
        show(console, ("#", "route", "host", "path", "methods", "verdict"), rows, marked=chosen)


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    refusal = found["refusal"]
    why = "" if refusal is None else f": {refusal['status']} {refusal['code']}: {refusal['message']}"
    yield "outcome", found["outcome"] + why
    if found["path"] is not None:
        yield "path", f"{found['path']} (canonical)" + ("" if found["query"] is None else f", query {found['query']}")
        yield "dialect", found["dialect"]
    if (route := found.get("route")) is not None:
        yield "route", f"{route['id']}, by {route['pattern']}"
        yield "body", f"at most {route['max_body']}" if route["max_body"] != "off" else "of any size"
        yield "client", route["client_address"]
    if (answer := found.get("answer")) is not None:
        yield "answer", f"{answer['status']}, {answer['body_bytes']} bytes, by the gateway itself"
    if (service := found.get("service")) is not None:
        yield from _service_lines(service, found["route"])
    if (upstream := found.get("upstream")) is not None:
        yield "upstream gets", f"{upstream['method']} {upstream['target']}"
        yield "", f"Host: {upstream['host']} ({upstream['host_is']})"
        for name, value in upstream["headers"]:
            yield "", f"{name}: {value}"


def _service_lines(service: dict[str, Any], route: dict[str, Any]) -> Iterator[tuple[str, str]]:
    by = f" of {', '.join(service['hash_by'])}" if service["hash_by"] else ""
    yield "service", f"{service['id']}, {service['balance']}{by}"
    for endpoint in service["endpoints"]:
        bound = "" if endpoint["max_in_flight"] is None else f", at most {endpoint['max_in_flight']} at a time"
        region = "" if endpoint["region"] is None else f", region {endpoint['region']}"
        yield "", f"{endpoint['url']} weight {endpoint['weight']}{region}{bound}: {endpoint['verdict']}"
    yield "timeouts", ", ".join(f"{name} {value}" for name, value in route["timeouts"].items())
    retries = route["retries"]
    after = ", ".join(f"{outcome}: {verdict}" for outcome, verdict in retries["after"].items())
    yield "retries", f"{retries['attempts']}" + (f" ({after})" if after and retries["attempts"] else "")
    yield "disconnect", route["on_disconnect"]
