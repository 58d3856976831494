"""Traditional Chinese converted to Simplified by OpenCC; never Japanese, whose characters only look alike."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast

from expectations.text.cleaning import has_han, has_kana, language_of, sentences
from expectations.text.libraries import refuse_missing

Traditional = Literal["keep", "t2s", "tw2sp"]
"""`t2s` replaces characters, `tw2sp` also words used in Taiwan (軟體 becomes 软件, not 软体)."""


def simplify(text: str, how: Traditional) -> str:
    """Return `text` in Simplified characters. A Japanese text is unchanged; so is a sentence with kana in another text.

    Offsets may change, because `tw2sp` may replace a word by a longer or shorter one. Raises Refused (FT-CORPUS-007)
    where OpenCC is not installed.
    """
    if how == "keep" or not has_han(text):
        return text
    if not has_kana(text):
        return _converter(how).convert(text)
    if language_of(text) == "ja":
        return text
    pieces: list[str] = []
    last = 0
    for start, end in sentences(text):
        sentence = text[start:end]
        pieces += (text[last:start], sentence if has_kana(sentence) else _converter(how).convert(sentence))
        last = end
    return "".join([*pieces, text[last:]])


@lru_cache
def _converter(how: str) -> Any:
    try:
        from opencc import OpenCC  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
    except ImportError as error:
        raise refuse_missing("simplifying Chinese", "opencc", "chinese", "set traditional: keep") from error
    return cast("Any", OpenCC)(how)
