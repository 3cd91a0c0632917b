"""Error bodies as the providers write them."""

from typing import Any, Final

SERVERS_FAULT: Final = 500
"""Statuses from here on are the server's own fault."""

Json = dict[str, Any]


def openai_error(status: int, message: str) -> Json:
    """All four keys are always there."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    code = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}.get(status)
    kind = kinds.get(status, "server_error" if status >= SERVERS_FAULT else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic_error(status: int, message: str) -> Json:
    """The same for /v1/messages; 529 is their overload."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}
    kinds |= {429: "rate_limit_error", 529: "overloaded_error"}
    kind = kinds.get(status, "api_error" if status >= SERVERS_FAULT else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"}


def refused(path: str, status: int, message: str) -> Json:
    """An error body in the dialect of `path`, for a request that could not even be read."""
    return anthropic_error(status, message) if path == "/v1/messages" else openai_error(status, message)
