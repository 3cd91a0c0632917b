"""A flag file as a text: what is wrong is told with its line, and a change touches one word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore

from streamgate.config.flag_document import FlagDocument, FlagFileError
from tests.kit.corpora import corpus

FLAGS = """\
{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "flags": {
    "tutor-split": {
      "state": "ENABLED",
      "variants": {"stable": "stable", "canary": "canary-b"},
      "defaultVariant": "stable"
    },
    "other": { "state":"DISABLED", "variants": { "on":true , "off":false },
        "targeting": {"if": [true, "on"]}, "metadata": {"team": "\\u00e9cole"} }
  },
  "metadata": {"version": "7"}
}
"""


def document(text: str) -> FlagDocument:
    return FlagDocument(text.encode(), "flags.json")


def wrong(text: str | bytes) -> str:
    with pytest.raises(FlagFileError) as info:
        FlagDocument(text if isinstance(text, bytes) else text.encode(), "flags.json")
    told = str(info.value)
    assert "\n" not in told
    return told


def one(**members: object) -> str:
    sound = {"state": "ENABLED", "variants": {"a": "A"}, "defaultVariant": "a"}
    return json.dumps({"flags": {"f": {**sound, **members}}})


def test_its_flags_in_the_order_of_the_file() -> None:
    tutor, other = document(FLAGS).flags.values()
    assert (tutor.key, tutor.state, tutor.default_variant, tutor.default_value) == ("tutor-split", "ENABLED", "stable", "stable")
    assert (tutor.variants, tutor.has_targeting, tutor.line) == ({"stable": "stable", "canary": "canary-b"}, False, 4)
    assert (other.key, other.state, other.default_variant, other.default_value) == ("other", "DISABLED", None, None)
    assert (other.has_targeting, other.line) == (True, 9)


@pytest.mark.parametrize(
    ("default", "named"), [("a", "a"), ("", None), (None, None), (True, "true"), (False, None), (0, None), ("gone", "gone")]
)
def test_a_default_variant_is_read_as_the_evaluator_reads_it(default: object, named: str | None) -> None:
    text = one(defaultVariant=default, variants={"a": "A", "true": "T", "false": "F"})
    flag = document(text).flag("f")
    if default is False:
        named = "false"
    assert flag.default_variant == named
    core = FlagdCore()
    core.set_flags(text)
    if named != "gone":
        assert core.resolve_string_value("f", "none").variant == named


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "flags.json:1:1: is not JSON: expecting value"),
        ('{\n "flags": {,}}', "flags.json:2:12: is not JSON: expecting property name"),
        ("[]", 'flags.json: must be an object with a member "flags"'),
        ("{}", 'flags.json: needs a member "flags"'),
        ('{"flags": []}', 'flags.json: needs a member "flags"'),
        ('{"flags": {}, "metadata": null}', 'flags.json: "metadata" must be an object'),
        ('{"flags": {}, "metadata": {"a": []}}', 'flags.json: "metadata" member "a": must have a name'),
        ('{"flags": {}, "$evaluators": [1]}', 'flags.json: "$evaluators" must be an object'),
        ('{"flags":\n\n{"f": 3}}', 'flags.json:3: flag "f": must be an object'),
        (one(state="enabled"), 'flags.json:1: flag "f": "state" must be "ENABLED" or "DISABLED"'),
        (one(variants={}), 'flag "f": "variants" must be an object with at least one variant'),
        (one(variants=["a"]), 'flag "f": "variants" must be an object'),
        (one(defaultVariant=["a"]), 'flag "f": "defaultVariant" must be the name of a variant, or null'),
        (one(metadata={"": 1}), 'flag "f": "metadata" member ""'),
        (one(targetting={}), 'flag "f": the member "targetting" is not known; did you mean "targeting"'),
        (one(note="x"), 'flag "f": the member "note" is not known; move it to metadata'),
        (b"\xef\xbb\xbf{}", "flags.json: begins with a byte order mark; save it as UTF-8 without one"),
        (b'{"\xff": 1}', "flags.json: is not UTF-8 at byte 2"),
        ("[" * 100_000, "flags.json: is nested too deep"),
        ('{"flags": ' + "1" * 5000 + "}", "flags.json: has a number of too many digits"),
        ('{"flags": {}, "flags": {}}', 'flags.json:1: "flags" stands here a second time; remove one of the two'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, told: str) -> None:
    assert told in wrong(text)


def test_no_value_is_told() -> None:
    for text in (one(variants="hush"), one(state="hush"), one(defaultVariant={"a": "hush"}), one(metadata={"a": ["hush"]})):
        assert "hush" not in wrong(text)


def test_only_the_variant_is_changed() -> None:
    changed = document(FLAGS).with_default("tutor-split", "canary")
    assert changed == FLAGS.replace('"defaultVariant": "stable"', '"defaultVariant": "canary"')
    with_new = document(FLAGS).with_default("other", "off")
    assert with_new == FLAGS.replace('"other": { "state"', '"other": { "defaultVariant": "off", "state"')
    bare = one().replace('"defaultVariant": "a"', '"metadata": {}').replace('{"state"', '{\n  "state"')
    assert '{\n  "defaultVariant": "a",\n  "state"' in document(bare).with_default("f", "a")
    assert '"f": {"defaultVariant": "a", "variants"' in document(
        '{"flags": {"f": {"variants": {"a": 1}, "state": "ENABLED"}}}'
    ).with_default("f", "a")


@pytest.mark.parametrize(
    ("key", "variant", "told"),
    [
        ("tutor-splitt", "stable", 'flags.json: no flag "tutor-splitt"; did you mean "tutor-split"?'),
        ("zzz", "stable", 'flags.json: no flag "zzz"; there are: "tutor-split", "other"'),
        ("tutor-split", "canry", 'flags.json:4: flag "tutor-split" has no variant "canry"; did you mean "canary"?'),
        ("tutor-split", "canary-b", 'has no variant "canary-b"; that is the value of its variant "canary"'),
        ("tutor-split", "\x1b[2J", 'has no variant "\\u001b[2J"; there are: "stable", "canary"'),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_what_was_meant(key: str, variant: str, told: str) -> None:
    with pytest.raises(FlagFileError) as info:
        document(FLAGS).with_default(key, variant)
    assert told in str(info.value)


def test_of_many_names_only_some_are_told() -> None:
    many = {f"flag-{number}": json.loads(one())["flags"]["f"] for number in range(20)}
    with pytest.raises(FlagFileError, match=r'"flag-11" and 8 more$'):
        document(json.dumps({"flags": many})).flag("zzz")
    with pytest.raises(FlagFileError, match="there are none"):
        document('{"flags": {}}').flag("f")


@pytest.mark.parametrize(
    "text",
    [
        '{"flags": {"f": {"state":"ENABLED","variants":{"a":1},"defaultVariant":"a",\n"defaultVariant":"a"}}}',
        '{"flags": {"f": {},\n"f": {"state":"ENABLED","variants":{"a":1},"defaultVariant":"a"}}}',
    ],
)
def test_what_stands_there_twice_is_not_changed(text: str) -> None:
    with pytest.raises(FlagFileError, match=r"flags\.json:2: .* stands here a second time"):
        document(text).with_default("f", "a")


NAMES = st.text(min_size=1, max_size=8)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FLAG = st.fixed_dictionaries(
    {"state": st.sampled_from(["ENABLED", "DISABLED"]), "variants": st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)},
    optional={"defaultVariant": NAMES, "targeting": VALUES, "metadata": st.dictionaries(NAMES, st.integers(), max_size=2)},
)
SETS = st.fixed_dictionaries({"flags": st.dictionaries(NAMES, FLAG, min_size=1, max_size=3)}, optional={"x": VALUES})


@given(SETS, st.sampled_from([None, 0, 2, "\t"]), st.booleans(), st.sampled_from([",", " , "]), st.data())
def test_a_change_is_that_variant_and_nothing_else(
    flags: dict[str, Any], indent: int | str | None, ascii_only: bool, comma: str, data: st.DataObject
) -> None:
    text = json.dumps(flags, indent=indent, ensure_ascii=ascii_only, separators=(comma, " : ")).replace("\n", "\r\n")
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    key = data.draw(st.sampled_from(list(flags["flags"])))
    variant = data.draw(st.sampled_from(list(flags["flags"][key]["variants"])))
    before = FlagDocument(content, "f")
    after = before.with_default(key, variant)
    flags["flags"][key]["defaultVariant"] = variant
    assert json.loads(after) == flags
    old = before.flag(key).default_variant
    if old is not None and old in before.flag(key).variants and json.dumps(old, ensure_ascii=ascii_only) == json.dumps(old):
        assert document(after).with_default(key, old) == text
    if old is None:
        assert len(after) > len(text)


@given(st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from(
    ["flags", "state", "variants", "defaultVariant", "targeting", "metadata", "f", "source"]), inner, max_size=5),
    max_leaves=12) | SETS)  # fmt: skip
def test_what_is_taken_here_is_taken_by_the_evaluator(data: Any) -> None:
    text = json.dumps(data)
    try:
        document(text)
    except FlagFileError as error:
        assert "\n" not in str(error)
        return
    FlagdCore().set_flags(text)


def test_the_testbed_s_sets_are_taken() -> None:
    for file in sorted((corpus("openfeature") / "flags").glob("*.json")):
        found = FlagDocument(file.read_bytes(), file.name)
        for key, flag in found.flags.items():
            lines = found.text.splitlines()
            assert json.dumps(key) in lines[flag.line - 1]
            for variant in flag.variants:
                assert json.loads(found.with_default(key, variant))["flags"][key]["defaultVariant"] == variant
