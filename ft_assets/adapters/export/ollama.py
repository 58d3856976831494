"""A Modelfile for Ollama, which needs the chat template in Go's template language.

The template of the tokenizer is taken apart by rendering it with placeholders. The parts are put together again and
compared with what the tokenizer renders: if they differ, the chat cannot be written this way and no Modelfile is made.
"""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expectations.contracts.fingerprint import stop_tokens
from resources.text_source import ChatMessage

MODELFILE = "Modelfile"
_ROLES = ("system", "user", "assistant")
# no template trims or changes them
_PLACES = {role: f"<<{role}-text-0>>" for role in _ROLES}
_MOST_CONTEXT = 8192


class ChatParts(NamedTuple):
    """The text before and after a message of each role, and the text that begins an answer."""

    before: dict[str, str]
    after: dict[str, str]
    answer: str
    system: str
    """The system message of a chat that has none of its own; empty if the template adds none."""

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """Return the chat up to the answer, as Ollama will render it."""
        chat = list(messages)
        if self.system and (not chat or chat[0]["role"] != "system"):
            chat = [{"role": "system", "content": self.system}, *chat]
        return "".join(self.before[m["role"]] + m["content"] + self.after[m["role"]] for m in chat) + self.answer


def split_template(tokenizer: Any) -> ChatParts | None:
    """Return the parts of the tokenizer's chat template, or None if a chat is not the sum of its messages."""
    parts = _guess(tokenizer)
    return parts if parts and all(parts.render(chat) == _render(tokenizer, chat, True) for chat in _PROBES) else None


def write_modelfile(model: Path, gguf: str, system: str) -> str | None:
    """Return the Modelfile of a merged model that was converted to the file `gguf`. None: the chat template cannot be
    written for Ollama.

    `system`: the system message of the training. Answers are greedy, as in the evaluations.
    """
    from transformers import AutoConfig, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    config: Any = AutoConfig.from_pretrained(model, trust_remote_code=False)
    stops = [tokenizer.convert_ids_to_tokens(token) for token in stop_tokens(model)]
    parts = split_template(tokenizer)
    if parts is None or '"""' in f"{parts}{system}":
        return None
    template = "{{ range .Messages }}" + "".join(
        f'{{{{ {"if" if role == "system" else "else if"} eq .Role "{role}" }}}}'
        f"{_escape(parts.before[role])}{{{{ .Content }}}}{_escape(parts.after[role])}"
        for role in _ROLES
    )
    lines = [
        f"FROM ./{gguf}",
        f'TEMPLATE """{template}{{{{ end }}}}{{{{ end }}}}{_escape(parts.answer)}"""',
        *([f'SYSTEM """{system or parts.system}"""'] if system or parts.system else []),
        *(f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in stops),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(config.max_position_embeddings, _MOST_CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"


_PROBES: list[list[ChatMessage]] = [
    [{"role": "user", "content": "a question"}],
    [{"role": "system", "content": "a rule"}, {"role": "user", "content": "a question"}],
    [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "an answer"},
        {"role": "user", "content": "second\n\nwith lines"},
    ],
    [
        {"role": "system", "content": "规则"},
        {"role": "user", "content": "问题"},
        {"role": "assistant", "content": "回答"},
        {"role": "user", "content": "另一个问题"},
    ],
]


def _guess(tokenizer: Any) -> ChatParts | None:
    chat: list[ChatMessage] = [{"role": role, "content": place} for role, place in _PLACES.items()]
    chat.append({"role": "user", "content": "<<last>>"})
    try:
        whole, open_ended = (_render(tokenizer, chat, answering) for answering in (False, True))
        alone = _render(tokenizer, [chat[1]], False)
    except Exception:  # a template raises whatever it likes at a role that it does not know
        return None
    pieces = _cut(whole, [*_PLACES.values(), "<<last>>"])
    if pieces is None or not open_ended.startswith(whole):
        return None
    start, between_user, between_answer, between_last, end = pieces
    # most templates end every message alike; otherwise a user's message begins as all of them do
    before_user = (
        between_last.removeprefix(end)
        if between_last.startswith(end) and between_user.startswith(end)
        else _common_end(between_user, between_last)
    )
    if not (between_answer.startswith(end) and between_user.endswith(before_user)):
        return None
    before = {"system": start, "user": before_user, "assistant": between_answer.removeprefix(end)}
    after = {
        "system": between_user.removesuffix(before_user),
        "user": end,
        "assistant": between_last.removesuffix(before_user),
    }
    added = alone.partition(_PLACES["user"])[0].removesuffix(before_user)
    system = added.removeprefix(before["system"]).removesuffix(after["system"])
    return ChatParts(before, after, open_ended.removeprefix(whole), system)


def _common_end(first: str, second: str) -> str:
    """Return the longest text with which both end."""
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def _cut(text: str, places: Sequence[str]) -> list[str] | None:
    """Return the texts around the places, each of which is there once and in this order."""
    pieces: list[str] = []
    for place in places:
        piece, found, text = text.partition(place)
        if not found:
            return None
        pieces.append(piece)
    return [*pieces, text]


def _render(tokenizer: Any, chat: Sequence[ChatMessage], answering: bool) -> str:
    text: str = tokenizer.apply_chat_template(list(chat), add_generation_prompt=answering, tokenize=False)
    # a token that the tokenizer puts in front of every text is put there by Ollama too
    adds_first = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if adds_first else text


def _escape(text: str) -> str:
    """Return text for a Go template, in which two braces begin an action."""
    return text.replace("{{", '{{ "{{" }}')
