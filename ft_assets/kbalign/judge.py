"""The judge: a model that answers a question from its passages, and how often it is right about people's answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from expectations.contracts.adapter import RagPrompt
from expectations.questions.tokens import tokens_of
from expectations.questions.verify import agrees, shape_of
from expectations.rules.answer_scores import read_reply, score
from ft_assets.adapters.prompt import build_messages
from ft_assets.datasets.assign_splits import question_form
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import TrialRow
from ft_assets.kbalign.turn_round import WithPassage, with_evidence
from resources.artifacts import Artifact
from resources.asker import Asker
from resources.parquet import read_rows
from resources.text_source import Call, ModelReply, Sampling

_WRONG = 2
"""Wrong answers of a held-out question that the judge is tried on, at most."""


class Opinion(NamedTuple):
    """The answer of the judge to one question."""

    answer: str
    key: str
    code: str = ""
    """The code of a call that had no reply."""
    reason: str = ""


class Judge:
    """Asks one model of an asker as users ask: with the prompt of the answers, greedily."""

    def __init__(self, asker: Asker, model: str, prompt: RagPrompt, max_new_tokens: int) -> None:
        self._asker, self._model, self._prompt = asker, model, prompt
        self._sampling = Sampling(max_new_tokens=max_new_tokens)

    @property
    def contract(self) -> str:
        """The digest of the judge's contract."""
        return self._asker.contract(self._model).digest

    def ask(self, questions: Sequence[tuple[str, Sequence[str]]], phase: str) -> list[Opinion]:
        """Return the judge's answer to each (question, passages); without passages it answers by heart."""
        calls = [self._call(question, passages) for question, passages in questions]
        outcomes = self._asker.ask(calls, phase=phase, total=len(calls))
        opinions: list[Opinion] = []
        for call, outcome in zip(calls, outcomes, strict=True):
            key = self._asker.key(call)
            if isinstance(outcome, ModelReply):
                reply = read_reply(outcome.text, opens_thought=outcome.opens_thought, tokens=outcome.tokens)
                opinions.append(Opinion(reply.answer, key))
            else:
                opinions.append(Opinion("", key, outcome.code, outcome.reason))
        return opinions

    def _call(self, question: str, passages: Sequence[str]) -> Call:
        messages = build_messages(self._prompt, question, passages)
        return Call(messages=messages, sampling=self._sampling, model=self._model)


class Trial(NamedTuple):
    """A held-out question of a person, its passage, the right answer and plausible wrong ones."""

    question: str
    passage: str
    right: str
    wrong: list[str]


def try_judge(judge: Judge, trials: Sequence[Trial], threshold: float) -> list[TrialRow]:
    """Ask the judge each question with its passage; return whether it accepts each right and each wrong answer."""
    opinions = judge.ask([(one.question, [one.passage]) for one in trials], "trying the judge")
    return [
        TrialRow(
            question=one.question,
            passage=one.passage,
            answer=answer,
            is_right=is_right,
            judge_answer=opinion.answer,
            accepted=agrees(opinion.answer, answer, threshold),
            judge_key=opinion.key,
        )
        for one, opinion in zip(trials, opinions, strict=True)
        for answer, is_right in ((one.right, True), *((wrong, False) for wrong in one.wrong))
    ]


def read_trials(instructions: Artifact, preferences: Artifact | None, passages: Artifact) -> list[Trial]:
    """Return the validation questions of people, whose passage is in the corpus.

    Wrong answers are the `rejected` ones of preference pairs with the same question, then answers of other questions:
    of the same shape (`128 bits`, `512 bits`), first those of the same document.
    """
    rejected = _read_rejected(preferences) if preferences else {}
    found = [one for one in with_evidence(instructions, "validation", passages) if one and one.sentence]
    pool = [*found, *(one for one in with_evidence(instructions, "train", passages) if one)]
    trials: list[Trial] = []
    for one in found:
        near = _similar(one, pool)
        wrong = _plausible(one.row["answer"], [*rejected.get(question_form(one.row["question"]), ()), *near])
        trials.append(Trial(one.row["question"], one.passage["content"], one.row["answer"], wrong))
    return trials


def _similar(one: WithPassage, pool: Iterable[WithPassage]) -> Iterator[str]:
    """Yield answers that could be taken for that of a row: of its shape, then of its document."""
    shape, document = shape_of(one.row["answer"]), one.passage["passage_id"].split("#")[0]
    same = [other for other in pool if shape_of(other.row["answer"]) == shape]
    of_document = [other for other in pool if other.passage["passage_id"].split("#")[0] == document]
    for group in ([other for other in same if other in of_document], same, of_document):
        yield from (other.row["answer"] for other in group)


def _plausible(right: str, answers: Iterable[str]) -> list[str]:
    """Return the first answers that differ from the right one and from each other."""
    wrong: list[str] = []
    seen = {tuple(tokens_of(right))}
    for answer in answers:
        key = tuple(tokens_of(answer))
        # one that holds the right answer, or is part of it, may be right too
        is_part = score(answer, right).f1 > 0 and (
            set(key) <= set(tokens_of(right)) or set(key) >= set(tokens_of(right))
        )
        if key and key not in seen and not is_part and len(wrong) < _WRONG:
            seen.add(key)
            wrong.append(answer)
    return wrong


def _read_rejected(preferences: Artifact) -> dict[str, list[str]]:
    """Return the form of a question -> its rejected answers, of all parts."""
    rejected: dict[str, list[str]] = {}
    for part in ("train", "validation", "test"):
        row: dict[str, Any]
        for row in read_rows(preferences.file(split_file(part)), ["question", "rejected"]):
            answer = read_reply(row["rejected"]).answer
            rejected.setdefault(question_form(row["question"]), []).append(answer)
    return rejected
