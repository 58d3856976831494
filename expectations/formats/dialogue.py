"""Messages of a dialogue as people write them: their keys, the names of their roles, and texts in parts."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from expectations.formats.dialect import REASONING_KEYS, RowError, Turn

_ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "developer": "system",
}
_TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_MORE_OF = attrgetter("sender", *REASONING_KEYS)


class TextPart(msgspec.Struct, kw_only=True):
    """One part of a message: only texts are read."""

    type: str | None = None
    text: str | None = None


Content = str | list[str | TextPart] | None | UnsetType


class Message(msgspec.Struct, kw_only=True):
    """One message: its role is under `role` or `from`, its text under `content` or `value`."""

    role: str | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    content: Content = UNSET
    value: Content = UNSET
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class Said(NamedTuple):
    """A message that was read, not yet cleaned. The paths are JSON paths in the row."""

    role: str
    """`system`, `user` or `assistant`; another role as the file has it."""
    text: str
    path: str
    """The path of the text."""
    role_path: str = ""
    reasoning: str | None = None
    reasoning_path: str = ""


class Dialogue(NamedTuple):
    """The last question and answer of a dialogue, with the turns before as history."""

    question: Said
    answer: Said
    system: str | None
    history: list[Turn]
    history_paths: list[tuple[str, str]]
    history_reasoning: list[tuple[str, str | None]]
    """(JSON path, text) of the reasoning that each earlier answer has in a field of its own."""


def read_messages(messages: Sequence[Message], path: str, wrong_type: str) -> list[Said]:
    """Return the messages of a list; RowError (`wrong_type`) where one has no role or no text."""
    said: list[Said] = []
    for n, message in enumerate(messages):
        at, text, role = f"{path}[{n}]", message.content, _ROLES.get(message.role or "")
        # most messages are so, and the general way takes three times as long
        if role and type(text) is str and message.value is UNSET and not any(_MORE_OF(message)):
            said.append(Said(role, text, f"{at}.content", f"{at}.role"))
        else:
            said.append(read_message(message, at, wrong_type))
    return said


def read_message(message: Message, path: str, wrong_type: str) -> Said:
    """Return what a message says; RowError where it has no role or no text, or parts that are no text."""
    by_sharegpt = message.sender is not None or (message.role is None and message.value is not UNSET)
    role_key, text_key = ("from", "value") if by_sharegpt else ("role", "content")
    role = message.sender if by_sharegpt else message.role
    if role is None:
        raise RowError(wrong_type, f"{path}.{role_key}", f"the field `{role_key}` is missing")
    own, other = (message.value, message.content) if by_sharegpt else (message.content, message.value)
    if own is UNSET and other is not UNSET:
        text_key, own = {"value": "content", "content": "value"}[text_key], other
    at = f"{path}.{text_key}"
    if own is UNSET or own is None:
        reason = f"the field `{text_key}` is missing" if own is UNSET else "found null, expected text"
        raise RowError(wrong_type, at, reason)
    reasoning_path, reasoning = choose_text(message, REASONING_KEYS, path)
    name = role.strip().lower()
    return Said(_ROLES.get(name, name[:40]), _join(own, at), at, f"{path}.{role_key}", reasoning, reasoning_path)


def choose_text(row: object, keys: Sequence[str], path: str = "$") -> tuple[str, str | None]:
    """Return (JSON path, text) of the first of several keys that has one.

    RowError (FT-KEY-010) where two of them hold different texts.
    """
    chosen, text = "", None
    for key in keys:
        given: str | None = getattr(row, key)
        if not given:
            continue
        if text is not None and given.strip() != text.strip():
            raise RowError("FT-KEY-010", f"{path}.{key}", f"`{chosen}` and `{key}` hold different texts")
        if text is None:
            chosen, text = key, given
    return f"{path}.{chosen}" if chosen else "", text


def _join(content: str | list[str | TextPart], path: str) -> str:
    """Return a text, or the texts of its parts, one a line; RowError (FT-KEY-004) for a part of another kind."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for n, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
        elif part.text is not None and part.type in _TEXT_PARTS:
            texts.append(part.text)
        else:
            code = "FT-KEY-003" if "tool" in (part.type or "") else "FT-KEY-004"
            raise RowError(code, f"{path}[{n}]", f"found a part of the type `{part.type}`, only `text` is read")
    return "\n".join(texts)


def split_turns(messages: Sequence[Said], path: str) -> Dialogue:
    """Return the last question and answer of a dialogue. RowError (FT-INST-008) where the roles are out of order.

    Messages are an optional system text, then user and assistant in turn, an answer last.
    """
    if not messages:
        raise RowError("FT-INST-008", path, "found no messages, expected a user's and an assistant's")
    first = int(messages[0].role == "system")
    for n, said in enumerate(messages[first:]):
        expected = "assistant" if n % 2 else "user"
        if said.role != expected:
            raise RowError("FT-INST-008", said.role_path or path, _explain_role(messages, first + n, expected))
    if (len(messages) - first) % 2 or len(messages) == first:
        last = messages[-1]
        reason = f"message {len(messages)}, the last one, has the role `{last.role}`, expected `assistant` last"
        raise RowError("FT-INST-008", last.role_path or path, f"{reason}; {_list_roles(messages)}")
    pairs = list(zip(messages[first::2], messages[first + 1 :: 2], strict=True))
    question, answer = pairs.pop()
    return Dialogue(
        question=question,
        answer=answer,
        system=messages[0].text if first else None,
        history=[Turn(user.text, assistant.text) for user, assistant in pairs],
        history_paths=[(user.path, assistant.path) for user, assistant in pairs],
        history_reasoning=[(assistant.reasoning_path, assistant.reasoning) for _, assistant in pairs],
    )


def _explain_role(messages: Sequence[Said], n: int, expected: str) -> str:
    """Return why the role of a message is wrong: the number of the message, its role, and what was expected."""
    role = messages[n].role
    tools = "; calls and results of tools are not trained" if role in _TOOL_ROLES else ""
    also = " or `system`" if n == 0 else ""
    return f"message {n + 1} has the role `{role}`, expected `{expected}`{also}{tools}; {_list_roles(messages)}"


def _list_roles(messages: Sequence[Said]) -> str:
    """Return the roles of a dialogue for people, the first eight of them."""
    shown = ", ".join(said.role for said in messages[:8])
    return f"the roles are {shown}{' …' if len(messages) > 8 else ''}"
