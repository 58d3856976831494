from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ft_assets.adapters.checks import GATES as ADAPTER_GATES
from ft_assets.answers.checks import GATES
from ft_assets.config.load import load_settings
from ft_assets.definitions import build_defs
from ft_assets.graph.gates import Evidence, judge
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource


@pytest.mark.slow
def test_questions_go_through_the_released_retriever_to_every_model_and_again_for_nothing(root: Path) -> None:
    first = _run(root)
    made = first["answer_evaluation"]
    assert made["questions"] == 6
    assert 0 <= made["evidence_hit_rate"] <= 1
    # DPO answers only if it is better than its SFT and was released
    models = ["base", "sft", "dpo"] if first["released_adapter"]["adapter"] == "dpo_adapter" else ["base", "sft"]
    assert list(made["intervals"]) == models
    assert made["samples"].startswith(f"| question | gold | {' | '.join(models)} |")
    assert {reading: list(figures) for reading, figures in made["readings"].items()} == dict.fromkeys(
        ("none", "retrieved", "evidence"), models
    )
    for model in models:  # the questions all have evidence here
        assert made["readings"]["retrieved"][model]["f1"] == made["intervals"][model]["f1"]
        f1 = {reading: figures[model]["f1"]["mean"] for reading, figures in made["readings"].items()}
        gain = made["reading_gains"]["retrieved-none"][model]["f1"]
        assert gain["mean"] == pytest.approx(f1["retrieved"] - f1["none"]) and gain["n"] == 6
    assert "F1 with passages: none" in made["scores"] and "evidence minus retrieved" in made["scores"]
    assert "api_key" not in (root / "state/runs/answer_evaluation").joinpath(made["recipe"], "job.json").read_text()
    evidence = Evidence(_artifacts(root).store(), _artifacts(root).releases(), _qdrant(root).engine())
    for gate in [*GATES, *ADAPTER_GATES]:
        assert judge(gate, evidence).violations == [], f"{gate.asset}.{gate.name}"
    again = _run(root)
    names = ("sft_adapter", "dpo_adapter", "adapter_evaluation", "answer_evaluation")
    assert {name: again[name]["reused"] for name in names} == dict.fromkeys(names, True)
    assert again["released_adapter"]["version"] == first["released_adapter"]["version"]


def _artifacts(root: Path) -> ArtifactsResource:
    return ArtifactsResource(state_dir=str(root / "state"), config_path=str(root / "config.yaml"))


def _qdrant(root: Path) -> QdrantResource:
    return QdrantResource(state_dir=str(root / "state"), lock_timeout=5.0)


def _run(root: Path) -> dict[str, Mapping[str, Any]]:
    """Materialize everything and return each asset's metadata."""
    launcher = LauncherResource(state_dir=str(root / "state"), kind="inline")
    config, state = root / "config.yaml", root / "state"
    defs = build_defs(
        load_settings(config, environ={}), state=state, config=config, resource_overrides={"launcher": launcher}
    )
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process()
    return {
        event.asset_key.to_user_string(): {name: value.value for name, value in event.metadata.items()}
        for event in (e.step_materialization_data.materialization for e in result.get_asset_materialization_events())
    }
