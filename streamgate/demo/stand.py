"""The demo's stand: a model server and the gateway in front of it, both beside this program, both gone with it."""

import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from streamgate.demo import model
from streamgate.demo.child import Child, ChildError

HOST: Final = "127.0.0.1"
READY_S: Final = 30.0
DRAIN_S: Final = 2
"""How long the gateway waits for open streams once the demo stops."""


class PortTakenError(Exception):
    """Another program listens there; the text says how to choose another port."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """What is running, and where."""

    model_name: str
    """What to ask for in a request's ``model``."""
    model_url: str
    gateway_url: str
    admin_url: str
    config: Path
    records: Path
    """One line of JSON for each exchange, written by the gateway."""
    children: tuple[Child, ...]

    def check(self) -> None:
        """Raises ChildError with its last words when one of the programs has ended by itself."""
        for child in self.children:
            if child.has_ended():
                raise ChildError(f"the {child.name} has ended by itself\n{child.last_words()}")


@contextmanager
def stand(*, scripted: bool, port: int, admin_port: int, say: Callable[[str], None]) -> Iterator[Stand]:
    """Start everything, yield once the gateway says that it is ready, then stop everything and remove the files.

    Port 0 takes a free one. `say` is told what is being waited for. Raises PortTakenError, model.MissingError,
    ChildError.
    """
    port, admin_port = _free(port, "--port"), _free(admin_port, "--admin-port")
    with tempfile.TemporaryDirectory(prefix="streamgate-demo-") as name:
        folder = Path(name)
        say("loading the scripted model server" if scripted else "loading the model")
        with _model(folder, scripted=scripted) as upstream:
            upstream_port = upstream.port(model.LOAD_S)
            upstream.wait_ready(f"http://{HOST}:{upstream_port}/health", READY_S)
            config, records = folder / "streamgate.yaml", folder / "records.jsonl"
            config.write_text(configuration(port, admin_port, upstream_port, records, scripted=scripted))
            say("starting the gateway")
            command = [sys.executable, "-m", "streamgate.cli", "run", "-c", str(config)]
            with Child("gateway", command, folder) as gateway:
                gateway.wait_ready(f"http://{HOST}:{admin_port}/-/readyz", READY_S)
                yield Stand(
                    model_name="scripted" if scripted else model.NAME,
                    model_url=f"http://{HOST}:{upstream_port}",
                    gateway_url=f"http://{HOST}:{port}",
                    admin_url=f"http://{HOST}:{admin_port}",
                    config=config,
                    records=records,
                    children=(gateway, upstream),
                )
                say("stopping the gateway, then the model")


def configuration(port: int, admin_port: int, upstream_port: int, records: Path, *, scripted: bool) -> str:
    """The gateway's configuration for the demo, as YAML."""
    paths = ["/v1/*", "/events", "/echo", "/echo/*"] if scripted else ["/v1/*"]
    document = {
        "gate": {"bind": f"{HOST}:{port}", "admin": f"{HOST}:{admin_port}", "drain": f"{DRAIN_S}s"},
        "services": [{"id": "model", "url": f"http://{HOST}:{upstream_port}"}],
        "routes": [{"id": "llm", "match": {"paths": paths}, "to": {"service": "model"}}],
        "telemetry": {"records": str(records)},
    }
    head = "# Written by `streamgate demo`, which removes it when it stops.\n"
    return head + yaml.safe_dump(document, sort_keys=False)


def _model(folder: Path, *, scripted: bool) -> Child:
    if not scripted:
        return model.start(folder)
    return Child("model", [sys.executable, "-m", "streamgate.demo.scripted", "--port", "0"], folder)


def _free(port: int, option: str) -> int:
    """The port itself, or a free one for 0. Raises PortTakenError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTakenError(
                f"{HOST}:{port} cannot be had: {error.strerror}; choose another with {option} N ({option} 0 finds one)"
            ) from None
        taken: int = probe.getsockname()[1]
    return taken
