"""Whether a request would share its call, be asked a second time, or have its usage asked for; and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sessions.batch_asks import ask_of
from sessions.flights import flight_key
from streamgate.config.spec import Model as ModelSpec
from streamgate.config.units import format_duration, format_size
from streamgate.exchange import Dialect
from streamgate.pipeline.ask import Ask
from streamgate.pipeline.metering import Metering
from streamgate.pipeline.models import ModelPlan, ModelsPlan
from streamgate.prompt import Prompt

_ADDING = frozenset({"chat", "text_completion"})
_LISTS = frozenset({b"embeddings", b"completions"})


@dataclass(frozen=True, slots=True)
class Wish:
    """A request to a model as far as sharing it goes. ``kind`` is one of ``ask.OPERATIONS``."""

    ask: Ask
    kind: bytes
    model: ModelPlan
    models: ModelsPlan
    spec: ModelSpec
    has_other: bool
    """Whether another target could be asked beside the first."""


def sharing_of(wish: Wish) -> dict[str, Any]:
    """For `batch`, `flight` and `hedge`: whether it would be, and why. Only the first that would is; a shared call has no hedge."""
    batch, why_batch = _batch(wish)
    flight, why_flight = (False, "it may share a batch") if batch else _flight(wish)
    hedge, why_hedge = (False, "its call is shared") if batch or flight else _hedge(wish)
    told = (("batch", batch, why_batch), ("flight", flight, why_flight), ("hedge", hedge, why_hedge))
    return {name: {"would": would, "because": because} for name, would, because in told}


def _batch(wish: Wish) -> tuple[bool, str]:
    settings = wish.spec.batch
    if settings is None or wish.model.sharing.batches is None:
        return False, "batch is off for this model"
    if wish.kind not in _LISTS:
        return False, "only embeddings and completions can be put together"
    size_bytes = len(wish.ask.body)
    if size_bytes > settings.max_bytes:
        return False, f"its body has {size_bytes} bytes, batch.max_bytes is {format_size(settings.max_bytes)}"
    if ask_of(b"/v1/" + wish.kind, wish.ask.body, max_items=settings.max_items, max_bytes=settings.max_bytes) is None:
        return False, "what it asks for forbids it: no or too many inputs, or n, best_of, echo, suffix or seed"
    return True, f"with others like it, after {format_duration(settings.window)} at most; at once and alone while none is under way"


def _flight(wish: Wish) -> tuple[bool, str]:
    if not wish.models.single_flight:
        return False, "single_flight is off for this route"
    if flight_key(b"/v1/" + wish.kind, wish.ask.body, "") is None:
        return False, "it is not bound to be answered the same: no temperature 0 or seed, several choices, something stored, or tools"
    return True, "with identical requests of the same caller that are under way"


def _hedge(wish: Wish) -> tuple[bool, str]:
    hedging, line = wish.model.hedging, wish.model.line
    if hedging is None:
        return False, "hedge is off for this model"
    if wish.ask.previous_response_id is not None:
        return False, "it goes on from an answer that one target alone knows"
    if not wish.has_other:
        return False, "there is no other target that could be asked now"
    if line.waiting or line.count.held > hedging.BUSY * line.count.limit:
        return False, "the model is busy"
    return True, f"after {format_duration(hedging.after_s)} without a first byte, in at most {hedging.share:.0%} of the calls"


def usage_of(wish: Wish, operation: str, dialect: Dialect, routed: str) -> tuple[dict[str, Any], bytes]:
    """Whether the usage would be asked for upstream, and why; and the body that an upstream would get."""
    ask, spec = wish.ask, wish.spec
    prompt = Prompt(spec.name, operation, stream=ask.stream)
    metering = Metering(prompt, wish.models, ask, include_usage=wish.model.include_usage, leaves_out=True)
    body = metering.body_for(routed, dialect)
    added = body != ask.with_model(routed)
    if added:
        because = "the client did not ask for it; it is taken out of the answer again"
    elif not spec.include_usage:
        because = "include_usage is off for this model"
    elif not ask.stream:
        because = "an answer in one piece tells its usage by itself"
    elif ask.wants_usage:
        because = "the client asks for it"
    elif operation not in _ADDING or dialect is not Dialect.OPENAI:
        because = "streams of this kind tell their usage by themselves"
    else:
        because = "the stream_options are for the upstream to judge"
    return {"asked_upstream": added, "because": because}, body
