"""The share of a sample's tokens that the vocabulary of the configured encoder lacks."""

# pyright: basic
# pyarrow has no type information.
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
        questions = [_sample(splits.file(split_file(split)), "query", _SAMPLE // len(SPLITS)) for split in SPLITS]
        texts = {
            "passages": _sample(passages.file(PASSAGES), "content", _SAMPLE),
            "questions": list(chain.from_iterable(questions)),
        }
        return {kind: tokenizer.count_unknown(sample) for kind, sample in texts.items()}

    return _counted.get((passages.data_version, splits.data_version, version), count)


def _sample(path: Path, column: str, most: int) -> list[str]:
    """Return every n-th text of a column, `most` of them at most."""
    import pyarrow.parquet as pq

    texts: list[str] = []
    with pq.ParquetFile(path) as file:
        step = max(-(-file.metadata.num_rows // most), 1)
        at = 0  # the row of the next text in its batch
        for batch in file.iter_batches(columns=[column]):
            rows = range(at, len(batch), step)
            texts += batch.column(0).take(list(rows)).to_pylist() if rows else []
            at = (at + len(rows) * step) - len(batch)
    return texts
