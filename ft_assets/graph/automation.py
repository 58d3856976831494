"""The conditions on which the daemon requests assets, and the named jobs that a person or CI launches."""

# the signatures of define_asset_job and map_asset_specs are partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.data_version import extract_data_provenance_from_entry, extract_data_version_from_entry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster_shared.record import record

from ft_assets.config.model import SETTINGS_ASSETS

AC = dg.AutomationCondition
_FAILED = AssetCheckExecutionRecordStatus.FAILED

# A training is long and changes what later assets are compared with, so it runs only on request. Its consumers
# (vectors, collection, evaluation, release) are requested automatically.
TRAININGS = frozenset({"sft_adapter", "dpo_adapter", "embedding_model", "kbalign_author"})
# So does asking a model for many texts, which costs tokens or money.
BY_HAND = TRAININGS | {"kbalign_short", "kbalign_long", "ddr_candidates"}
# These assets move a release. The first look of the daemon does not request them: a person may have rolled back.
POINTERS = frozenset({"released_adapter", "released_collection"})

# Inputs whose change does not request the asset itself. The change reaches it through passage_vectors,
# qdrant_collection or retrieval_splits, which are rebuilt in a later run: requested at once, the asset would judge the
# old ones.
FOLLOW_THE_COLLECTION = {
    "embedding_evaluation": ("embedding_model", "passages", "base_vectors"),
    "retrieval_evaluation": ("embedding_model", "passages", "passage_vectors"),
    "fusion_sweep": ("embedding_model", "passages"),
    "answer_evaluation": ("passages",),
}

# All assets, in the order of the data flow: `make demo` runs it, and the UI's "launch job".
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all(),
    description="Every asset and every check, from the files to the releases.",
)

# Checks alone, for CI: judges the current versions and makes no asset.
compat_gate = dg.define_asset_job(
    "compat_gate",
    selection=dg.AssetSelection.all_asset_checks(),
    description="Every check and no asset. `ft gate` runs it and turns the results into an exit code.",
)

ENDS: dict[str, tuple[str, ...]] = {
    "everything": (),
    "compat_gate": (),
    "retrieval_side": ("released_collection",),
    "adapter_side": ("released_adapter",),
}
"""Job -> the assets that it makes with all that they need. It exists only where these are configured."""

# The side of the graph that serves retrieval; needs no language model.
retrieval_side = dg.define_asset_job(
    "retrieval_side",
    selection=dg.AssetSelection.assets(*ENDS["retrieval_side"]).upstream(),
    description="Passages, embedding model, collection and its release.",
)

# The side that trains the generator; needs no vector engine.
adapter_side = dg.define_asset_job(
    "adapter_side",
    selection=dg.AssetSelection.assets(*ENDS["adapter_side"]).upstream(),
    description="Records, splits, SFT and DPO adapters and their release.",
)

JOBS = [everything, compat_gate, retrieval_side, adapter_side]


def _candidate_if(
    context: dg.AutomationContext[dg.AssetKey], holds: Callable[[dg.AutomationContext[dg.AssetKey]], bool]
) -> dg.AutomationResult[dg.AssetKey]:
    """Return the candidate if there is one and `holds` is true of it."""
    candidates = context.candidate_subset
    is_true = not candidates.is_empty and holds(context)
    return dg.AutomationResult(context, candidates if is_true else context.get_empty_subset())


@record
class InputsDiffer(dg.AutomationCondition[dg.AssetKey]):
    """The asset was last made from another version of an input than the current one, or nobody knows from which.

    It compares what is recorded now, not what happened since the last look, and can thus lose no change.
    """

    not_for: Sequence[str]

    @property
    def name(self) -> str:
        return "inputs_differ"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """Return the candidate if it differs; it is empty where an earlier condition does not hold."""
        return _candidate_if(context, self._differs)

    def _differs(self, context: dg.AutomationContext[dg.AssetKey]) -> bool:
        graph, instance = context.asset_graph_view.asset_graph, context.asset_graph_view.instance
        made = instance.get_latest_materialization_event(context.key)
        provenance = extract_data_provenance_from_entry(made) if made else None
        if provenance is None:
            return True
        for key in graph.get(context.key).parent_keys - {dg.AssetKey(name) for name in self.not_for}:
            latest = instance.get_latest_data_version_record(key, is_source=graph.get(key).is_external)
            version = extract_data_version_from_entry(latest.event_log_entry) if latest else None
            if version != provenance.input_data_versions.get(key):
                return True
        return False


@record
class JudgedTooEarly(dg.AutomationCondition[dg.AssetKey]):
    """A blocking check of the asset failed, and something upstream was made after that.

    The check of the lineage looks at everything upstream. Where two runs make parts of that at the same time it fails,
    although nothing follows that changes an input of the asset.
    """

    @property
    def name(self) -> str:
        return "judged_too_early"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """Return the candidate if a check may pass now."""
        return _candidate_if(context, self._is_early)

    def _is_early(self, context: dg.AutomationContext[dg.AssetKey]) -> bool:
        graph, instance = context.asset_graph_view.asset_graph, context.asset_graph_view.instance
        blocking = [key for key in graph.get(context.key).check_keys if graph.get(key).blocking]
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(blocking).values()
        failed = [one.event.timestamp for one in records if one.event and one.status is _FAILED]
        if not failed:
            return False
        upstream = map(instance.get_latest_materialization_event, graph.get_ancestor_asset_keys(context.key))
        return any(event.timestamp > min(failed) for event in upstream if event)


def on_contract_change(
    *, at_first_look: bool = True, not_for: Sequence[str] = ()
) -> dg.AutomationCondition[dg.AssetKey]:
    """Request an asset when the version of an input changed and all blocking checks on its inputs passed.

    `not_for`: inputs whose change alone requests nothing.

    Not `eager()`: that requests after any materialization, even of the same version, and ignores checks. A change is
    kept until the asset was requested *for it*, which needs two precautions:

    - `since(newly_requested)`, never `since_last_handled()`: that one also ends when the asset is updated, and so
      loses any change during the asset's own long run.
    - `upstream_version_changed_again`: in a `since`, the reset wins a tie, so a change in the tick directly after a
      request (when `newly_requested` is true) would be lost.

    A candidate that a check of its own has refused is judged again when something upstream was made since
    (`JudgedTooEarly`): the artifact is reused, so this costs nothing.

    An input that was made before the asset in one run is a change too, but not one to request anything for:
    `InputsDiffer` holds such a change back, until an input differs from the version that the asset was made from.

    At its first look the daemon knows no earlier versions and can see no change: it requests everything once, and
    unchanged artifacts are reused. An asset that failed is not tried again: that needs a person or a change. An asset
    that was skipped because a check before it failed is requested as soon as that check passes.
    """
    requested = AC.newly_requested()
    any_change = AC.any_deps_match(AC.data_version_changed())
    ignored = dg.AssetSelection.assets(*not_for)
    changed = cast("dg.AutomationCondition[dg.AssetKey]", any_change.ignore(ignored) if not_for else any_change)
    first_look = AC.initial_evaluation()
    handled = requested if at_first_look else requested | first_look
    checks_passed = AC.all_deps_blocking_checks_passed().with_label("blocking_checks_upstream_passed")
    upstream = changed.since(handled).with_label("upstream_version_changed")
    again = (changed & requested).since(requested & ~changed).with_label("upstream_version_changed_again")
    code = AC.code_version_changed().since(handled).with_label("code_changed")
    skipped = (AC.execution_failed().newly_true() & ~checks_passed).since(handled).with_label("skipped_by_a_check")
    early = JudgedTooEarly().newly_true().since(handled).with_label("judged_too_early")
    wanted = ((upstream | again) & InputsDiffer(not_for=not_for)) | code | skipped | early | AC.newly_missing()
    if at_first_look:
        wanted |= first_look.since(handled).with_label("first_look")
    quiet = ~AC.in_progress() & ~AC.any_deps_in_progress() & ~AC.any_deps_missing()
    return (wanted & quiet & checks_passed).with_label("on_contract_change")


def judge_again() -> dg.AutomationCondition[Any]:
    """Run a check alone when an asset that it reads was updated.

    Only for checks that do not block: a check with its own condition no longer runs with its asset, so the assets that
    a blocking check must stop could be requested before it. The watcher runs the checks that read settings.
    """
    updated = AC.any_deps_match(AC.newly_updated()).since(AC.newly_requested() | AC.initial_evaluation())
    return (updated & ~AC.any_deps_in_progress() & ~AC.any_deps_missing()).with_label("judge_again")


def automate(assets: Iterable[Any]) -> list[Any]:
    """Return the assets with their conditions: all but those by hand, sources, and settings (the watcher requests
    them)."""
    not_automated = BY_HAND | set(SETTINGS_ASSETS.values())

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in not_automated:
            return spec
        condition = on_contract_change(at_first_look=name not in POINTERS, not_for=FOLLOW_THE_COLLECTION.get(name, ()))
        return spec.replace_attributes(automation_condition=condition)

    return [
        asset.map_asset_specs(with_condition) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets
    ]


automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all().without_checks(),
    minimum_interval_seconds=10,  # evaluating all conditions takes one core a second
    default_status=dg.DefaultSensorStatus.RUNNING,
    use_user_code_server=True,  # only there is the code of InputsDiffer
    description="Requests the assets that a change makes necessary. Turn it off here to launch everything by hand.",
)

# A separate sensor for a reason: if one tick requests checks that have conditions together with assets whose checks
# have none, Dagster's run contains only the requested checks and not the checks of these assets (1.13). Nothing would
# ever judge the new artifacts, and every asset that waits for these checks would wait for ever.
automation_of_checks = dg.AutomationConditionSensorDefinition(
    "automation_of_checks",
    target=dg.AssetSelection.all_asset_checks(),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs checks that do not block again when another asset that they read was updated.",
)

SENSORS = [automation, automation_of_checks]
