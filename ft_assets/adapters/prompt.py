"""The one place where the RAG prompt is built: training, evaluation and serving all come here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from expectations.contracts.adapter import RagPrompt
from ft_assets.config.model import AnswerSettings
from resources.generator import ChatMessage


def prompt_of(settings: AnswerSettings) -> RagPrompt:
    """The prompt's fields out of the `answers` section."""
    return RagPrompt(system=settings.system, template=settings.prompt, separator=settings.passage_separator)


def build_messages(
    prompt: RagPrompt,
    question: str,
    passages: Sequence[str],
    system: str = "",
    history: Sequence[Mapping[str, str]] | None = None,
) -> list[ChatMessage]:
    """The chat up to the answer. Without passages the question stands alone; a row's own `system` comes first.

    `history`: earlier turns, oldest first, each with `question` and `answer`.
    """
    content = _fill(prompt.template, prompt.separator.join(passages), question) if passages else question
    said = system or prompt.system
    opening: list[ChatMessage] = [{"role": "system", "content": said}] if said else []
    for turn in history or ():
        opening.append({"role": "user", "content": turn["question"]})
        opening.append({"role": "assistant", "content": turn["answer"]})
    return [*opening, {"role": "user", "content": content}]


def _fill(template: str, passages: str, question: str) -> str:
    # not str.format, and in one pass: passages and questions hold braces of their own
    values = {"{passages}": passages, "{question}": question}
    return re.sub(r"\{passages\}|\{question\}", lambda place: values[place[0]], template)
