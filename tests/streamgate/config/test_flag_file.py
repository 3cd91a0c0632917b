"""A flag file is changed whole or not at all, by one at a time, and who did it can be read."""

from __future__ import annotations

import fcntl
import itertools
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from streamgate.config.flag_document import FlagFileError
from streamgate.config.flag_file import Change, FlagFile, _noted, who_am_i

TEXT = """\
{"flags": {
  "tutor": {"state": "ENABLED", "variants": {"stable": "stable", "canary": "next"}, "defaultVariant": "stable"},
  "off": {"state": "DISABLED", "variants": {"a": "A", "b": 5}, "defaultVariant": "a"},
  "ruled": {"state": "ENABLED", "variants": {"a": "A", "b": "B"}, "targeting": {"fractional": [["a", 1], ["b", 1]]}}
}}
"""
NOW = 1_700_000_000.25


@pytest.fixture
def file(tmp_path: Path) -> FlagFile:
    path = tmp_path / "flags.json"
    path.write_text(TEXT, encoding="utf-8")
    path.chmod(0o640)
    return FlagFile(path)


def history(file: FlagFile) -> list[dict[str, object]]:
    path = file.path.with_name(f"{file.path.name}.history.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def failed(file: FlagFile, key: str = "tutor", variant: str = "canary", lock_wait_s: float = 5.0) -> str:
    with pytest.raises(FlagFileError) as info:
        file.set_default(key, variant, who="ann", now_wall=NOW, lock_wait_s=lock_wait_s)
    return str(info.value)


def neighbours(file: FlagFile) -> set[str]:
    return {path.name for path in file.path.parent.iterdir()}


def test_a_flip_changes_one_word_keeps_the_mode_and_is_noted(file: FlagFile) -> None:
    inode = file.path.stat().st_ino
    flip = file.set_default("tutor", "canary", who="ann", now_wall=NOW)
    assert (flip.changed, flip.flag.default_variant, flip.variant, flip.warnings) == (True, "stable", "canary", ())
    assert file.path.read_text() == TEXT.replace('"defaultVariant": "stable"', '"defaultVariant": "canary"')
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert file.path.stat().st_ino != inode, "a reader of the old file goes on reading the old file"
    [line] = history(file)
    host = line.pop("host")
    assert line == {"ts": "2023-11-14T22:13:20.250Z", "who": "ann", "key": "tutor", "from": "stable", "to": "canary"}
    assert file.last_changes() == {"tutor": Change("2023-11-14T22:13:20.250Z", "ann", str(host), "tutor", "stable", "canary")}
    assert neighbours(file) == {"flags.json", "flags.json.lock", "flags.json.history.jsonl"}
    for name in neighbours(file):
        assert stat.S_IMODE(file.path.with_name(name).stat().st_mode) == 0o640, name


def test_what_it_says_already_is_not_written_again(file: FlagFile) -> None:
    before = file.path.stat()
    assert file.set_default("tutor", "stable", who="ann", now_wall=NOW).changed is False
    assert (file.path.stat().st_ino, file.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert history(file) == []


def test_what_may_keep_requests_from_following_is_said(file: FlagFile) -> None:
    disabled, no_text = file.set_default("off", "b", who="ann", now_wall=NOW).warnings
    assert "is DISABLED" in disabled
    assert "is not text" in no_text
    [ruled] = file.set_default("ruled", "b", who="ann", now_wall=NOW).warnings
    assert "has targeting: whom a rule gives a variant keeps it" in ruled
    assert str(file.path) in ruled


@pytest.mark.parametrize(
    ("key", "variant", "told"),
    [("tutr", "canary", 'did you mean "tutor"?'), ("tutor", "next", 'that is the value of its variant "canary"')],
)
def test_what_is_not_there_changes_nothing(file: FlagFile, key: str, variant: str, told: str) -> None:
    assert told in failed(file, key, variant)
    assert file.path.read_text() == TEXT
    assert history(file) == []


def test_a_broken_file_is_not_touched(file: FlagFile) -> None:
    file.path.write_text(TEXT[:-3])
    assert failed(file).startswith(f"{file.path}:5:1: is not JSON")
    assert file.path.read_text() == TEXT[:-3]


def test_a_file_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    nowhere = FlagFile(tmp_path / "nowhere.json")
    assert failed(nowhere) == f"{nowhere.path}: cannot be read: no such file or directory"
    with pytest.raises(FlagFileError, match="cannot be read: no such file or directory"):
        nowhere.read()
    assert list(tmp_path.iterdir()) == []
    assert nowhere.last_changes() == {}


def test_whoever_holds_the_lock_is_named_and_waited_for_in_vain(file: FlagFile) -> None:
    file.set_default("tutor", "canary", who="ann", now_wall=NOW)
    with file.path.with_name("flags.json.lock").open("r+b", buffering=0) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(b"ben (process 7)\n")
        told = failed(file, "tutor", "stable", lock_wait_s=0.05)
    assert told == f"{file.path}: is being changed by ben (process 7); waited 0.05s for it, try again"
    assert file.set_default("tutor", "stable", who="ann", now_wall=NOW).changed


def test_a_lock_that_is_given_back_in_time_lets_the_change_through(file: FlagFile) -> None:
    lock = file.path.with_name("flags.json.lock").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    waiting = threading.Thread(target=file.set_default, args=("tutor", "canary"), kwargs={"who": "ann", "now_wall": NOW})
    waiting.start()
    assert file.read().flag("tutor").default_variant == "stable"
    lock.close()
    waiting.join(10)
    assert file.read().flag("tutor").default_variant == "canary"


def test_behind_a_link_the_file_is_changed_and_the_link_stays(file: FlagFile, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "flags.json"
    link.symlink_to(file.path)
    FlagFile(link).set_default("tutor", "canary", who="ann", now_wall=NOW)
    assert link.is_symlink()
    assert file.read().flag("tutor").default_variant == "canary"
    assert list((tmp_path / "etc").iterdir()) == [link]
    assert FlagFile(link).last_changes().keys() == {"tutor"}


@pytest.mark.parametrize("name", ["flags.json.lock", "flags.json.history.jsonl"])
def test_a_change_that_cannot_be_locked_or_noted_is_not_made(file: FlagFile, name: str) -> None:
    file.path.with_name(name).mkdir()
    assert "cannot be changed: is a directory" in failed(file)
    assert file.path.read_text() == TEXT
    assert {"flags.json", name} <= neighbours(file) <= {"flags.json", "flags.json.lock", name}


def test_an_edit_that_took_no_lock_is_not_laid_over(file: FlagFile) -> None:
    with pytest.raises(FlagFileError, match="was changed by somebody else just now"):
        file._replace(file.path, b"what was read before the edit", b"{}")
    assert file.path.read_text() == TEXT
    assert neighbours(file) == {"flags.json"}


def test_a_change_that_fails_takes_its_note_back(file: FlagFile) -> None:
    file.set_default("tutor", "canary", who="ann", now_wall=NOW)
    before = history(file)
    path = file.path.with_name("flags.json.history.jsonl")
    with pytest.raises(OSError, match="disk"), _noted(path, Change("t", "ben", "h", "tutor", "canary", "stable"), file.path):
        assert [line["who"] for line in history(file)] == ["ann", "ben"], "noted before it is done"
        raise OSError("disk")
    assert history(file) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_the_owner_is_kept(file: FlagFile) -> None:
    os.chown(file.path, 12345, 23456)
    file.set_default("tutor", "canary", who="ann", now_wall=NOW)
    for name in neighbours(file):
        about = file.path.with_name(name).stat()
        assert (about.st_uid, about.st_gid) == (12345, 23456), name


def test_a_history_that_was_cut_short_is_carried_on(file: FlagFile) -> None:
    path = file.path.with_name("flags.json.history.jsonl")
    path.write_bytes(b'{"ts": "1", "who": 5, "host": "h", "key": "x", "from": null, "to": "y"}\n[1]\n\xff\n{"ts": "2023')
    file.set_default("tutor", "canary", who="ann\nben", now_wall=NOW)
    lines = path.read_bytes().split(b"\n")
    assert lines[3] == b'{"ts": "2023'
    assert json.loads(lines[4])["who"] == "ann\nben"
    assert lines[5:] == [b""]
    assert file.last_changes().keys() == {"tutor"}


def _flip(path: Path, times: int) -> None:
    for number in range(times):
        variant = ("canary", "stable")[number % 2]
        FlagFile(path).set_default("tutor", variant, who=str(os.getpid()), now_wall=NOW, lock_wait_s=60)


def test_many_at_once_lose_no_change_and_no_reader_sees_half(file: FlagFile) -> None:
    spawn = multiprocessing.get_context("spawn")
    flipping = [spawn.Process(target=_flip, args=(file.path, 20)) for _ in range(3)]
    for process in flipping:
        process.start()
    while any(process.is_alive() for process in flipping):
        assert file.read().flag("tutor").default_variant in {"stable", "canary"}
    assert [process.exitcode for process in flipping] == [0, 0, 0]
    noted = [(line["from"], line["to"]) for line in history(file)]
    assert noted[0] == ("stable", "canary")
    for (_, after), (before, _) in itertools.pairwise(noted):
        assert after == before, "each change saw what the one before it had written"
    assert file.read().flag("tutor").default_variant == noted[-1][1]
    assert neighbours(file) == {"flags.json", "flags.json.lock", "flags.json.history.jsonl"}


def test_a_change_that_would_touch_more_is_given_up(file: FlagFile) -> None:
    document = file.read()
    with pytest.raises(FlagFileError, match='the change would touch more than flag "tutor"'):
        file._check(document, TEXT.replace('"a": "A"', '"a": "B"').encode(), "tutor", "stable")


@pytest.mark.parametrize(
    ("environ", "who"), [({"STREAMGATE_USER": " ann@example "}, "ann@example"), ({"STREAMGATE_USER": "a\x1b\nb"}, "ab")]
)
def test_who_changes_a_flag_may_be_said(environ: dict[str, str], who: str) -> None:
    assert who_am_i(environ) == who


def test_otherwise_it_is_the_name_of_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    assert who_am_i({}) == "ann"
    assert who_am_i({"STREAMGATE_USER": " "}) == "ann"


def as_nobody(code: str) -> str:
    """What Python prints as a user without a name and without rights."""
    begin = "import os; from streamgate.config.flag_file import *; os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, cwd=root)
    return done.stdout + done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_a_name_is_told_by_number() -> None:
    assert as_nobody("os.environ.clear(); print(who_am_i({}))") == "uid 54321\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_that_is_read_only_is_left_alone() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o777)
        file = FlagFile(Path(folder) / "flags.json")
        file.path.write_text(TEXT)
        code = f"from pathlib import Path; FlagFile(Path({str(file.path)!r})).set_default('tutor', 'canary', who='x', now_wall=0)"
        assert f"{file.path}: is read-only for you" in as_nobody(code)
        assert file.path.read_text() == TEXT
        assert neighbours(file) == {"flags.json"}
