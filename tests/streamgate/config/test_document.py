"""A document knows where everything stands, also after another was laid over it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamgate.config.document import Node, merge
from streamgate.config.problem import Place
from streamgate.config.yaml_file import parse_document

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.sampled_from(["id", "name", "a", "b"]), below, max_size=3)
    ),
    max_leaves=12,
)


def node(value: Any, file: str = "a.yaml") -> Node:
    if isinstance(value, dict):
        return Node({key: node(item, file) for key, item in value.items()}, Place(file, 1, 1))
    if isinstance(value, list):
        return Node(tuple(node(item, file) for item in value), Place(file, 1, 1))
    return Node(value, Place(file, 1, 1))


def read(text: str, file: str = "a.yaml") -> Node:
    root = parse_document(text, file).root
    assert root is not None
    return root


@settings(deadline=None)
@given(VALUES)
def test_a_document_gives_back_its_values(value: object) -> None:
    assert node(value).plain() == value


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_document_over_nothing_is_itself_and_the_overlay_wins(base: object, over: object) -> None:
    assert merge(node({}), node({"k": over})).plain() == {"k": over}
    assert merge(node({"k": base}), node({})).plain() == {"k": base}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3))
def test_a_document_over_itself_changes_nothing(value: dict[str, object]) -> None:
    assert merge(node(value), node(value)).plain() == value


def test_maps_merge_and_other_lists_are_replaced() -> None:
    base = {"a": {"x": 1, "y": 2}, "l": [1, 2], "s": {"deep": 1}}
    over = {"a": {"y": 3, "z": 4}, "l": [9], "s": "flat"}
    assert merge(node(base), node(over)).plain() == {"a": {"x": 1, "y": 3, "z": 4}, "l": [9], "s": "flat"}


def test_lists_of_things_with_ids_merge_by_id_and_new_ones_follow() -> None:
    base = [{"id": "a", "v": 1, "w": 1}, {"id": "b", "v": 2}]
    over = [{"id": "c", "v": 9}, {"id": "b", "v": 3}]
    assert merge(node(base), node(over)).plain() == [
        {"id": "a", "v": 1, "w": 1},
        {"id": "b", "v": 3},
        {"id": "c", "v": 9},
    ]


def test_lists_of_things_with_names_merge_by_name() -> None:
    assert merge(node([{"name": "a", "v": 1}]), node([{"name": "a", "w": 2}])).plain() == [{"name": "a", "v": 1, "w": 2}]


def test_a_list_with_one_nameless_thing_is_replaced() -> None:
    assert merge(node([{"id": "a"}]), node([{"id": "a"}, {"v": 1}])).plain() == [{"id": "a"}, {"v": 1}]
    assert merge(node([{"id": "a"}]), node([{"id": 5}])).plain() == [{"id": 5}]
    assert merge(node([{"id": "a"}]), node([])).plain() == [{"id": "a"}]


def test_an_id_twice_in_an_overlay_stays_twice_so_that_it_is_noticed() -> None:
    merged = merge(node([{"id": "a", "v": 1}]), node([{"id": "a", "v": 2}, {"id": "a", "v": 3}])).plain()
    assert merged == [{"id": "a", "v": 2}, {"id": "a", "v": 3}]


def test_an_id_twice_in_the_base_is_overlaid_where_it_stands_first() -> None:
    merged = merge(node([{"id": "a", "v": 1}, {"id": "a", "v": 2}]), node([{"id": "a", "v": 3}])).plain()
    assert merged == [{"id": "a", "v": 3}, {"id": "a", "v": 2}]


def test_every_value_is_found_in_the_file_it_came_from() -> None:
    base = read("services:\n  - id: a\n    url: http://a\n  - id: b\n    url: http://b\n", "base.yaml")
    over = read("services:\n  - id: b\n    balance: hash\n", "prod.yaml")
    merged = merge(base, over)
    assert merged.place_of(("services", 1, "url")) == Place("base.yaml", 5, 10)
    assert merged.place_of(("services", 1, "balance")) == Place("prod.yaml", 3, 14)
    assert merged.place_of(("services", 1, "balance"), on_key=True) == Place("prod.yaml", 3, 5)
    assert merged.place_of(("services", 1)) == Place("base.yaml", 4, 5)


def test_what_is_absent_is_placed_where_the_nearest_that_holds_it_stands() -> None:
    root = read("gate:\n  bind: 127.0.0.1:1\n")
    assert root.place_of(("gate", "admin")) == Place("a.yaml", 2, 3)
    assert root.place_of(("state", "url")) == Place("a.yaml", 1, 1)
    assert root.place_of(("gate", "bind", "deeper", 3)) == Place("a.yaml", 2, 9)
    assert root.place_of((), on_key=True) == Place("a.yaml", 1, 1)


def test_a_place_is_found_or_is_not_there() -> None:
    root = read("a: [x, {b: 1}]\n")
    found = root.find(("a", 1, "b"))
    assert found is not None
    assert found.value == 1
    for loc in (("a", 2), ("a", "b"), ("b",), ("a", 0, "c"), ("a", 0, 0), ("a", -1), (0,)):
        assert root.find(loc) is None


def test_what_could_not_be_read_is_listed() -> None:
    root = read("a:\nb: [1, !x 2]\nc: {d: }\n")
    assert set(root.lost()) == {("a",), ("b", 1), ("c", "d")}
