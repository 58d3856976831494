"""Parse the prompts of KBAlign: the question and the references in its template, or a verification.

A row of KBAlign has the whole prompt. Question and references are taken out of it, so that training uses only this
project's template.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Dependency = Literal["short", "long"]
"""One chunk holds the answer (short), or several together (long)."""


class Prompt(msgspec.Struct, frozen=True):
    """The parts of a prompt that asks a question."""

    question: str
    references: list[str]
    dependency: Dependency | None


# Every pattern reads a character once: a prompt may be as long as a row may be.
_USER = re.compile(r"(?:User|用户)[:：]")
_ASSISTANT = re.compile(r"(?:Assistant|助手)[:：]$")
_KB_TAG = re.compile(r"<KB\d{1,9}>")
_LEAD_IN = re.compile(r"Now the question is ?[:：]|现在的?问题是 ?[:：]")
_REQUEST = re.compile(
    r"(?:Please answer this question\.|Please provide a detailed answer to the question\."
    r"|请你回答这个问题。|请直接回答，不要有多余的内容。)$"
)
_REFERENCES = re.compile(r"(?:References|参考内容)[:：]")
_ITEM = re.compile(r"^[ \t]*(?P<number>\d{1,3})\.\s", re.MULTILINE)
_LONG = re.compile(r"who has read|现在的问题是")
_SHORT = re.compile(r"who have read|现在问题是")
_MATERIAL = re.compile(r"^[ \t]*(?P<label>Reference|Question|Golden Answer|Student Response):", re.MULTILINE)
_VERIFY = re.compile(r"^[ \t]*Please generate your verification\b", re.MULTILINE)


def parse_prompt(user: str) -> Prompt:
    """Return the question and the references of a cleaned prompt; of another text, all of it is the question."""
    text = _without_roles(user)
    leads = list(_LEAD_IN.finditer(text))
    if not leads:
        return Prompt(_KB_TAG.sub("", text).strip(), [], None)
    lead = leads[-1]  # an earlier one may be a quotation in a reference
    question = text[lead.end() :]
    if request := _REQUEST.search(question):
        question = question[: request.start()]
    before = text[: lead.start()]
    given = _REFERENCES.search(before)
    dependency: Dependency | None = "long" if _LONG.search(text) else "short" if _SHORT.search(text) else None
    return Prompt(question.strip(), split_references(before[given.end() :]) if given else [], dependency)


def _without_roles(prompt: str) -> str:
    """Return a prompt without the labels of the speakers around it."""
    text = prompt.strip()
    if user := _USER.match(text):
        text = text[user.end() :]
    return _ASSISTANT.sub("", text).strip()


class Verification(msgspec.Struct, frozen=True):
    """The parts of a prompt that asks whether a student's answer is right."""

    references: list[str]
    question: str
    answer: str
    student: str


def parse_verification(user: str) -> Verification | None:
    """Return the parts of a prompt that asks for a verification; None when it asks for none.

    The references may hold such labels too: question and answer are the last ones before the student's response.
    """
    text = _without_roles(user)
    labels = list(_MATERIAL.finditer(text))
    places = {label["label"]: label for label in reversed(labels)}
    reference, student = places.get("Reference"), places.get("Student Response")
    if not reference or not student:
        return None
    before = {label["label"]: label for label in labels if reference.end() <= label.start() < student.start()}
    question, answer = before.get("Question"), before.get("Golden Answer")
    if not question or not answer or question.start() > answer.start():
        return None
    end = _VERIFY.search(text, student.end())
    return Verification(
        references=split_references(text[reference.end() : question.start()]),
        question=text[question.end() : answer.start()].strip(),
        answer=text[answer.end() : student.start()].strip(),
        student=text[student.end() : end.start() if end else len(text)].strip(),
    )


def split_references(text: str) -> list[str]:
    """Return the texts of a numbered list, `1. …\\n2. …`; a number out of order belongs to the text around it."""
    starts: list[re.Match[str]] = []
    for item in _ITEM.finditer(text):
        if int(item["number"]) == len(starts) + 1:
            starts.append(item)
    if not starts:
        return [text.strip()] if text.strip() else []
    ends = [*(start.start() for start in starts[1:]), len(text)]
    parts = [text[start.end() : end].strip() for start, end in zip(starts, ends, strict=True)]
    return [part for part in parts if part]
