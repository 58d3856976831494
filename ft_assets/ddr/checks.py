"""The gates on sampled answers."""

from __future__ import annotations

from expectations.rules.conservation import every_row_is_accounted_for
from expectations.rules.preference_pairs import nothing_is_held_out
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.ddr.jobs import CandidatesSummary
from ft_assets.generation.jobs import CANDIDATES, CANDIDATES_FILE, QUESTIONS_FILE
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import count_quarantined
from resources.parquet import read_rows


def _answers_accounted_for(evidence: Evidence) -> Verdict:
    """Every answer that was asked for is in the table; those that may be in no pair are in the quarantine too."""
    candidates = evidence.store.require(CANDIDATES)
    asked = sum(row["calls"] for row in read_rows(candidates.file(QUESTIONS_FILE), ["calls"]))
    codes = [row["code"] for row in read_rows(candidates.file(CANDIDATES_FILE), ["code"])]
    kept_out = count_quarantined(candidates)
    violations = every_row_is_accounted_for(CANDIDATES, asked, codes.count(""), kept_out)
    return Verdict(violations, {"asked": asked, "usable": codes.count(""), "kept_out": kept_out})


def _nothing_held_out(evidence: Evidence) -> Verdict:
    """No training question was answered from a passage that validation or test hold out now."""
    candidates = evidence.store.require(CANDIDATES)
    if candidates.manifest.recipe.settings["held_out_passages"] == "keep":
        return Verdict(figures={"passages_are_judged": False})
    hidden = held_out_passages(evidence.store.require, settings_of(evidence.store, "datasets").split)
    found: list[tuple[str, str, str]] = []
    for row in read_rows(candidates.file(QUESTIONS_FILE), ["question_id", "part", "passages"]):
        if row["part"] == "train":
            found += [(row["question_id"], "passages", name) for name in row["passages"] if name in hidden]
    passed_over = candidates.summary_as(CandidatesSummary).held_out_questions
    figures = {"held_out_passages": len(hidden), "questions_with_a_passage_passed_over": passed_over}
    return Verdict(nothing_is_held_out(CANDIDATES, found), figures)


GATES: list[Gate] = [
    whole_gate(CANDIDATES),
    Gate(CANDIDATES, "every_answer_is_accounted_for", _answers_accounted_for),
    Gate(CANDIDATES, "nothing_is_held_out", _nothing_held_out, needs=("dataset_settings",)),
]
