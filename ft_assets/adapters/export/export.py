"""Export of a trained model: an adapter in PEFT's layout or a whole model, also merged into its base, also as GGUF. It
is staged, then renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import file_digest
from ft_assets.adapters import release
from ft_assets.adapters.export.gguf import convert
from ft_assets.adapters.export.gptq import quantise
from ft_assets.adapters.export.merge import MergedDtype, merge_adapter
from ft_assets.adapters.export.model_card import CardFigures, ModelCard, write_card
from ft_assets.adapters.export.ollama import MODELFILE, write_modelfile
from ft_assets.adapters.jobs import AnswerSummary
from resources import models
from resources.artifacts import Artifact, ArtifactStore, library_versions, write_json
from resources.releases import Releases
from resources.telemetry import METRICS_FILE
from resources.trained_model import CONTRACT_FILE, read_adapter_contract, weights_folder
from resources.training_run import unlink_final_model, was_published

GGUF_FILE = "model.gguf"
GPTQ_FOLDER = "gptq"
REPORT_FILE = "export.json"


def find_adapter(store: ArtifactStore, releases: Releases, which: str) -> Artifact:
    """Return the current `sft`, `dpo` or `released` adapter. Raises Refused: FT-ADP-003, FT-ADP-004, FT-ART-001."""
    return release.find_released(store, releases) if which == "released" else store.require(f"{which}_adapter")


def export(
    adapter: Artifact,
    target: Path,
    store: ArtifactStore,
    *,
    merged: bool = False,
    dtype: MergedDtype | None = None,
    converter: list[str] | None = None,
    gguf_type: str = "auto",
    gptq: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write `target`/adapter (of a whole model `target`/model) and, if requested, /merged, /model.gguf (by the command
    `converter`) with /Modelfile, and /gptq. Return the content of export.json.

    `target` appears whole or not at all; an earlier export in its place is replaced in two renames.
    Raises Refused: FT-ADP-001, FT-ADP-010, FT-ADP-011, FT-ADP-013, FT-ADP-015, FT-ART-002,
    FT-ART-003.
    """
    source = adapter.folder()
    contract = read_adapter_contract(source)
    base = models.locate(contract.base.name, store.root.parent, contract.base.revision)
    card = ModelCard(
        recipe=adapter.manifest.recipe,
        contract=contract,
        figures=adapter.summary_as(CardFigures),
        base_folder=base,
        evaluation=find_evaluation(store, adapter),
        libraries=adapter.manifest.libraries,
    )
    report: dict[str, Any] = {
        "asset": adapter.asset,
        "recipe": adapter.recipe_id,
        "data_version": adapter.data_version,
        "base": msgspec.to_builtins(contract.base),
        "libraries": library_versions(),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _stage_trained(card, source, staging / weights_folder(contract))
        if merged or converter or gptq:
            on_step(f"merging into {contract.base.name}")
            report["merged"] = _stage_merged(card, source, staging / "merged", dtype)
        if converter:
            on_step("converting to GGUF")
            convert(converter, staging / "merged", staging / GGUF_FILE, gguf_type)
            if modelfile := write_modelfile(staging / "merged", GGUF_FILE, contract.prompt.system):
                (staging / MODELFILE).write_text(modelfile, "utf-8")
        if gptq:
            on_step("quantising to 4 bits")
            report["gptq"] = msgspec.to_builtins(quantise(staging / "merged", staging / GPTQ_FOLDER))
        if not merged:
            shutil.rmtree(staging / "merged", ignore_errors=True)
        files = [path for path in sorted(staging.rglob("*")) if path.is_file()]
        for path in files:
            path.chmod(0o644)  # safetensors writes files that only their owner may read
        report["files"] = {path.relative_to(staging).as_posix(): file_digest(path) for path in files}
        write_json(staging / REPORT_FILE, report)
        _move_into_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _stage_trained(card: ModelCard, source: Path, folder: Path) -> None:
    """Copy the adapter or the whole model, with contract and card."""
    shutil.copytree(source / folder.name, folder)
    shutil.copy2(source / CONTRACT_FILE, folder)
    write_card(folder / "README.md", card)
    if card.contract.method == "full":
        _copy_licences(card.base_folder, folder)


def _stage_merged(card: ModelCard, source: Path, folder: Path, dtype: MergedDtype | None) -> dict[str, Any]:
    """Merge into `folder`, add contract, licences and card, and return the figures of the merge."""
    figures = msgspec.to_builtins(merge_adapter(source, card.base_folder, folder, dtype))
    shutil.copy2(source / CONTRACT_FILE, folder)
    _copy_licences(card.base_folder, folder)
    write_card(folder / "README.md", msgspec.structs.replace(card, merged=figures))
    return figures


def is_export(folder: Path) -> bool:
    """Return whether `export` wrote this folder."""
    return (folder / REPORT_FILE).is_file()


def find_evaluation(store: ArtifactStore, adapter: Artifact) -> AnswerSummary | None:
    """Return the summary of the newest adapter_evaluation of exactly this adapter, or None."""
    for evaluation in store.versions("adapter_evaluation"):
        if evaluation.manifest.recipe.inputs.get(adapter.asset) == adapter.data_version:
            return evaluation.summary_as(AnswerSummary)
    return None


def delete_stale_metrics(run_dir: Path) -> None:
    """Delete the metrics of a run that was published and whose artifact was lost: the next run logs its own."""
    if was_published(run_dir):
        (run_dir / METRICS_FILE).unlink(missing_ok=True)
        unlink_final_model(run_dir)


def _copy_licences(base: Path, target: Path) -> None:
    for path in [*base.glob("LICENSE*"), *base.glob("NOTICE*")]:
        shutil.copy2(path, target)


def _move_into_place(staging: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(aside)
    staging.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
