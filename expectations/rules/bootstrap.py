"""Bootstrap intervals: what a difference between two systems is worth on the questions that were asked."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """A mean with its percentile bootstrap interval; `n` values went in."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95) -> Interval:
    """Mean of `values` and its interval (Efron's percentile bootstrap). Raises ValueError on no values."""
    import numpy as np

    if not values:
        raise ValueError("no values to take an interval of")
    sample = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sample), size=(resamples, len(sample)))
    means = sample[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=float(sample.mean()), low=float(low), high=float(high), n=len(sample))


def paired_bootstrap(candidate: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Interval:
    """Interval of candidate - baseline, question by question: far narrower than that of two separate means."""
    if len(candidate) != len(baseline):
        raise ValueError(f"{len(candidate)} candidate values against {len(baseline)} of the baseline: not paired")
    return bootstrap([c - b for c, b in zip(candidate, baseline, strict=True)], seed=seed)
