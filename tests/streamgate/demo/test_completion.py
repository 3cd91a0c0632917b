"""The demo's own client hears every piece as it comes, and says what came when no completion did."""

import sys
from collections.abc import Iterator

import pytest

from streamgate.demo.completion import Ask, CompletionError, stream, through_http, through_sdk, usual
from streamgate.demo.script import words
from tests.kit.ports import refused_port
from tests.kit.scripted import HOST, ScriptedServer, scripted_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path_factory.mktemp("scripted")) as found:
        yield found


@pytest.fixture(params=[through_sdk, through_http])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


def test_every_piece_is_shown_and_counted(server: ScriptedServer, ask: Ask) -> None:
    shown: list[str] = []
    heard = stream(server.url, "m", "hi", shown.append, {"x-script": "tokens=5, first_delay_ms=5"}, ask=ask)
    assert shown == words(0, 5)
    assert heard.pieces == 5
    assert 0.005 <= heard.first_s < heard.total_s


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("status=429", "429"),
        ("tokens=0", "without a word"),
        ("cut_after=3", "ConnectionError|cut off"),
        ("error_after=3", "error while processing"),
    ],
)
def test_what_came_in_its_place_is_said(server: ScriptedServer, ask: Ask, script: str, why: str) -> None:
    with pytest.raises(CompletionError, match=why):
        stream(server.url, "m", "hi", lambda _: None, {"x-script": script}, ask=ask)


def test_a_stream_that_ends_without_its_end_is_cut_off(server: ScriptedServer) -> None:
    with pytest.raises(CompletionError, match="cut off"):
        stream(server.url, "m", "hi", lambda _: None, {"x-script": "end_after=3"}, ask=through_http)


def test_nobody_there_is_an_error_in_words(ask: Ask) -> None:
    with refused_port() as port, pytest.raises(CompletionError, match=r"Connection ?(Refused)?Error"):
        stream(f"http://{HOST}:{port}", "m", "hi", lambda _: None, {}, ask=ask)


def test_a_proxy_in_the_environment_is_not_asked(server: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_port() as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://{HOST}:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert stream(server.url, "m", "hi", lambda _: None, {}, ask=ask).pieces == 16


def test_the_sdk_is_usual_and_plain_http_its_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual() is through_sdk
    monkeypatch.setitem(sys.modules, "openai", None)  # what an import of a missing package comes to
    assert usual() is through_http
