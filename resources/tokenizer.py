"""The tokenizer of a model folder, to count tokens. Loads neither torch nor, where it can, transformers."""

# tokenizers and transformers are untyped here
# pyright: basic
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from resources import models
from resources.memo import Memo

_BATCH = 1024
_opened = Memo["Tokenizer"](size=2)
"""Tokenizers by folder and version: one with a large vocabulary takes a second to open."""
_TOKENIZER_FILE = "tokenizer.json"


class Tokenizer:
    """Counts the tokens of texts as the model reads them, without a limit of length."""

    def __init__(self, folder: Path) -> None:
        if (folder / _TOKENIZER_FILE).is_file():
            self._encode, self._unknown = _open_fast(folder / _TOKENIZER_FILE)
        else:  # an older folder, whose tokenizer transformers converts: it takes seconds to import
            self._encode, self._unknown = _open_converted(folder)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, with those that the model puts around it."""
        return [len(row) for row in self._rows(texts, special=True)]

    def count_plain(self, text: str) -> int:
        """Return the number of tokens of a text alone."""
        return len(next(iter(self._rows([text], special=False))))

    def count_unknown(self, texts: Sequence[str]) -> tuple[int, int]:
        """Return the number of tokens that the vocabulary lacks, and the number of all; none of them is special.

        A tokenizer that falls back to bytes lacks none.
        """
        unknown = total = 0
        for row in self._rows(texts, special=False):
            total += len(row)
            unknown += 0 if self._unknown is None else row.count(self._unknown)
        return unknown, total

    def _rows(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        rows: list[list[int]] = []
        for start in range(0, len(texts), _BATCH):
            rows += self._encode(list(texts[start : start + _BATCH]), special)
        return rows


_Encode = Callable[[list[str], bool], list[list[int]]]


def _open_fast(path: Path) -> tuple[_Encode, int | None]:
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(path))
    fast.no_truncation()
    fast.no_padding()
    model = json.loads(path.read_text("utf-8"))["model"]
    named = model.get("unk_token")
    unknown = model.get("unk_id") if named is None else fast.token_to_id(named)

    def encode(texts: list[str], special: bool) -> list[list[int]]:
        return [row.ids for row in fast.encode_batch_fast(texts, add_special_tokens=special)]

    return encode, unknown


def _open_converted(folder: Path) -> tuple[_Encode, int | None]:
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)

    def encode(texts: list[str], special: bool) -> list[list[int]]:
        return slow(texts, add_special_tokens=special, truncation=False, padding=False)["input_ids"]

    return encode, slow.unk_token_id


def load_tokenizer(name: str, state: Path, revision: str | None = None) -> Tokenizer:
    """Return the tokenizer of a model. Raises Refused as `models.locate` does."""
    folder = models.locate_tokenizer(name, state, revision)
    return _opened.get((folder, models.model_fingerprint(folder)["tokenizer"]), lambda: Tokenizer(folder))
