"""A snapshot is a configuration and its plans, in one piece that does not change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from streamgate.config.compile import compile_snapshot
from streamgate.config.load import Loaded
from streamgate.config.problem import Problem
from streamgate.config.spec import Spec

LOADED = Loaded(
    spec=Spec(),
    hash="ab" * 32,
    source="streamgate.yaml",
    environment="prod",
    files=(Path("streamgate.yaml"),),
    warnings=(Problem("routes", 1, 1, "streamgate.yaml", "none", severity="warning"),),
)


def test_a_snapshot_holds_what_was_loaded_and_what_was_built_of_it() -> None:
    seen: list[Spec] = []

    def build(spec: Spec) -> str:
        seen.append(spec)
        return "plans"

    snapshot = compile_snapshot(LOADED, build=build, now_wall=12.5, number=3)
    assert seen == [LOADED.spec]
    assert (snapshot.plans, snapshot.number, snapshot.loaded_at) == ("plans", 3, 12.5)
    for field in dataclasses.fields(LOADED):
        assert getattr(snapshot, field.name) is getattr(LOADED, field.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.number = 4  # type: ignore[misc]


def test_what_a_build_raises_is_passed_on() -> None:
    def build(_: Spec) -> str:
        message = "no"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="no"):
        compile_snapshot(LOADED, build=build, now_wall=0.0, number=1)
