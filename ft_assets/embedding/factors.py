"""Factors of BM25's weights that the encoder has learned: for each term of a passage, from the tokens it is made of.

A factor is 1 + tanh(w·h + b), where h is the mean state of the term's tokens. It is 1 before training and lies between
0 and 2. A term that the encoder does not read (beyond its limit) keeps 1.
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from expectations.lexical.bm25 import Bm25
from ft_assets.embedding.sparse import SparseVector

FACTORS_FILE = "bm25_factors.safetensors"


class FactorHead(nn.Module):
    """w·h + b of each token. [..., D] -> [...]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden).squeeze(-1)


class TermTokens(NamedTuple):
    """The tokens of a passage's terms: token `tokens[n]` is a part of the term in row `rows[n]` of its vector."""

    rows: np.ndarray
    tokens: np.ndarray

    def means(self, states: np.ndarray, terms: int) -> np.ndarray:
        """Return the mean of `states` [T, ...] over the tokens of each term; 0 for a term without tokens."""
        counts = np.bincount(self.rows, minlength=terms)
        sums = np.zeros((terms, *states.shape[1:]), np.float32)
        np.add.at(sums, self.rows, states[self.tokens])
        return (sums.T / np.maximum(counts, 1).astype(np.float32)).T


def tokens_of_terms(bm25: Bm25, text: str, spans: np.ndarray, indices: np.ndarray) -> TermTokens:
    """Return the tokens of each term of a passage.

    `spans` [T, 2]: characters of `text` of each token, empty for special ones and below 0 for a prompt's. `indices`:
    the numbers of the passage's terms, ascending.
    """
    placed = bm25.terms.placed(text)
    tokens = np.flatnonzero((spans[:, 1] > spans[:, 0]) & (spans[:, 1] > 0))
    starts, ends = spans[tokens, 0], spans[tokens, 1]
    numbers = np.asarray(bm25.terms.numbers([found.term for found in placed]), np.int64)
    first = np.searchsorted(ends, [found.start for found in placed], "right")
    counts = np.maximum(np.searchsorted(starts, [found.end for found in placed], "left") - first, 0)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return TermTokens(np.repeat(np.searchsorted(indices, numbers), counts), tokens[np.repeat(first, counts) + within])


def weigh(weights: SparseVector, found: TermTokens, scores: np.ndarray) -> SparseVector:
    """Return BM25's weights of a passage times their factors. `scores` [T]: what the head gives each token."""
    indices, values = weights
    return indices, values * (1 + np.tanh(found.means(scores, len(indices))))


def factors_of(head: FactorHead, states: Tensor) -> Tensor:
    """Return the factors of terms with these mean states. [N, D] -> [N]"""
    return 1 + torch.tanh(head(states))
