"""Check that each artifact's recorded input versions are the current ones."""

from __future__ import annotations

from collections.abc import Mapping

from expectations.violations import Violation, violation


def made_from_current(asset: str, inputs: Mapping[str, str], now: Mapping[str, str]) -> list[Violation]:
    """FT-LIN-001: every recorded input of `asset` (name -> version) has the version that is current `now`."""
    return [
        violation(
            "FT-LIN-001",
            where=asset,
            message=f"{name} has changed since {asset} was built from it",
            field=name,
            found=version,
            expected=now[name],
            fix=f"ft run --asset {asset}, then everything that is built from it",
        )
        for name, version in sorted(inputs.items())
        if name in now and now[name] != version
    ]
