"""The length of passages in tokens: which are too long for the encoder, and how to cut them once more."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.text.tokens import estimate_tokens
from expectations.violations import Refused
from ft_assets.config.model import CorpusSettings, EmbeddingSettings
from resources import models
from resources.artifacts import Artifact
from resources.parquet import read_columns
from resources.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from ft_assets.corpus.cut import Passage

CountTokens = Callable[[Sequence[str]], list[int]]
"""Returns the tokens of each text, with those that the encoder puts around it."""

_ESTIMATE = "estimate"  # in place of a tokenizer where no encoder is configured
_AROUND = 8  # tokens around a text, at most
_HEADING_SHARE = 0.75  # of the limit; a heading beyond it would leave no room for the text

_SLACK = (1.0, 1.03, 1.06, 1.1, 1.15, 1.2, 1.3)  # of a part's characters, because it ends with a sentence


class TokenLimit:
    """The most tokens of one passage, its heading included: it is counted as it is encoded."""

    def __init__(self, tokens: int, count: CountTokens, known: Container[bytes] = frozenset()) -> None:
        """`known`: `key_of` the contents that are known to be short enough, which are not counted again."""
        self.tokens = tokens
        self.parts = 0
        """Passages that there are more because of the limit."""
        self._count = count
        self._known = known

    def excess(self, passages: Sequence[Passage]) -> list[float]:
        """Return for each passage its tokens as a multiple of the limit where they are more, else 0."""
        found = [0.0] * len(passages)
        unsure = [row for row, passage in enumerate(passages) if not self._is_surely_short(passage)]
        counts = self._count([passages[row].content for row in unsure]) if unsure else []
        for row, count in zip(unsure, counts, strict=True):
            if count > self.tokens and count > self._most_with(passages[row].heading):
                found[row] = count / self.tokens
        return found

    def _is_surely_short(self, passage: Passage) -> bool:
        """Return whether no tokenizer makes too many tokens of a passage (one of each byte), or it is known."""
        text = passage.content
        if len(text) <= self.tokens:
            # some tokenizers decompose characters, and count the parts
            letters = text if text.isascii() else unicodedata.normalize("NFKD", text)
            if len(letters.encode()) + _AROUND <= self.tokens:
                return True
        return key_of(passage.content_sha256) in self._known

    def _most_with(self, heading: str) -> float:
        """Return the tokens of a passage with a very long heading, at most: a quarter of the limit is for its text."""
        (count,) = self._count([heading]) if heading else (0,)
        return count + (1 - _HEADING_SHARE) * self.tokens if count > _HEADING_SHARE * self.tokens else 0.0


def limit_values(
    settings: CorpusSettings, encoder: EmbeddingSettings | None, before: Artifact | None, state: Path
) -> dict[str, object]:
    """Return the part of the recipe of `passages` that says how many tokens a passage has, counted how.

    Empty if tokens are not counted. `auto` keeps the limit of the passages `before`: another length of the encoder
    alone must not give passages other texts and ids.
    """
    tokens = settings.max_tokens
    if tokens is None or (tokens == "auto" and encoder is None):
        return {}
    if encoder is None:
        return {"max_tokens": tokens, "tokenizer": _ESTIMATE}
    if tokens == "auto":
        kept = before.manifest.recipe.settings.get("max_tokens") if before else None
        tokens = kept or tokens_read(encoder, state)
    return {"max_tokens": tokens, "tokenizer": models.tokenizer_version(encoder.base_model, encoder.revision)}


def tokens_read(encoder: EmbeddingSettings, state: Path) -> int:
    """Return the number of tokens of a passage that the encoder reads: its limit without the prompt."""
    prompt = encoder.passage_prompt
    if not prompt:
        return encoder.passage_max_tokens
    return max(encoder.passage_max_tokens - _tokenizer_of(encoder, state).count_plain(prompt), 1)


def open_limit(
    values: Mapping[str, object], encoder: EmbeddingSettings | None, before: Artifact | None, state: Path
) -> TokenLimit | None:
    """Return the limit of these `limit_values`. What the passages `before` already are is not counted again."""
    tokens = values.get("max_tokens")
    if not isinstance(tokens, int):
        return None

    @cache  # to find it and to compare its files takes milliseconds, for every section
    def tokenizer() -> Tokenizer | None:
        return _tokenizer_of(encoder, state) if encoder else None

    def count(texts: Sequence[str]) -> list[int]:
        counter = tokenizer()
        return counter.count(texts) if counter else list(map(estimate_tokens, texts))

    known: set[bytes] = set()
    earlier = before.manifest.recipe.settings if before else {}
    counted = earlier.get("tokenizer") == values["tokenizer"] and earlier["max_tokens"] <= tokens
    # of a corpus in shards only those are cut again that changed: to read all hashes would take longer
    if before and counted and "passages.parquet" in before.manifest.files and not before.verify():
        known = set(map(key_of, read_columns(before.file("passages.parquet"), ["content_sha256"])["content_sha256"]))
    return TokenLimit(tokens, count, known)


def _tokenizer_of(encoder: EmbeddingSettings, state: Path) -> Tokenizer:
    try:
        return load_tokenizer(encoder.base_model, state, encoder.revision)
    except Refused as refusal:
        raise Refused("counting the tokens of corpus.max_tokens (null counts none)", refusal.violations) from refusal


def key_of(sha256: str) -> bytes:
    """Return the first 16 bytes of a digest."""
    return bytes.fromhex(sha256[:32])


def attempts(excess: float, length: int) -> Iterator[tuple[int, int]]:
    """Yield (most parts, characters of one) for a text of `length` characters with `excess` times the tokens.

    Parts of about one length come first, then longer ones, then more of them.
    """
    number = math.ceil(excess)
    while number < length:
        for slack in _SLACK:
            yield number, math.ceil(length / number * slack)
        number += max(1, number // 4)
    yield length, 1
