"""The language as a whole: frozen, described, and nothing that another version will mean is passed over."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from streamgate.config import spec
from streamgate.config.section import Section
from streamgate.config.spec import Spec

SECTIONS = [getattr(spec, name) for name in spec.__all__]
LATER = ["limits", "rooms", "media", "plugins", "canary"]


def test_nothing_has_to_be_said() -> None:
    assert Spec() == Spec.model_validate({})
    assert (Spec().services, Spec().routes) == ((), ())


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_closed_frozen_and_described(section: type[BaseModel]) -> None:
    assert issubclass(section, Section)
    assert section.model_config["frozen"]
    assert section.model_config["extra"] == "forbid"
    for name, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{name}"
        assert field.description.endswith("."), f"{section.__name__}.{name}"


@pytest.mark.parametrize("key", LATER)
def test_a_key_of_a_later_version_is_refused_unless_it_is_empty(key: str) -> None:
    assert Spec.model_validate({key: {}}) == Spec()
    with pytest.raises(ValidationError, match=f"`{key}` is not available in this version; remove it"):
        Spec.model_validate({key: [{"id": "x"}]})


def test_a_configuration_is_written_so_that_it_can_be_read() -> None:
    document = {
        "gate": {"bind": "[::1]:0", "admin": "off", "limits": {"body": "10MB"}, "timeouts": {"head": "1500ms"}},
        "services": [{"id": "a", "endpoints": [{"url": "https://a"}], "timeouts": {"total": "1h"}}],
        "routes": [
            {
                "id": "r",
                "match": {"paths": ["/*"]},
                "to": {"service": "a"},
                "max_body": "off",
                "retries": {"on": [502]},
            },
            {"id": "s", "match": {"paths": ["/s"]}, "to": {"respond": {"status": 204}}},
        ],
        "models": [
            {
                "name": "tutor",
                "flag": "tutor-split",
                "splits": {"stable": [{"service": "a", "model": "gemma", "weight": 3}]},
                "queue": {"max_in_flight": 8, "announce": "2s"},
                "batch": {"max_bytes": "4KiB"},
                "hedge": {"after": "300ms", "share": "2.5%"},
            }
        ],
        "auth": {"tenant": {"from": ["host", "header:X-Tenant-Id"]}},
    }
    first = Spec.model_validate(document)
    again = Spec.model_validate(first.model_dump(mode="json", exclude_unset=True))
    assert again == first
