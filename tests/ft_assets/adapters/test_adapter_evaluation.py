from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from expectations.violations import Refused
from ft_assets.adapters import evaluate
from ft_assets.adapters.assets import released_adapter
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.judge import show_samples, show_scores
from ft_assets.gates import Evidence, judge
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.dagster_faces import ArtifactsResource, QdrantResource
from resources.launcher import Job
from resources.qdrant import QdrantEngine
from resources.releases import Releases

from .tiny_llm import publish_json


@pytest.fixture(scope="session")
def evaluated(trained: Any) -> tuple[Any, Artifact]:
    lab, sft, dpo = trained
    store: ArtifactStore = lab.store
    publish_json(store, "answer_settings", "settings.json", {"max_new_tokens": 4})
    _publish_passages(store)
    inputs = {
        name: store.require(name).data_version
        for name in ("sft_adapter", "dpo_adapter", "instruction_splits", "passages")
    }
    params = {
        "base_model": str(lab.base), "revision": None, "state_dir": str(lab.state), "device": "cpu",
        "dtype": "float32", "answers": {"max_new_tokens": 4},
        "adapters": {"sft": ["sft_adapter", sft.recipe_id], "dpo": ["dpo_adapter", dpo.recipe_id]},
    }  # fmt: skip
    recipe = Recipe(asset="adapter_evaluation", code_version="test", inputs=inputs)
    artifact = evaluate.main(
        Job(recipe=recipe, store=str(store.root), run_dir=str(lab.state / "runs/adapter_evaluation"), params=params)
    )
    store.point(artifact)
    return lab, artifact


def _publish_passages(store: ArtifactStore) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with store.stage(Recipe(asset="passages", code_version="test")) as staging:
        table = pa.table({"passage_id": ["p20"], "content": ["AES-20 的分组为 20 比特。"]})
        pq.write_table(table, staging.path / "passages.parquet")
        store.point(staging.publish())


def test_every_model_answers_every_held_out_question_and_is_compared_in_pairs(evaluated: Any) -> None:
    _, artifact = evaluated
    assert artifact.summary["questions"] == 8
    assert artifact.summary["intervals"].keys() == {"base", "sft", "dpo"}
    assert artifact.summary["f1_differences"].keys() == {"sft-base", "dpo-base"}
    assert "| base |" in show_scores(artifact.summary)
    assert show_samples(artifact.file("answers.parquet")).startswith("| question | gold | base | sft | dpo |")


def test_a_candidate_is_released_with_its_contract_once_every_gate_holds(evaluated: Any) -> None:
    lab, artifact = evaluated
    resources = _resources(lab.state)
    assert dg.materialize([released_adapter], resources=resources, instance=dg.DagsterInstance.ephemeral()).success
    release = Releases(lab.state / "released").current("adapter")
    assert release is not None
    assert release.artifacts["adapter_evaluation"] == artifact.recipe_id
    assert release.details["contract"]["base"]["name"] == str(lab.base)
    evidence = Evidence(lab.store, Releases(lab.state / "released"), _engine(lab.state))
    for gate in (gate for gate in GATES if gate.asset in {"adapter_evaluation", "released_adapter"}):
        assert judge(gate, evidence).violations == [], gate.name


def test_a_release_is_refused_when_the_prompt_that_serves_changed(evaluated: Any, tmp_path: Path) -> None:
    import shutil

    lab, _ = evaluated
    state = tmp_path / "state"
    shutil.copytree(lab.state / "artifacts", state / "artifacts")
    publish_json(ArtifactStore(state / "artifacts"), "answer_settings", "settings.json", {"system": "用中文回答"})
    with pytest.raises(Refused, match=r"FT-ADP-002.*prompt\.system"):
        dg.materialize([released_adapter], resources=_resources(state), instance=dg.DagsterInstance.ephemeral())
    assert Releases(state / "released").current("adapter") is None


def _resources(state: Path) -> dict[str, Any]:
    return {
        "artifacts": ArtifactsResource(state_dir=str(state), config_path=str(state / "config.yaml")),
        "qdrant": QdrantResource(state_dir=str(state)),
    }


def _engine(state: Path) -> QdrantEngine:
    return QdrantEngine("local", state / "qdrant", None, "passages", None, 1.0)
