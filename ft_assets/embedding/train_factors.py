"""Learns factors of BM25's weights on the training questions, and takes them only where they gain for certain.

The encoder stays as it is: only w and b of `FactorHead` are learned, on the states of its last layer. So the dense arm
is the same with and without them.
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expectations.rules.bootstrap import paired_bootstrap
from expectations.violations import Refused, violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.factors import FactorHead, factors_of
from ft_assets.embedding.jobs import FactorsSummary
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.ranked import RankedCorpus

_QUESTIONS = 2000  # of which factors are learned: w and b are few numbers
_WRONG = 15  # passages that BM25 ranks highest, of each question
_TEMPERATURE = 0.1  # BM25's scores lie between 0 and 2.2
_STEPS = 200
_RATE = 0.02
_LEAST_JUDGES = 20  # validation questions: the interval of a few that agree by chance has no width
_AT_ONCE = 32  # passages


def learn_factors(
    encoder: HybridEncoder,
    questions: Questions,
    passages: Passages,
    settings: EmbeddingSettings,
    *,
    validation: Questions,
) -> FactorsSummary:
    """Learn factors of BM25's weights, and leave them with the encoder if the ranking of the validation questions by
    dense + BM25 is certainly better with them.

    Raises Refused: FT-EMB-010 there is no training question, FT-EMB-023 the tokenizer does not tell which characters a
    token has.
    """
    if not questions.ids:
        none = violation(
            "FT-EMB-010",
            where="embedding_model",
            message="no training question names a passage of this corpus, and bm25_factors learns from them.",
            field="questions",
            found=0,
            expected="at least 1",
            fix="add retrieval data, or set embedding.bm25_factors: false and retrieval.lexical: bm25",
        )
        raise Refused("learning factors of BM25", [none])
    if not encoder.tokenizer.is_fast:
        slow = violation("FT-EMB-023", where="embedding_model", field="tokenizer", found="slow", expected="fast")
        raise Refused("learning factors of BM25", [slow])
    corpus = RankedCorpus(passages, [questions, validation])
    spread = fit_factors(encoder, corpus, questions, settings)
    gain = None
    if len(validation.ids) >= _LEAST_JUDGES:
        corpus.encode(encoder)
        by_bm25, by_factors = corpus.measure(encoder, validation), corpus.measure(encoder, validation, factors=True)
        gain = paired_bootstrap(by_factors.fused, by_bm25.fused)
    taken = gain is not None and gain.low > 0
    if not taken:
        encoder.factors = None
    return FactorsSummary(taken=taken, gain=gain, spread=spread)


def fit_factors(
    encoder: HybridEncoder, corpus: RankedCorpus, questions: Questions, settings: EmbeddingSettings
) -> float:
    """Give the encoder factors that rank the right passages of these questions higher; return their deviation."""
    encoder.eval()
    terms = _read_terms(encoder, corpus, _sample(questions, settings.seed))
    return _fit(encoder.add_factors(), terms, settings.factor_penalty)


def _sample(questions: Questions, seed: int) -> Questions:
    count = len(questions.ids)
    if count <= _QUESTIONS:
        return questions
    rows = sorted(Random(seed).sample(range(count), _QUESTIONS))  # noqa: S311 - no secret
    return replace(questions, **{
        name: [getattr(questions, name)[row] for row in rows] for name in ("ids", "texts", "qrels", "named")
    })  # fmt: skip


class _Terms(NamedTuple):
    """The terms that N questions share with their candidates: the right passages, and those that BM25 ranks highest."""

    states: Tensor
    """The mean state of the tokens of each term of a passage that a question has. [M, D]"""
    cells: Tensor
    """Question and candidate that share a term, as a cell of [N, candidates]."""
    columns: Tensor
    """The row of its `states`, counted from 1; 0 for a term that the encoder does not read."""
    weights: Tensor
    """The share that it adds to the score by BM25."""
    right: Tensor
    """True for right passages. [N, candidates]"""
    there: Tensor
    """True for all candidates, as questions have different numbers of them."""

    def contrast(self, factors: Tensor) -> Tensor:
        """Return the loss: the right passages against all candidates, the mean over the questions."""
        factors = torch.cat([torch.ones(1), factors])
        scores = torch.zeros(self.right.numel()).index_add(0, self.cells, self.weights * factors[self.columns])
        logits = scores.view_as(self.right) / _TEMPERATURE
        right, every = (logits.masked_fill(~mask, float("-inf")).logsumexp(-1) for mask in (self.right, self.there))
        return (every - right).mean()


def _read_terms(encoder: HybridEncoder, corpus: RankedCorpus, questions: Questions) -> _Terms:
    asked = [dict(zip(ids.tolist(), w.tolist(), strict=True)) for ids, w in corpus.weigh(questions)]
    right = [[corpus.row_of[name] for name in names] for names in corpus.answers(questions)]
    wrong = [rows[:_WRONG] for rows in corpus.mine_by_bm25(questions)]
    candidates = [first + others for first, others in zip(right, wrong, strict=True)]
    wanted: dict[int, set[int]] = {}
    for terms, rows in zip(asked, candidates, strict=True):
        for row in rows:
            wanted.setdefault(row, set()).update(terms)
    states, weights_of = _states(encoder, corpus, wanted)
    width = max(map(len, candidates))
    found: list[tuple[int, int, float]] = []
    for query, (terms, rows) in enumerate(zip(asked, candidates, strict=True)):
        for place, row in enumerate(rows, query * width):
            shared = weights_of[row].keys() & terms.keys()
            found += [
                (place, column, terms[n] * weight) for n in sorted(shared) for column, weight in [weights_of[row][n]]
            ]
    sizes = torch.tensor([[len(first), len(every)] for first, every in zip(right, candidates, strict=True)])
    cells, columns, weights = zip(*found, strict=True) if found else ((), (), ())
    places = torch.arange(width)
    return _Terms(
        states,
        torch.tensor(cells, dtype=torch.long),
        torch.tensor(columns, dtype=torch.long),
        torch.tensor(weights, dtype=torch.float32),
        places < sizes[:, :1],
        places < sizes[:, 1:],
    )


def _states(
    encoder: HybridEncoder, corpus: RankedCorpus, wanted: Mapping[int, set[int]]
) -> tuple[Tensor, dict[int, dict[int, tuple[int, float]]]]:
    """Return the mean state of each wanted term of each passage, and for each passage: term -> its row (0 if it
    is not read), its weight.

    `wanted`: row of a passage -> numbers of terms.
    """
    states: list[np.ndarray] = [np.empty((0, encoder.contract.dense.dimensions[0]), np.float32)]
    weights_of: dict[int, dict[int, tuple[int, float]]] = {}
    count = 0
    rows = sorted(wanted)
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        texts = [corpus.passages.contents[row] for row in part]
        with torch.no_grad(), encoder.autocast():
            hidden = encoder.hidden(*encoder.pad(encoder.tokenize(texts, "passage"))).float().cpu().numpy()
        for row, ((indices, values), tokens), of_tokens in zip(
            part, encoder.bm25_tokens(texts, corpus.bm25), hidden, strict=True
        ):
            kept = np.flatnonzero(np.isin(indices, list(wanted[row])))
            read = np.isin(kept, tokens.rows)
            columns = np.where(read, count + np.cumsum(read), 0)
            named = zip(indices[kept].tolist(), columns.tolist(), values[kept].tolist(), strict=True)
            weights_of[row] = {number: (column, weight) for number, column, weight in named}
            states.append(tokens.means(of_tokens, len(indices))[kept[read]])
            count += int(read.sum())
    return torch.from_numpy(np.concatenate(states)), weights_of


def _fit(head: FactorHead, terms: _Terms, penalty: float) -> float:
    """Learn w and b, and return the standard deviation of the factors."""
    states = terms.states
    if len(states) < 2:
        return 0.0
    # on states of mean 0 and deviation 1, whatever the model
    mean, deviation = states.mean(0), states.std(0).clamp(min=1e-6)
    scaled = (states - mean) / deviation
    fitted = FactorHead(states.shape[1])
    optimizer = torch.optim.Adam(fitted.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        factors = factors_of(fitted, scaled)
        loss = terms.contrast(factors) + penalty * (factors - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        weight = fitted.linear.weight / deviation
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(fitted.linear.bias - (weight * mean).sum())
        return float(factors_of(fitted, scaled).std())
