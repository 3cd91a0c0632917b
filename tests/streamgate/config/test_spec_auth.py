"""Whose a request is: the sources of a tenant."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from streamgate.config.spec_auth import Auth


def test_nobody_has_a_tenant_by_default() -> None:
    assert Auth().tenant.sources == ()


def test_sources_keep_their_order() -> None:
    auth = Auth.model_validate({"tenant": {"from": ["claim:tenant", "host", "header:X-Tenant-Id"]}})
    assert auth.tenant.sources == ("claim:tenant", "host", "header:x-tenant-id")
    assert Auth.model_validate(auth.model_dump(mode="json")) == auth


@pytest.mark.parametrize("source", ["cookie:t", "header:", "header:a b", "claim:", "hosts", "claim:a b"])
def test_what_tells_no_tenant(source: str) -> None:
    with pytest.raises(ValidationError, match="tells no tenant"):
        Auth.model_validate({"tenant": {"from": [source]}})


def test_providers_are_not_available() -> None:
    with pytest.raises(ValidationError, match="not available"):
        Auth.model_validate({"providers": [{"id": "keys", "type": "api_key"}]})
