"""Artifacts and releases of one machine that shares a bucket (FT_STORE_URL). Run it in a process of its own.

The threads of the bucket's library do not survive a fork.
"""

from __future__ import annotations

import sys
from pathlib import Path

from resources.artifacts import Artifact, Recipe, open_store
from resources.releases import open_releases

ROUNDS = 2


class Machine:
    """The folder of a machine, and what it makes in the bucket."""

    def __init__(self, root: Path) -> None:
        self.store, self.releases = open_store(root / "artifacts"), open_releases(root / "released")

    def run(self) -> None:
        """Release two artifacts in turn. What is there already is reused."""
        self.store.sweep()
        for number in range(ROUNDS):
            artifact = self._publish(Recipe(asset="adapter", code_version=str(number)))
            self.store.point(artifact)
            with self.releases.exclusive("adapter"):
                book = self.releases.book("adapter")
                intent = self.releases.plan_release("adapter", {"adapter": artifact.recipe_id}, {})
                if intent.release.version not in [one.version for one in (book.history if book else [])]:
                    self.releases.commit("adapter", intent)

    def _publish(self, recipe: Recipe) -> Artifact:
        if found := self.store.find_whole(recipe.asset, recipe.id):
            return found
        with self.store.stage(recipe) as staging:
            for name in ("weights", "tokens"):
                (staging.path / name).write_text(f"{name} of {recipe.code_version}")
            return staging.publish()

    def faults(self) -> list[str]:
        """Return what is half done and can be seen."""
        found = [str(fault) for one in self.store.versions("adapter") for fault in one.verify()]
        release = self.releases.current("adapter")
        if release and self.store.find("adapter", release.artifacts["adapter"]) is None:
            found.append(f"what {release} was made of is gone")
        return found

    def versions(self) -> dict[str, object]:
        """Return all that an undisturbed run decides."""
        book = self.releases.book("adapter")
        return {
            "kept": sorted(one.data_version for one in self.store.versions("adapter")),
            "current": self.store.require("adapter").data_version,
            "releases": [one.version for one in book.history] if book else [],
            "left": sorted(path.name for path in self.store.root.glob(".staging/*")),
        }


if __name__ == "__main__":
    Machine(Path(sys.argv[1])).run()
