"""What a generation cost, from its tokens and the configured prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from streamgate.config.spec_prices import Price

_PER_TOKENS: Final = 1_000_000


class Tokens(Protocol):
    """The tokens of one generation; None is what nobody knows."""

    @property
    def fresh_input_tokens(self) -> int | None:
        """Input that was neither read from a cache nor written into one."""

    @property
    def cached_input_tokens(self) -> int | None:
        """Input that was read from a cache."""

    @property
    def cache_write_tokens(self) -> int | None:
        """Input that was written into a cache."""

    @property
    def billed_output_tokens(self) -> int | None:
        """All output, reasoning included."""


class Cost(NamedTuple):
    """An amount of money."""

    amount: float
    currency: str


class Prices:
    """The price list, compiled. Names are models, or SERVICE/MODEL for what costs more at one place than at another."""

    __slots__ = ("_rates",)

    def __init__(self, listed: Mapping[str, Price]) -> None:
        self._rates = {
            name: (
                price.input,
                price.input if price.cached_input is None else price.cached_input,
                price.input if price.cache_write is None else price.cache_write,
                price.output,
                price.currency,
            )
            for name, price in listed.items()
        }

    def charge(self, model: str, usage: Tokens, service: str | None = None) -> Cost | None:
        """What these tokens cost; None where the model has no price, or none of its tokens are known.

        What is not known of them costs nothing: the amount is what can be told, not more.
        """
        rates = self._rates.get(f"{service}/{model}") if service is not None else None
        rates = rates or self._rates.get(model)
        fresh, output = usage.fresh_input_tokens, usage.billed_output_tokens
        if rates is None or (fresh is None and output is None):
            return None
        input_rate, cached_rate, write_rate, output_rate, currency = rates
        amount = (
            (fresh or 0) * input_rate
            + (usage.cached_input_tokens or 0) * cached_rate
            + (usage.cache_write_tokens or 0) * write_rate
            + (output or 0) * output_rate
        )
        return Cost(amount / _PER_TOKENS, currency)

    def cost(self, model: str, usage: Tokens, service: str | None = None) -> float | None:
        """The amount of ``charge`` alone."""
        charged = self.charge(model, usage, service)
        return None if charged is None else charged.amount
