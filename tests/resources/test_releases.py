from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expectations.canonical import digest
from expectations.violations import Refused
from resources.artifacts import ArtifactStore, Recipe
from resources.files import write_json
from resources.releases import Release, ReleaseKind, Releases, require_kept


def release(releases: Releases, kind: ReleaseKind, artifacts: dict[str, str], details: dict[str, object]) -> Release:
    return releases.commit(kind, releases.plan_release(kind, artifacts, details))


def roll_back(releases: Releases, kind: ReleaseKind, to: Release) -> Release:
    return releases.commit(kind, releases.plan_rollback(kind, to, who="a person", why="worse"))


def test_a_release_moves_the_pointer_and_keeps_history(tmp_path: Path):
    releases = Releases(tmp_path)
    first = release(releases, "collection", {"qdrant_collection": "r1"}, {"weights": [1, 0.3]})
    second = release(releases, "collection", {"qdrant_collection": "r1"}, {"weights": [1, 0.5]})
    assert releases.current("collection") == second
    assert first.version != second.version
    again = release(releases, "collection", {"qdrant_collection": "r1"}, {"weights": [1, 0.5]})
    assert again.version == second.version
    book = releases.book("collection")
    assert book is not None and [r.version for r in book.history] == [first.version, second.version]


def test_rollback_goes_one_back_or_to_a_named_version(tmp_path: Path):
    releases = Releases(tmp_path)
    made = [release(releases, "adapter", {"dpo_adapter": f"r{n}"}, {}) for n in range(3)]
    assert releases.target("adapter").version == made[1].version
    roll_back(releases, "adapter", releases.target("adapter", made[0].version))
    assert releases.current("adapter") == made[0]
    with pytest.raises(Refused, match="FT-REL-001"):
        releases.target("adapter")
    with pytest.raises(Refused, match="nowhere"):
        releases.target("adapter", "nowhere")


def test_the_inputs_of_a_released_artifact_are_protected_too(tmp_path: Path):
    store, releases = ArtifactStore(tmp_path / "artifacts"), Releases(tmp_path / "released")
    with store.stage(Recipe("splits", "1")) as staging:
        (staging.path / "a").write_text("a")
        splits = staging.publish()
    with store.stage(Recipe("adapter", "1", inputs={"splits": splits.data_version})) as staging:
        (staging.path / "b").write_text("b")
        adapter = staging.publish()
    release(releases, "adapter", {"adapter": adapter.recipe_id}, {})
    assert releases.protected(store, 1) == {"adapter": {adapter.recipe_id}, "splits": {splits.recipe_id}}


def test_only_the_last_releases_and_the_serving_one_are_protected(tmp_path: Path):
    store, releases = ArtifactStore(tmp_path / "artifacts"), Releases(tmp_path / "released")
    for number in range(5):
        with store.stage(Recipe("adapter", str(number))) as staging:
            (staging.path / "a").write_text(f"{number}")
            release(releases, "adapter", {"adapter": staging.publish().recipe_id}, {})
    history = releases.book("adapter").history  # type: ignore[union-attr]
    recipes = [release.artifacts["adapter"] for release in history]
    assert releases.protected(store, 2) == {"adapter": set(recipes[3:])}
    roll_back(releases, "adapter", history[1])
    assert releases.protected(store, 2) == {"adapter": {recipes[1], *recipes[3:]}}
    store.prune("adapter", 1, releases.protected(store, 2)["adapter"])
    require_kept(store, history[1])
    with pytest.raises(Refused, match="FT-REL-002"):
        require_kept(store, history[0])


def test_a_version_is_withheld_after_a_rollback_until_it_is_requested_or_another_is_released(tmp_path: Path):
    releases = Releases(tmp_path)
    candidates = [({"dpo_adapter": f"r{n}"}, {}) for n in range(3)]
    made = [release(releases, "adapter", *candidate) for candidate in candidates]

    def withheld() -> list[bool]:
        return [releases.is_withheld("adapter", *candidate) for candidate in candidates]

    roll_back(releases, "adapter", made[1])
    assert withheld() == [False, False, True]
    roll_back(releases, "adapter", made[0])
    assert withheld() == [False, True, True]
    roll_back(releases, "adapter", made[2])  # a person chooses a newer version again
    assert withheld() == [False, True, False]
    # evaluated again, next to another release, it is the same candidate
    assert releases.is_withheld("adapter", {"dpo_adapter": "r1", "adapter_evaluation": "other"}, {"metrics": {}})
    release(releases, "adapter", {"dpo_adapter": "new"}, {})
    assert withheld() == [False, False, False]


def test_every_move_is_in_the_record_with_who_and_why(tmp_path: Path):
    releases = Releases(tmp_path)
    first, second = (release(releases, "adapter", {"dpo_adapter": name}, {}) for name in "ab")
    release(releases, "adapter", {"dpo_adapter": "b"}, {})  # what serves already is no move
    roll_back(releases, "adapter", first)
    book = releases.book("adapter")
    assert book is not None
    moves = [(move.kind, move.before, move.after, move.who, move.why) for move in book.moves]
    assert moves == [
        ("release", "", first.version, "", ""),
        ("release", first.version, second.version, "", ""),
        ("rollback", second.version, first.version, "a person", "worse"),
    ]


def test_an_announced_move_is_kept_until_it_is_recorded_or_withdrawn(tmp_path: Path):
    releases = Releases(tmp_path)
    intent = releases.plan_release("collection", {"qdrant_collection": "r1"}, {"fusion": 1})
    releases.announce("collection", intent)
    assert Releases(tmp_path).announced("collection") == intent
    assert releases.current("collection") is None
    assert releases.commit("collection", intent) == releases.current("collection") == intent.release
    assert releases.announced("collection") is None
    releases.announce("collection", releases.plan_rollback("collection", intent.release))
    releases.withdraw("collection")
    assert releases.announced("collection") is None


def without_digest(text: str) -> str:
    """Return a record as earlier product versions wrote it."""
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "digest"})


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path):
    releases = Releases(tmp_path)
    made = release(releases, "adapter", {"dpo_adapter": "a"}, {"weight": 0.25})
    path = tmp_path / "adapter.json"
    path.write_text(without_digest(path.read_text("utf-8")), "utf-8")
    assert releases.current("adapter") == made


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "content"),
        (lambda text: "", "content"),
        (lambda text: text.replace('"current"', '"now"'), "digest"),
        (lambda text: text.replace('"digest"', '"dagest"'), "content"),
        (lambda text: text.replace('"withheld": []', '"withheld": ["x"]'), "digest"),
        (lambda text: without_digest(text).replace('"current"', '"now"'), "content"),
        (lambda text: without_digest(text).replace("0.25", "0.5"), "version"),
        (lambda text: without_digest(text).replace('"current": "', '"current": "f'), "current"),
        (lambda text: "\x00" * 40, "content"),
        (lambda text: "[" * 100_000, "content"),
    ],
)
def test_a_damaged_record_is_refused_with_its_path(tmp_path: Path, damage: Callable[[str], str], reason: str):
    releases = Releases(tmp_path)
    release(releases, "adapter", {"dpo_adapter": "a"}, {"weight": 0.25})
    path = tmp_path / "adapter.json"
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    for read in (releases.current, releases.book, releases.target):
        with pytest.raises(Refused, match="FT-REL-003") as refusal:
            read("adapter")
        (found,) = refusal.value.violations
        assert (found.where, found.field) == (str(path), reason)
    with pytest.raises(Refused, match="FT-REL-003"):
        release(releases, "adapter", {"dpo_adapter": "b"}, {})


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"release": {}, "move": {}}', '{"digest": "x"}'])
def test_a_damaged_note_of_a_move_is_refused_with_its_own_fix(tmp_path: Path, content: str):
    releases = Releases(tmp_path)
    current = release(releases, "collection", {"passage_vectors": "a"}, {"weight": 0.25})
    path = tmp_path / "collection.intent.json"
    path.write_text(content)
    with pytest.raises(Refused, match="FT-REL-003") as refusal:
        releases.announced("collection")
    assert refusal.value.violations[0].fix == f"delete {path}, then ft gate --served"
    assert releases.current("collection") == current


def test_one_release_at_a_time(tmp_path: Path):
    releases = Releases(tmp_path)
    with releases.exclusive("adapter"):
        with pytest.raises(BlockingIOError), Releases(tmp_path).exclusive("adapter", wait=False):
            pass
        with releases.exclusive("collection", wait=False):  # the two kinds do not wait for each other
            pass


def test_a_record_of_a_newer_version_is_refused_as_such_and_stays(tmp_path: Path):
    releases = Releases(tmp_path)
    release(releases, "collection", {"qdrant_collection": "r1"}, {})
    path = tmp_path / "collection.json"
    content = json.loads(path.read_text()) | {"approved_by": {}}
    del content["digest"]
    write_json(path, content | {"digest": digest(content)})
    whole = path.read_bytes()
    with pytest.raises(Refused, match=r"FT-REL-009.*approved_by"):
        release(releases, "collection", {"qdrant_collection": "r2"}, {})
    assert path.read_bytes() == whole


def test_what_an_unreadable_release_was_made_of_is_never_retired(tmp_path: Path):
    store, releases = ArtifactStore(tmp_path / "artifacts"), Releases(tmp_path / "released")
    with store.stage(Recipe("qdrant_collection", "1")) as staging:
        artifact = staging.publish()
    release(releases, "collection", {"qdrant_collection": artifact.recipe_id}, {})
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text()) | {"stamps": []}
    del content["digest"]
    write_json(path, content | {"digest": digest(content)})
    with pytest.raises(Refused, match="FT-ART-008"):
        releases.protected(ArtifactStore(tmp_path / "artifacts"), keep=5)
