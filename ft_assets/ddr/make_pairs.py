"""Pairs of answers: one for each question whose answers show a preference; a quarantine line for each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from expectations.codes import CODES
from expectations.formats.dialect import DEFAULT_POLICY, Place, RowError
from expectations.formats.preference import PREFERENCE, PreferenceRecord
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from expectations.rules.answer_scores import units
from expectations.rules.contamination import ContaminationHit
from expectations.rules.preference_pairs import (
    CandidatePair,
    NoPair,
    PairRules,
    SampledAnswer,
    find_pair,
    nothing_is_held_out,
    pairs_are_right,
)
from ft_assets.config.model import DdrSettings, SplitSettings
from ft_assets.datasets.find_contamination import search_generated
from ft_assets.datasets.split import split_file
from ft_assets.ddr.jobs import CandidateRow, CandidatesSummary, QuestionRow
from ft_assets.generation.jobs import CANDIDATES_FILE, PAIR_PARTS, PAIRS, QUESTIONS_FILE, GeneratedPair, PairsSummary
from ft_assets.generation.pairs import facts_of, held_out_of, lengths_of, pair_texts, read_pairs, read_training_parts
from ft_assets.graph.quarantine import QUARANTINE
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import TableWriter, arrow_schema, read_rows

_BINS = 10


class AnsweredQuestion(NamedTuple):
    """A question with its answers."""

    question: QuestionRow
    answers: list[CandidateRow]


def rules_of(settings: DdrSettings) -> PairRules:
    """Return the settings that decide a pair."""
    return PairRules(
        min_margin=settings.min_margin,
        min_chosen=settings.min_chosen,
        rejected=settings.rejected,
        prefer=settings.prefer,
    )


def read_asked(candidates: Artifact) -> Iterator[AnsweredQuestion]:
    """Yield each question of `ddr_candidates` with its answers."""
    answers = (msgspec.convert(row, CandidateRow) for row in read_rows(candidates.file(CANDIDATES_FILE)))
    by_question = groupby(answers, attrgetter("question_id"))
    for row, (_, own) in zip(read_rows(candidates.file(QUESTIONS_FILE)), by_question, strict=True):
        yield AnsweredQuestion(msgspec.convert(row, QuestionRow), list(own))


class PairMaker:
    """The pairs of one table of candidates."""

    def __init__(
        self,
        store: ArtifactStore,
        candidates: Artifact,
        settings: DdrSettings,
        split: SplitSettings,
        earlier: Artifact | None = None,
    ) -> None:
        self._store, self._candidates, self._settings, self._split = store, candidates, settings, split
        self._earlier = earlier
        self._came_earlier = self._earlier_quarantined = 0
        self._model = candidates.summary_as(CandidatesSummary).model
        self._codes: Counter[str] = Counter()
        self._rows: dict[str, list[GeneratedPair]] = {part: [] for part in PAIR_PARTS}

    def write(self, folder: Path) -> PairsSummary:
        """Write train.parquet, validation.parquet and quarantine.jsonl; return the summary."""
        rejected = [*self._pair_all(), *self._add_earlier(), *self._set_contaminated_aside()]
        write_quarantine(folder / QUARANTINE, rejected)
        with ExitStack() as stack:
            for part, rows in self._rows.items():
                table = stack.enter_context(TableWriter(folder / split_file(part), arrow_schema(GeneratedPair)))
                table.extend(rows)
        return self._summarise()

    def _pair_all(self) -> Iterator[Rejected]:
        rules = rules_of(self._settings)
        for asked in read_asked(self._candidates):
            question, answers = asked
            found = find_pair([_candidate(one, self._settings.reward) for one in answers], question.gold, rules)
            if isinstance(found, NoPair):
                yield self._set_aside(found.code, asked, found.reason)
                continue
            try:
                record = _record(question, found)
            except RowError as error:  # a text that no file of pairs may hold either
                yield self._set_aside(error.code, asked, error.reason)
                continue
            self._rows[question.part].append(self._row(asked, found, record))

    def _add_earlier(self) -> Iterator[Rejected]:
        """Add the training pairs of earlier rounds, and yield those that the rules or the splits refuse now."""
        rows = read_pairs(self._earlier, "train") if self._earlier else []
        if not rows:
            return
        rules, shows_all = rules_of(self._settings), self._settings.held_out_passages == "keep"
        parts = read_training_parts(self._store, self._split, passages=not shows_all)
        present = {row.record_id for row in self._rows["train"]}
        for row in rows:
            held_out = [(row.record_id, *one) for one in held_out_of(row, parts)]
            broken = [*nothing_is_held_out(PAIRS, held_out), *pairs_are_right(PAIRS, [facts_of(row)], rules)]
            if row.record_id in present:
                continue
            self._came_earlier += not broken
            self._earlier_quarantined += bool(broken)
            if broken:
                self._codes[broken[0].code] += 1
                yield set_aside(
                    broken[0].code, row.source, row.line_no, str(broken[0]), broken[0].fix, raw=row.question
                )
            else:
                self._rows["train"].append(row)

    def _set_contaminated_aside(self) -> Iterator[Rejected]:
        """Take the training pairs out that hold too much of a held-out text."""
        found = (
            search_generated(self._store, self._split, pair_texts(self._rows["train"])) if self._rows["train"] else {}
        )
        for row in self._rows["train"]:
            if hit := found.get(row.record_id):
                self._codes["FT-DDR-008"] += 1
                yield set_aside(
                    "FT-DDR-008", row.source, row.line_no, _explain(hit), CODES["FT-DDR-008"].fix, raw=row.question
                )
        self._rows["train"] = [row for row in self._rows["train"] if row.record_id not in found]

    def _row(self, asked: AnsweredQuestion, pair: CandidatePair, record: PreferenceRecord) -> GeneratedPair:
        question = asked.question
        return GeneratedPair(
            **msgspec.structs.asdict(record),
            question_id=question.question_id,
            gold=question.gold,
            passages=question.passages,
            round=self._settings.round,
            model=self._model,
            chosen_answer=pair.chosen.answer,
            chosen_key=pair.chosen.key,
            chosen_with_passages=pair.chosen.with_passages,
            chosen_temperature=pair.chosen.temperature,
            rejected_answer=pair.rejected.answer,
            rejected_key=pair.rejected.key,
            rejected_with_passages=pair.rejected.with_passages,
            rejected_temperature=pair.rejected.temperature,
        )

    def _set_aside(self, code: str, asked: AnsweredQuestion, reason: str) -> Rejected:
        self._codes[code] += 1
        question = asked.question
        reward = attrgetter(self._settings.reward)
        answers = [
            {"answer": one.answer, self._settings.reward: round(reward(one), 4), "passages": one.with_passages,
             "temperature": one.temperature, **({"code": one.code} if one.code else {})}
            for one in sorted(asked.answers, key=reward, reverse=True)
        ]  # fmt: skip
        raw = msgspec.json.encode({"question": question.question, "gold": question.gold, "answers": answers}).decode()
        aside = set_aside(code, question.source, question.line_no, reason, CODES[code].fix)
        return msgspec.structs.replace(aside, raw=raw)  # whole, because it holds the scores

    def _summarise(self) -> PairsSummary:
        rows = self._rows["train"]
        margins = Counter(min(int((row.margin or 0) * _BINS), _BINS - 1) for row in rows)
        pairs = {part: len(made) for part, made in self._rows.items()}
        count = max(len(rows), 1)
        chosen, gold = lengths_of(rows)
        return PairsSummary(
            questions=sum(pairs.values()) + self._codes.total() - self._came_earlier - self._earlier_quarantined,
            **pairs,
            earlier=self._came_earlier,
            earlier_quarantined=self._earlier_quarantined,
            quarantined=self._codes.total(),
            codes=dict(self._codes.most_common()),
            exact=round(sum(units(row.chosen_answer) == units(row.gold) for row in rows) / count, 4),
            with_passages=round(sum(row.rejected_with_passages for row in rows) / count, 4),
            length=round(median(chosen) / max(median(gold), 1), 3) if rows else 0.0,
            margins=[margins[step] for step in range(_BINS)],
        )


def _candidate(row: CandidateRow, reward: str) -> SampledAnswer:
    return SampledAnswer(
        key=row.call_key,
        answer=row.answer,
        text=row.text,
        with_passages=row.with_passages,
        temperature=row.temperature,
        reward=getattr(row, reward),
        fault=row.code,
    )


def _record(question: QuestionRow, pair: CandidatePair) -> PreferenceRecord:
    """Return the record that a file with this pair would become. RowError where it breaks a rule of the format."""
    values = {
        "question": question.question,
        "context": question.context,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "chosen_score": pair.chosen.reward,
        "rejected_score": pair.rejected.reward,
        "evidence": question.evidence,
        "group": question.group,
        "history": msgspec.to_builtins(question.history),
        "system": question.system,
    }
    place = Place(source=question.source, line=question.line_no)
    given = {name: value for name, value in values.items() if value or isinstance(value, float)}
    record = PREFERENCE.canonical.decode(given, place, DEFAULT_POLICY)
    if not isinstance(record, PreferenceRecord):
        raise TypeError(type(record))
    return record


def _explain(hit: ContaminationHit) -> str:
    return f"{hit.seen.field} holds {hit.share:.0%} of {hit.held_out}: “{hit.common}”"
