"""Whether what stands was made from what stands now."""

from __future__ import annotations

from collections.abc import Mapping

from expectations.violations import Violation


def made_from_current(asset: str, inputs: Mapping[str, str], now: Mapping[str, str]) -> list[Violation]:
    """Inputs of `asset` (name -> version it was made from) that have another version `now` (FT-LIN-001)."""
    return [
        Violation(
            code="FT-LIN-001", where=asset, message=f"{name} has changed since it was made from it.", field=name,
            found=version, expected=now[name], fix=f"ft run --asset {asset}, then what is made from it",
        )
        for name, version in sorted(inputs.items()) if name in now and now[name] != version
    ]  # fmt: skip
