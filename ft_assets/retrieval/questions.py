"""Questions as people ask them: cleaned as the questions of the data sets are, refused, or searched with a note.

Evaluation ranks questions of records, which `clean` has folded: full-width letters and digits become ASCII, Chinese
punctuation stays. A question that is served takes the same function, so that equal questions have equal vectors. It is
never NFKC: passages keep `2⁶⁴` and `ﬁ`, and a question folded further than they are would no longer match them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from expectations.text.cleaning import clean, find_control_character, is_invisible
from expectations.violations import Refused, Violation, violation

if TYPE_CHECKING:
    from ft_assets.embedding.model import HybridEncoder
    from resources.engines.protocol import TokenWeights

_SHOWN_CHARACTERS = 40
_SHOWN_PARTS = 5


class QueryTerm(NamedTuple):
    """One term of a question in one passage."""

    text: str
    query_weight: float
    passage_weight: float
    """0 where the passage does not have the term."""

    @property
    def contribution(self) -> float:
        """The part of the lexical score that comes from this term."""
        return self.query_weight * self.passage_weight


class AskedQuestion(msgspec.Struct, frozen=True):
    """A question as it is encoded, with notes on what the search cannot use of it."""

    text: str
    notes: list[str] = []


def read_questions(texts: Sequence[str], encoder: HybridEncoder, where: str) -> list[AskedQuestion]:
    """Return the questions as they are encoded. Raises Refused (FT-RET-012, FT-RET-013) with all that cannot be."""
    if problems := [problem for n, text in enumerate(texts) if (problem := _judge(text, where, n + 1, len(texts)))]:
        raise Refused(f"searching {where}", problems)
    return [_note(text, encoder) for text in texts]


def fold_question(text: str) -> str:
    """Return a question in the form of the questions that were evaluated.

    >>> fold_question(" ＡＥＳ－ＧＣＭ 的随机数？ ")
    'AES-GCM 的随机数？'
    """
    return clean(text).strip()


def _judge(text: str, where: str, number: int, count: int) -> Violation | None:
    field = "question" if count == 1 else f"question {number}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        message = f"the character {error.start + 1} is half of a character: the text was decoded wrongly or cut."
        return violation("FT-RET-013", where=where, message=message, field=field, found=found, expected="UTF-8")
    folded = fold_question(text)
    if is_invisible(folded):
        return violation("FT-RET-012", where=where, field=field, found=text, expected="a text")
    if control := find_control_character(folded):
        message = "the question holds a control character."
        return violation("FT-RET-013", where=where, message=message, field=field, found=control, expected="none")
    return None


def _note(text: str, encoder: HybridEncoder) -> AskedQuestion:
    """Return the question with what its form loses: what is beyond the model's length, what the model does not know."""
    folded, notes = fold_question(text), list[str]()
    if folded != text.strip():
        notes.append(f"searched as {_show(folded)}")
    tokenizer, rules = encoder.tokenizer, encoder.contract.texts
    has_places = bool(tokenizer.is_fast)
    tokens = tokenizer(folded, add_special_tokens=False, return_offsets_mapping=has_places, verbose=False)
    ids: list[int] = tokens["input_ids"]
    places: list[tuple[int, int]] = tokens["offset_mapping"] if has_places else []
    all_ids: list[int] = tokenizer(rules.query_prompt + folded, verbose=False)["input_ids"]
    if (total := len(all_ids)) > rules.query_max_tokens:
        read = max(0, rules.query_max_tokens - (total - len(ids)))
        rest = f": it does not see {_show(folded[places[read][0] :])}" if read < len(places) else ""
        limit = f"`embedding.query_max_tokens` is {rules.query_max_tokens}"
        notes.append(
            f"cut: the question has {total} tokens, and the model reads {rules.query_max_tokens} ({limit}){rest}"
        )
    unknown = [n for n, token in enumerate(ids) if token == tokenizer.unk_token_id]
    if unknown:
        parts = dict.fromkeys(folded[slice(*places[n])] for n in unknown[:_SHOWN_PARTS] if places)
        shown = f": {', '.join(map(_show, parts))}" if parts else ""
        notes.append(f"the model does not know {len(unknown)} of the question's {len(ids)} tokens{shown}")
    return AskedQuestion(folded, notes)


def explain_terms(query: TokenWeights, passage: TokenWeights, names: Mapping[int, str]) -> list[QueryTerm]:
    """Return the terms of a question with their weights in a passage, those that count most first.

    `names`: the text of each term of the question by its id, whatever made the weights.
    """
    in_passage = {int(term): float(weight) for term, weight in zip(*passage, strict=True)}
    terms = [
        QueryTerm(names.get(int(term), f"#{term}"), float(weight), in_passage.get(int(term), 0.0))
        for term, weight in zip(*query, strict=True)
    ]
    return sorted(terms, key=lambda term: (-term.contribution, -term.query_weight, term.text))


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")
