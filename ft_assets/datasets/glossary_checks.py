"""Gates on what records speak of: glossary terms in questions and answers, and answers that lose their question's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from expectations.markdown import markdown_cell, markdown_table
from expectations.rules import glossary
from expectations.rules.glossary import Coverage
from expectations.text.glossary import TermFinder
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.assets import GLOSSARY
from ft_assets.datasets.clean import RECORDS
from ft_assets.graph.gates import Evidence, Gate, Verdict
from resources.artifacts import Artifact
from resources.memo import Memo
from resources.parquet import read_rows
from resources.plots import bars

_ANSWER = {"instruction": "answer", "preference": "chosen", "retrieval": ""}
_SHOWN_TERMS = 20
_covered = Memo[Coverage](size=16)
"""The coverage of a data set, by its path and both versions: two gates ask for the same one."""


def _terms_are_covered(evidence: Evidence) -> Verdict:
    """Which glossary terms the questions, the answers and the passages speak of, and which none does."""
    store = evidence.store
    terms = store.require("glossary")
    made = [dataset for dataset in _ANSWER if store.current(f"{dataset}_records")]
    covered = {dataset: _cover(store.require(f"{dataset}_records"), terms, dataset) for dataset in made}
    rows = list(read_rows(terms.file(GLOSSARY)))
    figures: dict[str, Any] = {"terms": len(rows), "met_in_passages": sum(row["passages"] > 0 for row in rows)}
    for dataset, coverage in covered.items():
        figures[f"met_in_{dataset}_questions"] = len(coverage.asked)
        if _ANSWER[dataset]:
            figures[f"met_in_{dataset}_answers"] = len(coverage.answered)
    if rows:
        figures["terms_met"] = bars({name: n for name, n in figures.items() if name.startswith("met_in")}, "terms met")
        figures["terms_in_passages_but_in_no_question"] = _missing(rows, covered)
    broken = glossary.questions_name_terms("instruction_records", covered["instruction"], len(rows))
    return Verdict(broken, figures)


def _answers_keep_their_terms(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Few answers name none of the glossary terms that their questions name (datasets.max_lost_terms_share)."""
        asset = f"{dataset}_records"
        coverage = _cover(evidence.store.require(asset), evidence.store.require("glossary"), dataset)
        most = settings_of(evidence.store, "datasets").max_lost_terms_share
        figures: dict[str, Any] = {
            "questions_with_terms": coverage.naming,
            "answers_that_lost_them": len(coverage.lost),
            "lost_share": coverage.lost_share,
            "most": most,
        }
        if coverage.lost:
            figures["first_lost"] = _table(coverage)
        return Verdict(glossary.answers_keep_their_terms(asset, coverage, most), figures)

    return rule


def _cover(records: Artifact, terms: Artifact, dataset: str) -> Coverage:
    def find() -> Coverage:
        finder = TermFinder({row["term"]: row["names"] for row in read_rows(terms.file(GLOSSARY), ["term", "names"])})
        return glossary.cover(finder, _rows(records, dataset))

    return _covered.get((records.path, records.data_version, terms.data_version), find)


def _rows(records: Artifact, dataset: str) -> Iterator[tuple[str, str, str]]:
    """(`file:line`, question, answer) of every record."""
    question, answer = "query" if dataset == "retrieval" else "question", _ANSWER[dataset]
    columns = ["source", "line_no", question, *([answer] if answer else [])]
    for row in read_rows(records.file(RECORDS), columns):
        yield f"{row['source']}:{row['line_no']}", row[question], row[answer] if answer else ""


def _missing(rows: list[dict[str, Any]], covered: dict[str, Coverage]) -> str:
    """Terms that the passages speak of most and no question names, as a Markdown table."""
    missing = [row for row in rows if row["passages"] and not any(row["term"] in c.asked for c in covered.values())]
    if not missing:
        return "#### Every term of the passages is in a question"
    missing.sort(key=lambda row: -row["passages"])
    shown = [(markdown_cell(row["term"]), row["passages"]) for row in missing[:_SHOWN_TERMS]]
    return markdown_table([f"{len(missing)} terms that no question names", "passages"], shown)


def _table(coverage: Coverage) -> str:
    rows = [
        [markdown_cell(row.where), markdown_cell(", ".join(row.terms)), markdown_cell(row.answer)]
        for row in coverage.lost[:_SHOWN_TERMS]
    ]
    return markdown_table(["where", "the question's terms", "the answer begins"], rows)


_NEEDS = ("glossary", "preference_records", "retrieval_records")
GATES: list[Gate] = [
    Gate("instruction_records", "terms_are_covered", _terms_are_covered, blocking=False, needs=_NEEDS),
    Gate(
        "instruction_records", "answers_keep_their_terms", _answers_keep_their_terms("instruction"),
        blocking=False, needs=("glossary",),
    ),
    Gate(
        "preference_records", "answers_keep_their_terms", _answers_keep_their_terms("preference"),
        blocking=False, needs=("glossary",),
    ),
]  # fmt: skip
