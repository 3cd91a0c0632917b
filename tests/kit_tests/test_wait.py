"""Waiting for a condition ends with it, and fails with words."""

import pytest

from tests.kit.wait import eventually


async def test_what_becomes_true_is_returned() -> None:
    answers = iter([None, 0, "there"])
    assert await eventually(lambda: next(answers)) == "there"


async def test_a_coroutine_may_answer() -> None:
    answers = iter([False, True])

    async def asked() -> bool:
        return next(answers)

    assert await eventually(asked) is True


async def test_what_never_comes_is_named_with_its_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: list; its last answer was \[\]"):
        await eventually(list, timeout=0.02)
