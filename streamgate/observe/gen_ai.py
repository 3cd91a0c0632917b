"""Tokens, latencies and cost by model, under the names of OpenTelemetry's conventions (gen_ai metrics, in Development).

Three models are told apart: the one asked for (``gen_ai.original.model``, Envoy AI Gateway's word), the one that was asked of the
upstream (``gen_ai.request.model``) and the one that answered (``gen_ai.response.model``). The first two are configured; the third
is an upstream's word, so its characters are checked and only so many of them make series of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from streamgate.observe.metrics import Family, Histogram, Sample

TOKENS: Final = tuple(float(4**power) for power in range(14))
"""1, 4, 16 … 67108864."""
DURATIONS: Final = tuple(0.01 * 2**power for power in range(14))
"""10 ms, doubled until 81.92 s."""
FIRST_TOKENS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
)  # fmt: skip
"""The conventions' up to 10 s, and on to a minute: a queue and a long prompt take longer."""
PER_TOKEN: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""The conventions', and below 10 ms for small models."""

ANSWERING_MAX: Final = 20
"""Names of answering models, for each model asked of an upstream, that have series of their own."""
OTHER: Final = "other"
"""What further ones, and what is no name, are counted as."""
_NAME: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,120}")

_Key = tuple[str, str, str, str, str]
_MODEL_LABELS: Final = (
    "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_original_model", "gen_ai_request_model", "gen_ai_response_model",
)  # fmt: skip


class ModelMetrics:
    """The cells of one combination of the labels."""

    __slots__ = ("first_token", "per_token", "seconds", "tokens")

    def __init__(self) -> None:
        self.tokens: dict[str, Histogram] = {}
        self.seconds: dict[str, Histogram] = {}
        self.first_token = Histogram(FIRST_TOKENS)
        self.per_token = Histogram(PER_TOKEN)

    def count(self, kind: str, tokens: int) -> None:
        """Add one generation's tokens of one kind."""
        histogram = self.tokens.get(kind)
        if histogram is None:
            histogram = self.tokens[kind] = Histogram(TOKENS)
        histogram.observe(tokens)

    def took(self, error_type: str, duration_s: float) -> None:
        """Add one generation's duration."""
        histogram = self.seconds.get(error_type)
        if histogram is None:
            histogram = self.seconds[error_type] = Histogram(DURATIONS)
        histogram.observe(duration_s)


class GenAi:
    """Every cell of one worker that is about models."""

    __slots__ = ("_answering", "_cells", "_cost", "_tokens")

    def __init__(self) -> None:
        self._cells: dict[_Key, ModelMetrics] = {}
        self._answering: dict[str, set[str]] = {}
        self._tokens: dict[tuple[str, str, bool], int] = {}
        self._cost: dict[tuple[str, str], float] = {}

    def observe(  # noqa: PLR0913  the facts of one generation
        self,
        *,
        operation: str,
        requested: str,
        routed: str,
        answering: str | None,
        duration_s: float,
        first_s: float | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_input_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        estimated: bool = False,
        cost: float | None = None,
        currency: str = "USD",
        provider: str = "",
        error_type: str = "",
    ) -> None:
        """Add one generation, however it ended; None is what is not known.

        ``requested``, ``routed``, ``provider`` and ``error_type`` are words of the configuration or ours, never a client's.
        ``first_s`` is when the first token came, from the beginning of the same ``duration_s``; None where none was streamed.
        """
        cell = self._cells.get((operation, provider, requested, routed, answering or ""))
        if cell is None:
            cell = self._cell(operation, provider, requested, routed, answering or "")
        cell.took(error_type, duration_s)
        if first_s is not None:
            cell.first_token.observe(first_s)
            if output_tokens is not None and output_tokens > 1:
                cell.per_token.observe(max(0.0, duration_s - first_s) / (output_tokens - 1))
        for kind, tokens in (
            ("input", input_tokens),
            ("output", output_tokens),
            ("input_cache_read", cached_input_tokens),
            ("input_cache_write", cache_write_tokens),
        ):
            if tokens is not None:
                cell.count(kind, tokens)
                key = requested, kind, estimated
                self._tokens[key] = self._tokens.get(key, 0) + tokens
        if cost is not None:
            self._cost[requested, currency] = self._cost.get((requested, currency), 0.0) + cost

    def _cell(self, operation: str, provider: str, requested: str, routed: str, answering: str) -> ModelMetrics:
        known = self._answering.setdefault(routed, set())
        if answering and answering not in known:
            if len(known) < ANSWERING_MAX and _NAME.fullmatch(answering):
                known.add(answering)
            else:
                answering = OTHER
        return self._cells.setdefault((operation, provider, requested, routed, answering), ModelMetrics())

    def retain(self, models: Iterable[str]) -> None:
        """Forget the series of models that are no longer configured under these names."""
        kept = set(models)
        self._cells = {key: cell for key, cell in self._cells.items() if key[2] in kept}
        routed = {key[3] for key in self._cells}
        self._answering = {name: known for name, known in self._answering.items() if name in routed}
        self._tokens = {key: count for key, count in self._tokens.items() if key[0] in kept}
        self._cost = {key: amount for key, amount in self._cost.items() if key[0] in kept}

    def families(self) -> Iterator[Family]:
        """This worker's share as plain data."""
        cells = self._cells.items()
        yield Family(
            "gen_ai_client_token_usage", "histogram", "Tokens of a generation, as the upstream reports them or estimated.",
            (*_MODEL_LABELS, "gen_ai_token_type"),
            [_sample((*key, kind), h) for key, cell in cells for kind, h in cell.tokens.items()], TOKENS,
        )  # fmt: skip
        yield Family(
            "gen_ai_server_request_duration_seconds", "histogram", "From the request to the end of the answer, by its error if any.",
            (*_MODEL_LABELS, "error_type"),
            [_sample((*key, error), h) for key, cell in cells for error, h in cell.seconds.items()], DURATIONS,
        )  # fmt: skip
        yield Family(
            "gen_ai_server_time_to_first_token_seconds", "histogram", "From the request to the first token of a streamed answer.",
            _MODEL_LABELS, [_sample(key, cell.first_token) for key, cell in cells], FIRST_TOKENS,
        )  # fmt: skip
        yield Family(
            "gen_ai_server_time_per_output_token_seconds", "histogram", "For each token after the first of a streamed answer.",
            _MODEL_LABELS, [_sample(key, cell.per_token) for key, cell in cells], PER_TOKEN,
        )  # fmt: skip
        yield Family(
            "streamgate_tokens", "counter", "Tokens by the model asked for; estimated ones are ours, not the upstream's.",
            ("model", "type", "estimated"),
            [Sample((model, kind, str(ours).lower()), count) for (model, kind, ours), count in self._tokens.items()],
        )  # fmt: skip
        yield Family(
            "streamgate_cost", "counter", "Cost by the configured prices and the model asked for.",
            ("model", "currency"), [Sample(key, amount) for key, amount in self._cost.items()],
        )  # fmt: skip


def _sample(labels: tuple[str, ...], histogram: Histogram) -> Sample:
    return Sample(labels, histogram.total, list(histogram.counts))
