"""The gates on settings."""

from __future__ import annotations

import json
from pathlib import Path

from ft_assets.graph.gates import Evidence, judge
from ft_assets.settings.checks import GATES
from resources.artifacts import ArtifactStore, Recipe
from resources.qdrant import QdrantEngine
from resources.releases import Releases


def test_a_learning_rate_for_adapters_is_reported_for_method_full(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    engine = QdrantEngine("local", tmp_path / "qdrant", None, "passages", None, 1.0)
    evidence = Evidence(store, Releases(tmp_path / "released"), engine)
    gates = {gate.asset: gate for gate in GATES if gate.name == "learning_rate_is_usual"}
    for section, rate, codes in (("sft", 2e-4, ["FT-TRAIN-026"]), ("dpo", 5e-7, [])):
        values = {"base_model": "x", "method": "full", "learning_rate": rate}
        with store.stage(Recipe(asset=f"{section}_settings", code_version="test")) as staging:
            (staging.path / "settings.json").write_text(json.dumps(values))
            store.point(staging.publish())
        gate = gates[f"{section}_settings"]
        assert not gate.blocking
        assert [violation.code for violation in judge(gate, evidence).violations] == codes
