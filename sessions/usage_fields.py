"""What providers say of tokens: where in an event or an answer it stands, and under which names.

Usage stands in fixed places, and only those are read: a model may be made to write ``{"usage": …}`` into the arguments of a tool.
The sources are the providers' API references and the recordings of them that the tests read.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

COUNT_MAX: Final = 2**53
"""No count of tokens is larger; a larger number is none."""
_NAME_MAX: Final = 200

_INPUT, _TOOLS, _OUTPUT, _THOUGHTS, _TOTAL = "input", "tools", "output", "thoughts", "total"
_CACHED, _WRITTEN, _REASONING, _APART = "cached", "written", "reasoning", "apart"

_FIELDS: Final = {
    "prompt_tokens": _INPUT, "completion_tokens": _OUTPUT, "total_tokens": _TOTAL,  # OpenAI and all that speak like it
    "input_tokens": _INPUT, "output_tokens": _OUTPUT,  # Responses, Anthropic, Cohere
    "cached_tokens": _CACHED, "prompt_cache_hit_tokens": _CACHED,  # Moonshot, DeepSeek
    "cache_read_input_tokens": _CACHED, "cache_creation_input_tokens": _WRITTEN,  # Anthropic
    "promptTokenCount": _INPUT, "toolUsePromptTokenCount": _TOOLS,  # Gemini: parts of one total
    "candidatesTokenCount": _OUTPUT, "responseTokenCount": _OUTPUT, "thoughtsTokenCount": _THOUGHTS,
    "totalTokenCount": _TOTAL, "cachedContentTokenCount": _CACHED,
    "total_input_tokens": _INPUT, "total_tool_use_tokens": _TOOLS,  # Gemini's interactions
    "total_output_tokens": _OUTPUT, "total_thought_tokens": _THOUGHTS, "total_cached_tokens": _CACHED,
    "inputTokens": _INPUT, "outputTokens": _OUTPUT, "totalTokens": _TOTAL,  # Bedrock's Converse
    "cacheReadInputTokens": _CACHED, "cacheWriteInputTokens": _WRITTEN,
    "inputTokenCount": _INPUT, "outputTokenCount": _OUTPUT,  # Bedrock's invocation metrics
    "cacheReadInputTokenCount": _CACHED, "cacheWriteInputTokenCount": _WRITTEN,
}  # fmt: skip
_FLAT: Final = {
    "prompt_eval_count": _INPUT, "eval_count": _OUTPUT,  # Ollama
    "inputTextTokenCount": _INPUT, "totalOutputTextTokenCount": _OUTPUT,  # Titan
    "prompt_token_count": _INPUT, "generation_token_count": _OUTPUT,  # Llama on Bedrock
}  # fmt: skip
"""What stands in the event itself."""
_DETAILS: Final = {
    "prompt_tokens_details", "prompt_token_details", "input_tokens_details",
    "completion_tokens_details", "output_tokens_details",
}  # fmt: skip
_PARTS: Final = {
    "cached_tokens": _CACHED,
    "cache_write_tokens": _WRITTEN,
    "reasoning_tokens": _REASONING,
    "thinking_tokens": _REASONING,
}
_BESIDE_INPUT: Final = {
    "cache_read_input_tokens", "cache_creation_input_tokens",
    "cacheReadInputTokens", "cacheWriteInputTokens", "cacheReadInputTokenCount", "cacheWriteInputTokenCount",
}  # fmt: skip
"""Cached tokens under these names are no part of the input (Anthropic, Bedrock); under all others they are."""
_PLACES: Final = {"usage", "usageMetadata", "meta", "amazon-bedrock-invocationMetrics"}
"""Under one of these names counts stand in an event, or in what it holds:"""
_HOLDERS: Final = {"response", "delta", "metadata", "x_groq", "interaction"}
"""Responses, Cohere, Nova, Groq, Gemini's interactions."""
_USAGE: Final = re.compile(r'"(usage|usageMetadata)"\s*:\s*(?=\{)')
_MODEL: Final = re.compile(r'"model"\s*:\s*"([^"\\]{1,200})"')


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one generation, in the upstream's own numbers; None is what it did not say.

    ``output_tokens`` is as reported, except that Gemini's thoughts count to it and its tool prompts to the input, since they are
    parts of its total. ``estimated``: at least one number is ours, because the stream was cut or nothing was reported.
    ``cache_apart``: cached tokens are no part of ``input_tokens``, which is how Anthropic and Bedrock count.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    model: str | None = None
    response_id: str | None = None
    estimated: bool = False
    cache_apart: bool = False

    @property
    def fresh_input_tokens(self) -> int | None:
        """Input that was neither read from a cache nor written into one."""
        if self.input_tokens is None or self.cache_apart:
            return self.input_tokens
        return max(0, self.input_tokens - (self.cached_input_tokens or 0) - (self.cache_write_tokens or 0))

    @property
    def billed_output_tokens(self) -> int | None:
        """All that was generated. xAI leaves reasoning out of its output; its total shows it."""
        apart = self.reasoning_tokens or 0
        if self.output_tokens is None or self.input_tokens is None:
            return self.output_tokens
        return self.output_tokens + (apart if self.total_tokens == self.input_tokens + self.output_tokens + apart else 0)


class Reported:
    """What one upstream has said so far. A field said again replaces what was said before.

    ``whole``: so does every usage with output in it, all fields at once. Gemini's always does, and that of chat completions.
    """

    __slots__ = ("_counts", "_early_output", "model", "response_id", "whole")

    def __init__(self) -> None:
        self.whole = False
        self._counts: dict[str, int] = {}
        self._early_output = 0
        self.model: str | None = None
        self.response_id: str | None = None

    @property
    def named(self) -> bool:
        """Are the model and the answer known by name?"""
        return self.model is not None and self.response_id is not None

    def take(self, data: bytes, *, names: bool = True) -> bool:
        """Read one event's data, or an answer. True if it reports output, other than as a beginning; what is no JSON says nothing."""
        value = _decoded(data)
        told = False
        for event in value if isinstance(value, list) else (value,):
            if isinstance(event, dict):
                if names and not self.named:
                    self._take_names(event)
                told = self._take_counts(event) or told
        return told

    def take_fragment(self, rest: bytes) -> bool:
        """Read the last usage in what is left of an event that was too long to keep. True if it reports output."""
        text = rest.decode("latin-1")
        if self.model is None and (named := _MODEL.findall(text)):
            self.model = _name({"model": named[-1]}, "model")
        found = [None, *_USAGE.finditer(text)][-1]
        if found is None:
            return False
        try:
            usage, _ = json.JSONDecoder().raw_decode(text, found.end())
        except (ValueError, RecursionError):
            return False
        return self._take_counts({found[1]: usage})

    def _take_names(self, event: dict[str, Any]) -> None:
        """The first model and id that are not empty: Azure's first event has empty ones."""
        inner = (event.get(key) for key in ("response", "message", "interaction"))
        holders = [event, *(holder for holder in inner if isinstance(holder, dict))]
        for holder in holders:
            self.model = self.model or _name(holder, "model", "modelVersion", "model_id")
        if event.get("type") == "message_start" or "response" in event or "interaction" in event:
            holders.reverse()  # the event's own id is not the answer's
        for holder in holders:
            self.response_id = self.response_id or _name(holder, "id", "responseId", "generation_id")

    def _take_counts(self, event: dict[str, Any]) -> bool:
        told = False
        for key, value in event.items():
            if key in _PLACES and isinstance(value, dict):
                told = self._take_usage(key, value) or told
            elif key in _HOLDERS and isinstance(value, dict):
                for inner_key, inner in value.items():
                    if inner_key in _PLACES and isinstance(inner, dict):
                        told = self._take_usage(inner_key, inner) or told
            elif key in _FLAT:
                told = self._merge(_read({key: value}, _FLAT)) or told
            elif key == "message" and isinstance(value, dict) and isinstance(usage := value.get("usage"), dict):
                counts = _read(usage, _FIELDS)
                self._early_output = counts.pop(_OUTPUT, 0)  # Anthropic's first event: what is said before all is written
                self._merge(counts)
            elif key == "results" and isinstance(value, list):
                told = self._merge(self._watsonx(value)) or told
        return told

    def _take_usage(self, place: str, usage: dict[str, Any]) -> bool:
        # Cohere says what it bills and what it used; billed tokens are the ones to report (OpenTelemetry, gen_ai).
        billed = usage.get("billed_units") or usage.get("tokens")
        counts = _read(billed if isinstance(billed, dict) else usage, _FIELDS)
        if (place == "usageMetadata" and counts) or (self.whole and _OUTPUT in counts):
            self._counts = {}
        return self._merge(counts)

    def _merge(self, counts: dict[str, int]) -> bool:
        self._counts.update(counts)
        return _OUTPUT in counts

    def _watsonx(self, results: list[Any]) -> dict[str, int]:
        """Output so far in each event; input in the first alone, and 0 from then on."""
        found: dict[str, int] = {}
        for result in results:
            for name, field in (("input_token_count", _INPUT), ("generated_token_count", _OUTPUT), ("tokenCount", _OUTPUT)):
                if isinstance(result, dict) and (count := _count(result.get(name))) is not None:
                    found[field] = found.get(field, 0) + count
        if _INPUT in found:
            found[_INPUT] = max(found[_INPUT], self._counts.get(_INPUT, 0))
        return found

    def usage(self, delivered: int | None = None, *, complete: bool = True, input_bytes: int | None = None) -> Usage:
        """All of it as one record. ``delivered`` is how many events carried output since output was last reported, None for an
        answer that is no stream; they stand in for tokens where the stream was cut, or where nothing was reported.
        """
        said = self._counts
        estimated = False
        total, tokens_in, out = said.get(_TOTAL), said.get(_INPUT), said.get(_OUTPUT)
        if delivered is not None:
            if out is None and complete and total is not None and tokens_in is not None:
                out = max(0, total - tokens_in)  # Gemini says no output where there is none
            elif out is None or (delivered and not complete):
                more = max(delivered, self._early_output if out is None else 0)
                total = None if total is None or out is None else total + more
                out = (out or 0) + more
                estimated = True
        elif tokens_in is None and out is None:
            tokens_in = total  # an embedding's usage may be its total alone
        if tokens_in is None and input_bytes is not None:
            tokens_in, estimated = -(-input_bytes // 4), True
        beside = said.get(_CACHED, 0) + said.get(_WRITTEN, 0) if _APART in said else 0
        if total is None and tokens_in is not None and out is not None:
            total = tokens_in + out + beside
        return Usage(
            tokens_in, out, total, said.get(_CACHED), said.get(_WRITTEN), said.get(_REASONING),
            self.model, self.response_id, estimated, _APART in said,
        )  # fmt: skip


def usage_of_body(body: bytes) -> Usage:
    """The usage of a whole JSON answer of any dialect, embeddings included. What says nothing, or is no JSON, has none."""
    reported = Reported()
    reported.take(body)
    return reported.usage()


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        pass
    try:  # half a surrogate pair, NaN: some providers write them
        return json.loads(data.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def _read(usage: dict[str, Any], fields: dict[str, str]) -> dict[str, int]:
    """The counts under the names of ``fields``; of two names for one thing the first counts."""
    found: dict[str, int] = {}
    for name, value in usage.items():
        field = fields.get(name)
        if field is not None:
            if (count := _count(value)) is not None:
                found.setdefault(field, count)
                if name in _BESIDE_INPUT and "prompt_tokens" not in usage:
                    found[_APART] = 1
        elif name in _DETAILS and isinstance(value, dict):
            for part, what in _PARTS.items():
                if (count := _count(value.get(part))) is not None:
                    found[what] = count
    if (tools := found.pop(_TOOLS, 0)) and _INPUT in found:
        found[_INPUT] += tools
    if (thoughts := found.pop(_THOUGHTS, None)) is not None:
        found[_REASONING] = thoughts
        found[_OUTPUT] = found.get(_OUTPUT, 0) + thoughts
    return found


def _count(value: object) -> int | None:
    """A count of tokens: whole, from 0; Titan writes 28.0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < COUNT_MAX else None


def _name(holder: dict[str, Any], *keys: str) -> str | None:
    for key in keys:
        found = holder.get(key)
        if isinstance(found, str) and 0 < len(found) <= _NAME_MAX and found.isprintable():
            return found
    return None
