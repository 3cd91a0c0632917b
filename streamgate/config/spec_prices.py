"""What a user writes under `prices`: what a model's tokens cost, for the meter; nothing is refused for its price."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from streamgate.config.section import Section
from streamgate.config.sentences import refused
from streamgate.config.spec_model import ModelName

AMOUNT_MAX: Final = 1_000_000.0
"""A million for a million tokens: a slip of the unit."""

_AMOUNT = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,9})?")
_CURRENCY = re.compile(r"[A-Z]{3}")


def parse_amount(value: object) -> float:
    """Money for a million tokens, a number or a number in text: `0.15`, `"0.15"`; 0 to a million. Raises ValueError."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and _AMOUNT.fullmatch(value)):
        amount = float(str(value))
        if 0.0 <= amount <= AMOUNT_MAX:
            return amount
    raise refused("price", value)


def parse_currency(value: str) -> str:
    """A currency by its three letters (ISO 4217). Raises ValueError."""
    if _CURRENCY.fullmatch(value) is None:
        raise refused("currency", value)
    return value


Amount = Annotated[
    float,
    PlainValidator(parse_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": AMOUNT_MAX},
                {"type": "string", "pattern": f"^{_AMOUNT.pattern}$"},
            ]
        }
    ),
]
"""Money for a million tokens."""
Currency = Annotated[
    str, AfterValidator(parse_currency), WithJsonSchema({"type": "string", "pattern": f"^{_CURRENCY.pattern}$"})
]
"""A currency, such as USD."""


class Price(Section):
    """What a million tokens of one model cost."""

    input: Amount
    """A million tokens of the prompt."""
    output: Amount = 0.0
    """A million tokens of the answer, reasoning included; 0, which is right for embeddings."""
    cached_input: Amount | None = None
    """A million tokens of the prompt that the provider read from its cache; as `input`, when omitted."""
    cache_write: Amount | None = None
    """A million tokens of the prompt that the provider wrote into its cache; as `input`, when omitted."""
    currency: Currency = "USD"
    """What the amounts are in; nothing is converted."""


PriceList = dict[ModelName, Price]
"""Prices by the model's name, as the client asks for it or as the service knows it, or by SERVICE/MODEL."""
