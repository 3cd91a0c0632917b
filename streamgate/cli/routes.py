"""`streamgate routes`: which requests go where, best match first."""

import json
from pathlib import Path

import click
from rich.console import Console

from routers.paths import Entry, Routes, Row
from streamgate.cli.reading import read
from streamgate.cli.table import show
from streamgate.config.load import Loaded
from streamgate.config.spec import Route

TITLES = ("#", "host", "path", "methods", "route", "target")


@click.command("routes")
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), required=True, help="The configuration.")
@click.option("--env", "env", metavar="NAME", help="Lay FILE's neighbour for this environment over it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.pass_context
def command(ctx: click.Context, file: Path, env: str | None, *, as_json: bool) -> None:
    """List which requests go where, in the order in which routes are preferred.

    Exit status 0, or 2 when the configuration cannot be used.
    """
    loaded = read(ctx, file, env, as_json=as_json)
    entries = ordered(loaded)
    if as_json:
        rows = [_as_json(number, entry) for number, entry in enumerate(entries, 1)]
        document = {"file": loaded.source, "environment": loaded.environment, "hash": loaded.hash, "routes": rows}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    if not entries:
        click.echo("no routes: every request is answered 404")
        return
    show(Console(), TITLES, [_as_row(number, entry) for number, entry in enumerate(entries, 1)])


def ordered(loaded: Loaded) -> tuple[Entry[Route], ...]:
    """One entry for each host and path of each route, best first, as the gateway prefers them."""
    rows = [Row(route.match.hosts, route.match.paths, route.match.methods, route) for route in loaded.spec.routes]
    return Routes(rows).rows()


def target_of(route: Route) -> str:
    """Where a route leads, in words."""
    if route.to.respond is not None:
        return f"answers {route.to.respond.status}"
    return "models" if route.to.models else f"service {route.to.service}"


def _as_row(number: int, entry: Entry[Route]) -> list[str]:
    methods = ",".join(entry.methods) or "any"
    return [str(number), entry.host or "any", entry.pattern, methods, entry.plan.id, target_of(entry.plan)]


def _as_json(number: int, entry: Entry[Route]) -> dict[str, object]:
    return {
        "order": number,
        "id": entry.plan.id,
        "host": entry.host,
        "path": entry.pattern,
        "methods": list(entry.methods),
        "target": _target(entry.plan),
    }


def _target(route: Route) -> dict[str, object]:
    to = route.to
    if to.models:
        return {"models": True}
    return {"service": to.service} if to.respond is None else {"respond": to.respond.status}
