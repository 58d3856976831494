"""Work on one text: cleaning that keeps the meaning, keys for comparison, the language by script, sentences."""

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
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_ENDS = " .。!！?？…,，;；、"
# Special tokens in the chat templates of the common model families.
_SPECIAL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|unk|pad)>", re.IGNORECASE
)

# Parts of a prompt template that are left in a text: an empty slot, a label of another tool's template.
_RESIDUE = re.compile(
    r"\{(?:question|query|context|answer|instruction|passages?|references?)\}|\{\{ ?\w{1,30} ?\}\}"
    r"|### (?:Instruction|Response|Input):|Below is an instruction that describes a task|<(?:用户|AI|User)>"
)
_RESIDUE_SIGNS = ("{", "###", "Below is an", "<用", "<AI", "<User")
_LABEL = re.compile(r"(?:User|Human|Assistant|用户|助手)[:：]")
_LAST_LABEL = re.compile(r"(?:^|\n)(?:Assistant|助手)[:：]$")
_LABEL_STARTS = "UHA用助"
_COLONS = ":："
# The str() of an object of a retrieval library, in the place of its text.
_PRINT = re.compile(
    r"\bscore=\S+ \w+=.{0,2000}?\b(?:payload|metadata)=\{|\b(?:page_content|node_id|id_)='"
    r"|<[\w.]+ object at 0x[0-9a-f]+>"
    r"|\b(?:Document|NodeWithScore|TextNode|ScoredPoint|PointStruct|BaseNode)\(\w+=|^(?:array|tensor|dict_values)\(",
    re.DOTALL,
)
_PRINT_SIGNS = (
    "payload={", "metadata={", "page_content=", "node_id=", "id_=", " object at 0x", "Document(", "Node(", "WithScore(",
    "Point(", "PointStruct(", "array(", "tensor(", "dict_values(",
)  # fmt: skip
# The rest of a number at the start of an answer, from which a rule for "1. answer" cut the digits: 75% -> %,
# 1,027 -> ,027.
_BEHEADED = re.compile(r"%|‰|[,，]\d{3}|\.\d|[年月日](?:\d|[，。,.]|$)")

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
# Han characters among digits and Chinese punctuation: one match finds most Chinese texts.
_ALL_CHINESE = re.compile(
    "[\\d\\s，。？！：；、（）《》“”]*[\u3400-\u4dbf\u4e00-\u9fff][\u3400-\u4dbf\u4e00-\u9fff\\d\\s，。？！：；、（）《》“”]*"
)
_LETTER = re.compile(r"[A-Za-z]")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+")
_OTHER_WORD = re.compile(r"[^\W\d_A-Za-z\u00c0-\u024f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+")
_LANGUAGE_SAMPLE = 4000

# A sentence ends at Chinese punctuation, at other strong punctuation or a full stop before white space (so not in 3.14
# or a URL), and at a line break.
_CLOSERS = "[”’」』》）)\\]\"'*_]*"
_SENTENCE_END = re.compile(
    rf"[。！？][。！？!?…]*{_CLOSERS}"
    rf"|[!?…][!?….]*{_CLOSERS}(?=\s|$|[^\x00-\x7f])"
    rf"|\.+{_CLOSERS}(?=\s|$)"
    r"|\n\s*"
)
# Abbreviations inside a sentence; one of the second kind may also end it.
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|Dr|Mr|Mrs|Ms|Prof|Fig|Eq|No|Nos|Sec|Ch|Art|St|Vol|pp|Thm|Lem|Def|approx|ca)|\b[A-Z])\.$"
)
_LOOSE_ABBREVIATION = re.compile(r"\b(?:etc|al|Inc|Ltd|Co|Corp|resp|a\.m|p\.m)\.$")
_LIST_NUMBER = re.compile(r"\s*[(（]?(?:\d{1,3}|[A-Za-z]|[ivx]{1,4})\.$")
_CONTINUES = re.compile(r"[\s\"'”’)\](\[]*[a-z0-9,;]")


def clean(text: str) -> str:
    """Return text in the form for training: NFC, full-width letters, digits and symbols as ASCII, `\\n` line ends.

    Never NFKC, which turns 2⁶⁴ into 264. Chinese punctuation (，！？：；（）) is kept. Checks for special tokens
    and tags run on the cleaned text, because ＜think＞ becomes <think> here.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    composed = unicodedata.normalize("NFC", text)
    return (
        composed.translate(_FOLD) if _FOLDABLE.search(composed) else composed
    )  # translating is slow and rarely needed


def matching_key(text: str) -> str:
    """Return a key to find the same text again: NFKC, casefold, letters and digits only. Never for text to train on."""
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold())


def comparison_key(text: str) -> str:
    """Return a key that equal texts share: cleaned, casefolded, white space collapsed, end punctuation dropped.

    It keeps more than `matching_key`, with which `x > 0` and `x < 0`, or 2⁶⁴ and 264, would be one text. Only this key
    may decide that a row is a repetition.
    """
    return comparison_key_of_clean(clean(text))


def comparison_key_of_clean(text: str) -> str:
    """Return the `comparison_key` of a text that is already cleaned, as every text of a record is."""
    folded = text.casefold()
    if "  " in folded or not folded.isprintable():  # white space other than single blanks
        folded = " ".join(folded.split())
    return folded.strip(_ENDS)


def language_of(text: str) -> str:
    """Return `zh`, `ja`, `en` or `other` by script: kana means Japanese, a Han character counts as a Latin word."""
    sample = text[:_LANGUAGE_SAMPLE]
    if sample.isascii():
        return "en" if _LETTER.search(sample) else "other"
    if _ALL_CHINESE.fullmatch(sample):
        return "zh"
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
    """Return [start, end) of each sentence of a Chinese or English text; white space between them belongs to none."""
    spans: list[tuple[int, int]] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if end.group()[0] in ".…\n" and _is_no_end(text, start, end):
            continue
        _append_trimmed(spans, text, start, end.end())
        start = end.end()
    _append_trimmed(spans, text, start, len(text))
    return spans


def has_han(text: str) -> bool:
    """Return whether the text has a Chinese character (or one that Japanese borrowed)."""
    return not text.isascii() and _HAN.search(text) is not None


def has_kana(text: str) -> bool:
    """Return whether the text has a character of the Japanese syllabaries."""
    return not text.isascii() and _KANA.search(text) is not None


def _is_no_end(text: str, start: int, end: re.Match[str]) -> bool:
    """Return whether a full stop, an ellipsis or a line break is inside a sentence: e.g., Dr., 1., a wrapped line."""
    mark = end.group()
    if mark[0] == "\n":  # a wrapped line continues in lower case
        return mark.count("\n") == 1 and "a" <= text[end.end() : end.end() + 1] <= "z"
    if mark[0] == "…" or mark[1:2] == ".":
        return _CONTINUES.match(text, end.end()) is not None
    before = text[max(start, end.start() - 12) : end.start() + 1]
    if _ABBREVIATION.search(before) or (len(before) < 12 and _LIST_NUMBER.fullmatch(text, start, end.start() + 1)):
        return True
    return _LOOSE_ABBREVIATION.search(before) is not None and _CONTINUES.match(text, end.end()) is not None


def find_control_character(text: str) -> str | None:
    """Return the first control character other than tab and line ends, escaped, or None."""
    match = _CONTROL.search(text)
    return match and ascii(match.group())[1:-1]


def find_special_token(text: str) -> str | None:
    """Return the first special token of a chat template in a cleaned text, such as `<|im_start|>`, or None."""
    match = _SPECIAL.search(text)
    return match and match.group()


def find_template_residue(text: str) -> str | None:
    """Return the first slot (`{question}`) or label (`### Response:`) of a prompt template in a text, or None."""
    for sign in _RESIDUE_SIGNS:
        if sign in text:
            match = _RESIDUE.search(text)
            return match and match.group()
    return None


def find_role_label(text: str) -> str | None:
    """Return the speaker's label at the start of a text (`User: `) or at its end (`Assistant:`), or None."""
    if text[:1] in _LABEL_STARTS and (match := _LABEL.match(text)):
        return match.group()
    if text[-1:] in _COLONS and (match := _LAST_LABEL.search(text)):
        return match.group().strip()
    return None


def find_object_print(text: str) -> str | None:
    """Return the first print of a Python object (`Document(page_content=…`) in a text that should be prose, or None."""
    for sign in _PRINT_SIGNS:
        if sign in text:
            match = _PRINT.search(text)
            return match and match.group()
    return None


def find_lost_number(answer: str) -> str | None:
    """Return the start of an answer that lost its first number (`% per annum.`, `,000`), or None."""
    match = _BEHEADED.match(answer)
    return match and match.group()


def _append_trimmed(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    left, right = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    if left < right:
        spans.append((left, right))
