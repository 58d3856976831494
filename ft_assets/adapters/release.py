"""The released adapter: the candidate that may replace it, the release that is the baseline, and how to find it.

Candidates are the trained adapters that the evaluation compared: SFT, DPO, or both.

Plain functions: the asset `released_adapter` enforces the gates and then calls `release_adapter`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from expectations.contracts.adapter import AdapterContract
from expectations.violations import Refused, violation
from ft_assets.adapters.jobs import TRAINED, AnswerSummary
from ft_assets.config.from_artifact import settings_of
from resources.artifacts import Artifact, ArtifactStore
from resources.releases import Release, Releases
from resources.trained_model import CONTRACT_FILE

_EVALUATION = "adapter_evaluation"


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


def choose_candidate(store: ArtifactStore) -> str:
    """Return the candidate (`sft`, `dpo`) that `release.prefer` takes from the current evaluation.

    Raises Refused (FT-REL-007) where it names an adapter that the evaluation did not compare.
    """
    evaluation, prefer = store.require(_EVALUATION), settings_of(store, "release").prefer
    compared = [name for name, asset in TRAINED.items() if asset in evaluation.manifest.recipe.inputs]
    wanted = evaluation.summary_as(AnswerSummary).proposed if prefer == "best" else prefer
    if wanted not in compared:
        other = violation("FT-REL-007", where=_EVALUATION, field="release.prefer", found=prefer, expected=compared)
        raise Refused("released_adapter", [other])
    return str(wanted)


def assets_of(store: ArtifactStore) -> list[str]:
    """Return the assets whose versions make the next release: the evaluation, the candidate, and what it continues."""
    chosen = TRAINED[choose_candidate(store)]
    continued = [name for name in TRAINED.values() if name in store.require(chosen).manifest.recipe.inputs]
    return [*continued, chosen, _EVALUATION]


def released_asset(release: Release) -> str:
    """Return the asset of the adapter that is released: DPO continues the SFT adapter of its release, if it has one.

    Raises Refused (FT-REL-003) on a record of a release that names no adapter.
    """
    for asset in reversed(TRAINED.values()):
        if asset in release.artifacts:
            return asset
    where, found, expected = f"adapter release {release.version}", sorted(release.artifacts), list(TRAINED.values())
    damaged = violation("FT-REL-003", where=where, field="artifacts", found=found, expected=expected)
    raise Refused("reading the releases", [damaged])


def release_adapter(store: ArtifactStore, releases: Releases) -> Outcome:
    """Release the current candidate. The caller holds `Releases.exclusive` and has enforced the gates.

    A candidate that a person rolled back is not released again: the current release stays and is returned.
    Raises Refused (FT-ADP-005) where the evaluation is of other adapters.
    """
    artifacts = {asset: store.require(asset) for asset in assets_of(store)}
    refuse_other_candidates(artifacts)
    recipes = {asset: artifact.recipe_id for asset, artifact in artifacts.items()}
    metrics = _plain_figures(artifacts["adapter_evaluation"])
    contract = msgspec.to_builtins(contract_of(artifacts[TRAINED[choose_candidate(store)]]))
    details: dict[str, object] = {"contract": contract, "metrics": metrics}
    current = releases.current("adapter")
    if current is not None and releases.is_withheld("adapter", recipes, details):
        return Outcome(current, reused=True, withheld=True, metrics=metrics)
    release = releases.commit("adapter", releases.plan_release("adapter", recipes, details))
    reused = current is not None and current.version == release.version
    return Outcome(release, reused=reused, withheld=False, metrics=metrics)


def refuse_other_candidates(artifacts: Mapping[str, Artifact]) -> None:
    """Refuse (FT-ADP-005) unless DPO continues this SFT adapter and the evaluation is of these adapters."""
    violations = [
        violation("FT-ADP-005", where=asset, field=name, found=used, expected=current, fix=f"ft run --asset {asset}")
        for asset, name, used, current in _inputs(artifacts)
        if used != current
    ]
    if violations:
        raise Refused("released_adapter", violations)


def baseline(releases: Releases, candidates: Collection[str]) -> Release | None:
    """Return the release that one of the candidates (recipe ids of adapters) would replace, or has replaced.

    It is the same before and after a candidate is released, so that the evaluation's recipe does not change.
    """
    book = releases.book("adapter")
    current = releases.current("adapter")
    if book is None or current is None or current.artifacts[released_asset(current)] not in candidates:
        return current
    others = [r for r in book.history if r.artifacts[released_asset(r)] not in candidates]
    earlier = [release for release in others if release.released_at < current.released_at]
    return earlier[-1] if earlier else None


def find_released(store: ArtifactStore, releases: Releases) -> Artifact:
    """Return the adapter that is released. Raises Refused: FT-ADP-003 none is, FT-ADP-004 it is not in the store."""
    release = releases.current("adapter")
    if release is None:
        raise Refused("the released adapter", [violation("FT-ADP-003", where="released_adapter")])
    asset = released_asset(release)
    recipe_id = release.artifacts[asset]
    adapter = store.find(asset, recipe_id)
    if adapter is None:
        missing = violation("FT-ADP-004", where="released_adapter", field=asset, found=None, expected=recipe_id)
        raise Refused("the released adapter", [missing])
    return adapter


def _inputs(artifacts: Mapping[str, Artifact]) -> list[tuple[str, str, str, str]]:
    """Return (asset, its input, the version of that input in its recipe, the version to release) for each input."""
    inputs: list[tuple[str, str, str, str]] = []
    for asset, artifact in artifacts.items():
        used = artifact.manifest.recipe.inputs
        inputs += [(asset, name, used[name], artifacts[name].data_version) for name in artifacts if name in used]
    return inputs


def _plain_figures(evaluation: Artifact) -> dict[str, int | float]:
    return {name: value for name, value in evaluation.summary.items() if isinstance(value, int | float)}
