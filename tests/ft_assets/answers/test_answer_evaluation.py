from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_assets.adapters import assets as adapters
from ft_assets.adapters.checks import GATES as ADAPTER_GATES
from ft_assets.answers import assets as answers
from ft_assets.answers.checks import GATES
from ft_assets.config.load import load_settings
from ft_assets.corpus import assets as corpus
from ft_assets.datasets import assets as datasets
from ft_assets.definitions import not_configured
from ft_assets.embedding import assets as embedding
from ft_assets.graph.gates import Evidence, judge
from ft_assets.retrieval import assets as retrieval
from ft_assets.settings import assets as settings_assets
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource

STAGES = (settings_assets, corpus, datasets, adapters, embedding, retrieval, answers)


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
    """Materialize everything that is configured and return each asset's metadata."""
    absent = not_configured(load_settings(root / "config.yaml", environ={}))
    everything = [asset for stage in STAGES for asset in stage.ASSETS]
    launcher = LauncherResource(state_dir=str(root / "state"), kind="inline")
    result = dg.materialize(
        [asset for asset in everything if asset.key.to_user_string() not in absent],
        resources={"artifacts": _artifacts(root), "qdrant": _qdrant(root), "launcher": launcher},
    )
    return {
        event.asset_key.to_user_string(): {name: value.value for name, value in event.metadata.items()}
        for event in (e.step_materialization_data.materialization for e in result.get_asset_materialization_events())
    }
