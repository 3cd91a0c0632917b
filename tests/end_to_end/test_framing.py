"""Framing, end to end: requests that made real servers and proxies misread one are sent to the running gateway, and what
a strict upstream behind it counts is compared with what the gateway answered and with what h11 reads in the same bytes.

Every case comes from a loopback address of its own, so that what reaches the upstream can be told apart by X-Forwarded-For
and all of them can run at a time.
"""

import asyncio
import base64
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import pytest
import pytest_asyncio

from tests.kit.client import RawClient, Response
from tests.kit.corpora import BESIDE, corpus
from tests.kit.gateway import RunningGateway
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wire import Request, answer

NAME = "http1-requests"
AT_A_TIME = 64
PIECES = 1500
"""Into how many pieces a case is cut at most when it is sent byte by byte."""
FROM_UPSTREAM = "x-upstream"
ADDED_HOST = b"\r\nHost: added.example\r\n"

REFUSED = {
    "llhttp/method/2": "CONNECT: the gateway is no tunnel",
    "llhttp/method/3": "CONNECT: the gateway is no tunnel",
    "llhttp/method/4": "CONNECT: the gateway is no tunnel",
    "llhttp/uri/9": "CONNECT: the gateway is no tunnel",
    "gunicorn/valid/rfc9112_target_authority_connect_01": "CONNECT: the gateway is no tunnel",
    "gunicorn/valid/rfc9112_target_authority_ipv6_01": "CONNECT: the gateway is no tunnel",
    "llhttp/method/5": "M-SEARCH *: no route leads to `*`",
    "llhttp/method/12": "ICE is no HTTP",
    "llhttp/method/13": "RTSP is no HTTP",
    "llhttp/method/14": "RTSP is no HTTP",
    "llhttp/content-length/1": "Content-Length 003: garden/32 of the same corpus wants leading zeros refused",
    "llhttp/content-length/2": "Content-Length 003: garden/32 of the same corpus wants leading zeros refused",
    "gunicorn/valid/025": "gzip as a transfer coding: nobody here could undo it",
    "gunicorn/valid/025_line": "gzip as a transfer coding: nobody here could undo it",
    "gunicorn/valid/029": "two codings: RFC 9112 has no `identity` any more",
    "gunicorn/valid/030": "two codings: RFC 9112 has no `identity` any more",
    "llhttp/transfer-encoding/20": "two codings, the last one chunked: refused as is every coding but chunked alone",
    "llhttp/transfer-encoding/21": "two codings, the last one chunked: refused as is every coding but chunked alone",
    "gunicorn/valid/031": "-BLARGH: 501 is right for a method nobody knows (RFC 9110, 9.1)",
    "llhttp/sample/10": "HTTP/0.9",
    "llhttp/uri/3": "a target with a fragment (RFC 9112, 3.2)",
    "llhttp/uri/4": "the target names another authority than the Host that is added here",
    "llhttp/uri/6": "the target names another authority than the Host that is added here",
    "llhttp/uri/8": "the target names another authority than the Host that is added here",
    "llhttp/uri/10": "the target names another authority than the Host that is added here",
}
"""Well-formed for their own source, and still not to be passed on here."""

SKIPPED = {
    "gunicorn/valid/099": "its Content-Length counts more bytes than the fixture holds: it is incomplete, not to be accepted",
    "llhttp/content-length/16": "its bodies are missing: llhttp was told to skip them",
}
"""Cases whose verdict is wrong for a server that is sent these bytes; what they must not do is tested all the same."""

RIGHT_WITH_HOST = {
    "garden/39": "its trailer `X:POST / HTTP/1.1` is a field like any other; the missing Host was the only fault",
}
"""To be refused as they are, but not once a Host is added."""


@dataclass(frozen=True)
class Case:
    """One line of the corpus, sent in one way."""

    id: str
    verdict: str
    raw: bytes
    way: str
    may_refuse: bool
    has_host: bool
    """Or is of HTTP/1.0, which needs none."""

    @property
    def name(self) -> str:
        return f"{self.id}-{self.way}"


@dataclass
class Outcome:
    """What became of it."""

    responses: list[Response] = field(default_factory=list)
    satisfied: bool = False
    """Every request in it is whole and was answered by the upstream: nobody waited for the connection's end."""
    closed: bool = False
    arrived: list[Request] = field(default_factory=list)


def _cases() -> list[Case]:
    folder = Path(os.environ.get("STREAMGATE_CORPORA") or BESIDE) / NAME
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            raw = base64.b64decode(entry["raw_b64"])
            ways = [("whole", raw), ("bytewise", raw)]
            if not entry["has_host"] and b"\r\n" in raw:
                # without it the missing Host alone would be reason enough to refuse, and nothing else would be tried
                start = len(raw) - len(raw.lstrip(b"\r\n"))
                ways.append(("host_added", raw[:start] + raw[start:].replace(b"\r\n", ADDED_HOST, 1)))
            may_refuse = bool(entry.get("needs_config")) or entry["id"] in REFUSED
            for way, data in ways:
                has_host = entry["has_host"] or way == "host_added" or entry["version"] == "1.0"
                found.append(Case(entry["id"], entry["verdict"], data, way, may_refuse, has_host))
    return found


CASES = _cases()


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    corpus(NAME)
    found: Case = request.param
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    found: dict[str, Outcome] = defaultdict(Outcome)

    def record(arrived: Arrived) -> bytes:
        return answer(b"ok", headers=[(FROM_UPSTREAM, "yes")])

    async with RawUpstream() as upstream:
        upstream.answer_with(record)
        config: dict[str, Any] = {
            "gate": {"timeouts": {"head": "3s", "body": "3s", "keep_alive": "5s"}},
            "services": [{"id": "up", "url": upstream.url}],
            "routes": [{"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "up"}}],
        }
        async with RunningGateway(tmp_path_factory.mktemp("framing"), config) as gateway:
            turn = asyncio.Semaphore(AT_A_TIME)
            async with asyncio.TaskGroup() as group:
                for number, case in enumerate(CASES):
                    group.create_task(_send(case, gateway.port, _source(number), found[case.name], turn))
        assert "ERROR" not in gateway.log_file.read_text()
        by_source = {_source(number): case for number, case in enumerate(CASES)}
        for request in upstream.requests:
            found[by_source[request.header("x-forwarded-for") or ""].name].arrived.append(request)
    return found


def _source(number: int) -> str:
    return f"127.7.{number // 250}.{number % 250 + 1}"


async def _send(case: Case, port: int, source: str, outcome: Outcome, turn: asyncio.Semaphore) -> None:
    async with turn, await RawClient.open(port, source=source) as client:
        first_word = case.raw.lstrip(b"\r\n").split(b" ")[0]
        bytewise = -(-len(case.raw) // PIECES) if case.way == "bytewise" else 0
        await client.send(case.raw, piece_bytes=bytewise)
        wanted, clean = read_by_h11(case.raw)
        try:
            while not (clean and wanted and len(relayed(outcome)) == len(wanted)):
                response = await client.answer(head_only=first_word == b"HEAD", timeout=15)
                outcome.responses.append(response)
            outcome.satisfied = True
        except EOFError:
            outcome.closed = True
        except TimeoutError:
            pass  # it stayed open: the tests say of which cases


def read_by_h11(raw: bytes) -> tuple[list[tuple[str, bytes]], bool]:
    """([(method, body)] of every whole request, whether all bytes were read without an objection).

    Empty lines before the first are taken away: h11 knows nothing of RFC 9112, 2.2.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw.lstrip(b"\r\n") if raw.startswith(b"\r\n") else raw)
    found: list[tuple[str, bytes]] = []
    method, body = "", b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, body = event.method.decode(), b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return found, True
                connection.start_next_cycle()
            else:
                return found, connection.their_state is h11.IDLE and not connection.trailing_data[0]
    except h11.ProtocolError:
        return found, False


def relayed(outcome: Outcome) -> list[Response]:
    return [response for response in outcome.responses if response.header(FROM_UPSTREAM)]


def cases(*verdicts: str) -> pytest.MarkDecorator:
    found = [case for case in CASES if not verdicts or case.verdict in verdicts]
    return pytest.mark.parametrize("case", found or [None], ids=lambda case: case and case.name, indirect=True)


@cases()
def test_nobody_misreads_it(case: Case, outcomes: dict[str, Outcome]) -> None:
    """However it ends: what was answered by the upstream is what the upstream counted, and what h11 reads too."""
    outcome = outcomes[case.name]
    got = [(request.method, request.body) for request in outcome.arrived]
    wanted, _ = read_by_h11(case.raw)
    assert len(relayed(outcome)) == len(got)
    assert got == wanted[: len(got)]
    assert outcome.responses, "not a word"
    assert outcome.closed or outcome.satisfied, "whatever else ends the connection, by a refusal or after a silence"


@cases("accept")
def test_accept(case: Case, outcomes: dict[str, Outcome]) -> None:
    if case.id in SKIPPED:
        pytest.skip(SKIPPED[case.id])
    outcome = outcomes[case.name]
    if not case.has_host:
        assert_refused(outcome)
        return
    if case.may_refuse and not outcome.arrived:
        assert_refused(outcome, routed=True)
        return
    wanted, clean = read_by_h11(case.raw)
    assert [(request.method, request.body) for request in outcome.arrived] == wanted
    assert [response.status for response in outcome.responses[: len(wanted)]] == [200] * len(wanted)
    if clean:
        assert len(outcome.responses) == len(wanted) or outcome.responses[-1].status == 400


@cases("reject")
def test_reject(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    if case.way == "host_added" and case.id in RIGHT_WITH_HOST:
        assert [response.status for response in outcome.responses] == [200]
        return
    if case.id == "llhttp/connection/5":
        # two requests: the first is whole and good, the second is not
        assert [response.status for response in outcome.responses] == [200, 400]
        return
    assert_refused(outcome)


@cases("accept-first")
def test_accept_first(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    if not case.has_host:
        assert_refused(outcome)
        return
    assert len(outcome.arrived) == 1
    assert outcome.responses[0].status == 200
    assert outcome.responses[0].closes


@cases("incomplete")
def test_incomplete(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    assert outcome.arrived == []
    assert [response.status for response in outcome.responses] == [408 if case.has_host else 400]


@cases("reject-or-te-only", "reject-or-normalise")
def test_ambiguous(case: Case, outcomes: dict[str, Outcome]) -> None:
    """The gateway's choice is to refuse what could be read in two ways."""
    assert_refused(outcomes[case.name])


def assert_refused(outcome: Outcome, *, routed: bool = False) -> None:
    assert outcome.arrived == []
    last = outcome.responses[-1]
    assert last.status in range(400, 500) or last.status in {501, 505}
    assert (last.closes or routed) and outcome.closed
