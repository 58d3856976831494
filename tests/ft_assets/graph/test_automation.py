"""The requests of the daemon, tick by tick: no change is ever lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest

from ft_assets.definitions import GATES, STAGES
from ft_assets.graph.automation import (
    AC,
    BY_HAND,
    SENSORS,
    TRAININGS,
    automate,
    judge_again,
    on_contract_change,
)
from tests.ft_assets.daemon import Daemon

pytestmark = pytest.mark.slow


@dataclass
class World:
    """`source` and the assets made from it, with versions, verdicts and failures that a test sets."""

    instance: dg.DagsterInstance
    version: str = "1"
    code: str = "1"
    passes: bool = True
    breaks: bool = False
    is_in_sync: bool = True
    policy: Any = None
    on_made: Any = None
    made: list[str] = field(default_factory=list)
    cursor: Any = None

    def defs(self) -> dg.Definitions:
        @dg.asset
        def source() -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.version))

        @dg.asset_check(asset=source, blocking=True)
        def fits() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=self.passes)

        @dg.asset(deps=[source], code_version=self.code, automation_condition=self.policy or on_contract_change())
        def index() -> dg.MaterializeResult[Any]:
            seen = self.version
            if self.on_made:
                self.on_made()
            if self.breaks:
                raise RuntimeError("broken")
            self.made.append(seen)
            return dg.MaterializeResult(data_version=dg.DataVersion(f"index of {seen}"))

        @dg.asset_check(asset=index, blocking=True)
        def in_sync() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=self.is_in_sync)

        release_when = on_contract_change(at_first_look=False)

        @dg.asset(deps=[index], automation_condition=release_when)
        def release() -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(data_version=dg.DataVersion(f"release of {self.made[-1]}"))

        quiet = dg.logger(lambda _: logging.getLogger("quiet"))
        return dg.Definitions(
            assets=[source, index, release],
            asset_checks=[fits, in_sync],
            executor=dg.in_process_executor,
            loggers={"quiet": quiet},
        )

    def run(self, *names: str) -> None:
        job = self.defs().resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(name) for name in names]
        job.execute_in_process(instance=self.instance, asset_selection=keys, raise_on_error=False)

    def judge(self) -> None:
        """Run the check alone."""
        job = self.defs().resolve_implicit_global_asset_job_def()
        check = dg.AssetCheckKey(dg.AssetKey("source"), "fits")
        job.get_subset(asset_selection=set(), asset_check_selection={check}).execute_in_process(
            instance=self.instance, raise_on_error=False
        )

    def requested(self) -> set[str]:
        """Return the requests of one tick, without running them."""
        result = dg.evaluate_automation_conditions(self.defs(), self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return {r.key.to_user_string() for r in result.results if not r.true_subset.is_empty}

    def settle(self) -> list[set[str]]:
        """Tick and run until nothing is requested."""
        asked: list[set[str]] = []
        while found := self.requested():
            asked.append(found)
            self.run(*found)
            assert len(asked) < 8, asked
        assert self.requested() == set()
        return asked


@pytest.fixture
def world() -> Generator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        made = World(instance)
        made.run("source")
        made.settle()
        yield made


def test_the_first_look_requests_everything_once(world: World) -> None:
    assert world.made == ["1"]


def test_the_first_look_requests_existing_assets_but_no_release() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(instance)
        world.run("source", "index", "release")
        assert world.settle() == [{"index"}]


def test_an_equal_version_requests_nothing(world: World) -> None:
    world.run("source")
    assert world.settle() == []


def test_a_new_version_requests_its_consumers_step_by_step(world: World) -> None:
    world.version = "2"
    world.run("source")
    assert world.settle() == [{"index"}, {"release"}]
    assert world.made == ["1", "2"]


def test_new_code_requests_its_own_asset(world: World) -> None:
    world.code = "2"
    assert world.settle()[0] == {"index"}


def test_a_failing_check_blocks_and_a_passing_one_releases(world: World) -> None:
    world.version, world.passes = "2", False
    world.run("source")
    assert [world.requested() for _ in range(3)] == [set(), set(), set()]
    world.passes = True
    world.judge()
    assert world.settle() == [{"index"}, {"release"}]


def test_a_candidate_that_was_judged_before_its_upstream_was_ready_is_judged_again_and_only_once(world: World) -> None:
    world.version, world.is_in_sync = "2", False
    world.run("source")
    assert world.settle() == [{"index"}]  # refused by its own check, and left alone
    world.run("source")  # made by another run, with the same version
    assert world.settle() == [{"index"}]  # judged again: it is not in sync yet
    world.is_in_sync = True
    assert world.settle() == []  # no look sees that
    world.run("source")
    assert world.settle() == [{"index"}, {"release"}]


def test_a_candidate_that_breaks_when_it_is_judged_again_is_left_alone(world: World) -> None:
    world.version, world.is_in_sync = "2", False
    world.run("source")
    assert world.settle() == [{"index"}]
    world.breaks = True
    world.run("source")
    assert world.settle() == [{"index"}]


def change_on_the_tick_after_a_request(world: World) -> None:
    world.version = "2"
    world.run("source")
    assert world.requested() == {"index"}
    world.run("index")
    world.version = "3"
    world.run("source")  # before the next tick, the one that sees its own request
    world.settle()


def change_during_a_long_run(world: World) -> None:
    def change_and_tick() -> None:
        world.on_made = None
        world.version = "3"
        world.run("source")
        for _ in range(3):
            assert "index" not in world.requested()  # it is still running

    world.version = "2"
    world.run("source")
    assert world.requested() == {"index"}
    world.on_made = change_and_tick
    world.run("index")
    assert world.made == ["1", "2"]
    world.settle()


TRAPS = [change_on_the_tick_after_a_request, change_during_a_long_run]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_a_change_is_not_lost(world: World, trap: Callable[[World], None]) -> None:
    trap(world)
    assert world.made[-1] == "3"


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_the_obvious_condition_loses_it(trap: Callable[[World], None]) -> None:
    """The reason why the policy is not simply this condition."""
    changed = AC.any_deps_match(AC.data_version_changed()).since_last_handled()
    naive = (changed | AC.newly_missing()) & ~AC.in_progress() & ~AC.any_deps_in_progress() & ~AC.any_deps_missing()
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(instance, policy=naive)
        world.run("source")
        world.settle()
        trap(world)
        assert world.made[-1] == "2"


def test_both_traps_at_once(world: World) -> None:
    """A change in the very next tick, while the run of the request is not finished."""

    def change_and_tick() -> None:
        world.on_made = None
        world.version = "3"
        world.run("source")
        assert "index" not in world.requested()

    world.version = "2"
    world.run("source")
    assert world.requested() == {"index"}
    world.on_made = change_and_tick
    world.run("index")
    assert "index" in world.settle()[0]
    assert world.made[-1] == "3"


def test_what_one_run_makes_in_order_is_not_requested_again(world: World) -> None:
    world.version = "2"
    world.run("source", "index", "release")
    assert world.settle() == []
    assert world.made == ["1", "2"]


@pytest.mark.parametrize("breaks", [False, True], ids=["made", "failed"])
def test_a_look_while_one_run_makes_both_requests_the_rest_only_if_it_failed(world: World, breaks: bool) -> None:
    def tick() -> None:
        world.on_made = None
        for _ in range(2):
            assert world.requested() == set()

    world.version, world.on_made, world.breaks = "2", tick, breaks
    world.run("source", "index", "release")
    world.breaks = False
    assert world.settle() == ([{"index"}, {"release"}] if breaks else [])
    assert world.made == ["1", "2"]


def test_a_change_after_the_run_that_made_both_is_not_lost(world: World) -> None:
    world.version = "2"
    world.run("source", "index", "release")
    world.version = "3"
    world.run("source")
    assert world.settle() == [{"index"}, {"release"}]
    assert world.made == ["1", "2", "3"]


def test_a_failed_asset_waits_for_a_person_or_a_change(world: World) -> None:
    world.version, world.breaks = "2", True
    world.run("source")
    assert world.requested() == {"index"}
    world.run("index")
    assert [world.requested() for _ in range(4)] == [set()] * 4
    world.breaks, world.version = False, "3"
    world.run("source")
    assert world.settle()[0] == {"index"}


def test_an_asset_skipped_by_a_check_is_requested_when_the_check_passes(world: World) -> None:
    world.version, world.passes = "2", False
    world.run("source", "index")  # one run: the check fails, index is skipped
    assert [world.requested() for _ in range(3)] == [set()] * 3
    world.passes = True
    world.judge()
    assert world.settle() == [{"index"}, {"release"}]


ONE_FOR_ALL = dg.AutomationConditionSensorDefinition("one", target=dg.AssetSelection.all())


@pytest.mark.parametrize(("sensors", "goes_on"), [(SENSORS, True), ([ONE_FOR_ALL], False)], ids=["ours", "one for all"])
def test_a_check_requested_in_the_same_tick_does_not_replace_an_assets_checks(sensors: Any, goes_on: bool) -> None:
    """With one sensor, nothing would judge the new index, and the release would wait for that for ever."""
    version = "1"

    @dg.asset
    def source() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(data_version=dg.DataVersion(version))

    def made() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(data_version=dg.DataVersion(f"from {version}"))

    index = dg.asset(made, name="index", deps=[source], automation_condition=on_contract_change())  # type: ignore[call-overload]
    release = dg.asset(made, name="release", deps=[index], automation_condition=on_contract_change())  # type: ignore[call-overload]

    @dg.asset
    def note() -> None: ...

    @dg.asset_check(asset=index, blocking=True)
    def sound() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    @dg.asset_check(asset=note, additional_deps=[source], automation_condition=judge_again())
    def fits() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    defs = dg.Definitions([source, index, release, note], asset_checks=[sound, fits], sensors=sensors)
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(defs, instance, artifacts=None)  # type: ignore[arg-type]
        daemon.execute(["source", "note", "index", "release"])
        for _ in range(3):
            for request in daemon.evaluate():
                daemon.launch(request)
        version = "2"
        daemon.execute(["source"])
        requests = daemon.evaluate()
        assert {key for request in requests for key in request.asset_check_keys or ()} == {fits.check_key}
        assert set().union(*(daemon.launch(request) for request in requests)) == {"index"}
        assert [daemon.launch(request) for request in daemon.evaluate()] == ([{"release"}] if goes_on else [])


def test_trainings_and_settings_have_no_condition_and_all_others_have_one() -> None:
    assets = automate(asset for stage in STAGES for asset in stage.ASSETS)
    specs = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]
    by_hand = {spec.key.to_user_string() for spec in specs if spec.automation_condition is None}
    assert {name for name in by_hand if not name.endswith("_settings")} == BY_HAND
    assert {"sft_adapter", "dpo_adapter", "kbalign_author"} <= TRAININGS < BY_HAND


def test_lineage_blocks_a_release() -> None:
    gates = {gate.asset for gate in GATES if gate.name == "lineage_in_sync" and gate.blocking}
    assert gates == {"retrieval_evaluation", "adapter_evaluation"}
