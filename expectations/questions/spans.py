"""Spans of a passage that can be answers: numbers with units, dates, codes, names, terms of the glossary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from expectations.questions.tokens import CJK, holds, tokens_of
from expectations.text.cleaning import sentences
from expectations.text.glossary import TermFinder

Kind = Literal["date", "number", "code", "name", "term"]
_LATIN = re.compile(rf"[^\W{CJK}]")
_LONGEST = 60  # characters
_SHORTEST_SENTENCE = 4  # tokens: a list item or a heading is no sentence to ask about


class AnswerSpan(NamedTuple):
    """A place of a passage's text that a question can ask for."""

    start: int
    end: int
    text: str
    kind: Kind


_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
)
_UNITS = (
    "bits? bytes? rounds? words? keys? blocks? octets? nibbles? digits? characters? letters? pages? parts? steps? "
    "times? points? percent seconds? minutes? hours? days? weeks? months? years? people users? items? members? "
    "functions? milliseconds? microseconds? ms KB MB GB TB KiB MiB GiB kbit Mbit Gbit Hz kHz MHz GHz km cm mm kg mg "
    "kW MW kWh volts? watts? metres? meters? grams? kilograms? litres? liters? degrees? euros? dollars? EUR USD GBP "
    "RMB CNY"
).replace(" ", "|")
_UNITS_ZH = (
    "比特 字节 位 轮 年 个月 个 月 日 天 小时 分钟 秒 毫秒 万元 亿元 元 次 条 项 倍 人 页 千米 公里 千克 公斤 米 克 "
    "摄氏度 度 伏 瓦 种 类 部 章 层 级 台 件 套 组 门"
).replace(" ", "|")
_NUMBER = r"(?<![A-Za-z0-9_.,/-])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![A-Za-z0-9_.,/-])\d+(?:\.\d+)?"
_WORD = r"[A-Z][A-Za-z0-9'’]*[a-z0-9][A-Za-z0-9'’]*(?:-[A-Za-z0-9]+)*"
_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "date",
        re.compile(
            rf"\b(?:\d{{1,2}} )?{_MONTH}(?: \d{{1,2}},)? \d{{4}}\b"
            r"|\d{4} ?年(?: ?\d{1,2} ?月(?: ?\d{1,2} ?[日号])?)?"
        ),
    ),
    (
        "code",
        re.compile(
            r"(?<![A-Za-z0-9_./-])(?:[A-Z]{2,}[A-Za-z]*(?:/[A-Z]+)?(?:[ -]\d[\w./-]*|[\w/-]*\d[\w./-]*)"
            r"|[A-Z][A-Za-z]*-?\d[A-Za-z0-9./-]*|[a-z][a-z0-9]*(?:_[a-z0-9]+)+)",
            re.ASCII,
        ),
    ),
    ("number", re.compile(rf"(?:{_NUMBER})(?: ?(?:%|％|°C|℃)|[ -](?:{_UNITS})(?![A-Za-z])| ?(?:{_UNITS_ZH}))?")),
    ("name", re.compile(rf"《[^《》\n]{{2,40}}》|(?<![A-Za-z0-9_./-]){_WORD}(?: (?:of |de |van |von )?{_WORD})*")),
    ("name", re.compile(r"(?<![A-Za-z0-9_./-])[A-Z]{2,}(?:-[A-Z]+)*(?![A-Za-z0-9_])")),
)
_LEADING = re.compile(
    r"(?:The|A|An|In|On|At|Of|For|From|With|Without|By|To|As|It|Its|This|These|That|Those|Such|Each|Every|Both|All|"
    r"When|While|Where|Which|Who|What|How|If|Since|Because|After|Before|Until|Only|Some|Most|Many|And|But|Or|Nor|So|"
    r"Although|Though|However|Then|There|Here|Instead|Also|Later|Earlier|Unlike|Like|Under|Over|Between|Because|Whether)"
    r"(?: |$)"
)
_LABEL = re.compile(r"(?:Table|Figure|Section|Chapter|Part|Step|Note|Example|Equation|Appendix)\b")


def find_spans(text: str, heading: str, terms: TermFinder | None = None) -> list[AnswerSpan]:
    """Return the spans of a text in its order; of those that overlap the one that begins first, then the longest.

    A span is at token boundaries, is not the subject of its heading, and each different answer is there once.
    """
    places = sentences(text)
    firsts = {start for start, _ in places}
    long_enough = [(start, end) for start, end in places if len(tokens_of(text[start:end])) >= _SHORTEST_SENTENCE]
    subject, seen, free = tokens_of(heading), set[tuple[str, ...]](), 0
    spans: list[AnswerSpan] = []
    for span in sorted(_candidates(text, firsts, terms), key=lambda span: (span.start, -span.end)):
        in_sentence = any(start <= span.start and span.end <= end for start, end in long_enough)
        if span.start < free or not in_sentence or not _is_whole(text, span.start, span.end):
            continue
        free = span.end
        key = tuple(tokens_of(span.text))
        if key and key not in seen and not holds(subject, key) and len(span.text) <= _LONGEST:
            seen.add(key)
            spans.append(span)
    return spans


def sentence_of(text: str, span: AnswerSpan) -> str:
    """Return the sentence that holds a span."""
    return next(text[start:end] for start, end in sentences(text) if start <= span.start and span.end <= end)


def _candidates(text: str, firsts: set[int], terms: TermFinder | None) -> Iterator[AnswerSpan]:
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.start(), match.end()
            while text[end - 1] in ".,/-'’":
                end -= 1
            while kind == "name" and (lead := _LEADING.match(text, start, end)):
                start = lead.end()
            # the first word of a sentence has a capital whatever it is
            is_common = kind == "name" and start in firsts and " " not in text[start:end] and text[start] != "《"
            if end - start < 1 or _LABEL.match(text, start) or (is_common and not text[start:end].isupper()):
                continue
            if kind in {"name", "code"} and end - start < 2:
                continue
            yield AnswerSpan(start, end, text[start:end], kind)
    for start, end in terms.places(text) if terms else ():
        yield AnswerSpan(start, end, text[start:end], "term")


def _is_whole(text: str, start: int, end: int) -> bool:
    """Return whether `text[start:end]` is not a part of a longer word or number: hash, not hashes; 0, not 0x00."""
    left = start > 0 and _LATIN.match(text[start - 1]) and _LATIN.match(text[start])
    right = end < len(text) and _LATIN.match(text[end - 1]) and _LATIN.match(text[end])
    return not (left or right)
