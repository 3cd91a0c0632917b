"""Who is asked for one request to a model, and who next, while nothing is committed.

Decisions are ``routers.models``', ``policies.cooldowns``' and ``policies.fallback``'s; here they are put in their order, and what
they hold is held: a place at the target, a lease of its endpoint, the right to find out whether a broken one is well again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from routers.loads import Held, Pair
from routers.models import Candidates
from routers.pools import Endpoint
from routers.splits import Choice
from streamgate.clock import Clock
from streamgate.errors import NoHealthyUpstream, Overloaded
from streamgate.lease import Lease
from streamgate.observe.models import count
from streamgate.pipeline.models import ModelPlan
from streamgate.pipeline.plan import ServicePlan
from streamgate.policies.fallback import Outcome, may_have_generated
from streamgate.prompt import Prompt

_RATE_LIMITED: Final = 429


class Course:
    """One request's way through a model's targets."""

    __slots__ = (
        *("_clock", "_failed", "_given_up", "_held", "_key", "_model", "_next", "_probe", "_prompt", "_reserved"),
        *("candidates", "choice"),
    )

    def __init__(self, model: ModelPlan, prompt: Prompt, *, split: str, key: str | None, clock: Clock) -> None:
        """Begin with ``split``; ``key`` is what sticks."""
        self._model = model
        self._prompt = prompt
        self._key = key
        self._clock = clock
        self._given_up: list[Pair] = []
        self._next: Choice | None = None
        self._held: Held | None = None
        self._probe: Lease | None = None
        self._reserved: tuple[Endpoint, Lease] | None = None
        self._failed = False
        self.choice: Choice | None = None
        """Who is asked now."""
        self.candidates = Candidates(
            model.model, split, key=key, standing=model.standing, loads=model.loads, random=clock.random
        )  # fmt: skip

    def pin(self, pair: Pair) -> None:
        """Ask this one: nobody else can answer. Nothing where it is no target of the model any more."""
        self._next = self._model.model.pinned(pair)

    def avoid(self, pairs: Iterable[Pair]) -> None:
        """Ask none of these."""
        self._given_up.extend(pairs)

    def has_other(self, pair: Pair) -> bool:
        """Is there another target that could be asked now?"""
        now, standing, model = self._clock.now(), self._model.standing, self._model.model
        names = (self._prompt.split or model.default, *model.fallback)
        others = {one for name in names for one in model.splits[name].pairs} - {pair}
        return any(standing.has_room(one) and standing.cools_until(one) <= now for one in others)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def reserve(self, tried: Sequence[Endpoint]) -> ServicePlan:
        """Choose a target and hold one of its endpoints, other than those ``tried`` where there are. Raises NoHealthyUpstream,
        Overloaded.
        """
        model, now = self._model, self._clock.now()
        choice = self._next or self.candidates.next(self._given_up, now)
        self._next = None
        if choice is None:
            raise Overloaded(retry_after_s=1.0) if self.candidates.full else NoHealthyUpstream(retry_after_s=self._soonest(now))
        if choice.how == "cooling":
            self._release_probe()
            self._probe = model.cooldowns[choice.pair].probe(now)
            if self._probe is None:
                raise NoHealthyUpstream(retry_after_s=self._soonest(now))
        service = model.services[choice.pair[0]]
        key = None if self._key is None else self._key.encode()
        endpoint = service.pool.pick(now, key, tried) or service.pool.pick(now, key)
        lease = None if endpoint is None else endpoint.count.take()
        if endpoint is None or lease is None:
            raise Overloaded(retry_after_s=1.0)
        self._reserved = endpoint, lease
        self._take(choice)
        return service

    def _take(self, choice: Choice) -> None:
        model, prompt = self._model, self._prompt
        if self._held is not None:
            self._held.release()
        self._held = model.loads.take(choice.pair, self._key)
        self._failed = False
        self.choice = choice
        prompt.split, prompt.sticky = choice.split, choice.how
        prompt.service, prompt.routed = choice.pair
        cell = choice.split, choice.pair[0], choice.how
        model.metrics.choices[cell] = model.metrics.choices.get(cell, 0) + 1

    def _soonest(self, now: float) -> float | None:
        """When the first of the targets has cooled down."""
        return min((one.until - now for one in self._model.cooldowns.values() if one.until > now), default=None)

    def endpoint(self) -> Endpoint | None:
        """The reserved endpoint; its lease is given back, to be taken by whoever asks, in the same turn of the loop."""
        if self._reserved is None:
            return None
        endpoint, lease = self._reserved
        self._reserved = None
        lease.release()
        return endpoint

    # -- what became of it ---------------------------------------------------------------------------------------------

    def answered(self, wait_s: float | None) -> None:
        """The target has begun to answer; ``wait_s`` is what it asked for, if it was its last answer for a while.

        An error is no sign of health: where nobody else could be asked and it is given, it was noted as it came.
        """
        self._release_probe()
        if self.choice is not None and not self._failed:
            self._model.cooldowns[self.choice.pair].succeeded(self._clock.now(), wait_s)

    def goes_on(  # noqa: PLR0913  # the facts of one attempt
        self, outcome: Outcome, *, attempt: int, took_s: float, other_endpoint: bool, wait_s: float | None = None,
        client_retries: int = 0, our_credentials: bool = False, remaining_s: float = float("inf"),
    ) -> bool:  # fmt: skip
        """Note how an attempt failed, and say whether another candidate is asked; it is who ``reserve`` chooses then.

        ``other_endpoint``: the same target has one that has not failed for this request.
        """
        choice, model, now = self.choice, self._model, self._clock.now()
        if choice is None:
            return False
        self._release_probe()
        self._failed = True
        model.cooldowns[choice.pair].failed(now, outcome, wait_s)  # type: ignore[arg-type]  # own limits do not come here
        if choice.how == "pinned":
            return False
        same = other_endpoint and outcome != _RATE_LIMITED  # a quota is the account's, not the endpoint's
        if not same:
            self._given_up.append(choice.pair)
        candidate = choice if same else self.candidates.next(self._given_up, now)
        verdict = model.fallbacks.decide(
            outcome,
            now,
            attempt=attempt,
            candidates_left=candidate is not None,
            generated=may_have_generated(outcome, sent=True, took_s=took_s),
            client_retries=client_retries,
            our_credentials=our_credentials,
            remaining_s=remaining_s,
        )
        if not verdict.go_on:
            return False
        self._next = candidate
        self._prompt.fallbacks += 1
        count(model.metrics.fallbacks, verdict.reason)
        if verdict.duplicate:
            self._prompt.duplicates += 1
            count(model.metrics.duplicates, verdict.reason)
        return True

    def _release_probe(self) -> None:
        if self._probe is not None:
            self._probe.release()
            self._probe = None

    def release(self) -> None:
        """Give back what is held; harmless when nothing is."""
        self._release_probe()
        if self._reserved is not None:
            self._reserved[1].release()
        if self._held is not None:
            self._held.release()
