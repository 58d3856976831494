"""Rows of a split as the token ids that are trained, so that the gates judge exactly what the model will see."""

# tokenizers and pyarrow are untyped here
# pyright: basic
from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.contracts.adapter import RagPrompt
from expectations.formats.instruction import split_thinking
from expectations.rules.training import Thought, TokenisedRow
from ft_assets.adapters.prompt import build_messages
from ft_assets.adapters.rows.verdicts import side_of
from resources.artifacts import Artifact
from resources.text_source import ChatMessage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]

OPENING, CLOSING = "<think>", "</think>"
_BATCH = 1024
_SIDES = ("chosen", "rejected")
_OPENED = re.compile(rf"{OPENING}\s*\Z")
_EMPTY = re.compile(rf"\s*(?:{OPENING}\s*)?{CLOSING}")


class Answer(NamedTuple):
    """One answer to a row's question: the `answer` of an instruction, `chosen` or `rejected` of a pair, and of KTO a
    `desirable` or `undesirable` one."""

    side: str
    reasoning: str
    text: str


class _Completion(NamedTuple):
    """One answer, rendered by the chat template after the prompt of its row."""

    row: int
    """Index of the row."""
    answer: Answer
    prompt: str
    """As serving renders it."""
    conversation: str
    """Prompt and answer, rendered together."""
    thought: Thought

    @property
    def text(self) -> str:
        """The part after the prompt; the whole conversation if it does not begin with the prompt."""
        return self.conversation.removeprefix(self.prompt)

    @property
    def has_other_prompt(self) -> bool:
        """True if the template renders another prompt in front of an answer (the gate refuses such rows)."""
        return self.text == self.conversation

    def split_masked(self) -> tuple[str, str]:
        """Return the start of the text that carries no loss (empty reasoning under `mask_empty`), and the rest."""
        supervised = _EMPTY.sub("", self.text, 1) if self.thought == "masked" else self.text
        return self.text[: len(self.text) - len(supervised)], supervised


def read_rows(splits: Artifact, part: str) -> list[dict[str, Any]]:
    """Return every row of one part (train, validation, test) of a split artifact."""
    import pyarrow.parquet as pq

    return pq.read_table(splits.file(f"{part}.parquet")).to_pylist()


def where(row: Row) -> str:
    """Return `file:line` of a row, short enough to read, and its id."""
    return f"{Path(row['source']).name}:{row['line_no']} ({row['record_id']})"


def answers_of(row: Row, thinking: str) -> list[Answer]:
    """Return the row's answers with their reasoning split off; pairs and answers with a verdict have it in <think> or
    <thinking> tags. Under the policy `strip` all reasoning is dropped. Raises RowError if tags are not paired."""
    if "desirable" in row:
        answers = [Answer(side_of(row), *split_thinking(row["answer"], "", "answer"))]
    elif "chosen" in row:
        answers = [Answer(side, *split_thinking(row[side], "", side)) for side in _SIDES]
    else:
        answers = [Answer("answer", row["reasoning"] or "", row["answer"])]
    return [answer._replace(reasoning="") for answer in answers] if thinking == "strip" else answers


def gold_of(row: Row) -> str:
    """Return the right answer of a row, without reasoning; of a pair it is the chosen one."""
    return answers_of(row, "strip")[0].text


def prompt_messages(row: Row, prompt: RagPrompt) -> list[ChatMessage]:
    """Return the row's chat up to the answer."""
    return build_messages(prompt, row["question"], row["context"] or [], row.get("system") or "", row.get("history"))


def answer_message(answer: Answer) -> ChatMessage:
    """Return the assistant's turn. Reasoning is put into <think> tags, because every template passes them on and few
    know `reasoning_content`."""
    reasoning = f"{OPENING}\n{answer.reasoning}\n{CLOSING}\n\n" if answer.reasoning else ""
    return {"role": "assistant", "content": f"{reasoning}{answer.text}"}


def opens_thought(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template ends every prompt with <think>, as that of a model that always reasons does."""
    return bool(_OPENED.search(_render_all(tokenizer, [[{"role": "user", "content": "?"}]], prompts=True)[0]))


def tokenise(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], prompt: RagPrompt, thinking: str
) -> list[list[TokenisedRow]]:
    """Return for each row its answers, each as the token ids of prompt and answer.

    Only the answer carries loss. Under the policy `mask_empty`, empty reasoning (<think></think>) that the template
    puts before the answer carries no loss either.

    Prompt and answer are tokenised together. If a token would then cross the end of the prompt (Qwen3 has one for the
    two line ends between empty <think> tags), the answer is tokenised alone, as serving will generate it.
    """
    chats = [prompt_messages(row, prompt) for row in rows]
    prompts = _render_all(tokenizer, chats, prompts=True)
    completions = _render_completions(tokenizer, rows, chats, prompts, thinking)

    serving = _encode(tokenizer, prompts)
    ids = _encode(tokenizer, [completion.conversation for completion in completions])
    starts = [len(serving[completion.row]) for completion in completions]
    joined = [
        completion.has_other_prompt or ids[m][: starts[m]] == serving[completion.row]
        for m, completion in enumerate(completions)
    ]

    apart = [m for m, completion in enumerate(completions) if completion.thought == "masked" or not joined[m]]
    texts = [completions[m].split_masked() for m in apart]
    masked = _encode(tokenizer, [without_loss for without_loss, _ in texts])
    supervised = _encode(tokenizer, [with_loss for _, with_loss in texts])
    for m, head, tail in zip(apart, masked, supervised, strict=True):
        ids[m] = serving[completions[m].row] + head + tail
        starts[m] += len(head)

    tokenised: list[list[TokenisedRow]] = [[] for _ in rows]
    for m, completion in enumerate(completions):
        tokenised[completion.row].append(
            TokenisedRow(
                where=where(rows[completion.row]),
                side=completion.answer.side,
                serving=serving[completion.row],
                ids=ids[m],
                start=starts[m],
                thought=completion.thought,
                joined=joined[m],
            )
        )
    return tokenised


def _render_completions(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    chats: Sequence[list[ChatMessage]],
    prompts: Sequence[str],
    thinking: str,
) -> list[_Completion]:
    """Return every answer of every row, in the order of the rows."""
    answers: list[tuple[int, Answer]] = []
    for n, row in enumerate(rows):
        answers += [(n, answer) for answer in answers_of(row, thinking)]
    full_chats = [[*chats[n], answer_message(answer)] for n, answer in answers]
    conversations = _render_all(tokenizer, full_chats, prompts=False)
    completions: list[_Completion] = []
    for (n, answer), conversation in zip(answers, conversations, strict=True):
        thought = _thought(conversation.removeprefix(prompts[n]), thinking, answer)
        completions.append(_Completion(n, answer, prompts[n], conversation, thought))
    return completions


def _thought(completion: str, thinking: str, answer: Answer) -> Thought:
    if not _EMPTY.match(completion):
        return "full" if CLOSING in completion else "none"
    # in a pair, empty reasoning on both sides cancels out; a gate judges the pairs with only one
    return "masked" if thinking == "mask_empty" and answer.side not in _SIDES else "empty"


def _render_all(tokenizer: Any, chats: Sequence[Sequence[ChatMessage]], *, prompts: bool) -> list[str]:
    """Return the chats as text, rendered by the tokenizer's template; `prompts` end where the answer begins."""
    if not chats:
        return []
    return tokenizer.apply_chat_template([list(chat) for chat in chats], add_generation_prompt=prompts, tokenize=False)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[array[int]]:
    """Return the token ids of texts that already hold their special tokens. Many texts in one call give the same ids as
    one by one, and faster.

    Arrays, because a list takes nine times the memory, and all rows of a training are in memory at once."""
    encoded: list[array[int]] = []
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        tokens = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        encoded += [array("i", ids) for ids in tokens["input_ids"]]
    return encoded
