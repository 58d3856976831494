from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest

from expectations.rules.answer_scores import read_reply
from expectations.rules.bootstrap import Interval
from expectations.violations import Refused
from ft_assets.adapters import evaluate
from ft_assets.adapters.assets import released_adapter
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.jobs import AnswerSummary
from ft_assets.adapters.score_answers import (
    ask_all,
    measure,
    propose,
    show_samples,
    show_scores,
    summarise,
    write_answers,
)
from ft_assets.graph.gates import Evidence, judge
from resources import local_source
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.asker import open_asker
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.launcher import ComputeParams, Job
from resources.qdrant import QdrantEngine
from resources.releases import Releases
from resources.text_source import ChatMessage, GeneratorParams
from tests.copying import copy_tree
from tests.resealed import edit_figures

from .tiny_llm import build_base, evaluate_params, publish_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def evaluated(trained: Any) -> tuple[Any, Artifact]:
    lab, sft, dpo = trained
    store: ArtifactStore = lab.store
    publish_json(store, "answer_settings", "settings.json", {"max_new_tokens": 4})
    publish_json(store, "release_settings", "settings.json", {})
    _publish_passages(store)
    inputs = {
        name: store.require(name).data_version
        for name in ("sft_adapter", "dpo_adapter", "instruction_splits", "passages")
    }
    trained_refs = {"sft": ("sft_adapter", sft.recipe_id), "dpo": ("dpo_adapter", dpo.recipe_id)}
    params = evaluate_params(lab.state, lab.base, trained_refs, max_new_tokens=4)
    settings = {"answers": params["answers"]}
    recipe = Recipe(asset="adapter_evaluation", code_version="test", settings=settings, inputs=inputs)
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
    assert (artifact.summary["questions"], artifact.summary["validation_questions"]) == (4, 4)
    assert artifact.summary["validation"].keys() == {"base", "sft", "dpo"}
    assert artifact.summary["proposed"] in {"sft", "dpo"}
    assert artifact.summary["intervals"].keys() == {"base", "sft", "dpo"}
    assert artifact.summary["differences"].keys() == {"sft-base", "dpo-base", "dpo-sft"}
    metrics = {"exact_match", "f1", "rouge_l", "answer_chars", "tokens", "cut"}
    assert all(
        found.keys() == metrics for name in ("intervals", "differences") for found in artifact.summary[name].values()
    )
    assert artifact.summary["tokens_base"] <= 4
    scores = show_scores(artifact.summary_as(AnswerSummary))
    assert "| base |" in scores and "| dpo-sft | " in scores and "cut by max_new_tokens" in scores
    assert show_samples(artifact.file("answers.parquet")).startswith("| question | gold | base | sft | dpo |")


def test_a_candidate_is_released_with_its_contract_once_every_gate_passes(evaluated: Any) -> None:
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


@pytest.mark.parametrize(
    ("asset", "figures"),
    [
        ("adapter_evaluation", {"proposed": "base"}),
        ("adapter_evaluation", {"f1_sft": 0.9}),
        ("adapter_evaluation", {"differences": {}}),
        ("dpo_adapter", {"eval_loss_after": 0.001}),
        ("dpo_adapter", {"reward_margin_after": 9.0}),
        ("dpo_adapter", {"reward_accuracy_before": None}),
        ("sft_adapter", {"train_loss_last": 0.001}),
        ("sft_adapter", {"max_abs_adapter_delta": 0.5}),
    ],
)
def test_an_edited_figure_is_named_although_the_manifest_is_sealed_again(
    evaluated: Any, tmp_path: Path, asset: str, figures: dict[str, object]
) -> None:
    lab, _ = evaluated
    store = ArtifactStore(tmp_path / "artifacts")
    copy_tree(lab.store.root, store.root)
    evidence = Evidence(store, Releases(tmp_path / "released"), _engine(tmp_path))
    whole, same = (
        next(gate for gate in GATES if (gate.asset, gate.name) == (asset, name))
        for name in ("artifact_is_whole", "figures_are_of_files")
    )
    assert judge(same, evidence).violations == []
    edit_figures(store.require(asset), **figures)
    assert judge(whole, evidence).violations == []
    named = {(one.code, one.field.partition(".")[0]) for one in judge(same, evidence).violations}
    assert named == {("FT-ART-010", name) for name in figures}


def test_an_evaluation_generates_no_answer_twice(
    evaluated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    lab, made = evaluated
    first = pq.read_table(made.file("answers.parquet"))

    def load(*_: object) -> None:
        raise AssertionError("no model is needed")

    monkeypatch.setattr(local_source, "Generator", load)
    models = {name: (f"{name}_adapter", lab.store.require(f"{name}_adapter").recipe_id) for name in ("sft", "dpo")}
    params = evaluate_params(lab.state, lab.base, models, max_new_tokens=4)
    recipe = msgspec.structs.replace(made.manifest.recipe, code_version="again")
    again = evaluate.main(Job(recipe=recipe, store=str(lab.store.root), run_dir=str(tmp_path), params=params))
    assert pq.read_table(again.file("answers.parquet")).equals(first)


def test_a_question_that_the_model_cannot_read_stops_the_evaluation(tmp_path: Path) -> None:
    generator = GeneratorParams(base_model=str(build_base(tmp_path / "base")))
    compute = ComputeParams(state_dir=str(tmp_path), device="cpu", dtype="float32")
    long: list[list[ChatMessage]] = [[{"role": "user", "content": "密" * 300}]]
    with open_asker(generator, compute) as asker, pytest.raises(Refused, match=r"FT-GEN-005.*the model reads 512"):
        ask_all(asker, ["base"], long, 4)


THINKING = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"


def test_reasoning_that_the_prompt_opens_and_no_answer_closes_is_measured_and_reported(tmp_path: Path) -> None:
    generator = GeneratorParams(base_model=str(build_base(tmp_path / "base", template=THINKING)))
    compute = ComputeParams(state_dir=str(tmp_path), device="cpu", dtype="float32")
    chats: list[list[ChatMessage]] = [[{"role": "user", "content": text}] for text in ("什么是分组密码?", "AES")]
    with open_asker(generator, compute) as asker:
        replies = ask_all(asker, ["base"], chats, 4)
    assert all(
        (reply.closed, reply.answer, reply.cut, reply.tokens) == (False, "", True, 4) for reply in replies["base"]
    )
    both = {**replies, "dpo": [read_reply("想</think>AES"), replies["base"][1]]}
    summary = summarise(measure(both, ["AES", "AES"]), seed=1)
    means = summary.means()
    assert (means["closed_thinking_base"], means["closed_thinking_dpo"], means["cut_base"]) == (0.0, 0.5, 1.0)
    assert summary.differences["dpo-base"]["exact_match"].mean == 0.5
    write_answers(tmp_path, [{"question": "q"}] * 2, replies, ["AES"] * 2)
    assert "(reasoning only)" in show_samples(tmp_path / "answers.parquet")

    store = ArtifactStore(tmp_path / "artifacts")
    publish_json(store, "answer_settings", "settings.json", {"max_new_tokens": 4})
    publish_json(store, "release_settings", "settings.json", {})
    summary = msgspec.structs.replace(summary, proposed="dpo")
    inputs = {"dpo_adapter": "1"}
    with store.stage(Recipe(asset="adapter_evaluation", code_version="test", inputs=inputs)) as staging:
        store.point(staging.publish(summary.as_manifest()))
    (gate,) = (gate for gate in GATES if gate.name == "thoughts_close")
    verdict = judge(gate, Evidence(store, Releases(tmp_path / "released"), _engine(tmp_path)))
    assert not gate.blocking
    (violation,) = verdict.violations
    assert (violation.code, violation.found) == ("FT-ANS-010", 0.5)
    assert "max_new_tokens (now 4)" in violation.fix
    assert verdict.figures["cut"] == 0.5


def _resources(state: Path) -> dict[str, Any]:
    return {
        "artifacts": ArtifactsResource(state_dir=str(state), config_path=str(state / "config.yaml")),
        "qdrant": QdrantResource(state_dir=str(state)),
    }


def _engine(state: Path) -> QdrantEngine:
    return QdrantEngine("local", state / "qdrant", None, "passages", None, 1.0)


def test_dpo_is_proposed_only_if_it_answers_better_than_sft() -> None:
    def figures(f1: float, exact: float) -> dict[str, Interval]:
        return {name: Interval(mean=m, low=m, high=m, n=4) for name, m in (("f1", f1), ("exact_match", exact))}

    assert propose({"sft": figures(0.3, 0.2), "dpo": figures(0.4, 0.1)}) == "dpo"
    assert propose({"sft": figures(0.4, 0.2), "dpo": figures(0.4, 0.2)}) == "sft", "a tie is no gain"
    assert propose({"dpo": figures(0.4, 0.2), "sft": figures(0.4, 0.2)}) == "sft", "a job file sorts the names"
    assert propose({"sft": figures(0.4, 0.2), "dpo": figures(0.4, 0.3)}) == "dpo"
    assert propose({"sft": figures(0.5, 0.2), "dpo": figures(0.4, 0.9)}) == "sft"
    assert propose({"dpo": figures(0.0, 0.0)}) == "dpo"
