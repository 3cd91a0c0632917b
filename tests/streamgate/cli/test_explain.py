"""What would happen to a request, and why: told by the stages that would serve it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from streamgate.cli.main import main

if TYPE_CHECKING:
    from click.testing import Result

CONFIG = """\
gate: {bind: "127.0.0.1:8080", trusted_proxies: [10.0.0.0/8], limits: {body: 1MiB, head: 1KiB, target: 200B}}
services:
  - {id: one, url: "http://127.0.0.1:9001", credentials: {bearer: sk-secret}, timeouts: {idle: 5s}}
  - id: many
    endpoints: [{url: "http://x.example", weight: 3, region: eu}, {url: "http://y.example:81"}, {url: "http://z.example", weight: 0}]
    balance: hash
    hash_by: ["header:x-session", client_ip]
    max_in_flight: 8
  - {id: never, endpoints: [{url: "http://w.example", weight: 0}]}
routes:
  - {id: llm, match: {paths: ["/v1/*"], methods: [GET, POST]}, to: {service: one}, rewrite: {strip_prefix: /v1, add_prefix: /in}}
  - id: models
    match: {paths: [/v1/models], methods: [GET]}
    to: {service: many}
    retries: {attempts: 3, on: [connect, reset, 503]}
    timeouts: {total: 5m}
  - {id: hello, match: {paths: [/hello], hosts: ["*.b.example"]}, to: {respond: {status: 418, body: hi, headers: {X-A: b}}}}
  - {id: up, match: {paths: ["/up/*"]}, to: {service: many}, host: preserve, on_disconnect: drain, max_body: 1KiB}
  - {id: named, match: {paths: ["/named/*"]}, to: {service: one}, host: other.example, encoded_slash: keep}
  - {id: nobody, match: {paths: ["/nobody"]}, to: {service: never}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("streamgate.yaml").write_text(CONFIG, encoding="utf-8")


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", "-c", "streamgate.yaml", *arguments])


def told(*arguments: str, status: int = 0) -> dict[str, Any]:
    result = explain("--json", *arguments)
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_a_relayed_request_from_line_to_upstream() -> None:
    found = told("POST", "/v1/chat/completions?x=%20", "-H", "Authorization: Bearer mine", "-H", "X-Extra: 1")
    assert (found["outcome"], found["matched"], found["refusal"]) == ("relayed", True, None)
    assert (found["path"], found["query"], found["dialect"]) == ("/v1/chat/completions", "x=%20", "openai")
    route = found["route"]
    assert (route["id"], route["pattern"], route["max_body"], route["on_disconnect"]) == ("llm", "/v1/*", "1MiB", "cancel")
    assert route["timeouts"] == {"connect": "2s", "first_byte": "1m", "idle": "5s", "total": "off"}
    assert route["retries"] == {"attempts": 2, "after": {"connect": "no_other_endpoint", "reset": "not_idempotent"}}
    service = found["service"]
    assert (service["id"], service["balance"], service["hash_by"]) == ("one", "least_in_flight", None)
    assert [one["verdict"] for one in service["endpoints"]] == ["picked"]
    upstream = found["upstream"]
    assert (upstream["method"], upstream["target"]) == ("POST", "/in/chat/completions?x=%20")
    assert (upstream["host"], upstream["host_is"]) == ("127.0.0.1:9001", "the endpoint's own")
    sent = {name.lower(): value for name, value in upstream["headers"]}
    assert sent["x-extra"] == "1"
    assert sent["x-forwarded-for"] == "127.0.0.1"
    assert sent["authorization"] == "(hidden)"
    assert len(found["config"]["hash"]) == 64


def test_no_secret_is_shown() -> None:
    for more in ((), ("--json",)):
        result = explain(
            "POST", "/v1/x", "-H", "Cookie: c00kie", "-H", "X-Api-Key: k3y", "-H", "Authorization: Bearer mine", *more
        )
        assert result.exit_code == 0
        assert not [word for word in ("sk-secret", "c00kie", "k3y", "mine") if word in result.output]


def test_every_candidate_says_why_or_why_not() -> None:
    found = told("GET", "/v1/models")
    verdicts = {(one["route"], one["path"]): (one["chosen"], one["reason"]) for one in found["candidates"]}
    assert verdicts == {
        ("hello", "/hello"): (False, "host is not *.b.example"),
        ("models", "/v1/models"): (True, "matches"),
        ("nobody", "/nobody"): (False, "path is not /nobody"),
        ("named", "/named/*"): (False, "path is not /named/*"),
        ("llm", "/v1/*"): (False, "would match, but any host /v1/models comes first"),
        ("up", "/up/*"): (False, "path is not /up/*"),
    }
    assert [one["chosen"] for one in found["candidates"]].count(True) == 1


def test_endpoints_by_hash() -> None:
    found = told("GET", "/v1/models", "-H", "x-session: abc")
    endpoints = found["service"]["endpoints"]
    assert [(one["url"], one["weight"], one["region"], one["max_in_flight"]) for one in endpoints] == [
        ("http://x.example", 3, "eu", 8), ("http://y.example:81", 1, None, 8), ("http://z.example", 0, None, 8),
    ]  # fmt: skip
    verdicts = [one["verdict"] for one in endpoints]
    assert verdicts.count("picked") == 1
    assert verdicts[2] == "never picked: weight 0"
    again = told("GET", "/v1/models", "-H", "x-session: abc")["service"]["endpoints"]
    assert again == endpoints, "the same key goes to the same endpoint"
    hosts = {told("GET", "/v1/models", "-H", f"x-session: {key}")["upstream"]["host"] for key in range(12)}
    assert hosts == {"x.example", "y.example:81"}
    assert found["route"]["retries"] == {"attempts": 3, "after": dict.fromkeys(("503", "connect", "reset"), "tried again")}
    assert found["route"]["timeouts"]["total"] == "5m"


def test_an_answer_of_the_gateway_s_own() -> None:
    found = told("GET", "http://www.b.example:8080/hello#top")
    assert (found["outcome"], found["request"]["host"], found["request"]["target"]) == (
        "answered",
        "www.b.example:8080",
        "/hello",
    )
    assert found["answer"] == {
        "status": 418, "headers": {"X-A": "b", "Content-Type": "text/plain; charset=utf-8"}, "body_bytes": 2,
    }  # fmt: skip
    assert "upstream" not in found


def test_the_host_the_upstream_gets() -> None:
    assert told("GET", "/up/x", "-H", "Host: mine.example")["upstream"]["host"] == "mine.example"
    named = told("GET", "/named/a%2Fb")["upstream"]
    assert (named["host"], named["host_is"], named["target"]) == ("other.example", "the route's", "/named/a%2Fb")


def test_where_it_comes_from() -> None:
    assert told("GET", "/v1/x", "-H", "X-Forwarded-For: 8.8.8.8")["route"]["client_address"] == "127.0.0.1"
    found = told("GET", "/v1/x", "-H", "X-Forwarded-For: 8.8.8.8", "--client", "10.1.1.1")
    assert found["route"]["client_address"] == "8.8.8.8"


def test_the_path_is_spelled_as_the_gateway_spells_it() -> None:
    found = told("GET", "/up/./a/..//%62;p=1/%7e")
    assert found["path"] == "/up/b;p=1/~"
    assert found["upstream"]["target"] == "/up/b;p=1/~"


REFUSED = [
    (("GET", "/nope"), 404, "no_route", "No route matches"),
    (("DELETE", "/v1/models"), 405, "no_route", "method"),
    (("GET", "/up/%2f"), 400, "bad_request", "encoded slash"),
    (("GET", "/up/../../x"), 400, "bad_request", "climbs above the root"),
    (("GET", "/up/%00"), 400, "bad_request", "NUL"),
    (("GET", "/up/..;/x"), 400, "bad_request", "dot-segment"),
    (("GET", "/up/é"), 400, "bad_request", ""),
    (("GET", "/up/x y"), 400, "bad_request", ""),
    (("GET", "/" + "x" * 300), 414, "too_large", "target"),
    (("GET", "/up/x", "-H", "X: " + "y" * 2000), 431, "too_large", "head"),
    (("GET", "/up/x", "-H", "Host: a", "-H", "Host: b"), 400, "bad_request", "Host"),
    (("GET", "/up/x", "-H", "Content-Length: 1", "-H", "Transfer-Encoding: chunked"), 400, "bad_request", ""),
    (("BREW", "/up/x"), 501, "bad_request", "method"),
    (("CONNECT", "/up/x"), 501, "bad_request", "method"),
    (("get", "/up/x"), 501, "bad_request", "method"),
]


@pytest.mark.parametrize(("arguments", "status", "code", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_says_why(arguments: tuple[str, ...], status: int, code: str, words: str) -> None:
    found = told(*arguments, status=1)
    assert (found["outcome"], found["matched"]) == ("refused", False)
    assert (found["refusal"]["status"], found["refusal"]["code"]) == (status, code)
    assert words in found["refusal"]["message"]
    assert "upstream" not in found


def test_a_body_too_large_is_refused_by_a_route_that_matches() -> None:
    found = told("POST", "/up/x", "-H", "Content-Length: 1025")
    assert (found["outcome"], found["matched"], found["refusal"]["status"]) == ("refused", True, 413)
    assert told("POST", "/up/x", "-H", "Content-Length: 1024")["outcome"] == "relayed"


def test_a_service_without_weight_serves_nobody() -> None:
    found = told("GET", "/nobody")
    assert (found["outcome"], found["refusal"]["code"]) == ("refused", "no_healthy_upstream")


def test_text_for_people() -> None:
    result = explain("GET", "/v1/models", "-H", "x-session: abc")
    lines = result.output.splitlines()
    assert lines[0] == "GET /v1/models at 127.0.0.1:8080"
    assert "outcome       relayed" in lines
    assert "route         models, by /v1/models" in lines
    assert "service       many, hash of header:x-session, client_ip" in lines
    assert "timeouts      connect 2s, first_byte 1m, idle 2m, total 5m" in lines
    assert "disconnect    cancel" in lines
    assert "upstream gets GET /v1/models" in lines
    assert [line for line in lines if line.endswith("  matches")] == ["2  models  any          /v1/models  GET       matches"]
    assert "\x1b" not in result.output
    refused = explain("GET", "/nope")
    assert refused.exit_code == 1
    assert "outcome       refused: 404 no_route: No route matches this host and path" in refused.output.splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        ("GET", "v1/models"), ("GET", "ftp://a/b"), ("GET", ""), ("GET", "/a\r\nX: y"), ("GET\r\nX: y", "/a"), ("GET", "/", "-H", "nothing"),
        ("GET", "/", "-H", "a: b\r\nc: d"), ("GET",), (),
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = explain(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.output
    assert "Traceback" not in result.output


def test_a_wrong_configuration_is_status_2() -> None:
    Path("streamgate.yaml").write_text("routes: 5", encoding="utf-8")
    result = explain("GET", "/")
    assert result.exit_code == 2
    assert result.output.startswith("streamgate.yaml:1:9: routes: ")


# -- models ----------------------------------------------------------------------------------------------------------------

MODELS = """\
gate: {bind: "127.0.0.1:8080"}
flags: {provider: flagd, file: flags.json}
services:
  - {id: a, url: "http://127.0.0.1:9001", credentials: {bearer: sk-secret}}
  - {id: b, url: "http://127.0.0.1:9002"}
models:
  - name: tutor
    flag: tutor-split
    default: stable
    splits:
      stable: [{service: a, model: up}]
      canary: [{service: a, weight: 3}, {service: b, model: up-b}]
    sticky: ["header:x-session-id"]
    queue: {max_in_flight: 8}
routes: [{id: llm, match: {paths: ["/v1/*"]}, to: {models: true}}]
"""
CHAT = "/v1/chat/completions"
BODY = '{"model":"tutor","stream":true,"messages":[{"role":"user","content":"pr0mpt"}]}'


def flags(value: str) -> None:
    flag = {"state": "ENABLED", "variants": {name: name for name in ("stable", "canary", "odd")}, "defaultVariant": value}
    Path("flags.json").write_text(json.dumps({"flags": {"tutor-split": flag}}), encoding="utf-8")


@pytest.fixture
def _models(_here: None) -> None:
    Path("streamgate.yaml").write_text(MODELS, encoding="utf-8")
    flags("canary")


@pytest.mark.usefixtures("_models")
def test_a_request_to_a_model_is_followed_to_its_target() -> None:
    found = told("POST", CHAT, "-H", "x-session-id: s3ssion", "-d", BODY)
    model = found["model"]
    assert (found["outcome"], found["live"], model["name"], model["split"]["name"]) == ("relayed", False, "tutor", "canary")
    assert (model["flag"]["provider"], model["flag"]["variant"], model["target"]["how"]) == ("flagd", "canary", "sticky")
    assert found["upstream"]["host"] == {"a": "127.0.0.1:9001", "b": "127.0.0.1:9002"}[model["target"]["service"]]
    assert int(dict(found["upstream"]["headers"])["Content-Length"]) == found["upstream"]["body_bytes"]
    again = told("POST", CHAT, "-H", "x-session-id: s3ssion", "-d", BODY)
    assert again["model"] == model, "the same key, the same target"


@pytest.mark.usefixtures("_models")
@pytest.mark.parametrize("as_json", [True, False])
def test_neither_prompt_nor_key_is_told(as_json: bool) -> None:
    result = explain("POST", CHAT, "-H", "x-session-id: s3ssion", "-d", BODY, *(["--json"] if as_json else []))
    assert result.exit_code == 0
    assert not [word for word in ("pr0mpt", "s3ssion", "sk-secret", "Bearer") if word in result.output]


@pytest.mark.usefixtures("_models")
def test_flags_are_those_of_the_file_and_no_thread_is_left() -> None:
    before = threading.active_count()
    for value, split, why in (("stable", "stable", "flag"), ("odd", "stable", "unknown"), ("canary", "canary", "flag")):
        flags(value)
        found = told("POST", CHAT, "-d", BODY)["model"]["split"]
        assert (found["name"], found["why"]) == (split, why)
    Path("flags.json").write_text("{", encoding="utf-8")
    model = told("POST", CHAT, "-d", BODY)["model"]
    assert (model["split"]["name"], model["flag"]["error"]) == ("stable", "PROVIDER_NOT_READY")
    assert "flags.json" in model["flag"]["problem"]
    assert threading.active_count() == before


@pytest.mark.usefixtures("_models")
def test_text_about_a_model() -> None:
    lines = explain("POST", CHAT, "-d", BODY).output.splitlines()
    for line in (
        "model         tutor, chat, streamed", "tenant        none",
        "flag          tutor-split says canary (variant canary, STATIC)", "              decided by route (the route), model (the model)",
        "split         canary: the flag says so", "              a as tutor: weight 3, 75%",
        "target        one of a as tutor (75%), b as up-b (25%), in turn, and the others of these next",
        "queue         a turn at once: 0 are under way, of 8", "service       a, least_in_flight", "disconnect    cancel",
    ):  # fmt: skip
        assert line in lines
    assert not [line for line in lines if line.startswith("upstream gets")]


@pytest.mark.usefixtures("_models")
def test_without_a_body_every_model_is_listed() -> None:
    result = explain("POST", CHAT)
    assert result.exit_code == 0
    assert "outcome       depends on the body, which says what model is asked for: give one with -d to follow it" in result.output.splitlines()
    assert ["tutor", "tutor-split", "stable (default)", "a as up", "1", "100%", "100%"] in [line.split("  ") for line in _columns(result.output)]


def _columns(output: str) -> list[str]:
    return ["  ".join(part.strip() for part in line.split("  ") if part.strip()) for line in output.splitlines()]


@pytest.mark.usefixtures("_models")
def test_what_the_gateway_refuses_is_no_mistake_of_the_command() -> None:
    found = told("POST", CHAT, "-d", '{"model":"tuto"}')
    assert (found["refusal"]["status"], found["refusal"]["message"]) == (404, "There is no model 'tuto'; did you mean 'tutor'?")
    assert told("GET", "/v1/models")["outcome"] == "answered"


@pytest.mark.usefixtures("_models")
def test_a_body_out_of_a_file_or_a_pipe() -> None:
    Path("body.json").write_text(BODY, encoding="utf-8")
    assert told("POST", CHAT, "--data", "@body.json")["model"]["stream"] is True
    piped = CliRunner().invoke(main, ["explain", "-c", "streamgate.yaml", "--json", "POST", CHAT, "-d", "@-"], input=BODY)
    assert json.loads(piped.output)["model"]["stream"] is True
    nowhere = explain("POST", CHAT, "-d", "@nowhere.json")
    assert nowhere.exit_code == 2
    assert "nowhere.json cannot be read: no such file or directory" in nowhere.output


@pytest.mark.parametrize("arguments", [("--client", "nobody"), ("-d", "abc", "-H", "Content-Length: 9")])
def test_what_contradicts_itself_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = explain("POST", "/v1/x", *arguments)
    assert result.exit_code == 2
    assert "Error" in result.output
