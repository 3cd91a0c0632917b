"""What a user writes under `auth`: whom a request belongs to. Providers of identities come in a later version."""

import re
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from streamgate.config.section import Later, Section, is_token
from streamgate.config.sentences import refused

_CLAIM = re.compile(r"[A-Za-z0-9_.:/-]{1,100}")


def _tenant_source(value: str) -> str:
    kind, _, name = value.partition(":")
    if value == "host" or (kind == "header" and is_token(name)) or (kind == "claim" and _CLAIM.fullmatch(name)):
        return value.lower() if kind == "header" else value
    raise refused("tenant_source", value)


class Tenant(Section):
    """Where a request's tenant comes from."""

    model_config = ConfigDict(serialize_by_alias=True)

    sources: tuple[Annotated[str, AfterValidator(_tenant_source)], ...] = Field(default=(), alias="from")
    """claim:NAME, host or header:NAME, the first present decides; a header counts from gate.trusted_proxies only."""


class Auth(Section):
    """Whom a request belongs to."""

    tenant: Tenant = Field(default_factory=Tenant)
    """Where a request's tenant comes from; nobody has one by default."""
    providers: Later = None
    """Not available in this version."""
