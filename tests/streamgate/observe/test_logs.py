"""What operators read."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from streamgate.observe.logs import JsonLines, set_up

NAMES = ("streamgate", "sanic.root", "sanic.error", "sanic.server", "sanic.access", "sanic.websockets")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {name: (list(log.handlers), log.level, log.propagate) for name in NAMES if (log := logging.getLogger(name))}
    yield
    for name, (handlers, level, propagate) in before.items():
        log = logging.getLogger(name)
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_each_in_a_pipe() -> None:
    stream = io.StringIO()
    log = set_up(stream)
    log.info("listening on %s", "a\nb", extra={"pid": 7, "odd": object})
    log.debug("unheard")
    (line,) = said(stream)
    assert line["message"] == "listening on a\nb"
    assert (line["level"], line["logger"], line["event"], line["pid"]) == ("info", "streamgate", "log", 7)
    assert line["ts"].endswith("Z")
    assert set(line) == {"ts", "level", "event", "logger", "message", "pid", "odd"}


def test_a_trace_is_one_line_too() -> None:
    stream = io.StringIO()
    log = set_up(stream)
    try:
        raise ValueError("it broke")
    except ValueError:
        log.exception("failed")
    (line,) = said(stream)
    assert "ValueError: it broke" in line["trace"]
    assert stream.getvalue().count("\n") == 1


def test_a_plain_line_on_a_terminal() -> None:
    stream = Terminal()
    set_up(stream).warning("careful")
    assert stream.getvalue().endswith("WARNING careful\n")
    assert not stream.getvalue().startswith("{")


def test_the_servers_warnings_come_the_same_way_and_its_chatter_does_not() -> None:
    stream = io.StringIO()
    set_up(stream)
    logging.getLogger("sanic.error").error("one")
    logging.getLogger("sanic.access").info("GET /?key=hunter2")
    logging.getLogger("sanic.root").info("Goin' Fast")
    assert [line["message"] for line in said(stream)] == ["one"]


def test_setting_up_twice_says_nothing_twice() -> None:
    stream = io.StringIO()
    set_up(io.StringIO())
    set_up(stream).info("once")
    assert len(said(stream)) == 1


def test_what_cannot_be_json_is_written_as_text() -> None:
    record = logging.LogRecord("streamgate", logging.INFO, "f", 1, "m", (), None)
    record.thing = {1, 2}
    assert json.loads(JsonLines().format(record))["thing"] in {"{1, 2}", "{2, 1}"}
