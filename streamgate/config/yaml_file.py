"""A YAML file, read into a document that remembers where everything stands.

Read with care, since a configuration may come from a template or a pull request: at most 1 MiB, 64 levels and 100,000
values (an alias counts each time it is used), no tags that make objects, no key twice. What is wrong is told as
findings, as many as can be told at once; the tree is then whatever could be read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from streamgate.config.document import Document, Node, Scalar
from streamgate.config.problem import Finding, Loc, Place

SIZE_MAX_BYTES: Final = 1024 * 1024
"""A file larger than this is no configuration: 1500 services with their timeouts are an eighth of it."""
DEPTH_MAX: Final = 64
"""The language itself is six levels deep."""
VALUES_MAX: Final = 100_000
"""More than a full file of services and routes holds; ten aliases of ten aliases, nine times, reach a billion."""

EXAMPLE: Final = 'routes: [{id: hello, match: {paths: ["/*"]}, to: {respond: {status: 200, body: hello}}}]'
"""The smallest configuration that does something."""

_MERGE: Final = "tag:yaml.org,2002:merge"
_TEXT: Final = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"})
_SCALARS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
_TAG: Final = "a YAML tag (!) means nothing here; put quotes around a value that begins with !"
_DEEP: Final = f"is more than {DEPTH_MAX} levels deep, aliases included; write it flatter"
_MAP: Final = "tag:yaml.org,2002:map"
_LIST: Final = "tag:yaml.org,2002:seq"

_SYNTAX: Final[dict[str, str]] = {
    "'\\t'": "a tab cannot stand here; indent with spaces",
    "undefined alias": "an alias (*) without an anchor (&) above; put quotes around a value that begins with *",
    "duplicate anchor": "this anchor (&) stands twice; give each its own name",
    "mapping values are": 'one colon too many in this line; put quotes around a value with ": "',
    "expected a single document": "a second document begins here; keep one, without a --- line between",
    "block end": "this line does not fit the indentation above it; align it with its neighbours",
    "while scanning a quoted": "a quote is opened here and never closed",
    "could not find expected ':'": "a key without a colon; write it as `key: value`",
    "cannot start any token": "a value cannot begin with this character; put quotes around it",
    "expected ',' or": "a bracket is not closed, or a comma is missing between two values",
}
"""What YAML's own parser says, by a part of it, in words that help. Its own are not passed on: they may quote."""


def read_document(
    path: Path, *, absent: str = "no such file; check the name and the folder", may_be_empty: bool = False
) -> Document:
    """Read a file and everything that is wrong with it as YAML. Raises nothing for what a user can get wrong.

    `absent` is what is said when there is none; a file that may be empty then counts as an empty map.
    """
    try:
        text = _text_of(path, absent)
    except _UnusableError as unusable:
        return _nothing(unusable)
    return parse_document(text, str(path), may_be_empty=may_be_empty)


def parse_document(text: str, file: str, *, may_be_empty: bool = False) -> Document:
    """As `read_document`, for text that is there already; `file` names it in places."""
    reading = _Reading(file)
    try:
        top = _composed(text, file)
        root = Node({}, Place(file, 1, 1)) if top is None else reading.node(top, (), None)
    except _UnusableError as unusable:
        return _nothing(unusable)
    if top is None and not may_be_empty:
        message = f"the file is empty; the smallest that does something is: {EXAMPLE}"
        return _nothing(_UnusableError(message, root.place))
    if not isinstance(root.value, Mapping):
        message = f"must be a map of keys; the smallest that does something is: {EXAMPLE}"
        return _nothing(_UnusableError(message, root.place))
    return Document(root, tuple(reading.findings))


class _LostError(Exception):
    """A value that cannot be read; the rest of the document can."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _UnusableError(Exception):
    """A document of which nothing can be used."""

    def __init__(self, text: str, place: Place) -> None:
        super().__init__(text)
        self.text = text
        self.place = place


class _Loader(yaml.SafeLoader):
    """YAML to nodes, never deeper than DEPTH_MAX: Python's own stack would end first, with no place to tell."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "too deep", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reading:
    """YAML nodes to ours, aliases and merge keys resolved."""

    def __init__(self, file: str) -> None:
        self.findings: list[Finding] = []
        self._file = file
        self._values = 0
        self._open: set[int] = set()
        self._scalars = yaml.constructor.SafeConstructor()

    def node(self, source: yaml.Node, loc: Loc, key: yaml.Node | None) -> Node:
        place = _place(self._file, source.start_mark)
        self._values += 1
        if self._values > VALUES_MAX:
            text = f"holds more than {VALUES_MAX:,} values, aliases counted each time; write fewer"
            raise _UnusableError(text, place)
        if len(self._open) > DEPTH_MAX:
            raise _UnusableError(_DEEP, place)
        if id(source) in self._open:
            raise _UnusableError("this anchor (&) holds an alias (*) of itself; write the values out", place)
        key_place = None if key is None else _place(self._file, key.start_mark)
        self._open.add(id(source))
        try:
            return Node(self._value(source, loc), place, key_place)
        except _LostError as lost:
            self._tell(source, loc, lost.text)
            return Node(None, place, key_place, is_lost=True)
        finally:
            self._open.discard(id(source))

    def _value(self, source: yaml.Node, loc: Loc) -> Scalar | tuple[Node, ...] | dict[str, Node]:
        if isinstance(source, yaml.MappingNode) and source.tag == _MAP:
            return self._map(source, loc)
        if isinstance(source, yaml.SequenceNode) and source.tag == _LIST:
            return tuple(self.node(item, (*loc, position), None) for position, item in enumerate(source.value))
        if isinstance(source, yaml.ScalarNode):
            return self._scalar(source)
        raise _LostError(_TAG)

    def _scalar(self, source: yaml.ScalarNode) -> Scalar:
        if source.tag in _TEXT:
            return _text(source)
        if source.tag not in _SCALARS:
            raise _LostError(_TAG)
        if source.tag == "tag:yaml.org,2002:null" and source.value == "":
            raise _LostError("has no value; give one, or remove the key")
        try:
            return cast("Scalar", self._scalars.construct_object(source))
        except (ValueError, KeyError, yaml.YAMLError):
            raise _LostError("this is not the kind of value it says; put quotes around it if it is text") from None

    def _map(self, source: yaml.MappingNode, loc: Loc) -> dict[str, Node]:
        found: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in source.value:
            if key.tag == _MERGE:
                for name, node in self._merged(value, loc).items():
                    merged.setdefault(name, node)
                continue
            try:
                name = _text(key)  # the text, not the value: YAML 1.1 would read the key `on` as true
            except _LostError as lost:
                self._tell(key, loc, lost.text)
                continue
            node = self.node(value, (*loc, name), key)
            if name in found:
                first = found[name].key_place
                message = f"this key stands twice in its map, first in line {first.line if first else '?'}; keep one"
                self.findings.append(Finding((*loc, name), message, on_key=True, place=node.key_place))
                continue
            found[name] = node
        return merged | found

    def _merged(self, source: yaml.Node, loc: Loc) -> dict[str, Node]:
        if isinstance(source, yaml.MappingNode):
            return dict(cast("Mapping[str, Node]", self.node(source, loc, None).value))
        merged: dict[str, Node] = {}
        if isinstance(source, yaml.SequenceNode):
            for item in source.value:
                for name, node in self._merged(item, loc).items():
                    merged.setdefault(name, node)
        else:
            self._tell(source, loc, "what `<<` merges must be a map")
        return merged

    def _tell(self, source: yaml.Node, loc: Loc, message: str) -> None:
        self.findings.append(Finding(loc, message, place=_place(self._file, source.start_mark)))


def _text(source: yaml.Node) -> str:
    text = source.value
    if not isinstance(text, str):
        raise _LostError("a key must be a plain word")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _LostError("holds half of a surrogate pair (\\ud800 to \\udfff); write the character itself") from None
    return text


def _text_of(path: Path, absent: str) -> str:
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(SIZE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise _UnusableError(absent, Place(file)) from None
    except IsADirectoryError:
        raise _UnusableError("is a folder; name the file in it", Place(file)) from None
    except OSError as error:
        message = f"cannot be read: {error.strerror or 'unknown reason'}; check its permissions"
        raise _UnusableError(message, Place(file)) from None
    if len(raw) > SIZE_MAX_BYTES:
        message = "is larger than 1 MiB; a configuration is smaller, is this the right file?"
        raise _UnusableError(message, Place(file))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        place = Place(file, before.count(b"\n") + 1, column)
        raise _UnusableError("this is not UTF-8; save the file in the UTF-8 encoding", place) from None


def _composed(text: str, file: str) -> yaml.Node | None:
    """YAML's own tree, None for an empty file."""
    try:
        top: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise _UnusableError(_syntax(error), _place(file, error.problem_mark or error.context_mark)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(file, before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
        raise _UnusableError("a control character that cannot be part of YAML; remove it", place) from None
    is_empty = isinstance(top, yaml.ScalarNode) and top.tag.endswith(":null") and top.value == ""
    return None if is_empty else top


def _nothing(unusable: "_UnusableError") -> Document:
    return Document(None, (Finding((), unusable.text, place=unusable.place),))


def _place(file: str, mark: "yaml.Mark | None") -> Place:
    return Place(file) if mark is None else Place(file, mark.line + 1, mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    said = f"{error.context or ''}; {error.problem or ''}"
    if error.problem == "too deep":
        return _DEEP
    for part, sentence in _SYNTAX.items():
        if part in said:
            return sentence
    return "this is not valid YAML; check the indentation, quotes and brackets here and in the line above"
