"""Error bodies have the shapes that SDKs read."""

import pytest

from streamgate.demo.refusals import anthropic_error, openai_error, refused


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "authentication_error", "invalid_api_key"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (418, "invalid_request_error", None),
        (500, "server_error", None),
        (503, "server_error", None),
    ],
)
def test_openai_errors_have_all_four_keys(status: int, kind: str, code: str | None) -> None:
    assert openai_error(status, "m") == {"error": {"message": "m", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error")],
)
def test_anthropic_errors_name_themselves(status: int, kind: str) -> None:
    body = anthropic_error(status, "m")
    assert (body["type"], body["error"]) == ("error", {"type": kind, "message": "m"})


def test_the_path_decides_the_dialect() -> None:
    assert refused("/v1/messages", 400, "m") == anthropic_error(400, "m")
    assert refused("/v1/responses", 400, "m") == openai_error(400, "m")
