"""The metrics of models: how requests were chosen for, how they waited, what was tried again and what was shared.

Cells are plain integers, as in ``streamgate.observe.metrics``; labels are names out of the configuration and words of this house,
never a client's. A flag's variant is a name out of the flag file: at most ``VARIANTS_MAX`` of them are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from streamgate.observe.metrics import SECONDS, Family, Histogram, Sample

VARIANTS_MAX: Final = 50
OTHER: Final = "other"


class ModelMetrics:
    """The cells of one model. ``depth`` is asked at a scrape: how many wait now."""

    __slots__ = ("choices", "depth", "duplicates", "fallbacks", "flags", "hedges", "queue_wait", "refusals", "shared")

    def __init__(self) -> None:
        self.queue_wait = Histogram(SECONDS)
        self.depth: Callable[[], int] = int
        self.refusals: dict[str, int] = {}
        self.choices: dict[tuple[str, str, str], int] = {}
        self.flags: dict[tuple[str, str], int] = {}
        self.fallbacks: dict[str, int] = {}
        self.duplicates: dict[str, int] = {}
        self.hedges: dict[str, int] = {}
        self.shared: dict[tuple[str, str], int] = {}

    def share(self, kind: str, what: str) -> None:
        """Count a request that shares a call, or a call that is shared."""
        self.shared[kind, what] = self.shared.get((kind, what), 0) + 1

    def flag(self, variant: str | None, reason: str) -> None:
        """Count one evaluation."""
        key = (variant or "", reason)
        if key not in self.flags and len(self.flags) >= VARIANTS_MAX:
            key = (OTHER, reason)
        self.flags[key] = self.flags.get(key, 0) + 1


def count(cells: dict[str, int], key: str) -> None:
    """Add one to a cell."""
    cells[key] = cells.get(key, 0) + 1


_PLAIN: Final = (
    ("queue_refused", "refusals", "reason", "Requests that were not let wait, or waited in vain."),
    ("fallbacks", "fallbacks", "reason", "Attempts given up before the first byte for another target, by why."),
    ("duplicate_generations", "duplicates", "reason", "Attempts given up that may have generated something already."),
    ("hedges", "hedges", "outcome", "Second attempts beside a slow first one, by who won."),
)


class ModelsMetrics:
    """The cells of every model of one worker."""

    def __init__(self) -> None:
        self._models: dict[str, ModelMetrics] = {}

    def model(self, name: str) -> ModelMetrics:
        """The cells of a model, which survive a reload."""
        cells = self._models.get(name)
        if cells is None:
            cells = self._models[name] = ModelMetrics()
        return cells

    def retain(self, names: Iterable[str]) -> None:
        """Forget the series of models that are configured no more."""
        kept = set(names)
        self._models = {name: cells for name, cells in self._models.items() if name in kept}

    def families(self) -> Iterator[Family]:
        """Every series, as plain data."""
        models = self._models.items()
        depth = [Sample((name,), cells.depth()) for name, cells in models]
        yield Family("streamgate_queue_depth", "gauge", "Requests that wait for a turn.", ("model",), depth)
        waits = [Sample((name,), cells.queue_wait.total, list(cells.queue_wait.counts)) for name, cells in models]
        text = "From the request's body to its turn, of those that got one."
        yield Family("streamgate_queue_wait_seconds", "histogram", text, ("model",), waits, SECONDS)
        for family, cell, label, text in _PLAIN:
            samples = [Sample((name, key), n) for name, cells in models for key, n in getattr(cells, cell).items()]
            yield Family(f"streamgate_{family}", "counter", text, ("model", label), samples)
        yield Family(
            "streamgate_choices", "counter", "Targets chosen, and how.", ("model", "split", "service", "how"),
            [Sample((name, *key), n) for name, cells in models for key, n in cells.choices.items()],
        )  # fmt: skip
        yield Family(
            "streamgate_flag_evaluations", "counter", "Flags asked for a split.", ("model", "variant", "reason"),
            [Sample((name, *key), n) for name, cells in models for key, n in cells.flags.items()],
        )  # fmt: skip
        yield Family(
            "streamgate_shared_calls", "counter", "Upstream calls that served several clients, and those clients.",
            ("model", "kind", "what"),
            [Sample((name, *key), n) for name, cells in models for key, n in cells.shared.items()],
        )  # fmt: skip
