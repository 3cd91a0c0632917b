"""What no section can see alone: ids that lead nowhere, routes that shadow each other, settings that contradict.

Pure: what a file says about itself is asked through `why_unreadable`. Every check yields findings with their place in
the document; `reads` names the other places they rest on.
"""

import difflib
from collections.abc import Callable, Iterator
from itertools import chain, product
from pathlib import Path
from typing import Final

from streamgate.config.problem import Finding, Loc
from streamgate.config.sentences import quoted
from streamgate.config.spec import Model, Route, Service, Spec

WhyUnreadable = Callable[[Path], str | None]
"""Why a file cannot be read, None when it can."""
WhyUnfit = Callable[[Path | None, Path | None, Path | None], tuple[str, str] | None]
"""Given certificate, key and authorities: (`cert` or `ca`, why it cannot be used), None when they can."""
Shown = Callable[[Loc, str], str]
"""How the text at a place is shown in a message: as it is written there, which may be a reference to what it is."""


def as_it_is(_: Loc, text: str) -> str:
    """Show a text itself, for a document without references."""
    return quoted(text)


def all_fit(_cert: Path | None, _key: Path | None, _ca: Path | None) -> None:
    """Take certificates as they are, for documents whose files are not there."""


def cross_check(
    spec: Spec, *, why_unreadable: WhyUnreadable, why_unfit: WhyUnfit = all_fit, shown: Shown = as_it_is
) -> tuple[Finding, ...]:
    """Everything that is wrong between the sections of a configuration, errors and warnings."""
    return (
        *_gate(spec, why_unreadable),
        *_certificates(spec, why_unfit),
        *_twice("services", [service.id for service in spec.services], shown),
        *_twice("models", [model.name for model in spec.models], shown, key="name"),
        *_twice("routes", [route.id for route in spec.routes], shown),
        *chain.from_iterable(_service(i, one, why_unreadable) for i, one in enumerate(spec.services)),
        *chain.from_iterable(_model(i, one, spec, shown) for i, one in enumerate(spec.models)),
        *chain.from_iterable(_route(i, one, spec, shown) for i, one in enumerate(spec.routes)),
        *_shadowed(spec),
        *_unused(spec),
    )


def _gate(spec: Spec, why_unreadable: WhyUnreadable) -> Iterator[Finding]:
    gate = spec.gate
    if gate.workers > 1 and not spec.state.is_shared:
        message = "more than one worker cannot share memory://; set state.url to redis://HOST:PORT, or workers to 1"
        yield Finding(("gate", "workers"), message, reads=(("state", "url"),))
    if gate.admin is not None and not gate.admin.is_loopback and gate.admin_token is None:
        message = "can be reached from other machines; set gate.admin_token, or bind it to 127.0.0.1"
        yield Finding(("gate", "admin"), message, reads=(("gate", "admin_token"),))
    if gate.admin is not None and gate.admin.port == gate.bind.port != 0:
        message = "has the same port as gate.bind; choose another one, or off"
        yield Finding(("gate", "admin"), message, reads=(("gate", "bind"),))
    if gate.tls is not None:
        files = {"cert": gate.tls.cert, "key": gate.tls.key, "client_ca": gate.tls.client_ca}
        yield from _files(("gate", "tls"), files, why_unreadable)


def _files(loc: Loc, files: dict[str, Path | None], why_unreadable: WhyUnreadable) -> Iterator[Finding]:
    for key, path in files.items():
        why = None if path is None else why_unreadable(path)
        if why is not None:
            yield Finding((*loc, key), f"this file cannot be read: {why}; correct the path or its permissions")


def _certificates(spec: Spec, why_unfit: WhyUnfit) -> Iterator[Finding]:
    tls = spec.gate.tls
    shown: list[tuple[Loc, tuple[Path | None, Path | None, Path | None], dict[str, str]]] = []
    if tls is not None:
        shown.append((("gate", "tls"), (tls.cert, tls.key, tls.client_ca), {"cert": "cert", "ca": "client_ca"}))
    for position, service in enumerate(spec.services):
        if (own := service.tls) is not None:
            shown.append((("services", position, "tls"), (own.cert, own.key, own.ca), {"cert": "cert", "ca": "ca"}))
    for loc, files, keys in shown:
        if (found := why_unfit(*files)) is not None:
            yield Finding((*loc, keys[found[0]]), found[1])


def _twice(section: str, ids: list[str], shown: Shown, key: str = "id") -> Iterator[Finding]:
    first: dict[str, int] = {}
    for position, name in enumerate(ids):
        earlier = first.setdefault(name, position)
        if earlier != position:
            loc: Loc = (section, position, key)
            message = f"{section}[{earlier}] has the {key} {shown(loc, name)} already; give each its own"
            yield Finding(loc, message, reads=((section, earlier, key),))


def _service(position: int, service: Service, why_unreadable: WhyUnreadable) -> Iterator[Finding]:
    loc: Loc = ("services", position)
    if "hash_by" in service.model_fields_set and service.balance != "hash":
        message = "means something with `balance: hash` only; set that, or remove hash_by"
        yield Finding((*loc, "hash_by"), message, reads=((*loc, "balance"),), on_key=True)
    first: dict[str, int] = {}
    for number, endpoint in enumerate(service.endpoints):
        earlier = first.setdefault(endpoint.url, number)
        if earlier != number:
            message = f"this is the same address as endpoints[{earlier}]; keep one, with the weight of both"
            yield Finding((*loc, "endpoints", number, "url"), message, reads=((*loc, "endpoints", earlier, "url"),))
    if service.endpoints and not any(endpoint.weight for endpoint in service.endpoints):
        message = "every endpoint has weight 0, so none is ever chosen; give one a weight"
        yield Finding((*loc, "endpoints"), message, severity="warning")
    if service.tls is not None:
        if any(not endpoint.is_tls for endpoint in service.all_endpoints):
            message = "means something for https:// addresses only; change the address, or remove tls"
            yield Finding((*loc, "tls"), message, reads=((*loc, "url"), (*loc, "endpoints")), on_key=True)
        files = {"ca": service.tls.ca, "cert": service.tls.cert, "key": service.tls.key}
        yield from _files((*loc, "tls"), files, why_unreadable)


def _model(position: int, model: Model, spec: Spec, shown: Shown) -> Iterator[Finding]:
    known = {service.id for service in spec.services}
    for name, targets in model.splits.items():
        loc: Loc = ("models", position, "splits", name)
        for number, target in enumerate(targets):
            if target.service not in known:
                yield _leads_nowhere((*loc, number, "service"), target.service, spec, shown)
        if not any(target.weight for target in targets):
            yield Finding(loc, "every target has weight 0, so none is ever chosen; give one a weight", severity="warning")
    if model.flag is not None and spec.flags is None:
        message = "there are no flags, so the default split is always used; add `flags: {provider: flagd, file: flags.json}`"
        yield Finding(("models", position, "flag"), message, severity="warning", reads=(("flags",),))
    for number, source in enumerate(model.sticky):
        if source.startswith("claim:") and not spec.auth.providers:
            message = "no claim is ever verified, since there are no auth.providers; the next source decides"
            yield Finding(("models", position, "sticky", number), message, severity="warning", reads=(("auth",),))


_MODELS_ONLY: Final = ("single_flight", "summary", "priority")


def _models_route(position: int, route: Route, spec: Spec) -> Iterator[Finding]:
    loc: Loc = ("routes", position)
    if route.to.models and not spec.models:
        message = "there are no models; add some under models, or lead this route to a service"
        yield Finding((*loc, "to", "models"), message, reads=(("models",),))
    for key in () if route.to.models else _MODELS_ONLY:
        if key in route.model_fields_set and getattr(route, key):
            message = f"means something with `to: {{models: true}}` only; set that, or remove {key}"
            yield Finding((*loc, key), message, reads=((*loc, "to"),), on_key=True)


def _route(position: int, route: Route, spec: Spec, shown: Shown) -> Iterator[Finding]:
    yield from _models_route(position, route, spec)
    loc: Loc = ("routes", position)
    wanted = route.to.service
    if wanted is not None and wanted not in {service.id for service in spec.services}:
        yield _leads_nowhere((*loc, "to", "service"), wanted, spec, shown)
    prefix = route.rewrite.strip_prefix if route.rewrite else None
    if prefix is not None and not any(_can_begin_with(path, prefix) for path in route.match.paths):
        loc = (*loc, "rewrite", "strip_prefix")
        message = f"no path of this route begins with {shown(loc, prefix)}; correct one of them, or remove strip_prefix"
        yield Finding(loc, message, reads=(("routes", position, "match", "paths"),))


def _leads_nowhere(loc: Loc, wanted: str, spec: Spec, shown: Shown) -> Finding:
    places: dict[Loc, str] = {("services", i, "id"): service.id for i, service in enumerate(spec.services)}
    # What is shown otherwise than it is came by a reference, and is not to be told as a suggestion.
    ids = [name for loc_, name in places.items() if shown(loc_, name) == quoted(name)]
    near = [] if shown(loc, wanted) != quoted(wanted) else difflib.get_close_matches(wanted, ids, n=1)
    message = f"no service has the id {shown(loc, wanted)}; add it under services, or name one that is there"
    # Without services the list itself may be what could not be read.
    return Finding(loc, message, near[0] if near else None, reads=tuple(places) or (("services",),))


def _can_begin_with(path: str, prefix: str) -> bool:
    """Whether a request of this path pattern can begin with the prefix, as whole segments."""
    below = path.removesuffix("*")
    if below != path:
        return f"{prefix}/".startswith(below) or below.startswith(f"{prefix}/")
    return path == prefix or path.startswith(f"{prefix}/")


def _shadowed(spec: Spec) -> Iterator[Finding]:
    """A path that earlier routes take with the same hosts and methods: between equals the first wins."""
    first: dict[tuple[str, str, str], int] = {}
    for position, route in enumerate(spec.routes):
        named = route.match.methods
        methods = {*named, "HEAD"} if "GET" in named else {*named} or {""}  # whoever allows GET allows HEAD
        for number, path in enumerate(route.match.paths):
            keys = list(product([path], route.match.hosts or [""], methods))
            earlier = sorted({first[key] for key in keys if key in first})
            if all(key in first for key in keys):
                others = " and ".join(f"routes[{one}]" for one in earlier)
                message = f"can never match: {others} took the same path, hosts and methods before; change or remove one"
                if earlier == [position]:
                    message = "stands twice in this route; keep one"
                reads = tuple(("routes", one, "match") for one in (*earlier, position))
                yield Finding(("routes", position, "match", "paths", number), message, reads=reads)
            for key in keys:
                first.setdefault(key, position)


def _unused(spec: Spec) -> Iterator[Finding]:
    if not spec.routes:
        message = "there are no routes, so every request is answered 404; add one"
        yield Finding(("routes",), message, severity="warning")
        return
    used = {route.to.service for route in spec.routes if route.to.service is not None}
    served = any(route.to.models for route in spec.routes)
    used |= {target.service for model in spec.models for targets in model.splits.values() for target in targets}
    if used - {service.id for service in spec.services}:
        return  # a route that leads nowhere was probably meant to use one of them
    targets: tuple[Loc, ...] = (("models",), *(("routes", i, "to") for i in range(len(spec.routes))))
    if spec.models and not served:
        message = "no route leads to the models; add one with `to: {models: true}`"
        yield Finding(("models",), message, severity="warning", reads=targets)
    for position, service in enumerate(spec.services):
        if service.id not in used:
            message = "no route uses this service; add one with `to: {service: …}`, or remove it"
            yield Finding(("services", position, "id"), message, severity="warning", reads=targets)
