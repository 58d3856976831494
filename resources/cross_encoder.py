"""A cross-encoder: it reads question and passage together and gives them one score."""

# torch and sentence_transformers are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expectations.violations import Refused, violation
from resources import models
from resources.accelerator import Compute
from resources.memory import with_smaller_batches
from resources.model_check import require_all_read

_BATCH = 32


class CrossScorer:
    """Scores questions with passages."""

    def __init__(self, folder: Path, max_tokens: int, compute: Compute) -> None:
        """`max_tokens`: of question and passage together; the rest of the passage is cut.

        Raises Refused: FT-EMB-025 the model has another number of scores than one, FT-TRAIN-067 to FT-TRAIN-069 its
        folder lacks a tensor, or has one of another shape.
        """
        self._model, self._compute = _load(folder, max_tokens, compute), compute

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int = _BATCH) -> np.ndarray:
        """Return the score of each (question, passage), larger for a better match: what the head gives, no sigmoid."""
        import torch

        dtype = getattr(torch, self._compute.dtype)

        def predict(size: int) -> np.ndarray:
            with torch.autocast(self._compute.device, dtype=dtype, enabled=dtype is not torch.float32):
                return self._model.predict(
                    list(pairs), batch_size=size, show_progress_bar=False, activation_fn=torch.nn.Identity()
                )

        return with_smaller_batches(predict, batch_size) if pairs else np.empty(0, np.float32)


def _load(folder: Path, max_tokens: int, compute: Compute) -> Any:
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = (config.architectures or ["none"])[0]
    if not kind.endswith("ForSequenceClassification") or config.num_labels != 1:
        found, expected = f"{kind}, {config.num_labels} outputs", "ForSequenceClassification, 1 output"
        other = violation("FT-EMB-025", where=str(folder), field="architecture", found=found, expected=expected)
        raise Refused(f"loading {folder}", [other])
    models.silence_progress_bars()
    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True}
    checked: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    require_all_read(folder, *checked)
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
