"""Rules on the glossary and the data: questions name its terms, and answers name the terms of their questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from expectations.text.glossary import TermFinder
from expectations.violations import Violation, violation

_SHOWN = 20  # violations of one rule that are listed


class LostTerm(msgspec.Struct, frozen=True):
    """An answer that names none of the terms that its question names."""

    where: str
    """`file:line`."""
    terms: tuple[str, ...]
    answer: str


class Coverage(msgspec.Struct):
    """The number of rows of a data set, and how many of its questions and answers name each term."""

    rows: int = 0
    naming: int = 0
    """Questions that name a term."""
    questions: Counter[str] = msgspec.field(default_factory=Counter[str])
    """Term -> questions that name it."""
    answers: Counter[str] = msgspec.field(default_factory=Counter[str])
    """Term -> answers that name it."""
    lost: list[LostTerm] = msgspec.field(default_factory=list[LostTerm])

    @property
    def lost_share(self) -> float:
        """The share of the questions with a term whose answer names none of their terms."""
        return len(self.lost) / self.naming if self.naming else 0.0


def cover(finder: TermFinder, rows: Iterable[tuple[str, str, str]]) -> Coverage:
    """Count the terms of questions and answers; `rows`: (`file:line`, question, answer, empty where there is none).

    An answer keeps its question's terms when it names one of them, under any name.
    """
    coverage = Coverage()
    for where, question, answer in rows:
        in_question, in_answer = list(dict.fromkeys(finder.find(question))), set(finder.find(answer))
        coverage.rows += 1
        coverage.naming += bool(in_question)
        coverage.questions.update(in_question)
        coverage.answers.update(in_answer)
        if in_question and answer and in_answer.isdisjoint(in_question):
            coverage.lost.append(LostTerm(where, tuple(in_question), answer[:80]))
    return coverage


def answers_keep_their_terms(asset: str, coverage: Coverage, most: float) -> list[Violation]:
    """FT-TERM-001: at most the share `most` of the answers names none of its question's terms; 20 are listed."""
    share = coverage.lost_share
    if share <= most:
        return []
    return [
        violation(
            "FT-TERM-001",
            where=row.where,
            message=f"The answer names none of its question's terms, like {share:.0%} of those in {asset}",
            field="answer",
            found=row.answer,
            expected=" or ".join(row.terms[:5]),
            fix=f"Name the term in the answer, or raise datasets.max_lost_terms_share (now {most:g}).",
        )
        for row in coverage.lost[:_SHOWN]
    ]


def questions_name_terms(asset: str, coverage: Coverage, terms: int) -> list[Violation]:
    """FT-TERM-002: where there are questions and a glossary, at least one question names a term of it."""
    if not coverage.rows or not terms or coverage.naming:
        return []
    message = f"None of {coverage.rows} questions names a term of the glossary"
    return [
        violation(
            "FT-TERM-002", where=asset, message=message, field="question", found=0, expected=f"one of {terms} terms"
        )
    ]
