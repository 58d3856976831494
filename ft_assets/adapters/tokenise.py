"""Rows of a split as the token ids that are trained, so that the gates judge what the model will really see."""

# tokenizers and pyarrow are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expectations.contracts.adapter import RagPrompt
from expectations.training import IGNORED, TokenisedPair, TokenisedRow
from ft_assets.adapters.prompt import build_messages
from resources.artifacts import Artifact
from resources.generator import Message, render

Row = Mapping[str, Any]


def read_rows(splits: Artifact, part: str) -> list[dict[str, Any]]:
    """Every row of one part (train, validation, test) of a split artifact."""
    import pyarrow.parquet as pq

    return pq.read_table(splits.file(f"{part}.parquet")).to_pylist()


def where(row: Row) -> str:
    """`file:line` of a row, short enough to read, and its id."""
    return f"{Path(row['source']).name}:{row['line_no']} ({row['record_id']})"


def prompt_messages(row: Row, prompt: RagPrompt) -> list[Message]:
    """The row's chat up to the answer."""
    return build_messages(prompt, row["question"], row["context"] or [], row.get("system") or "", row.get("history"))


def answer_message(answer: str, reasoning: str | None = None) -> Message:
    """The assistant's turn. Reasoning goes into <think>: every template passes it on, few know `reasoning_content`."""
    return {"role": "assistant", "content": f"<think>\n{reasoning}\n</think>\n\n{answer}" if reasoning else answer}


def tokenise_rows(tokenizer: Any, rows: Sequence[Row], prompt: RagPrompt, thinking: str) -> list[TokenisedRow]:
    """Instruction rows. Loss falls on the completion alone; `mask_empty` spares the empty thought a template adds."""
    closing = tokenizer.encode("</think>", add_special_tokens=False)
    made: list[TokenisedRow] = []
    for row in rows:
        chat = prompt_messages(row, prompt)
        serving = render(tokenizer, chat)
        ids = render(tokenizer, [*chat, answer_message(row["answer"], row["reasoning"])], add_generation_prompt=False)
        start = len(serving)
        if thinking == "mask_empty" and not row["reasoning"]:
            start = _after(ids, closing, start)
        made.append(TokenisedRow(where=where(row), serving=serving, ids=ids, labels=[IGNORED] * start + ids[start:]))
    return made


def tokenise_pairs(tokenizer: Any, rows: Sequence[Row], prompt: RagPrompt) -> list[TokenisedPair]:
    """Preference rows, as TRL will tokenise `pair_messages` of them."""
    made: list[TokenisedPair] = []
    for row in rows:
        messages = pair_messages(row, prompt)
        chosen, rejected = (
            render(tokenizer, [*messages["prompt"], *messages[side]], add_generation_prompt=False)
            for side in ("chosen", "rejected")
        )
        serving = render(tokenizer, messages["prompt"])
        made.append(TokenisedPair(where=where(row), serving=serving, ids_chosen=chosen, ids_rejected=rejected))
    return made


def pair_messages(row: Row, prompt: RagPrompt) -> dict[str, list[Message]]:
    """Explicit conversational form: plain strings would get no chat template, and no one would notice."""
    return {
        "prompt": prompt_messages(row, prompt),
        "chosen": [answer_message(row["chosen"])],
        "rejected": [answer_message(row["rejected"])],
    }


def _after(ids: Sequence[int], closing: Sequence[int], start: int) -> int:
    """Where the answer begins behind an empty thought, or `start` where there is none."""
    width = len(closing)
    found = (n for n in range(start, len(ids) - width + 1) if list(ids[n : n + width]) == list(closing))
    return next(found, start - width) + width
