"""The released adapter: which candidate may replace it, which release is the baseline, and how to find it.

Plain functions: the asset `released_adapter` enforces the gates and then calls `release_adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from expectations.contracts.adapter import AdapterContract
from expectations.violations import Refused, violation
from resources.artifacts import Artifact, ArtifactStore
from resources.releases import Release, Releases
from resources.trained_model import CONTRACT_FILE

ASSETS = ("sft_adapter", "dpo_adapter", "adapter_evaluation")
"""The assets whose versions make one release."""
# asset -> the assets of this release that it must have been made from
_MADE_FROM = {"dpo_adapter": ("sft_adapter",), "adapter_evaluation": ("sft_adapter", "dpo_adapter")}


class Outcome(NamedTuple):
    """The release that serves after `release_adapter`."""

    release: Release
    reused: bool
    """True if it served before."""
    withheld: bool
    """True if the candidate was rolled back earlier, so that the current release stays."""
    metrics: dict[str, int | float]
    """The plain figures of the candidate's evaluation."""


def contract_of(adapter: Artifact) -> AdapterContract:
    """Return the contract of an adapter artifact."""
    return msgspec.convert(adapter.json(CONTRACT_FILE), AdapterContract)


def release_adapter(store: ArtifactStore, releases: Releases) -> Outcome:
    """Release the current candidate. The caller holds `Releases.exclusive` and has enforced the gates.

    A candidate that a person rolled back is not released again: the current release stays and is returned.
    Raises Refused (FT-ADP-005) where the evaluation is of other adapters.
    """
    artifacts = {asset: store.require(asset) for asset in ASSETS}
    refuse_other_candidates(artifacts)
    recipes = {asset: artifact.recipe_id for asset, artifact in artifacts.items()}
    metrics = _plain_figures(artifacts["adapter_evaluation"])
    contract = msgspec.to_builtins(contract_of(artifacts["dpo_adapter"]))
    details: dict[str, object] = {"contract": contract, "metrics": metrics}
    current = releases.current("adapter")
    if current is not None and releases.is_withheld("adapter", recipes, details):
        return Outcome(current, reused=True, withheld=True, metrics=metrics)
    release = releases.commit("adapter", releases.plan_release("adapter", recipes, details))
    reused = current is not None and current.version == release.version
    return Outcome(release, reused=reused, withheld=False, metrics=metrics)


def refuse_other_candidates(artifacts: Mapping[str, Artifact]) -> None:
    """Refuse (FT-ADP-005) unless DPO started from this SFT adapter and the evaluation is of these two adapters."""
    violations = [
        violation("FT-ADP-005", where=asset, field=name, found=used, expected=current, fix=f"ft run --asset {asset}")
        for asset, name, used, current in _inputs(artifacts)
        if used != current
    ]
    if violations:
        raise Refused("released_adapter", violations)


def baseline(releases: Releases, candidate: str) -> Release | None:
    """Return the release that the candidate (a recipe id of dpo_adapter) would replace, or has replaced.

    It is the same before and after the candidate is released, so that the evaluation's recipe does not change.
    """
    book = releases.book("adapter")
    current = releases.current("adapter")
    if book is None or current is None or current.artifacts["dpo_adapter"] != candidate:
        return current
    others = [release for release in book.history if release.artifacts["dpo_adapter"] != candidate]
    earlier = [release for release in others if release.released_at < current.released_at]
    return earlier[-1] if earlier else None


def find_released(store: ArtifactStore, releases: Releases) -> Artifact:
    """Return the adapter that is released. Raises Refused: FT-ADP-003 none is, FT-ADP-004 it is not in the store."""
    release = releases.current("adapter")
    if release is None:
        raise Refused("the released adapter", [violation("FT-ADP-003", where="released_adapter")])
    recipe_id = release.artifacts["dpo_adapter"]
    adapter = store.find("dpo_adapter", recipe_id)
    if adapter is None:
        missing = violation("FT-ADP-004", where="released_adapter", field="dpo_adapter", found=None, expected=recipe_id)
        raise Refused("the released adapter", [missing])
    return adapter


def _inputs(artifacts: Mapping[str, Artifact]) -> list[tuple[str, str, str, str]]:
    """Return (asset, its input, the version of that input in its recipe, the version to release) for each input."""
    inputs: list[tuple[str, str, str, str]] = []
    for asset, names in _MADE_FROM.items():
        used = artifacts[asset].manifest.recipe.inputs
        inputs += [(asset, name, used[name], artifacts[name].data_version) for name in names]
    return inputs


def _plain_figures(evaluation: Artifact) -> dict[str, int | float]:
    return {name: value for name, value in evaluation.summary.items() if isinstance(value, int | float)}
