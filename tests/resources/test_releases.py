from __future__ import annotations

from pathlib import Path

import pytest

from expectations.violations import Refused
from resources.artifacts import ArtifactStore, Recipe
from resources.releases import Releases, require_kept


def test_a_release_moves_the_pointer_and_keeps_history(tmp_path: Path):
    releases = Releases(tmp_path)
    first = releases.move("collection", {"qdrant_collection": "r1"}, {"weights": [1, 0.3]})
    second = releases.move("collection", {"qdrant_collection": "r1"}, {"weights": [1, 0.5]})
    assert releases.current("collection") == second
    assert first.version != second.version
    again = releases.move("collection", {"qdrant_collection": "r1"}, {"weights": [1, 0.5]})
    assert again.version == second.version
    book = releases.book("collection")
    assert book is not None and [r.version for r in book.history] == [first.version, second.version]


def test_rollback_goes_one_back_or_to_a_named_version(tmp_path: Path):
    releases = Releases(tmp_path)
    made = [releases.move("adapter", {"dpo_adapter": f"r{n}"}, {}) for n in range(3)]
    assert releases.target("adapter").version == made[1].version
    releases.point("adapter", releases.target("adapter", made[0].version))
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
    releases.move("adapter", {"adapter": adapter.recipe_id}, {})
    assert releases.protected(store, 1) == {"adapter": {adapter.recipe_id}, "splits": {splits.recipe_id}}


def test_only_the_last_releases_and_the_serving_one_are_protected(tmp_path: Path):
    store, releases = ArtifactStore(tmp_path / "artifacts"), Releases(tmp_path / "released")
    for number in range(5):
        with store.stage(Recipe("adapter", str(number))) as staging:
            (staging.path / "a").write_text(f"{number}")
            releases.move("adapter", {"adapter": staging.publish().recipe_id}, {})
    history = releases.book("adapter").history  # type: ignore[union-attr]
    recipes = [release.artifacts["adapter"] for release in history]
    assert releases.protected(store, 2) == {"adapter": set(recipes[3:])}
    releases.point("adapter", history[1])
    assert releases.protected(store, 2) == {"adapter": {recipes[1], *recipes[3:]}}
    store.prune("adapter", 1, releases.protected(store, 2)["adapter"])
    require_kept(store, history[1])
    with pytest.raises(Refused, match="FT-REL-002"):
        require_kept(store, history[0])


def test_a_version_is_withheld_after_a_rollback_until_it_is_requested_or_another_is_released(tmp_path: Path):
    releases = Releases(tmp_path)
    candidates = [({"dpo_adapter": f"r{n}"}, {}) for n in range(3)]
    made = [releases.move("adapter", *candidate) for candidate in candidates]

    def withheld() -> list[bool]:
        return [releases.is_withheld("adapter", *candidate) for candidate in candidates]

    releases.point("adapter", made[1])
    assert withheld() == [False, False, True]
    releases.point("adapter", made[0])
    assert withheld() == [False, True, True]
    releases.point("adapter", made[2])  # a person chooses a newer version again
    assert withheld() == [False, True, False]
    # evaluated again, next to another release, it is the same candidate
    assert releases.is_withheld("adapter", {"dpo_adapter": "r1", "adapter_evaluation": "other"}, {"metrics": {}})
    releases.move("adapter", {"dpo_adapter": "new"}, {})
    assert withheld() == [False, False, False]
