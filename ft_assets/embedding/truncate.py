"""Truncates dense vectors to a trained dimension. Needs only numpy, so that gates do not load torch."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

import numpy as np


def truncate(dense: np.ndarray, dimension: int) -> np.ndarray:
    """Return the first `dimension` values of each row, L2-normalised again. [N, D] -> [N, dimension]"""
    if dimension == dense.shape[1]:
        return dense
    head = dense[:, :dimension]
    return head / np.maximum(np.linalg.norm(head, axis=1, keepdims=True), 1e-12)
