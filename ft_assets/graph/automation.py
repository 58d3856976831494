"""What happens by itself and why, and the named jobs that a person or CI launches."""

# the signatures of define_asset_job and map_asset_specs are partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import dagster as dg

from ft_assets.config.model import SETTINGS_ASSETS

AC = dg.AutomationCondition

# A training is long and changes what is compared: it is made when somebody asks for it, and only then. What follows
# from it (vectors, collection, evaluation, release) goes on by itself.
ASKED = frozenset({"sft_adapter", "dpo_adapter", "embedding_model"})
# They move what serves. When the daemon first looks they stay: a person may have rolled back.
POINTERS = frozenset({"released_adapter", "released_collection"})

# Inputs whose change does not request the asset itself. The change reaches it through qdrant_collection or
# retrieval_splits, which are rebuilt in a later run: requested at once, the asset would judge the old ones.
FOLLOW_THE_COLLECTION = {
    "retrieval_evaluation": ("embedding_model", "passages"),
    "fusion_sweep": ("embedding_model", "passages", "passage_vectors"),
}

# All assets, in the order of the data's way: the button of `make demo` and of the UI's "launch job".
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all(),
    description="Every asset and every check, from files to what is released.",
)

# Checks alone, for CI: judges what stands, makes nothing.
compat_gate = dg.define_asset_job(
    "compat_gate",
    selection=dg.AssetSelection.all_asset_checks(),
    description="Every check and no asset. `ft gate` runs it and turns the results into an exit code.",
)

# The side of the graph that serves retrieval; needs no language model.
retrieval_side = dg.define_asset_job(
    "retrieval_side",
    selection=dg.AssetSelection.assets("released_collection", "fusion_sweep").upstream(),
    description="Passages, embedding model, collection and its release.",
)

# The side that trains the generator; needs no vector engine.
adapter_side = dg.define_asset_job(
    "adapter_side",
    selection=dg.AssetSelection.assets("released_adapter").upstream(),
    description="Records, splits, SFT and DPO adapters and their release.",
)

JOBS = [everything, compat_gate, retrieval_side, adapter_side]


def on_contract_change(
    *, at_first_look: bool = True, not_for: Sequence[str] = ()
) -> dg.AutomationCondition[dg.AssetKey]:
    """Request an asset when the version of something it is made from changed, and every blocking check there passed.

    Not `eager()`, which asks after any materialization, be the version the same, and looks at no check. An update is
    kept until the asset was requested *for it*, which takes two precautions:

    - `since(newly_requested)`, never `since_last_handled()`: that one also ends when the asset is updated, and so
      forgets whatever changed while the asset's own long run went on.
    - `changed_again`: in a `since`, the reset wins a tie, and so a change on the very tick after a request (when
      `newly_requested` is true) would be forgotten.

    At its first look the daemon knows no versions from before and can see no change: it asks for everything once, and
    what is unchanged is reused. An asset that fails is not tried again by itself: it needs a person or a change. One
    that was skipped because a check before it failed is asked for as soon as that check passes.
    """
    asked = AC.newly_requested()
    any_change = AC.any_deps_match(AC.data_version_changed())
    ignored = dg.AssetSelection.assets(*not_for)
    changed = cast("dg.AutomationCondition[dg.AssetKey]", any_change.ignore(ignored) if not_for else any_change)
    if at_first_look:
        handled, changed_or_new = asked, changed | AC.initial_evaluation()
    else:
        handled, changed_or_new = asked | AC.initial_evaluation(), changed
    checks_passed = AC.all_deps_blocking_checks_passed().with_label("blocking_checks_upstream_passed")
    upstream = changed_or_new.since(handled).with_label("upstream_version_changed")
    again = (changed & asked).since(asked & ~changed).with_label("upstream_version_changed_again")
    code = AC.code_version_changed().since(handled).with_label("code_changed")
    skipped = (AC.execution_failed().newly_true() & ~checks_passed).since(handled).with_label("skipped_by_a_check")
    wanted = upstream | again | code | skipped | AC.newly_missing()
    quiet = ~AC.in_progress() & ~AC.any_deps_in_progress() & ~AC.any_deps_missing()
    return (wanted & quiet & checks_passed).with_label("on_contract_change")


def judge_again() -> dg.AutomationCondition[Any]:
    """Run a check, alone, when an asset that it reads was updated.

    Only for checks that stop nothing: a check with a condition of its own no longer runs with its asset, and what a
    blocking one would stop could be requested before it. Those that read settings are judged by the watcher.
    """
    updated = AC.any_deps_match(AC.newly_updated()).since(AC.newly_requested() | AC.initial_evaluation())
    return (updated & ~AC.any_deps_in_progress() & ~AC.any_deps_missing()).with_label("judge_again")


def automate(assets: Iterable[Any]) -> list[Any]:
    """The assets with their conditions: all but trainings (see `ASKED`), settings (the watcher's) and sources."""
    by_hand = ASKED | set(SETTINGS_ASSETS.values())

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in by_hand:
            return spec
        condition = on_contract_change(at_first_look=name not in POINTERS, not_for=FOLLOW_THE_COLLECTION.get(name, ()))
        return spec.replace_attributes(automation_condition=condition)

    return [a.map_asset_specs(with_condition) if isinstance(a, dg.AssetsDefinition) else a for a in assets]


automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all().without_checks(),
    minimum_interval_seconds=10,  # a look at all conditions takes a second of a core
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests what a change makes necessary. Turn it off here to launch everything by hand.",
)

# A sensor of its own. Where one tick requests checks that have conditions together with assets none of whose checks has
# one, Dagster's run holds the requested checks alone and not the assets' own (1.13): nothing would ever judge what was
# made, and whatever waits for these checks would wait for good.
automation_of_checks = dg.AutomationConditionSensorDefinition(
    "automation_of_checks",
    target=dg.AssetSelection.all_asset_checks(),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs the checks that stop nothing again when something else that they read was updated.",
)

SENSORS = [automation, automation_of_checks]
