"""Rows of a split as the token ids that are trained, so that the gates judge what the model will really see."""

# tokenizers and pyarrow are untyped here
# pyright: basic
from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expectations.contracts.adapter import RagPrompt
from expectations.formats.instruction import split_thinking
from expectations.rules.training import Thought, TokenisedRow
from ft_assets.adapters.prompt import build_messages
from resources.artifacts import Artifact
from resources.generator import ChatMessage

Row = Mapping[str, Any]

OPENING, CLOSING = "<think>", "</think>"
_BATCH = 1024
_SIDES = ("chosen", "rejected")
_OPENED = re.compile(rf"{OPENING}\s*\Z")
_EMPTY = re.compile(rf"\s*(?:{OPENING}\s*)?{CLOSING}")


class Answer(NamedTuple):
    """One answer to a row's question: the `answer` of an instruction, `chosen` or `rejected` of a pair."""

    side: str
    reasoning: str
    text: str


def read_rows(splits: Artifact, part: str) -> list[dict[str, Any]]:
    """Every row of one part (train, validation, test) of a split artifact."""
    import pyarrow.parquet as pq

    return pq.read_table(splits.file(f"{part}.parquet")).to_pylist()


def where(row: Row) -> str:
    """`file:line` of a row, short enough to read, and its id."""
    return f"{Path(row['source']).name}:{row['line_no']} ({row['record_id']})"


def answers_of(row: Row, thinking: str) -> list[Answer]:
    """The row's answers, reasoning apart: pairs carry theirs in <think> or <thinking> tags. The policy `strip` leaves
    none. Raises RowError where tags do not pair."""
    if "chosen" in row:
        found = [Answer(side, *split_thinking(row[side], "", side)) for side in _SIDES]
    else:
        found = [Answer("answer", row["reasoning"] or "", row["answer"])]
    return [answer._replace(reasoning="") for answer in found] if thinking == "strip" else found


def prompt_messages(row: Row, prompt: RagPrompt) -> list[ChatMessage]:
    """The row's chat up to the answer."""
    return build_messages(prompt, row["question"], row["context"] or [], row.get("system") or "", row.get("history"))


def answer_message(answer: Answer) -> ChatMessage:
    """The assistant's turn. Reasoning goes into <think>: every template passes it on, few know `reasoning_content`."""
    thought = f"{OPENING}\n{answer.reasoning}\n{CLOSING}\n\n" if answer.reasoning else ""
    return {"role": "assistant", "content": f"{thought}{answer.text}"}


def opens_thought(tokenizer: Any) -> bool:
    """Whether the chat template opens a thought at the end of every prompt: the mark of a model that always thinks."""
    return bool(_OPENED.search(_render_all(tokenizer, [[{"role": "user", "content": "?"}]], prompts=True)[0]))


def tokenise(tokenizer: Any, rows: Sequence[Row], prompt: RagPrompt, thinking: str) -> list[list[TokenisedRow]]:
    """Every answer of every row, after its prompt. Loss falls on the answer alone; under the policy `mask_empty` not on
    the empty thought that a template puts before it either.

    Prompt and answer are tokenised together. Where a token would then reach over the end of the prompt (Qwen3 has one
    for the two line ends around an empty thought) the answer is tokenised on its own, as serving will generate it.
    """
    chats = [prompt_messages(row, prompt) for row in rows]
    pairs = [(n, answer) for n, row in enumerate(rows) for answer in answers_of(row, thinking)]
    served = _render_all(tokenizer, chats, prompts=True)
    whole = _render_all(tokenizer, [[*chats[n], answer_message(answer)] for n, answer in pairs], prompts=False)
    serving, ids = _encode(tokenizer, served), _encode(tokenizer, whole)
    said = [text.removeprefix(served[n]) for (n, _), text in zip(pairs, whole, strict=True)]
    starts = [len(serving[n]) for n, _ in pairs]
    thoughts: list[Thought] = [_thought(text, thinking, answer) for (_, answer), text in zip(pairs, said, strict=True)]

    fits = [ids[m][: starts[m]] == serving[n] or said[m] == whole[m] for m, (n, _) in enumerate(pairs)]
    apart = [m for m, thought in enumerate(thoughts) if thought == "masked" or not fits[m]]
    # (without loss, with loss): an empty thought that is masked goes with the prompt
    cut = {m: len(said[m]) - len(_EMPTY.sub("", said[m], 1)) if thoughts[m] == "masked" else 0 for m in apart}
    heads = _encode(tokenizer, [said[m][:chars] for m, chars in cut.items()])
    tails = _encode(tokenizer, [said[m][chars:] for m, chars in cut.items()])
    for m, head, tail in zip(apart, heads, tails, strict=True):
        ids[m] = serving[pairs[m][0]] + head + tail
        starts[m] += len(head)

    made: list[list[TokenisedRow]] = [[] for _ in rows]
    for m, (n, answer) in enumerate(pairs):
        made[n].append(
            TokenisedRow(
                where=where(rows[n]), side=answer.side, serving=serving[n], ids=ids[m], start=starts[m],
                thought=thoughts[m], joined=fits[m],
            )
        )  # fmt: skip
    return made


def _thought(completion: str, thinking: str, answer: Answer) -> Thought:
    if not _EMPTY.match(completion):
        return "full" if CLOSING in completion else "none"
    # the empty thoughts of a pair cancel out where both sides have one, and are judged where one has
    return "masked" if thinking == "mask_empty" and answer.side == "answer" else "empty"


def _render_all(tokenizer: Any, chats: Sequence[Sequence[ChatMessage]], *, prompts: bool) -> list[str]:
    """The chats by the tokenizer's template, as text; `prompts` end where the answer begins."""
    if not chats:
        return []
    return tokenizer.apply_chat_template([list(chat) for chat in chats], add_generation_prompt=prompts, tokenize=False)


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[array[int]]:
    """Token ids of texts that hold their special tokens already, many in a call: equal to one by one, and quicker.

    Arrays, because a list takes nine times the memory, and a training's rows are all held at once."""
    made: list[array[int]] = []
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        found = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        made += [array("i", ids) for ids in found["input_ids"]]
    return made
