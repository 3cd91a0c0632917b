"""What every section of the language shares: frozen, no unknown keys, and the small types its fields are made of."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from streamgate.config.sentences import refused
from streamgate.headers import HOP_BY_HOP

FOLDER: Final = "folder"
"""Key of the validation context: the folder that relative file names are taken from."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110 §5.6.2: what a header name or a method is made of."""
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
"""RFC 9110 §5.5."""
_SECRET = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_PATH = re.compile(r"/(?:[\x21-\x7e](?<![?#;\\%])|%(?!00|5[Cc])[0-9A-Fa-f]{2})*")
"""What a canonical path may be spelled with: visible ASCII and whole escapes, nothing that cuts a path short."""
_OWN = frozenset(name.decode() for name in HOP_BY_HOP | {b"host", b"content-length"})
"""Headers that the gateway writes itself, because they frame or address a message."""


class Section(BaseModel):
    """One map of the configuration. Immutable; an unknown key is an error; errors never show the value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


def written(default: str) -> Any:
    """A field's default in the spelling of the document, which is also how the JSON Schema shows it."""
    return Field(default=default, validate_default=True)


def not_yet(value: object, info: ValidationInfo) -> None:
    """Refuse a key of a later version, unless it is empty: passing over a security setting in silence is a hole."""
    if value not in (None, False, "", [], {}, ()):
        raise refused("not_available", name=str(info.field_name))


def parse_slug(value: str) -> str:
    """An id: 1 to 63 of `a-z 0-9 _ . -`, first a letter or digit. Raises ValueError."""
    if _SLUG.fullmatch(value) is None:
        raise refused("slug", value)
    return value


def is_token(text: str) -> bool:
    """Whether it is a token of RFC 9110 §5.6.2, as header names and methods are."""
    return _TOKEN.fullmatch(text) is not None


def parse_header_name(value: str) -> str:
    """A header's name that may be set by configuration; not one that frames the message. Raises ValueError."""
    if not is_token(value):
        raise refused("header_name", value)
    if value.lower() in _OWN:
        raise refused("header_name_framing", value)
    return value


def parse_header_value(value: str) -> str:
    """A header's value, RFC 9110 §5.5. Raises ValueError without showing it."""
    if _HEADER_VALUE.fullmatch(value) is None:
        raise refused("header_value")
    return value


def parse_secret(value: SecretStr) -> SecretStr:
    """A secret that can be sent in a header. Raises ValueError without showing it."""
    text = value.get_secret_value()
    if not text:
        raise refused("secret_empty")
    if _SECRET.fullmatch(text) is None:
        raise refused("secret_characters")
    return value


def parse_file(value: object, info: ValidationInfo) -> Path:
    """A file's path; a relative one is taken from the configuration's folder, if that is known. Raises ValueError."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise refused("file_name")
    return in_folder(Path(value), info)


def in_folder(path: Path, info: ValidationInfo) -> Path:
    """The path, taken from the configuration's folder when it is relative."""
    folder = (info.context or {}).get(FOLDER)
    return path if folder is None else Path(folder) / path


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise refused("list_empty")
    return value


def is_path(text: str) -> bool:
    """Whether a request's path could be spelled so."""
    return _PATH.fullmatch(text) is not None


def has_dots(path: str) -> bool:
    """Whether a path has a segment that is resolved before paths are compared, in any spelling."""
    plain = re.sub("%2e", ".", path, flags=re.IGNORECASE)
    return not {".", ".."}.isdisjoint(re.split("/|%2f", plain, flags=re.IGNORECASE))


def _prefix(value: str) -> str:
    bare = value.rstrip("/")
    if not is_path(value) or "*" in value or "//" in value or has_dots(value):
        raise refused("prefix")
    if not bare:
        raise refused("prefix_root")
    return bare


Later = Annotated[
    None,
    PlainValidator(not_yet),
    WithJsonSchema({"type": ["null", "array", "object"], "maxItems": 0, "maxProperties": 0}),
]
"""A key of a later version: accepted empty, refused otherwise."""
Slug = Annotated[str, AfterValidator(parse_slug), Field(json_schema_extra={"pattern": f"^{_SLUG.pattern}$"})]
"""An id."""
HeaderName = Annotated[str, AfterValidator(parse_header_name)]
"""A header's name, as written."""
HeaderValue = Annotated[str, AfterValidator(parse_header_value)]
"""A header's value."""
Secret = Annotated[SecretStr, AfterValidator(parse_secret)]
"""A secret that travels in a header: not empty, visible ASCII. Shown as stars wherever it is printed."""
File = Annotated[Path, PlainValidator(parse_file), WithJsonSchema({"type": "string", "format": "path"})]
"""A file; relative names are taken from the folder of the configuration."""
Prefix = Annotated[str, AfterValidator(_prefix)]
"""The beginning of a path: a slash first, none at the end."""


def _word(value: object) -> object:
    """A number in text becomes the number: `"502"` is 502, so that `${env:…}` and quotes change nothing."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{3}", value) else value


StatusWord = BeforeValidator(_word)
"""Lets a choice that includes statuses take them as text."""
NotEmpty = AfterValidator(_not_empty)
"""For a list: at least one item. Asked after the items themselves, so that a wrong one is not told as a missing one."""
AT_LEAST_ONE = Field(json_schema_extra={"minItems": 1})
"""What the JSON Schema says of such a list."""
