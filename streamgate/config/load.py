"""From files to a checked configuration: read, lay the environment's file over it, resolve secrets, fit, cross-check.

Everything that is wrong is told at once, each with its line; nothing is half accepted.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamgate.config.certificates import files_of, why_unfit
from streamgate.config.document import Document, Node, merge
from streamgate.config.problem import ConfigurationError, Finding, Loc, Place, Problem
from streamgate.config.secrets import resolve
from streamgate.config.sentences import quoted
from streamgate.config.shape import fit
from streamgate.config.spec import Spec
from streamgate.config.validate import cross_check
from streamgate.config.yaml_file import read_document

__all__ = ["ConfigurationError", "Loaded", "Problem", "load"]

_ENVIRONMENT = re.compile(r"[A-Za-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that was read and is sound."""

    spec: Spec
    hash: str
    """SHA-256 in hex of the merged document before references are resolved: the same content has the same hash, however
    it is laid out, and no secret is in it that is not in the file."""
    source: str
    """The file, as it was named."""
    environment: str | None
    files: tuple[Path, ...]
    """Every file it was read from, secrets and certificates included: when one changes, load again."""
    warnings: tuple[Problem, ...]
    """What is allowed and probably not meant."""


def load(path: Path, *, env: str | None = None, environ: Mapping[str, str]) -> Loaded:
    """Read a configuration, with `name.<env>.yaml` beside it laid over it when `env` is given.

    `environ` is what `${env:NAME}` looks into. Raises ConfigurationError with every problem there is.
    """
    files, documents = _read(path, env)
    findings = [finding for document in documents for finding in document.findings]
    roots = [document.root for document in documents if document.root is not None]
    if len(roots) < len(documents):
        raise ConfigurationError(_placed(findings, Node({}, Place(str(path))), files), files)
    root = merge(*roots) if env is not None else roots[0]
    plain = root.plain()
    resolved = resolve(plain, environ=environ, folder=path.parent)
    broken = {*root.lost(), *(finding.loc for finding in resolved.findings)}
    fitted = fit(copy.deepcopy(resolved.data), root, broken=broken, folder=path.parent)
    crossed = cross_check(fitted.spec, why_unreadable=why_unreadable, why_unfit=why_unfit, shown=partial(_as_written, root))
    findings += [*resolved.findings, *fitted.findings, *filter(fitted.is_sound, crossed)]
    files = (*files, *resolved.files, *files_of(fitted.spec))
    problems = _placed(findings, root, files)
    if any(problem.severity == "error" for problem in problems):
        raise ConfigurationError(problems, files)
    return Loaded(fitted.spec, _hash(plain), str(path), env, files, problems)


def why_unreadable(path: Path) -> str | None:
    """Why a file cannot be read now, None when it can."""
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return (error.strerror or "unknown reason").lower()


def _read(path: Path, env: str | None) -> tuple[tuple[Path, ...], tuple[Document, ...]]:
    if env is None:
        return (path,), (read_document(path),)
    if _ENVIRONMENT.fullmatch(env) is None:
        message = "the name of an environment holds letters, digits, - and _ only, such as prod"
        raise ConfigurationError([Problem("", None, None, str(path), f"{quoted(env)}: {message}")], (path,))
    beside = path.with_name(f"{path.stem}.{env}{path.suffix}")
    absent = f"no such file beside the configuration; create it (it may be empty), or leave out --env {env}"
    return (path, beside), (read_document(path), read_document(beside, absent=absent, may_be_empty=True))


def _hash(plain: object) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _as_written(root: Node, loc: Loc, text: str) -> str:
    node = root.find(loc)
    return quoted(text if node is None else node.plain())


def _placed(findings: Iterable[Finding], root: Node, files: tuple[Path, ...]) -> tuple[Problem, ...]:
    """Findings as problems, in the order of the files and lines."""
    order = {str(file): position for position, file in enumerate(files)}
    problems = [one.at(one.place or root.place_of(one.loc, on_key=one.on_key)) for one in findings]
    return tuple(sorted(problems, key=lambda one: (order.get(one.file, 0), one.line or 0, one.column or 0, one.path)))
