"""An explanation for people: a line for each thing that would happen, in the order in which it would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

Line: TypeAlias = tuple[str, str]
"""What it is about (empty where it goes on with the line before), and what there is to say."""
Rows: TypeAlias = tuple[tuple[str, ...], list[list[str]], int | None]
"""Titles, rows, and the number of the row that stands out."""

_TARGETS: Final = ("model", "flag", "split", "target", "weight", "share", "now")


def lines_of(found: dict[str, Any]) -> Iterator[Line]:
    """Everything but the tables."""
    refused = found["refusal"]
    why = "" if refused is None else f": {refused['status']} {refused['code']}: {refused['message']}"
    if found["outcome"] == "depends":
        why = " on the body, which says what model is asked for: give one with -d to follow it"
    yield "outcome", found["outcome"] + why
    if found["path"] is not None:
        yield "path", f"{found['path']} (canonical)" + ("" if found["query"] is None else f", query {found['query']}")
        yield "dialect", found["dialect"]
    if (route := found.get("route")) is not None:
        yield "route", f"{route['id']}, by {route['pattern']}"
        yield "body", f"at most {route['max_body']}" if route["max_body"] != "off" else "of any size"
        yield "client", route["client_address"]
    if (answer := found.get("answer")) is not None:
        yield "answer", f"{answer['status']}, {answer['body_bytes']} bytes, by the gateway itself"
    if (model := found.get("model")) is not None:
        yield from _model(model)
    services = found.get("services") or ([found["service"]] if "service" in found else [])
    for service in services:
        yield from _service(service, service.get("timeouts") or found["route"]["timeouts"])
    if route is not None and services:
        yield from _ends(route)
    if (upstream := found.get("upstream")) is not None:
        yield from _upstream(upstream)


def candidate_rows(found: dict[str, Any]) -> Rows:
    """Every route, and why it was chosen or not."""
    candidates = found["candidates"]
    rows = [
        [str(number), one["route"], one["host"] or "any", one["path"], ",".join(one["methods"]) or "any", one["reason"]]
        for number, one in enumerate(candidates, 1)
    ]
    chosen = next((number for number, one in enumerate(candidates) if one["chosen"]), None)
    return ("#", "route", "host", "path", "methods", "verdict"), rows, chosen


def model_rows(found: dict[str, Any]) -> Rows:
    """Every model with its splits, where it is open which is asked for."""
    rows = [
        [
            model["name"], model["flag"] or "none", split["name"] + (" (default)" if split["name"] == model["default"] else ""),
            f"{target['service']} as {target['model']}", str(target["weight"]), _percent(target["requested_share"]),
            _percent(target["effective_share"]),
        ]
        for model in found.get("models", ())
        for split in model["splits"]
        for target in split["targets"]
    ]  # fmt: skip
    return _TARGETS, rows, None


# -- a request to a model --------------------------------------------------------------------------------------------------


def _model(model: dict[str, Any]) -> Iterator[Line]:
    yield "model", f"{model['name']}, {model['operation']}" + (", streamed" if model["stream"] else "")
    tenant = model["tenant"]
    yield "tenant", "none" if tenant is None else f"{tenant['name']} ({tenant['from']})"
    sticky = model["sticky"]
    looked_at = f" (looked at: {', '.join(sticky['sources'])})" if sticky["sources"] else ""
    yield "sticks by", sticky["from"] or f"nothing, so it takes turns{looked_at}"
    yield from _flag(model["flag"])
    yield "split", f"{model['split']['name']}: {model['split']['because']}"
    for target in model["split"]["targets"]:
        yield "", _share(target)
    yield from _order(model)
    yield from _queue(model["queue"])
    fallback = model["fallback"]
    yield "fallback", f"{fallback['attempts']} attempts: {fallback['because']}; after {', '.join(fallback['after'])}"
    for name, one in model["sharing"].items():
        yield name, f"{'yes' if one['would'] else 'no'}: {one['because']}"
    if (usage := model["usage"]) is not None:
        yield "usage", f"{'asked for upstream' if usage['asked_upstream'] else 'not asked for'}: {usage['because']}"


def _flag(flag: dict[str, Any] | None) -> Iterator[Line]:
    if flag is None:
        return
    said = "nothing" if flag["value"] is None else flag["value"]
    notes = [f"variant {flag['variant']}" if flag["variant"] else "", flag["reason"] or "", flag["error"] or ""]
    told = ", ".join(filter(None, notes))
    yield "flag", f"{flag['key']} says {said}" + (f" ({told})" if told else "")
    yield "", "decided by " + ", ".join(f"{one['name']} ({one['from']})" for one in flag["context"])
    if flag["problem"]:
        yield "", f"problem: {flag['problem']}"


def _share(target: dict[str, Any]) -> str:
    text = f"{target['service']} as {target['model']}: weight {target['weight']}, {_percent(target['requested_share'])}"
    if target["effective_share"] != target["requested_share"]:
        text += f", now {_percent(target['effective_share'])}"
    if (cooling := target["cooling"]) is not None:
        why = "it asked for that" if cooling["reason"] == "asked" else "it failed"
        text += f"; cooling for {cooling['for_s']}s, since {why}"
    elif not target["has_room"]:
        text += "; full"
    return text


def _order(model: dict[str, Any]) -> Iterator[Line]:
    target, order = model["target"], model["order"]
    if target is None:
        yield "target", "none"
        return
    name = _either(order[0]["targets"])
    how = "" if target["service"] is None else f"{target['how']}: "
    yield "target", f"{name}, {how}{target['because']}"
    for step in order[1:]:
        yield "then", f"{_either(step['targets'])}, of {step['split']}" + (" (cooling)" if step["how"] == "cooling" else "")


def _either(targets: list[dict[str, Any]]) -> str:
    if len(targets) == 1:
        return f"{targets[0]['service']} as {targets[0]['model']}"
    return "one of " + ", ".join(f"{one['service']} as {one['model']} ({_percent(one['share'])})" for one in targets)


def _queue(queue: dict[str, Any]) -> Iterator[Line]:
    yield "queue", f"{_turn(queue)}: {queue['because']}"
    state = queue["state"]
    most = "any number" if queue["max_in_flight"] is None else f"{queue['max_in_flight']}"
    share = f" ({state['capacity']} of them here)" if queue["shared"] else ""
    yield "", f"{most} at a time{share}, {queue['max_waiting']} may wait with {queue['max_bytes']}, for {queue['max_wait']}"
    flow = "" if queue["fair_by"] == "off" else f" ({queue['flow']})"
    yield "", f"patience {queue['patience']} ({queue['patience_from']}), fair by {queue['fair_by']}{flow}, priority {queue['priority']}"


def _turn(queue: dict[str, Any]) -> str:
    match queue["verdict"]:
        case "at once":
            return "a turn at once"
        case "waits":
            predicted = queue["predicted_wait_s"]
            return f"waits as number {queue['position']}, " + ("how long is unknown" if predicted is None else f"about {predicted}s")
        case _:
            return "refused"


# -- where it goes ---------------------------------------------------------------------------------------------------------


def _service(service: dict[str, Any], timeouts: dict[str, str]) -> Iterator[Line]:
    by = f" of {', '.join(service['hash_by'])}" if service["hash_by"] else ""
    yield "service", f"{service['id']}, {service['balance']}{by}"
    for endpoint in service["endpoints"]:
        bound = "" if endpoint["max_in_flight"] is None else f", at most {endpoint['max_in_flight']} at a time"
        region = "" if endpoint["region"] is None else f", region {endpoint['region']}"
        yield "", f"{endpoint['url']} weight {endpoint['weight']}{region}{bound}: {endpoint['verdict']}"
    yield "timeouts", ", ".join(f"{name} {value}" for name, value in timeouts.items())


def _ends(route: dict[str, Any]) -> Iterator[Line]:
    if (retries := route.get("retries")) is not None:
        after = ", ".join(f"{outcome}: {verdict}" for outcome, verdict in retries["after"].items())
        yield "retries", f"{retries['attempts']}" + (f" ({after})" if after and retries["attempts"] else "")
    yield "disconnect", route["on_disconnect"]


def _upstream(upstream: dict[str, Any]) -> Iterable[Line]:
    yield "upstream gets", f"{upstream['method']} {upstream['target']}"
    yield "", f"Host: {upstream['host']} ({upstream['host_is']})"
    for name, value in upstream["headers"]:
        yield "", f"{name}: {value}"


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
