"""The gates on generated rows, which a training enforces before it reads them."""

from __future__ import annotations

from ft_assets.generation import ddr_checks, kbalign_checks
from ft_assets.graph.gates import Gate

GATES: list[Gate] = [*kbalign_checks.GATES, *ddr_checks.GATES]
