"""`ft doctor`: each line reports one part, and how to fix it where it is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ft_assets.cli import cli
from ft_assets.graph.instance import open_instance
from resources.accelerator import gpus
from tests.ft_assets.adapters.tiny_llm import build_base
from tests.resources.test_endpoint import Server, server

__all__ = ["server"]  # a fixture

CONFIG = """
schema_version: 1
corpus: {files: [kb/*.md]}
sft: {base_model: ./model}
dpo: {base_model: ./model}
embedding: {base_model: ./model}
"""
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 500,
}

Findings = Callable[[], dict[str, dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    write_model(tmp_path, SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FT_CONFIG", raising=False)
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DAGSTER_HOME", "")  # put back afterwards: open_instance sets it for good
    return tmp_path


@pytest.fixture
def findings(folder: Path) -> Findings:
    """The findings by what they are about (the last of a name)."""
    del folder

    def examine() -> dict[str, dict[str, Any]]:
        result = CliRunner().invoke(cli, ["doctor", "--json"])
        found = {finding["what"]: finding for finding in json.loads(result.output)}
        assert result.exit_code == int(any(finding["state"] == "bad" for finding in found.values()))
        assert all(finding["fix"] for finding in found.values() if finding["state"] == "bad")
        return found

    return examine


def write_model(folder: Path, config: dict[str, Any]) -> None:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(config))


def test_everything_that_the_configuration_needs_has_its_line(findings: Findings) -> None:
    found = findings()
    expected = {"python", "libraries", "cpu", "memory", "gpu", "torch", "disk", "configuration", "model (sft and dpo)",
                "model (embedding)", "hub", "fit (sft)", "fit (dpo)", "qdrant", "dagster", "state"}  # fmt: skip
    assert expected <= found.keys()
    assert found["fit (sft)"]["state"] == "ok"


def test_a_hub_out_of_reach_matters_only_where_a_model_must_come_from_it(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = findings()["hub"]  # tests run with HF_HUB_OFFLINE
    assert here["state"] == "ok" and "offline" in here["found"]
    monkeypatch.setenv("FT__EMBEDDING__BASE_MODEL", "BAAI/not-in-the-cache")
    needed = findings()["hub"]
    assert needed["state"] == "bad" and "HF_ENDPOINT" in needed["fix"]


def test_a_model_too_large_for_this_machine_is_told_before_it_is_trained(findings: Findings, folder: Path) -> None:
    write_model(folder, {**SMALL, "num_hidden_layers": 200, "hidden_size": 16384, "intermediate_size": 65536})
    found = findings()
    assert found["fit (sft)"]["state"] == "warn" and "ft estimate" in found["fit (sft)"]["fix"]
    assert "ft estimate --dpo" in found["fit (dpo)"]["fix"]


def test_a_rate_for_adapters_is_told_where_every_weight_is_trained(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SFT__METHOD": "full", "DPO__METHOD": "full", "SFT__LEARNING_RATE": "2e-4"}.items():
        monkeypatch.setenv(f"FT__{name}", value)
    found = findings()
    assert found["rate (sft)"]["state"] == "warn" and "1e-05" in found["rate (sft)"]["fix"]
    assert "rate (dpo)" not in found


def test_qlora_without_its_library_is_told(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bitsandbytes" not in findings()
    monkeypatch.setenv("FT__DPO__METHOD", "qlora")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert findings()["bitsandbytes"]["state"] == "bad"


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_a_gpu_that_the_configuration_asks_for_and_that_is_not_there_is_told(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT__ACCELERATOR__DEVICE", "cuda")
    assert findings()["accelerator"]["state"] == "bad"


@pytest.mark.slow
def test_dagsters_home_is_examined_and_not_made(
    findings: Findings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no home yet" in findings()["dagster"]["found"]
    assert not (folder / "state").exists()
    open_instance(folder / "state").dispose()
    assert "no daemon is running" in findings()["dagster"]["found"]
    next((folder / "state").rglob("runs.db")).write_bytes(b"no database" * 100)
    assert findings()["dagster"]["state"] == "bad"
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    (folder / "state" / "dagster" / "dagster.yaml").unlink()
    assert "no home yet" in findings()["dagster"]["found"]


def test_an_endpoint_is_asked_for_its_model_and_its_length(findings: Findings, folder: Path, server: Server) -> None:
    section = f"generator: {{kind: endpoint, url: '{server.url}', model: m, context_tokens: 1000}}\n"
    (folder / "config.yaml").write_text(CONFIG + section)
    assert findings()["generator"]["found"] == f"m at {server.url} answers, and reads 1000 tokens"
    server.context = 512
    short = findings()["generator"]
    assert short["state"] == "bad" and "FT-GEN-006" in short["found"] and "num_ctx" in short["fix"]
    server.names = ["qwen"]
    assert "m is not served here; there is qwen" in findings()["generator"]["found"]


def test_the_weights_of_a_model_that_is_here_are_read(findings: Findings, folder: Path) -> None:
    assert findings()["weights (sft and dpo)"]["state"] == "bad", "there is a config.json alone"
    build_base(folder / "model")
    found = findings()["weights (sft and dpo)"]
    assert (found["state"], found["found"]) == ("ok", "1 files, all tensors there; every number is finite")
    weights = folder / "model" / "model.safetensors"
    whole = weights.read_bytes()
    from safetensors.torch import load, save_file

    tensors = load(whole)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    found = findings()["weights (sft and dpo)"]
    assert found["state"] == "bad" and "model.norm.weight" in found["found"]
    weights.write_bytes(whole[:-100])
    found = findings()["weights (sft and dpo)"]
    assert found["state"] == "bad" and "cannot be read" in found["found"]
