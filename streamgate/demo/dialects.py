"""How one scripted answer looks in each provider's dialect: event streams and whole bodies.

Shapes follow recorded answers of the providers. Nothing here waits or sends. Ids and times are constants, so that the
same request gets the same bytes directly and through a gateway.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

from sse_starlette import ServerSentEvent

from streamgate.demo.ask import Ask
from streamgate.demo.refusals import anthropic_error, openai_error
from streamgate.demo.script import words

CREATED: Final = 1_750_000_000
"""Unix seconds, the same in every answer."""

DONE: Final = "[DONE]"

Events = list[ServerSentEvent]
Json = dict[str, Any]


def event(data: Any, name: str | None = None, **fields: Any) -> ServerSentEvent:
    """One event with JSON data (a str is sent as it is), its lines ended by a single newline as providers do.

    Characters are sent as UTF-8, never escaped: a relay that cuts them apart must not harm them.
    """
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ServerSentEvent(text, event=name, sep="\n", **fields)


class Answer(Protocol):
    """One answer as a whole, or refused."""

    def whole(self) -> Json:
        """The body without streaming."""

    def refusal(self, status: int) -> Json:
        """The body of an error status."""

    def length(self) -> int:
        """How many tokens the answer has."""


class Stream(Answer, Protocol):
    """One answer that can be streamed: opening, tokens, closing; or ended by fault."""

    def opening(self) -> Events:
        """What comes before the first token."""

    def token(self, position: int) -> Events:
        """The token at this position, from 0."""

    def closing(self) -> Events:
        """What ends a stream properly, the terminal event last."""

    def fault(self) -> Events:
        """The provider's own error inside a stream."""

    def ping(self) -> ServerSentEvent:
        """A keep-alive."""


class _Text(Stream):
    """What the dialects have in common, OpenAI's habits where they differ: its errors, and comments as keep-alives."""

    def __init__(self, ask: Ask, texts: Sequence[list[str]], *, cut_short: bool) -> None:
        self.ask = ask
        self.texts = texts
        self.finish = "length" if cut_short else "stop"

    def length(self) -> int:
        return len(self.texts[0])

    def opening(self) -> Events:
        return []

    def fault(self) -> Events:
        return [event(openai_error(500, "The scripted server had an error while processing the request."))]

    def ping(self) -> ServerSentEvent:
        return ServerSentEvent(comment="ping", sep="\n")

    def refusal(self, status: int) -> Json:
        return openai_error(status, f"The scripted server answers {status}, as asked.")

    def usage(self) -> Json:
        asked, answered = self.ask.prompt_tokens(), sum(map(len, self.texts))
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


class _Chat(_Text):
    """/v1/chat/completions."""

    _ID = "chatcmpl-scripted"

    def opening(self) -> Events:
        return [self._chunk({"role": "assistant", "content": ""})]

    def token(self, position: int) -> Events:
        return [self._chunk({"content": self.texts[0][position]})]

    def closing(self) -> Events:
        counted = [event({**self._head(), "choices": [], "usage": self.usage()})] if self.ask.usage else []
        return [self._chunk({}, self.finish), *counted, event(DONE)]

    def whole(self) -> Json:
        message = {"role": "assistant", "content": "".join(self.texts[0]), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def _head(self, kind: str = "chat.completion.chunk") -> Json:
        return {"id": self._ID, "object": kind, "created": CREATED, "model": self.ask.model}

    def _chunk(self, delta: Json, finish: str | None = None) -> ServerSentEvent:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head(), "choices": [choice], **({"usage": None} if self.ask.usage else {})})


class _Completion(_Text):
    """/v1/completions; one choice for each prompt sent, the text depending on the prompt."""

    def token(self, position: int) -> Events:
        return [self._chunk(index, text[position]) for index, text in enumerate(self.texts)]

    def closing(self) -> Events:
        counted = [event({**self._head(), "choices": [], "usage": self.usage()})] if self.ask.usage else []
        ends = [self._chunk(index, "", self.finish) for index in range(len(self.texts))]
        return [*ends, *counted, event(DONE)]

    def whole(self) -> Json:
        choices = [self._choice(index, "".join(text), self.finish) for index, text in enumerate(self.texts)]
        return {**self._head(), "choices": choices, "usage": self.usage()}

    def _head(self) -> Json:
        return {"id": "cmpl-scripted", "object": "text_completion", "created": CREATED, "model": self.ask.model}

    def _choice(self, index: int, text: str, finish: str | None) -> Json:
        return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}

    def _chunk(self, index: int, text: str, finish: str | None = None) -> ServerSentEvent:
        return event({**self._head(), "choices": [self._choice(index, text, finish)]})


class _Reply(_Text):
    """/v1/responses: every event is named, numbered, and says its own name again inside."""

    _ITEM = "msg_scripted"

    def __init__(self, ask: Ask, texts: Sequence[list[str]], *, cut_short: bool) -> None:
        super().__init__(ask, texts, cut_short=cut_short)
        self._number = itertools.count()
        self._status = "incomplete" if cut_short else "completed"

    def opening(self) -> Events:
        started, part = self._response("in_progress", []), {"part": self._part("")}
        return [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("response.content_part.added", **self._place(), **part),
        ]

    def token(self, position: int) -> Events:
        delta = self.texts[0][position]
        return [self._event("response.output_text.delta", **self._place(), delta=delta, logprobs=[])]

    def closing(self) -> Events:
        text = "".join(self.texts[0])
        item = self._item(self._status, [self._part(text)])
        return [
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place(), part=self._part(text)),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event(f"response.{self._status}", response=self._response(self._status, [item])),
        ]

    def fault(self) -> Events:
        error = {"code": "server_error", "message": "The scripted server had an error while processing the request."}
        failed = {**self._response("failed", []), "error": error}
        return [self._event("response.failed", response=failed)]

    def whole(self) -> Json:
        return self._response(self._status, [self._item(self._status, [self._part("".join(self.texts[0]))])])

    def _event(self, kind: str, **fields: Any) -> ServerSentEvent:
        return event({"type": kind, **fields, "sequence_number": next(self._number)}, kind)

    def _place(self) -> Json:
        return {"item_id": self._ITEM, "output_index": 0, "content_index": 0}

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, status: str, content: list[Json]) -> Json:
        return {"id": self._ITEM, "type": "message", "status": status, "role": "assistant", "content": content}

    def _response(self, status: str, output: list[Json]) -> Json:
        short = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": "resp_scripted", "object": "response", "created_at": CREATED, "status": status, "error": None,
            "incomplete_details": short, "instructions": None, "max_output_tokens": self.ask.limit, "metadata": {},
            "model": self.ask.model, "output": output, "parallel_tool_calls": True, "previous_response_id": None,
            "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
            "usage": self._counted() if output else None,
        }  # fmt: skip

    def _counted(self) -> Json:
        asked, answered = self.ask.prompt_tokens(), len(self.texts[0])
        return {
            "input_tokens": asked, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answered, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + answered,
        }  # fmt: skip


class _Message(_Text):
    """/v1/messages: Anthropic's dialect; every event is named, and keep-alives are events too."""

    def opening(self) -> Events:
        begun = {**self._message([], None), "usage": {"input_tokens": self.ask.prompt_tokens(), "output_tokens": 1}}
        return [
            self._event("message_start", message=begun),
            self._event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            self.ping(),
        ]

    def token(self, position: int) -> Events:
        delta = {"type": "text_delta", "text": self.texts[0][position]}
        return [self._event("content_block_delta", index=0, delta=delta)]

    def closing(self) -> Events:
        ended = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        return [
            self._event("content_block_stop", index=0),
            self._event("message_delta", delta=ended, usage={"output_tokens": len(self.texts[0])}),
            self._event("message_stop"),
        ]

    def fault(self) -> Events:
        return [event(anthropic_error(529, "Overloaded"), "error")]

    def ping(self) -> ServerSentEvent:
        return self._event("ping")

    def whole(self) -> Json:
        counted = {"input_tokens": self.ask.prompt_tokens(), "output_tokens": len(self.texts[0])}
        content = [{"type": "text", "text": "".join(self.texts[0])}]
        return {**self._message(content, self._stop_reason()), "usage": counted}

    def refusal(self, status: int) -> Json:
        return anthropic_error(status, f"The scripted server answers {status}, as asked.")

    def _stop_reason(self) -> str:
        return "max_tokens" if self.finish == "length" else "end_turn"

    def _message(self, content: list[Json], stop_reason: str | None) -> Json:
        return {
            "id": "msg_scripted", "type": "message", "role": "assistant", "model": self.ask.model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": None,
        }  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> ServerSentEvent:
        return event({"type": kind, **fields}, kind)


_PATHS: Final[dict[str, type[_Text]]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Completion,
    "/v1/responses": _Reply,
    "/v1/messages": _Message,
}
PATHS: Final = tuple(_PATHS)


def spoken(path: str, ask: Ask, seed: int, tokens: int) -> Stream:
    """The answer to `ask` in the dialect of `path`: `tokens` long, or shorter where the client allows less.

    A path of none of the dialects raises KeyError.
    """
    dialect = _PATHS[path]
    count = tokens if ask.limit is None else min(tokens, ask.limit)
    about = ask.prompts if dialect is _Completion else ("",)
    return dialect(ask, [words(seed, count, prompt) for prompt in about], cut_short=count < tokens)
