"""The small retrieval graph, made once for these tests."""

from __future__ import annotations

from tests.ft_assets.retrieval.conftest import graph, released

__all__ = ["graph", "released"]
