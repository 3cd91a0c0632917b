"""The language as a JSON Schema, for editors, generators and people: `streamgate schema` prints it."""

from typing import Any, Final

from streamgate.config.spec import Spec

SCHEMA_ID: Final = "urn:streamgate:configuration:1"
"""Names the language, not a place: nothing is fetched."""

_REFERENCE: Final = {
    "description": "A reference that gives the value: ${env:NAME} or ${file:/path}, whole or inside a text.",
    "type": "string",
    "pattern": r"\$\{(env|file):[^{}]+\}",
}
_POINTER: Final = {"$ref": "#/$defs/Reference"}


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the whole language, with the sentence of every key. References are allowed everywhere."""
    schema = _with_references(Spec.model_json_schema())
    schema["$defs"]["Reference"] = _REFERENCE
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "streamgate configuration",
    }


def _with_references(schema: Any) -> Any:
    """The same schema, where a value that is no free text may also be written as a reference. Titles are left out."""
    kept = {key: value for key, value in schema.items() if key != "title"}
    if _is_leaf(kept):
        about = {key: kept.pop(key) for key in ("default", "description") if key in kept}
        return {**about, "anyOf": [kept, _POINTER]}
    for keyword in ("properties", "$defs"):
        if keyword in kept:
            kept[keyword] = {name: _with_references(value) for name, value in kept[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(kept.get(keyword), dict):
            kept[keyword] = _with_references(kept[keyword])
    if "anyOf" in kept:
        choices = kept["anyOf"]
        kept["anyOf"] = [choice if _is_leaf(choice) else _with_references(choice) for choice in choices]
        kept["anyOf"] += [_POINTER] * any(_is_leaf(choice) for choice in choices)
    return kept


def _is_leaf(schema: dict[str, Any]) -> bool:
    """Whether it describes one value that not every text is."""
    return schema.get("type") in ("integer", "boolean") or not schema.keys().isdisjoint({"enum", "const", "pattern"})
