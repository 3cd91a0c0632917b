"""The next configuration takes the place of the last whole, or not at all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamgate.config.load import Loaded, load
from streamgate.config.problem import ConfigurationError, Problem
from streamgate.config.reload import Outcome, Reload, ReloadStatistics
from streamgate.config.spec import Spec

if TYPE_CHECKING:
    from pathlib import Path

    from streamgate.config.compile import Snapshot

SOUND = 'routes: [{id: r, match: {paths: ["/*"]}, to: {respond: {status: %d}}}]\n'


def status(spec: Spec) -> int:
    """Plans small enough to see: the status that the only route answers."""
    [route] = spec.routes
    assert route.to.respond is not None
    return route.to.respond.status


class Scene:
    """A file, a reload of it, and everything it said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ: dict[str, str] = {}
        self.swaps: list[tuple[int, int]] = []
        self.outcomes: list[tuple[Outcome, str | None]] = []
        self.write(200)
        self.reload = Reload(
            partial(load, path, environ=self.environ),
            status,
            now_wall=1.0,
            on_swap=self._swapped,
            on_outcome=lambda outcome, error: self.outcomes.append((outcome, error)),
        )

    def _swapped(self, old: Snapshot[int], new: Snapshot[int]) -> None:
        assert self.reload.current is new
        self.swaps.append((old.plans, new.plans))

    def write(self, status: int, more: str = "") -> None:
        self.path.write_text(SOUND % status + more, encoding="utf-8")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "streamgate.yaml")


def test_the_first_configuration_is_number_one(scene: Scene) -> None:
    current = scene.reload.current
    assert (current.number, current.plans, current.loaded_at) == (1, 200, 1.0)
    assert scene.reload.last_error is None
    assert scene.reload.outcomes == {Outcome.APPLIED: 0, Outcome.UNCHANGED: 0, Outcome.REFUSED: 0}
    assert scene.reload.files == (scene.path,)
    assert (scene.outcomes, scene.swaps) == ([], [])


def test_the_first_configuration_must_be_sound(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Reload(partial(load, tmp_path / "nix.yaml", environ={}), status, now_wall=0.0)


def test_a_changed_file_is_put_in_force(scene: Scene) -> None:
    before = scene.reload.current
    scene.write(201)
    assert scene.reload.apply(2.0) is Outcome.APPLIED
    assert scene.reload.current.plans == 201
    assert (scene.reload.current.number, scene.reload.current.loaded_at) == (2, 2.0)
    assert before.plans == 200
    assert scene.swaps == [(200, 201)]
    assert scene.outcomes == [(Outcome.APPLIED, None)]


def test_the_same_content_is_no_swap(scene: Scene) -> None:
    before = scene.reload.current
    scene.write(200, "# only a remark\n")
    assert scene.reload.apply(2.0) is Outcome.UNCHANGED
    assert scene.reload.current is before
    assert scene.swaps == []
    assert scene.outcomes == [(Outcome.UNCHANGED, None)]


def test_a_mistake_leaves_the_old_one_in_force_and_says_why(scene: Scene) -> None:
    before = scene.reload.current
    scene.write(200, "gate: {drain: 5}\n")
    assert scene.reload.apply(2.0) is Outcome.REFUSED
    assert scene.reload.current is before
    assert scene.swaps == []
    assert scene.reload.last_error is not None
    assert "gate.drain: 5 has no unit" in scene.reload.last_error
    assert scene.outcomes == [(Outcome.REFUSED, scene.reload.last_error)]
    scene.write(200)
    assert scene.reload.apply(3.0) is Outcome.UNCHANGED
    assert scene.reload.last_error is None


def test_plans_that_cannot_be_built_leave_the_old_ones(scene: Scene) -> None:
    before = scene.reload.current
    scene.path.write_text("routes: []\n", encoding="utf-8")
    assert scene.reload.apply(2.0) is Outcome.REFUSED
    assert scene.reload.current is before
    assert scene.reload.last_error is not None
    assert scene.reload.last_error.startswith("ValueError: ")


def test_a_secret_that_changed_is_put_in_force_though_the_document_did_not(scene: Scene) -> None:
    scene.environ["T"] = "one"
    scene.write(200, "gate: {admin_token: '${env:T}'}\n")
    scene.reload.apply(2.0)
    scene.environ["T"] = "two"
    digest = scene.reload.current.hash
    assert scene.reload.apply(3.0) is Outcome.APPLIED
    assert scene.reload.current.hash == digest
    token = scene.reload.current.spec.gate.admin_token
    assert token is not None
    assert token.get_secret_value() == "two"
    assert scene.reload.apply(4.0) is Outcome.UNCHANGED


def test_the_files_of_a_refused_attempt_are_watched_too(scene: Scene) -> None:
    key = scene.path.parent / "key"
    scene.write(200, "gate: {admin_token: '${file:key}'}\n")
    assert scene.reload.apply(2.0) is Outcome.REFUSED
    assert list(scene.reload.files) == [scene.path, key]
    key.write_text("t0ken\n", encoding="utf-8")
    assert scene.reload.apply(3.0) is Outcome.APPLIED
    scene.write(200)
    assert scene.reload.apply(4.0) is Outcome.APPLIED
    assert list(scene.reload.files) == [scene.path]


def test_an_error_without_files_keeps_those_that_are_known(scene: Scene) -> None:
    answers: list[Loaded | Exception] = [load(scene.path, environ={})]
    answers.append(ConfigurationError([Problem("", None, None, "a", "no")]))
    answers.append(OSError("gone"))

    def read() -> Loaded:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reload = Reload(read, status, now_wall=0.0)
    assert reload.apply(1.0) is Outcome.REFUSED
    assert reload.files == (scene.path,)
    assert reload.apply(2.0) is Outcome.REFUSED
    assert reload.last_error == "OSError: gone"
    assert reload.files == (scene.path,)


def test_statistics_are_one_record(scene: Scene) -> None:
    scene.reload.apply(2.0)
    scene.write(201)
    scene.reload.apply(3.0)
    scene.path.unlink()
    scene.reload.apply(4.0)
    assert scene.reload.statistics() == ReloadStatistics(
        number=2,
        loaded_at=3.0,
        applied=1,
        unchanged=1,
        refused=1,
        last_error=f"{scene.path}: no such file; check the name and the folder",
    )


class ReloadMachine(RuleBasedStateMachine):
    """Whatever the file says, and however often: what is in force is the last sound content, numbered by its swaps."""

    def __init__(self) -> None:
        super().__init__()
        self.document = Loaded(Spec(), "0", "a.yaml", None, (), ())
        self.fails = False
        self.wall = 0.0
        self.in_force = "0"
        self.swaps = 0
        self.attempts = 0
        self.reload: Reload[str] = Reload(self._read, lambda _: "plans", now_wall=0.0, on_swap=self._swapped)

    def _read(self) -> Loaded:
        if self.fails:
            raise ConfigurationError([Problem("", None, None, "a.yaml", "no")])
        return self.document

    def _swapped(self, old: Snapshot[str], new: Snapshot[str]) -> None:
        assert new.number == old.number + 1
        assert (old.hash, new.hash) == (self.in_force, self.document.hash)
        self.swaps += 1

    @rule(content=st.sampled_from("0123"), fails=st.booleans())
    def edit(self, content: str, *, fails: bool) -> None:
        self.document = Loaded(Spec(), content, "a.yaml", None, (), ())
        self.fails = fails

    @rule()
    def apply(self) -> None:
        self.wall += 1
        self.attempts += 1
        outcome = self.reload.apply(self.wall)
        if self.fails:
            assert outcome is Outcome.REFUSED
        else:
            assert outcome is (Outcome.UNCHANGED if self.document.hash == self.in_force else Outcome.APPLIED)
            self.in_force = self.document.hash

    @invariant()
    def what_is_in_force_is_the_last_sound_content(self) -> None:
        assert self.reload.current.hash == self.in_force
        assert self.reload.current.number == 1 + self.swaps
        assert self.reload.outcomes[Outcome.APPLIED] == self.swaps
        assert sum(self.reload.outcomes.values()) == self.attempts


TestReloadMachine = ReloadMachine.TestCase
TestReloadMachine.settings = settings(max_examples=50, stateful_step_count=20)
