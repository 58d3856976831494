"""A file lock, an atomic write, and the stamp of a file."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from pathlib import Path

import pytest

from resources.files import ABSENT, file_lock, file_stamp, is_locked, write_json, write_text


def test_a_lock_that_is_held_is_refused_and_its_text_is_kept(tmp_path: Path):
    path = tmp_path / "new/lock"
    with file_lock(path) as stream:
        stream.write("process 7")
        stream.flush()
        with pytest.raises(BlockingIOError), file_lock(path, wait=False):
            pass
        assert path.read_text("utf-8") == "process 7"
    with file_lock(path, wait=False):
        pass


def test_a_process_that_waits_without_end_is_noticed_once(tmp_path: Path):
    path, noticed = tmp_path / "lock", list[str]()
    with ExitStack() as other:
        other.enter_context(file_lock(path))
        with file_lock(path, on_wait=lambda: (noticed.append("waits"), other.close())[0]):
            assert noticed == ["waits"] and is_locked(path)
    with file_lock(path, on_wait=lambda: noticed.append("waits")):
        assert noticed == ["waits"]


def test_two_looks_at_a_lock_do_not_see_each_other(tmp_path: Path):
    path = tmp_path / "lock"
    assert not is_locked(path) and not path.exists()
    with file_lock(path):
        assert is_locked(path)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_locked(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "folder/value.json"
    write_json(path, {"b": 1, "a": "字"})
    assert path.read_text("utf-8") == '{\n  "a": "字",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert "字" in path.read_text("utf-8")
    write_text(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["value.json"]


def test_a_stamp_changes_with_the_file_and_a_folder_has_none(tmp_path: Path):
    path = tmp_path / "file"
    assert file_stamp(path) == file_stamp(tmp_path) == file_stamp(path / "below") == ABSENT
    path.write_text("1", "utf-8")
    first = file_stamp(path)
    path.write_text("12", "utf-8")
    assert first[0] == 1 and file_stamp(path) != first
