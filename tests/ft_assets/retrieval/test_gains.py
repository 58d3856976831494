"""Figures of the manifests are computed again from sealed scores and losses: edited ones release nothing."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from expectations.violations import Refused
from ft_assets.embedding.checks import GATES as MODEL_GATES
from ft_assets.graph.gates import judge
from ft_assets.retrieval.checks import GATES
from tests.ft_assets.retrieval.conftest import Graph
from tests.resealed import edit_figures

pytestmark = pytest.mark.slow
EDITS: dict[str, dict[str, object]] = {
    "retrieval_evaluation": {
        "gain_over_bm25": {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 21},
        "candidate_fused_recall_at_10": 1.5,
        "recall_of_exact": 0.5,
        "gain_over_exact": None,
    },
    "embedding_evaluation": {"gain": None, "trained_fused_ndcg_at_10": 0.999},
    "embedding_model": {"parameters_changed": 0.25, "loss_last": 0.001, "best_ndcg_at_10": 1.5},
}


def broken(graph: Graph, asset: str) -> dict[str, list[str]]:
    """Return the fields of the violations of each gate of an asset that does not pass."""
    verdicts = {gate.name: judge(gate, graph.evidence) for gate in [*MODEL_GATES, *GATES] if gate.asset == asset}
    return {name: [one.field for one in verdict.violations] for name, verdict in verdicts.items() if verdict.violations}


def test_the_figures_of_every_evaluation_are_those_of_its_scores(released: Graph) -> None:
    assert {asset: broken(released, asset) for asset in EDITS} == {asset: {} for asset in EDITS}


@pytest.mark.parametrize("asset", EDITS)
def test_an_edited_figure_is_named_although_the_manifest_is_sealed_again(
    released: Graph, tmp_path: Path, asset: str
) -> None:
    graph = released.copy(tmp_path / "graph")
    edit_figures(graph.artifact(asset), **EDITS[asset])
    named = broken(graph, asset)
    assert "artifact_is_whole" not in named  # the seal is right
    assert {field.partition(".")[0] for field in named["figures_are_of_files"]} == set(EDITS[asset])


def test_a_candidate_that_rules_have_refused_is_not_released_by_edited_figures(released: Graph, tmp_path: Path) -> None:
    graph = released.copy(tmp_path / "graph")
    graph.configure(retrieval={"min_recall_at_10": 1.0, "sparse_weight": 0.9, "fusion": "weighted_sum"})
    graph.run("retrieval_settings", "fusion_sweep", "retrieval_evaluation")
    edit_figures(graph.artifact("retrieval_evaluation"), candidate_fused_recall_at_10=1.0)
    before = graph.evidence.releases.current("collection")
    with pytest.raises((Refused, dg.DagsterError), match="FT-ART-010"):
        graph.run("released_collection")
    after = graph.evidence.releases.current("collection")
    assert after == before
