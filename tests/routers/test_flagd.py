"""Flags of a file: the verdicts of flagd's own testbed, and a file that is followed whatever is done to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import OpenFeatureError

from routers import flagd
from routers.flagd import FlagdFlags, FlagSet
from routers.flags import Verdict, failed
from streamgate.config.flag_document import FlagDocument, FlagFileError
from tests.kit.corpora import corpus
from tests.kit.wait import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

POLL_S = 0.01
OTHER_GENERATIONS = {"@fractional-v1", "@fractional-v2", "@no-default"}
"""Of the testbed's cases: percentage hashes before the one the evaluator has, and what the testbed itself has given up."""


def one(variant: str = "stable", **more: object) -> dict[str, Any]:
    variants = {"stable": "stable", "canary": "next"}
    return {"state": "ENABLED", "variants": variants, "defaultVariant": variant, **more}


def written(flags: dict[str, Any], **top: object) -> str:
    return json.dumps({"flags": flags, **top})


def compiled(flags: dict[str, Any], **top: object) -> FlagSet:
    return FlagSet(FlagDocument(written(flags, **top).encode(), "flags.json"))


class Followed:
    """Flags of a file, and what was told of it."""

    def __init__(self, path: Path, poll_s: float = POLL_S) -> None:
        self.problems: list[str] = []
        self.changes: list[tuple[str, ...]] = []
        self.flags = FlagdFlags(path, on_problem=self.problems.append, on_change=self.changes.append, poll_s=poll_s)

    def value(self, key: str = "f") -> str | None:
        return self.flags.evaluate_nowait(key, {}).value


@contextlib.asynccontextmanager
async def following(path: Path, poll_s: float = POLL_S) -> AsyncIterator[Followed]:
    followed = Followed(path, poll_s)
    yield followed
    await followed.flags.close()
    assert not any(thread.name == f"flags {path.name}" for thread in threading.enumerate())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    path.write_text(written({"f": one()}))
    return path


# -- others' cases ---------------------------------------------------------------------------------------------------------


def merged_testbed() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = corpus("openfeature")
    merged: dict[str, Any] = {"flags": {}, "$evaluators": {}}
    for file in sorted((folder / "flags").glob("*.json")):
        if not file.name.startswith("selector-"):
            part = json.loads(file.read_text())
            merged["flags"] |= part["flags"]
            merged["$evaluators"] |= part.get("$evaluators", {})
    return merged, [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]


def context_of(case: dict[str, Any]) -> dict[str, Any]:
    context = dict(case["context"])
    if any(name in case["id"] for name in ("advanced structures", "map key ordering")):
        context = {name: json.loads(text) for name, text in context.items()}  # objects, written as text in the table
    return context | ({"targetingKey": case["targeting_key"]} if "targeting_key" in case else {})


def test_the_testbed_s_cases() -> None:
    merged, cases = merged_testbed()
    flags = FlagSet(FlagDocument(json.dumps(merged).encode(), "testbed"))
    applicable = [case for case in cases if case["type"] == "String" and not OTHER_GENERATIONS & set(case["tags"])]
    assert len(applicable) >= 200
    for case in applicable:
        verdict = flags.evaluate(case["key"], context_of(case))
        told = {
            "value": case["default"] if verdict.value is None else verdict.value,
            "reason": verdict.reason,
            "variant": verdict.variant or "",
            "error_code": verdict.error or "",
        }
        assert {name: told[name] for name in case["expect"] if name in told} == case["expect"], case["id"]


def test_what_is_no_text_names_no_split() -> None:
    merged, cases = merged_testbed()
    flags = FlagSet(FlagDocument(json.dumps(merged).encode(), "testbed"))
    others = {case["key"] for case in cases if case["type"] != "String" and not OTHER_GENERATIONS & set(case["tags"])}
    verdicts = [flags.evaluate(key, {}) for key in others]
    assert {verdict.error for verdict in verdicts} >= {"TYPE_MISMATCH"}
    assert all(verdict.value is None for verdict in verdicts)


def test_every_verdict_is_the_provider_s_own(tmp_path: Path) -> None:
    """The published provider in file mode, asked through the SDK, for every flag and context of the testbed."""
    merged, cases = merged_testbed()
    path = tmp_path / "all.json"
    path.write_text(json.dumps(merged))
    ours = FlagSet(FlagDocument(path.read_bytes(), "testbed"))
    provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=50)
    api.set_provider_and_wait(provider, "streamgate-test")
    try:
        client = api.get_client("streamgate-test")
        contexts = [{}, {"targetingKey": ""}, *map(context_of, cases)]
        contexts = list({json.dumps(context): context for context in contexts}.values())
        for key in [*merged["flags"], "nowhere"]:
            for context in contexts:
                theirs = client.get_string_details(key, "\0default", EvaluationContext(context.get("targetingKey"), context))
                value = None if theirs.value == "\0default" else theirs.value
                error = None if theirs.error_code is None else theirs.error_code.value
                assert ours.evaluate(key, context) == Verdict(key, value, theirs.variant, str(theirs.reason), error), (key, context)
    finally:
        provider.shutdown()


TEXTS = st.sampled_from(["a", "b", "true", "false", ""])
FLAGS = st.fixed_dictionaries(
    {
        "state": st.sampled_from(["ENABLED", "ENABLED", "DISABLED"]),
        "variants": st.dictionaries(TEXTS, st.sampled_from(["A", 1, True, None, {}, ""]), min_size=1),
    },
    optional={
        "defaultVariant": TEXTS | st.none() | st.booleans() | st.just(0),
        "targeting": st.sampled_from(
            [{}, None, [], 3, {"if": [True, "a"]}, {"var": "x"}, {"nope": 1}, {"fractional": [["a", 1]]}, {"/": [1, 0]}]
        ),
    },
)


@given(FLAGS, st.sampled_from([{}, {"x": "b"}, {"x": [1], "targetingKey": "u"}]))
def test_a_flag_settled_ahead_is_what_the_evaluator_says(flag: dict[str, Any], context: dict[str, Any]) -> None:
    text = written({"f": flag})
    ours = FlagSet(FlagDocument(text.encode(), "flags.json")).evaluate("f", context)
    core = FlagdCore()
    core.set_flags(text)
    default = "\0"
    try:
        found = core.resolve_string_value("f", default, EvaluationContext(context.get("targetingKey"), context))
    except OpenFeatureError as error:
        theirs = failed("f", error.error_code.value)
    except Exception:
        theirs = failed("f", "GENERAL")
    else:
        theirs = Verdict("f", None if found.value == default else found.value, found.variant, str(found.reason))
    assert ours == theirs


# -- a set of flags --------------------------------------------------------------------------------------------------------


def test_rules_see_the_context() -> None:
    by_tenant = {"if": [{"==": [{"var": "tenant"}, "acme"]}, "canary", None]}
    flags = compiled({"f": one(targeting=by_tenant), "g": one(targeting={"var": "targetingKey"})})
    assert flags.evaluate("f", {"tenant": "acme"}) == Verdict("f", "next", "canary", "TARGETING_MATCH")
    assert flags.evaluate("f", {"tenant": "other"}) == Verdict("f", "stable", "stable", "DEFAULT")
    assert flags.evaluate("g", {"targetingKey": "canary"}).value == "next"
    assert flags.evaluate("g", {"targetingKey": ""}).reason == "DEFAULT"
    assert flags.evaluate("nowhere", {}) == failed("nowhere", "FLAG_NOT_FOUND")


def test_shared_rules_may_hold_any_letter_and_name_each_other() -> None:
    rules = {"outer": {"or": [{"$ref": "inner"}, False]}, "inner": {"==": [{"var": "city"}, "Orléans\\\n"]}}
    flags = compiled({"f": one(targeting={"if": [{"$ref": "outer"}, "canary", "stable"]})}, **{"$evaluators": rules})
    assert flags.evaluate("f", {"city": "Orléans\\\n"}).value == "next"
    assert flags.evaluate("f", {"city": "Paris"}).value == "stable"


def test_what_the_evaluator_refuses_is_told_without_what_is_in_it() -> None:
    with pytest.raises(FlagFileError, match=r"^flags\.json: is refused by flagd's evaluator \(ParseError\)") as info:
        compiled({"f": one(metadata={"$ref": "x"})}, **{"$evaluators": {"x": ["hush"]}})
    assert "hush" not in str(info.value)


@pytest.mark.parametrize("rule", [{"sem_ver": [{"var": "v"}, "=", "1.0.0"]}, {"fractional": [["stable", 1], ["canary", 1]]}])
def test_a_request_that_a_rule_cannot_take_is_not_logged(rule: object, capfd: pytest.CaptureFixture[str]) -> None:
    assert compiled({"f": one(targeting=rule)}).evaluate("f", {"v": "hush"}).value == "stable"
    assert logging.getLogger("openfeature.contrib").getEffectiveLevel() > logging.CRITICAL
    assert capfd.readouterr().err == ""


# -- a file that is followed -----------------------------------------------------------------------------------------------


async def test_both_ways_of_asking_say_the_same(file: Path) -> None:
    async with following(file) as followed:
        assert followed.flags.evaluate_nowait("f", {}) == Verdict("f", "stable", "stable", "STATIC")
        assert await followed.flags.decide("f", {}) == Verdict("f", "stable", "stable", "STATIC")
        assert (followed.problems, followed.changes) == ([], [("f",)])
        figures = followed.flags.statistics()
        assert (figures.provider, figures.is_ready, figures.flags, figures.refreshes) == ("flagd", True, 1, 1)
        assert (figures.problems, figures.problem) == (0, None)


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def by_renaming(file: Path, text: str) -> None:
    beside = file.with_name("beside")
    beside.write_text(text)
    beside.replace(file)


def by_an_older_file(file: Path, text: str) -> None:
    beside = file.with_name("beside")
    beside.write_text(text)
    os.utime(beside, (1, 1))
    beside.replace(file)


def by_turning_a_link(file: Path, text: str) -> None:
    """As Kubernetes replaces what it has mounted: the name leads through a link that is turned to another folder."""
    folder = file.parent / f"data-{len(list(file.parent.iterdir()))}"
    folder.mkdir()
    (folder / "flags.json").write_text(text)
    link = file.parent / "data.new"
    link.symlink_to(folder.name)
    link.replace(file.parent / "data")
    if not file.is_symlink():
        file.unlink()
        file.symlink_to("data/flags.json")


def by_the_same_size_and_time(file: Path, text: str) -> None:
    about = file.stat()
    with file.open("r+") as same:
        same.write(text)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (about.st_mtime_ns, about.st_size)


@pytest.mark.parametrize("change", [in_place, by_renaming, by_an_older_file, by_turning_a_link, by_the_same_size_and_time])
async def test_a_changed_file_is_followed(file: Path, change: Callable[[Path, str], None]) -> None:
    async with following(file, poll_s=0.1) as followed:
        change(file, written({"f": one("canary")}))
        await eventually(lambda: followed.value() == "next")
        assert followed.changes == [("f",), ("f",)]
        assert followed.problems == []



async def test_a_file_that_stays_as_it_is_is_no_longer_read(file: Path) -> None:
    followed = Followed(file)
    await followed.flags.close()
    for _ in range(flagd.SETTLE_LOOKS + 1):
        followed.flags._step()
    by_the_same_size_and_time(file, written({"f": one("canary")}))
    followed.flags._step()
    assert followed.value() == "stable", "nothing of the file tells that it is another"
    os.utime(file)
    followed.flags._step()
    assert followed.value() == "next"


async def test_links_turned_again_and_again(file: Path) -> None:
    async with following(file) as followed:
        for variant, value in [("canary", "next"), ("stable", "stable")] * 5:
            by_turning_a_link(file, written({"f": one(variant)}))
            await eventually(lambda value=value: followed.value() == value)


@pytest.mark.parametrize("text", ["{", '{"flags": {"f": {"state": "ON", "variants": {"a": "hush"}}}}', "\udcff"])
async def test_a_broken_file_leaves_the_last_good_one_in_force_and_is_told_once(file: Path, text: str) -> None:
    async with following(file) as followed:
        file.write_bytes(text.encode(errors="surrogateescape"))
        told = await eventually(lambda: followed.problems)
        assert followed.value() == "stable"
        assert told[0].startswith(str(file))
        assert told[0].endswith("; the flags read before stay in force")
        assert "hush" not in told[0]
        for _ in range(3):
            followed.flags._step()
        assert len(told) == 1
        file.write_text(written({"f": one("canary")}))
        await eventually(lambda: followed.value() == "next")
        file.write_bytes(text.encode(errors="surrogateescape"))
        await eventually(lambda: len(followed.problems) == 2)
        figures = followed.flags.statistics()
        assert figures.problems >= 2, "an edit in place may have been seen half way, which is counted and not told"
        assert (figures.refreshes, figures.is_ready) == (2, True)
        assert figures.problem is not None


async def test_what_one_look_alone_saw_broken_is_counted_and_not_told(file: Path) -> None:
    """Who edits in place has nothing, or half, in the file for a moment."""
    followed = Followed(file)
    await followed.flags.close()
    text = file.read_text()
    for half in ("", text[:20]):
        file.write_text(half)
        followed.flags._step()
        file.write_text(text)
        followed.flags._step()
    assert followed.problems == []
    assert followed.flags.statistics().problems == 2
    assert followed.value() == "stable"


async def test_a_file_that_is_away_for_longer_is_told_and_comes_back(file: Path) -> None:
    async with following(file) as followed:
        text = file.read_text()
        file.unlink()
        [told] = await eventually(lambda: followed.problems)
        assert told == f"{file}: cannot be read: no such file or directory; the flags read before stay in force"
        assert followed.value() == "stable"
        file.write_text(text)
        await eventually(lambda: followed.flags.statistics().problem is None)
        assert followed.changes == [("f",)], "the same flags are no change"


async def test_without_a_good_file_at_the_start_it_starts_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    async with following(path) as followed:
        assert followed.problems == [f"{path}: cannot be read: no such file or directory"]
        assert followed.flags.evaluate_nowait("f", {}) == failed("f", "PROVIDER_NOT_READY")
        assert (followed.flags.statistics().is_ready, followed.flags.statistics().flags) == (False, None)
        path.write_text("{")
        await eventually(lambda: len(followed.problems) == 2)
        assert followed.problems[1].startswith(f"{path}:1:2: is not JSON")
        path.write_text(written({"f": one()}))
        await eventually(lambda: followed.value() == "stable")


async def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    """Opening a pipe would wait for whoever writes into it."""
    path = tmp_path / "flags.json"
    os.mkfifo(path)
    async with following(path) as followed:
        assert followed.problems == [f"{path}: is not a file"]


async def test_a_file_too_large_is_not_read(file: Path) -> None:
    os.truncate(file, flagd.FILE_MAX_BYTES + 1)
    async with following(file) as followed:
        assert followed.problems == [f"{file}: is larger than 16MiB"]


async def test_the_keys_of_changed_flags_are_told(file: Path) -> None:
    file.write_text(written({"a": one(), "b": one(), "c": one(targeting={"if": [True, "stable"]})}))
    async with following(file) as followed:
        file.write_text(written({"d": one(), "c": one(targeting={"if": [True, "canary"]}), "b": one()}, x=1))
        await eventually(lambda: len(followed.changes) == 2)
        assert followed.changes == [("a", "b", "c"), ("a", "c", "d")]


async def test_a_callback_that_raises_does_not_end_it(file: Path) -> None:
    def broken(_keys: tuple[str, ...]) -> None:
        if file.exists() and "canary" in file.read_text().split("defaultVariant")[1]:
            raise RuntimeError("broken")

    flags = FlagdFlags(file, on_problem=print, on_change=broken, poll_s=POLL_S)
    file.write_text(written({"f": one("canary")}))
    await eventually(lambda: flags.evaluate_nowait("f", {}).value == "next")
    file.write_text(written({"f": one("stable")}))
    await eventually(lambda: flags.evaluate_nowait("f", {}).value == "stable")
    await flags.close()


async def test_several_in_one_process_do_not_meet(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, variant in zip(paths, ["stable", "canary"], strict=True):
        path.write_text(written({"f": one(variant)}))
    async with following(paths[0]) as a, following(paths[1]) as b:
        assert (a.value(), b.value()) == ("stable", "next")
        paths[0].write_text(written({"f": one("canary")}))
        paths[1].write_text(written({"f": one("stable")}))
        await eventually(lambda: (a.value(), b.value()) == ("next", "stable"))


async def test_closing_ends_the_thread_at_once_and_answers_go_on(file: Path) -> None:
    followed = Followed(file, poll_s=3600)
    started = time.monotonic()
    await asyncio.wait_for(followed.flags.close(), 10)
    assert time.monotonic() - started < 10, "not at the next look, which is an hour away"
    assert not any(thread.name == "flags flags.json" for thread in threading.enumerate())
    assert followed.value() == "stable"
    await followed.flags.close()


async def test_the_loop_is_served_while_files_change(file: Path) -> None:
    """Evaluating takes no lock that reading holds: whole sets are exchanged."""
    many = {f"flag-{number}": one() for number in range(2000)}
    async with following(file) as followed:
        for variant in ("canary", "stable", "canary"):
            by_renaming(file, written({**many, "f": one(variant)}))
            seen = set()
            end = {"canary": "next", "stable": "stable"}[variant]
            while end not in seen:
                seen.add(followed.value())
                await asyncio.sleep(0)
            assert seen <= {"next", "stable"}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("flags ")] == []
