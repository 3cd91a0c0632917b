"""A problem is one line that an editor can follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamgate.config.problem import ConfigurationError, Finding, Loc, Place, Problem, overlaps, path_text


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        ((), ""),
        (("gate",), "gate"),
        (("services", 0, "timeouts", "idle"), "services[0].timeouts.idle"),
        (("respond", "headers", "X-A"), "respond.headers.X-A"),
        (("a", "b.c", 1), 'a["b.c"][1]'),
        (("evil\n\x1b[31m",), '["evil\\n\\u001b[31m"]'),
    ],
)
def test_a_path_is_written_as_people_do(loc: Loc, text: str) -> None:
    assert path_text(loc) == text


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        (("a",), ("a", "b"), True),
        (("a", 0, "b"), ("a", 0), True),
        (("a", 0), ("a", 0), True),
        (("a", 0), ("a", 1), False),
        (("a", "b"), ("a", "c"), False),
        ((), ("a",), True),
    ],
)
def test_places_overlap_when_one_holds_the_other(one: Loc, other: Loc, *, is_so: bool) -> None:
    assert overlaps(one, other) is is_so
    assert overlaps(other, one) is is_so


def test_a_problem_is_one_line() -> None:
    finding = Finding(("services", 0, "timout"), "unknown key", "timeouts", on_key=True)
    problem = finding.at(Place("streamgate.yaml", 12, 5))
    assert str(problem) == 'streamgate.yaml:12:5: services[0].timout: unknown key; did you mean "timeouts"?'
    assert (problem.file, problem.line, problem.column, problem.path) == (
        "streamgate.yaml",
        12,
        5,
        "services[0].timout",
    )


def test_a_warning_says_so() -> None:
    problem = Finding(("routes",), "no routes", severity="warning").at(Place("a.yaml", 1, 1))
    assert str(problem) == "a.yaml:1:1: warning: routes: no routes"


def test_a_problem_of_the_file_as_a_whole_has_neither_line_nor_path() -> None:
    assert str(Problem("", None, None, "a.yaml", "no such file")) == "a.yaml: no such file"


def test_an_error_has_a_line_for_each_problem() -> None:
    problems = [Problem("", None, None, "a.yaml", "one"), Problem("b", 2, 3, "a.yaml", "two")]
    error = ConfigurationError(problems, [Path("a.yaml")])
    assert str(error) == "a.yaml: one\na.yaml:2:3: b: two"
    assert error.problems == tuple(problems)
    assert error.files == (Path("a.yaml"),)
