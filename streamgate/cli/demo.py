"""``streamgate demo``: the gateway with a small model behind it, on this machine, needing no other service."""

import json
import signal
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console

from streamgate.demo import completion
from streamgate.demo.child import ChildError
from streamgate.demo.model import MissingError
from streamgate.demo.stand import PortTakenError, Stand, stand

if TYPE_CHECKING:
    from rich.status import Status

PROMPT: Final = "Explain in two sentences why rivers bend."
SCRIPTED_PACE: Final = {"x-script": "tokens=40, delay_ms=25"}
"""Scripted tokens would otherwise come all at once, and show nothing of streaming."""
PORT: Final = click.IntRange(0, 65535)
WATCH_S: Final = 0.2
INTERRUPTED: Final = 130
"""The exit code shells give a program that SIGINT ended."""


@click.command("demo")
@click.option("--scripted", is_flag=True, help="A scripted server in the model's place: no packages, invented words.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="The gateway's; 0 takes a free one.")
@click.option("--admin-port", type=PORT, default=8081, show_default=True, help="Its admin port; 0 takes a free one.")
@click.option("--once", is_flag=True, help="Stop after the first completion.")
def command(*, scripted: bool, port: int, admin_port: int, once: bool) -> None:
    """Try the gateway: it and a small model start here, one completion streams through, and both stay up."""
    console = Console(highlight=False, soft_wrap=True)
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.default_int_handler)
    try:
        with (
            _Steps(console) as steps,
            stand(scripted=scripted, port=port, admin_port=admin_port, say=steps.say) as running,
        ):
            steps.pause()
            _first_words(console, running, SCRIPTED_PACE if scripted else {})
            if not once:
                _lines_to_try(console, running)
                _stay(running)
    except MissingError as error:
        raise click.ClickException(f"{error}\nor try it without a model: streamgate demo --scripted") from None
    except (PortTakenError, ChildError, completion.CompletionError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


class _Steps:
    """What is being waited for: a moving line on a terminal, a line each in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = console.status("") if console.is_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pause()

    def say(self, step: str) -> None:
        if self._status is None:
            self._console.print(f"{step} …")
        else:
            self._status.update(f"{step} …")
            self._status.start()

    def pause(self) -> None:
        if self._status is not None:
            self._status.stop()


def _first_words(console: Console, running: Stand, headers: dict[str, str]) -> None:
    console.print(f"model    {running.model_name} on {running.model_url}")
    console.print(f"gateway  {running.gateway_url}\n")
    console.print(f"> {PROMPT}", style="bold")

    def show(text: str) -> None:
        console.print(text, end="", markup=False)
        console.file.flush()  # a pipe gets each token when it comes, too

    heard = completion.stream(running.gateway_url, running.model_name, PROMPT, show, headers)
    console.print(f"\n\n{heard.pieces} pieces, the first after {heard.first_s:.2f} s, all after {heard.total_s:.2f} s")


def _lines_to_try(console: Console, running: Stand) -> None:
    body = {"model": running.model_name, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    lines = f"""
Try it:

  curl -N {running.gateway_url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{json.dumps(body)}'

  from openai import OpenAI
  client = OpenAI(base_url="{running.gateway_url}/v1", api_key="none-needed")
  for chunk in client.chat.completions.create(
      model="{running.model_name}", stream=True, messages=[{{"role": "user", "content": "Hello!"}}]
  ):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

admin    {running.admin_url}  (also /-/readyz, /-/metrics, /-/config)
config   {running.config}
records  {running.records}

Ctrl-C stops everything."""
    console.print(lines, markup=False)
    console.file.flush()


def _stay(running: Stand) -> None:
    """Until Ctrl-C, SIGTERM or SIGHUP, which end the demo as they should. Raises ChildError when a part falls over."""
    try:
        while True:
            running.check()
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return
