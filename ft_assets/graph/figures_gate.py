"""Gate of the figures in a manifest: computed again from the artifact's files, they are the same.

Gates read figures from the manifest, which is quick. This gate makes that safe: it blocks an artifact whose manifest
states other figures than its files give, whether a person edited them or a worker computed them wrongly.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import msgspec

from expectations.canonical import file_digest
from expectations.violations import Violation, violation
from ft_assets.graph.gates import Evidence, Gate, Verdict
from resources.artifacts import Artifact, ArtifactStore
from resources.kept import Kept

FiguresOf = Callable[[ArtifactStore, Artifact], Mapping[str, object]]
"""Computes figures of an artifact from its files, by their names in its summary; None: the summary has no such
figure."""
_judged = Kept("figures", list[Violation])
"""By figures, files and code: intervals of many questions take seconds."""
_CLOSE = 2e-6  # means are rounded to six digits, and another processor adds in another order


def figures_gate(asset: str, figures_of: FiguresOf) -> Gate:
    """Return the gate that computes the figures of an artifact again."""

    def rule(evidence: Evidence) -> Verdict:
        """The figures that other gates judge are those of the artifact's files, computed again."""
        store, artifact = evidence.store, evidence.store.require(asset)
        code = [file_digest(Path(inspect.getfile(part))) for part in (figures_of, figures_gate)]
        key = {"recipe": artifact.recipe_id, "summary": artifact.summary, "code": code}
        key |= {"files": {name: seal.sha256 for name, seal in artifact.manifest.files.items()}}
        key |= {"numpy": metadata.version("numpy")}
        changed = _judged.get(
            store.root.absolute().parent,
            key,
            lambda: changed_figures(artifact, figures_of(store, artifact)),
            keep=lambda found: not found,
        )
        return Verdict(changed, {"files": len(artifact.manifest.files)})

    return Gate(asset, "figures_are_of_files", rule)


def changed_figures(artifact: Artifact, figures: Mapping[str, object]) -> list[Violation]:
    """Return a violation (FT-ART-010) for each figure that the manifest states otherwise."""
    wanted = cast("dict[str, Any]", msgspec.to_builtins(dict(figures)))
    return [
        violation(
            "FT-ART-010",
            where=artifact.asset,
            field=field,
            found=found,
            expected=expected,
            fix=f"delete {artifact.path} and run `ft run --asset {artifact.asset}`",
        )
        for name, expected in wanted.items()
        for field, found, expected in _differences(name, artifact.summary.get(name), expected)
    ]


def _differences(field: str, found: object, expected: object) -> Iterator[tuple[str, object, object]]:
    """Yield (field, found, expected) of each place where two figures, or tables of figures, differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        left, right = cast("dict[str, object]", found), cast("dict[str, object]", expected)
        for name in {**right, **left}:
            yield from _differences(f"{field}.{name}", left.get(name), right.get(name))
    elif isinstance(found, int | float) and isinstance(expected, int | float):
        if not math.isclose(found, expected, rel_tol=0, abs_tol=_CLOSE):
            yield field, found, expected
    elif found != expected:
        yield field, found, expected
