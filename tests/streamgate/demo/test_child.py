"""A program beside this one is waited for, heard when it fails, and stopped for certain."""

import os
import signal
import sys
from pathlib import Path

import pytest

from streamgate.demo.child import Child, ChildError
from tests.kit.ports import refused_port

SERVER = """
import http.server, json, sys
class Answer(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Answer.asked += 1
        self.send_response(200 if self.path == "/at-once" or Answer.asked > 2 else 503)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
print(json.dumps({"port": server.server_port}), flush=True)
server.serve_forever()
"""
DEAF_TO_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"port": 1}', flush=True)
while True: signal.pause()
"""


def python(program: str, folder: Path) -> Child:
    return Child("program", [sys.executable, "-c", program], folder)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_ready_once_it_answers_200_and_gone_after_the_block(tmp_path: Path) -> None:
    with python(SERVER, tmp_path) as child:
        child.wait_ready(f"http://127.0.0.1:{child.port()}/third-time")
        assert not child.has_ended()
    assert child.has_ended()
    assert not exists(child.pid)
    assert child.last_words().count(" 503 ") == 2


def test_what_ends_before_it_is_ready_is_quoted(tmp_path: Path) -> None:
    with (
        python("import sys; print('starting'); sys.exit('no such model')", tmp_path) as child,
        pytest.raises(ChildError, match=r"the program ended with code 1 before it answered 200 on .*(?s:.*)no such model"),
        refused_port() as port,
    ):
        child.wait_ready(f"http://127.0.0.1:{port}/")


def test_what_prints_something_else_than_its_port_is_quoted(tmp_path: Path) -> None:
    with python("print('hello')", tmp_path) as child, pytest.raises(ChildError, match="printed b'hello' where"):
        child.port()


def test_what_takes_too_long_is_told_with_what_it_said(tmp_path: Path) -> None:
    program = "import signal, sys; print('loading', file=sys.stderr, flush=True); signal.pause()"
    with python(program, tmp_path) as child, pytest.raises(ChildError, match="not said on which port"):
        child.port(deadline_s=0.05)


def test_what_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    with python(DEAF_TO_SIGTERM, tmp_path) as child:
        child.port()
        child.stop(grace_s=0.05)
        assert not exists(child.pid)


def test_an_interrupted_stop_still_leaves_nothing_running(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    child = python(DEAF_TO_SIGTERM, tmp_path)
    child.port()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            child.stop(grace_s=60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not exists(child.pid)


def test_it_is_out_of_reach_of_this_programs_ctrl_c(tmp_path: Path) -> None:
    with python(SERVER, tmp_path) as child:
        assert os.getpgid(child.pid) != os.getpgid(0)
