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
_STRUCTURE = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>", re.IGNORECASE)
_STRUCK_OUT = re.compile(r"<s>([^<>\n]{1,80})</s>", re.IGNORECASE)  # HTML's element of this name
_SENTENCE_STRUCK = re.compile(r"\s|.*[.!?。！？]\s*$", re.DOTALL)

# Characters that show nothing: white space, joiners, marks of order, blanks, selectors, fillers, tags.
_UNSEEN = (
    r"\s\x00-\x1f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{_UNSEEN}]+")
_STARTS_INVISIBLE = re.compile(f"[{_UNSEEN}]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
NULLS = frozenset((
    "nan", "NaN", "Nan", "NAN", "None", "null", "NULL", "Null", "N/A", "n/a", "#N/A", "<NA>", "NaT", "undefined",
    "[object Object]", "#VALUE!", "#REF!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!",
))  # fmt: skip
"""What Python, pandas, JavaScript and spreadsheets print where there is no text."""
LONGEST_NULL = max(map(len, NULLS))
# What the bytes of UTF-8 look like when they are read as CP1252 or Latin-1; each of these is in no language. A letter
# before a quotation mark or a dash is not among them: „IRMÃ“ is Portuguese.
_BYTE = r"\x80-\x9f\xa0-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MOJIBAKE = re.compile(
    r"[ÃÂÄÅ][\x80-\x9f¡-¬®-º¼-¿€‚ƒ„†‡ˆ‰Š‹ŒŽ™š›œžŸ˜]|Ã[‘’“”•–—…](?=[a-zà-ü])|Â[\xa0»](?=\S)|â€|ï¿½|ï»¿|ðŸ"
    rf"|â[‚„†ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ][{_BYTE}]|(?:[ÐÑÎÏ][{_BYTE}]){{2}}|(?:[ã-ïà][{_BYTE}][{_BYTE}]){{2}}"
)
_MOJIBAKE_SIGN = re.compile("[\u00c2-\u00c5\u00ce-\u00d1\u00e0-\u00f0][^\x00-\x7f]")
_MEDIA = re.compile(r"<(image|video|audio)>", re.IGNORECASE)
_ABOUT_MEDIA = re.compile(
    r"</(?:video|audio)>|\b(?:html5?|tags?|elements?|css|browsers?|svg|dom)\b|标签|元素", re.IGNORECASE
)

# RowParts of a prompt template that are left in a text: an empty slot, a label of another tool's template.
_SLOT = re.compile(
    r"\{(?:question|query|context|answer|instruction|passages?|references?)\}"
    r"|\{\{ ?(?:question|query|context|answer|instruction|passages?|references?|documents?|prompt|input|output|response"
    r"|history) ?\}\}"
)
_ANY_SLOT = re.compile(r"\{\{ ?\w{1,30} ?\}\}")
_TEMPLATE_LABEL = re.compile(
    r"### (?:Instruction|Response|Input):|Below is an instruction that describes a task|<(?:用户|AI|User)>"
)
_RESIDUE_SIGNS = ("{", "###", "Below is an", "<用", "<AI", "<User")
_CONTEXT_CHARS = 8  # before a slot: a template repeats them with it, two answers about code do not
# A question about code or templates may be answered with a slot, one about Markdown with a heading.
_ABOUT_SLOTS = re.compile(
    r"\b(?:prompts?|templates?|templating|placeholders?|slots?|interpolat\w*|f-?strings?|format strings?|jinja2?|helm"
    r"|vue|angular|svelte|handlebars|mustache|liquid|django|flask|ansible|terraform|langchain|llama_?index"
    r"|github actions|go templates?|go html|curly|braces?|variables?)\b|提示词|模板|模版|占位符|变量|花括号|插值",
    re.IGNORECASE,
)
_ABOUT_HEADINGS = re.compile(r"\b(?:markdown|headings?|headers?|alpaca|templates?|prompts?)\b|标题|模板", re.IGNORECASE)
_FENCED = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[^\n]*\n.*?^[ ]{0,3}\1[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)
_TICKED = re.compile(r"(?<!`)(`{1,3})(?!`)([^`\n]|`(?!\1))*?(?<!`)\1(?!`)")
# A line of code: an end or a start that prose has not, a call or an assignment, a tag that is closed, a quoted text.
_CODE_LINE = re.compile(
    r"[;{]\s*$|^\s*[}\])]+[,;]?\s*$|^(?:    |\t)|=>|->|:=|==|!=|&&|\|\||^\s*(?:def|class|import|from|return|const|let"
    r"|var|if|for|while|func|fn|public|private|static|export|echo|curl|docker|kubectl|SELECT|INSERT|UPDATE|RUN|COPY|ENV)\b.*"
    r"[({=\"'$:]|\w\(.*\)|\w ?= ?[\w\"'\[{(f]|</\w+>|^\s*<\w[^>]*>|\b[frbu]{1,2}[\"']|^\s*- [\w.]+:"
    r"|^\s*[\w.-]+: ?[\"'{]|\{%|%\}|\$\{|^\s*(?:\$|>>>|#include|//|/\*|@)|[\"'][^\"'\n]*\{\w*\}[^\"'\n]*[\"']"
)
_LABEL = re.compile(r"(?:User|Human|Assistant|用户|助手)[:：]")
_LAST_LABEL = re.compile(r"(?:^|\n)(?:Assistant|助手)[:：]$")
_LABEL_STARTS = "UHA用助"
_COLONS = ":："
# The str() of an object of a retrieval library, in the place of its text.
_PRINT = re.compile(
    r"\bscore=\S+ \w+=.{0,2000}?\b(?:payload|metadata)=\{|\b(?:page_content|node_id|id_)='"
    r"|<[\w.]+ object at 0x[0-9a-f]+>"
    r"|\b(?:Document|NodeWithScore|TextNode|ScoredPoint|PointStruct|BaseNode)\(\w+=|^dict_values\("
    r"|^array\(\[?\s*['\"{]|^array\(.{0,2000}?dtype=(?:object|'?<U)",  # of texts; one of numbers may be an answer
    re.DOTALL,
)
_PRINT_SIGNS = (
    "payload={", "metadata={", "page_content=", "node_id=", "id_=", " object at 0x", "Document(", "Node(", "WithScore(",
    "Point(", "PointStruct(", "array(", "dict_values(",
)  # fmt: skip
# The rest of a number at the start of an answer, from which a rule for "1. answer" cut the digits: 75% -> %,
# 1,027 -> ,027. A format (`%s`, `%.2f`, `%%`) is none.
_BEHEADED = re.compile(r"%(?![%A-Za-z0-9_({]|\.\d*[A-Za-z])|‰|[,，]\d{3}|\.\d|[年月日](?:\d|[，。,.]|$)")

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
# A character of these scripts says about as much as three letters of an alphabet.
_DENSE = re.compile(
    "[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7a3\U00020000-\U0003134f]"
)
# Han characters among digits and Chinese punctuation: one match finds most Chinese texts.
_ALL_CHINESE = re.compile(
    "[\\d\\s，。？！：；、（）《》“”]*[\u3400-\u4dbf\u4e00-\u9fff][\u3400-\u4dbf\u4e00-\u9fff\\d\\s，。？！：；、（）《》“”]*"
)
# ASCII, Han characters and signs that are no letters: no kana, no letter of another script.
_HAN_AND_ASCII = re.compile(
    "[\x00-\x7f\u2010-\u2027\u3001-\u3004\u3008-\u3020\u3400-\u4dbf\u4e00-\u9fff，？：；！（）～]*"
)
_SIGN = re.compile("[\u2010-\u2027\u3001-\u3004\u3008-\u3020，？：；！（）～]")
_LETTERS_ALONE = bytes(code if chr(code).isalpha() and code < 128 else 32 for code in range(256))
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
    if _HAN_AND_ASCII.fullmatch(sample):  # the same counts, in a third of the time
        kana = other = 0
        han = len(sample) - len(sample.encode("ascii", "ignore")) - len(_SIGN.findall(sample))
        latin = len(sample.encode("ascii", "replace").translate(_LETTERS_ALONE).split())
    else:
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


def text_size(text: str) -> int:
    """Return the characters of a text, where a Chinese character, a kana and a Hangul syllable count as three.

    >>> text_size("It works."), text_size("它可以用。")
    (9, 13)
    """
    return len(text) if text.isascii() else len(text) + 2 * len(_DENSE.findall(text))


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


def is_invisible(text: str) -> bool:
    """Return whether nothing of a text can be seen: it is empty, or has only blanks, joiners, marks and selectors."""
    return not text or (_STARTS_INVISIBLE.match(text) is not None and _INVISIBLE.fullmatch(text) is not None)


def find_bidi_control(text: str) -> str | None:
    """Return the first character that turns the direction of writing (U+202A to 202E, U+2066 to 2069), or None."""
    match = _BIDI.search(text)
    return match and f"U+{ord(match.group()):04X}"


def find_mojibake(text: str) -> tuple[str, str] | None:
    """Return (the word, what it should read) where UTF-8 was read as CP1252 or Latin-1 (`fÃ¤hrt`), or None.

    Code may show such a word, and a word of Portuguese or French (`NÃO`, `Âge`) is none.
    """
    if not _MOJIBAKE_SIGN.search(text):
        return None
    prose = without_code(text)
    match = _MOJIBAKE.search(prose)
    if match is None:
        return None
    start = max(prose.rfind(" ", 0, match.start()), prose.rfind("\n", 0, match.start())) + 1
    end = min(
        (place for place in (prose.find(" ", match.end()), prose.find("\n", match.end())) if place > 0), default=-1
    )
    word = prose[start:end][:60] if end > 0 else prose[start : start + 60]
    raw = b"".join(_byte_of(character) for character in word)
    return word, raw.decode("utf-8", "replace")


def _byte_of(character: str) -> bytes:
    """Return the byte that CP1252 or Latin-1 shows as this character; of another character its UTF-8."""
    for encoding in ("cp1252", "latin-1"):
        try:
            return character.encode(encoding)
        except UnicodeEncodeError:
            continue
    return character.encode("utf-8", "replace")


def without_code(text: str) -> str:
    """Return a text with its fenced blocks and what is in back-ticks as blanks, so that all places stay the same."""
    if "`" not in text and "~~~" not in text:
        return text
    return _TICKED.sub(_blank, _FENCED.sub(_blank, text))


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def _is_code_line(text: str, at: int) -> bool:
    """Return whether the line around a place looks like a line of code."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return _CODE_LINE.search(text[start : end if end >= 0 else len(text)][:2000]) is not None


def find_special_token(text: str) -> str | None:
    """Return the first special token of a chat template in a cleaned text, such as `<|im_start|>`, or None.

    In code only the tokens that no other language uses count: a tokenizer reads these as structure even there. A short
    `<s>old</s>` is HTML.
    """
    if not _SPECIAL.search(text):
        return None
    if structure := _STRUCTURE.search(text):
        return structure.group()
    prose = _STRUCK_OUT.sub(lambda match: match.group() if _frames(text, match) else _blank(match), without_code(text))
    match = _SPECIAL.search(prose)
    return match and match.group()


def _frames(text: str, struck: re.Match[str]) -> bool:
    """Return whether `<s>…</s>` is around a whole text, which is a sentence: the marks of a tokenizer, not HTML."""
    return struck.group() == text.strip() and _SENTENCE_STRUCK.match(struck[1]) is not None


def find_media_placeholder(text: str) -> str | None:
    """Return the first `<image>`, `<video>` or `<audio>` in a text that stands for a file, or None.

    Not in code, and not in a text about HTML, which has elements of two of these names.
    """
    if "<" not in text:
        return None
    for match in _MEDIA.finditer(without_code(text)):
        if match[1].lower() == "image" or not _ABOUT_MEDIA.search(text):
            return match.group()
    return None


def find_template_residue(text: str, question: str = "") -> tuple[str, str]:
    """Return (residue, repeating residue) of a prompt template in a text, each empty where there is none.

    A slot (`{question}`) or a label (`### Response:`) is residue where the text begins or ends with it, and two labels
    are anywhere. Elsewhere it may be meant: then it is residue if other rows of the file repeat it, with the text
    before it. Never in code, and not in the answer to a `question` about such things.
    """
    if not any(sign in text for sign in _RESIDUE_SIGNS):
        return "", ""
    prose = without_code(text)
    repeating = ""
    slots_count = not (question and _ABOUT_SLOTS.search(question))
    labels_count = not (question and _ABOUT_HEADINGS.search(question))
    if slots_count:
        for slot in _SLOT.finditer(prose):
            if _is_at_edge(prose, slot):
                if not _is_in_call(prose, slot):
                    return slot.group(), ""
            elif not _is_code_line(prose, slot.start()):
                repeating = repeating or prose[max(0, slot.start() - _CONTEXT_CHARS) : slot.end()]
    labels = list(_TEMPLATE_LABEL.finditer(prose)) if labels_count else []
    for label in labels:
        if _is_at_edge(prose, label) or len({match.group() for match in labels}) > 1:
            return label.group(), ""
    if labels:
        return "", labels[0].group()
    if slots_count and not repeating and (slot := _ANY_SLOT.search(prose)) and not _is_code_line(prose, slot.start()):
        repeating = prose[max(0, slot.start() - _CONTEXT_CHARS) : slot.end()]
        if len(repeating) == len(slot.group()):  # the whole text, or its start: an answer about templates is so
            repeating = ""
    return "", repeating


def _is_at_edge(text: str, match: re.Match[str]) -> bool:
    return not text[: match.start()].strip() or not text[match.end() :].strip(" \t\n?？")


def _is_in_call(text: str, match: re.Match[str]) -> bool:
    """Return whether the slot at the edge of a text belongs to a longer line of code."""
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    return len(text.strip()) > len(match.group()) and bool(line.strip()) and _CODE_LINE.search(line) is not None


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
