"""Whether a document has the shape of the language, told in plain sentences, and what of it can be used all the same.

A mistake in one place must not hide those in others: what is wrong is cut out of the document, or a stand-in put where
something has to be, and the rest is read again until it fits. So the checks that compare places with each other
(`streamgate.config.validate`) run over every configuration, and those that met a cut are not told.
"""

import copy
import difflib
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from streamgate.config.document import Node
from streamgate.config.problem import Finding, Loc, overlaps
from streamgate.config.secrets import has_reference
from streamgate.config.section import FOLDER
from streamgate.config.sentences import sentence
from streamgate.config.spec import Spec

ROUNDS_MAX: Final = 12
"""Each round cuts at least one level higher, and the language is six levels deep; twice that is never reached."""

_SERVICE: Final = {"id": "unreadable", "url": "http://unreadable.invalid"}
_ROUTE: Final = {"id": "unreadable", "match": {"paths": ["/"]}, "to": {"respond": {"status": 200}}}
_MODEL: Final = {"name": "unreadable", "splits": {"unreadable": [{"service": "unreadable"}]}}
_STAND_INS: Final[dict[str, dict[str, Any]]] = {"services": _SERVICE, "models": _MODEL, "routes": _ROUTE}


@dataclass
class Fit:
    """What came of fitting a document to the language."""

    spec: Spec = field(default_factory=Spec)
    """The document, with cuts and stand-ins where it was wrong."""
    findings: list[Finding] = field(default_factory=list)
    broken: set[Loc] = field(default_factory=set)
    """Places that could not be read: nothing may be concluded from what the spec says there."""

    def is_sound(self, finding: Finding) -> bool:
        """Whether a conclusion rests on places that could be read."""
        places = (finding.loc, *finding.reads)
        return not any(overlaps(place, cut) for place in places for cut in self.broken)


def fit(
    data: Any,
    written: Node,
    *,
    broken: set[Loc],
    folder: Path,
    rounds: int = ROUNDS_MAX,
) -> Fit:
    """Fit resolved data to the language. It is cut where it does not fit, so pass a copy.

    `written` is the same document before references were resolved, for what is shown; `broken` are places already
    known to be wrong, of which nothing is told again; relative file names are taken from `folder`. A document that does
    not fit after so many `rounds` of cutting is as good as empty, and nothing is concluded from it.
    """
    result = Fit(broken=set(broken))
    for _ in range(rounds):
        try:
            result.spec = Spec.model_validate(data, context={FOLDER: folder})
        except ValidationError as invalid:
            known = frozenset(result.broken)
            errors = invalid.errors(include_url=False, include_input=False)
            # Unknown keys first: one that was misspelt explains why another is missing.
            for error in sorted(errors, key=lambda one: one["type"] != "extra_forbidden"):
                _take(error, data, written, known, result)
        else:
            return result
    result.broken.add(())
    return result


def _take(error: ErrorDetails, data: Any, written: Node, known: frozenset[Loc], result: Fit) -> None:
    loc = tuple(step for step in error["loc"] if step != "[key]")
    named = tuple((*loc, name) for name in error.get("ctx", {}).get("fields", ()))
    explained = loc in result.broken and error["type"] == "missing"
    if not explained and not any(overlaps(place, cut) for place in (named or (loc,)) for cut in known):
        finding = _finding(error, loc, written)
        result.findings.append(finding)
        if finding.on_key and finding.suggestion is not None:
            result.broken.add((*loc[:-1], finding.suggestion))
    result.broken.update(named or (loc,))
    _cut(data, loc, error["type"], [place[-1] for place in named])


def _cut(data: Any, loc: Loc, kind: str, named: list[str | int]) -> None:
    """Take out what does not fit, or put a stand-in where something has to be."""
    stand_in = _STAND_INS.get(str(loc[0]))
    item_depth, key_depth = 2, 3
    if stand_in is not None and len(loc) == item_depth and not named:
        data[loc[0]][loc[1]] = copy.deepcopy(stand_in)
    elif stand_in is not None and len(loc) == item_depth:
        item = data[loc[0]][loc[1]]
        for name in named:
            item.pop(name, None)
        item |= {name: copy.deepcopy(value) for name, value in stand_in.items() if name in named}
    elif stand_in is not None and len(loc) == key_depth and loc[2] in stand_in:
        data[loc[0]][loc[1]][loc[2]] = copy.deepcopy(stand_in[str(loc[2])])
    elif kind == "missing" or isinstance(loc[-1], int):
        _cut(data, loc[:-1], "", [])
    else:
        holder = data
        for step in loc[:-1]:
            holder = _below(holder, step)
        holder.pop(loc[-1], None)


def _below(holder: Any, step: str | int) -> Any:
    """What stands at a step; nothing where an earlier cut has left nothing."""
    if isinstance(holder, list) and isinstance(step, int):
        return holder[step]
    return holder.get(step, {}) if isinstance(holder, dict) else {}


def _finding(error: ErrorDetails, loc: Loc, written: Node) -> Finding:
    kind = error["type"]
    is_key = bool(error["loc"]) and error["loc"][-1] == "[key]"
    node = written.find(loc)
    given = loc[-1] if is_key else None if node is None else node.plain()
    holder, about = _holder(loc[:-1]), _field(loc)
    details: dict[str, Any] = {"about": "", "choices": "", **error.get("ctx", {})}
    suggestion = None
    if kind == "extra_forbidden":
        suggestion = _nearest(str(loc[-1]), _keys(holder))
    elif kind == "missing":
        details["about"] = (about.description if about else None) or "see `streamgate schema`"
    elif kind == "model_type":
        details["choices"] = ", ".join(_keys(_holder(loc)))
    elif kind == "literal_error":
        choices = _choices(_annotation(loc))
        details["choices"] = ", ".join(choices)
        suggestion = _nearest(given, choices) if isinstance(given, str) else None
    message = sentence(kind, given, **details)
    if has_reference(given):
        message += " (as its reference resolves)"
    return Finding(loc, message, suggestion, on_key=is_key or kind == "extra_forbidden")


def _nearest(word: str, choices: list[str]) -> str | None:
    found = difflib.get_close_matches(word.lower().replace("-", "_"), choices, n=1)
    return found[0] if found else None


def _keys(model: type[BaseModel] | None) -> list[str]:
    """The keys a section has in this version."""
    fields = {} if model is None else model.model_fields
    return [info.alias or name for name, info in fields.items() if info.annotation is not type(None)]


def _annotation(loc: Loc) -> Any:
    """The type at a place of the language, without what may stand around it."""
    found: Any = Spec
    for step in loc:
        if isinstance(found, type) and issubclass(found, BaseModel):
            info = found.model_fields.get(str(step))
            found = None if info is None else info.annotation
        elif get_origin(found) is tuple:
            found = get_args(found)[0]
        else:
            return None
        found = _bare(found)
    return found


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) in {Annotated, Union, types.UnionType}:
        annotation = next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation


def _holder(loc: Loc) -> type[BaseModel] | None:
    found = _annotation(loc)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _field(loc: Loc) -> FieldInfo | None:
    holder = _holder(loc[:-1])
    return None if holder is None else holder.model_fields.get(str(loc[-1]))


def _choices(annotation: Any) -> list[str]:
    return [str(choice) for choice in get_args(annotation)] if get_origin(annotation) is Literal else []
