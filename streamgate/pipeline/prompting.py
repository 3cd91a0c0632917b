"""A request to a model on its way: read, given a turn, led to a target, and led on to others while nothing is committed.

It sends as every exchange does (``pipeline.upstream``); what differs is who is asked next. A target that fails before the first
meaningful token is left for another one of its split, then for the fallback splits; what may have generated already is paid for
from a budget. Its turn and its target are held until the last byte, and are reserved in the moment in which there is room, so
that nobody else can be told that there is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from routers.loads import Held, Pair
from routers.models import Candidates, UnknownModel
from routers.pools import Endpoint
from routers.splits import Choice
from sessions.patience import patience_s
from sessions.queue import Slot, Waiter
from sessions.relay import Again, Framing, Limits, Response
from sessions.seats import Seat
from streamgate.errors import (
    Fault,
    FirstByteTimeout,
    ModelNotFound,
    NoHealthyUpstream,
    NoRoute,
    Overloaded,
    Refused,
    Unreachable,
    UpstreamFault,
    UpstreamReset,
    UpstreamTruncated,
)
from streamgate.exchange import Exchange, State
from streamgate.headers import values
from streamgate.lease import Lease
from streamgate.observe.models import count
from streamgate.pipeline.announcing import Announcing
from streamgate.pipeline.ask import OPERATIONS, Ask, kind_of, sticky_key
from streamgate.pipeline.connections import Connection
from streamgate.pipeline.metering import Metering
from streamgate.pipeline.models import ModelPlan, ModelsPlan
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.upstream import Kit, Link, RequestBody, Sending
from streamgate.pipeline.whole import Whole
from streamgate.policies.cooldowns import reset_after_s
from streamgate.policies.fallback import Outcome, in_band, may_have_generated
from streamgate.policies.retries import retry_after_s
from streamgate.prompt import Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

_BAD: int = 400
_FAULTS: tuple[tuple[type[Fault], Outcome], ...] = (
    (Unreachable, "connect"),
    (UpstreamReset, "reset"),
    (FirstByteTimeout, "first_byte"),
    (UpstreamTruncated, "truncated"),
)


class Prompting(Sending):
    """One request to a model, from its body to its last byte."""

    __slots__ = (
        "_announcing",
        "_candidates",
        "_choice",
        "_given_up",
        "_held",
        "_key",
        "_metering",
        "_models",
        "_next",
        "_reserved",
        "_seat",
        "_slot",
        "_turn",
        "_wait_s",
        "ask",
        "call",
        "model",
        "rides",
    )

    def __init__(self, exchange: Exchange, plan: Plan, models: ModelsPlan, link: Link, body: RequestBody, kit: Kit) -> None:
        super().__init__(exchange, plan, models.nobody, link, body, kit)
        self._models = models
        self.ask: Ask | None = None
        self.model: ModelPlan | None = None
        self._key: str | None = None
        self._candidates: Candidates | None = None
        self._slot: Slot | None = None
        self._turn: asyncio.Future[None] | None = None
        self._choice: Choice | None = None
        self._next: Choice | None = None
        self._held: Held | None = None
        self._reserved: tuple[Endpoint, Lease] | None = None
        self._given_up: list[Pair] = []
        self._wait_s: float | None = None
        self._metering: Metering | None = None
        self._announcing: Announcing | None = None
        self._seat: Seat | None = None
        self.call: Prompting | None = None
        """Who asks in its place, where it shares a call."""
        self.rides = True
        """Whether it may share one."""

    # -- what a shared call is made of ---------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """Its route."""
        return self._plan

    @property
    def models(self) -> ModelsPlan:
        """The models of its route."""
        return self._models

    @property
    def link(self) -> Link:
        """Its client."""
        return self._link

    @property
    def kit(self) -> Kit:
        """What all exchanges of this worker share."""
        return self._kit

    @property
    def course(self) -> tuple[str, ...]:
        """The splits that may be tried, in turn."""
        model, prompt = self.model, self.exchange.prompt
        return () if model is None or prompt is None or prompt.split is None else (prompt.split, *model.model.fallback)

    @property
    def is_hedged(self) -> bool:
        """Has a second attempt been started beside the first?"""
        return self.exchange.prompt is not None and self.exchange.prompt.hedged

    def hedge(self) -> None:
        """A second attempt is started."""
        if self.exchange.prompt is not None:
            self.exchange.prompt.hedged = True

    def aboard(self, kind: str | None, call: Prompting, *, first: bool) -> None:
        """It hears from ``call``; ``first`` where its part of the usage is nobody else's too."""
        self.call = call
        if self.exchange.prompt is not None:
            self.exchange.prompt.shared = kind
        if self._metering is not None and not first:
            self._metering.count_nothing()

    def copied_exchange(self) -> Exchange:
        """The same request once more, for a call that others share; it takes its answer as it is, uncompressed."""
        mine = self.exchange
        copy = Exchange(
            method=mine.method, path=mine.path, query=mine.query, host=mine.host, http10=False, named=mine.named,
            headers=[pair for pair in mine.headers if pair[0].lower() != b"accept-encoding"], started_at=self._kit.clock.now(),
        )  # fmt: skip
        copy.dialect = mine.dialect
        copy.request_id, copy.traceparent, copy.tracestate = mine.request_id, mine.traceparent, mine.tracestate
        copy.client_address, copy.peer_address, copy.scheme = mine.client_address, mine.peer_address, mine.scheme
        return copy

    # -- stages 4 to 6 -------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read what is asked, wait for a turn, reserve a target. Raises a Fault."""
        exchange, models = self.exchange, self._models
        kind = kind_of(exchange.path)
        operation = None if kind is None else OPERATIONS[kind]
        if kind is None or operation is None or exchange.method != b"POST":
            raise NoRoute("No model is served at this path with this method; see GET /v1/models")
        self._task = asyncio.current_task()
        body = await self._link.read_whole(self._plan.limits.body_s)
        self.ask = ask = Ask(body)
        try:
            name = models.models.get(ask.model).name
        except UnknownModel as error:
            raise ModelNotFound(str(error)) from None
        self.model = model = models.plans[name]
        prompt = exchange.prompt = Prompt(name, operation, stream=ask.stream)
        model.fallbacks.deposit(self._kit.clock.now())
        prompt.tenant = models.tenants.of(exchange, {}, trusted=self._link.peer.trusted)
        self._metering = Metering(prompt, models, ask, include_usage=model.include_usage, leaves_out=self.rides)
        if self.rides:
            self._seat = model.sharing.join(
                self, b"/v1/" + kind, body, model,
                single_flight=models.single_flight, hedges=ask.previous_response_id is None,
            )  # fmt: skip
            if self._seat is not None:
                return
        found = sticky_key(exchange, ask, model.sticky)
        self._key = None if found is None else found[1]
        split = await self._split(model, prompt)
        self._candidates = Candidates(
            model.model, split, key=self._key, standing=model.standing, loads=model.loads, random=self._kit.clock.random
        )
        if ask.previous_response_id is not None:
            await self._pin(model, ask.previous_response_id)
        await self._wait_turn(model, prompt, len(body), model.ready[split])

    async def _split(self, model: ModelPlan, prompt: Prompt) -> str:
        value = None
        key, flags = model.model.flag, self._models.flags
        if key is not None and flags is not None:
            context = self._context(model, prompt)
            verdict = flags.evaluate_nowait(key, context) or await flags.decide(key, context)
            value = verdict.value
            prompt.flag, prompt.variant, prompt.reason = key, verdict.variant, verdict.reason
            model.metrics.flag(verdict.variant, verdict.reason)
        way = model.model.decide(value)
        if way.why == "unknown":
            prompt.reason = "UNKNOWN_SPLIT"
            model.metrics.flag(prompt.variant, "UNKNOWN_SPLIT")
        prompt.split = way.split
        return way.split

    def _context(self, model: ModelPlan, prompt: Prompt) -> Mapping[str, object]:
        """What a flag may be decided by: nothing of the prompt, nothing that nobody verified but the sticky key."""
        context: dict[str, object] = {"route": self._plan.route, "model": model.model.name}
        if prompt.tenant is not None:
            context["tenant"] = prompt.tenant
        if self._key is not None:
            context["targetingKey"] = self._key
        return context

    async def _pin(self, model: ModelPlan, response_id: str) -> None:
        """An answer is gone on from where it was given: nobody else knows it."""
        place = await self._models.answers.place_of(response_id, self._kit.clock.now())
        if place is None:
            return
        service, _, name = place.partition(" ")
        self._next = model.model.pinned((service, name))

    async def _wait_turn(self, model: ModelPlan, prompt: Prompt, size_bytes: int, ready: object) -> None:
        line, exchange = model.line, self.exchange
        flow = prompt.tenant or exchange.client_address if model.fair_by == "tenant" else exchange.client_address
        self._turn = turn = asyncio.get_running_loop().create_future()
        timeout = next(iter(values(exchange.headers, b"x-stainless-read-timeout")), None)
        patience = patience_s(model.max_wait_s, timeout)
        try:
            entered = line.enter(
                "" if model.fair_by == "off" else flow,
                granted=self._granted,
                refused=self._refused,
                priority=self._models.priority,
                size_bytes=size_bytes,
                patience_s=patience,
                ready=ready,  # type: ignore[arg-type]  # compiled as what the line takes
            )
        except Fault as fault:
            count(model.metrics.refusals, fault.name)
            raise
        if model.demand is not None:
            model.demand()
        if isinstance(entered, Slot):
            self._granted(entered)
            turn.result()
        else:
            await self._wait(model, entered, turn, patience)
        slot = self._slot
        prompt.queue_s = 0.0 if slot is None else slot.waited_s
        model.metrics.queue_wait.observe(prompt.queue_s)

    async def _wait(self, model: ModelPlan, waiter: Waiter, turn: asyncio.Future[None], patience: float) -> None:
        line, exchange = model.line, self.exchange
        exchange.move(State.WAITING)
        timer = asyncio.get_running_loop().call_later(patience, line.expire)
        if model.announce_s is not None and self.ask is not None and self.ask.stream:
            self._announcing = Announcing(exchange, self._link, line, waiter, model.announce_s, self._kit.clock)
        try:
            await turn
        except asyncio.CancelledError:
            line.leave(waiter)
            if model.demand is not None:
                model.demand()
            raise
        finally:
            timer.cancel()
            if self._announcing is not None:
                self._announcing.stop()

    def _granted(self, slot: Slot) -> None:
        """There is room: take it now, for who is asked next will be told that there is less."""
        self._slot = slot
        turn = self._turn
        if turn is None or turn.done():  # it has been cancelled, and has not woken up yet
            slot.release()
            return
        try:
            self._reserve()
        except Fault as fault:
            turn.set_exception(fault)
        else:
            turn.set_result(None)

    def _refused(self, fault: Refused) -> None:
        if self.model is not None:
            count(self.model.metrics.refusals, fault.name)
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(fault)

    # -- who is asked --------------------------------------------------------------------------------------------------

    def _reserve(self) -> None:
        """Choose a target and hold one of its endpoints. Raises NoHealthyUpstream, Overloaded."""
        model, candidates = self.model, self._candidates
        if model is None or candidates is None:
            raise NoHealthyUpstream
        now = self._kit.clock.now()
        choice = self._next or candidates.next(self._given_up, now)
        self._next = None
        if choice is None:
            raise Overloaded(retry_after_s=1.0) if candidates.full else NoHealthyUpstream(retry_after_s=self._soonest(now))
        service = model.services[choice.pair[0]]
        key = None if self._key is None else self._key.encode()
        endpoint = service.pool.pick(now, key, self._tried) or service.pool.pick(now, key)
        lease = None if endpoint is None else endpoint.count.take()
        if endpoint is None or lease is None:
            raise Overloaded(retry_after_s=1.0)
        self._reserved = endpoint, lease
        self._take(model, choice, service)

    def _take(self, model: ModelPlan, choice: Choice, service: ServicePlan) -> None:
        if self._held is not None:
            self._held.release()
        self._held = model.loads.take(choice.pair, self._key)
        self._choice = choice
        self._service = service
        self.relay.limit(self.limits_of(service.id))
        prompt = self.exchange.prompt
        if prompt is not None:
            prompt.split, prompt.sticky = choice.split, choice.how
            prompt.service, prompt.routed = choice.pair
        cell = choice.split, service.id, choice.how
        model.metrics.choices[cell] = model.metrics.choices.get(cell, 0) + 1

    def limits_of(self, service_id: str) -> Limits:
        """The deadlines of an attempt at a service."""
        return self._models.limits[service_id]

    def _soonest(self, now: float) -> float | None:
        model = self.model
        ends = [] if model is None else [one.until - now for one in model.cooldowns.values() if one.until > now]
        return min(ends, default=None)

    def _pick(self) -> Endpoint:
        """The endpoint to ask: the reserved one, or the next. Its lease is taken by whoever asks, in the same turn."""
        if self._reserved is None:
            self._reserve()
        endpoint, lease = self._reserved  # type: ignore[misc]  # _reserve sets it or raises
        self._reserved = None
        lease.release()
        return endpoint

    def _other_endpoint(self) -> bool:
        """Is there another endpoint of the same target that has not failed for this request?"""
        seen = self._tried if self._endpoint is None else [*self._tried, self._endpoint]
        return self._service.pool.has_other(seen)

    # -- whether to go on ----------------------------------------------------------------------------------------------

    def _after(self, fault: Fault, endpoint: Endpoint) -> float:
        """Seconds until the next attempt after a fault. Raises the fault when there is none."""
        now = self._kit.clock.now()
        outcome: Outcome | None = next((word for kind, word in _FAULTS if isinstance(fault, kind)), None)
        if isinstance(fault, UpstreamFault):
            self._service.pool.picker.observe(endpoint, max(10.0, now - self._started), now)
        if isinstance(fault, Unreachable):
            endpoint.failed(now)
        if outcome is None or not self._goes_on(outcome, now, None):
            raise fault
        return 0.0

    def _goes_on(self, outcome: Outcome, now: float, wait_s: float | None) -> bool:
        """Note what became of an attempt, and say whether another candidate is asked; it is held in ``_next`` then."""
        model, choice = self.model, self._choice
        if model is None or choice is None or self._candidates is None:
            return False
        model.cooldowns[choice.pair].failed(now, outcome, wait_s)  # type: ignore[arg-type]  # own limits do not come here
        if choice.how == "pinned":
            return False
        same = outcome != 429 and self._other_endpoint()  # noqa: PLR2004  # a quota is the account's, not the endpoint's
        if not same:
            self._given_up.append(choice.pair)
        self._next = choice if same else self._candidates.next(self._given_up, now)
        limit = self._plan.limits.total_s
        verdict = model.fallbacks.decide(
            outcome,
            now,
            attempt=self.exchange.attempts - self._stale,
            candidates_left=self._next is not None,
            generated=may_have_generated(outcome, sent=True, took_s=now - self._started),
            client_retries=self._client_retries(),
            our_credentials=bool(self._service.credentials),
            remaining_s=float("inf") if limit is None else self.exchange.started_at + limit - now,
        )
        prompt = self.exchange.prompt
        if not verdict.go_on or prompt is None:
            self._next = None
            return False
        prompt.fallbacks += 1
        count(model.metrics.fallbacks, verdict.reason)
        if verdict.duplicate:
            prompt.duplicates += 1
            count(model.metrics.duplicates, verdict.reason)
        return True

    def _client_retries(self) -> int:
        text = next(iter(values(self.exchange.headers, b"x-stainless-retry-count")), b"0").strip()
        return int(text) if text.isdigit() and len(text) < 4 else 0  # noqa: PLR2004  # nobody repeats a thousand times

    def judge(self, response: Response) -> None:
        """May this answer be given, or is another candidate to be asked? Raises Again."""
        model, choice = self.model, self._choice
        if model is None or choice is None or self.relay.limit_bytes is not None:
            return
        now, wall = self._kit.clock.now(), self._kit.clock.wall()
        asked_s = retry_after_s(response.headers, wall)
        wait_s = reset_after_s(response.headers, response.status, wall, asked_s)
        if response.status < _BAD:
            self._wait_s = wait_s
        elif self._goes_on(response.status, now, wait_s):
            raise Again(f"status_{response.status}", 0.0)
        if self._announcing is not None and not self._announcing.takes(response):
            raise UpstreamFault("The provider gave no stream", note=f"status {response.status} after an announcement")

    def in_band(self, words: tuple[object, ...]) -> None:
        """The stream begins with an error of the provider's. Raises Again where another candidate is asked instead."""
        if self._goes_on(in_band(*words), self._kit.clock.now(), None):
            raise Again("in_band", 0.0)

    # -- what the relay asks -------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Attempt until the answer has been delivered; or hear it from the call that is shared."""
        seat = self._seat
        if seat is None:
            await super().send()
            return
        self.relay.limit(replace(self._plan.limits, first_byte_s=None, idle_s=None, total_s=None))  # the call has its own
        done = self.relay.begin(seat, uploading=False)
        seat.ride(self.relay)
        await done

    def _heard(self, call: Prompting) -> None:
        """Who was asked, and how, is the shared call's to know."""
        exchange, theirs, mine = self.exchange, call.exchange.prompt, self.exchange.prompt
        exchange.service, exchange.endpoint, exchange.attempts = call.exchange.service, call.exchange.endpoint, call.exchange.attempts
        if theirs is None or mine is None:
            return
        for name in ("split", "sticky", "service", "routed", "flag", "variant", "reason", "queue_s", "fallbacks", "duplicates"):
            setattr(mine, name, getattr(theirs, name))

    def _over(self, connection: Connection, endpoint: Endpoint) -> asyncio.Future[None]:
        ask, choice, metering = self.ask, self._choice, self._metering
        if ask is not None and choice is not None and metering is not None:
            self._body = Whole(metering.body_for(choice.pair[1], self.exchange.dialect))
        return super()._over(connection, endpoint)

    def compose(self, response: Response) -> Framing:
        """Our head and framing, with the taps that metering needs."""
        if self.call is not None:
            self._heard(self.call)
        framing = super().compose(response)
        if self._announcing is not None and self._announcing.begun:
            framing = self._announcing.framing(framing)
        if self._metering is not None:
            self.relay.tap(self._metering.tap(self.exchange, framing, self.in_band))
        return framing

    def first(self, after_s: float, *, stream: bool) -> None:
        """The first token is here: the target answers."""
        super().first(after_s, stream=stream)
        model, choice = self.model, self._choice
        if model is not None and choice is not None:
            now = self._kit.clock.now()
            model.cooldowns[choice.pair].succeeded(now, self._wait_s)
        if self._metering is not None:
            self._metering.first(after_s)

    def release(self) -> None:
        """Settle what was used, then give everything back; the turn last, for it serves the next at once."""
        self.settle_usage()
        super().release()
        if self._reserved is not None:
            self._reserved[1].release()
        if self._held is not None:
            self._held.release()
        if self._slot is not None:
            self._slot.release()
            if self.model is not None and self.model.demand is not None:
                self.model.demand()

    def settle_usage(self) -> None:
        """Once, at the end: what it used, into its notes and the metrics."""
        if self._metering is not None:
            self._metering.settle(self.exchange, self._kit.clock.now())

    def break_off(self, fault: Fault) -> bool:
        """Tell a fault in band where the stream has been opened by announcements. False where it has not."""
        return self._announcing is not None and self._announcing.break_off(fault)
