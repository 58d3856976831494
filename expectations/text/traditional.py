"""Traditional Chinese as Simplified, by OpenCC. Never Japanese, whose characters only look alike."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast

from expectations.text.cleaning import has_han, has_kana, language_of, sentences
from expectations.violations import Refused, Violation

Traditional = Literal["keep", "t2s", "tw2sp"]
"""`t2s` replaces characters, `tw2sp` also the words of Taiwan (軟體 becomes 软件, not 软体)."""


def simplify(text: str, how: Traditional) -> str:
    """`text` in Simplified characters. A Japanese text stays as it is; in another, a sentence with kana does.

    Not for offsets: a word of Taiwan may have another length. Refused (FT-CORPUS-007) when OpenCC is not installed.
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
        raise Refused(
            "simplifying Chinese",
            [
                Violation(
                    code="FT-CORPUS-007", where="opencc", message="Traditional characters are converted with OpenCC.",
                    fix='pip install "ft-assets[chinese]", or set traditional: keep',
                )
            ],
        ) from error  # fmt: skip
    return cast("Any", OpenCC)(how)
