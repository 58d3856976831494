"""Tokens of a text for exact comparison: numbers as numbers, compounds whole, Chinese by character."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?"
# a compound (SLIP-0039, 1.3, encrypt_then_mac) is one token, so that neither DES nor 0039 is found inside another word
_TOKEN = re.compile(rf"{_GROUPED}(?![\w])|[^\W_{CJK}]+(?:[-_./][^\W_{CJK}]+)*|[{CJK}]|[%％]")
_PART = re.compile(rf"{_GROUPED}|\d+(?:\.\d+)*|[^\W\d_{CJK}]+|[{CJK}]")
_NUMBER = re.compile(r"(?:0|[1-9]\d*)(?:\.\d+)?")


def fold(text: str) -> str:
    """Return a text without differences of width and case."""
    return unicodedata.normalize("NFKC", text).casefold()


def as_number(token: str) -> str:
    """Return a number without separators and ending zeros (`65,536` -> `65536`, `1.50` -> `1.5`), another token as it
    is. What begins with a zero (`0039`) is a code."""
    plain = token.replace(",", "")
    if not _NUMBER.fullmatch(plain):
        return token
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a text in order.

    >>> tokens_of("AES-128 takes 65,536 比特")
    ['aes-128', 'takes', '65536', '比', '特']
    """
    return [as_number(token) for token in _TOKEN.findall(fold(text))]


def parts_of(text: str) -> list[str]:
    """Return the tokens of a text with compounds taken apart: `AES-128`, `AES128` -> `aes`, `128`."""
    return [as_number(part) for part in _PART.findall(fold(text))]


def numbers_of(text: str) -> list[str]:
    """Return the numbers of a text in order, also those inside compounds; a version (`1.3`) is one of them."""
    return [part for part in parts_of(text) if part[0].isdecimal()]


def written_words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a text as they are written, each with True where it begins a sentence."""
    first = True
    for word in re.finditer(
        rf"[^\W_{CJK}]+(?:[.,]\d+)*|[{CJK}]|[.!?:;。！？：；]", unicodedata.normalize("NFKC", text)
    ):
        if word.group() in ".!?:;。！？：；":
            first = True
            continue
        yield word.group(), first
        first = False


def holds(text: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether the tokens `wanted` are in `text` one after another. No token is in no text."""
    if not wanted:
        return False
    size = len(wanted)
    return any(list(text[n : n + size]) == list(wanted) for n in range(len(text) - size + 1) if text[n] == wanted[0])
