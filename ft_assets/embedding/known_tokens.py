"""The share of a sample's tokens that the vocabulary of the configured encoder lacks."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from expectations.rules.splits import SPLITS
from ft_assets.config.model import EmbeddingSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.split import split_file
from resources import models
from resources.artifacts import ArtifactStore
from resources.memo import Memo
from resources.parquet import sample_column
from resources.tokenizer import load_tokenizer

_SAMPLE = 2000
_counted = Memo[dict[str, tuple[int, int]]](size=8)
"""The counts, by the versions of texts and tokenizer: every guard asks for them."""


def count_unknown(store: ArtifactStore, settings: EmbeddingSettings, state: Path) -> dict[str, tuple[int, int]]:
    """Return kind of text -> (unknown tokens, all tokens) of up to 2,000 passages and 2,000 questions, evenly taken."""
    passages, splits = store.require("passages"), store.require("retrieval_splits")
    version = models.tokenizer_version(settings.base_model, settings.revision)

    def count() -> dict[str, tuple[int, int]]:
        tokenizer = load_tokenizer(settings.base_model, state, settings.revision)
        questions = [sample_column(splits.file(split_file(split)), "query", _SAMPLE // len(SPLITS)) for split in SPLITS]
        texts = {
            "passages": sample_column(passages.table(PASSAGES), "content", _SAMPLE),
            "questions": list(chain.from_iterable(questions)),
        }
        return {kind: tokenizer.count_unknown(sample) for kind, sample in texts.items()}

    return _counted.get((passages.data_version, splits.data_version, version), count)
