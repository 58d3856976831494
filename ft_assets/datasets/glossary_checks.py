"""Gates on glossary terms: the questions and answers name them, and answers name the terms of their questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from expectations.markdown import Markdown, bar_table, markdown_cell, markdown_table
from expectations.rules import glossary
from expectations.rules.glossary import Coverage
from expectations.text.glossary import TermFinder
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.collect import GLOSSARY
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS, INSTRUCTION_DATA, DataSet
from ft_assets.graph.gates import Evidence, Gate, Verdict
from resources.artifacts import Artifact
from resources.memo import Memo
from resources.parquet import read_rows

_SHOWN_TERMS = 20
_covered = Memo[Coverage](size=16)
"""The coverage of a data set, by its path and both versions, because two gates need the same one."""


def _terms_are_covered(evidence: Evidence) -> Verdict:
    """Questions name terms of the glossary. The figures count the terms that questions, answers and passages name."""
    store = evidence.store
    terms = store.require("glossary")
    present = [dataset for dataset in DATASETS if store.current(dataset.records)]
    coverages = {dataset.name: _cover(store.require(dataset.records), terms, dataset) for dataset in present}
    rows = list(read_rows(terms.file(GLOSSARY)))
    figures: dict[str, Any] = {"terms": len(rows), "met_in_passages": sum(row["passages"] > 0 for row in rows)}
    for dataset in present:
        figures[f"met_in_{dataset.name}_questions"] = len(coverages[dataset.name].questions)
        if dataset.answer:
            figures[f"met_in_{dataset.name}_answers"] = len(coverages[dataset.name].answers)
    if rows:
        met = {name: count for name, count in figures.items() if name.startswith("met_in")}
        figures["terms_met"] = bar_table(met, "met in", "terms")
        figures["terms_in_passages_but_in_no_question"] = _missing(rows, coverages.values())
    violations = glossary.questions_name_terms(INSTRUCTION_DATA.records, coverages[INSTRUCTION_DATA.name], len(rows))
    return Verdict(violations, figures)


def _answers_keep_their_terms(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Few answers name none of the glossary terms of their questions (limit: datasets.max_lost_terms_share)."""
        asset = dataset.records
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


def _cover(records: Artifact, terms: Artifact, dataset: DataSet) -> Coverage:
    def find() -> Coverage:
        finder = TermFinder({row["term"]: row["names"] for row in read_rows(terms.file(GLOSSARY), ["term", "names"])})
        return glossary.cover(finder, _rows(records, dataset))

    return _covered.get((records.path, records.data_version, terms.data_version), find)


def _rows(records: Artifact, dataset: DataSet) -> Iterator[tuple[str, str, str]]:
    """Yield (`file:line`, question, answer) of every record."""
    question, answer = dataset.question, dataset.answer
    columns = ["source", "line_no", question, *([answer] if answer else [])]
    for row in read_rows(records.file(RECORDS), columns):
        yield f"{row['source']}:{row['line_no']}", row[question], row[answer] if answer else ""


def _missing(rows: list[dict[str, Any]], coverages: Iterable[Coverage]) -> str:
    """Return the terms that most passages and no question name, as a Markdown table."""
    in_questions = set[str]().union(*(coverage.questions for coverage in coverages))
    missing = [row for row in rows if row["passages"] and row["term"] not in in_questions]
    if not missing:
        return Markdown("#### Every term of the passages is in a question")
    missing.sort(key=lambda row: -row["passages"])
    shown = [(markdown_cell(row["term"]), row["passages"]) for row in missing[:_SHOWN_TERMS]]
    return markdown_table([f"{len(missing)} terms that no question names", "passages"], shown)


def _table(coverage: Coverage) -> str:
    rows = [
        [markdown_cell(row.where), markdown_cell(", ".join(row.terms)), markdown_cell(row.answer)]
        for row in coverage.lost[:_SHOWN_TERMS]
    ]
    return markdown_table(["where", "the question's terms", "the answer begins"], rows)


# the terms of all data sets are counted on the page of one of them
_OTHERS = tuple(dataset.records for dataset in DATASETS if dataset is not INSTRUCTION_DATA)
GATES: list[Gate] = [
    Gate(
        INSTRUCTION_DATA.records,
        "terms_are_covered",
        _terms_are_covered,
        blocking=False,
        needs=("glossary", *_OTHERS),
    ),
    *(
        Gate(
            dataset.records,
            "answers_keep_their_terms",
            _answers_keep_their_terms(dataset),
            blocking=False,
            needs=("glossary",),
        )
        for dataset in DATASETS
        if dataset.answer
    ),
]
