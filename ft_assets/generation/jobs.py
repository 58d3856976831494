"""Rows that a model made and that trainings read: the names of their assets."""

from __future__ import annotations

VERIFIED = "kbalign_verified"
"""The asset of verified questions and answers. Its train.parquet has the columns of `instruction_splits`."""
PAIRS = "ddr_preferences"
"""The asset of pairs of answers. Its train.parquet and validation.parquet have the columns of `preference_splits`."""
GENERATED = (VERIFIED, PAIRS)
