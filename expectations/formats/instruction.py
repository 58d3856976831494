"""Format `instruction`: a question with its answer, for SFT.

Dialects: Alpaca, messages, ShareGPT, TRL's prompt and completion, RAGAS's samples, two columns under the names that
people use, and the canonical form. Of a dialogue the last answer is what is trained on; earlier turns are its history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from expectations.formats.build import (
    choose_language,
    content_id,
    history_json,
    paths_of,
    paths_of_turns,
    refuse,
    refuse_empty,
    refuse_label,
    refuse_media,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
    tidy_all,
    tidy_required,
)
from expectations.formats.dialect import (
    PASSAGE_KEYS,
    REASONING_KEYS,
    SYSTEM_KEYS,
    Dialect,
    Format,
    Keys,
    Place,
    ReadPolicy,
    Record,
    RowError,
    TrainingExtras,
    Turn,
    rename_line,
)
from expectations.formats.dialogue import (
    Dialogue,
    Message,
    Said,
    choose_text,
    read_message,
    read_messages,
    split_turns,
)
from expectations.formats.keys import history_texts, question_key
from expectations.formats.pairs import RetrievalPairRecord, pair_of
from expectations.text.cleaning import comparison_key_of_clean as comparison_key
from expectations.text.cleaning import find_lost_number


class InstructionRecord(Record, frozen=True, kw_only=True, gc=False):
    """One question and answer, as it is trained on."""

    record_id: str
    question: str
    context: list[str]
    """Texts given along with the question (Alpaca's `input`, retrieved passages)."""
    system: str
    history: list[Turn]
    """Earlier turns of the dialogue, oldest first: given to the model, not trained on."""
    reasoning: str
    """What the model thinks before it answers, without tags; empty when there is none."""
    answer: str
    difficulty: str | None
    language: str
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (a dialogue, a source text) never fall into different splits; empty when alone."""
    source: str
    line_no: int


class TrainingRow(TrainingExtras, kw_only=True):
    """Optional keys that any row of a question and an answer may have."""

    difficulty: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class InstructionRow(TrainingRow, kw_only=True):
    """The canonical form."""

    question: str
    answer: str
    record_id: str | None = None
    history: list[Turn | tuple[str, str]] | None = None


class PairRow(TrainingRow, kw_only=True):
    """One question and one answer; each dialect has its own names for the two."""

    question: str
    answer: str
    history: list[tuple[str, str]] | None = None


class AlpacaRow(PairRow, kw_only=True):
    question: str = msgspec.field(name="instruction")
    answer: str = msgspec.field(name="output")
    input: str | None = None


class RagasRow(PairRow, kw_only=True):
    """RAGAS's samples of version 1. The reference answers are not learned."""

    ground_truth: Any = None
    ground_truths: Any = None


class Ragas2Row(PairRow, kw_only=True):
    """RAGAS's samples of version 2."""

    question: str = msgspec.field(name="user_input")
    answer: str = msgspec.field(name="response")
    reference: Any = None


class O1Row(PairRow, kw_only=True):
    """Columns of data that was distilled from models that reason."""

    question: str = msgspec.field(name="Question")
    answer: str = msgspec.field(name="Response")
    complex_cot: str | None = msgspec.field(default=None, name="Complex_CoT")


class MessagesRow(TrainingRow, kw_only=True):
    messages: list[Message]


class ShareGptRow(TrainingRow, rename={"messages": "conversations"}, kw_only=True):
    messages: list[Message]


class ConversationTurn(Message, kw_only=True):
    """A message, or a question with its answer under one of two pairs of keys."""

    system: str | None = None
    input: str | None = None
    output: str | None = None
    human: str | None = None
    assistant: str | None = None


class ConversationRow(TrainingRow, kw_only=True):
    """Dialogues of Capybara, XTuner (`input`, `output`), ms-swift (`human`, `assistant`), or of messages."""

    conversation: list[ConversationTurn]


class CompletionRow(TrainingRow, kw_only=True):
    prompt: str | list[Message]
    completion: str | list[Message]
    history: list[tuple[str, str]] | None = None


class ResponseRow(TrainingRow, rename={"completion": "response"}, kw_only=True):
    """As `CompletionRow`, with another name for the answer."""

    prompt: str | list[Message]
    completion: str | list[Message]
    history: list[tuple[str, str]] | None = None


# a tag may have blanks in it, which no tokenizer and no template would see as a tag
_OPENED = re.compile(r"\s*<\s*(think|thinking)\s*>(.*?)<\s*/\s*\1\s*>", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r"(.*?)<\s*/\s*(?:think|thinking)\s*>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<\s*/?\s*(?:think|thinking)\s*>", re.IGNORECASE)


def split_thinking(text: str, reasoning: str, path: str) -> tuple[str, str]:
    """Return (reasoning, answer) of a cleaned answer. A template may have opened the tag, so a closing one is enough.

    RowError when tags do not pair, or reasoning is given both in tags and in its own field.
    """
    if "<" not in text and "<" not in reasoning:
        return reasoning, text
    if opened := _OPENED.match(text):
        inside, answer = opened.group(2), text[opened.end() :]
    elif (closed := _CLOSED.match(text)) and not _TAG.search(closed.group(1)):
        inside, answer = closed.group(1), text[closed.end() :]
    else:
        inside, answer = "", text
    inside, answer = inside.strip(), answer.strip()
    for part in (reasoning, inside, answer):
        if tag := _TAG.search(part):
            reason = f"{tag.group()} is inside the text; another question and its answer may have been added"
            raise RowError("FT-INST-004", path, reason)
    if inside and reasoning and inside != reasoning:
        raise RowError("FT-INST-004", path, "reasoning is both in tags and in its own field, and the two differ")
    return reasoning or inside, answer


class Exchange(msgspec.Struct, kw_only=True, gc=False):
    """A question and its answer as a dialect gives them, not yet cleaned."""

    paths: tuple[str, str]
    """JSON paths of the question and of the answer."""
    question: str
    answer: str
    reasoning: str | None = None
    reasoning_path: str = ""
    context: Sequence[str] = ()
    context_path: str = "$.context"
    """JSON path of the context; it ends with `[]` where it is a list."""
    system: str | None = None
    history: Sequence[Turn] = ()
    history_paths: Sequence[tuple[str, str]] = ()
    """JSON paths of the question and the answer of each earlier turn."""
    history_reasoning: Sequence[tuple[str, str | None]] = ()
    """(JSON path, text) of the reasoning of earlier answers, where they have a field for it."""
    record_id: str | None = None


def _build(row: TrainingRow, exchange: Exchange, place: Place, policy: ReadPolicy) -> InstructionRecord:
    """Return the record of an exchange; RowError when it breaks a rule.

    Where every answer is learned, the records of earlier answers go into the notes. They have the id of the last one
    with `#1`, `#2` … for the first answer, the second …, and all are one group: they stay in one split.
    """
    notes = place.notes
    if notes is None or not notes.every_turn:
        return _build_one(row, exchange, place, policy)
    turns = [*_earlier(exchange), exchange]
    learned = [(n, turn) for n, turn in enumerate(turns, 1) if notes.is_learned(turn.paths[1])]
    if not learned:
        raise RowError("FT-KEY-002", exchange.paths[1], "every answer of the dialogue is marked")
    *before, last = [_build_one(row, turn, place, policy) for _, turn in learned]
    notes.skipped += len(turns) - len(learned)
    if not before:
        return last
    group = last.group or last.record_id
    for (n, _), record in zip(learned, before, strict=False):
        notes.earlier.append(msgspec.structs.replace(record, record_id=f"{last.record_id}#{n}", group=group))
    return msgspec.structs.replace(last, group=group)


def _earlier(exchange: Exchange) -> Iterator[Exchange]:
    """Yield the earlier turns of a dialogue as exchanges. Alpaca's `input` belongs to the last question alone."""
    has_input = exchange.context_path == "$.input"
    for n, (turn, paths) in enumerate(zip(exchange.history, exchange.history_paths, strict=True)):
        reasoning_path, reasoning = exchange.history_reasoning[n] if exchange.history_reasoning else ("", None)
        yield Exchange(
            paths=paths,
            question=turn.question,
            answer=turn.answer,
            reasoning=reasoning,
            reasoning_path=reasoning_path,
            context=() if has_input else exchange.context,
            context_path=exchange.context_path,
            system=exchange.system,
            history=exchange.history[:n],
            history_paths=exchange.history_paths[:n],
            record_id=exchange.record_id,
        )


def _build_one(row: TrainingRow, exchange: Exchange, place: Place, policy: ReadPolicy) -> InstructionRecord:
    """Return the record of one answer; RowError when it breaks a rule. The rules are the same in every dialect."""
    asked_at, answered_at = exchange.paths
    question = tidy_required("FT-INST-002", exchange.question, asked_at, place)
    reasoning, answer = _split_answer(exchange, question, place, policy)
    refuse_label(asked_at, question, place)
    refuse_label(answered_at, answer, place)
    context = tidy_all(exchange.context, exchange.context_path.removesuffix("[]"), place)
    system = tidy(exchange.system, "$.system", place)
    history = [
        _tidy_turn(turn, paths, place) for turn, paths in zip(exchange.history, exchange.history_paths, strict=True)
    ]
    if not place.plain:
        learned = [(asked_at, question), (answered_at, f"{reasoning}\n{answer}")]
        past = paths_of_turns(history, exchange.history_paths)
        given = paths_of(exchange.context_path, context)
        refuse_media(past, place)
        refuse_special_tokens("FT-INST-006", [*learned, *given, ("$.system", system), *past])
        refuse_residue([(asked_at, question), (answered_at, answer), *given], place)
    # The id is computed before the policy applies: a change of the policy moves no row to another split.
    record_id = stated_id(exchange.record_id or row.id, place) or content_id(
        "instruction", question, context, system, reasoning, answer, *history_json(history)
    )
    if policy.traditional != "keep":
        question, answer, reasoning = (simplified(text, policy) for text in (question, answer, reasoning))
        context, system = simplified(context, policy), simplified(system, policy)
        history = simplified(history, policy)
    return InstructionRecord(
        record_id=record_id,
        question=question,
        context=context,
        system=system,
        history=history,
        reasoning="" if policy.thinking == "strip" else reasoning,
        answer=answer,
        difficulty=tidy(row.difficulty, "$.difficulty", place) or None,
        language=choose_language(row.language, question),
        evidence=row.evidence or [],
        group=tidy(row.group, "$.group", place),
        source=place.source,
        line_no=place.line,
    )


def _split_answer(exchange: Exchange, question: str, place: Place, policy: ReadPolicy) -> tuple[str, str]:
    """Return (reasoning, answer), cleaned; RowError when the answer is empty or cut, or the reasoning is wrong."""
    path = exchange.paths[1]
    whole = tidy(exchange.answer, path, place)
    given = tidy(exchange.reasoning, exchange.reasoning_path, place)
    try:
        reasoning, answer = split_thinking(whole, given, path)
    except RowError as error:
        raise RowError(error.code, error.path, error.reason, question=question, answer=whole) from error
    refuse_empty("FT-INST-003", path, answer)
    if policy.thinking == "require" and not reasoning:
        raise RowError("FT-INST-005", path, "found no reasoning, and the policy is `require`")
    if lost := find_lost_number(answer):
        refuse("FT-INST-009", path, f"the answer begins with {lost!r}: the text before it is missing", place)
    return reasoning, answer


def _tidy_turn(turn: Turn, paths: tuple[str, str], place: Place) -> Turn:
    """Return an earlier turn, cleaned and without its reasoning, as chat templates give it."""
    question = tidy_required("FT-INST-002", turn.question, paths[0], place)
    answer = split_thinking(tidy(turn.answer, paths[1], place), "", paths[1])[1]
    refuse_empty("FT-INST-003", paths[1], answer)
    return Turn(question, answer)


def read_dialogue(messages: Sequence[Message], path: str, wrong_type: str = "FT-INST-001") -> Dialogue:
    """Return the last question and answer of a list of messages, with the turns before as history."""
    return split_turns(read_messages(messages, path, wrong_type), path)


def _from_turns(row: TrainingRow, dialogue: Dialogue, place: Place, policy: ReadPolicy) -> InstructionRecord:
    """Return the record of a dialogue. The row's own system text counts where the messages have none."""
    question, answer = dialogue.question, dialogue.answer
    exchange = Exchange(
        paths=(question.path, answer.path),
        question=question.text,
        answer=answer.text,
        reasoning=answer.reasoning,
        reasoning_path=answer.reasoning_path,
        system=dialogue.system,
        history=dialogue.history,
        history_paths=dialogue.history_paths,
        history_reasoning=dialogue.history_reasoning,
    )
    return _build_with_extras(row, exchange, place, policy)


def _build_with_extras(row: TrainingRow, exchange: Exchange, place: Place, policy: ReadPolicy) -> InstructionRecord:
    """Return the record of an exchange together with the passages, the system text and the reasoning of its row."""
    if not any(_EXTRAS_OF(row)):  # most rows
        return _build(row, exchange, place, policy)
    if not exchange.context:
        exchange.context_path, exchange.context = find_context(row)
    exchange.system = exchange.system or row.find_system()
    if row.reasoning_content or row.reasoning or row.thinking:
        path, reasoning = choose_text(row, REASONING_KEYS)
        if exchange.reasoning and reasoning and exchange.reasoning.strip() != reasoning.strip():
            raise RowError("FT-KEY-010", path, f"this reasoning is not that of `{exchange.reasoning_path}`")
        exchange.reasoning_path, exchange.reasoning = path, reasoning
    return _build(row, exchange, place, policy)


_PASSAGES_OF = attrgetter(*PASSAGE_KEYS)
_EXTRAS_OF = attrgetter(*SYSTEM_KEYS, *REASONING_KEYS, *PASSAGE_KEYS)


def find_context(row: TrainingExtras) -> tuple[str, list[str]]:
    """Return (JSON path, texts) of the passages of a row; the path ends with `[]` where they are a list."""
    if not any(_PASSAGES_OF(row)):
        return "$.context", []
    path, texts = row.find_passages()
    return (path if isinstance(getattr(row, path[2:]), str) else f"{path}[]"), texts


def _from_canonical(row: InstructionRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    history, history_paths = read_turns(row.history)
    exchange = Exchange(
        paths=("$.question", "$.answer"),
        question=row.question,
        answer=row.answer,
        history=history,
        history_paths=history_paths,
        record_id=row.record_id,
    )
    return _build_with_extras(row, exchange, place, policy)


def _pair_converter(question: str, answer: str) -> Callable[[PairRow, Any, Place, ReadPolicy], InstructionRecord]:
    """Return the function that makes a record of a row with these names for question and answer."""
    paths = (f"$.{question}", f"$.{answer}")

    def convert(row: PairRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
        history, history_paths = read_pairs(row.history)
        exchange = Exchange(
            paths=paths, question=row.question, answer=row.answer, history=history, history_paths=history_paths
        )
        return _build_with_extras(row, exchange, place, policy)

    return convert


def read_pairs(history: Sequence[tuple[str, str]] | None) -> tuple[list[Turn], list[tuple[str, str]]]:
    """Return the turns of `history` as a list of pairs, with their JSON paths."""
    pairs = history or ()
    paths = [(f"$.history[{n}][0]", f"$.history[{n}][1]") for n in range(len(pairs))]
    return [Turn(*pair) for pair in pairs], paths


def read_turns(history: Sequence[Turn | tuple[str, str]] | None) -> tuple[list[Turn], list[tuple[str, str]]]:
    """Return the turns of a canonical `history`, whose items may also be pairs, with their JSON paths."""
    turns: list[Turn] = []
    paths: list[tuple[str, str]] = []
    for n, turn in enumerate(history or ()):
        keys = (".question", ".answer") if isinstance(turn, Turn) else ("[0]", "[1]")
        turns.append(turn if isinstance(turn, Turn) else Turn(*turn))
        paths.append((f"$.history[{n}]{keys[0]}", f"$.history[{n}]{keys[1]}"))
    return turns, paths


def _from_alpaca(row: AlpacaRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    history, history_paths = read_pairs(row.history)
    context_path, context = find_alpaca_context(row.input, row)
    exchange = Exchange(
        paths=("$.instruction", "$.output"),
        question=row.question,
        answer=row.answer,
        context=context,
        context_path=context_path,
        history=history,
        history_paths=history_paths,
    )
    return _build_with_extras(row, exchange, place, policy)


def find_alpaca_context(given: str | None, row: TrainingExtras) -> tuple[str, list[str]]:
    """Return (JSON path, texts) of Alpaca's `input` and of the row's passages."""
    path, passages = find_context(row)
    if not given:
        return path, passages
    return "$.input", [given, *(passage for passage in passages if passage != given)]


def _from_o1(row: O1Row, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    exchange = Exchange(
        paths=("$.Question", "$.Response"),
        question=row.question,
        answer=row.answer,
        reasoning=row.complex_cot,
        reasoning_path="$.Complex_CoT",
    )
    exchange.history, exchange.history_paths = read_pairs(row.history)
    return _build_with_extras(row, exchange, place, policy)


def _from_messages(row: MessagesRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    return _from_turns(row, read_dialogue(row.messages, "$.messages"), place, policy)


def _from_sharegpt(row: ShareGptRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    return _from_turns(row, read_dialogue(row.messages, "$.conversations"), place, policy)


def _from_conversation(row: ConversationRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    said: list[Said] = []
    for n, turn in enumerate(row.conversation):
        said += _read_turn(turn, f"$.conversation[{n}]")
    return _from_turns(row, split_turns(said, "$.conversation"), place, policy)


def _read_turn(turn: ConversationTurn, path: str) -> list[Said]:
    """Return what is said in one item of `conversation`: one message, or a question and its answer."""
    keys = ("human", "assistant") if turn.human is not None or turn.assistant is not None else ("input", "output")
    question: str | None = getattr(turn, keys[0])
    answer: str | None = getattr(turn, keys[1])
    if question is None and answer is None:
        return [read_message(turn, path, "FT-INST-001")]
    if question is None or answer is None:
        key = keys[0] if question is None else keys[1]
        raise RowError("FT-INST-001", f"{path}.{key}", f"the field `{key}` is missing")
    reasoning_path, reasoning = choose_text(turn, REASONING_KEYS, path)
    said = [Said("system", turn.system, f"{path}.system", path)] if turn.system else []
    return [
        *said,
        Said("user", question, f"{path}.{keys[0]}", path),
        Said("assistant", answer, f"{path}.{keys[1]}", path, reasoning, reasoning_path),
    ]


def _completion_converter(
    answer_key: str,
) -> Callable[[CompletionRow | ResponseRow, Any, Place, ReadPolicy], InstructionRecord]:
    """Return the function that makes a record of a prompt and what follows it: two texts, or two lists of messages."""

    def convert(row: CompletionRow | ResponseRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
        prompt, completion = row.prompt, row.completion
        if isinstance(prompt, str) and isinstance(completion, str):
            exchange = Exchange(paths=("$.prompt", f"$.{answer_key}"), question=prompt, answer=completion)
            exchange.history, exchange.history_paths = read_pairs(row.history)
            return _build_with_extras(row, exchange, place, policy)
        if isinstance(prompt, str) or isinstance(completion, str):
            reason = f"one of prompt and {answer_key} is text, the other messages"
            raise RowError("FT-INST-001", f"$.{answer_key}", reason)
        said = read_messages(prompt, "$.prompt", "FT-INST-001")
        said += read_messages(completion, f"$.{answer_key}", "FT-INST-001")
        return _from_turns(row, split_turns(said, f"$.{answer_key}"), place, policy)

    return convert


def _keys(record: InstructionRecord) -> Keys:
    past = history_texts(record.history)
    texts = [comparison_key(text) for text in (record.question, record.system, record.reasoning)]
    answer = hash(comparison_key(record.answer))
    return Keys(
        record.record_id,
        "$.record_id",
        hash(("instruction", *texts, answer, *record.context, *past)),
        question_key(record.question, (*record.context, *past)),
        answer,
        record.question,
        record.answer,
    )


def add_history(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of version 1 as one of version 2: `line` is `line_no`, and there are no earlier turns."""
    return rename_line(row) | {"history": []}


def _pair_dialect(question: str, answer: str, *extra_marks: str) -> Dialect[Any]:
    """Return the dialect with these names for the question and the answer."""
    fields = [("question", str, msgspec.field(name=question)), ("answer", str, msgspec.field(name=answer))]
    row = msgspec.defstruct("PairRow", fields, bases=(PairRow,), kw_only=True)
    return Dialect(
        name=f"{question}-{answer}",
        marks=(question, answer),
        extra_marks=extra_marks,
        row=row,
        convert=_pair_converter(question, answer),
    )


def _to_pair(record: InstructionRecord) -> RetrievalPairRecord:
    """Return the question with the passage it was given with; RowError where earlier turns belong to the question."""
    if record.history:
        raise RowError("FT-PAIR-003", "$", "found earlier turns: the question alone may not say what is asked")
    return pair_of(record, record.context)


INSTRUCTION = Format(
    name="instruction",
    record=InstructionRecord,
    wrong_type="FT-INST-001",
    keys=_keys,
    bridges={"retrieval_pair": _to_pair},
    migrations=(add_history,),
    also_reads=("qa",),
    trained=True,
    dialects=(
        Dialect(
            name="alpaca",
            marks=("instruction", "output"),
            extra_marks=("input",),
            row=AlpacaRow,
            convert=_from_alpaca,
        ),
        Dialect(
            name="messages",
            marks=("messages",),
            row=MessagesRow,
            convert=_from_messages,
        ),
        Dialect(
            name="sharegpt",
            marks=("conversations",),
            row=ShareGptRow,
            convert=_from_sharegpt,
        ),
        Dialect(
            name="prompt-completion",
            marks=("prompt", "completion"),
            row=CompletionRow,
            convert=_completion_converter("completion"),
        ),
        Dialect(
            name="instruction",
            marks=("question", "answer"),
            extra_marks=("record_id", "context", "system", "difficulty", "reasoning"),
            row=InstructionRow,
            convert=_from_canonical,
            canonical=True,
        ),
        Dialect(
            name="conversation",
            marks=("conversation",),
            row=ConversationRow,
            convert=_from_conversation,
        ),
        Dialect(
            name="prompt-response",
            marks=("prompt", "response"),
            row=ResponseRow,
            convert=_completion_converter("response"),
        ),
        _pair_dialect("query", "response", "system", "history"),
        _pair_dialect("instruction", "response", "context"),
        _pair_dialect("question", "response"),
        _pair_dialect("input", "output"),
        _pair_dialect("input", "target"),
        Dialect(
            name="question-response-o1",
            marks=("Question", "Complex_CoT", "Response"),
            row=O1Row,
            convert=_from_o1,
        ),
        Dialect(
            name="ragas",
            marks=("question", "answer", "contexts"),
            extra_marks=("ground_truth", "ground_truths"),
            row=RagasRow,
            convert=_pair_converter("question", "answer"),
            note="RAGAS: `answer` is learned; `ground_truth` is the reference of an evaluation and is not",
        ),
        Dialect(
            name="ragas-2",
            marks=("user_input", "response"),
            extra_marks=("retrieved_contexts", "reference"),
            row=Ragas2Row,
            convert=_pair_converter("user_input", "response"),
            note="RAGAS: `response` is learned; `reference` is the reference of an evaluation and is not",
        ),
    ),
)
