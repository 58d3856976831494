"""An estimate of the tokens of a text, for where no tokenizer is installed."""

from __future__ import annotations

import re

from expectations.text.cleaning import text_size

_PART = re.compile(r"[A-Za-z]+|[^\W\d_A-Za-z]+|[\d_]|[^\w\s]")
_SPECIAL = 2  # the tokens that an encoder puts around a text
_LETTERS = {True: 6, False: 3}  # of a token: ASCII words are in vocabularies, words of other alphabets are in pieces


def estimate_tokens(text: str) -> int:
    """Return about the number of tokens that an encoder reads of a text, rather a few too many than too few.

    A Chinese character, a kana, a Hangul syllable, a digit and a mark count as one token, a word as one for each six
    letters (three outside ASCII), and the whole text as two more.
    """
    return _SPECIAL + sum(map(_tokens_of, _PART.findall(text)))


def _tokens_of(part: str) -> int:
    # `text_size` counts a dense character as three
    return -(-text_size(part) // _LETTERS[part.isascii()])
