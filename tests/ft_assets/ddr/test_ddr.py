"""From training questions to pairs and to a DPO training on them, with a real small model; and what a change costs."""

# the metadata of a run is open
# pyright: basic
from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from expectations.formats.preference import PreferenceRecord
from expectations.records.read import read_records
from expectations.rules.splits import SPLITS
from ft_assets.cli import cli
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.ddr.jobs import QuestionRow
from ft_assets.ddr.make_pairs import PairMaker, read_asked
from ft_assets.generation.ddr_checks import GATES
from ft_assets.generation.jobs import CANDIDATES, PAIRS
from ft_assets.generation.pairs import read_pairs
from ft_assets.graph.gates import Evidence, judge
from ft_assets.graph.quarantine import read_quarantine
from resources.artifacts import Artifact, Recipe
from resources.dagster_resources import QdrantResource
from tests.copying import copy_tree
from tests.ft_assets.ddr.conftest import LAMPS, QUESTION, Project

pytestmark = pytest.mark.slow


def questions_of(project: Project) -> list[QuestionRow]:
    return [one.question for one in read_asked(project.current(CANDIDATES))]


def test_training_questions_are_answered_and_held_out_passages_are_never_shown(asked: Project) -> None:
    summary = asked.current(CANDIDATES).summary
    rows = questions_of(asked)
    assert summary["questions"] == {"train": 9, "validation": 3} == Counter(row.part for row in rows)
    assert summary["candidates"] == summary["calls"] == 12 * 2 * (1 + 3) and summary["retriever"] == "bm25"
    split = settings_of(asked.store, "datasets").split
    hidden = {
        "train": held_out_passages(asked.store.require, split),
        "validation": held_out_passages(asked.store.require, split, SPLITS[2:]),
    }
    assert len(hidden["train"]) == 6 and any(row.held_out for row in rows if row.part == "train")
    for row in rows:
        assert len(row.context) == 2 and not hidden[row.part] & set(row.passages)
    for one in read_asked(asked.current(CANDIDATES)):
        assert [(a.with_passages, a.temperature, a.sample) for a in one.answers[:4]] == [
            (True, 0.0, 0), (True, 1.0, 0), (True, 1.0, 1), (True, 1.0, 2)
        ]  # fmt: skip
        assert len({answer.call_key for answer in one.answers}) == 8


def test_dpo_trains_on_the_pairs_and_the_next_round_asks_its_adapter(asked: Project) -> None:
    first = asked.run(
        PAIRS, "dpo_adapter", "dpo_settings", "preference_splits", "unpaired_preference_splits", upstream=False
    )
    assert "failed" not in first[PAIRS] and first[PAIRS]["pairs"].startswith("| question | right answer | chosen")
    pairs = read_pairs(asked.current(PAIRS), "train")
    assert pairs and all(row.chosen == row.gold and row.rejected != row.gold and row.margin for row in pairs)
    dpo = asked.current("dpo_adapter")
    assert dpo.summary["origins"] == {PAIRS: len(pairs)} and dpo.summary["max_abs_adapter_delta"] > 0
    assert dpo.summary["validation_rows"] == len(read_pairs(asked.current(PAIRS), "validation")) > 0

    asked.configure(ddr={"round": 2, "parent": "0123456789abcdef"})
    assert "FT-DDR-020" in asked.run("ddr_settings", CANDIDATES)[CANDIDATES]["refused"]
    asked.configure(ddr={"parent": dpo.recipe_id})
    assert asked.run("ddr_settings", PAIRS)[PAIRS]["reused"], "the answers are still those of round 1"
    second = asked.run("ddr_settings", CANDIDATES, PAIRS)
    inputs = asked.current(CANDIDATES).manifest.recipe.inputs
    assert inputs["dpo_adapter"] == dpo.data_version and "sft_adapter" not in inputs
    assert "failed" not in second[PAIRS] | second[CANDIDATES]
    rounds = Counter(row.round for row in read_pairs(asked.current(PAIRS), "train"))
    assert rounds[2] and sum(rounds.values()) >= len(pairs) > 0

    asked.configure(answers={"prompt": "{passages}\n{question}"})
    assert "FT-DDR-021" in asked.run("answer_settings", CANDIDATES)[CANDIDATES]["refused"]
    config = json.loads((asked.root / "config.yaml").read_text("utf-8"))
    del config["ddr"]["round"], config["ddr"]["parent"], config["answers"]["prompt"]
    (asked.root / "config.yaml").write_text(json.dumps(config), "utf-8")
    again = asked.run("ddr_settings", "answer_settings", CANDIDATES, PAIRS)
    assert again[CANDIDATES]["reused"] and again[PAIRS]["reused"]


def test_the_released_adapter_answers_until_another_is_released(asked: Project, tmp_path: Path) -> None:
    copy_tree(asked.root, tmp_path, exist_ok=True)
    project = Project(tmp_path)
    config = json.loads((project.root / "config.yaml").read_text("utf-8"))
    del config["dpo"]
    (project.root / "config.yaml").write_text(json.dumps(config), "utf-8")
    project.configure(answers={"max_questions": 2, "tolerance": 1.0}, ddr={"model": "released"})
    settings = ("answer_settings", "ddr_settings", "release_settings")
    assert "FT-ADP-003" in project.run(*settings, CANDIDATES)[CANDIDATES]["refused"]
    release, served = ("adapter_evaluation", "released_adapter"), project.current("sft_adapter")
    project.run(*release)
    project.configure(sft={"max_steps": 30})
    project.run("sft_settings", "sft_adapter")
    newer = project.current("sft_adapter")
    made = project.run(CANDIDATES, PAIRS)
    inputs = project.current(CANDIDATES).manifest.recipe.inputs
    assert inputs["sft_adapter"] == served.data_version != newer.data_version
    assert made[CANDIDATES]["reused"], "it has answered before, as the present one"

    project.run(*release)
    made = project.run(CANDIDATES, PAIRS)
    assert not made[CANDIDATES]["reused"] and "failed" not in made[CANDIDATES] | made[PAIRS]
    assert read_pairs(project.current(PAIRS), "train")
    assert project.current(CANDIDATES).manifest.recipe.inputs["sft_adapter"] == newer.data_version
    project.configure(answers={"prompt": "{passages}\n{question}"})
    assert "FT-ADP-002" in project.run("answer_settings", CANDIDATES)[CANDIDATES]["refused"]


def test_a_changed_rule_asks_for_no_answer_and_a_new_temperature_for_its_own(asked: Project) -> None:
    before = asked.current(CANDIDATES).recipe_id
    for change in ({"min_margin": 0.6}, {"reward": "exact_match"}, {"rejected": "lowest"}):
        asked.configure(ddr=change)
        made = asked.run("ddr_settings", CANDIDATES, PAIRS)
        assert made[CANDIDATES]["reused"] and made[CANDIDATES]["recipe"] == before and not made[PAIRS]["reused"]
    asked.configure(ddr={"temperatures": [0.0, 0.5, 1.0]})
    made = asked.run("ddr_settings", CANDIDATES)[CANDIDATES]
    assert (made["calls"], made["cached"]) == (12 * 2 * 3, 12 * 2 * 4)


def publish_changed(asked: Project, asset: str, file: str, **columns: Any) -> Artifact:
    """Publish the current artifact once more, with other values in these columns of every row of a file."""
    current = asked.current(asset)
    recipe = current.manifest.recipe
    changed = Recipe(
        asset=asset, code_version="test", settings={**recipe.settings, "test": str(columns)}, inputs=recipe.inputs
    )
    with asked.store.stage(changed) as staging:
        for name in current.manifest.files:
            shutil.copy(current.file(name), staging.path / name)
        table = pq.read_table(current.file(file))
        rows = [row | columns for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), staging.path / file)
        return staging.publish(current.summary)


@pytest.mark.parametrize("dialect", ["canonical", "ultrarag"])
def test_exported_pairs_are_read_back_as_they_are(
    asked: Project, tmp_path: Path, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(asked.root)
    monkeypatch.setenv("FT_STATE_DIR", str(asked.root / "state"))
    file = tmp_path / "pairs.jsonl"
    run = CliRunner().invoke
    exported = run(cli, ["export", "ddr", "--to", str(file), "--dialect", dialect])
    assert exported.exit_code == 0, exported.output
    assert run(cli, ["verify", str(file), "--format", "preference"]).exit_code == 0
    pairs = {row.record_id: row for row in read_pairs(asked.current(PAIRS), "train")}
    read = [one for one in read_records(file, "preference") if isinstance(one, PreferenceRecord)]
    assert {one.record_id for one in read} == set(pairs)
    for one in read:
        pair = pairs[one.record_id]
        assert (one.question, one.context, one.chosen, one.rejected, one.margin, one.evidence) == (
            pair.question, pair.context, pair.chosen, pair.rejected, pair.margin, pair.evidence
        )  # fmt: skip
    assert "--force replaces a file" in run(cli, ["export", "ddr", "--to", str(file)]).output
    assert "are for models" in run(cli, ["export", "ddr", "--to", str(file), "--merged"]).output


def test_a_pair_with_a_held_out_text_is_quarantined(asked: Project, tmp_path: Path) -> None:
    train = {row.question for row in questions_of(asked) if row.part == "train"}
    held_out = next(QUESTION.format(lamp) for lamp in LAMPS if QUESTION.format(lamp) not in train)
    planted = publish_changed(asked, CANDIDATES, "questions.parquet", context=[held_out])
    split = settings_of(asked.store, "datasets").split
    summary = PairMaker(asked.store, planted, settings_of(asked.store, "ddr"), split).write(tmp_path)
    assert summary.train == 0 and summary.codes["FT-DDR-008"] > 0
    (line, *_) = [one for one in read_quarantine(tmp_path / "quarantine.jsonl") if one.code == "FT-DDR-008"]
    assert held_out.casefold().removesuffix("?") in line.reason


def test_a_question_without_a_pair_keeps_its_answers_and_scores(asked: Project, tmp_path: Path) -> None:
    settings = settings_of(asked.store, "ddr").model_copy(update={"reward": "f1"})
    tied = publish_changed(asked, CANDIDATES, "candidates.parquet", f1=0.5)
    summary = PairMaker(asked.store, tied, settings, settings_of(asked.store, "datasets").split).write(tmp_path)
    lines = list(read_quarantine(tmp_path / "quarantine.jsonl"))
    assert len(lines) == summary.questions == 12 and set(summary.codes) <= {"FT-DDR-001", "FT-DDR-002", "FT-DDR-006"}
    assert {one["f1"] for one in json.loads(lines[0].raw)["answers"]} == {0.5}


@pytest.mark.parametrize(
    ("columns", "gate", "code"),
    [
        ({"chosen_score": 0.2}, "pairs_are_right", "FT-DDR-010"),
        ({"chosen_answer": "7 times red"}, "pairs_are_right", "FT-DDR-010"),
        ({"question_id": "of-a-row-that-left"}, "nothing_is_held_out", "FT-DDR-011"),
        ({"chosen_answer": "red " * 9}, "lengths_are_alike", "FT-DDR-012"),
    ],
)
def test_a_gate_names_what_is_wrong_in_a_table_of_pairs(
    asked: Project, columns: dict[str, object], gate: str, code: str
) -> None:
    asked.configure(ddr={"min_margin": 0.3})
    asked.run("ddr_settings", PAIRS)
    before = asked.current(PAIRS)
    evidence = Evidence(asked.store, asked.resource.releases(), QdrantResource(state_dir=str(asked.root)).engine())
    (rule,) = [one for one in GATES if one.name == gate]
    assert judge(rule, evidence).violations == []
    asked.store.point(publish_changed(asked, PAIRS, "train.parquet", **columns))
    try:
        assert {one.code for one in judge(rule, evidence).violations} == {code}
    finally:
        asked.store.point(before)
