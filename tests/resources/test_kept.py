"""A result is computed once for a state; a file of it that is not as it was written is computed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resources.artifacts import SEAL_KEY
from resources.kept import Kept, KeptParts


class Counted:
    """A computation, and how often it was asked."""

    def __init__(self, result: list[int] | None = None) -> None:
        self.result = result or []
        self.calls = 0

    def __call__(self) -> list[int]:
        self.calls += 1
        return self.result


def ask(state: Path, compute: Counted, **key: object) -> list[int]:
    """Ask as a new process does."""
    return Kept("sums", list[int], size=3).get(state, key or {"of": 1}, compute, keep=lambda found: not found)


def files(state: Path) -> list[Path]:
    return sorted(state.glob("kept/sums/*.json"))


def test_a_later_process_computes_nothing(tmp_path: Path) -> None:
    compute = Counted()
    assert [ask(tmp_path, compute) for _ in range(3)] == [[], [], []]
    assert compute.calls == 1 and len(files(tmp_path)) == 1
    ask(tmp_path, compute, of=2)
    assert compute.calls == 2


def test_what_is_not_to_be_kept_is_computed_in_each_process_once(tmp_path: Path) -> None:
    compute, kept = Counted([1]), Kept("sums", list[int])
    for _ in range(2):
        assert kept.get(tmp_path, {"of": 1}, compute, keep=lambda found: not found) == [1]
    assert compute.calls == 1 and files(tmp_path) == []
    ask(tmp_path, compute)
    assert compute.calls == 2


def test_a_flipped_bit_is_not_believed_but_in_white_space(tmp_path: Path) -> None:
    compute = Counted()
    ask(tmp_path, compute)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1
        path.write_bytes(content)
        before = compute.calls
        ask(tmp_path, compute)
        assert (compute.calls == before) == _says(content, json.loads(whole)), bytes(content)


def _says(content: bytearray, value: object) -> bool:
    try:
        return json.loads(content) == value
    except ValueError:
        return False


def test_a_file_of_another_key_or_of_another_shape_is_not_believed(tmp_path: Path) -> None:
    compute = Counted()
    ask(tmp_path, compute)
    ask(tmp_path, compute, of=2)
    one, two = files(tmp_path)
    two.write_bytes(one.read_bytes())
    ask(tmp_path, compute)
    ask(tmp_path, compute, of=2)
    assert compute.calls == 3
    for text in ("", "[]", "null", "{}", '{"key": 1}', "\x00", "[" * 100_000, '{"key":' * 990 + "1" + "}" * 990):
        one.write_text(text)
        two.write_text(text)
        ask(tmp_path, compute)
    assert compute.calls == 11


def test_with_a_key_only_what_is_signed_with_it_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Counted()
    ask(tmp_path, compute)
    for key in ("one", "two", "two"):
        monkeypatch.setenv(SEAL_KEY, key)
        ask(tmp_path, compute)
    assert compute.calls == 3


def test_the_newest_files_stay_and_a_state_that_cannot_be_written_keeps_none(tmp_path: Path) -> None:
    compute = Counted()
    for number in range(5):
        ask(tmp_path, compute, of=number)
    assert len(files(tmp_path)) == 3
    (tmp_path / "blocked").write_text("no folder")
    assert ask(tmp_path / "blocked", compute) == []


def test_of_a_table_in_parts_only_new_parts_are_computed_and_only_good_results_kept(tmp_path: Path) -> None:
    computed: list[str] = []

    def compute(part: str) -> int:
        computed.append(part)
        return len(part)

    def ask_parts(*parts: str, **key: object) -> list[int]:
        return KeptParts("lengths", int).get(tmp_path, key, parts, compute, keep=lambda value: value < 4)

    assert ask_parts("a", "bb", "cccc") == [1, 2, 4]
    assert ask_parts("bb", "cccc", "ddd", "bb") == [2, 4, 3, 2]
    assert computed == ["a", "bb", "cccc", "cccc", "ddd"]
    computed.clear()
    assert ask_parts("a", "bb") == [1, 2] and computed == ["a"]  # what is asked for no more is forgotten
    assert ask_parts("a", "bb", rules="others") == [1, 2] and computed == ["a", "a", "bb"]
    for path in tmp_path.glob("kept/lengths/*.json"):
        path.write_text(path.read_text("utf-8").replace(":1", ":7").replace(": 1", ": 7"), "utf-8")
    assert ask_parts("a", "bb") == [1, 2]


def test_one_part_alone_is_always_computed(tmp_path: Path) -> None:
    asked: list[str] = []
    for _ in range(2):
        KeptParts("lengths", int).get(tmp_path, {}, ["a"], lambda part: asked.append(part) or 1)
    assert asked == ["a", "a"] and not list(tmp_path.rglob("*.json"))
