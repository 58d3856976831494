"""Format `instruction`: a question with its answer, for SFT.

Dialects: Alpaca, messages, ShareGPT, TRL's prompt and completion, and the canonical form. Of a dialogue the last
answer is what is trained on; earlier turns are its history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from expectations.formats.build import (
    choose_language,
    content_id,
    history_json,
    numbered,
    refuse_empty,
    refuse_label,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    texts_around,
    tidy,
    tidy_all,
    tidy_required,
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
    Turn,
    rename_line,
)
from expectations.formats.keys import history_texts, question_key
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


class InstructionRow(Extras, kw_only=True):
    """The canonical form."""

    question: str
    answer: str
    record_id: str | None = None
    context: list[str] | None = None
    system: str | None = None
    history: list[Turn] | None = None
    reasoning: str | None = None
    difficulty: str | None = None


class AlpacaRow(Extras, kw_only=True):
    instruction: str
    output: str
    input: str | None = None
    system: str | None = None
    difficulty: str | None = None
    history: list[tuple[str, str]] | None = None
    reasoning_content: str | None = None


class Message(msgspec.Struct, kw_only=True):
    role: str
    content: str
    reasoning_content: str | None = None


class MessagesRow(Extras, kw_only=True):
    messages: list[Message]
    difficulty: str | None = None


class ShareGptTurn(msgspec.Struct, rename={"role": "from", "content": "value"}, kw_only=True):
    role: str
    content: str


class ShareGptRow(Extras, kw_only=True):
    conversations: list[ShareGptTurn]
    system: str | None = None
    difficulty: str | None = None


class CompletionRow(Extras, kw_only=True):
    prompt: str | list[Message]
    completion: str | list[Message]
    system: str | None = None
    difficulty: str | None = None


_OPENED = re.compile(r"\s*<(think|thinking)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r"(.*?)</(?:think|thinking)>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|thinking)>", re.IGNORECASE)
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}


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
    context: Sequence[str] = ()
    system: str | None = None
    history: Sequence[Turn] = ()
    history_path: str = "$.history"
    difficulty: str | None = None
    record_id: str | None = None


def _build(row: Extras, exchange: Exchange, place: Place, policy: ReadPolicy) -> InstructionRecord:
    """Return the record of an exchange; RowError when it breaks a rule. The rules are the same in every dialect."""
    asked_at, answered_at = exchange.paths
    question = tidy_required("FT-INST-002", exchange.question, asked_at, place)
    reasoning, answer = _split_answer(exchange, question, place, policy)
    refuse_label(asked_at, question)
    refuse_label(answered_at, answer)
    context = tidy_all(exchange.context, "$.context", place)
    system = tidy(exchange.system, "$.system", place)
    history = [_tidy_turn(turn, f"{exchange.history_path}[{n}]", place) for n, turn in enumerate(exchange.history)]
    if not place.plain:
        learned = [(asked_at, question), (answered_at, f"{reasoning}\n{answer}")]
        refuse_special_tokens("FT-INST-006", [*learned, *texts_around(context, system, history)])
        refuse_residue([(asked_at, question), (answered_at, answer), *numbered("$.context", context)])
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
        difficulty=tidy(exchange.difficulty, "$.difficulty", place) or None,
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
    given = tidy(exchange.reasoning, "$.reasoning_content" if exchange.reasoning else path, place)
    try:
        reasoning, answer = split_thinking(whole, given, path)
    except RowError as error:
        raise RowError(error.code, error.path, error.reason, question=question, answer=whole) from error
    refuse_empty("FT-INST-003", path, answer)
    if policy.thinking == "require" and not reasoning:
        raise RowError("FT-INST-005", path, "found no reasoning, and the policy is `require`")
    if lost := find_lost_number(answer):
        raise RowError("FT-INST-009", path, f"the answer begins with {lost!r}: the text before it is missing")
    return reasoning, answer


def _tidy_turn(turn: Turn, path: str, place: Place) -> Turn:
    """Return an earlier turn, cleaned and without its reasoning, as chat templates give it."""
    question = tidy_required("FT-INST-002", turn.question, path, place)
    answer = split_thinking(tidy(turn.answer, path, place), "", path)[1]
    refuse_empty("FT-INST-003", path, answer)
    return Turn(question, answer)


def read_dialogue(messages: Sequence[Message], path: str, field: str = "content") -> Exchange:
    """Return the last question and answer of a conversation, with the turns before as history.

    Messages are an optional system text, then user and assistant in turn. RowError (FT-INST-008) if they are not.
    """
    roles = [_ROLES.get(message.role, message.role) for message in messages]
    first = int(roles[:1] == ["system"])
    turns = len(roles) - first
    if turns < 2 or roles[first:] != ["user", "assistant"] * (turns // 2):
        shown = ", ".join(roles[:8]) + (" …" if len(roles) > 8 else "")
        raise RowError("FT-INST-008", path, f"found the roles {shown or 'none'}")
    pairs = list(zip(messages[first::2], messages[first + 1 :: 2], strict=True))
    last = len(messages) - 1
    user, assistant = pairs[-1]
    return Exchange(
        paths=(f"{path}[{last - 1}].{field}", f"{path}[{last}].{field}"),
        question=user.content,
        answer=assistant.content,
        reasoning=assistant.reasoning_content,
        system=messages[0].content if first else None,
        history=[Turn(user.content, assistant.content) for user, assistant in pairs[:-1]],
        history_path=path,
    )


def _build_dialogue(
    row: MessagesRow | ShareGptRow | CompletionRow,
    dialogue: Exchange,
    place: Place,
    policy: ReadPolicy,
    system: str | None = None,
) -> InstructionRecord:
    """Return the record of a dialogue. The row's own system text counts where the messages have none."""
    dialogue.system = dialogue.system or system
    dialogue.difficulty = row.difficulty
    return _build(row, dialogue, place, policy)


def _from_canonical(row: InstructionRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    exchange = Exchange(
        paths=("$.question", "$.answer"),
        question=row.question,
        answer=row.answer,
        reasoning=row.reasoning,
        context=row.context or (),
        system=row.system,
        history=row.history or (),
        difficulty=row.difficulty,
        record_id=row.record_id,
    )
    return _build(row, exchange, place, policy)


def _from_alpaca(row: AlpacaRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    exchange = Exchange(
        paths=("$.instruction", "$.output"),
        question=row.instruction,
        answer=row.output,
        reasoning=row.reasoning_content,
        context=[row.input] if row.input else (),
        system=row.system,
        history=[Turn(*turn) for turn in row.history or ()],
        difficulty=row.difficulty,
    )
    return _build(row, exchange, place, policy)


def _from_messages(row: MessagesRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    return _build_dialogue(row, read_dialogue(row.messages, "$.messages"), place, policy)


def _from_sharegpt(row: ShareGptRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    messages = [Message(role=turn.role, content=turn.content) for turn in row.conversations]
    return _build_dialogue(row, read_dialogue(messages, "$.conversations", "value"), place, policy, row.system)


def _from_completion(row: CompletionRow, _raw: object, place: Place, policy: ReadPolicy) -> InstructionRecord:
    if isinstance(row.prompt, str) and isinstance(row.completion, str):
        exchange = Exchange(
            paths=("$.prompt", "$.completion"),
            question=row.prompt,
            answer=row.completion,
            system=row.system,
            difficulty=row.difficulty,
        )
        return _build(row, exchange, place, policy)
    if isinstance(row.prompt, str) or isinstance(row.completion, str):
        raise RowError("FT-INST-001", "$.completion", "one of prompt and completion is text, the other messages")
    dialogue = read_dialogue([*row.prompt, *row.completion], "$.prompt+completion")
    return _build_dialogue(row, dialogue, place, policy, row.system)


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


INSTRUCTION = Format(
    name="instruction",
    record=InstructionRecord,
    wrong_type="FT-INST-001",
    keys=_keys,
    migrations=(add_history,),
    also_reads=("qa",),
    trained=True,
    dialects=(
        Dialect(
            name="alpaca",
            marks=("instruction", "output"),
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
            convert=_from_completion,
        ),
        Dialect(
            name="instruction",
            marks=("question", "answer"),
            extra_marks=("record_id", "context", "system", "difficulty", "reasoning"),
            row=InstructionRow,
            convert=_from_canonical,
            canonical=True,
        ),
    ),
)
