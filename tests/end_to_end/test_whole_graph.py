"""Files to a released adapter and a released collection, then every change that the platform must survive."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from resources.qdrant import engine_of_state
from tests.end_to_end.conftest import Ft
from tests.ports import free_ports

pytestmark = pytest.mark.slow
RELEASED = ("adapter", "collection")


def serving(ft: Ft) -> dict[str, str]:
    """Return the released versions by kind."""
    return {kind: ft.released(kind)["current"] for kind in RELEASED}


def alias(ft: Ft) -> tuple[str, dict[str, Any]]:
    """Return the collection of the alias and its metadata, read from the engine itself."""
    engine = engine_of_state(ft.folder / "state", kind="edge", url=None, alias="passages", lock_timeout=60.0)
    with engine.open() as client:
        (name,) = client.aliases().values()
        return name, client.metadata(name)


def test_files_become_a_released_adapter_and_a_released_collection(base: tuple[Ft, dict[str, Any]]):
    ft, report = base
    assert report["exit"] == 0, report["output"]
    assert report["trained"] == 3
    passages = json.loads((ft.current("passages") / "manifest.json").read_text())["summary"]
    assert report["encoded"] == report["upserted"] > 30
    assert {outcome["state"] for outcome in report["assets"]} <= {"made", "observed"}
    assert all(outcome["checks_failed"] == 0 for outcome in report["assets"])
    assert sum(outcome["checks_passed"] for outcome in report["assets"]) > 40
    collection, metadata = alias(ft)
    (release,) = ft.released("collection")["history"]
    assert release["details"]["collection"] == collection
    assert release["details"]["index_fp"][:12] in collection
    choice = json.loads((ft.current("fusion_sweep") / "fusion.json").read_text())
    assert metadata["contract"]["fusion"] == choice["fusion"] == release["details"]["fusion"]
    assert metadata["fusion_choice"]["reason"] == choice["reason"] == release["details"]["fusion_choice"]["reason"]
    assert passages["passages"] == report["encoded"]
    assert set(serving(ft)) == set(RELEASED)
    quarantine = (ft.current("instruction_records") / "quarantine.jsonl").read_text().splitlines()
    (row,) = map(json.loads, quarantine)
    assert (row["file"].rpartition("/")[2], row["line"]) == ("old.jsonl", 1)


def test_a_second_run_computes_nothing(ft: Ft):
    before = serving(ft)
    report = ft.run("--all")
    assert report["exit"] == 0, report["output"]
    assert (report["trained"], report["encoded"], report["upserted"]) == (0, 0, 0)
    assert {outcome["state"] for outcome in report["assets"]} <= {"reused", "observed"}
    assert serving(ft) == before
    assert "trained 0, encoded 0, upserted 0" in report["output"]


def test_a_changed_weight_is_evaluated_and_released_without_training_or_encoding(ft: Ft):
    collection, _ = alias(ft)
    report = ft.run("--all", FT__RETRIEVAL__SPARSE_WEIGHT="0.5", FT__RETRIEVAL__TOLERANCE="0.3")
    assert report["exit"] == 0, report["output"]
    assert (report["trained"], report["encoded"], report["upserted"]) == (0, 0, 0)
    states = {outcome["asset"]: outcome["state"] for outcome in report["assets"]}
    assert states["qdrant_collection"] == "reused"
    assert states["retrieval_evaluation"] == "made"
    after_collection, after = alias(ft)
    assert after_collection == collection
    assert (after["contract"]["fusion"]["sparse_weight"], after["fusion_choice"]) == (0.5, {})
    done = ft("search", "How long is the AES block?", "--json")
    assert done.returncode == 0, done.stderr
    for hit in json.loads(done.stdout)["hits"]:
        assert hit["score"] == pytest.approx(1.0 * hit["dense"] + 0.5 * hit["sparse"], abs=1e-3)


def test_a_dimension_the_model_was_not_trained_for_never_serves(ft: Ft):
    before, (collection, _) = serving(ft), alias(ft)
    report = ft.run("--group", "retrieval", "--upstream", FT__RETRIEVAL__DIMENSION="50")
    assert report["exit"] == 1
    assert "50" in report["output"] and "64" in report["output"]
    assert alias(ft)[0] == collection
    alone = ft.run("--asset", "released_collection", FT__RETRIEVAL__DIMENSION="50")
    assert alone["exit"] == 1, alone["output"]
    assert alias(ft)[0] == collection
    assert serving(ft) == before
    assert ft("search", "AES block size").returncode == 0
    fixed = ft.run("--group", "retrieval", "--upstream")
    assert fixed["exit"] == 0, fixed["output"]


def test_a_smaller_trained_dimension_is_a_new_collection_that_can_be_rolled_back(ft: Ft):
    collection, _ = alias(ft)
    # on 18 questions the interval is wide: without a tolerance the gate would rightly block the release
    report = ft.run("--group", "retrieval", "--upstream", FT__RETRIEVAL__DIMENSION="64", FT__RETRIEVAL__TOLERANCE="0.3")
    assert report["exit"] == 0, report["output"]
    assert (report["trained"], report["encoded"]) == (0, 0)
    assert report["upserted"] > 30
    swapped, _ = alias(ft)
    assert swapped != collection
    assert ft("search", "AES block size").returncode == 0
    done = ft("rollback", "collection")
    assert done.returncode == 0, done.stderr
    assert alias(ft)[0] == collection
    assert ft("search", "AES block size").returncode == 0


def test_a_corrupted_byte_is_refused_by_name_and_serving_continues(ft: Ft):
    before = serving(ft)
    vectors = ft.current("passage_vectors") / "vectors.parquet"
    content = bytearray(vectors.read_bytes())
    content[len(content) // 2] ^= 1
    vectors.write_bytes(bytes(content))
    gate = ft("gate", "--json", str(ft.folder / "gate.json"))
    assert gate.returncode == 1, gate.stdout + gate.stderr
    assert "vectors.parquet" in gate.stdout and "FT-ART-003" in gate.stdout
    alone = ft.run("--asset", "released_collection")
    assert alone["exit"] == 1
    assert "FT-ART-003" in alone["output"]
    assert serving(ft) == before
    fixed = ft.run("--group", "retrieval", "--upstream")
    assert fixed["exit"] == 0, fixed["output"]
    assert fixed["encoded"] > 30  # its own asset rebuilt it


def test_a_worse_file_fails_the_run_and_keeps_the_releases(ft: Ft):
    before = serving(ft)
    path = ft.folder / "preferences.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[: len(rows) // 2]:
        row["chosen"] = dict(row["rejected"])
    del rows[-1]["rejected"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = ft.run("--all")
    assert report["exit"] == 1
    assert "preference_records" in report["output"]
    assert report["trained"] == 0
    assert serving(ft) == before
    quarantine = (ft.current("preference_records") / "quarantine.jsonl").read_text().splitlines()
    found = {(json.loads(line)["line"], json.loads(line)["code"]) for line in quarantine}
    assert (1, "FT-PREF-003") in found
    assert (len(rows), "FT-PREF-001") in found


def test_commands_in_the_docs_run(ft: Ft, project: Path):
    """Every `ft …` line of a ```bash block, in the project of the docs.

    Those on another repository's files (exports/, handbook.md) run in tests/ft_assets/commands/test_verify.py, those on
    a server (example.com) in tests/ft_assets/retrieval/test_migrate.py.
    """
    (ft.folder / "examples").symlink_to(project / "examples")
    pages = [project / "README.md", *sorted((project / "docs").glob("*.md"))]
    blocks = [block for page in pages for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    lines = {line.partition("#")[0].strip() for block in blocks for line in block.splitlines()}
    elsewhere = ("exports/", "handbook.md", "example.com")
    commands = sorted(line for line in lines if line.startswith("ft ") and not any(name in line for name in elsewhere))
    assert len(commands) > 8
    full = [command for command in commands if command.startswith("ft gate") and "--junit" in command]
    commands = [command for command in commands if command != "ft gate --markdown"]  # `full` has it too
    for command in commands:
        done = ft(*shlex.split(command)[1:])
        reads_broken_rows = "from_old_tool" in command
        assert done.returncode == (1 if reads_broken_rows else 0), f"{command}\n{done.stdout}\n{done.stderr}"
        if command in full:
            assert (ft.folder / "gate.xml").read_text().startswith("<?xml")
            assert "|" in done.stdout


def test_the_webserver_shows_assets_checks_and_their_results(ft: Ft):
    ft("status")  # writes the instance's configuration for this copy
    port, _ = free_ports(2)
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("ft")), "ui", "--port", str(port)],
        cwd=ft.folder,
        env={**os.environ, "FT_CONFIG": str(ft.folder / "config.yaml"), "FT_STATE_DIR": str(ft.folder / "state")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answer = _ask(port, QUERY)
    finally:
        server.terminate()
        server.wait(60)
    nodes = {node["assetKey"]["path"][-1]: node for node in answer["data"]["assetNodes"]}
    assert {"passages", "sft_adapter", "released_collection", "answer_evaluation"} <= set(nodes)
    assert nodes["qdrant_collection"]["staleStatus"] == "FRESH"
    checks = nodes["qdrant_collection"]["assetChecksOrError"]["checks"]
    assert checks
    assert {check["executionForLatestMaterialization"]["status"] for check in checks} == {"SUCCEEDED"}


QUERY = """{assetNodes{assetKey{path} staleStatus assetChecksOrError{... on AssetChecks{checks{
  name blocking executionForLatestMaterialization{status}}}}}}"""


def _ask(port: int, query: str) -> dict[str, Any]:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                answer = json.load(response)
            if answer.get("data", {}).get("assetNodes"):
                return answer
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the webserver did not answer with assets in 120 s")
        time.sleep(1)
