"""The proxies compared, one class each: how it is configured for one worker, and what version it is.

Each is set up to do the same work: HTTP/1.1 both ways, upstream connections kept alive, nothing buffered, no limit in the
way of a few thousand streams. Whether it writes a record of each exchange, as streamgate does, stands in `note`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import yaml

from loadtests import installs
from loadtests.asking import COMPLETIONS, HOST, Address
from loadtests.peer import Peer, Place

REPOSITORY = Path(__file__).parent.parent


class Direct(Peer):
    """No proxy at all: what the client and the upstream cost by themselves."""

    name = "direct"
    note = "no proxy: the floor of every latency"

    def version(self) -> str:
        """There is none."""
        return "-"

    def command(self, place: Place) -> list[str]:  # noqa: ARG002 - nothing to write
        """Nothing to run."""
        return []

    def address(self, place: Place) -> Address:
        """The upstream itself."""
        return Address(HOST, place.upstream)


class Streamgate(Peer):
    """The project itself, as installed beside this interpreter."""

    name = "streamgate"
    note = "one JSON record per exchange, metrics on"

    def __init__(self, *, idle_connections_s: int = 55) -> None:
        """How long idle upstream connections are kept; the leak test shortens it, so that all of them go."""
        self._idle_connections_s = idle_connections_s

    def version(self) -> str:
        """Of the package, and the commit."""
        program = self._program()
        number = installs.package_version(program.parent, "streamgate")
        commit = installs.said(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"])
        return f"{number} ({commit})" if commit and " " not in commit else number

    def _program(self) -> Path:
        program = REPOSITORY / ".venv/bin/streamgate"
        if not program.exists():
            found = shutil.which("streamgate")
            if not found:
                msg = "streamgate is not installed: run `pip install -e .` in the repository"
                raise installs.CannotInstallError(msg)
            program = Path(found)
        return program

    def command(self, place: Place) -> list[str]:
        """One configuration file; the records go elsewhere, because its folder is watched for changes."""
        (place.folder / "records").mkdir()
        path = place.file("streamgate.yaml", self.document(place))
        return [str(self._program()), "run", "-c", str(path)]

    def document(self, place: Place, *, edition: int = 0) -> str:
        """The configuration. Editions differ in one answer, so that a reload has something to apply."""
        return yaml.safe_dump(self._settings(place, edition), sort_keys=False)

    def _settings(self, place: Place, edition: int) -> dict[str, Any]:
        off = {"first_byte": "1h", "idle": "1h", "total": "off"}
        pool = {"max_idle": 512, "idle": f"{self._idle_connections_s}s"}
        origins = {"model": place.upstream, "nowhere": place.nowhere}
        return {
            "gate": {"bind": f"{HOST}:{place.port}", "admin": f"{HOST}:{place.admin}", "workers": 1, "drain": "1s"},
            "services": [
                {"id": name, "url": f"http://{HOST}:{port}", "pool": pool, "timeouts": off | {"connect": "30s"}}
                for name, port in origins.items()
            ],
            "routes": [
                {
                    "id": "edition",
                    "match": {"paths": ["/edition"]},
                    "to": {"respond": {"status": 200, "body": str(edition)}},
                },
                {"id": "nowhere", "match": {"paths": ["/nowhere/*"]}, "to": {"service": "nowhere"}},
                {"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "model"}},
            ],
            "telemetry": {"records": str(place.folder / "records/records.jsonl")},
        }


class StreamgateModels(Streamgate):
    """The same, its completions led by model: a flag, a split, a queue, and every stream metered."""

    name = "streamgate_models"
    note = "as streamgate; the body read, flag, split and turn decided, usage metered on every stream"
    serves_json = False

    def _settings(self, place: Place, edition: int) -> dict[str, Any]:
        found = super()._settings(place, edition)
        flag = {"state": "ENABLED", "variants": {"all": "all"}, "defaultVariant": "all"}
        place.file("flags.json", json.dumps({"flags": {"fake-split": flag}}))
        names = {"fake": "model", "nowhere": "nowhere"}
        return found | {
            "flags": {"provider": "flagd", "file": "flags.json"},
            "models": [
                {
                    "name": name,
                    "flag": "fake-split",
                    "splits": {"all": [{"service": service, "model": "fake"}]},
                    "queue": {"max_in_flight": 100_000},
                }
                for name, service in names.items()
            ],
            "routes": [{"id": "models", "match": {"paths": ["/v1/*"]}, "to": {"models": True}}, *found["routes"]],
        }

    def nowhere(self, place: Place) -> Address:
        """The model decides, not the path."""
        return Address(HOST, place.port, COMPLETIONS, model="nowhere")


NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 65536; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log {folder}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000; keepalive_timeout 1h; tcp_nodelay on;
  upstream model {{ server {host}:{upstream}; keepalive 512; keepalive_requests 100000000; keepalive_timeout 1h; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
  proxy_read_timeout 1h; proxy_connect_timeout 30s;
  server {{
    listen {host}:{port} backlog=8192;
    location / {{ proxy_pass http://model; }}
    location /nowhere/ {{ proxy_pass http://{host}:{nowhere}; }}
  }}
}}
"""


class Nginx(Peer):
    """nginx, one worker."""

    name = "nginx"
    note = "access log on, written in blocks; buffering off"

    def _program(self) -> str:
        found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if not found:
            msg = "nginx is not installed: Debian has it as `nginx`"
            raise installs.CannotInstallError(msg)
        return found

    def version(self) -> str:
        """As it says itself."""
        return installs.said([self._program(), "-v"]).rpartition("/")[2]

    def command(self, place: Place) -> list[str]:
        """One configuration file; its workers keep the user, or they could not enter our folder."""
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(
            user=user,
            folder=place.folder,
            host=HOST,
            port=place.port,
            upstream=place.upstream,
            nowhere=place.nowhere,
        )
        return [
            self._program(),
            "-p",
            str(place.folder),
            "-e",
            str(place.folder / "error.log"),
            "-c",
            str(place.file("nginx.conf", text)),
        ]


class Envoy(Peer):
    """Envoy, one worker, no filter but the router."""

    name = "envoy"
    note = "no filter but the router, no access log"
    access_log: ClassVar[bool] = False

    def _program(self) -> str:
        return shutil.which("envoy") or str(installs.environment("peers") / "envoy")

    def version(self) -> str:
        """As it says itself: hash/version/…"""
        parts = installs.said([self._program(), "--version"]).split("/")
        return next((part for part in parts if part[:1].isdigit() and part.count(".") == 2), "unknown")

    def command(self, place: Place) -> list[str]:
        """One configuration file."""
        path = place.file("envoy.yaml", yaml.safe_dump(self._document(place)))
        return [self._program(), "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]

    def _document(self, place: Place) -> dict[str, object]:
        kind = "type.googleapis.com/envoy.extensions"
        manager = {
            "@type": f"{kind}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "gate",
            "stream_idle_timeout": "0s",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [
                            {"match": {"prefix": "/nowhere/"}, "route": {"cluster": "nowhere", "timeout": "0s"}},
                            {"match": {"prefix": "/"}, "route": {"cluster": "model", "timeout": "0s"}},
                        ],
                    },
                ],
            },
            "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.filters.http.router.v3.Router"}}],
        }
        if self.access_log:
            log = {"@type": f"{kind}.access_loggers.file.v3.FileAccessLog", "path": str(place.folder / "access.log")}
            manager["access_log"] = [{"name": "file", "typed_config": log}]
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        listener = {"address": _socket_address(place.port), "filter_chains": [chain], "tcp_backlog_size": 8192}
        clusters = [_cluster("model", place.upstream), _cluster("nowhere", place.nowhere)]
        return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _socket_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, object]:
    many = {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "30s",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket_address(port)}}]}],
        },
    }


class EnvoyLogging(Envoy):
    """Envoy, with one line in an access log per exchange."""

    name = "envoy_logging"
    note = "no filter but the router, access log on"
    access_log = True


class SanicAiohttp(Peer):
    """plain_proxy.py."""

    name = "sanic_aiohttp"
    note = "a plain handler, no access log"

    def version(self) -> str:
        """Of both halves."""
        executables = installs.environment("peers")
        return " + ".join(f"{package} {installs.package_version(executables, package)}" for package in ("sanic", "aiohttp"))

    def command(self, place: Place) -> list[str]:
        """Arguments only."""
        origins = {"--upstream": place.upstream, "--nowhere": place.nowhere}
        python = str(installs.environment("peers") / "python")
        command = [python, str(REPOSITORY / "loadtests/plain_proxy.py"), "--port", str(place.port)]
        return command + [part for name, port in origins.items() for part in (name, f"http://{HOST}:{port}")]


class LiteLLM(Peer):
    """LiteLLM's proxy, one worker."""

    name = "litellm"
    note = "model calls only; smaller loads, because it cannot carry the full ones on a core"
    serves_json = False
    slow = True
    ready_path = "/health/readiness"

    def version(self) -> str:
        """Of the package."""
        return installs.package_version(installs.environment("litellm"), "litellm")

    def environment(self) -> dict[str, str]:
        """No price list from the network, no chatter; and no key to check, because the others check none either."""
        return {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }

    def command(self, place: Place) -> list[str]:
        """Two models: the fake upstream, and one that cannot be reached."""
        models = {"fake": place.upstream, "nowhere": place.nowhere}
        document = {
            "model_list": [
                {
                    "model_name": name,
                    "litellm_params": {"model": "openai/fake", "api_base": f"http://{HOST}:{port}/v1", "api_key": "sk-load"},
                }
                for name, port in models.items()
            ],
            "litellm_settings": {"num_retries": 0, "request_timeout": 3600, "telemetry": False},
            "general_settings": {"forward_client_headers_to_llm_api": True},
        }
        path = place.file("litellm.yaml", yaml.safe_dump(document))
        program = installs.environment("litellm") / "litellm"
        return [str(program), "--config", str(path), "--host", HOST, "--port", str(place.port), "--num_workers", "1"]

    def nowhere(self, place: Place) -> Address:
        """The model decides, not the path."""
        return Address(HOST, place.port, COMPLETIONS, model="nowhere")


ALL: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Direct, Streamgate, StreamgateModels, Nginx, Envoy, EnvoyLogging, SanicAiohttp, LiteLLM)
}
