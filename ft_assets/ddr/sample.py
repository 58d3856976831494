"""Worker: several answers of a model to each training question, with retrieved passages and without, scored.

First the passages are found, so that the engine is closed again before the first token; then the answers are asked for.
Both go through the questions in windows: memory holds one window, and the ids of the chosen questions.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import text_digest
from expectations.codes import CODES
from expectations.formats.dialect import Turn
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from expectations.rules.answer_scores import Reply, read_reply, score, units
from expectations.violations import Refused, violation
from ft_assets.adapters.prompt import build_messages
from ft_assets.adapters.rows.tokenise import CLOSING, OPENING, answers_of
from ft_assets.config.model import DdrSettings
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.split import split_file
from ft_assets.ddr.jobs import CandidateRow, CandidatesSummary, QuestionRow, Rewards, SampleParams
from ft_assets.generation.jobs import CANDIDATES_FILE, QUESTIONS_FILE
from ft_assets.graph.quarantine import QUARANTINE
from ft_assets.retrieval.search_passages import Shown, corpus_size, open_search, show_passages
from resources.artifacts import Artifact
from resources.asker import Asker, open_asker
from resources.launcher import Job, run_worker
from resources.parquet import TableWriter, arrow_schema, read_rows
from resources.telemetry import Metrics
from resources.text_source import BASE, Call, ModelReply, Outcome, Sampling, fault_of

_WINDOW = 128  # questions whose passages are searched at once
_ANSWERING = "answering"


def main(job: Job) -> Artifact:
    """Find the passages, ask, score, and publish questions.parquet, candidates.parquet and quarantine.jsonl.

    Raises Refused (FT-DDR-014) if there is no question.
    """
    params = job.params_as(SampleParams)
    metrics = Metrics(job.folder())
    with job.artifacts().stage(job.recipe) as staging:
        questions = staging.path / QUESTIONS_FILE
        if not _write_questions(job, params, questions):
            empty = violation("FT-DDR-014", where="instruction_splits", field="train", found=0, expected="at least 1")
            raise Refused("ddr_candidates", [empty])
        trained = {_ANSWERING: job.input(params.answering)} if params.answering else {}
        with open_asker(params.generator, params.compute, trained, metrics) as asker:
            sampled = Sampled(params, asker, questions)
            sampled.write(staging.path)
        metrics.close()
        return staging.publish(sampled.summary())


# -- questions ----------------------------------------------------------------------------------------------------
def _write_questions(job: Job, params: SampleParams, path: Path) -> int:
    """Write the chosen questions with the passages to show, and return their number."""
    settings, passages = params.typed_settings(), job.input("passages")
    hidden: dict[str, Collection[str]] = {}
    if settings.held_out_passages == "drop":
        # a validation question may see what validation holds out: its pair measures, and is not trained on
        parts = {"train": ("validation", "test"), "validation": ("test",)}
        hidden = {part: held_out_passages(job.input, params.split_settings(), parts[part]) for part in params.parts}
    answers, size = len(_kinds(settings)), corpus_size(passages)
    search = open_search(job, params.engine, params.bm25, Path(params.compute.state_dir))
    with search as find, TableWriter(path, arrow_schema(QuestionRow)) as table:
        rows = _chosen_rows(job, params)
        while window := list(islice(rows, _WINDOW)):
            asked = [row["question"] for _, row in window]
            held_out = [hidden.get(part, ()) for part, _ in window]
            shown = show_passages(find, asked, held_out, params.top_k, size)
            for (part, row), passages_of_row in zip(window, shown, strict=True):
                table.add(_question(part, row, passages_of_row, answers))
    return table.rows


def _question(part: str, row: Mapping[str, Any], shown: Shown, answers: int) -> QuestionRow:
    return QuestionRow(
        question_id=row["record_id"],
        part=part,
        question=row["question"],
        gold=answers_of(row, "strip")[0].text,
        system=row.get("system") or "",
        history=msgspec.convert(row.get("history") or [], list[Turn]),
        context=[passage.content for passage in shown.passages],
        passages=[passage.passage_id for passage in shown.passages],
        held_out=shown.held_out,
        evidence=row["evidence"] or [],
        group=row["group"] or "",
        source=row["source"],
        line_no=row["line_no"],
        calls=answers * (2 if shown.passages else 1),
    )


def _chosen_rows(job: Job, params: SampleParams) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (part, row) of the questions that are answered, in the order of the split. The hash of an id chooses, so
    that those chosen before stay when rows are added."""
    splits, most = job.input("instruction_splits"), params.typed_settings().max_questions
    for part in params.parts:
        file = splits.file(split_file(part))
        chosen: set[str] | None = None
        if most is not None:
            ids = (row["record_id"] for row in read_rows(file, ["record_id"]))
            chosen = set(heapq.nsmallest(most, ids, key=text_digest))
        for row in read_rows(file):
            if chosen is None or row["record_id"] in chosen:
                yield part, row


# -- answers ------------------------------------------------------------------------------------------------------
def _kinds(settings: DdrSettings) -> list[tuple[float, int]]:
    """Return (temperature, sample) of the answers to one prompt; the likeliest one is asked for once."""
    kinds: list[tuple[float, int]] = []
    for temperature in settings.temperatures:
        kinds += [(temperature, sample) for sample in range(settings.samples if temperature else 1)]
    return kinds


class Sampled:
    """The answers to the questions of a file, as they are written, and their figures."""

    def __init__(self, params: SampleParams, asker: Asker, questions: Path) -> None:
        self._params, self._settings, self._asker, self._questions = params, params.typed_settings(), asker, questions
        self._model = _ANSWERING if params.answering else BASE
        self._parts: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._answers: Counter[tuple[bool, float]] = Counter()
        self._scores: defaultdict[tuple[bool, float], Counter[str]] = defaultdict(Counter)
        self._right = self._different = self._calls = self._held_out = self._nothing_found = 0

    def write(self, folder: Path) -> None:
        """Write candidates.parquet, and quarantine.jsonl with the answers that are kept out of pairs."""
        for row in self._read():
            self._calls += row.calls
        with TableWriter(folder / CANDIDATES_FILE, arrow_schema(CandidateRow)) as table:
            write_quarantine(folder / QUARANTINE, self._answer(table))

    def summary(self) -> CandidatesSummary:
        """Return the figures of what was written."""
        questions = self._parts.total()
        return CandidatesSummary(
            questions=dict(self._parts),
            candidates=self._calls,
            right=round(self._right / questions, 4),
            different=round(self._different / questions, 2),
            codes=dict(self._codes),
            held_out_questions=self._held_out,
            without_passages=self._nothing_found,
            rewards=[self._mean(kind) for kind in self._answers],
            model=self._asker.contract(self._model).digest,
            retriever="bm25" if self._params.engine is None else "released_collection",
            **msgspec.structs.asdict(self._asker.usage.figures()),
        )

    def _mean(self, kind: tuple[bool, float]) -> Rewards:
        count, sums = self._answers[kind], self._scores[kind]
        means = {name: round(total / count, 4) for name, total in sums.items()}
        return Rewards(with_passages=kind[0], temperature=kind[1], answers=count, **means)

    def _read(self) -> Iterator[QuestionRow]:
        return (msgspec.convert(row, QuestionRow) for row in read_rows(self._questions))

    def _answer(self, table: TableWriter) -> Iterator[Rejected]:
        """Write every answer and yield those that are kept out of pairs."""
        calls = (call for row in self._read() for _, call in self._calls_of(row))
        outcomes = self._asker.ask(calls, phase="answer", total=self._calls)
        for row in self._read():
            self._parts[row.part] += 1
            self._held_out += row.held_out > 0
            self._nothing_found += not row.passages
            candidates: list[CandidateRow] = []
            for with_passages, call in self._calls_of(row):
                candidate, reason = self._judge(row, with_passages, call, next(outcomes))
                candidates.append(candidate)
                if candidate.code:
                    self._codes[candidate.code] += 1
                    yield _set_aside(row, candidate, reason)
            table.extend(candidates)
            self._right += any(one.exact_match == 1 for one in candidates)
            self._different += len({tuple(units(one.answer)) for one in candidates})

    def _calls_of(self, row: QuestionRow) -> Iterator[tuple[bool, Call]]:
        """Yield (with passages, call) of the answers to a question; those of one prompt follow each other."""
        settings, params = self._settings, self._params
        for with_passages in (True, False) if row.passages else (False,):
            messages = build_messages(
                params.prompt,
                row.question,
                row.context if with_passages else (),
                row.system,
                [msgspec.to_builtins(turn) for turn in row.history],
            )
            for temperature, sample in _kinds(settings):
                sampling = Sampling(
                    max_new_tokens=params.max_new_tokens,
                    temperature=temperature,
                    top_p=settings.top_p,
                    seed=settings.seed,
                )
                yield with_passages, Call(messages=messages, sampling=sampling, model=self._model, sample=sample)

    def _judge(self, row: QuestionRow, with_passages: bool, call: Call, outcome: Outcome) -> tuple[CandidateRow, str]:
        """Return an answer with its scores, and the reason why it may be in no pair (empty: it may)."""
        reply, prompt_tokens = Reply(answer=""), 0
        if isinstance(outcome, ModelReply):
            reply = read_reply(outcome.text, opens_thought=outcome.opens_thought, tokens=outcome.tokens)
            prompt_tokens = outcome.prompt_tokens
        code, reason = "", ""
        if fault := fault_of(outcome):
            code, reason = fault.code, fault.reason
        elif not (reply.closed and reply.answer):
            code, reason = "FT-DDR-005", f"{reply.tokens} tokens of reasoning and no answer"
        scores, temperature = score(reply.answer, row.gold), call.sampling.temperature
        self._answers[with_passages, temperature] += 1
        self._scores[with_passages, temperature].update(msgspec.structs.asdict(scores))
        candidate = CandidateRow(
            question_id=row.question_id,
            with_passages=with_passages,
            temperature=temperature,
            sample=call.sample,
            text=reply.answer if reply.thought is None else f"{OPENING}\n{reply.thought}\n{CLOSING}\n\n{reply.answer}",
            answer=reply.answer,
            code=code,
            prompt_tokens=prompt_tokens,
            tokens=reply.tokens,
            exact_match=scores.exact_match,
            f1=scores.f1,
            rouge_l=scores.rouge_l,
            call_key=self._asker.key(call),
        )
        return candidate, reason


def _set_aside(row: QuestionRow, candidate: CandidateRow, reason: str) -> Rejected:
    shown = "with passages" if candidate.with_passages else "without passages"
    what = f"{reason} ({shown}, temperature {candidate.temperature:g}, F1 {candidate.f1:.3g}): {candidate.text}"
    return set_aside(candidate.code, row.source, row.line_no, what, CODES[candidate.code].fix, raw=row.question)


if __name__ == "__main__":
    run_worker(main)
