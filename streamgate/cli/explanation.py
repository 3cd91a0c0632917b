"""What would happen to one request with a configuration that nobody serves by yet: nothing connects but to a flag service; endpoints
count as idle and reachable, nothing cools down and nobody waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from routers.flags import Flags
from routers.pools import Picker
from streamgate.catalogue import FLAGS
from streamgate.clock import SystemClock
from streamgate.config.load import Loaded
from streamgate.config.spec_flags import Flags as FlagsSpec
from streamgate.edge.explanation import Scene
from streamgate.edge.explanation import explained as explained_in
from streamgate.kept import Kept
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.metrics import Metrics
from streamgate.observe.models import ModelsMetrics
from streamgate.pipeline.build import Builder
from streamgate.pipeline.build_models import Around
from streamgate.pipeline.explaining.asked import Asked
from streamgate.stores.answers import Answers
from streamgate.tasks import Tasks

_PSEUDONYM: Final = b"streamgate"

Pickers = Mapping[str, Callable[[Callable[[], float]], Picker]]


async def explained(loaded: Loaded, asked: Asked, pickers: Pickers) -> dict[str, Any]:
    """Everything there is to say, ready for JSON (see ``edge.explanation``). Flags are opened, asked and closed."""
    clock = SystemClock()
    opened: list[Flags] = []

    def flags(spec: FlagsSpec) -> tuple[Flags, Callable[[], None]]:
        found = FLAGS[spec.provider](spec, clock.now, lambda _problem: None)  # the explanation tells what is wrong with them
        opened.append(found)
        return found, lambda: None

    around = Around(
        clock=clock, cells=ModelsMetrics(), gen_ai=GenAi(), answers=Answers(tasks=Tasks(lambda _name, _error: None)), share=None,
        flags=flags,
    )  # fmt: skip
    try:
        built = Builder(kept=Kept(), metrics=Metrics(), clock=clock, pickers=pickers, around=around).build(loaded.spec)
        return await explained_in(asked, Scene(loaded.spec, built, clock, _PSEUDONYM, is_live=False))
    finally:
        for one in opened:
            await one.close()
