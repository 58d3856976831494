"""Cuts dense vectors to a dimension the model was trained for. Needs numpy alone, so that gates load no torch."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

import numpy as np


def truncate(dense: np.ndarray, dimension: int) -> np.ndarray:
    """The first `dimension` values of each row, L2-normalised again. [N, D] -> [N, dimension]"""
    if dimension == dense.shape[1]:
        return dense
    cut = dense[:, :dimension]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
