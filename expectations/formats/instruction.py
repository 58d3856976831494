"""Format `instruction`: a question with its answer, for SFT.

Dialects: Alpaca, messages, ShareGPT, TRL's prompt and completion, and the canonical form. Of a dialogue the last
answer is what is trained on; earlier turns are its history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from expectations.formats.dialect import (
    Dialect,
    Extras,
    Place,
    Policy,
    RowError,
    Turn,
    choose_language,
    content_id,
    refuse_empty,
    refuse_label,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
    tidy_all,
)
from expectations.formats.versions import VERSIONS
from expectations.text.cleaning import find_lost_number

FORMAT = "instruction"
VERSION = VERSIONS[FORMAT]


class InstructionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class CanonicalRow(Extras, kw_only=True):
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
    """(reasoning, answer) of a cleaned answer. Chat templates may have opened the tag, so a lone closing one counts.

    RowError when tags do not pair, or reasoning comes both in tags and in its own field.
    """
    if "<" not in text and "<" not in reasoning:
        return reasoning, text
    found = _OPENED.match(text)
    if found:
        inside, answer = found.group(2), text[found.end() :]
    elif (closed := _CLOSED.match(text)) and not _TAG.search(closed.group(1)):
        inside, answer = closed.group(1), text[closed.end() :]
    else:
        inside, answer = "", text
    inside, answer = inside.strip(), answer.strip()
    for part in (reasoning, inside, answer):
        if tag := _TAG.search(part):
            reason = f"{tag.group()} stands inside the text; another question and its answer may have been glued on"
            raise RowError("FT-INST-004", path, reason)
    if inside and reasoning and inside != reasoning:
        raise RowError("FT-INST-004", path, "reasoning comes both in tags and in its own field, and the two differ")
    return reasoning or inside, answer


def build(
    row: Extras,
    place: Place,
    policy: Policy,
    *,
    paths: tuple[str, str],
    question: str,
    answer: str,
    reasoning: str | None = None,
    context: Sequence[str] = (),
    system: str | None = None,
    history: Sequence[Turn] = (),
    history_path: str = "$.history",
    difficulty: str | None = None,
    record_id: str | None = None,
) -> InstructionRecord:
    """The rules that hold for every dialect; `paths` are the JSON paths of the question and the answer."""
    asked = tidy(question, paths[0], place)
    refuse_empty("FT-INST-002", paths[0], asked)
    said = tidy(answer, paths[1], place)
    thought_before = tidy(reasoning, "$.reasoning_content" if reasoning else paths[1], place)
    try:
        thought, answered = split_thinking(said, thought_before, paths[1])
    except RowError as error:
        raise RowError(error.code, error.path, error.reason, question=asked, answer=said) from error
    refuse_empty("FT-INST-003", paths[1], answered)
    if policy.thinking == "require" and not thought:
        raise RowError("FT-INST-005", paths[1], "found no reasoning, and the policy is `require`")
    if lost := find_lost_number(answered):
        raise RowError("FT-INST-009", paths[1], f"the answer begins with {lost!r}: what stood before it is gone")
    refuse_label(paths[0], asked)
    refuse_label(paths[1], answered)
    given = tidy_all(context, "$.context", place)
    instructed = tidy(system, "$.system", place)
    turns = [_earlier(turn, f"{history_path}[{n}]", place) for n, turn in enumerate(history)]
    if not place.plain:
        past = "\n".join(f"{turn.question}\n{turn.answer}" for turn in turns)
        texts = {paths[0][2:]: asked, paths[1][2:]: f"{thought}\n{answered}", "context": "\n".join(given)}
        refuse_special_tokens("FT-INST-006", place, **texts, system=instructed, history=past)
        refuse_residue(place, **{paths[0][2:]: asked, paths[1][2:]: answered})
        refuse_residue(place, **{f"context[{n}]": text for n, text in enumerate(given)})
    # The id is made before the policy applies: changing the policy moves no row to another split.
    parts = [asked, given, instructed, thought, answered, *([msgspec.json.encode(turns).decode()] if turns else [])]
    name = stated_id(record_id or row.id, place) or content_id(FORMAT, *parts)
    if policy.traditional != "keep":
        asked, answered, thought, instructed = (
            simplified(text, policy) for text in (asked, answered, thought, instructed)
        )
        given = [simplified(text, policy) for text in given]
        turns = [Turn(simplified(turn.question, policy), simplified(turn.answer, policy)) for turn in turns]
    return InstructionRecord(
        record_id=name,
        question=asked,
        context=given,
        system=instructed,
        history=turns,
        reasoning="" if policy.thinking == "strip" else thought,
        answer=answered,
        difficulty=tidy(difficulty, "$.difficulty", place) or None,
        language=choose_language(row.language, asked),
        evidence=row.evidence or [],
        group=tidy(row.group, "$.group", place),
        source=place.source,
        line_no=place.line,
    )


def _earlier(turn: Turn, path: str, place: Place) -> Turn:
    """An earlier turn, cleaned and without its reasoning, as chat templates give it."""
    question = tidy(turn.question, path, place)
    refuse_empty("FT-INST-002", path, question)
    answer = split_thinking(tidy(turn.answer, path, place), "", path)[1]
    refuse_empty("FT-INST-003", path, answer)
    return Turn(question, answer)


class Dialogue(msgspec.Struct, frozen=True):
    """A conversation taken apart; `paths` are those of its last question and answer."""

    system: str | None
    history: list[Turn]
    question: str
    answer: str
    reasoning: str | None
    paths: tuple[str, str]


def take_apart(messages: Sequence[Message], path: str, field: str = "content") -> Dialogue:
    """Messages in order: an optional system text, then user and assistant in turn. RowError (FT-INST-008) if not."""
    roles = [_ROLES.get(message.role, message.role) for message in messages]
    first = int(roles[:1] == ["system"])
    turns = len(roles) - first
    if turns < 2 or roles[first:] != ["user", "assistant"] * (turns // 2):
        shown = ", ".join(roles[:8]) + (" …" if len(roles) > 8 else "")
        raise RowError("FT-INST-008", path, f"found the roles {shown or 'none'}")
    pairs = list(zip(messages[first::2], messages[first + 1 :: 2], strict=True))
    last = len(messages) - 1
    return Dialogue(
        system=messages[0].content if first else None,
        history=[Turn(asked.content, said.content) for asked, said in pairs[:-1]],
        question=pairs[-1][0].content,
        answer=pairs[-1][1].content,
        reasoning=pairs[-1][1].reasoning_content,
        paths=(f"{path}[{last - 1}].{field}", f"{path}[{last}].{field}"),
    )


def build_dialogue(
    row: Extras, dialogue: Dialogue, place: Place, policy: Policy, *, system: str | None, difficulty: str | None
) -> InstructionRecord:
    """The record of a dialogue: its last answer, with what was said before as history."""
    return build(
        row,
        place,
        policy,
        paths=dialogue.paths,
        question=dialogue.question,
        answer=dialogue.answer,
        reasoning=dialogue.reasoning,
        system=dialogue.system or system,
        history=dialogue.history,
        history_path=dialogue.paths[0].partition("[")[0],
        difficulty=difficulty,
    )


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    return build(
        row,
        place,
        policy,
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


def _from_alpaca(row: AlpacaRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    return build(
        row,
        place,
        policy,
        paths=("$.instruction", "$.output"),
        question=row.instruction,
        answer=row.output,
        reasoning=row.reasoning_content,
        context=[row.input] if row.input else (),
        system=row.system,
        history=[Turn(*turn) for turn in row.history or ()],
        difficulty=row.difficulty,
    )


def _from_messages(row: MessagesRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    dialogue = take_apart(row.messages, "$.messages")
    return build_dialogue(row, dialogue, place, policy, system=None, difficulty=row.difficulty)


def _from_sharegpt(row: ShareGptRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    messages = [Message(role=turn.role, content=turn.content) for turn in row.conversations]
    dialogue = take_apart(messages, "$.conversations", "value")
    return build_dialogue(row, dialogue, place, policy, system=row.system, difficulty=row.difficulty)


def _from_completion(row: CompletionRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    if isinstance(row.prompt, str) and isinstance(row.completion, str):
        return build(
            row,
            place,
            policy,
            paths=("$.prompt", "$.completion"),
            question=row.prompt,
            answer=row.completion,
            system=row.system,
            difficulty=row.difficulty,
        )
    if isinstance(row.prompt, str) or isinstance(row.completion, str):
        raise RowError("FT-INST-001", "$.completion", "one of prompt and completion is text, the other messages")
    dialogue = take_apart([*row.prompt, *row.completion], "$.prompt+completion")
    return build_dialogue(row, dialogue, place, policy, system=row.system, difficulty=row.difficulty)


DIALECTS = (
    Dialect(
        name="alpaca",
        kind=FORMAT,
        marks=("instruction", "output"),
        row=AlpacaRow,
        convert=_from_alpaca,
    ),
    Dialect(
        name="messages",
        kind=FORMAT,
        marks=("messages",),
        row=MessagesRow,
        convert=_from_messages,
    ),
    Dialect(
        name="sharegpt",
        kind=FORMAT,
        marks=("conversations",),
        row=ShareGptRow,
        convert=_from_sharegpt,
    ),
    Dialect(
        name="prompt-completion",
        kind=FORMAT,
        marks=("prompt", "completion"),
        row=CompletionRow,
        convert=_from_completion,
    ),
    Dialect(
        name="instruction",
        kind=FORMAT,
        marks=("question", "answer"),
        tells=("record_id", "context", "system", "difficulty", "reasoning"),
        row=CanonicalRow,
        convert=_from_canonical,
        canonical=True,
    ),
)
