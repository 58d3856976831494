"""In which order a new model or a new corpus requests the retrieval side: no evaluation before its collection."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import dagster as dg
import pytest

from ft_assets.graph.automation import automate
from tests.ft_assets.retrieval.conftest import ASSETS

pytestmark = pytest.mark.slow

SIDE = ("passages", "retrieval_settings", "qdrant_settings", "retrieval_splits", "embedding_model", "passage_vectors",
        "qdrant_collection", "fusion_sweep", "retrieval_evaluation")  # fmt: skip


class World:
    """The assets of `SIDE` with their real dependencies and conditions, and versions that a test sets."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.versions = dict.fromkeys(SIDE, 1)
        self.judged: list[tuple[int, int]] = []
        """The collection and the choice of weights of each evaluation."""
        self.cursor: Any = None
        specs = [spec for asset in ASSETS for spec in getattr(asset, "specs", ())]
        self.deps = {
            spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps} & set(SIDE)
            for spec in specs
            if spec.key.to_user_string() in SIDE
        }
        self.passes = True
        assets = [self._asset(name) for name in SIDE]
        check = dg.asset_check(asset="passage_vectors", blocking=True, name="sound")(self._check)
        quiet = dg.logger(lambda _: logging.getLogger("quiet"))
        self.defs = dg.Definitions(
            automate(assets), asset_checks=[check], executor=dg.in_process_executor, loggers={"quiet": quiet}
        )

    def _check(self) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=self.passes)

    def _asset(self, name: str) -> dg.AssetsDefinition:
        def compute() -> dg.MaterializeResult[Any]:
            if name == "passage_vectors":
                self.versions[name] = 100 * self.versions["embedding_model"] + self.versions["passages"]
            if name in ("qdrant_collection", "fusion_sweep"):
                self.versions[name] = self.versions["passage_vectors"]
            if name == "retrieval_evaluation":
                self.judged.append((self.versions["qdrant_collection"], self.versions["fusion_sweep"]))
            return dg.MaterializeResult(data_version=dg.DataVersion(str(self.versions[name])))

        return dg.asset(compute, name=name, deps=sorted(self.deps[name]), code_version="1")  # type: ignore[call-overload]

    def run(self, *names: str) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(name) for name in names]
        job.execute_in_process(instance=self.instance, asset_selection=keys, raise_on_error=False)

    def tick(self) -> set[str]:
        """Run what one look of the automation requests."""
        result = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        requested = {one.key.to_user_string() for one in result.results if not one.true_subset.is_empty}
        if requested:
            self.run(*requested)
        return requested

    def settle(self) -> list[set[str]]:
        """Tick until two looks in a row request nothing."""
        looks = [self.tick(), self.tick()]
        while looks[-1] or looks[-2]:
            looks.append(self.tick())
            assert len(looks) < 16, looks
        return [requested for requested in looks if requested]


@pytest.fixture
def world() -> Generator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        made = World(instance)
        made.run(*SIDE)
        made.settle()
        made.judged.clear()
        yield made


def test_the_judges_depend_on_all_that_they_read(world: World) -> None:
    assert world.deps["retrieval_evaluation"] >= {"embedding_model", "passages", "passage_vectors", "fusion_sweep"}
    assert world.deps["fusion_sweep"] >= {"embedding_model", "passages", "passage_vectors"}


@pytest.mark.parametrize("changed", ["embedding_model", "passages"])
def test_no_evaluation_is_requested_before_its_collection_is_rebuilt(world: World, changed: str) -> None:
    world.versions[changed] = 2
    world.run(changed)
    runs = world.settle()
    rebuilt = next(n for n, names in enumerate(runs) if "qdrant_collection" in names)
    chosen = next(n for n, names in enumerate(runs) if "fusion_sweep" in names)
    vectors = next(n for n, names in enumerate(runs) if "passage_vectors" in names)
    assert chosen > vectors
    # in one run Dagster chooses first and evaluates then
    assert all("retrieval_evaluation" not in names for names in runs[: max(rebuilt + 1, chosen)])
    version = 201 if changed == "embedding_model" else 102
    assert set(world.judged) == {(version, version)}


def test_no_evaluation_is_requested_while_a_check_holds_the_collection_back(world: World) -> None:
    world.versions["embedding_model"], world.passes = 2, False
    world.run("embedding_model")
    assert world.settle() == [{"passage_vectors"}]
