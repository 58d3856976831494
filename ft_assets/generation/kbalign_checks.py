"""The gates on `kbalign_verified`, which a training enforces before it reads generated rows."""

from __future__ import annotations

from expectations.rules import conservation
from expectations.rules import generated_questions as rules
from expectations.rules.contamination import Text
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.assign_splits import question_form
from ft_assets.datasets.find_contamination import held_out_questions, search_generated
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.near_duplicates import near_pairs
from ft_assets.datasets.split import split_file
from ft_assets.generation.figures import figures_of_verified
from ft_assets.generation.jobs import VERIFIED, VerifiedSummary
from ft_assets.graph.figures_gate import figures_gate
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import count_quarantined
from resources.parquet import read_rows, row_count

_TRAIN = split_file("train")


def _accounted_for(evidence: Evidence) -> Verdict:
    """Every row that was judged is verified or in the quarantine, with one code."""
    artifact = evidence.store.require(VERIFIED)
    judged, kept = artifact.summary_as(VerifiedSummary).judged, row_count(artifact.file(_TRAIN))
    quarantined = count_quarantined(artifact)
    violations = conservation.every_row_is_accounted_for(VERIFIED, judged, kept, quarantined)
    return Verdict(violations, {"judged": judged, "verified": kept, "quarantined": quarantined})


def _enough(evidence: Evidence) -> Verdict:
    """Enough of the candidates are verified (kbalign.min_verified_share)."""
    summary, settings = _summary(evidence), settings_of(evidence.store, "kbalign")
    least = settings.min_verified_share
    violations = rules.enough_are_verified(VERIFIED, summary.train, summary.candidates, least)
    return Verdict(violations, {"verified": summary.train, "candidates": summary.candidates, "least": least})


def _nothing_held_out(evidence: Evidence) -> Verdict:
    """No row is made from a passage or a question that validation or test holds out now."""
    store, settings = evidence.store, settings_of(evidence.store, "datasets").split
    passages = held_out_passages(store.require, settings)
    rows = list(read_rows(store.require(VERIFIED).file(_TRAIN), ["record_id", "question", "passage_ids"]))
    found = {row["record_id"]: min(shared) for row in rows if (shared := passages.intersection(row["passage_ids"]))}
    questions = {question_form(question): question for question in held_out_questions(store)}
    forms = [*questions, *(question_form(row["question"]) for row in rows)]
    for left, right, _ in near_pairs(forms, settings.near_duplicate):
        if left < len(questions) <= right:
            found[rows[right - len(questions)]["record_id"]] = questions[forms[left]]
    return Verdict(rules.nothing_is_held_out(VERIFIED, found), {"held_out_passages": len(passages), "rows": len(rows)})


def _no_contamination(evidence: Evidence) -> Verdict:
    """No row holds much of a question or an answer of validation or test, by runs of 13 words or characters."""
    store, settings = evidence.store, settings_of(evidence.store, "datasets").split
    texts: list[Text] = []
    for row in read_rows(
        store.require(VERIFIED).file(_TRAIN), ["record_id", "question", "answer", "context", "line_no"]
    ):
        for field, text in (
            ("question", row["question"]),
            ("answer", row["answer"]),
            *(("context", one) for one in row["context"]),
        ):
            texts.append(Text("kbalign", row["record_id"], field, f"{VERIFIED}:{row['line_no']}", text))
    hits = search_generated(store, settings, texts)
    found = {record_id: f"{hit.share:.0%} of {hit.held_out}" for record_id, hit in hits.items()}
    return Verdict(rules.nothing_is_held_out(VERIFIED, found), {"texts": len(texts), "hits": len(hits)})


def _lengths(evidence: Evidence) -> Verdict:
    """The median answer is half to twice as long as that of the hand-written training rows."""
    summary = _summary(evidence)
    generated, written = summary.answer_units, summary.hand_written_units
    return Verdict(
        rules.answers_are_as_long(VERIFIED, generated, written), {"generated": generated, "written": written}
    )


def _judge_separates(evidence: Evidence) -> Verdict:
    """The judge, tried on held-out questions of people, accepts few wrong answers and enough right ones."""
    summary, settings = _summary(evidence), settings_of(evidence.store, "kbalign")
    violations = rules.judge_separates(
        VERIFIED,
        questions=summary.judge_right,
        recall=summary.judge_recall,
        false_accept=summary.judge_false_accept,
        least=settings.min_judge_recall,
        most=settings.max_false_accept,
    )
    figures = {
        "recall": summary.judge_recall,
        "false_accept": summary.judge_false_accept,
        "right_answers": summary.judge_right,
        "wrong_answers": summary.judge_wrong,
        "judge": summary.judge,
        "judge_is_author": summary.judge_is_author,
    }
    return Verdict(violations, figures)


def _rows_name_their_judge(evidence: Evidence) -> Verdict:
    """Every verified row names the contract of its judge and the version of the rules that it passed."""
    rows = read_rows(evidence.store.require(VERIFIED).file(_TRAIN), ["record_id", "judge", "rules"])
    return Verdict(rules.rows_name_their_judge(VERIFIED, ((r["record_id"], r["judge"], r["rules"]) for r in rows)))


def _summary(evidence: Evidence) -> VerifiedSummary:
    return evidence.store.require(VERIFIED).summary_as(VerifiedSummary)


GATES: list[Gate] = [
    whole_gate(VERIFIED),
    figures_gate(VERIFIED, figures_of_verified),
    Gate(VERIFIED, "candidates_are_accounted_for", _accounted_for),
    Gate(VERIFIED, "enough_are_verified", _enough, needs=("kbalign_settings",)),
    Gate(VERIFIED, "nothing_is_held_out", _nothing_held_out, needs=("dataset_settings",)),
    Gate(VERIFIED, "no_contamination", _no_contamination, needs=("dataset_settings",)),
    Gate(VERIFIED, "answers_are_as_long", _lengths),
    Gate(VERIFIED, "judge_separates", _judge_separates, needs=("kbalign_settings",)),
    Gate(VERIFIED, "rows_name_their_judge", _rows_name_their_judge),
]
