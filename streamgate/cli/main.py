"""`streamgate`: one program, one file a command.

A command is imported when it is called, and only then: help and completion answer at once, and a command whose extra
packages are not installed takes none of the others with it.
"""

import difflib
import importlib
from importlib.util import find_spec
from typing import Final, cast

import click

COMMANDS: Final[dict[str, str]] = {
    "demo": "Try it: the gateway and a small model server on this machine.",
    "run": "Run the gateway.",
    "check": "Say everything that is wrong with a configuration.",
    "schema": "Print the configuration language as a JSON Schema.",
    "routes": "List which requests go where.",
    "explain": "Say what would happen to a request, and why.",
    "flags": "List, show, flip and watch the flags that choose splits.",
}
"""Every command and its short help, in the order that help shows."""


class Commands(click.Group):
    """The commands whose file is there, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        """Their names, in the order of the table."""
        return [name for name in COMMANDS if find_spec(_module(name)) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None when there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return cast("click.Command", importlib.import_module(_module(cmd_name)).command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called, or say which was probably meant. Raises click.UsageError."""
        known = self.list_commands(ctx)
        if args and args[0] not in known:
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(known)}"
            ctx.fail(f'no command "{args[0]}"; {hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _module(name: str) -> str:
    return f"streamgate.cli.{name}"


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamgate", message="%(prog)s %(version)s")
def main() -> None:
    """A streaming gateway for AI and media traffic."""
