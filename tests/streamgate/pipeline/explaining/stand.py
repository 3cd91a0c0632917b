"""Models with everything they stand on in the test's hands: flags, a clock, the loads and cooldowns of their targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from streamgate.catalogue import PICKERS
from streamgate.config.spec import Spec
from streamgate.edge.explanation import Scene, explained
from streamgate.kept import Kept
from streamgate.observe.metrics import Metrics
from streamgate.pipeline.build import Builder
from streamgate.pipeline.explaining.asked import asked_for
from streamgate.pipeline.models import ModelPlan
from tests.kit.around import SetFlags, around
from tests.kit.clock import ManualClock

CHAT = "/v1/chat/completions"
SPLITS = {"stable": [{"service": "a", "model": "up"}], "canary": [{"service": "a", "weight": 3}, {"service": "b", "model": "up-b"}]}


class _Slots:
    """This worker's part of a shared capacity; nothing moves it."""

    def __init__(self, tell: Callable[[int | None], None], slots: int) -> None:
        tell(slots)

    def demand(self, held: int, waiting: int) -> None:
        """Asked for in vain."""

    def resize(self, limit: int) -> None:
        """The same."""


class Stand:
    """The model ``tutor`` with the flag ``f`` over the services a, b and c; ``model`` is laid over it, ``services`` over each, ``top``
    over the configuration. ``slots``: so many of a capacity that all workers share are this one's.
    """

    def __init__(
        self, *, services: Mapping[str, Mapping[str, Any]] | None = None, route: Mapping[str, Any] | None = None,
        top: Mapping[str, Any] | None = None, slots: int | None = None, **model: Any,
    ) -> None:  # fmt: skip
        self.clock = ManualClock()
        self.flags = SetFlags()
        self.around = around(self.clock, self.flags)
        if slots is not None:
            self.around = replace(self.around, share=lambda _name, _limit, tell: (_Slots(tell, slots), lambda: None))
        self.metrics = Metrics()
        over = services or {}
        self.spec = Spec.model_validate(
            {
                "flags": {"provider": "flagd", "file": "/flags.json"},
                "services": [{"id": one, "url": f"http://{one}.example", **over.get(one, {})} for one in "abc"],
                "models": [{"name": "tutor", "flag": "f", "default": "stable", "splits": SPLITS, **model}],
                "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}, **(route or {})}],
                **(top or {}),
            }
        )
        builder = Builder(kept=Kept(), metrics=self.metrics, clock=self.clock, pickers=PICKERS, around=self.around)
        self.built = builder.build(self.spec)
        self.scene = Scene(self.spec, self.built, self.clock, b"gate", is_live=True)

    @property
    def model(self) -> ModelPlan:
        """The plan of ``tutor``."""
        return self.built.models["tutor"]

    def cool(self, *pair: str, for_s: float = 30.0) -> None:
        """Let a target ask to be left alone."""
        self.model.cooldowns[pair[0], pair[1]].failed(self.clock.now(), 429, for_s)

    async def explain(
        self, body: Any = None, *headers: tuple[str, str], path: str = CHAT, method: str = "POST", client: str = "192.0.2.1"
    ) -> dict[str, Any]:
        """What is told of a request; a mapping as ``body`` is one for ``tutor``."""
        raw = json.dumps({"model": "tutor", "messages": [], **body}).encode() if isinstance(body, Mapping) else body
        found = await explained(asked_for(method, path, headers, host="gate.example", client=client, body=raw), self.scene)
        assert json.dumps(found), "it can be told as JSON"
        return found

    async def told(self, body: Any = None, *headers: tuple[str, str], **more: Any) -> dict[str, Any]:
        """The part about the model."""
        found = await self.explain(body or {}, *headers, **more)
        model: dict[str, Any] = found["model"]
        return model
