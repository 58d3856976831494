"""The model that answers the questions: the SFT adapter, the released one, the adapter of the round before, or none."""

from __future__ import annotations

from pathlib import Path

from expectations.contracts.adapter import RagPrompt, compare_base, compare_prompt
from expectations.violations import Refused, violation
from ft_assets.adapters.release import contract_of, find_released
from ft_assets.config.model import DdrSettings
from resources import models
from resources.artifacts import Artifact, ArtifactStore
from resources.releases import Releases
from resources.text_source import GeneratorParams

SFT, DPO = "sft_adapter", "dpo_adapter"
_WORK = "choosing the model that answers"


def find_answering(
    store: ArtifactStore, releases: Releases, settings: DdrSettings, generator: GeneratorParams, prompt: RagPrompt
) -> Artifact | None:
    """Return the adapter that answers; None: the generator as it is.

    Raises Refused: FT-DDR-020 the adapter of the round before is not in the store, FT-DDR-021 it is of another base or
    prompt; FT-ADP-003 no adapter is released; as `ArtifactStore.require` where SFT was never trained.
    """
    if settings.parent is not None:
        parent = _find_parent(store, settings.parent)
        _refuse_other(parent, generator, prompt, store.root.parent)
        return parent
    if settings.model == "base":
        return None
    return find_released(store, releases) if settings.model == "released" else store.require(SFT)


def _find_parent(store: ArtifactStore, recipe_id: str) -> Artifact:
    parent = store.find(DPO, recipe_id)
    if parent is None:
        there = [artifact.recipe_id for artifact in store.versions(DPO)]
        raise Refused(
            _WORK, [violation("FT-DDR-020", where=DPO, field="ddr.parent", found=recipe_id, expected=there or "none")]
        )
    return parent


def _refuse_other(parent: Artifact, generator: GeneratorParams, prompt: RagPrompt, state: Path) -> None:
    contract, where = contract_of(parent), f"{DPO}/{parent.recipe_id}"
    base = models.identify(models.locate(generator.base_model, state, generator.revision), contract)
    differing = [
        *compare_base(contract, base).violations(where, "FT-DDR-021"),
        *compare_prompt(contract, prompt).violations(where, "FT-DDR-021"),
    ]
    if differing:
        raise Refused(_WORK, differing)
