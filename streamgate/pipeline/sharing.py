"""One upstream call for several requests: batches of small ones, single flights of identical ones; or several for one.

A call sends as any request to a model does (``pipeline.prompting``), with nobody's connection: what comes goes to a row of seats.
A request that shares a call waits in its seat, which is to its relay what an upstream connection is to another's; so its deadlines
for a slow reader, its cancelling and its ending are those of every stream. Whose last rider has left is cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from sessions.flights import Flights, flight_key
from sessions.seats import Seat
from streamgate.exchange import Exchange
from streamgate.pipeline.batching import Batching
from streamgate.pipeline.calls import Call
from streamgate.pipeline.deck import Deck
from streamgate.pipeline.hedged import Race

if TYPE_CHECKING:
    from sessions.batch import Batches
    from streamgate.observe.models import ModelMetrics
    from streamgate.pipeline.ask import Ask
    from streamgate.pipeline.models import ModelPlan
    from streamgate.pipeline.prompting import Prompting

_PRINCIPAL: Final = frozenset(
    (b"authorization", b"x-api-key", b"api-key", b"cookie", b"accept-encoding", b"openai-organization", b"openai-project",
     b"anthropic-version", b"anthropic-beta", b"accept")
)  # fmt: skip
"""What a client says that decides, beside the body, what it is answered and on whose account."""


def principal_of(exchange: Exchange, sticky: Iterable[str] = ()) -> str:
    """Who asks, as far as sharing an answer goes: never told to anybody, only compared.

    ``sticky`` are a model's sources of sticky keys: what is read from a header may lead to another target. (What is read from the
    body must be the same anyway, or stands in what is asked, and cookies are the principal's own.)
    """
    names = _PRINCIPAL | {one.removeprefix("header:").encode("latin-1") for one in sticky if one.startswith("header:")}
    said = sorted((name.lower(), value) for name, value in exchange.headers if name.lower() in names)
    tenant = "" if exchange.prompt is None or exchange.prompt.tenant is None else exchange.prompt.tenant
    query = (exchange.query or b"").decode("latin-1")
    return "\n".join([tenant, query, *(f"{name.decode('latin-1')}:{value.decode('latin-1')}" for name, value in said)])


class Sharing:
    """The calls of one model that are shared now."""

    __slots__ = ("_batching", "_metrics", "flights")

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._batching: Batching | None = None
        self.flights = Flights()

    @property
    def batches(self) -> Batches | None:
        """The batches of the present setting; None where nothing is batched."""
        return None if self._batching is None else self._batching.batches

    def follow(self, *, window_s: float | None, max_items: int, max_bytes: int, adds_usage: bool) -> None:
        """Hold to these settings from now on; ``window_s`` None batches nothing. Who is in a batch already stays in it."""
        if window_s is None or max_items < 2:  # noqa: PLR2004  # two make a batch
            self._batching = None
        elif self._batching is None or self._batching.settings != (window_s, max_items, max_bytes, adds_usage):
            self._batching = Batching(
                self._metrics, window_s=window_s, max_items=max_items, max_bytes=max_bytes, adds_usage=adds_usage
            )  # fmt: skip

    def join(
        self, prompting: Prompting, path: bytes, asked: Ask, model: ModelPlan, *, single_flight: bool
    ) -> Seat | None:
        """A seat in a call that others share or may share; None where this request goes by itself."""
        if self._batching is None and model.hedging is None and not single_flight:
            return None
        body = asked.body
        principal = f"{prompting.plan.route}\n{principal_of(prompting.exchange, [source for source, _ in model.sticky])}"
        seat = None if self._batching is None else self._batching.join(prompting, path, body, principal)
        if seat is not None:
            return seat
        key = flight_key(path, body, principal) if single_flight else None
        if key is not None:
            return self._fly(prompting, key, body)
        if model.hedging is None or asked.previous_response_id is not None:
            return None
        return Race(prompting, body, model, model.hedging).seat

    def _fly(self, prompting: Prompting, key: bytes, body: bytes) -> Seat:
        flight, seat = self.flights.join(key)
        self._metrics.share("flight", "requests")
        if seat.first:
            self._metrics.share("flight", "calls")
            call = Call(prompting, Deck(prompting.link, body), flight)  # type: ignore[arg-type]  # a flight is a row
            flight.source = call
            call.flying = prompting.kit.tasks.spawn(call.fly(), name="flight")
        call = cast("Call", flight.source)  # whoever was first has set it
        call.tally.joins()
        prompting.aboard("flight", call, call.tally)
        return seat
