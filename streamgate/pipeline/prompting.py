"""A request to a model on its way: read, given a turn, led to a target, and led on to others while nothing is committed.

It sends as every exchange does (``pipeline.upstream``); what differs is who is asked (``pipeline.course``), when (``pipeline.turn``),
and what is read of the answer (``pipeline.metering``). Its turn and its target are held until the last byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from routers.models import UnknownModel
from routers.pools import Endpoint
from sessions.relay import Again, Framing, Limits, Response
from sessions.seats import Seat
from streamgate.errors import (
    Fault,
    FirstByteTimeout,
    ModelNotFound,
    NoRoute,
    Unreachable,
    UpstreamFault,
    UpstreamReset,
    UpstreamTruncated,
)
from streamgate.exchange import Exchange
from streamgate.headers import values
from streamgate.pipeline.announcing import NoStream
from streamgate.pipeline.ask import OPERATIONS, Ask, kind_of, sticky_key
from streamgate.pipeline.connections import Connection
from streamgate.pipeline.course import Course
from streamgate.pipeline.metering import Metering, Tally
from streamgate.pipeline.models import ModelPlan, ModelsPlan
from streamgate.pipeline.plan import Plan
from streamgate.pipeline.turn import Turn
from streamgate.pipeline.upstream import FAILURE_S, Kit, Link, RequestBody, Sending
from streamgate.pipeline.whole import Whole
from streamgate.policies.cooldowns import reset_after_s
from streamgate.policies.fallback import Outcome, in_band
from streamgate.policies.retries import retry_after_s
from streamgate.prompt import Prompt

_BAD: Final = 400
_RETRIES_MAX: Final = 1_000
_SENT: Final = Whole(b"")
_FAULTS: Final[tuple[tuple[type[Fault], Outcome], ...]] = (
    (Unreachable, "connect"),
    (UpstreamReset, "reset"),
    (FirstByteTimeout, "first_byte"),
    (UpstreamTruncated, "truncated"),
)
_HEARD: Final = ("split", "sticky", "service", "routed", "flag", "variant", "reason", "queue_s", "fallbacks", "duplicates")


class Prompting(Sending):
    """One request to a model, from its body to its last byte.

    ``rides``: it may share a call; ``call`` is then who asks in its place, and it hears the answer in its seat.
    """

    __slots__ = ("_metering", "_seat", "_turn", "_wait_s", "ask", "call", "course", "model", "models", "rides")

    def __init__(self, exchange: Exchange, plan: Plan, models: ModelsPlan, link: Link, body: RequestBody, kit: Kit) -> None:
        super().__init__(exchange, plan, models.nobody, link, body, kit)
        self.models = models
        self.ask: Ask | None = None
        self.model: ModelPlan | None = None
        self.course: Course | None = None
        self.call: Prompting | None = None
        self.rides = True
        self._turn: Turn | None = None
        self._metering: Metering | None = None
        self._seat: Seat | None = None
        self._wait_s: float | None = None

    # -- stages 4 to 6 -------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read what is asked, wait for a turn, reserve a target. Raises a Fault."""
        exchange, models, clock = self.exchange, self.models, self.kit.clock
        kind = kind_of(exchange.path)
        if kind is None or exchange.method != b"POST":
            raise NoRoute("No model is served at this path with this method; see GET /v1/models")
        self._task = asyncio.current_task()
        self.ask = ask = Ask(await self.link.read_whole(self.plan.limits.body_s))
        self.model = model = self._named(ask.model)
        prompt = exchange.prompt = Prompt(model.model.name, OPERATIONS[kind], stream=ask.stream)
        prompt.tenant = models.tenants.of(exchange, {}, trusted=self.link.peer.trusted)
        self._metering = Metering(prompt, models, ask, include_usage=model.include_usage, leaves_out=self.rides)
        if self.rides:
            self._seat = model.sharing.join(self, b"/v1/" + kind, ask, model, single_flight=models.single_flight)
            if self._seat is not None:
                return
        model.fallbacks.deposit(clock.now())
        found = sticky_key(exchange, ask, model.sticky)
        key = None if found is None else found[1]
        split = prompt.split = await self._split(model, prompt, key)
        self.course = course = Course(model, prompt, split=split, key=key, clock=clock)
        self.steer(course)
        if ask.previous_response_id is not None:
            place = await models.answers.place_of(ask.previous_response_id, clock.now())
            service, _, name = (place or "").partition(" ")
            course.pin((service, name))
        self._turn = Turn(exchange, self.link, model, self._reserve, clock)
        await self._turn.wait(
            prompt, priority=models.priority, size_bytes=ask.size_bytes, ready=model.ready[split],
            announces=ask.stream and self.rides,
        )  # fmt: skip

    def _named(self, name: str) -> ModelPlan:
        try:
            return self.models.plans[self.models.models.get(name).name]
        except UnknownModel as error:
            raise ModelNotFound(str(error)) from None

    async def _split(self, model: ModelPlan, prompt: Prompt, key: str | None) -> str:
        value = None
        flag, flags = model.model.flag, self.models.flags
        if flag is not None and flags is not None:
            context = self._context(model, prompt, key)
            verdict = flags.evaluate_nowait(flag, context) or await flags.decide(flag, context)
            value = verdict.value
            prompt.flag, prompt.variant, prompt.reason = flag, verdict.variant, verdict.reason
            model.metrics.flag(verdict.variant, verdict.reason)
        way = model.model.decide(value)
        if way.why == "unknown":
            prompt.reason = "UNKNOWN_SPLIT"
            model.metrics.flag(prompt.variant, "UNKNOWN_SPLIT")
        return way.split

    def _context(self, model: ModelPlan, prompt: Prompt, key: str | None) -> Mapping[str, object]:
        """What a flag may be decided by: nothing of the prompt, nothing that nobody verified but the sticky key."""
        context: dict[str, object] = {"route": self.plan.route, "model": model.model.name}
        if prompt.tenant is not None:
            context["tenant"] = prompt.tenant
        if key is not None:
            context["targetingKey"] = key
        return context

    def steer(self, course: Course) -> None:
        """Say something about the course before it begins; a call of the gateway's own does."""

    def _reserve(self) -> None:
        if self.course is not None:
            self._service = service = self.course.reserve(self._tried)
            self.relay.limit(self.limits_of(service.id))

    def limits_of(self, service_id: str) -> Limits:
        """The deadlines of an attempt at a service."""
        return self.models.limits[service_id]

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Attempt until the answer has been delivered; or hear it from the call that is shared."""
        seat = self._seat
        if seat is None:
            await super().send()
            return
        self.relay.limit(replace(self.plan.limits, first_byte_s=None, idle_s=None, total_s=None))  # the call has its own
        done = self.relay.begin(seat, uploading=False)
        seat.ride(self.relay)
        await done

    def _pick(self) -> Endpoint:
        endpoint = None if self.course is None else self.course.endpoint()
        if endpoint is None:
            left = self._service
            self._reserve()
            left.pump()  # only now, or who waits for what was given up could be granted what is gone on to
            return self._pick()
        return endpoint

    def _over(self, connection: Connection, endpoint: Endpoint) -> asyncio.Future[None]:
        choice, metering = None if self.course is None else self.course.choice, self._metering
        if choice is not None and metering is not None:
            self._body = Whole(metering.body_for(choice.pair[1], self.exchange.dialect))
        return super()._over(connection, endpoint)

    def _after(self, fault: Fault, endpoint: Endpoint) -> float:
        """Seconds until the next attempt after a fault. Raises the fault when there is none."""
        now = self.kit.clock.now()
        outcome = next((word for kind, word in _FAULTS if isinstance(fault, kind)), None)
        if type(fault) is UpstreamFault:  # the connection was reset in the opening of a stream
            outcome = "truncated"
        if isinstance(fault, UpstreamFault):
            self._service.pool.picker.observe(endpoint, max(FAILURE_S, now - self._started), now)
        if isinstance(fault, Unreachable):
            endpoint.failed(now)
        if outcome is None or not self._goes_on(outcome, None):
            raise fault
        return 0.0

    def _goes_on(self, outcome: Outcome, wait_s: float | None) -> bool:
        """Is another candidate asked after an attempt that ended so?"""
        if self.course is None:
            return False
        now, limit = self.kit.clock.now(), self.plan.limits.total_s
        seen = self._tried if self._endpoint is None else [*self._tried, self._endpoint]
        return self.course.goes_on(
            outcome,
            wait_s=wait_s,
            attempt=self.exchange.attempts - self._stale,
            took_s=now - self._started,
            other_endpoint=self._service.pool.has_other(seen),
            client_retries=self._client_retries(),
            our_credentials=bool(self._service.credentials),
            remaining_s=float("inf") if limit is None else self.exchange.started_at + limit - now,
        )

    def _client_retries(self) -> int:
        text = next(iter(values(self.exchange.headers, b"x-stainless-retry-count")), b"0").strip()
        return min(int(text), _RETRIES_MAX) if text.isdigit() and len(text) < 20 else 0  # noqa: PLR2004  # no number of anything

    def judge(self, response: Response) -> None:
        """May this answer be given, or is another candidate to be asked? Raises Again."""
        if self.course is None or self.relay.limit_bytes is not None:
            return
        wall = self.kit.clock.wall()
        wait_s = reset_after_s(response.headers, response.status, wall, retry_after_s(response.headers, wall))
        if response.status < _BAD:
            self._wait_s = wait_s
        elif self._goes_on(response.status, wait_s):
            raise Again(f"status_{response.status}", 0.0)
        announcing = None if self._turn is None else self._turn.announcing
        if announcing is not None and not announcing.takes(response):
            raise NoStream("The provider gave no stream", note=f"status {response.status} after an announcement")

    def in_band(self, words: tuple[object, ...]) -> None:
        """The stream begins with an error of the provider's. Raises Again where another candidate is asked instead."""
        if self._goes_on(in_band(*words), None):
            raise Again("in_band", 0.0)

    # -- the answer ----------------------------------------------------------------------------------------------------

    def compose(self, response: Response) -> Framing:
        """Our head and framing, with the taps that metering needs."""
        if self.call is not None:
            self._heard(self.call)
        framing = super().compose(response)
        announcing = None if self._turn is None else self._turn.announcing
        if announcing is not None:
            framing = announcing.framing(framing)
        if self._metering is not None:
            self.relay.tap(self._metering.tap(self.exchange, framing, self.in_band))
        return framing

    def first(self, after_s: float, *, stream: bool) -> None:
        """The first token is here: the target answers, and nobody else will be asked."""
        if self.ask is not None:
            self.ask.forget()
            self._body = _SENT
        super().first(after_s, stream=stream)
        if self.course is not None:
            self.course.answered(self._wait_s)
        if self._metering is not None:
            self._metering.first(after_s)

    def aboard(self, kind: str | None, call: Prompting, tally: Tally | None = None) -> None:
        """It hears from ``call``; ``tally`` where all of it is others' as well."""
        self.call = call
        if self.exchange.prompt is not None:
            self.exchange.prompt.shared = kind
        if self._metering is not None:
            self._metering.tally = tally

    def _heard(self, call: Prompting) -> None:
        """Who was asked, and how, is the shared call's to know."""
        mine, theirs = self.exchange, call.exchange
        mine.service, mine.endpoint, mine.attempts = theirs.service, theirs.endpoint, theirs.attempts
        if mine.prompt is not None and theirs.prompt is not None:
            for name in _HEARD:
                setattr(mine.prompt, name, getattr(theirs.prompt, name))

    # -- the end -------------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Give everything back, the turn last, for it serves the next at once; then settle what was used."""
        super().release()
        if self.course is not None:
            self.course.release()
        if self._turn is not None:
            self._turn.release()
        if self.call is not None:
            self._heard(self.call)
        self.settle_usage()

    def settle_usage(self) -> None:
        """Once, at the end: what it used, into its notes and the metrics."""
        if self._metering is not None:
            self._metering.settle(self.exchange, self.kit.clock.now())

    def break_off(self, fault: Fault) -> bool:
        """Tell a fault in band where the stream has been opened by announcements. False where it has not."""
        announcing = None if self._turn is None else self._turn.announcing
        return announcing is not None and announcing.break_off(fault)
