"""Worker: questions about single passages (short) or about several passages of a document (long).

Answer first: a span of the passage, then the question for it. Memory holds a few blocks of passages, whose questions
are asked together, and with `max_passages` the chosen ids.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, islice
from typing import Any

import msgspec

from expectations.canonical import digest
from expectations.reading import Rejected
from expectations.records.read import write_quarantine
from expectations.text.glossary import TermFinder
from expectations.violations import Refused, violation
from ft_assets.config.model import KbalignSettings
from ft_assets.corpus.collect import GLOSSARY, PASSAGES
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.split import split_file
from ft_assets.graph.quarantine import QUARANTINE
from ft_assets.kbalign.candidates import PASSAGE_COLUMNS, AskablePassage, Wanted, want_long, want_short
from ft_assets.kbalign.jobs import (
    ASKING,
    AUTHOR,
    CALLS_FILE,
    GENERATED_FILE,
    SPLITS,
    CallRow,
    GeneratedRow,
    GenerateParams,
    GenerateSummary,
)
from resources.artifacts import Artifact, Staging
from resources.asker import Asker, open_asker
from resources.launcher import Job, run_worker
from resources.parquet import TableWriter, arrow_schema, read_rows
from resources.telemetry import Metrics
from resources.text_source import BASE, Call, Sampling

BLOCK = 128
"""Passages after which a `target` is looked at."""
BLOCKS = 4
"""Blocks whose questions are asked together, where a target allows it: more than a thousand calls, which the actors of
a cluster share."""


def main(job: Job) -> Artifact:
    """Ask about the passages that nothing holds out, and publish what passed the rules that need no judge.

    Raises Refused (FT-KBA-025) if there is no passage to ask about.
    """
    params = job.params_as(GenerateParams)
    author = {"author": job.input(AUTHOR)} if AUTHOR in job.recipe.inputs else {}
    metrics = Metrics(job.folder())
    with ExitStack() as stack:
        asker = stack.enter_context(open_asker(params.generator, params.compute, author, metrics))
        staging = stack.enter_context(job.artifacts().stage(job.recipe))
        generation = Generation(job, params, asker, model="author" if author else BASE)
        artifact = staging.publish(msgspec.to_builtins(generation.write(staging)))
    metrics.close()
    return artifact


class Generation:
    """One run: which passages are asked about, what was asked, and how each candidate ended."""

    def __init__(self, job: Job, params: GenerateParams, asker: Asker, model: str) -> None:
        self._settings, self._dependency = params.typed_settings(), params.dependency
        self._asker, self._model = asker, model
        passages = job.input("passages")
        self._passages, self._version = passages.table(PASSAGES), passages.recipe_id
        self._held_out = held_out_passages(job.input, params.split_settings())
        self._terms = TermFinder({row["term"]: row["names"] for row in read_rows(job.input("glossary").file(GLOSSARY))})
        self._examples = _examples(job, self._settings) if model == BASE else None
        self._codes: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._contract = asker.contract(model).digest

    def write(self, staging: Staging) -> GenerateSummary:
        """Write calls.parquet, generated.parquet and quarantine.jsonl; return the summary."""
        with ExitStack() as stack:
            calls = stack.enter_context(TableWriter(staging.path / CALLS_FILE, arrow_schema(CallRow)))
            rows = stack.enter_context(TableWriter(staging.path / GENERATED_FILE, arrow_schema(GeneratedRow)))
            write_quarantine(staging.path / QUARANTINE, self._generate(calls, rows))
        counts = self._counts
        if not counts["asked"] and not self._is_off():
            found = f"{counts['passages']} passages, {counts['held_out']} of them held out"
            raise Refused(
                f"asking about passages {self._version}",
                [violation("FT-KBA-025", where="passages", field="passages", found=found, expected="at least 1")],
            )
        names = ("candidates", "kept", "passages", "held_out", "asked", "without_question")
        return GenerateSummary(
            **{name: counts[name] for name in names},
            quarantined=self._codes.total(),
            codes=dict(self._codes),
            **msgspec.structs.asdict(self._asker.usage.figures()),
        )

    def _is_off(self) -> bool:
        wanted = self._settings.short_per_passage if self._dependency == "short" else self._settings.long_per_document
        return not wanted or self._dependency == "long"  # a corpus of short documents has no long question

    def _generate(self, calls: TableWriter, rows: TableWriter) -> Iterator[Rejected]:
        """Yield the quarantined candidates; write the calls and the kept rows."""
        wanted = self._want()
        while not self._enough() and (block := list(islice(wanted, BLOCK * self._blocks()))):
            together = [one for ones in block for one in ones]
            self._ask(together)
            for ones in block:
                self._counts["asked"] += 1
                self._counts["without_question"] += not any(one.row for one in ones)
            for one in together:
                self._counts["candidates"] += 1
                for call in one.calls:
                    calls.add(call)
                if one.row:
                    rows.add(one.row)
                    self._counts["kept"] += 1
                else:
                    rejected = one.rejected()
                    self._codes[rejected.code] += 1
                    yield rejected

    def _enough(self) -> bool:
        return self._settings.target is not None and self._counts["kept"] >= self._settings.target

    def _blocks(self) -> int:
        """Return how many blocks are asked together: no more than are asked in any case, however good the replies."""
        target = self._settings.target
        if target is None:
            return BLOCKS
        most = BLOCK * (self._settings.short_per_passage + 1)  # with the gap-fill question
        return min(BLOCKS, 1 + (target - self._counts["kept"] - 1) // most)

    def _ask(self, wanted: Sequence[Wanted]) -> None:
        """Ask for each question until one passes its rules, at most `max_tries` times."""
        settings = self._settings
        for attempt in range(settings.max_tries):
            open_ones = [one for one in wanted if one.row is None and not _ended(one)]
            pending = [(one, self._call(one, attempt)) for one in open_ones]
            calls = (call for _, call in pending)
            outcomes = self._asker.ask(calls, phase=f"attempt {attempt + 1}", total=len(pending))
            for (one, call), outcome in zip(pending, outcomes, strict=True):
                one.take(attempt, outcome, self._asker.key(call), self._contract)

    def _call(self, one: Wanted, attempt: int) -> Call:
        settings = self._settings
        sampling = Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        messages = one.messages(attempt, self._examples)
        return Call(messages=messages, sampling=sampling, model=self._model, sample=attempt % 2)

    def _want(self) -> Iterator[list[Wanted]]:
        """Yield the candidates of each passage that is asked about."""
        chosen = self._choose()
        for document in self._documents():
            askable = [one for one in document if self._is_free(one)]
            asked = [one for one in askable if chosen is None or one.passage_id in chosen]
            if self._dependency == "short":
                for passage in asked if self._settings.short_per_passage else ():
                    yield list(want_short(passage, self._settings, self._terms))
                continue
            most = self._settings.long_per_document
            for passage in heapq.nsmallest(most, asked, key=self._order):
                if one := list(want_long(passage, askable, self._settings, self._terms)):
                    yield one

    def _choose(self) -> set[str] | None:
        """Return the ids of the passages that `max_passages` chooses, by hash of content; count all of them."""
        most = self._settings.max_passages
        everything = self._count(self._read())
        if most is None:
            for _ in everything:
                pass
            return None
        return {one.passage_id for one in heapq.nsmallest(most, everything, key=self._order)}

    def _count(self, passages: Iterable[AskablePassage]) -> Iterator[AskablePassage]:
        """Yield the passages that nothing holds out."""
        for passage in passages:
            self._counts["passages"] += 1
            if self._is_free(passage):
                yield passage
            else:
                self._counts["held_out"] += 1

    def _is_free(self, passage: AskablePassage) -> bool:
        return passage.passage_id not in self._held_out

    def _order(self, passage: AskablePassage) -> str:
        return digest([self._settings.seed, passage.content_sha256])

    def _documents(self) -> Iterator[list[AskablePassage]]:
        for _, passages in groupby(self._read(), key=lambda passage: passage.document_id):
            yield list(passages)

    def _read(self) -> Iterator[AskablePassage]:
        for row in read_rows(self._passages, PASSAGE_COLUMNS):
            yield AskablePassage(**row)


def _ended(one: Wanted) -> bool:
    """Return whether a candidate ended without a call: a gap-fill question, or a passage that gives orders."""
    return one.error is not None and not one.calls


def _examples(job: Job, settings: KbalignSettings) -> list[dict[str, Any]]:
    """Return the examples of a prompted author: training rows, in an order that the seed decides."""
    rows = read_rows(job.input(SPLITS).file(split_file("train")), ["record_id", "question", "answer"])
    asking = [row for row in rows if row["record_id"].endswith(f":{ASKING}")]
    return heapq.nsmallest(settings.few_shot, asking, key=lambda row: digest([settings.seed, row["record_id"]]))


if __name__ == "__main__":
    run_worker(main)
