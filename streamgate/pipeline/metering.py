"""What a request to a model used: asked for upstream where it takes asking, read as the answer goes by, settled once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sessions.opening import Opening
from sessions.usage import Usage, UsageTap
from sessions.usage_filter import UsageFilter, with_include_usage
from streamgate.exchange import Dialect, Exchange, Terminal
from streamgate.policies.prices import Cost

if TYPE_CHECKING:
    from sessions.opening import OnError
    from sessions.relay import Framing
    from streamgate.pipeline.ask import Ask
    from streamgate.pipeline.models import ModelsPlan
    from streamgate.prompt import Prompt

_ADDING: Final = ("chat", "text_completion")


class Passage:
    """An answer's content on its way: its opening held, its usage read, what the client did not ask for left out."""

    __slots__ = ("_filter", "_opening", "_summary", "usage")

    def __init__(self, *, opening: Opening | None, leaves_out: bool, summary: Summary | None) -> None:
        self.usage = UsageTap()
        self._opening = opening
        self._filter = UsageFilter() if leaves_out else None
        self._summary = summary

    def feed(self, data: bytes) -> bytes:
        """What may go on now. Raises what the opening's judge raises."""
        self.usage.feed(data)
        if self._opening is not None:
            data = self._opening.feed(data)
            if self._opening.over:
                self._opening = None
        return data if self._filter is None else self._filter.feed(data)

    def rest(self) -> bytes:
        """What is still to go on. An opening that nothing followed is not: nobody has been told anything yet."""
        if self._opening is not None:
            return b""
        rest = b"" if self._filter is None else self._filter.flush()
        return rest if self._summary is None else rest + self._summary.line(self.usage)


class Summary:
    """The comment that ends a stream on a route with ``summary``: what its head could not say yet."""

    __slots__ = ("_exchange", "_metering")

    def __init__(self, exchange: Exchange, metering: Metering) -> None:
        self._exchange = exchange
        self._metering = metering

    def line(self, tap: UsageTap) -> bytes:
        """One comment line, with a single line end, as every SDK survives it (see ``sessions.announcement``)."""
        exchange, prompt = self._exchange, self._exchange.prompt
        if prompt is None:
            return b""
        usage = tap.result(complete=True)
        first = exchange.first_byte_at
        said = {
            "model": prompt.model,
            "routed": prompt.routed,
            "answering": usage.model,
            "split": prompt.split,
            "service": exchange.service,
            "attempts": exchange.attempts,
            "queue_ms": round(prompt.queue_s * 1e3, 1),
            "ttft_ms": None if first is None else round((first - exchange.started_at) * 1e3, 1),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost": self._metering.cost(usage),
        }
        return b": streamgate " + msgspec.json.encode(said) + b"\n"


class Tally:
    """Who counts what one generation used that several hear: the first to have heard all of it, else the last to leave."""

    __slots__ = ("_counted", "_open", "riders")

    def __init__(self) -> None:
        self.riders = self._open = 0
        self._counted = False

    def joins(self) -> None:
        """One more hears it."""
        self.riders += 1
        self._open += 1

    def counts(self, *, complete: bool) -> bool:
        """One hears it no more: is it the one who counts it? Asked once by each."""
        self._open -= 1
        counts = not self._counted and (complete or not self._open)
        self._counted |= counts
        return counts


class Metering:
    """The meter of one request to a model. ``tally``: of a generation that others hear, too."""

    __slots__ = ("_adds", "_ask", "_body", "_first_s", "_leaves_out", "_models", "_name", "_passage", "_prompt", "_settled", "tally")

    def __init__(self, prompt: Prompt, models: ModelsPlan, ask: Ask, *, include_usage: bool, leaves_out: bool) -> None:
        """``include_usage``: ask for it where the client did not; ``leaves_out``: the answer goes to a client, so that is taken
        out of it again, and the summary is added where there is one.
        """
        self._prompt = prompt
        self._models = models
        self._ask = ask
        self._adds = include_usage and ask.stream and not ask.wants_usage and prompt.operation in _ADDING
        self._name = ""
        self._body = b""
        self._passage: Passage | None = None
        self._first_s: float | None = None
        self._leaves_out = leaves_out
        self._settled = False
        self.tally: Tally | None = None

    def body_for(self, name: str, dialect: Dialect) -> bytes:
        """The body for an upstream that knows the model by ``name``, with the usage asked for where that is ours to do."""
        if self._name != name:
            self._adds = self._adds and dialect is Dialect.OPENAI
            body = self._ask.with_model(name)
            if self._adds:
                try:
                    asked = with_include_usage(body)
                    self._adds = asked is not None
                    body = asked or body
                except ValueError:  # options that are none: the upstream will say so
                    self._adds = False
            self._name, self._body = name, body
        return self._body

    def tap(self, exchange: Exchange, framing: Framing, on_error: OnError) -> Passage:
        """What the content of one attempt's answer goes through."""
        loose = framing.chunked or framing.open  # a length that was promised leaves nothing out and adds nothing
        tells = self._models.summary and self._leaves_out and framing.watched and loose
        self._passage = Passage(
            opening=Opening(on_error) if framing.watched else None,
            leaves_out=self._adds and self._leaves_out and framing.watched and loose,
            summary=Summary(exchange, self) if tells else None,
        )
        return self._passage

    def first(self, after_s: float) -> None:
        """The first meaningful byte came this long after the request."""
        self._first_s = after_s
        self._body = b""

    def cost(self, usage: Usage) -> float | None:
        """What it costs by the configured prices; None without one."""
        charged = self._charge(usage)
        return None if charged is None else charged.amount

    def _charge(self, usage: Usage) -> Cost | None:
        prices, prompt = self._models.prices, self._prompt
        return prices.charge(prompt.routed or prompt.model, usage, prompt.service) or prices.charge(prompt.model, usage)

    def settle(self, exchange: Exchange, now: float) -> None:
        """Once, at the end: the numbers into the notes and the metrics; of a generation that several hear one counts them."""
        if self._settled:
            return
        self._settled = True
        prompt, passage = self._prompt, self._passage
        usage = Usage()
        complete = exchange.terminal is Terminal.COMPLETE
        if passage is not None:
            committed = exchange.first_byte_at is not None
            usage = passage.usage.result(complete=complete, input_bytes=self._ask.size_bytes if committed else None)
        prompt.input_tokens, prompt.output_tokens = usage.input_tokens, usage.output_tokens
        prompt.cached_tokens, prompt.estimated = usage.cached_input_tokens, usage.estimated
        prompt.answering = usage.model
        counts = self.tally is None or self.tally.counts(complete=complete)
        if self.tally is not None and self.tally.riders == 1:
            prompt.shared = None  # nobody came
        charged = self._charge(usage) if counts else None
        if charged is not None:
            prompt.cost, prompt.currency = charged
        if usage.response_id is not None and exchange.dialect is Dialect.RESPONSES and exchange.service is not None:
            self._models.answers.remember(usage.response_id, f"{exchange.service} {prompt.routed}", now)
        if counts:
            self._observe(exchange, usage, now)

    def _observe(self, exchange: Exchange, usage: Usage, now: float) -> None:
        prompt = self._prompt
        self._models.gen_ai.observe(
            operation=prompt.operation,
            requested=prompt.model,
            routed=prompt.routed or prompt.model,
            answering=usage.model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.billed_output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            estimated=usage.estimated,
            cost=prompt.cost,
            currency=prompt.currency or "USD",
            error_type="" if exchange.fault is None else exchange.fault.name,
            duration_s=now - exchange.started_at,
            first_s=self._first_s if self._ask.stream else None,
        )
