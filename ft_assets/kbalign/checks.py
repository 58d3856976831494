"""The gates on the assets of kbalign before `kbalign_verified`, whose gates are in the layer below the trainings."""

from __future__ import annotations

from itertools import chain

from expectations.rules import conservation
from expectations.rules.generated_questions import nothing_is_held_out
from ft_assets.adapters.checks import training_gates
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import count_quarantined
from ft_assets.kbalign.jobs import (
    AUTHOR,
    CALLS_FILE,
    GENERATED_FILE,
    LONG,
    RECORDS,
    RECORDS_FILE,
    SHORT,
    SPLITS,
    GenerateSummary,
    MergeSummary,
)
from resources.parquet import read_rows, row_count


def _accounted_for(asset: str, file: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        """Every candidate is in the table or in the quarantine, with one code."""
        artifact = evidence.store.require(asset)
        kind = MergeSummary if asset == RECORDS else GenerateSummary
        candidates = artifact.summary_as(kind).candidates
        kept = row_count(artifact.file(file))
        quarantined = count_quarantined(artifact)
        violations = conservation.every_row_is_accounted_for(asset, candidates, kept, quarantined)
        return Verdict(violations, {"candidates": candidates, "kept": kept, "quarantined": quarantined})

    return Gate(asset, "candidates_are_accounted_for", rule)


def _nothing_held_out(asset: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        """No call and no row is about a passage that validation or test holds out now."""
        store = evidence.store
        held_out = held_out_passages(store.require, settings_of(store, "datasets").split)
        artifact = store.require(asset)
        found = {
            row["candidate"]: row["passage_id"]
            for row in read_rows(artifact.file(CALLS_FILE), ["candidate", "passage_id"])
            if row["passage_id"] in held_out
        }
        for row in read_rows(artifact.file(GENERATED_FILE), ["record_id", "passage_ids"]):
            if shared := held_out.intersection(row["passage_ids"]):
                found[row["record_id"]] = min(shared)
        return Verdict(nothing_is_held_out(asset, found), {"held_out_passages": len(held_out), "found": len(found)})

    return Gate(asset, "nothing_is_held_out", rule, needs=("dataset_settings",))


def _asking_gates(asset: str) -> list[Gate]:
    return [whole_gate(asset), _accounted_for(asset, GENERATED_FILE), _nothing_held_out(asset)]


GATES: list[Gate] = [
    whole_gate(SPLITS),
    *training_gates(AUTHOR, "sft"),
    *chain.from_iterable(map(_asking_gates, (SHORT, LONG))),
    whole_gate(RECORDS),
    _accounted_for(RECORDS, RECORDS_FILE),
]
