"""`streamgate flags`: the flags that choose splits, listed, shown, flipped and watched.

Whoever flips a flag has a product in mind, not a file: a flip that requests will not follow, because rules come first, the flag is
disabled, or no model has such a split, is made and said to be one.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import msgspec
from rich.console import Console

from routers.flagd import FlagSet
from routers.flags import Verdict
from routers.ofrep import OfrepFlags
from streamgate.cli.flag_lines import TITLES, Breakage, as_json_flag, plain, row, told
from streamgate.cli.reading import WRONG, read
from streamgate.cli.table import show
from streamgate.clock import SystemClock
from streamgate.config.flag_document import Flag, FlagDocument, FlagFileError
from streamgate.config.flag_file import FlagFile, who_am_i
from streamgate.config.spec import Flags, Model

UNANSWERED: Final = 1
LOOK_S: Final = 0.25
_NAME_WIDTH: Final = 12


@dataclass(frozen=True, slots=True)
class Given:
    """What stands before the subcommand; the same may stand behind it."""

    file: Path | None
    env: str | None
    as_json: bool


class Place:
    """Where the flags of a configuration are, for one command."""

    def __init__(self, ctx: click.Context, given: Given) -> None:
        before: Given = ctx.obj
        file = given.file or before.file
        if file is None:
            ctx.fail("Missing option '-c' / '--config'.")
        self.ctx = ctx
        self.as_json = given.as_json or before.as_json
        spec = read(ctx, file, given.env or before.env, as_json=self.as_json).spec
        self.models: tuple[Model, ...] = spec.models
        if spec.flags is None:
            self.refuse(f"{file}: has no flags; add `flags: {{provider: flagd, file: flags.json}}`")
        self.flags: Flags = spec.flags

    @property
    def flag_file(self) -> FlagFile:
        """The flag file; the end of the program where flags live elsewhere."""
        if self.flags.file is None:
            self.refuse(f"the flags live in the OFREP service at {self.flags.url}; list and change them there, `get KEY` asks it")
        return FlagFile(self.flags.file)

    def document(self) -> FlagDocument:
        """The flags as they are written now, or the end of the program."""
        try:
            return self.flag_file.read()
        except FlagFileError as error:
            self.refuse(str(error))

    def refuse(self, why: str, status: int = WRONG) -> NoReturn:
        """Say why it cannot be done, and end with this status."""
        if self.as_json:
            self.print({"error": why})
        else:
            click.echo(plain(why), err=True)
        self.ctx.exit(status)

    def print(self, document: object) -> None:
        """Print JSON for programs."""
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that may stand before the subcommand and behind it."""

    def with_place(ctx: click.Context, *, file: Path | None, env: str | None, as_json: bool, **arguments: Any) -> None:
        command(Place(ctx, Given(file, env, as_json)), **arguments)

    with_place.__doc__ = command.__doc__
    return _given(click.pass_context(with_place))


def _given(function: Callable[..., None]) -> Callable[..., None]:
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)
    function = click.option("--env", "env", metavar="NAME", help="Lay FILE's neighbour for this environment over it.")(function)
    path = click.Path(path_type=Path)
    return click.option("-c", "--config", "file", type=path, metavar="FILE", help="The configuration.")(function)


@click.group("flags")
@_given
@click.pass_context
def command(ctx: click.Context, file: Path | None, env: str | None, *, as_json: bool) -> None:
    """List, show, flip and watch the flags that choose splits.

    Exit status 0, or 2 when the configuration or the flag file cannot be used, or there is no such flag or variant.
    """
    ctx.obj = Given(file, env, as_json)


@command.command("list")
@_options
def _list(place: Place) -> None:
    """List the flags, each with its state, its default variant and its last change."""
    document, changes = place.document(), place.flag_file.last_changes()
    if place.as_json:
        flags = [as_json_flag(flag, changes.get(flag.key)) for flag in document.flags.values()]
        place.print({"file": document.name, "flags": flags})
    elif document.flags:
        show(Console(), TITLES, [row(flag, changes.get(flag.key)) for flag in document.flags.values()])
    else:
        click.echo(f"{document.name}: no flags")


def _context(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"{text!r} is no part of a context; write it as NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@command.command("get")
@click.argument("key")
@click.option("-t", "--targeting-key", metavar="TEXT", help="Evaluate for this user or session.")
@click.option("--context", multiple=True, callback=_context, metavar="NAME=VALUE", help="Evaluate with this; JSON or text.")
@_options
def _get(place: Place, key: str, targeting_key: str | None, context: dict[str, object]) -> None:
    """Show one flag, and what it says to a context.

    With flags of an OFREP service, ask it; exit status 1 when it does not answer.
    """
    asked = context if targeting_key is None else {"targetingKey": targeting_key, **context}
    if place.flags.url is not None:
        verdict, problems = asyncio.run(_remote(place.flags, key, asked))
        if problems:
            place.refuse(problems[0], UNANSWERED)
        if verdict.error == "FLAG_NOT_FOUND":
            place.refuse(f"the service has no flag {json.dumps(key)}")
        _show(place, {"url": place.flags.url, "key": key}, asked, verdict)
        return
    document = place.document()
    try:
        flag, flags = document.flag(key), FlagSet(document)
    except FlagFileError as error:
        place.refuse(str(error))
    change = place.flag_file.last_changes().get(key)
    _show(place, {"file": document.name, **as_json_flag(flag, change)}, asked, flags.evaluate(key, asked))


async def _remote(flags: Flags, key: str, context: dict[str, object]) -> tuple[Verdict, list[str]]:
    """What the OFREP service says, and what is wrong with it."""
    problems: list[str] = []
    headers = {name: value.get_secret_value() for name, value in flags.headers.items()}
    service = OfrepFlags(
        str(flags.url), headers=headers, timeout_s=flags.timeout, now=SystemClock.now, on_problem=problems.append
    )
    try:
        return await service.decide(key, context), problems
    finally:
        await service.close()


def _show(place: Place, about: dict[str, Any], context: dict[str, object], verdict: Verdict) -> None:
    if place.as_json:
        place.print({**about, "context": context, "verdict": msgspec.to_builtins(verdict)})
        return
    lines = {name: value for name, value in about.items() if value is not None}
    change = lines.pop("last_change", None)
    if change is not None:
        lines["changed"] = f"{change['ts']} by {change['who']}: {change['before']} -> {change['after']}"
    lines["says"] = "nothing; models use their own default" if verdict.value is None else verdict.value
    lines["because"] = " ".join(part for part in (verdict.reason, verdict.error) if part)
    if verdict.variant is not None:
        lines["variant"] = verdict.variant
    for name, value in lines.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(plain(f"{name.replace('_', ' ').ljust(_NAME_WIDTH)}  {text}"))


@command.command("set")
@click.argument("key")
@click.argument("variant")
@_options
def _set(place: Place, key: str, variant: str) -> None:
    """Make VARIANT the default variant of flag KEY: whom no rule of the flag gives another gets it.

    Every worker follows within a second. Who and when goes to the history beside the flag file; STREAMGATE_USER says who,
    otherwise the login does. Warnings say why requests may not follow.
    """
    who = who_am_i(os.environ)
    try:
        flip = place.flag_file.set_default(key, variant, who=who, now_wall=SystemClock.wall())
    except FlagFileError as error:
        place.refuse(str(error))
    warnings = [*flip.warnings, *_no_split(place.models, flip.flag, variant)]
    if place.as_json:
        before = flip.flag.default_variant
        place.print({"key": key, "from": before, "to": variant, "changed": flip.changed, "who": who, "warnings": warnings})
        return
    for warning in warnings:
        click.echo(f"{click.style('warning', fg='yellow')}: {plain(warning)}", err=True)
    done = f"{flip.flag.default_variant or 'none'} -> {variant}" if flip.changed else f"{variant} already"
    click.echo(plain(f"{key}: {done}"))


def _no_split(models: tuple[Model, ...], flag: Flag, variant: str) -> Iterator[str]:
    """Of the models that ask this flag, those that have no split of the name it now gives."""
    value = flag.variants[variant]
    for model in models:
        if model.flag == flag.key and isinstance(value, str) and value not in model.splits:
            there = ", ".join(json.dumps(name) for name in model.splits)
            yield f"model {json.dumps(model.name)} has no split {json.dumps(value)} and uses its default; its splits are: {there}"


@command.command("watch")
@_options
def _watch(place: Place) -> None:
    """Print the flags, and a line whenever one changes, until Ctrl-C."""
    file = place.flag_file
    document: FlagDocument | None = place.document()
    before: FlagDocument | None = None
    breakage = Breakage()
    try:
        while True:
            if document is not None and (before is None or document.text != before.text):
                for line in told(before, document, file.last_changes(), SystemClock.wall()):
                    click.echo(json.dumps(asdict(line), ensure_ascii=False) if place.as_json else str(line))
                before = document
            time.sleep(LOOK_S)
            document, wrong = _looked(file)
            if (news := breakage.news(wrong)) is not None:
                click.echo(plain(f"{news}; the gateway keeps the flags it has"), err=True)
    except KeyboardInterrupt:
        place.ctx.exit(0)


def _looked(file: FlagFile) -> tuple[FlagDocument | None, str | None]:
    """The file as it is now, or what is wrong with it."""
    try:
        return file.read(), None
    except FlagFileError as error:
        return None, str(error)
