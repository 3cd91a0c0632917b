"""What a problem says: one table from the kind of a mistake to a plain sentence that tells what to do.

Kinds are pydantic's own error types and ours, side by side, so that both read alike. `{given}` stands for the value *as
it is written in the document*, quoted; `{bare}` for the same without quotes. Whoever fills them in chooses what may be
seen: `streamgate.config.shape` puts the text before references are resolved, so a secret cannot slip into a sentence.
Sentences about secrets, URLs and other places where passwords live have neither.
"""

import json
from typing import Final

from pydantic_core import PydanticCustomError

SENTENCES: Final[dict[str, str]] = {
    # pydantic's own types
    "extra_forbidden": "unknown key",
    "missing": "this key is required; add it: {about}",
    "string_type": "must be text; put quotes around it",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be one of {choices}",
    "tuple_type": "must be a list; write it in brackets, such as [a, b]",
    "dict_type": "must be a map of names to values, such as {{name: value}}",
    "model_type": "must be a map of keys, such as {{key: value}}; the keys are: {choices}",
    "list_empty": "must not be empty; list at least one",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    # empty, and not yet
    "empty": "has no value; give one, or remove the key",
    "not_available": "`{name}` is not available in this version; remove it",
    # units
    "duration": "{given} is not a duration; write a number and a unit, such as 250ms, 2s, 5m or 1h",
    "duration_unit": '{given} has no unit; write "{bare}s" for seconds, "{bare}ms" for milliseconds',
    "duration_off": "cannot be off; write a duration such as 30s",
    "duration_zero": "must be longer than 0s",
    "duration_zero_or_off": "must be longer than 0s; write off for no limit",
    "duration_long": "{given} is longer than a year; write at most 8760h",
    "size": "{given} is not a size; write a whole number of bytes or a unit, such as 512, 64KiB, 10MB or 1GiB",
    "size_off": "cannot be off; write a size such as 64KiB",
    "size_range": "must be from {low} to {high}",
    "whole_number": "{given} is not a whole number; write digits only, such as 4",
    "count_or_off": "must be 1 or more; write off for no limit",
    "address": "{given} is not an address; write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080",
    "address_host": "needs a host before the port, such as 127.0.0.1:8080, or 0.0.0.0:8080 for every interface",
    "address_port": "needs a port from 0 to 65535 after the last colon, such as 127.0.0.1:8080",
    "address_brackets": "an IPv6 address stands in brackets; write it like [::1]:8080",
    "address_off": "cannot be off; write HOST:PORT, such as 127.0.0.1:8080",
    "network": "{given} is not a network; write an address or a CIDR, such as 10.0.0.0/8 or fd00::/8",
    "network_host_bits": "{given} has bits set after the prefix; write the network's first address, as in 10.0.0.0/8",
    # names, secrets, files
    "slug": "{given} cannot be an id; use 1 to 63 of a-z 0-9 _ . - and begin with a letter or a digit",
    "secret_empty": "must not be empty; give the secret, or remove the key",
    "secret_characters": "cannot be sent in a header; remove line breaks, spaces around it and non-ASCII characters",
    "bearer_word": 'leave out the word "Bearer"; it is added when the header is sent',
    "credentials": "needs either bearer, or header and value together; nothing else",
    "header_name": "{given} cannot be a header name; use letters, digits and hyphens, such as X-Api-Key",
    "header_name_framing": "the gateway sets the header {given} itself; remove it",
    "header_value": "cannot be a header value; remove line breaks, spaces around it and control characters",
    "file_name": "must be the name of a file",
    # gate, state, telemetry
    "state_url": "must be memory://, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH",
    "collector_url": "must be off, or http://HOST or https://HOST of a collector, with an optional :PORT and path",
    "records": "must be stdout, stderr, off or the name of a file",
    # services
    "upstream_url": "must be http://HOST or https://HOST with an optional :PORT",
    "upstream_url_path": "must end after the host and port; to put a path in front use rewrite.add_prefix on the route",
    "upstream_url_userinfo": "must not hold a user or password; use credentials instead",
    "service_address": "needs either url or endpoints, and not both",
    "hash_key": "{given} is no part of a request; write header:NAME, cookie:NAME, query:NAME, path or client_ip",
    "tls_pair": "cert and key belong together; give both or neither",
    # models, auth
    "model_name": "{given} cannot be a model's name; use 1 to 200 visible ASCII characters without quotes or backslashes",
    "flag_key": "{given} cannot be a flag's key; use 1 to 200 visible ASCII characters without spaces",
    "splits_empty": "needs at least one split, such as `stable: [{{service: model-a}}]`",
    "sticky": "{given} is no part of a request; write header:NAME, cookie:NAME, body:PATH, claim:NAME or prompt",
    "share": 'must be a part such as "5%", above 0 and at most 20%',
    "split_unknown": "no split has the name {name}; there are: {choices}",
    "price": "{given} is not a price; write money for a million tokens, such as 0.15",
    "currency": "{given} is not a currency; write its three letters, such as USD",
    "tenant_source": "{given} tells no tenant; write claim:NAME, host or header:NAME",
    # flags
    "flags_flagd": "needs `file` with provider flagd; add the name of a flagd flag file, such as file: flags.json",
    "flags_ofrep": "needs `url` with provider ofrep; add where the OFREP service is, such as url: https://flags.example",
    "flags_misplaced": "`{name}` means nothing with provider {choices}; remove it, or choose the other provider",
    "flags_url": "must be http://HOST or https://HOST with an optional :PORT and path; send a password in headers instead",
    # routes
    "status": "must be a status from 200 to 599",
    "path_slash": '{given} must begin with a slash; write "/{bare}"',
    "path_star": '{given} has a * in a place where it means nothing; end with "/*" to match everything below',
    "path_characters": "{given} can never match; a path holds no ? # ; \\ or space, and %XX for what is not ASCII",
    "path_dots": '{given} can never match; a path is compared after "." and ".." are resolved, write the result',
    "method": "{given} is not a method; write a name such as GET",
    "method_case": "{given} is not a method; methods are written in capitals, such as GET",
    "host": "{given} is not a host; write a name such as api.example.com, or *.example.com for every name below",
    "host_port": "{given} has a port; leave it out, requests are matched by name only",
    "prefix": 'must be a path such as "/api": a slash first, no empty, "." or ".." segment, no space, * ? # or ;',
    "prefix_root": 'does nothing with "/"; name a path such as "/api", or remove the key',
    "host_policy": "must be upstream, preserve or the host to send, such as api.example.com or api.example.com:8443",
    "host_policy_twice": "host stands both on the route and inside rewrite; keep one",
    "target": "needs exactly one of service, models or respond",
    "respond_body": "204, 205 and 304 have no body; remove body, or choose another status",
}
"""Every sentence, by the kind of mistake."""

UNKNOWN: Final = "this value does not fit here; `streamgate schema` shows what does"
"""For a kind that is not in the table: still true, still something to do."""

_SHOWN_MAX = 60


def quoted(value: object) -> str:
    """A value as a problem shows it: on one line, escaped, at most 60 characters."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    return json.dumps(_short(value), ensure_ascii=False) if isinstance(value, str) else _short(_plain(value))


def sentence(kind: str, given: object = None, **details: object) -> str:
    """The sentence for a kind of mistake, with the value as written and the details filled in."""
    bare = quoted(given)[1:-1] if isinstance(given, str) else quoted(given)
    return SENTENCES.get(kind, UNKNOWN).format(given=quoted(given), bare=bare, **details)


def refused(kind: str, given: object = None, **details: object) -> PydanticCustomError:
    """The error a field's parser raises: a ValueError whose text is the sentence, and whose `type` is the kind.

    `details` fill the sentence and travel with the error, so that it can be put together again with another `given`.
    They are the rule's own words (a limit, a key); the value is told in `given` only.
    """
    return PydanticCustomError(kind, sentence(kind, given, **details), dict(details))


def _plain(value: object) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
