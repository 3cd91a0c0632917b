"""The gateway as a user starts it: a process of its own, its configuration in a file, its ports free ones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.ports import free_port
from tests.kit.wait import eventually


class RunningGateway:
    """``streamgate run`` on ``config`` (a mapping; its gate's ports and records file are filled in).

    ``async with RunningGateway(tmp_path, {...}) as gateway:`` waits until it is ready and ends it with SIGTERM.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, environ: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        self.file = folder / "streamgate.yaml"
        self.records_file = folder / "records.jsonl"
        self.log_file = folder / "gateway.log"
        self._environ = {**os.environ, **(environ or {})}
        self.process: asyncio.subprocess.Process | None = None
        self.write(config)

    @property
    def url(self) -> str:
        """Where the data port listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the admin port listens."""
        return f"http://127.0.0.1:{self.admin_port}"

    def write(self, config: Mapping[str, Any]) -> None:
        """Put a configuration into the file, by renaming, as a careful editor does."""
        full = dict(config)
        full["gate"] = {
            "bind": f"127.0.0.1:{self.port}",
            "admin": f"127.0.0.1:{self.admin_port}",
            **full.get("gate", {}),
        }
        full["telemetry"] = {"records": str(self.records_file), **full.get("telemetry", {})}
        self.write_text(yaml.safe_dump(full))

    def write_text(self, text: str) -> None:
        """Put any text into the configuration file."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    async def __aenter__(self) -> Self:
        """Start it and wait until it is ready."""
        with self.log_file.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "streamgate.cli",
                "run",
                "-c",
                str(self.file),
                stdout=log,
                stderr=log,
                env=self._environ,
            )
        try:
            await eventually(self.is_ready, timeout=20)
        except BaseException:
            await self.stop()
            print(self.log_file.read_text())  # pytest shows it with the failure
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """End it."""
        await self.stop()

    def tell(self, signum: signal.Signals) -> None:
        """Send a signal."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signum)

    async def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, and SIGKILL if that does not help; returns the exit status."""
        if self.process is None:
            return 0
        self.tell(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), timeout_s)
        except TimeoutError:
            self.tell(signal.SIGKILL)
            await self.process.wait()
            raise

    def admin(self, path: str) -> tuple[int, bytes]:
        """GET from the admin port: (status, body); status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(self.admin_url + path, timeout=5) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()
        except (URLError, OSError):
            return 0, b""

    async def is_ready(self) -> bool:
        """Does /-/readyz say so?"""
        if self.process is not None and self.process.returncode is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log_file.read_text()}")
        return (await asyncio.to_thread(self.admin, "/-/readyz"))[0] == 200

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples of /-/metrics by (name, labels)."""
        _, text = await asyncio.to_thread(self.admin, "/-/metrics")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of one metric's samples that have these labels; 0 when there is none."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in (await self.metrics()).items() if found == name and wanted <= has)

    def records(self) -> list[dict[str, Any]]:
        """Every access record so far."""
        if not self.records_file.exists():
            return []
        lines = self.records_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    async def record(self, matches: Callable[[dict[str, Any]], bool] = lambda _record: True) -> dict[str, Any]:
        """The first record that matches, waited for."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [record for record in self.records() if matches(record)]
            return bool(found)

        await eventually(look, timeout=10)
        return found[0]
