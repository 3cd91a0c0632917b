"""What a request to a model asked for and what became of it: filled in by the stages, told in record, headers and metrics."""

from __future__ import annotations


class Prompt:
    """The notes of one request to a model. Names only: no word of the prompt or of its answer is kept here.

    ``model`` is the configured name that the client asked for, ``routed`` the name sent upstream, ``answering`` the one that the
    upstream says answered. ``queue_s`` is the time spent waiting for a turn; token counts are None where nobody told them.
    """

    __slots__ = (
        "answering",
        "cached_tokens",
        "cost",
        "currency",
        "duplicates",
        "estimated",
        "fallbacks",
        "flag",
        "hedged",
        "input_tokens",
        "model",
        "operation",
        "output_tokens",
        "queue_s",
        "reason",
        "routed",
        "service",
        "shared",
        "split",
        "sticky",
        "stream",
        "tenant",
        "variant",
    )

    def __init__(self, model: str, operation: str, *, stream: bool) -> None:
        self.model = model
        self.operation = operation
        self.stream = stream
        self.tenant: str | None = None
        self.flag: str | None = None
        self.variant: str | None = None
        self.reason: str | None = None
        """Why the flag says so, in OpenFeature's words."""
        self.split: str | None = None
        self.sticky: str | None = None
        """How the target was chosen: sticky, turn, moved, spilled, bound."""
        self.service: str | None = None
        self.routed: str | None = None
        self.answering: str | None = None
        self.queue_s = 0.0
        self.fallbacks = 0
        self.duplicates = 0
        """Attempts given up that may have generated something already."""
        self.hedged = False
        self.shared: str | None = None
        """`batch` or `flight` where one upstream call served several clients."""
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.estimated = False
        self.cost: float | None = None
        self.currency: str | None = None
