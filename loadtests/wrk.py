"""Many small requests over kept connections: with wrk where it is installed, else with our own swarm."""

import asyncio
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from loadtests import installs
from loadtests.asking import Address, request
from loadtests.swarm import Load, Swarm


class BadAnswersError(Exception):
    """Some answers were errors: a rate of errors is not a rate of requests."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a run gave."""

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """The request that is repeated."""

    name: str
    method: str
    path: str
    body: bytes = b""

    def data(self, address: Address) -> bytes:
        """As bytes on the wire."""
        if not self.body:
            return f"{self.method} {self.path} HTTP/1.1\r\nhost: {address.host}:{address.port}\r\n\r\n".encode()
        return request(address, {}, stream=False)

    def script(self) -> str:
        """As a script for wrk."""
        if not self.body:
            return ""
        head = 'wrk.headers["content-type"] = "application/json"\nwrk.headers["authorization"] = "Bearer sk-load"\n'
        return f"wrk.method = {self.method!r}\nwrk.body = {self.body.decode()!r}\n{head}"


JSON = Work("json", "GET", "/json")
CHAT = Work(
    "chat",
    "POST",
    "/v1/chat/completions",
    b'{"model":"fake","stream":false,"messages":[{"role":"user","content":"Good morning"}]}',
)


def program() -> str | None:
    """Where wrk is."""
    return shutil.which("wrk")


def version() -> str:
    """Of what makes the requests."""
    found = program()
    return installs.said([found, "-v"]).split("\n")[0].split(" [")[0] if found else "loadtests.swarm"


def parse(text: str) -> Rate:
    """What wrk prints. Raises BadAnswersError when it saw errors, ValueError when this is not its output."""
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: (.*)", text)
    if errors or broken:
        msg = " and ".join(found.group(0) for found in (errors, broken) if found)
        raise BadAnswersError(msg)
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)\b", text)
    if not found:
        msg = f"no request count in: {text[-300:]}"
        raise ValueError(msg)
    unit_s = {"ms": 0.001, "s": 1.0, "m": 60.0}[found[3]]
    return Rate(int(found[1]), float(found[2]) * unit_s)


async def hammer(address: Address, work: Work, connections: int, seconds: float) -> Rate:
    """Repeat one request over some connections for so long. Raises BadAnswersError."""
    found = program()
    return await (_wrk(found, address, work, connections, seconds) if found else _own(address, work, connections, seconds))


async def _wrk(program: str, address: Address, work: Work, connections: int, seconds: float) -> Rate:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        script.write_text(work.script())
        url = f"http://{address.host}:{address.port}{work.path}"
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script)]
        process = await asyncio.create_subprocess_exec(
            program, *options, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
    return parse(out.decode())


async def _own(address: Address, work: Work, connections: int, seconds: float) -> Rate:
    load = Load(repeat=True, data=work.data(address))
    async with Swarm(address, load, connections, ramp_s=0.1) as swarm:
        before, start = swarm.tally.completed, time.monotonic()
        await asyncio.sleep(seconds)
        rate = Rate(swarm.tally.completed - before, time.monotonic() - start)
    if swarm.tally.failed:
        raise BadAnswersError(str(swarm.tally.reasons))
    return rate
