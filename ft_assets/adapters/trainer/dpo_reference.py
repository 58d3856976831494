"""The reference of DPO and KTO: the log-probabilities of the pairs, or of the answers with a verdict, by the model that
the training continues.

They are computed once, kept in the artifact store, and read by every later run on the same rows, whatever its learning
rate, beta or loss.

`dpo_reference` is an artifact without an asset: nobody materializes it, and losing it costs only time.
"""

# torch, trl, datasets and pyarrow are untyped here
# pyright: basic
from __future__ import annotations

import hashlib
import logging
import time
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ft_assets.config.model import DpoSettings
from resources import torchrun
from resources.accelerator import Compute
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from datasets import Dataset

_ASSET = "dpo_reference"
_VERSION = "1"
_FILE = "reference.parquet"
_KEPT = 3
_log = logging.getLogger(__name__)


class _Columns(NamedTuple):
    """TRL's names for the token ids of a row, and for the two log-probabilities that the reference gives it."""

    ids: tuple[str, ...]
    logps: tuple[str, str]
    also: tuple[str, ...] = ()
    """Other columns that a batch needs."""


_PAIRS = _Columns(("prompt_ids", "chosen_ids", "rejected_ids"), ("ref_chosen_logps", "ref_rejected_logps"))
_VERDICTS = _Columns(
    ("prompt_ids", "completion_ids", "KL_completion_ids"), ("ref_logps", "ref_KL_logps"), also=("label",)
)


class Reference(msgspec.Struct, frozen=True):
    """The store of the log-probabilities, and the version of the model that they belong to: of `sft_adapter`, or
    (`start`) of the base or of a given adapter on it."""

    store: ArtifactStore
    sft_version: str = ""
    start: str = ""


def use_reference(
    trainer: Any, reference: Reference, settings: DpoSettings, compute: Compute, metrics: Metrics
) -> Artifact | None:
    """Add the reference's log-probabilities to the data of a DPO or KTO trainer as columns, so that no step computes
    them and no second adapter or model is in memory. Return their artifact; None if every step computes them."""
    parts = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    if not is_wanted(settings, len(parts["train"])):
        return None
    names = _VERDICTS if settings.is_kto else _PAIRS
    recipe = Recipe(
        asset=_ASSET,
        code_version=_VERSION,
        settings={
            "tokens": {part: _digest_rows(dataset, names.ids) for part, dataset in parts.items()},
            "dtype": compute.dtype,
            "method": settings.method,
            **({"rows": "verdicts"} if settings.is_kto else {}),
            **({"start": reference.start} if reference.start else {}),
        },
        inputs={"sft_adapter": reference.sft_version} if reference.sft_version else {},
    )
    artifact = _find(reference.store, recipe) or _make(
        trainer,
        parts,
        names,
        recipe=recipe,
        store=reference.store,
        batch_rows=settings.rows_at_once,
        metrics=metrics,
    )
    columns = _read(artifact, names.logps)
    for part, dataset in parts.items():
        for name in names.logps:
            dataset = dataset.add_column(name, columns[part][name])  # noqa: PLW2901 -- columns are added one by one
        parts[part] = dataset
    trainer.train_dataset, trainer.eval_dataset = parts["train"], parts["validation"]
    trainer.precompute_ref_logps = True
    if settings.method != "full":
        trainer.model.delete_adapter("ref")
    return artifact


def is_wanted(settings: DpoSettings, rows: int) -> bool:
    """Return whether one pass over all rows costs no more than it saves. A whole model has no other reference."""
    if settings.method == "full":
        return True
    if settings.precompute_reference != "auto":
        return settings.precompute_reference
    if settings.max_steps is not None:
        return settings.max_steps * settings.global_batch_size >= rows
    return settings.epochs >= 1


def _find(store: ArtifactStore, recipe: Recipe) -> Artifact | None:
    """Return the artifact of the recipe, the same on every rank, or None. A damaged one is deleted."""
    artifact = None
    if torchrun.is_main():
        artifact = store.find(recipe.asset, recipe.id)
        if artifact is not None and artifact.verify():
            store.discard(artifact)
            artifact = None
    exists = torchrun.gather(artifact is not None)[0]
    return artifact or (store.find(recipe.asset, recipe.id) if exists else None)


def _make(
    trainer: Any,
    parts: dict[str, Dataset],
    names: _Columns,
    *,
    recipe: Recipe,
    store: ArtifactStore,
    batch_rows: int,
    metrics: Metrics,
) -> Artifact:
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.monotonic()
    total = sum(map(len, parts.values()))
    done, tables = 0, []
    for part, dataset in parts.items():

        def report(rows: int, done: int = done) -> None:
            metrics.log("reference", done + rows, total)

        logps = _compute(trainer, dataset, names, batch_rows, report)
        done += len(dataset)
        tables.append(pa.table({"part": [part] * len(dataset), **dict(zip(names.logps, logps, strict=True))}))
    if torchrun.is_main():
        with store.stage(recipe) as staging:
            pq.write_table(pa.concat_tables(tables), staging.path / _FILE)
            staging.publish({"rows": total})
        store.prune(_ASSET, _KEPT)
        _log.info("reference log-probabilities of %d rows computed in %.1f s", total, time.monotonic() - started)
    torchrun.wait_for_all()
    artifact = store.find(recipe.asset, recipe.id)
    if artifact is None:
        raise OSError(f"{_ASSET} {recipe.id} was published, but is not in {store.root}")
    return artifact


def _compute(
    trainer: Any, dataset: Dataset, names: _Columns, batch_rows: int, report: Callable[[int], None]
) -> tuple[list[float], list[float]]:
    """Return the log-probabilities of both answers of every row (KTO: its own and the mismatched one), in the order of
    the rows. Each rank takes every n-th batch, and all take equally many: the last one is scored again where there is
    none left, because ranks that share a model in shards run it together. Rows of similar length share a batch."""
    import torch

    rows = dataset.select_columns([*names.ids, *names.also])
    order = sorted(range(len(rows)), key=lambda n: sum(len(rows[n][name]) for name in names.ids[:2]))
    batches = [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]
    own: dict[int, tuple[float, float]] = {}
    training = trainer.model.training
    trainer.model.eval()
    processes = torchrun.world_size()
    for first_of_round in range(0, len(batches), processes):
        picked = batches[min(first_of_round + torchrun.rank(), len(batches) - 1)]
        batch = trainer.data_collator([rows[n] for n in picked])
        placed = {name: v.to(trainer.accelerator.device) if torch.is_tensor(v) else v for name, v in batch.items()}
        first, second = (side.float().tolist() for side in trainer.compute_ref_log_probs(trainer.model, placed))
        own |= dict(zip(picked, zip(first, second, strict=True), strict=True))
        report(min(len(own) * processes, len(rows)))
    trainer.model.train(training)
    logps: dict[int, tuple[float, float]] = {}
    for part in torchrun.gather(own):
        logps |= part
    return [logps[n][0] for n in range(len(rows))], [logps[n][1] for n in range(len(rows))]


def _read(artifact: Artifact, names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    import pyarrow.parquet as pq

    path = artifact.file(_FILE)
    parts = {part: pq.read_table(path, filters=[("part", "=", part)]) for part in ("train", "validation")}
    return {part: {name: table[name].to_pylist() for name in names} for part, table in parts.items()}


def _digest_rows(dataset: Any, names: Sequence[str]) -> str:
    """Return the sha256 over the token ids of every row, in their order."""
    digest = hashlib.sha256()
    for row in dataset.select_columns(list(names)):
        for name in names:
            ids: Sequence[int] = row[name]
            digest.update(len(ids).to_bytes(4, "little") + array("I", ids).tobytes())
    return digest.hexdigest()
