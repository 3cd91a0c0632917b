"""What a client asked of the scripted model: the few fields of its JSON body that change the answer."""

from typing import Annotated, Any

import msgspec


class BadAskError(Exception):
    """The body cannot be answered; the text says what is wrong with it."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request body of any of the dialects, read leniently: what is not known here is ignored."""

    model: str = "scripted"
    stream: bool = False
    seed: int = 0
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The largest number of tokens the client allows."""
    prompts: tuple[str, ...] = ("",)
    """One for a conversation; as many as were sent for completions and embeddings."""
    usage: bool = False
    """``stream_options.include_usage``."""
    base64: bool = False
    """Embeddings as packed floats, what the openai SDK asks for by itself."""
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 8
    script: Any = None

    def prompt_tokens(self) -> int:
        """Words stand for tokens."""
        return sum(len(prompt.split()) for prompt in self.prompts)


def read_ask(raw: bytes) -> Ask:
    """Read a body. Raises BadAskError."""
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BadAskError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadAskError("the body must be a JSON object")
    limits = [body.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")]
    options = body.get("stream_options")
    fields = {
        "model": body.get("model", "scripted"),
        "stream": body.get("stream") or False,
        "seed": body.get("seed") or 0,
        "limit": next((limit for limit in limits if limit is not None), None),
        "prompts": _prompts(body),
        "usage": isinstance(options, dict) and options.get("include_usage") is True,
        "base64": body.get("encoding_format") == "base64",
        "dimensions": body.get("dimensions") or 8,
        "script": body.get("script"),
    }
    try:
        return msgspec.convert(fields, Ask)
    except msgspec.ValidationError as error:
        raise BadAskError(f"the body cannot be read: {error}") from None


def _prompts(body: dict[str, Any]) -> tuple[str, ...]:
    if "messages" in body:
        return (_text(body["messages"]),)
    asked = body.get("prompt", body.get("input", ""))
    if isinstance(asked, list) and asked and all(isinstance(item, str) for item in asked):
        return tuple(asked)
    if isinstance(asked, list) and asked and all(isinstance(item, list) for item in asked):
        return tuple(_text(item) for item in asked)
    return (_text(asked),)


def _text(value: Any) -> str:
    """All words inside a prompt, whatever its shape: text, token numbers, messages, content parts."""
    match value:
        case str() | int():
            return str(value)
        case list():
            return " ".join(filter(None, map(_text, value)))
        case dict():
            return _text([value[key] for key in ("text", "content") if key in value])
        case _:
            return ""
