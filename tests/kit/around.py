"""What models are built with, in a test: nothing is shared, flags are what the test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from routers.flags import Flags, FlagsStatistics, Verdict
from streamgate.clock import Clock
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.models import ModelsMetrics
from streamgate.pipeline.build_models import Around
from streamgate.stores.answers import Answers
from streamgate.tasks import Tasks


@dataclass
class SetFlags:
    """Flags by key; what is not set has no value. ``asked`` holds every question."""

    values: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict:
        """At once."""
        self.asked.append((key, context))
        value = self.values.get(key)
        return Verdict(key, value, value, "ERROR" if value is None else "STATIC", "FLAG_NOT_FOUND" if value is None else None)

    async def decide(self, key: str, context: Mapping[str, object]) -> Verdict:
        """The same."""
        return self.evaluate_nowait(key, context)

    def statistics(self) -> FlagsStatistics:
        """How many are set."""
        return FlagsStatistics("flagd", True, len(self.values), 0, 0, None)

    async def close(self) -> None:
        """Nothing runs."""


def around(clock: Clock, flags: Flags | None = None) -> Around:
    """Everything a builder needs for models, of one process alone."""
    opened = flags or SetFlags()
    return Around(
        clock=clock,
        cells=ModelsMetrics(),
        gen_ai=GenAi(),
        answers=Answers(tasks=Tasks(lambda _name, error: print(error))),
        share=None,
        flags=lambda _spec: (opened, lambda: None),
    )
