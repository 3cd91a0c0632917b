"""What a user writes under `flags`: who decides which split of a model a request gets."""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from streamgate.config.section import File, HeaderName, Secret, Section, written
from streamgate.config.sentences import refused
from streamgate.config.units import PositiveDuration, is_authority

_URL = re.compile(r"(https?)://([^/?#]*)((?:/[!$&-;=@-Z_a-z~%]*)?)", re.IGNORECASE)
_OF: Final[dict[str, frozenset[str]]] = {"flagd": frozenset({"file"}), "ofrep": frozenset({"url", "headers", "timeout"})}
"""The keys that mean something with a provider, beside `provider` itself."""
_NEEDED: Final = {"flagd": "file", "ofrep": "url"}


def parse_ofrep_url(value: str) -> str:
    """`http://host[:port][/path]` without the last slash. Raises ValueError, never showing the value."""
    found = _URL.fullmatch(value)
    if found is None or "@" in found[2] or not is_authority(found[2]) or found[2].endswith(":0"):
        raise refused("flags_url")
    scheme, authority, path = found.groups()
    return f"{scheme}://{authority}".lower() + path.rstrip("/")


OfrepUrl = Annotated[str, AfterValidator(parse_ofrep_url), WithJsonSchema({"type": "string", "format": "uri"})]
"""Where an OFREP service stands; what follows it is the protocol's own `/ofrep/v1/…`."""


class Flags(Section):
    """Where OpenFeature flags come from; their values name splits. Without this section every model uses its `default`."""

    provider: Literal["flagd", "ofrep"]
    """flagd: evaluated here, from `file`. ofrep: asked of the service at `url`, for each user and flag at most every 0.5s."""
    file: File | None = None
    """flagd's flag file, in JSON; read again within a second of a change, and a broken one leaves the last good one in force."""
    url: OfrepUrl | None = None
    """http://HOST or https://HOST of the OFREP service, with an optional :PORT and path."""
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    """Headers sent to it, such as Authorization or X-API-Key, with secret values; none by default."""
    timeout: PositiveDuration = written("250ms")
    """How long it may take to answer; 250ms, because a request waits for it. After that the last known answer counts."""

    @model_validator(mode="after")
    def _of_one_provider(self) -> Self:
        other = "ofrep" if self.provider == "flagd" else "flagd"
        misplaced = sorted(self.model_fields_set & _OF[other])
        if misplaced:
            raise refused("flags_misplaced", name=misplaced[0], choices=self.provider, fields=tuple(misplaced))
        if getattr(self, _NEEDED[self.provider]) is None:
            raise refused(f"flags_{self.provider}")
        return self
