"""What a user writes under `models`: what clients ask for by name, and which services answer for it."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from streamgate.config.section import AT_LEAST_ONE, NotEmpty, Section, Slug, is_token, written
from streamgate.config.sentences import refused
from streamgate.config.spec_service import CountOrOff
from streamgate.config.units import (
    Duration,
    PositiveDuration,
    Size,
    WholeFromOne,
    WholeFromZero,
    format_duration,
    is_off,
    parse_duration,
)

_NAME = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
"""As providers name models (`gpt-4o-mini`, `meta-llama/Llama-3.1-8B`, `us.anthropic.claude:0`): visible, of one line."""
_BODY_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*){0,3}")
_FLAG_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_SHARE = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,2})?)%")
_SHARE_MAX = 20.0


def parse_model_name(value: str) -> str:
    """A model's name. Raises ValueError."""
    if _NAME.fullmatch(value) is None or '"' in value or "\\" in value:
        raise refused("model_name", value)
    return value


def parse_flag_key(value: str) -> str:
    """A flag's key. Raises ValueError."""
    if _FLAG_KEY.fullmatch(value) is None:
        raise refused("flag_key", value)
    return value


def parse_sticky(value: str) -> str:
    """Where a sticky key comes from: header:NAME, cookie:NAME, body:PATH, claim:NAME or prompt. Raises ValueError."""
    kind, _, name = value.partition(":")
    if kind in {"header", "cookie"} and is_token(name):
        return value.lower() if kind == "header" else value
    if (kind in {"body", "claim"} and _BODY_KEY.fullmatch(name)) or value == "prompt":
        return value
    raise refused("sticky", value)


def parse_share(value: object) -> float:
    """A part of the calls, `5%`, as a number from 0 to 1; at most 20 %. Raises ValueError."""
    if isinstance(value, float) and 0.0 < value <= _SHARE_MAX / 100:
        return value  # what was parsed before
    found = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0.0 < float(found[1]) <= _SHARE_MAX:
        raise refused("share")
    return float(found[1]) / 100.0


def _some_splits(value: dict[str, tuple["SplitTarget", ...]]) -> dict[str, tuple["SplitTarget", ...]]:
    if not value:
        raise refused("splits_empty")
    return value


def _announce(value: object) -> float | None:
    return None if is_off(value) else parse_duration("1s" if value is True or value == "on" else value)


ModelName = Annotated[str, AfterValidator(parse_model_name)]
"""A model's name, as clients and providers write it."""
Sticky = Annotated[str, AfterValidator(parse_sticky)]
"""Where a sticky key comes from."""
Share = Annotated[
    float,
    PlainValidator(parse_share),
    PlainSerializer(lambda share: f"{share * 100:g}%", when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _SHARE.pattern}),
]
"""A part of all calls, such as `5%`."""
Announce = Annotated[
    float | None,
    PlainValidator(_announce),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"anyOf": [{"enum": ["off", "on", False, True]}, {"type": "string"}]}),
]
"""Seconds between two announcements, None for `off`."""


class SplitTarget(Section):
    """One line of a split: a service, and the share of requests that goes to it."""

    service: str
    """The id of a service."""
    model: ModelName | None = None
    """The name that the service knows the model by; the name that was asked for, when omitted."""
    weight: WholeFromZero = 1
    """Its share among the lines; 0 gives it nothing new."""


class Queue(Section):
    """How many requests of a model are under way at a time, and how the others wait."""

    max_in_flight: CountOrOff = written("off")
    """Requests under way at a time, over all workers, or off; off because only you know what the model bears."""
    max_waiting: WholeFromZero = 100
    """Requests that may wait for a turn in each worker; one more is refused with 429."""
    max_bytes: Size = written("64MiB")
    """Bytes of request bodies that may wait in each worker; more are refused with 429."""
    max_wait: PositiveDuration = written("30s")
    """Longest wait for a turn; less where the client's own timeout (x-stainless-read-timeout) leaves less."""
    fair_by: Literal["tenant", "client_ip", "off"] = "tenant"
    """Among whom turns are shared equally; tenant (auth.tenant), and the client's address where there is no tenant."""
    announce: Announce = None
    """Tell waiting streams their position, in SSE comments, this often; off, because the status is 200 from then on."""


class Batch(Section):
    """Small embeddings and completions of equal parameters sent upstream as one."""

    window: Duration = written("5ms")
    """How long a request may wait for company while another one is under way; none waits when the model is idle."""
    max_items: WholeFromOne = 32
    """Inputs in one batch; providers take at least this many."""
    max_bytes: Size = written("2KiB")
    """A request with a larger body goes alone."""


class Hedge(Section):
    """A second attempt beside a slow first one; the first token wins, the other attempt is cancelled."""

    after: PositiveDuration
    """How long the first attempt may be silent; a little above the usual time to the first token."""
    share: Share = written("5%")
    """Part of the calls that may be hedged, at most 20%; more would only heat what is slow already."""


class Model(Section):
    """What clients ask for in `model`, and who answers for it."""

    name: ModelName
    """What clients ask for in `model`."""
    flag: Annotated[str, AfterValidator(parse_flag_key)] | None = None
    """An OpenFeature flag whose value names a split; without it `default` is always used."""
    default: Slug | None = None
    """The split when the flag says nothing usable; the first one, when omitted."""
    splits: Annotated[
        dict[Slug, Annotated[tuple[SplitTarget, ...], NotEmpty, AT_LEAST_ONE]],
        AfterValidator(_some_splits),
        Field(json_schema_extra={"minProperties": 1}),
    ]
    """Who answers, by the name of the split."""
    sticky: tuple[Sticky, ...] = ()
    """What keeps a caller at one target: header:NAME, cookie:NAME, body:PATH, claim:NAME, prompt; the first one present."""
    fallback: tuple[Slug, ...] = ()
    """Splits tried in turn when the chosen one cannot answer, before the first byte is committed."""
    queue: Queue = Field(default_factory=Queue)
    """How many requests are under way at a time, and how the others wait."""
    batch: Batch | None = None
    """Small embeddings and completions as one upstream call; off by default."""
    hedge: Hedge | None = None
    """A second attempt beside a slow first one; off by default."""
    include_usage: bool = True
    """Whether the upstream is asked for the usage of OpenAI streams; what the client did not ask for is taken out again."""

    @model_validator(mode="after")
    def _splits_exist(self) -> Self:
        if self.default is not None and self.default not in self.splits:
            raise refused("split_unknown", fields=("default",), name=self.default, choices=", ".join(self.splits))
        for name in self.fallback:
            if name not in self.splits:
                raise refused("split_unknown", fields=("fallback",), name=name, choices=", ".join(self.splits))
        return self

    @property
    def default_split(self) -> str:
        """The split when no flag says otherwise."""
        return self.default or next(iter(self.splits))


def _models(value: object) -> object:
    return None if value is False else value


ModelsTarget = Annotated[Literal[True] | None, BeforeValidator(_models)]
"""`models: true` leads a route to the models; false is as good as nothing."""
