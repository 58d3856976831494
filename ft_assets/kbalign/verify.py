"""Worker: the judge is judged, then judges each question; the retriever must find its passage; the rest is set aside.

Memory holds the corpus and all rows, without the texts that they are trained with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from expectations.canonical import hash_share
from expectations.formats.dialect import RowError
from expectations.questions.verify import RULES_VERSION, QuestionCandidate, agrees, check_candidate, read_question
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from expectations.rules.answer_scores import score
from expectations.rules.contamination import Text
from expectations.violations import Refused, violation
from ft_assets.adapters.prompt import prompt_of
from ft_assets.config.model import AnswerSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.find_contamination import search_generated
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.split import split_file
from ft_assets.generation.figures import median_units, reliability_of
from ft_assets.generation.jobs import TRIALS_FILE, VERIFIED, TrialRow, VerifiedRow, VerifiedSummary
from ft_assets.graph.quarantine import QUARANTINE, count_codes
from ft_assets.kbalign.candidates import CLOZE
from ft_assets.kbalign.jobs import (
    LONG,
    RECORDS,
    RECORDS_FILE,
    SHORT,
    VERDICTS_FILE,
    GenerateSummary,
    RecordRow,
    VerdictRow,
    VerifyParams,
)
from ft_assets.kbalign.judge import Judge, read_trials, try_judge
from ft_assets.retrieval.search_passages import open_search
from resources.artifacts import Artifact, Staging
from resources.asker import open_asker
from resources.launcher import Job, run_worker
from resources.parquet import TableWriter, arrow_schema, read_columns, read_rows
from resources.telemetry import Metrics
from resources.text_source import BASE, CallFigures

_JUDGED = 1024
"""Rows that are judged together; the actors of a cluster share their calls."""
_WINDOW = 256
"""Questions that are searched together."""
_JUDGE = "judge"
_FIX = "nothing, or see the code in docs/rules.md"
_LOST = "the passage has changed or left the corpus since the question was made"


class PassageTexts(NamedTuple):
    """The texts of a passage."""

    heading: str
    text: str
    content: str


class JudgedQuestion(msgspec.Struct):
    """A row on its way through the rules. The first broken one gives the code."""

    row: RecordRow
    line: int
    code: str = ""
    reason: str = ""
    student: str = ""
    f1: float = 0.0
    judge_key: str = ""
    closed: str = ""
    closed_f1: float = 0.0
    closed_book: bool = False
    found_at: int = 0
    hits: list[str] = []

    def refuse(self, code: str, reason: str) -> None:
        """Set the row aside."""
        self.code, self.reason = code, reason


def main(job: Job) -> Artifact:
    """Judge the rows of `kbalign_records`, and publish those that pass every rule.

    Raises Refused: as the asker and the retriever do.
    """
    params = job.params_as(VerifyParams)
    judge = job.artifacts().find(params.judge.asset, params.judge.recipe_id) if params.judge else None
    if params.judge and judge is None:
        where = f"{params.judge.asset}/{params.judge.recipe_id}"
        raise Refused(
            f"making {VERIFIED}", [violation("FT-ART-001", where=where, fix=f"ft run --asset {params.judge.asset}")]
        )
    generator = msgspec.structs.replace(params.generator, kind="local") if judge else params.generator
    metrics = Metrics(job.folder())
    with ExitStack() as stack:
        trained = {_JUDGE: judge} if judge else {}
        asker = stack.enter_context(open_asker(generator, params.compute, trained, metrics))
        staging = stack.enter_context(job.artifacts().stage(job.recipe))
        settings, answers = params.typed_settings(), AnswerSettings.model_validate(params.answers)
        speaker = Judge(asker, _JUDGE if judge else BASE, prompt_of(answers), settings.max_new_tokens)
        verification = QuestionVerification(job, params, speaker, answers.top_k)
        trials = verification.try_judge()
        verification.judge_all()
        verification.retrieve()
        verification.compare_with_held_out()
        verification.limit_cloze()
        summary = verification.write(staging, trials, asker.usage.figures())
        artifact = staging.publish(msgspec.to_builtins(summary))
    metrics.close()
    return artifact


class QuestionVerification:
    """The rules in their order, the cheapest first, over all rows."""

    def __init__(self, job: Job, params: VerifyParams, judge: Judge, top_k: int) -> None:
        self._job, self._params, self._judge, self._top_k = job, params, judge, top_k
        self._settings = params.typed_settings()
        columns = read_columns(job.input("passages").table(PASSAGES), ["passage_id", "heading", "text", "content"])
        self._passages = {name: PassageTexts(*texts) for name, *texts in zip(*columns.values(), strict=True)}
        self._held_out = held_out_passages(job.input, params.split_settings())
        self._good: list[JudgedQuestion] = []
        self._refused: list[JudgedQuestion] = []
        self._authors: set[str] = set()

    def try_judge(self) -> list[TrialRow]:
        """Try the judge on held-out questions of people."""
        preferences = self._job.input("preference_splits")
        trials = read_trials(self._job.input("instruction_splits"), preferences, self._job.input("passages"))
        return try_judge(self._judge, trials, self._settings.agree_f1)

    def judge_all(self) -> None:
        """Apply the rules on the row itself, then ask the judge with the passages and without."""
        rows = enumerate(read_rows(self._job.input(RECORDS).file(RECORDS_FILE)), 1)
        judged = (JudgedQuestion(RecordRow(**row), line) for line, row in rows)
        while window := list(islice(judged, _JUDGED)):
            for one in window:
                self._authors.add(one.row.author)
                self._check_row(one)
            self._ask_with_passages([one for one in window if not one.code])
            self._ask_without([one for one in window if not one.code])
            self._sort(window)

    def _sort(self, rows: Sequence[JudgedQuestion]) -> None:
        for one in rows:
            (self._refused if one.code else self._good).append(one)

    def _check_row(self, one: JudgedQuestion) -> None:
        row = one.row
        passages = [self._passages[name] for name in row.passage_ids if name in self._passages]
        if len(passages) < len(row.passage_ids):
            one.refuse("FT-KBA-003", _LOST)
            return
        if held_out := self._held_out.intersection(row.passage_ids):
            one.refuse("FT-KBA-009", f"the passage {min(held_out)} belongs to validation or test")
            return
        is_cloze = row.kind == CLOZE
        heading = passages[0].heading if is_cloze else " ".join(dict.fromkeys(each.heading for each in passages))
        try:
            if not is_cloze:
                read_question(row.question, cut=False)
            texts = [each.text for each in passages]
            check_candidate(QuestionCandidate(row.question, row.answer, heading, texts, is_cloze=is_cloze))
        except RowError as error:
            one.refuse(error.code, error.reason)

    def _ask_with_passages(self, rows: Sequence[JudgedQuestion]) -> None:
        asked = [(one.row.question, self._contents(one.row.passage_ids)) for one in rows]
        for one, opinion in zip(rows, self._judge.ask(asked, "judging"), strict=True):
            one.student, one.judge_key = opinion.answer, opinion.key
            one.f1 = round(score(opinion.answer, one.row.answer).f1, 4)
            if opinion.code:
                one.refuse(opinion.code, opinion.reason)
            elif not agrees(opinion.answer, one.row.answer, self._settings.agree_f1):
                one.refuse(
                    "FT-KBA-005", f"the judge reads “{opinion.answer}” (F1 {one.f1:.2f}), not “{one.row.answer}”"
                )

    def _ask_without(self, rows: Sequence[JudgedQuestion]) -> None:
        for one, opinion in zip(
            rows, self._judge.ask([(one.row.question, ()) for one in rows], "by heart"), strict=True
        ):
            one.closed = opinion.answer
            one.closed_f1 = round(score(opinion.answer, one.row.answer).f1, 4)
            one.closed_book = agrees(opinion.answer, one.row.answer, self._settings.agree_f1)
            if one.closed_book and self._settings.closed_book == "quarantine":
                one.refuse("FT-KBA-006", f"the judge says “{opinion.answer}” without the passage")

    def _contents(self, names: Sequence[str]) -> list[str]:
        return [self._passages[name].content for name in names]

    def retrieve(self) -> None:
        """Require that the retriever finds the passage of each question among the first."""
        rows, self._good = self._good, []
        depth, most = max(2 * self._top_k, self._settings.found_in_top), self._settings.found_in_top
        for one, hits in zip(rows, self._rank([one.row.question for one in rows], depth), strict=True):
            wanted = one.row.passage_ids[0]
            one.found_at = hits.index(wanted) + 1 if wanted in hits else 0
            one.hits = [name for name in hits if name in self._passages and name not in self._held_out]
            if not 0 < one.found_at <= most:
                first = ", ".join(hits[:3]) or "nothing"
                one.refuse("FT-KBA-007", f"{wanted} is not among the first {most}; the first are {first}")
        self._sort(rows)

    def _rank(self, questions: Sequence[str], depth: int) -> Iterator[list[str]]:
        """Yield the ids of the passages that are found for each question."""
        params, state = self._params, Path(self._params.compute.state_dir)
        if not questions:
            return
        with open_search(self._job, params.engine, params.bm25, state) as find:
            for start in range(0, len(questions), _WINDOW):
                for hits in find(questions[start : start + _WINDOW], depth):
                    yield [hit.passage_id for hit in hits]

    def compare_with_held_out(self) -> None:
        """Set aside the rows whose texts hold too much of a held-out text."""
        rows, self._good = self._good, []
        texts: list[Text] = []
        for one in rows:
            where = f"{RECORDS}:{one.line}"
            for field, text in (("question", one.row.question), ("answer", one.row.answer)):
                texts.append(Text("kbalign", one.row.record_id, field, where, text))
            for text in self._context(one):
                texts.append(Text("kbalign", one.row.record_id, "context", where, text))
        hits = search_generated(self._job.artifacts(), self._params.split_settings(), texts)
        for one in rows:
            if hit := hits.get(one.row.record_id):
                one.refuse("FT-KBA-009", f"it holds {hit.share:.0%} of {hit.held_out}: “{hit.common}”")
        self._sort(rows)

    def limit_cloze(self) -> None:
        """Keep as many gap-fill questions as their share allows; the hash of the id chooses."""
        share = self._settings.max_cloze_share
        cloze = sorted(
            (one for one in self._good if one.row.kind == CLOZE), key=lambda one: hash_share(one.row.record_id)
        )
        others = len(self._good) - len(cloze)
        most = len(cloze) if share == 1 else int(share / (1 - share) * others)
        for one in cloze[most:]:
            one.refuse("FT-KBA-013", f"{len(cloze)} gap-fill questions passed, and {others} others allow {most}")
        rows, self._good = self._good, []
        self._sort(rows)

    def _context(self, one: JudgedQuestion) -> list[str]:
        """Return the passages that a row is trained with: its own, or those that the retriever finds, its own among
        them."""
        own = one.row.passage_ids
        if one.row.has_reference or len(own) > 1:
            return self._contents(own)
        found = one.hits[: self._top_k]
        return self._contents(found if own[0] in found else [*found[: self._top_k - 1], own[0]])

    def write(self, staging: Staging, trials: Sequence[TrialRow], figures: CallFigures) -> VerifiedSummary:
        """Write train.parquet, an empty validation.parquet, verdicts.parquet, trials.parquet and quarantine.jsonl."""
        schema = arrow_schema(VerifiedRow)
        good = sorted(self._good, key=lambda one: one.line)
        with TableWriter(staging.path / split_file("train"), schema) as table:
            for one in good:
                table.add(self._row(one))
        with TableWriter(staging.path / split_file("validation"), schema):
            pass
        refused = sorted(self._refused, key=lambda one: one.line)
        with TableWriter(staging.path / VERDICTS_FILE, arrow_schema(VerdictRow)) as verdicts:
            for one in sorted([*good, *refused], key=lambda one: one.line):
                verdicts.add(_verdict(one))
        with TableWriter(staging.path / TRIALS_FILE, arrow_schema(TrialRow)) as table:
            table.extend(trials)
        codes: Counter[str] = Counter()
        write_quarantine(staging.path / QUARANTINE, count_codes(map(_reject, refused), codes))
        before = [self._job.input(name).summary_as(GenerateSummary).candidates for name in (SHORT, LONG)]
        written = read_columns(self._job.input("instruction_splits").file(split_file("train")), ["answer"])["answer"]
        params = self._params
        return VerifiedSummary(
            candidates=sum(before),
            judged=len(good) + len(refused),
            train=len(good),
            quarantined=len(refused),
            codes=dict(codes),
            judge=self._settings.judge,
            retriever=self._job.recipe.inputs.get("released_collection", "bm25") if params.engine else "bm25",
            judge_is_author=self._judge.contract in self._authors,
            closed_book=sum(one.closed_book for one in good),
            answer_units=median_units([one.row.answer for one in good]),
            hand_written_units=median_units(written),
            **reliability_of(trials),
            **msgspec.structs.asdict(figures),
        )

    def _row(self, one: JudgedQuestion) -> VerifiedRow:
        row = one.row
        return VerifiedRow(
            record_id=row.record_id,
            question=row.question,
            context=self._context(one),
            system="",
            history=[],
            reasoning="",
            answer=row.answer,
            difficulty=None,
            language=row.language,
            evidence=row.passage_ids,
            group=f"passage:{row.passage_ids[0]}",
            source=row.made_by,
            line_no=one.line,
            made_by=row.made_by,
            kind=row.kind,
            dependency=row.dependency,
            passage_ids=row.passage_ids,
            call_key=row.call_key,
            judge_key=one.judge_key,
            author=row.author,
            judge=self._judge.contract,
            rules=RULES_VERSION,
            closed_book=one.closed_book,
            found_at=one.found_at,
        )


def _verdict(one: JudgedQuestion) -> VerdictRow:
    return VerdictRow(
        record_id=one.row.record_id,
        code=one.code,
        reason=one.reason,
        student_answer=one.student,
        f1=one.f1,
        judge_key=one.judge_key,
        closed_answer=one.closed,
        closed_f1=one.closed_f1,
        found_at=one.found_at,
    )


def _reject(one: JudgedQuestion) -> Rejected:
    row = one.row
    raw = msgspec.json.encode({"question": row.question, "answer": row.answer, "judge": one.student}).decode()
    return set_aside(one.code, row.passage_ids[0], one.line, one.reason, _FIX, path=f"$.{row.record_id}", raw=raw)


if __name__ == "__main__":
    run_worker(main)
