"""The cross-encoder that puts the best passages of a search in their final order."""

# torch and sentence_transformers are untyped here
# pyright: basic
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expectations.contracts.embedding import Rerank
from expectations.violations import Refused, violation
from ft_assets.config.model import RerankSettings
from resources import accelerator, models
from resources.memo import Memo
from resources.memory import with_smaller_batches
from resources.model_check import check_model

_BATCH = 32
_kept: Memo[Reranker] = Memo(2)
"""Models by folder, version and the way they compute: a page asks again with those of live and candidate."""


class Reranker:
    """Scores questions with passages, as the `Rerank` of a contract says."""

    def __init__(self, model: Any, compute: accelerator.Compute) -> None:
        self._model, self._compute = model, compute

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int = _BATCH) -> np.ndarray:
        """Return the score of each (question, passage): the output of the head, which is larger for a better match."""
        import torch

        dtype = getattr(torch, self._compute.dtype)

        def predict(size: int) -> np.ndarray:
            with torch.autocast(self._compute.device, dtype=dtype, enabled=dtype is not torch.float32):
                # no sigmoid: above a score of 17 it is 1.0 for every passage
                return self._model.predict(
                    list(pairs), batch_size=size, show_progress_bar=False, activation_fn=torch.nn.Identity()
                )

        return with_smaller_batches(predict, batch_size) if pairs else np.empty(0, np.float32)


def rerank_of(settings: RerankSettings | None, state: Path) -> Rerank | None:
    """Return the rerank model that the settings name, with the version of its content.

    Raises Refused as `models.locate` does.
    """
    if settings is None:
        return None
    version = models.version(settings.model, state, settings.revision)
    return Rerank(
        model=settings.model,
        revision=settings.revision,
        version=version,
        top_n=settings.top_n,
        max_tokens=settings.max_tokens,
    )


def load_reranker(rerank: Rerank, state: Path, compute: accelerator.Compute | None = None) -> Reranker:
    """Return the model that a contract names.

    Raises Refused: FT-RET-015 the model is not here, or has another content; FT-RET-017 it is no cross-encoder with one
    score; FT-TRAIN-067 to FT-TRAIN-069 its folder lacks a tensor, or has one of another shape.
    """
    try:
        folder = models.locate(rerank.model, state, rerank.revision)
        found = models.version(rerank.model, state, rerank.revision)
    except Refused as missing:
        raise _not_here(rerank, f"not found: {missing.violations[0].text}") from missing
    if found != rerank.version:
        raise _not_here(rerank, found)
    compute = compute or accelerator.choose()
    key = (folder, found, rerank.max_tokens, compute)
    return _kept.get(key, lambda: Reranker(_load(folder, rerank.max_tokens, compute), compute))


def _load(folder: Path, max_tokens: int, compute: accelerator.Compute) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    config = json.loads((folder / "config.json").read_text("utf-8"))
    kinds, labels = config.get("architectures") or ["none"], len(config.get("id2label") or {0: "", 1: ""})
    if not kinds[0].endswith("ForSequenceClassification") or labels != 1:
        found = f"{kinds[0]} with {labels} outputs" if kinds[0].endswith("Classification") else kinds[0]
        expected = "ForSequenceClassification with 1 output"
        other = violation("FT-RET-017", where=str(folder), field="architecture", found=found, expected=expected)
        raise Refused(f"loading {folder}", [other])
    if faults := check_model(folder, classifier=True):
        raise Refused(f"loading {folder}", faults)
    models.silence_progress_bars()
    model = CrossEncoder(
        str(folder),
        device=compute.device,
        max_length=max_tokens,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32},
    )
    model.eval()
    return model


def _not_here(rerank: Rerank, found: str) -> Refused:
    other = violation("FT-RET-015", where=rerank.model, field="version", found=found, expected=rerank.version)
    return Refused(f"loading {rerank.model}", [other])
