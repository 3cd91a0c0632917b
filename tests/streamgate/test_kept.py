"""State that outlives a reload."""

from streamgate.kept import Kept


def test_the_same_key_is_the_same_value() -> None:
    kept = Kept()
    first = kept.get("a", list)
    assert kept.get("a", list) is first
    assert kept.get("b", list) is not first


def test_what_is_named_no_more_is_retired_once_and_made_anew() -> None:
    kept, retired = Kept(), []
    one = kept.get("a", object, retire=retired.append)
    two = kept.get("b", object, retire=retired.append)
    kept.get("c", object)
    kept.retain({"b", "unknown"})
    assert retired == [one]
    kept.retain({"b"})
    assert retired == [one]
    assert kept.get("b", object) is two
    assert kept.get("a", object) is not one
    kept.retain(())
    assert retired == [one, two], "the value made anew was given no way to be retired"


def test_a_falsy_value_is_a_value() -> None:
    kept = Kept()
    empty = kept.get("a", dict)
    assert kept.get("a", lambda: {"made": "again"}) is empty


def test_values_of_one_kind() -> None:
    kept = Kept()
    kept.get("a", lambda: 1)
    kept.get("b", lambda: "x")
    kept.get("c", lambda: 2)
    assert list(kept.values(int)) == [1, 2]
