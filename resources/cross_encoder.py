"""A cross-encoder: it reads question and passage together and gives them one score."""

# torch and sentence_transformers are untyped here
# pyright: basic
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expectations.violations import Refused, violation
from resources import models
from resources.accelerator import Compute
from resources.memory import with_smaller_batches
from resources.model_check import check_model, limits_of

_BATCH = 32


class CrossScorer:
    """Scores questions with passages."""

    def __init__(self, model: Any, compute: Compute) -> None:
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


def load_cross_encoder(folder: Path, max_tokens: int, compute: Compute) -> CrossScorer:
    """Return the cross-encoder in a folder. `max_tokens`: of question and passage together; the rest is cut.

    Raises Refused: FT-RET-017 it is no cross-encoder with one score; FT-TRAIN-067 to FT-TRAIN-069 the folder lacks a
    tensor, or has one of another shape; FT-RET-018 the model has fewer positions than `max_tokens`.
    """
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
    positions = limits_of(folder).positions
    if positions and max_tokens > positions:
        long = violation(
            "FT-RET-018", where=str(folder), field="max_tokens", found=max_tokens, expected=f"at most {positions}"
        )
        raise Refused(f"loading {folder}", [long])
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
    return CrossScorer(model, compute)
