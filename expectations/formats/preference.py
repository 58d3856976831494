"""Format `preference`: a question with a better and a worse answer, for DPO.

Dialects: DDR as UltraRAG and as RAG-DDR write it, the preference rows of TRL (and UltraFeedback), LLaMA-Factory,
ms-swift and OpenAI, ShareGPT's objects, Anthropic's dialogues as text, and the canonical form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, cast

import msgspec

from expectations.formats.build import (
    choose_language,
    content_id,
    history_json,
    paths_of,
    paths_of_turns,
    refuse_empty,
    refuse_label,
    refuse_media,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
    tidy_all,
    tidy_each,
    tidy_turns,
)
from expectations.formats.dialect import (
    Dialect,
    Extras,
    Format,
    Keys,
    Place,
    ReadPolicy,
    Record,
    RowError,
    TrainingExtras,
    Turn,
)
from expectations.formats.dialogue import Message, Said, read_message, read_messages, split_turns
from expectations.formats.instruction import (
    InstructionRecord,
    add_history,
    find_alpaca_context,
    find_context,
    read_pairs,
    read_turns,
    split_thinking,
)
from expectations.formats.keys import history_texts
from expectations.text.cleaning import LONGEST_NULL
from expectations.text.cleaning import comparison_key_of_clean as comparison_key

AUGMENTED = 5
"""Passages that DDR gives with the question: the first five."""
DDR_KEYS = (
    *("*_score", "score", "type", "temperature", "loop", "context", "file_index", "chunk_index", "ground_truth"),
    *("keypoints", "raw_input", "augment_input", "cot", "answer", "error_passage"),
)
"""Keys of DDR's rows besides those of the typed rows: scores, and how the candidates were made."""
_EMPTY = ("FT-PREF-008", "FT-PREF-002", "FT-PREF-002")
_RawDdr = Mapping[str, Mapping[str, object]]
"""A row of DDR as JSON: the scores stand in the objects `chosen` and `rejected`."""
_ROUNDED = 1e-3
"""How far a stated margin may be from the difference of the scores: it may be rounded."""
_TRL_PATHS = ("$.prompt", "$.chosen", "$.rejected")


class PreferenceRecord(Record, frozen=True, kw_only=True, gc=False):
    """One pair of answers to one question, as it is trained on."""

    record_id: str
    question: str
    context: list[str]
    """Retrieved passages that the answers were given with."""
    system: str
    history: list[Turn]
    """Earlier turns of the dialogue, oldest first."""
    chosen: str
    rejected: str
    chosen_score: float | None
    rejected_score: float | None
    margin: float | None
    """chosen_score - rejected_score, or the margin that the row states without scores; null without both."""
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (questions on one chunk) never fall into different splits; empty when alone."""
    language: str
    source: str
    line_no: int


class ScoredRow(TrainingExtras, kw_only=True):
    """Optional keys that any row with a chosen and a rejected text may have; the scores have several names."""

    chosen_score: float | None = None
    rejected_score: float | None = None
    score_chosen: float | None = None
    score_rejected: float | None = None
    chosen_rating: float | None = None
    rejected_rating: float | None = None
    rating_chosen: float | None = None
    rating_rejected: float | None = None
    chosen_rating_dashed: float | None = msgspec.field(default=None, name="chosen-rating")
    rejected_rating_dashed: float | None = msgspec.field(default=None, name="rejected-rating")
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    margin: float | None = None


_SCORES = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating_dashed", "rejected_rating_dashed"),
    ("chosen_reward", "rejected_reward"),
)
_SCORES_OF = attrgetter(*chain.from_iterable(_SCORES))


class PreferenceRow(ScoredRow, kw_only=True):
    """The canonical form."""

    question: str
    chosen: str
    rejected: str
    record_id: str | None = None
    history: list[Turn | tuple[str, str]] | None = None


Side = str | Message | list[Message]
"""An answer: a text, a message, or the messages of a dialogue that ends with it."""


class TrlRow(ScoredRow, kw_only=True):
    """`prompt` may be missing where chosen and rejected are dialogues that begin with the same turns."""

    chosen: Side
    rejected: Side
    prompt: str | list[Message] | None = None


class TurnsRow(ScoredRow, kw_only=True):
    """The dialogue under `messages`, its two answers under `chosen` and `rejected`."""

    prompt: list[Message] = msgspec.field(name="messages")
    chosen: Side
    rejected: Side


class ShareGptPreferenceRow(ScoredRow, kw_only=True):
    prompt: list[Message] = msgspec.field(name="conversations")
    chosen: Side
    rejected: Side


class OpenAiInput(msgspec.Struct, kw_only=True):
    messages: list[Message]


class OpenAiRow(ScoredRow, kw_only=True):
    input: OpenAiInput
    preferred_output: list[Message]
    non_preferred_output: list[Message]


class HhRow(ScoredRow, kw_only=True):
    """Anthropic's dialogues as text: `\\n\\nHuman: … \\n\\nAssistant: …`."""

    chosen: str
    rejected: str
    prompt: str | None = None


class RejectedResponseRow(ScoredRow, kw_only=True):
    """ms-swift's dialogue with its answer, and the text of a worse answer."""

    messages: list[Message]
    rejected_response: str


class RejectedResponsesRow(RejectedResponseRow, kw_only=True):
    rejected_response: Any


class RejectedMessagesRow(ScoredRow, kw_only=True):
    messages: list[Message]
    rejected_messages: list[Message]


class RankedRow(ScoredRow, kw_only=True):
    """A question with two answers; each dialect has its own names for the three."""

    question: str
    chosen: str
    rejected: str
    history: list[tuple[str, str]] | None = None


class AlpacaPairRow(RankedRow, kw_only=True):
    question: str = msgspec.field(name="instruction")
    input: str | None = None


class AlpacaRejectedRow(RankedRow, kw_only=True):
    question: str = msgspec.field(name="instruction")
    chosen: str = msgspec.field(name="output")
    input: str | None = None


class AlpacaRankedRow(ScoredRow, kw_only=True):
    """The old form of LLaMA-Factory: the better output comes first."""

    instruction: str
    output: tuple[str, str]
    input: str | None = None
    history: list[tuple[str, str]] | None = None


class QueryPairRow(RankedRow, kw_only=True):
    question: str = msgspec.field(name="query")


class SwiftPairRow(RankedRow, kw_only=True):
    question: str = msgspec.field(name="query")
    chosen: str = msgspec.field(name="response")
    rejected: str = msgspec.field(name="rejected_response")


class SwiftPairsRow(SwiftPairRow, kw_only=True):
    rejected: Any = msgspec.field(name="rejected_response")


class DdrAnswer(msgspec.Struct, kw_only=True, gc=False):
    """A candidate; its score is under `<metric>_score` or `score`, so it is read from the raw object."""

    text: str


class DdrRow(Extras, kw_only=True):
    query: str
    retrieval_result: list[str]
    chosen: DdrAnswer
    rejected: DdrAnswer
    system: str | None = None
    context: Any = None
    """The candidates that chosen and rejected were taken from: no passages."""
    chunk: str | None = None
    """The chunk the question was made from: questions on one chunk form a group."""


class Segment(msgspec.Struct, kw_only=True):
    segment: str


class RagDdrRow(Extras, kw_only=True):
    """`chosen` and `rejected` are texts, YES and NO, in the rows that train RAG-DDR's judge of passages."""

    question: str
    chosen: DdrAnswer | str
    rejected: DdrAnswer | str
    system: str | None = None
    context: Any = None
    """The candidates that chosen and rejected were taken from: no passages."""
    passage: list[Segment] = msgspec.field(default_factory=list[Segment])
    rerank_passage: list[Segment] = msgspec.field(default_factory=list[Segment])


class AnswerPair(msgspec.Struct, kw_only=True, gc=False):
    """A question and its two answers as a dialect gives them, not yet cleaned."""

    paths: tuple[str, str, str]
    """JSON paths of the question, of the chosen and of the rejected answer."""
    question: str
    chosen: str
    rejected: str
    scores: tuple[float | None, float | None]
    """Of the chosen and of the rejected answer."""
    context: Sequence[str] = ()
    context_path: str = "$.context"
    """JSON path of the context; it ends with `[]` where it is a list."""
    system: str | None = None
    history: Sequence[Turn] = ()
    history_paths: Sequence[tuple[str, str]] = ()
    """JSON paths of the question and the answer of each earlier turn."""
    margin: float | None = None
    """As the row states it."""
    record_id: str = ""
    group: str = ""


def _build(row: Extras, pair: AnswerPair, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    """Return the record of a comparison; RowError when it breaks a rule. The rules are the same in every dialect."""
    texts = [*map(str.strip, (pair.question, pair.chosen, pair.rejected, *pair.context))] if place.plain else [""]
    if min(map(len, texts)) > LONGEST_NULL:  # most rows: none is empty, none the print of a missing value
        question, chosen, rejected, *context = texts
    else:
        question, chosen, rejected = tidy_each((pair.question, pair.chosen, pair.rejected), pair.paths, place)
        context = tidy_all(pair.context, pair.context_path.removesuffix("[]"), place)
    _refuse_answers(pair, question, chosen, rejected, place)
    system = tidy(pair.system, "$.system", place) if pair.system else ""
    history = tidy_turns(pair.history, pair.history_paths, place) if pair.history else []
    if not place.plain:
        texts = list(zip(pair.paths, (question, chosen, rejected), strict=True))
        past = paths_of_turns(history, pair.history_paths)
        given = paths_of(pair.context_path, context)
        refuse_media(past, place)
        refuse_special_tokens("FT-PREF-007", [*texts, *given, ("$.system", system), *past])
        refuse_residue([*texts, *given], place)
        for path, text in texts[1:]:
            _refuse_thinking(path, text)
    margin = _margin(pair.scores, pair.margin, policy.min_margin)
    record_id = pair.record_id or content_id(
        "preference", question, context, *([system] if system else []), *history_json(history), chosen, rejected
    )
    if policy.traditional != "keep":
        question, chosen, rejected = (simplified(text, policy) for text in (question, chosen, rejected))
        context, system = simplified(context, policy), simplified(system, policy)
        history = simplified(history, policy)
    return PreferenceRecord(
        record_id=record_id,
        question=question,
        context=context,
        system=system,
        history=history,
        chosen=chosen,
        rejected=rejected,
        chosen_score=pair.scores[0],
        rejected_score=pair.scores[1],
        margin=margin,
        evidence=row.evidence or [],
        group=(tidy(row.group, "$.group", place) if row.group else "") or pair.group,
        language=choose_language(row.language, question),
        source=place.source,
        line_no=place.line,
    )


def _refuse_answers(pair: AnswerPair, question: str, chosen: str, rejected: str, place: Place) -> None:
    """Refuse cleaned texts that are empty, begin with a label, or do not differ (RowError)."""
    if not (question and chosen and rejected):
        for code, path, text in zip(_EMPTY, pair.paths, (question, chosen, rejected), strict=True):
            refuse_empty(code, path, text)
    refuse_label(pair.paths[0], question, place)
    refuse_label(pair.paths[1], chosen, place)
    if _are_equal(chosen, rejected):
        how = "are the same" if pair.chosen == pair.rejected else "are the same after normalisation"
        raise RowError("FT-PREF-003", pair.paths[2], f"chosen and rejected {how}")


def _are_equal(left: str, right: str) -> bool:
    """True if two answers are equal under `comparison_key`. In most pairs the first or the last letter differs."""
    for end in (-1, 0):
        ours, theirs = left[end].casefold()[end], right[end].casefold()[end]
        if ours != theirs and ours.isalnum() and theirs.isalnum():
            return False
    return comparison_key(left) == comparison_key(right)


def _refuse_thinking(path: str, text: str) -> None:
    """Refuse an answer whose thinking tags do not pair, or that has no text outside of them (RowError)."""
    if "<" not in text:
        return
    try:
        answer = split_thinking(text, "", path)[1]
    except RowError as error:
        raise RowError("FT-PREF-011", path, error.reason) from error
    if not answer:
        raise RowError("FT-PREF-002", path, "found no text after the reasoning")


def _margin(scores: tuple[float | None, float | None], stated: float | None, least: float) -> float | None:
    """Return the margin of two scores, or the one that the row states; RowError when it breaks a rule."""
    chosen, rejected = scores
    if chosen is None and rejected is None:
        return _check_margin(stated, least)
    if chosen is None or rejected is None:
        missing = "chosen" if chosen is None else "rejected"
        raise RowError("FT-PREF-006", f"$.{missing}", f"{missing} has no score, the other has")
    # Scores come in binary: 0.8 - 0.7 must count as 0.1, a margin just allowed or just refused on purpose.
    margin = round(chosen - rejected, 9)
    if margin < 0:
        raise RowError("FT-PREF-004", "$.chosen", f"chosen is scored {chosen:g}, rejected {rejected:g}")
    if margin <= least:
        reason = f"both are scored {chosen:g}" if margin == 0 else f"the margin {margin:g} is not above {least:g}"
        raise RowError("FT-PREF-005", "$.chosen", reason)
    if stated is not None and abs(stated - margin) > _ROUNDED:
        reason = f"the margin {stated:g} is not the difference of the scores {chosen:g} and {rejected:g}"
        raise RowError("FT-PREF-006", "$.margin", reason)
    return margin


def _check_margin(margin: float | None, least: float) -> float | None:
    """Return a margin that is given without scores; RowError when it is too small."""
    if margin is None:
        return None
    if margin < 0:
        raise RowError("FT-PREF-004", "$.margin", f"found the margin {margin:g}")
    if margin <= least:
        raise RowError("FT-PREF-005", "$.margin", f"the margin {margin:g} is not above {least:g}")
    return margin


def _find_scores(row: ScoredRow) -> tuple[float | None, float | None]:
    """Return the scores of a row, under the first of the names that people use.

    RowError (FT-KEY-010) where two names order the answers differently.
    """
    first: tuple[float | None, float | None] = (None, None)
    if _SCORES_OF(row).count(None) == 2 * len(_SCORES):
        return first
    named = ""
    for left, right in _SCORES:
        scores: tuple[float | None, float | None] = (getattr(row, left), getattr(row, right))
        if scores == (None, None):
            continue
        if not named:
            first, named = scores, left
        elif None not in first and None not in scores and _order(*first) != _order(*scores):
            raise RowError("FT-KEY-010", f"$.{left}", f"`{left}` orders the answers differently from `{named}`")
    return first


def _order(chosen: float | None, rejected: float | None) -> bool | None:
    """Return whether chosen is scored above rejected; None for a tie, or without scores."""
    return None if chosen is None or rejected is None or chosen == rejected else chosen > rejected


def _build_scored(row: ScoredRow, pair: AnswerPair, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    """Return the record of a comparison together with the passages, the system text and the scores of its row."""
    if not pair.context:
        pair.context_path, pair.context = find_context(row)
    pair.system = pair.system or row.find_system()
    pair.margin = row.margin
    if row.id is not None and not pair.record_id:
        pair.record_id = stated_id(row.id, place)
    return _build(row, pair, place, policy)


def _from_canonical(row: PreferenceRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    history, history_paths = read_turns(row.history)
    pair = AnswerPair(
        paths=("$.question", "$.chosen", "$.rejected"),
        question=row.question,
        chosen=row.chosen,
        rejected=row.rejected,
        scores=_find_scores(row),
        history=history,
        history_paths=history_paths,
        record_id=stated_id(row.record_id or row.id, place),
    )
    return _build_scored(row, pair, place, policy)


def _pair_converter(
    question: str, chosen: str, rejected: str
) -> Callable[[RankedRow, Any, Place, ReadPolicy], PreferenceRecord]:
    """Return the function that makes a record of a row with these names for the question and its answers."""
    paths = (f"$.{question}", f"$.{chosen}", f"$.{rejected}")

    def convert(row: RankedRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
        pair = AnswerPair(
            paths=paths, question=row.question, chosen=row.chosen, rejected=row.rejected, scores=_find_scores(row)
        )
        pair.history, pair.history_paths = read_pairs(row.history)
        if isinstance(row, AlpacaPairRow | AlpacaRejectedRow):
            pair.context_path, pair.context = find_alpaca_context(row.input, row)
        return _build_scored(row, pair, place, policy)

    return convert


def _from_ranked(row: AlpacaRankedRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    pair = AnswerPair(
        paths=("$.instruction", "$.output[0]", "$.output[1]"),
        question=row.instruction,
        chosen=row.output[0],
        rejected=row.output[1],
        scores=_find_scores(row),
    )
    pair.history, pair.history_paths = read_pairs(row.history)
    pair.context_path, pair.context = find_alpaca_context(row.input, row)
    return _build_scored(row, pair, place, policy)


def _from_trl(row: TrlRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    if isinstance(row.prompt, str) and isinstance(row.chosen, str) and isinstance(row.rejected, str):
        pair = AnswerPair(
            paths=_TRL_PATHS,
            question=row.prompt,
            chosen=row.chosen,
            rejected=row.rejected,
            scores=_find_scores(row),
        )
        return _build_scored(row, pair, place, policy)
    if isinstance(row.chosen, str) != isinstance(row.rejected, str):
        kinds = [f"{name} is {'text' if isinstance(side, str) else 'messages'}" for name, side in _sides(row)]
        raise RowError("FT-PREF-001", "$.rejected", ", ".join(kinds))
    if row.prompt is None and isinstance(row.chosen, str):
        raise RowError("FT-PREF-001", "$.prompt", "the field `prompt` is missing")
    if isinstance(row.prompt, str):
        prompt = [Said("user", row.prompt, "$.prompt")]
    else:
        prompt = read_messages(row.prompt or [], "$.prompt", "FT-PREF-001")
    better, worse = (_end(prompt, side, f"$.{name}") for name, side in _sides(row))
    return _compare(row, better, worse, place, policy)


def _sides(row: TrlRow | TurnsRow | ShareGptPreferenceRow) -> list[tuple[str, Side]]:
    return [("chosen", row.chosen), ("rejected", row.rejected)]


def _turns_converter(
    key: str,
) -> Callable[[TurnsRow | ShareGptPreferenceRow, Any, Place, ReadPolicy], PreferenceRecord]:
    """Return the function that makes a record of a dialogue under this key and its two answers."""

    def convert(
        row: TurnsRow | ShareGptPreferenceRow, _raw: object, place: Place, policy: ReadPolicy
    ) -> PreferenceRecord:
        prompt = read_messages(row.prompt, f"$.{key}", "FT-PREF-001")
        better, worse = (_end(prompt, side, f"$.{name}") for name, side in _sides(row))
        return _compare(row, better, worse, place, policy)

    return convert


def _end(prompt: list[Said], side: Side, path: str) -> list[Said]:
    """Return the whole dialogue that ends with an answer. An answer may repeat the dialogue before it.

    RowError (FT-PREF-010) where it repeats another one.
    """
    if isinstance(side, str):
        return [*prompt, Said("assistant", side, path)]
    if isinstance(side, Message):
        return [*prompt, read_message(side, path, "FT-PREF-001")]
    said = read_messages(side, path, "FT-PREF-001")
    if not prompt or not said or said[0].role == "assistant":
        return [*prompt, *said]
    asked = [(one.role, one.text.strip()) for one in prompt]
    repeated = [(one.role, one.text.strip()) for one in said]
    if repeated[: len(asked)] == asked:
        return said
    if len(asked) == 1 and prompt[0].path == "$.prompt":  # UltraFeedback: the prompt as text, once more
        if asked[0] in repeated:
            return said
        raise RowError("FT-PREF-010", "$.prompt", f"no message of `{path}` has the text of `$.prompt`")
    return [*prompt, *said]


def _from_openai(row: OpenAiRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    prompt = read_messages(row.input.messages, "$.input.messages", "FT-PREF-001")
    better = read_messages(row.preferred_output, "$.preferred_output", "FT-PREF-001")
    worse = read_messages(row.non_preferred_output, "$.non_preferred_output", "FT-PREF-001")
    return _compare(row, [*prompt, *better], [*prompt, *worse], place, policy)


def _from_rejected_response(
    row: RejectedResponseRow, _raw: object, place: Place, policy: ReadPolicy
) -> PreferenceRecord:
    better = read_messages(row.messages, "$.messages", "FT-PREF-001")
    worse = [*better[:-1], Said("assistant", row.rejected_response, "$.rejected_response")]
    return _compare(row, better, worse, place, policy)


def _from_rejected_messages(
    row: RejectedMessagesRow, _raw: object, place: Place, policy: ReadPolicy
) -> PreferenceRecord:
    better = read_messages(row.messages, "$.messages", "FT-PREF-001")
    worse = _end(better[:-1], row.rejected_messages, "$.rejected_messages")
    return _compare(row, better, worse, place, policy)


def _from_hh(row: HhRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    better, worse = _read_hh(row.prompt, row.chosen, "$.chosen"), _read_hh(row.prompt, row.rejected, "$.rejected")
    return _compare(row, better, worse, place, policy)


_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def _read_hh(prompt: str | None, text: str, path: str) -> list[Said]:
    """Return the messages of a dialogue in one text; `prompt` is its beginning where the text does not repeat it."""
    whole = text if _HH_TURN.match(text) else f"{prompt or ''}{text}"
    before, *parts = _HH_TURN.split(whole)
    if before.strip() or not parts:
        raise RowError("FT-PREF-001", path, "the text does not begin with `Human:`")
    said: list[Said] = []
    for role, words in zip(parts[::2], parts[1::2], strict=True):
        said.append(Said("user" if role == "Human" else "assistant", words.strip(), path))
    return said


def _is_hh(value: Any) -> bool:
    """True if the first text of a row is a dialogue with the labels of Anthropic's data."""
    if not isinstance(value, dict):
        return False
    row = cast("dict[str, object]", value)
    texts = [row.get(key) for key in ("prompt", "chosen", "rejected") if row.get(key) is not None]
    if not texts or not all(isinstance(text, str) for text in texts):
        return False
    return str(texts[0]).lstrip().startswith("Human:") and "\n\nAssistant:" in str(texts[0])


def _compare(
    row: ScoredRow, better: Sequence[Said], worse: Sequence[Said], place: Place, policy: ReadPolicy
) -> PreferenceRecord:
    """Return the record of two dialogues that differ in the last answer alone."""
    chosen, rejected = split_turns(better, "$.chosen"), split_turns(worse, "$.rejected")
    _refuse_divergence(better, worse)
    pair = AnswerPair(
        paths=(chosen.question.path, chosen.answer.path, rejected.answer.path),
        question=chosen.question.text,
        chosen=_with_reasoning(chosen.answer),
        rejected=_with_reasoning(rejected.answer),
        scores=_find_scores(row),
        system=chosen.system,
        history=chosen.history,
        history_paths=chosen.history_paths,
    )
    return _build_scored(row, pair, place, policy)


def _refuse_divergence(better: Sequence[Said], worse: Sequence[Said]) -> None:
    """Refuse two dialogues that differ before their last answers (RowError FT-PREF-010)."""
    for ours, theirs in zip(better[:-1], worse[:-1], strict=False):
        if ours.text.strip() != theirs.text.strip():
            reason = f"`{ours.path}` and `{theirs.path}` differ, and only the last answers may"
            raise RowError("FT-PREF-010", theirs.path, f"{reason}: {_short(ours.text)} and {_short(theirs.text)}")
    if len(better) != len(worse):
        longer = max((better, worse), key=len)[min(len(better), len(worse))]
        reason = f"chosen is a dialogue of {len(better)} messages, rejected one of {len(worse)}"
        raise RowError("FT-PREF-010", longer.path, reason)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _with_reasoning(answer: Said) -> str:
    """Return the text of an answer with its reasoning in tags, as training reads it."""
    reasoning = (answer.reasoning or "").strip()
    if not reasoning:
        return answer.text
    inside, text = split_thinking(answer.text, "", answer.path) if "<" in answer.text else ("", answer.text)
    if inside and inside != reasoning:
        reason = "reasoning is both in tags and in its own field, and the two differ"
        raise RowError("FT-PREF-011", answer.reasoning_path, reason)
    return f"<think>\n{reasoning}\n</think>\n\n{text}"


def _one_for_each(key: str) -> Callable[[Any], Iterator[tuple[str, object]]]:
    """Return the function that makes one row of each rejected answer, where they are a list under this key."""

    def parts(value: Any) -> Iterator[tuple[str, object]]:
        row = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        answers = row.get(key)
        if not isinstance(answers, list):
            yield "$", value
            return
        if not answers:
            raise RowError("FT-PREF-001", f"$.{key}", "found an empty list, expected text")
        for n, answer in enumerate(cast("list[object]", answers)):
            own_id = {"id": f"{row['id']}-{n + 1}"} if n and row.get("id") is not None else {}
            yield "$", {**row, key: answer, **own_id}

    return parts


def _has(key: str) -> Callable[[Any], bool]:
    """Return the test that a row has a value under this key: a null is none."""
    return lambda value: isinstance(value, dict) and cast("dict[str, object]", value).get(key) is not None


def _has_rejected_alone(value: Any) -> bool:
    """True if a row has a rejected answer, and no `chosen` next to it."""
    return _has("rejected")(value) and not _has("chosen")(value)


def _has_open_turns(value: Any) -> bool:
    """True if the dialogue under `messages` does not end with an answer: UltraFeedback repeats the chosen one there."""
    messages: Any = cast("dict[str, Any]", value).get("messages") if isinstance(value, dict) else None
    last: Any = cast("list[object]", messages)[-1] if isinstance(messages, list) and messages else None
    return not (isinstance(last, dict) and cast("dict[str, object]", last).get("role") == "assistant")


def _has_two_outputs(value: Any) -> bool:
    """True if `output` is a list of two texts, and no text."""
    output: Any = cast("dict[str, Any]", value).get("output") if isinstance(value, dict) else None
    return isinstance(output, list) and [type(one) for one in cast("list[object]", output)] == [str, str]


def _from_ddr(row: DdrRow, raw: _RawDdr | None, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    pair = AnswerPair(
        paths=("$.query", "$.chosen.text", "$.rejected.text"),
        question=row.query,
        chosen=row.chosen.text,
        rejected=row.rejected.text,
        scores=_ddr_scores(row.chosen, row.rejected, raw),
        context=row.retrieval_result,
        context_path="$.retrieval_result[]",
        system=row.system,
        # DDR's own numeric `id` is a line number: two files use the same ones for different questions.
        record_id=stated_id(row.id, place) if isinstance(row.id, str) else "",
        group=content_id("chunk", row.chunk.strip()) if row.chunk and row.chunk.strip() else "",
    )
    return _build(row, pair, place, policy)


def _from_rag_ddr(row: RagDdrRow, raw: _RawDdr | None, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    better, worse = row.chosen, row.rejected
    if isinstance(better, str) or isinstance(worse, str):
        if (better, worse) in (("YES", "NO"), ("NO", "YES")):
            raise RowError("FT-PREF-009", "$.chosen", f"found {better} on a passage, expected an answer")
        path = "$.chosen" if isinstance(better, str) else "$.rejected"
        raise RowError("FT-PREF-001", path, "found text, expected an object")
    pair = AnswerPair(
        paths=("$.question", "$.chosen.text", "$.rejected.text"),
        question=row.question,
        chosen=better.text,
        rejected=worse.text,
        scores=_ddr_scores(better, worse, raw),
        context=[passage.segment for passage in (row.rerank_passage or row.passage)[:AUGMENTED]],
        context_path="$.rerank_passage[]" if row.rerank_passage else "$.passage[]",
        system=row.system,
        record_id=stated_id(row.id, place) if isinstance(row.id, str) else "",
    )
    return _build(row, pair, place, policy)


def _ddr_scores(better: DdrAnswer, worse: DdrAnswer, raw: _RawDdr | None) -> tuple[float | None, float | None]:
    """Return the scores of the first metric that both candidates have; RowError when they have none in common."""
    if raw is None:
        name = _first_metric(type(better), type(worse))
        scores = getattr(better, name, None), getattr(worse, name, None)
        if type(scores[0]) is float and type(scores[1]) is float:
            return scores
        raw = {"chosen": msgspec.to_builtins(better), "rejected": msgspec.to_builtins(worse)}
    chosen, rejected = _metrics(raw["chosen"]), _metrics(raw["rejected"])
    common = chosen if chosen == rejected else sorted(set(chosen) & set(rejected))
    if not common and chosen and rejected:
        reason = f"chosen has {', '.join(chosen)}, rejected has {', '.join(rejected)}"
        raise RowError("FT-PREF-006", "$.rejected", reason)
    return _score(raw, "chosen", common or chosen), _score(raw, "rejected", common or rejected)


@cache
def _first_metric(chosen: type[DdrAnswer], rejected: type[DdrAnswer]) -> str:
    """Return the field of the first metric that candidates of these shapes have in common; empty without one."""
    left, right = (
        {field.encode_name: field.name for field in msgspec.structs.fields(kind)} for kind in (chosen, rejected)
    )
    return next((left[key] for key in _metrics(left) if left[key] == right.get(key)), "")


def _metrics(candidate: Mapping[str, object]) -> list[str]:
    """Return the keys of a candidate's scores, sorted."""
    keys = [key for key in candidate if key.endswith("score") and candidate[key] is not None]
    return sorted(key for key in keys if key == "score" or key.endswith("_score")) if keys else keys


def _score(raw: _RawDdr, name: str, metrics: list[str]) -> float | None:
    if not metrics:
        return None
    score = raw[name][metrics[0]]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise RowError("FT-PREF-001", f"$.{name}.{metrics[0]}", f"found {score!r}, expected a number")
    return float(score)


def _keys(record: PreferenceRecord) -> Keys:
    question = comparison_key(record.question)
    chosen, rejected = comparison_key(record.chosen), comparison_key(record.rejected)
    around = (*record.context, record.system, *history_texts(record.history))
    # Different chosen texts are normal; the same two texts preferred both ways are not.
    pair = (chosen, rejected) if chosen < rejected else (rejected, chosen)
    return Keys(
        record.record_id,
        "$.record_id",
        0,
        hash((question, around, pair)),
        hash(chosen),
        record.question,
        record.chosen,
        record.rejected,
    )


def _to_instruction(record: PreferenceRecord) -> InstructionRecord:
    """Return the question with its chosen answer."""
    return InstructionRecord(
        record_id=record.record_id,
        question=record.question,
        context=record.context,
        system=record.system,
        history=list(record.history),
        reasoning="",
        answer=record.chosen,
        difficulty=None,
        language=record.language,
        evidence=record.evidence,
        group=record.group,
        source=record.source,
        line_no=record.line_no,
    )


PREFERENCE = Format(
    name="preference",
    record=PreferenceRecord,
    wrong_type="FT-PREF-001",
    keys=_keys,
    migrations=(add_history,),
    bridges={"instruction": _to_instruction},
    trained=True,
    dialects=(
        Dialect(
            name="ddr",
            marks=("query", "retrieval_result", "chosen", "rejected"),
            also_has=DDR_KEYS,
            row=DdrRow,
            convert=_from_ddr,
        ),
        Dialect(
            name="rag-ddr",
            marks=("question", "chosen", "rejected", "data_type"),
            extra_marks=("passage", "rerank_passage"),
            also_has=DDR_KEYS,
            row=RagDdrRow,
            convert=_from_rag_ddr,
        ),
        Dialect(
            name="trl",
            marks=("chosen", "rejected"),
            extra_marks=("prompt",),
            row=TrlRow,
            convert=_from_trl,
        ),
        Dialect(
            name="preference",
            marks=("question", "chosen", "rejected"),
            extra_marks=("chosen_score", "context"),
            row=PreferenceRow,
            convert=_from_canonical,
            canonical=True,
        ),
        Dialect(
            name="anthropic-hh",
            marks=("chosen", "rejected"),
            extra_marks=("chosen", "rejected", "prompt"),
            suits=_is_hh,
            row=HhRow,
            convert=_from_hh,
        ),
        Dialect(
            name="alpaca-preference",
            marks=("instruction", "chosen", "rejected"),
            extra_marks=("input",),
            row=AlpacaPairRow,
            convert=_pair_converter("instruction", "chosen", "rejected"),
        ),
        Dialect(
            name="alpaca-rejected",
            marks=("instruction", "output", "rejected"),
            extra_marks=("input",),
            suits=_has_rejected_alone,
            row=AlpacaRejectedRow,
            convert=_pair_converter("instruction", "output", "rejected"),
        ),
        Dialect(
            name="alpaca-ranked",
            marks=("instruction", "output"),
            extra_marks=("instruction", "output", "input"),
            suits=_has_two_outputs,
            row=AlpacaRankedRow,
            convert=_from_ranked,
        ),
        Dialect(
            name="query-preference",
            marks=("query", "chosen", "rejected"),
            row=QueryPairRow,
            convert=_pair_converter("query", "chosen", "rejected"),
        ),
        Dialect(
            name="messages-preference",
            marks=("messages", "chosen", "rejected"),
            suits=_has_open_turns,
            row=TurnsRow,
            convert=_turns_converter("messages"),
        ),
        Dialect(
            name="sharegpt-preference",
            marks=("conversations", "chosen", "rejected"),
            row=ShareGptPreferenceRow,
            convert=_turns_converter("conversations"),
        ),
        Dialect(
            name="swift-query",
            marks=("query", "response", "rejected_response"),
            suits=_has("rejected_response"),
            row=SwiftPairRow,
            convert=_pair_converter("query", "response", "rejected_response"),
            parts=_one_for_each("rejected_response"),
            outer=SwiftPairsRow,
        ),
        Dialect(
            name="swift-messages",
            marks=("messages", "rejected_response"),
            suits=_has("rejected_response"),
            row=RejectedResponseRow,
            convert=_from_rejected_response,
            parts=_one_for_each("rejected_response"),
            outer=RejectedResponsesRow,
        ),
        Dialect(
            name="swift-rejected-messages",
            marks=("messages", "rejected_messages"),
            suits=_has("rejected_messages"),
            row=RejectedMessagesRow,
            convert=_from_rejected_messages,
        ),
        Dialect(
            name="openai-preference",
            marks=("input", "preferred_output", "non_preferred_output"),
            row=OpenAiRow,
            convert=_from_openai,
        ),
    ),
)
