"""Candidates: a question wanted for a span of a passage, its attempts, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from expectations.canonical import digest
from expectations.formats.build import content_id
from expectations.formats.dialect import RowError
from expectations.questions.prompts import ask_for_question, make_cloze, prompt_language, system_text
from expectations.questions.spans import AnswerSpan, find_spans, sentence_of
from expectations.questions.tokens import parts_of
from expectations.questions.verify import QuestionCandidate, check_candidate, check_passage, read_question
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.rules.answer_scores import read_reply
from expectations.text.cleaning import sentences
from expectations.text.glossary import TermFinder
from ft_assets.config.model import KbalignSettings
from ft_assets.kbalign.jobs import CallRow, Dependency, GeneratedRow
from resources.text_source import ChatMessage, ModelReply, Outcome

CLOZE = "cloze"
_MOST_CLOZE = 300  # characters of a sentence with a gap
_NOTHING = "nothing: it is counted, and its reason is here"


class AskablePassage(NamedTuple):
    """A passage that may be asked about."""

    passage_id: str
    document_id: str
    heading: str
    text: str
    content: str
    content_sha256: str
    source: str
    language: str


PASSAGE_COLUMNS = list(AskablePassage._fields)


class Wanted:
    """One question that is wanted: its spans in the order of the attempts, what was tried, and the row that was kept.

    With the second attempt the same span gets another sample, with the third another span, and so on.
    """

    def __init__(
        self, passages: Sequence[AskablePassage], spans: Sequence[AnswerSpan], number: int, dependency: Dependency
    ) -> None:
        self.passages, self.spans, self.dependency = passages, spans, dependency
        self.id = content_id("kbalign", dependency, str(number), *(one.content for one in passages))
        self.calls: list[CallRow] = []
        self.row: GeneratedRow | None = None
        self.error: RowError | None = None

    def span_of(self, attempt: int) -> AnswerSpan:
        """Return the span of an attempt, from 0; the last one stays where there are no more."""
        return self.spans[min(attempt // 2, len(self.spans) - 1)]

    def messages(self, attempt: int, examples: Sequence[Mapping[str, Any]] | None) -> list[ChatMessage]:
        """Return the prompt of an attempt. `examples`: rows of `kbalign_splits` that ask for a question, as turns; None
        for a tuned author."""
        language = prompt_language(self.passages[0].language)
        messages: list[ChatMessage] = [{"role": "system", "content": system_text(language, tuned=examples is None)}]
        for row in examples or ():
            messages.append({"role": "user", "content": row["question"]})
            messages.append({"role": "assistant", "content": row["answer"]})
        return [*messages, {"role": "user", "content": self._prompt(self.span_of(attempt))}]

    def _prompt(self, span: AnswerSpan) -> str:
        first = self.passages[0]
        sentence = sentence_of(first.text, span)
        others = [_nearest_sentence(sentence, one.text) for one in self.passages[1:]]
        return ask_for_question(prompt_language(first.language), first.heading, [sentence, *others], span.text)

    def take(self, attempt: int, outcome: Outcome, call_key: str, author: str) -> None:
        """Keep the question of a reply, or the reason why not."""
        span = self.span_of(attempt)
        try:
            question = self._read(span, outcome)
        except RowError as error:
            self.refuse(error)
            self._log(attempt, span, outcome, call_key, error)
            return
        self._log(attempt, span, outcome, call_key, None)
        self.row = self._row(question, span, span.kind, call_key=call_key, attempt=attempt, author=author)

    def take_cloze(self) -> None:
        """Make a gap-fill question, which needs no model."""
        span, first = self.spans[0], self.passages[0]
        sentence = sentence_of(first.text, span)
        start = span.start - first.text.index(sentence)
        language = prompt_language(first.language)
        question = make_cloze(language, sentence, start, start + len(span.text))
        try:
            check_candidate(QuestionCandidate(question, span.text, first.heading, [first.text], is_cloze=True))
        except RowError as error:
            self.refuse(error)
            return
        self.row = self._row(question, span, CLOZE, call_key="", attempt=0, author="")

    def refuse(self, error: RowError) -> None:
        """Keep the reason why there is no question (yet)."""
        self.error = error.with_traceback(None)  # whose frames would keep this candidate in memory

    def rejected(self) -> Rejected:
        """Return its line of the quarantine: the code and the reason of the last attempt, and the texts of all."""
        if self.error is None:
            raise ValueError("this candidate was kept")
        attempts = len(self.calls)
        reason = f"{self.error.reason} (attempt {attempts} of {attempts})" if attempts else self.error.reason
        texts = " | ".join(f"{call.answer} <- {call.text}" for call in self.calls)
        return set_aside(
            self.error.code, self.passages[0].passage_id, 0, reason, _NOTHING, path=f"$.{self.id}", raw=texts
        )

    def _read(self, span: AnswerSpan, outcome: Outcome) -> str:
        if not isinstance(outcome, ModelReply):
            raise RowError(outcome.code, "$.reply", outcome.reason)
        cut = outcome.finish == "length"
        reply = read_reply(outcome.text, opens_thought=outcome.opens_thought, tokens=outcome.tokens, cut=cut)
        question = read_question(reply.answer, cut=cut)
        texts = [one.text for one in self.passages]
        headings = " ".join(dict.fromkeys(one.heading for one in self.passages))
        check_candidate(QuestionCandidate(question, span.text, headings, texts))
        return question

    def _row(
        self, question: str, span: AnswerSpan, kind: str, *, call_key: str, attempt: int, author: str
    ) -> GeneratedRow:
        first = self.passages[0]
        return GeneratedRow(
            record_id=content_id("kbalign", question, span.text, *(one.content for one in self.passages)),
            question=question,
            answer=span.text,
            language=first.language,
            passage_ids=[one.passage_id for one in self.passages],
            document_id=first.document_id,
            kind=kind,
            dependency=self.dependency,
            span_start=span.start,
            span_end=span.end,
            call_key=call_key,
            attempt=attempt,
            author=author,
        )

    def _log(self, attempt: int, span: AnswerSpan, outcome: Outcome, call_key: str, error: RowError | None) -> None:
        answered = isinstance(outcome, ModelReply)
        self.calls.append(
            CallRow(
                candidate=self.id,
                passage_id=self.passages[0].passage_id,
                attempt=attempt,
                call_key=call_key,
                answer=span.text,
                kind=span.kind,
                code=error.code if error else "",
                reason=error.reason if error else "",
                text=outcome.text if answered else "",
                prompt_tokens=outcome.prompt_tokens if answered else 0,
                tokens=outcome.tokens if answered else 0,
            )
        )


def want_short(passage: AskablePassage, settings: KbalignSettings, terms: TermFinder | None) -> Iterator[Wanted]:
    """Yield the questions that are wanted from one passage; the last one is a gap-fill question, made already.

    A passage that gives orders is one candidate, refused before a call. Without spans there is none.
    """
    spans = _ordered_spans(passage, settings, terms)
    if not spans:
        return
    if (refused := _refused(passage, spans, "short")) is not None:
        yield refused
        return
    count = min(settings.short_per_passage, len(spans))
    spare = spans[count:]
    for number in range(count):
        yield Wanted([passage], [spans[number], *spare[number::count]], number, "short")
    if settings.max_cloze_share and (cloze := _cloze_span(passage, spans)):
        wanted = Wanted([passage], [cloze], -1, "short")
        wanted.take_cloze()
        yield wanted


def want_long(
    passage: AskablePassage, others: Sequence[AskablePassage], settings: KbalignSettings, terms: TermFinder | None
) -> Iterator[Wanted]:
    """Yield one question that is wanted from this passage and the nearest of `others`, passages of its document."""
    spans = _ordered_spans(passage, settings, terms)
    candidates = [one for one in others if one.passage_id != passage.passage_id]
    if not spans or not candidates:
        return
    words = set(parts_of(passage.text))
    near = max(candidates, key=lambda one: (len(words & set(parts_of(one.text))), one.passage_id))
    refused = _refused(passage, spans, "long") or _refused(near, spans, "long")
    yield refused or Wanted([passage, near], spans[: settings.max_tries], 0, "long")


def _refused(passage: AskablePassage, spans: Sequence[AnswerSpan], dependency: Dependency) -> Wanted | None:
    """Return the candidate of a passage that gives orders; None for a usual one."""
    try:
        check_passage(passage.content)
    except RowError as error:
        wanted = Wanted([passage], spans[:1], 0, dependency)
        wanted.refuse(error)
        return wanted
    return None


def _ordered_spans(passage: AskablePassage, settings: KbalignSettings, terms: TermFinder | None) -> list[AnswerSpan]:
    """Return the spans of a passage in an order that its content and the seed decide."""
    spans = find_spans(passage.text, passage.heading, terms)
    return sorted(spans, key=lambda span: digest([settings.seed, passage.content_sha256, span.start, span.text]))


def _cloze_span(passage: AskablePassage, spans: Sequence[AnswerSpan]) -> AnswerSpan | None:
    """Return the last span whose sentence is short enough for a gap and holds it once."""
    for span in reversed(spans):
        sentence = sentence_of(passage.text, span)
        if len(sentence) <= _MOST_CLOZE and "\n" not in sentence and sentence.count(span.text) == 1:
            return span
    return None


def _nearest_sentence(sentence: str, text: str) -> str:
    """Return the sentence of a text that shares most words with another one."""
    words = set(parts_of(sentence))
    found = [text[start:end] for start, end in sentences(text)]
    return max(found, key=lambda one: len(words & set(parts_of(one))), default="")
