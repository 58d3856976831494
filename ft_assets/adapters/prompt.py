"""The one place that builds the RAG prompt, for training, evaluation and serving."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from expectations.contracts.adapter import RagPrompt
from ft_assets.config.model import AnswerSettings
from resources.text_source import ChatMessage


def prompt_of(settings: AnswerSettings) -> RagPrompt:
    """Return the fields of the `answers` section that make the prompt."""
    return RagPrompt(system=settings.system, template=settings.prompt, separator=settings.passage_separator)


def build_messages(
    prompt: RagPrompt,
    question: str,
    passages: Sequence[str],
    system: str = "",
    history: Sequence[Mapping[str, str]] | None = None,
) -> list[ChatMessage]:
    """Return the chat up to the answer. Without passages the user's message is the question alone; a row's own `system`
    replaces the configured one.

    `history`: earlier turns, oldest first, each with `question` and `answer`.
    """
    content = _fill(prompt.template, prompt.separator.join(passages), question) if passages else question
    instructions = system or prompt.system
    messages: list[ChatMessage] = [{"role": "system", "content": instructions}] if instructions else []
    for turn in history or ():
        messages.append({"role": "user", "content": turn["question"]})
        messages.append({"role": "assistant", "content": turn["answer"]})
    return [*messages, {"role": "user", "content": content}]


def _fill(template: str, passages: str, question: str) -> str:
    # in one pass and not with str.format, because passages and questions contain braces of their own
    values = {"{passages}": passages, "{question}": question}
    return re.sub(r"\{passages\}|\{question\}", lambda place: values[place[0]], template)
