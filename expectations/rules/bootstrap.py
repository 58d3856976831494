"""Bootstrap intervals: how certain a mean, or a difference between two systems, is on the given questions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_DRAWN_AT_ONCE = 1_000_000  # values: 16 MB, however many questions there are


class Interval(msgspec.Struct, frozen=True):
    """The mean of `n` values with its percentile bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    def is_loss(self, tolerance: float) -> bool:
        """Return whether this gain is a loss of more than the tolerance, and not by chance: the interval excludes 0."""
        return not (self.mean >= -tolerance or self.high >= 0)  # a NaN must count as a loss


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95) -> Interval:
    """Return the mean of `values` and its interval (Efron's percentile bootstrap). Raises ValueError without values."""
    import numpy as np

    if not values:
        raise ValueError("an interval needs at least one value")
    sample = np.asarray(values, dtype=np.float64)
    dice, drawn_at_once = np.random.default_rng(seed), max(1, _DRAWN_AT_ONCE // len(sample))
    means: list[float] = []
    for start in range(0, resamples, drawn_at_once):
        picks = dice.integers(0, len(sample), size=(min(drawn_at_once, resamples - start), len(sample)))
        means += sample[picks].mean(axis=1).tolist()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=float(sample.mean()), low=float(low), high=float(high), n=len(sample))


def paired_bootstrap(candidate: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the interval of candidate - baseline, by question: far narrower than that of two separate means.

    Raises ValueError where the two have different lengths.
    """
    if len(candidate) != len(baseline):
        raise ValueError(f"not paired: {len(candidate)} values of the candidate, {len(baseline)} of the baseline")
    return bootstrap([c - b for c, b in zip(candidate, baseline, strict=True)], seed=seed)
