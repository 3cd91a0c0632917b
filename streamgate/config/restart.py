"""What a running gate cannot change: it was decided when its sockets were opened and its processes begun."""

from collections.abc import Callable
from typing import Final

from streamgate.config.spec import Spec

_FIXED: Final[dict[str, Callable[[Spec], object]]] = {
    "gate.bind": lambda spec: spec.gate.bind,
    "gate.admin": lambda spec: spec.gate.admin,
    "gate.workers": lambda spec: spec.gate.workers,
    "gate.tls": lambda spec: spec.gate.tls is not None,  # another certificate is put in place, but TLS stays on or off
    "gate.tls.client_ca": lambda spec: spec.gate.tls and spec.gate.tls.client_ca,
    "telemetry.records": lambda spec: spec.telemetry.records,
    "telemetry.spans": lambda spec: spec.telemetry.spans,
}


def restart_needed(started: Spec, now: Spec) -> list[str]:
    """The keys whose new value has no effect before a restart, given what the gate was started with."""
    return [key for key, value in _FIXED.items() if value(started) != value(now)]
