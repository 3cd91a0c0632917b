"""A verdict says what a flag says and why; what could not be evaluated has no value."""

from __future__ import annotations

import pytest

from routers.flags import Flags, Verdict, failed


def test_what_could_not_be_evaluated_has_a_code_and_no_value() -> None:
    verdict = failed("tutor-split", "FLAG_NOT_FOUND")
    assert verdict == Verdict("tutor-split", None, None, "ERROR", "FLAG_NOT_FOUND")


def test_a_verdict_is_true_whatever_it_says_and_cannot_be_changed() -> None:
    """`evaluate_nowait(…) or await decide(…)` is how it is asked for."""
    verdict = failed("f", "GENERAL")
    assert verdict
    with pytest.raises(AttributeError):
        verdict.value = "canary"  # type: ignore[misc]


def test_both_providers_can_be_asked_alike() -> None:
    from routers.flagd import FlagdFlags
    from routers.ofrep import OfrepFlags

    asked = {name for name in vars(Flags) if not name.startswith("_")}
    assert asked == {"evaluate_nowait", "decide", "statistics", "close"}
    for provider in (FlagdFlags, OfrepFlags):
        assert asked <= vars(provider).keys()
