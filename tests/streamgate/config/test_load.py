"""From files to a configuration, or to everything that is wrong with them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgate.config.load import ConfigurationError, Loaded, Problem, load, why_unreadable
from streamgate.config.yaml_file import EXAMPLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Write = Callable[..., Path]

DESIGN = """\
gate:
  bind: 127.0.0.1:8080            # data port
  admin: 127.0.0.1:8081           # admin API, health, metrics, dashboard; `off` closes it
  workers: 1                      # more than one needs state.url redis://..., and says so
  trusted_proxies: []             # CIDRs whose Forwarded / X-Forwarded-* are believed; default nobody
  drain: 30s                      # how long open streams may finish on shutdown or reload
state: {url: "memory://"}         # or redis://host:6379/0, rediss://, unix:///path
flags: {provider: flagd, file: flags.json}      # in-process flagd evaluation; or {provider: ofrep, url: ...}
services:
  - id: model-a
    url: http://127.0.0.1:9001    # or `endpoints: [{url, weight, region}]`
    balance: least_in_flight      # round_robin | least_in_flight | least_rtt | hash
    max_in_flight: 64             # per endpoint; off by default
    timeouts: {connect: 2s, first_byte: 60s, idle: 120s, total: off}
    credentials: {bearer: "${env:MODEL_A_KEY}"}
routes:
  - id: llm
    match: {paths: ["/api/*"], methods: [GET, POST], hosts: []}
    to: {service: model-a}
    on_disconnect: cancel         # cancel | drain
    rewrite: {strip_prefix: /api, add_prefix: /internal}       # optional; host: upstream | preserve | NAME beside it
    retries: {attempts: 2, on: [connect, reset, 502, 503, 504]}  # before commit, idempotent methods
"""

SMALL = 'routes: [{id: r, match: {paths: ["/*"]}, to: {respond: {status: 200}}}]\n'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the current folder, and give its name."""
    monkeypatch.chdir(tmp_path)

    def written(text: str, name: str = "streamgate.yaml") -> Path:
        Path(name).write_text(text, encoding="utf-8")
        return Path(name)

    return written


def problems(path: Path, *, env: str | None = None, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationError) as info:
        load(path, env=env, environ=environ or {})
    assert info.value.__context__ is None  # a chained error would print the values
    assert info.value.__cause__ is None
    return info.value.problems


def lines(path: Path, *, env: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in problems(path, env=env, environ=environ)]


def loaded(path: Path, *, env: str | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    return load(path, env=env, environ=environ or {})


def test_the_example_of_the_design_loads(write: Write) -> None:
    result = loaded(write(DESIGN), environ={"MODEL_A_KEY": "s3cret"})
    assert result.warnings == ()
    assert result.source == "streamgate.yaml"
    assert result.environment is None
    assert result.files == (Path("streamgate.yaml"),)
    [service], [route] = result.spec.services, result.spec.routes
    assert service.credentials is not None
    assert service.credentials.as_header == ("authorization", "Bearer s3cret")
    assert service.timeouts.total is None
    assert route.to.service == "model-a"
    assert route.retries.statuses == {502, 503, 504}


def test_what_was_loaded_is_frozen(write: Write) -> None:
    result = loaded(write(SMALL))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.hash = "x"  # type: ignore[misc]


def test_eight_mistakes_are_eight_problems_each_at_its_line(write: Write) -> None:
    text = """\
gate:
  bind: 8080
  workers: 2
services:
  - id: a
    url: http://u:p4ssw0rd@a
    timout: {}
    timeouts: {idle: 5}
  - id: a
    url: http://b
routes:
  - id: r
    match: {paths: [v1]}
    to: {service: model}
"""
    workers = "more than one worker cannot share memory://; set state.url to redis://HOST:PORT, or workers to 1"
    unit = '5 has no unit; write "5s" for seconds, "5ms" for milliseconds'
    port = "needs a host before the port, such as 127.0.0.1:8080, or 0.0.0.0:8080 for every interface"
    model = 'no service has the id "model"; add it under services, or name one that is there'
    assert lines(write(text)) == [
        f"streamgate.yaml:2:9: gate.bind: {port}",
        f"streamgate.yaml:3:12: gate.workers: {workers}",
        "streamgate.yaml:6:10: services[0].url: must not hold a user or password; use credentials instead",
        'streamgate.yaml:7:5: services[0].timout: unknown key; did you mean "timeouts"?',
        f"streamgate.yaml:8:22: services[0].timeouts.idle: {unit}",
        'streamgate.yaml:9:9: services[1].id: services[0] has the id "a" already; give each its own',
        'streamgate.yaml:13:21: routes[0].match.paths[0]: "v1" must begin with a slash; write "/v1"',
        f"streamgate.yaml:14:19: routes[0].to.service: {model}",
    ]


def test_problems_of_every_kind_are_told_together(write: Write) -> None:
    text = """\
gate: {drain: , drain: 5s}
state: {url: "${env:NIX}"}
services: []
routes:
  - id: r
    match: {paths: ["/*"]}
    to: {service: a}
  - id: s
    match: {paths: ["/*"]}
    to: {models: true}
auth: {any: [keys]}
"""
    assert [(one.path, one.line) for one in problems(write(text))] == [
        ("gate.drain", 1),
        ("gate.drain", 1),
        ("state.url", 2),
        ("routes[0].to.service", 7),
        ("routes[1].match.paths[0]", 9),
        ("routes[1].to.models", 10),
        ("auth.any", 11),
    ]


def test_problems_of_one_line_stand_from_left_to_right(write: Write) -> None:
    told = problems(write("gate: {workers: 0, drain: 5, bynd: x}\n" + SMALL))
    assert [(one.path, one.column) for one in told] == [("gate.workers", 17), ("gate.drain", 27), ("gate.bynd", 30)]


def test_what_follows_from_a_mistake_is_not_told(write: Write) -> None:
    text = """\
gate: {bind: x, admin: 127.0.0.1:8080, workers: 2}
state: {ulr: redis://h}
services:
  - idd: a
    url: http://a
  - id: b
    ur: http://b
    tls: {}
routes:
  - id: r
    match: {paths: ["/*"]}
    to: {service: a}
  - id: s
    match: {pats: ["/*"]}
    rewrite: {strip_prefix: /x}
    to: {service: b}
"""
    assert [(one.path, one.suggestion) for one in problems(write(text))] == [
        ("gate.bind", None),
        ("state.ulr", "url"),
        ("services[0].idd", "id"),
        ("services[1].ur", "url"),
        ("routes[1].match.pats", "paths"),
    ]


def test_a_key_misspelt_deep_down_is_suggested(write: Write) -> None:
    for wrong, right in {
        "bynd": "bind",
        "trusted-proxies": "trusted_proxies",
        "disconect_drain": "disconnect_drain",
    }.items():
        [problem] = problems(write(f"gate: {{{wrong}: 1}}\n{SMALL}"))
        assert (problem.message, problem.suggestion, problem.line) == ("unknown key", right, 1)


@pytest.mark.parametrize("written", ["off", "false", "'off'", "no"])
def test_a_bare_off_is_off_wherever_off_is_a_choice(write: Write, written: str) -> None:
    text = f"""\
gate: {{admin: {written}, limits: {{body: {written}}}}}
services: [{{id: a, url: http://a, max_in_flight: {written}, timeouts: {{first_byte: {written}}}}}]
routes: [{{id: r, match: {{paths: [/]}}, to: {{service: a}}, max_body: {written}}}]
telemetry: {{records: {written}}}
"""
    spec = loaded(write(text)).spec
    assert spec.gate.admin is None
    assert spec.gate.limits.body is None
    assert spec.services[0].max_in_flight is None
    assert spec.services[0].timeouts.first_byte is None
    assert spec.routes[0].max_body == "off"
    assert spec.telemetry.records == "off"


def test_an_explicit_null_is_absent_where_absence_is_a_choice(write: Write) -> None:
    text = "services: [{id: a, url: http://a, credentials: null, tls: ~}]\nroutes: []\ngate: {admin_token: null}\n"
    assert loaded(write(text)).spec.services[0].credentials is None
    [problem] = problems(write("gate: {admin: null}\n" + SMALL))
    assert problem.path == "gate.admin"


# --- files that are no configuration ---


def test_a_missing_file_is_one_plain_line(write: Write) -> None:
    write("")
    assert lines(Path("nix.yaml")) == ["nix.yaml: no such file; check the name and the folder"]


def test_an_empty_file_shows_an_example_that_loads(write: Write) -> None:
    [problem] = problems(write(""))
    assert problem.message == f"the file is empty; the smallest that does something is: {EXAMPLE}"
    result = loaded(write(EXAMPLE))
    assert result.warnings == ()
    assert len(result.spec.routes) == 1


def test_a_file_that_is_not_utf_8_is_told_with_its_line(write: Write) -> None:
    path = write("")
    path.write_bytes(b"a: 1\nb: \xff\n")
    assert lines(path) == ["streamgate.yaml:2:4: this is not UTF-8; save the file in the UTF-8 encoding"]


def test_an_alias_bomb_is_refused(write: Write) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    [problem] = problems(write("\n".join(bomb)))
    assert "more than 100,000 values" in problem.message


def test_a_key_twice_is_an_error(write: Write) -> None:
    [problem] = problems(write(SMALL + "gate: {drain: 1s}\ngate: {drain: 2s}\n"))
    assert str(problem) == "streamgate.yaml:3:1: gate: this key stands twice in its map, first in line 2; keep one"


# --- environments ---


def test_an_overlay_is_laid_over(write: Write) -> None:
    base = write(
        """\
gate: {bind: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8]}
services:
  - {id: a, url: http://a, timeouts: {idle: 1s, connect: 3s}}
  - {id: b, url: http://b}
routes:
  - {id: r, match: {paths: [/]}, to: {service: a}}
  - {id: s, match: {paths: [/s]}, to: {service: b}}
"""
    )
    write(
        """\
gate: {trusted_proxies: [192.0.2.0/24]}
services:
  - {id: b, url: http://prod-b}
  - {id: a, timeouts: {idle: off}}
routes:
  - {id: s, to: {service: null, respond: {status: 503}}}
  - {id: t, match: {paths: [/t]}, to: {service: b}}
""",
        "streamgate.prod.yaml",
    )
    result = loaded(base, env="prod")
    assert result.environment == "prod"
    assert result.files == (Path("streamgate.yaml"), Path("streamgate.prod.yaml"))
    spec = result.spec
    assert [str(network) for network in spec.gate.trusted_proxies] == ["192.0.2.0/24"]
    assert [one.url for one in spec.services] == ["http://a", "http://prod-b"]
    assert (spec.services[0].timeouts.idle, spec.services[0].timeouts.connect) == (None, 3.0)
    assert [one.id for one in spec.routes] == ["r", "s", "t"]
    assert spec.routes[1].to.respond is not None
    assert spec.routes[1].match.paths == ("/s",)
    assert result.hash != loaded(base).hash


def test_a_problem_is_told_in_the_file_it_stands_in(write: Write) -> None:
    base = write("services:\n  - {id: a, url: http://a}\n  - {id: b, url: x}\nroutes: []\n")
    write("services:\n  - {id: b, balnce: hash}\n  - id: c\n", "streamgate.prod.yaml")
    assert [(one.where, one.path) for one in problems(base, env="prod") if one.severity == "error"] == [
        ("streamgate.yaml:3:18", "services[1].url"),
        ("streamgate.prod.yaml:2:13", "services[1].balnce"),
        ("streamgate.prod.yaml:3:5", "services[2]"),
    ]


def test_an_overlay_that_is_not_there_is_told(write: Write) -> None:
    says = "no such file beside the configuration; create it (it may be empty), or leave out --env prod"
    assert lines(write(SMALL), env="prod") == [f"streamgate.prod.yaml: {says}"]


def test_an_empty_overlay_changes_nothing(write: Write) -> None:
    base = write(SMALL)
    write("# nothing yet\n", "streamgate.prod.yaml")
    assert loaded(base, env="prod").spec == loaded(base).spec
    assert loaded(base, env="prod").hash == loaded(base).hash


def test_both_files_are_read_before_anything_is_told(write: Write) -> None:
    base = write("a: [\n")
    write("b: {\n", "streamgate.prod.yaml")
    assert [one.file for one in problems(base, env="prod")] == ["streamgate.yaml", "streamgate.prod.yaml"]


def test_the_overlay_is_named_after_the_file(write: Write) -> None:
    base = write(SMALL, "gate.yml")
    write("gate: {workers: 1}\n", "gate.eu-1.yml")
    assert loaded(base, env="eu-1").files == (Path("gate.yml"), Path("gate.eu-1.yml"))


@pytest.mark.parametrize("env", ["../x", "", "a.b", "a/b", "é", "a" * 64])
def test_an_environment_has_a_plain_name(write: Write, env: str) -> None:
    [problem] = problems(write(SMALL), env=env)
    assert "letters, digits, - and _" in problem.message


# --- secrets ---


def test_a_secret_file_is_read_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n", encoding="utf-8")
    path = tmp_path / "streamgate.yaml"
    path.write_text(f"gate: {{admin_token: '${{file:key}}'}}\n{SMALL}", encoding="utf-8")
    result = loaded(path)
    assert result.spec.gate.admin_token is not None
    assert result.spec.gate.admin_token.get_secret_value() == "s3cret"
    assert result.files == (path, tmp_path / "key")


def test_a_secret_that_cannot_be_resolved_is_told_at_its_place(write: Write) -> None:
    text = """\
services:
  - id: a
    url: http://a
    credentials: {bearer: "${env:NIX}"}
  - id: b
    url: "${vault:a#b}"
  - id: c
    url: http://c
    credentials: {header: X-K, value: "${file:/nonexistent/key}"}
routes: []
"""
    told = [line for line in lines(write(text)) if "warning" not in line]
    vault = "${vault:…} is not available in this version; write ${env:NAME} or ${file:/path}"
    variable = "the environment variable NIX is not set; set it, or remove the reference"
    file = "there is no file /nonexistent/key; create it, or correct the path"
    assert told == [
        f"streamgate.yaml:4:27: services[0].credentials.bearer: {variable}",
        f"streamgate.yaml:6:10: services[1].url: {vault}",
        f"streamgate.yaml:9:39: services[2].credentials.value: {file}",
    ]


def test_the_files_of_a_refused_configuration_are_known_all_the_same(write: Write) -> None:
    path = write(SMALL + "gate: {admin_token: '${file:/nonexistent/key}'}\n")
    with pytest.raises(ConfigurationError) as info:
        loaded(path)
    assert info.value.files == (path, Path("/nonexistent/key"))


PLACES = [
    "gate: {bind: '@'}",
    "gate: {admin_token: ' @'}",
    "gate: {workers: '@'}",
    "gate: {drain: '@', limits: {head: '@'}, trusted_proxies: ['@']}",
    "state: {url: '@'}",
    "services: [{id: '@', url: 'http://x'}]\nroutes: 5",
    "services: [{id: a, url: '@'}]",
    "services: [{id: a, url: 'http://@/x'}]",
    "services: [{id: a, url: 'http://x', balance: '@', hash_by: ['header:@ @']}]",
    "services: [{id: a, url: 'http://x', credentials: {bearer: 'Bearer @'}}]",
    "services: [{id: a, url: 'http://x', credentials: {header: '@ ', value: '@'}}]",
    "services: [{id: a, url: 'http://x', tls: {ca: '@'}}]",
    "services: [{id: a, url: 'http://@.example'}, {id: a, url: 'http://@.example'}]",
    "services: [{id: a, endpoints: [{url: 'http://@.example'}, {url: 'http://@.example'}]}]",
    "services: [{id: 'x@', url: 'http://x'}, {id: 'x@', url: 'http://x'}]",
    "routes: [{id: r, match: {paths: ['@']}, to: {service: '@'}}]",
    "routes: [{id: r, match: {paths: [/], methods: ['@'], hosts: ['@:1']}, to: {service: 'a@'}}]",
    "services: [{id: 'model-@', url: 'http://x'}]\nroutes: [{id: r, match: {paths: [/]}, to: {service: 'modl-@'}}]",
    "routes: [{id: r, match: {paths: [/a]}, rewrite: {strip_prefix: '/@'}, to: {respond: {status: '@'}}}]",
    "routes: [{id: r, match: {paths: [/a]}, rewrite: {strip_prefix: '@'}, to: {respond: {status: 200}}}]",
    "routes: [{id: r, match: {paths: [/]}, to: {respond: {status: 200, headers: {A: '@\\n'}}}, auth: '@'}]",
    "routes: [{id: r, match: {paths: [/]}, host: '@ ', max_body: '@', retries: {attempts: '@', on: ['@']}, to: {}}]",
    "routes: [{id: r, match: {paths: [/]}, on_disconnect: '@', encoded_slash: '@', timeouts: {idle: '@'}, to: '@'}]",
    "telemetry: '@'\nflags: {x: '@'}\nroutes: '@'\nservices: ['@']",
]


@pytest.mark.parametrize(
    ("template", "value"), list(itertools.product(PLACES, ["hush-tok3n", "HUSH TOK3N!", "hush\ntok3n", "77hush", "/hush/"]))
)
def test_what_a_reference_resolves_to_is_never_told(write: Write, template: str, value: str) -> None:
    """Every place that complains about a value, with a value that came from elsewhere."""
    path = write(template.replace("'@\\n'", '"${env:V}\\n"').replace("@", "${env:V}") + "\n")
    told = "\n".join(lines(path, environ={"V": value}))
    assert told
    for part in ("hush", "HUSH", "tok3n", "TOK3N"):
        assert part not in told


@pytest.mark.parametrize(
    "text",
    [
        "gate: {admin_token: [hush]}",
        "gate: {admin_token: {hush: 1}}",
        "gate: {admin_token: 'hush '}",
        "gate: {admin_token: *hush}",
        "gate: {admin_token: ${hush}}",
        "gate: {admin_token: 'a${hush}'}",
        "services: [{id: a, url: 'http://u:hush@a'}]",
        "services: [{id: a, url: 'ftp://u:hush@a'}]",
        "services: [{id: a, url: http://a, credentials: hush}]",
        "services: [{id: a, url: http://a, credentials: {bearer: 'Bearer hush'}}]",
        "services: [{id: a, url: http://a, credentials: {value: hush}}]",
        "state: {url: 'redis//:hush@a'}",
    ],
)
def test_a_secret_written_into_the_file_is_not_told_either(write: Write, text: str) -> None:
    told = "\n".join(lines(write(text + "\n")))
    assert told
    assert "hush" not in told


def test_a_reference_may_stand_for_a_number_a_choice_or_a_size(write: Write) -> None:
    text = """\
gate: {workers: "${env:ONE}", limits: {fields: "${env:ONE}0", head: "${env:ONE}KiB"}}
services:
  - {id: a, url: "http://${env:HOST}", balance: "${env:B}", max_in_flight: "${env:ONE}", tls: {verify: "${env:F}"}}
routes: [{id: r, match: {paths: [/]}, to: {service: a}, retries: {attempts: "${env:ONE}", on: ["50${env:TWO}"]}}]
"""
    environ = {"ONE": "1", "TWO": "2", "HOST": "h:1", "B": "hash", "F": "false"}
    [problem] = problems(write(text), environ=environ)
    assert problem.path == "services[0].tls"
    spec = loaded(write(text.replace("http:", "https:")), environ=environ).spec
    assert (spec.gate.workers, spec.gate.limits.fields, spec.gate.limits.head) == (1, 10, 1024)
    assert spec.services[0].tls is not None
    assert spec.services[0].tls.verify is False
    assert spec.routes[0].retries.statuses == {502}


# --- the hash ---


def test_the_same_content_has_the_same_hash_however_it_is_laid_out(write: Write) -> None:
    one = loaded(write("gate: {drain: 5s, workers: 1}\n" + SMALL)).hash
    other = loaded(write("# why\n" + SMALL + "gate:\n  workers: 1\n  drain: '5s'\n")).hash
    third = loaded(write("x: &x {workers: 1}\n".replace("x: &x", "gate:") + SMALL)).hash
    assert one == other
    assert len(one) == 64
    assert third != one


def test_a_secret_is_not_part_of_the_hash_but_of_the_spec(write: Write) -> None:
    path = write(SMALL + "gate: {admin_token: '${env:T}'}\n")
    one, other = loaded(path, environ={"T": "a"}), loaded(path, environ={"T": "b"})
    assert one.hash == other.hash
    assert one.spec != other.spec


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "gate": st.fixed_dictionaries(
            {}, optional={"drain": st.sampled_from(["1s", "2s"]), "workers": st.just(1), "admin": st.just("off")}
        ),
        "telemetry": st.fixed_dictionaries({}, optional={"records": st.sampled_from(["stdout", "off"])}),
    },
)


@settings(deadline=None)
@given(one=DOCUMENTS, other=DOCUMENTS)
def test_hashes_are_equal_when_documents_are(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, object], other: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("hash") / "a.yaml"
    hashes = []
    for document in (one, other):
        path.write_text(yaml.safe_dump({**document, "routes": []}), encoding="utf-8")
        hashes.append(load(path, environ={}).hash)
    assert (hashes[0] == hashes[1]) is (one == other)


# --- warnings and files ---


def test_warnings_do_not_refuse(write: Write) -> None:
    result = loaded(write("services:\n  - {id: a, url: http://a}\n" + SMALL))
    says = "no route uses this service; add one with `to: {service: …}`, or remove it"
    assert [str(one) for one in result.warnings] == [f"streamgate.yaml:2:10: warning: services[0].id: {says}"]


def test_warnings_are_told_beside_errors(write: Write) -> None:
    told = problems(write("services:\n  - {id: a, url: http://a}\ngate: {drain: 5}\n" + SMALL))
    assert [one.severity for one in told] == ["warning", "error"]


def test_a_certificate_that_is_not_there_is_told(write: Write) -> None:
    write("x", "key.pem")
    [problem] = problems(write("gate:\n  tls: {cert: cert.pem, key: key.pem}\n" + SMALL))
    assert (problem.path, problem.line) == ("gate.tls.cert", 2)
    assert "no such file or directory" in problem.message
    write("x", "cert.pem")
    [problem] = problems(write("gate:\n  tls: {cert: cert.pem, key: key.pem}\n" + SMALL))
    assert (problem.path, problem.line) == ("gate.tls.cert", 2)
    assert "not usable PEM" in problem.message


def test_a_certificate_and_its_key_are_taken(write: Write) -> None:
    issued = trustme.CA().issue_cert("localhost")
    write(issued.private_key_pem.bytes().decode(), "key.pem")
    write(issued.cert_chain_pems[0].bytes().decode(), "cert.pem")
    assert loaded(write("gate:\n  tls: {cert: cert.pem, key: key.pem}\n" + SMALL)).spec.gate.tls is not None


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x", encoding="utf-8")
    assert why_unreadable(tmp_path / "a") is None
    assert why_unreadable(tmp_path / "b") == "no such file or directory"
    assert why_unreadable(tmp_path) == "is a directory"
