"""What is done to text: cleaning that keeps its meaning, keys that only compare, language by script, sentences."""

from __future__ import annotations

import re
import unicodedata

LANGUAGES = ("zh", "ja", "en", "other")

# Chinese punctuation stays: a model trained on half-width commas between Han characters would learn to write them.
_CHINESE_PUNCTUATION = "，！？：；（）～"
_FOLD = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in _CHINESE_PUNCTUATION} | {
    0x3000: " ",
    0x0B: "\n",
    0x0C: "\n",
}

_FOLDABLE = re.compile("[" + "".join(map(re.escape, map(chr, _FOLD))) + "]")
_NOT_WORD = re.compile(r"[\W_]+")
_SPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_ENDS = " .。!！?？…,，;；、"
# Markers that chat templates of the common model families give a meaning to.
_SPECIAL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|unk|pad)>", re.IGNORECASE
)

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+")
_OTHER_WORD = re.compile(r"[^\W\d_A-Za-z\u00c0-\u024f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+")
_LANGUAGE_SAMPLE = 4000

# A sentence ends at Chinese or strong punctuation, at a full stop before white space, and at a line break.
_SENTENCE_END = re.compile(r"(?:[。！？；!?…]+[”’」』》）)\"']*|\.+[”’)\"']*(?=\s|$)|\n+)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|Dr|Mr|Mrs|Ms|Prof|Fig|Eq|No|Sec|Ch|Art|al|St|approx)|\b[A-Z])\.$"
)


def clean(text: str) -> str:
    """Text as it is trained on: NFC, full-width letters, digits and symbols as ASCII, `\\n` line ends.

    Never NFKC, which turns 2⁶⁴ into 264. Chinese punctuation (，！？：；（）) stays as it is. Checks for special tokens
    and tags run on the cleaned text, because ＜think＞ becomes <think> here.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    composed = unicodedata.normalize("NFC", text)
    return composed.translate(_FOLD) if _FOLDABLE.search(composed) else composed  # translating is slow, and seldom due


def matching_key(text: str) -> str:
    """A key for finding the same text again: NFKC, casefold, letters and digits only. Never for text to train on."""
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold())


def comparison_key(text: str) -> str:
    """A key under which two texts say the same: cleaned, casefolded, white space collapsed, end punctuation dropped.

    Gentler than `matching_key`, under which `x > 0` and `x < 0`, or 2⁶⁴ and 264, would be one text: only this key may
    decide that a row is a repetition.
    """
    return _SPACE.sub(" ", clean(text).casefold()).strip(_ENDS)


def language_of(text: str) -> str:
    """`zh`, `ja`, `en` or `other`, by script: kana means Japanese, a Han character weighs as much as a Latin word."""
    sample = text[:_LANGUAGE_SAMPLE]
    kana, han = len(_KANA.findall(sample)), len(_HAN.findall(sample))
    latin, other = len(_LATIN_WORD.findall(sample)), len(_OTHER_WORD.findall(sample))
    if kana * 10 >= han + kana > 0 and kana + han >= latin:
        return "ja"
    if other > max(han, latin):
        return "other"
    if han and han >= latin:
        return "zh"
    return "en" if latin else "other"


def sentences(text: str) -> list[tuple[int, int]]:
    """Offsets [start, end) of the sentences of a Chinese or English text; white space between them belongs to none."""
    spans: list[tuple[int, int]] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if end.group().startswith(".") and _ABBREVIATION.search(text[max(start, end.start() - 12) : end.start() + 1]):
            continue
        _append_trimmed(spans, text, start, end.end())
        start = end.end()
    _append_trimmed(spans, text, start, len(text))
    return spans


def find_control_character(text: str) -> str | None:
    """The first control character other than tab and line ends, escaped; None when there is none."""
    found = _CONTROL.search(text)
    return found and ascii(found.group())[1:-1]


def find_special_token(text: str) -> str | None:
    """The first chat-template marker in a cleaned text, such as `<|im_start|>`; None when there is none."""
    found = _SPECIAL.search(text)
    return found and found.group()


def _append_trimmed(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    left, right = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    if left < right:
        spans.append((left, right))
